"""What RL warns of: rollouts from which nothing is learnt, each kind once."""
import contextlib

import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax.stages import rl
from r1jax.stages.rl import health
from r1jax.stages.stage import StopRequested

GOOD = {'completions/clipped_ratio': 0.5, 'frac_reward_zero_std': 0.5, 'rewards/number/mean': 0.2}
CUT = GOOD | {'completions/clipped_ratio': 1.0}
EQUAL = GOOD | {'frac_reward_zero_std': 1.0}
NOT_JUDGED = {'completions/clipped_ratio': 0.5, 'frac_reward_zero_std': 1.0}


def warned(iterations, counts=None):
  """(after how many iterations something was said, the first words) of each warning, and counts."""
  counts, found = counts or {}, []
  for number, measured in enumerate(iterations, start=1):
    counts, said = health.warnings(counts, measured, rl.DEFAULT)
    found += [(number, sentence) for sentence in said]
  return found, counts


@pytest.mark.parametrize('bad, after, words', [
    (CUT, 3, "cut at sampling.max_new_tokens=128, so that none could be finished: raise it, or "
             "check that the model knows the template 'miniature'"),
    (EQUAL, 5, 'the problems are likely too hard or too easy'),
    (NOT_JUDGED, 1, 'every reward was None'),
    (GOOD | {'prompts/spelling_control_tokens': 2.0}, 1, 'an iteration spell control tokens')])
def test_a_symptom_is_said_once_after_so_many_iterations_in_a_row(bad, after, words):
  first = [bad] * (after - 1)
  found, _ = warned([GOOD, *first, GOOD, *[bad] * 20, GOOD, *[bad] * 20])
  assert [number for number, _ in found] == [after + 1 + after]
  assert words in found[0][1]


def test_a_run_that_is_interrupted_between_iterations_says_the_same():
  iterations = [CUT, CUT, GOOD, CUT, CUT, CUT, EQUAL, EQUAL, EQUAL, EQUAL, EQUAL, NOT_JUDGED]
  whole, _ = warned(iterations)
  assert [number for number, _ in whole] == [6, 11, 12]
  for place in range(len(iterations)):
    before, counts = warned(iterations[:place])
    after, _ = warned(iterations[place:], counts)
    assert before + [(place + number, said) for number, said in after] == whole


def test_a_run_that_resumes_does_not_warn_again(base, tmp_path, capsys):
  config = runs.rl_config(base, steps=3)
  stops = iter([False, False, True])
  for should_stop, said in (lambda: next(stops), True), (lambda: False, False):
    with contextlib.suppress(StopRequested):
      rl.run(config, {}, tmp_path, stage='zero', should_stop=should_stop,
             reward_functions={'nothing': (lambda completion, example: None, 1.0)})
    assert ("r1jax: warning: stage 'zero': no completion of an iteration could be judged"
            in capsys.readouterr().err) == said
