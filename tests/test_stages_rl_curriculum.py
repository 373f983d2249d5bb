"""Problems of RL drawn by their running pass rates; a run is in test_stages_all_scenario.py."""
import numpy as np
import pytest
from rate_cases import RATES, leave_rates
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax.errors import UserError
from r1jax.stages import difficulty, rl
from r1jax.stages.rl import prompts as rl_prompts
from r1jax.tokenization import load_tokenizer


@pytest.fixture
def rates(tmp_path):
  return leave_rates(tmp_path, RATES)


def test_rounds_of_an_iteration_draw_different_problems(rates, base):
  data = runs.DATA | dict(filter=dict(source='rates', low=0.25), curriculum=dict(rule='failure'))
  config = runs.rl_config(base, prompts_per_batch=4, inputs=('rates',)) | dict(data=data)
  chosen = difficulty.choose(config, 'train', {'rates': rates})
  course = difficulty.make_curriculum(config, chosen, {'rates': rates})
  mixture = rl_prompts.PromptMixture(config, load_tokenizer(base), chosen.problems)
  drawn = []
  for iteration, start in ((0, 0), (1, 12)):
    order, counters = course.order(iteration, start), rl_prompts.Counters(start, 0)
    for _ in range(3):
      batch, counters = mixture.batch(counters, 0, order)
      drawn.append(batch.example_ids.tolist())
  assert counters.reasoning == 24
  assert len(set(sum(drawn[:3], []))) == len(set(sum(drawn[3:], []))) == 12
  assert drawn[:3] != drawn[3:]


def test_estimates_begin_with_rates_of_their_own_or_with_those_of_the_filter(rates):
  given = {'rates': rates}
  known = [(number % 5 + 0.5) / 5 if number < 40 else 0.5 for number in range(64)]

  def estimates(inputs, **data):
    config = dict(seed=0, inputs=('rates',), data=runs.DATA | data)
    chosen = difficulty.choose(config, 'train', inputs)
    return difficulty.make_curriculum(config, chosen, inputs).estimates
  alone = dict(rule='failure')
  np.testing.assert_allclose(estimates(given, curriculum=alone), 0.5)
  np.testing.assert_allclose(estimates(given, curriculum=alone | dict(source='rates')), known)
  np.testing.assert_allclose(estimates(
      given, curriculum=alone, filter=dict(source='rates', high=0.5)),
      [known[n] for n in range(40) if n % 5 <= 2])
  np.testing.assert_allclose(estimates(None, curriculum=alone | dict(source='rates')), 0.5)
  assert difficulty.make_curriculum(dict(data=runs.DATA), difficulty.choose(
      dict(data=runs.DATA, inputs=()), 'train', {}), {}) is None


@pytest.mark.parametrize('given, sentence', [
    (dict(rule='lernability'), "curriculum.rule must be .*: did you mean 'learnability'"),
    (dict(floor=0.1), 'curriculum.rule must not be empty where other fields are set'),
    (dict(rule='failure', decay=1.5), 'curriculum.decay must be at least 0 and at most 1'),
    (dict(rule='failure', reward='number'), 'curriculum.reward must name the reward by which a '
     "completion passes, one of exact_match, format, got 'number'"),
    (dict(rule='failure'), "one of exact_match, format, got ''")])
def test_an_impossible_curriculum_is_refused(given, sentence):
  config = runs.rl_config('miniature') | dict(data=runs.DATA | dict(curriculum=given))
  with pytest.raises(UserError, match=sentence):
    rl.SETTINGS.check(config, 'config.stages.zero')


def test_the_only_reward_or_the_one_that_is_named_says_what_passes():
  def named(rewards, judges=(), **given):
    return difficulty.passing_reward(dict(data=dict(curriculum=given), judges=judges), rewards)
  assert named(['number'], rule='failure') == 'number'
  assert named(['format', 'number'], rule='failure', reward='number') == 'number'
  assert named(['format', 'number']) == ''
  assert named(['format'], ['strict'], rule='failure', reward='judge/strict') == 'judge/strict'
  assert named([], ['strict'], rule='failure') == 'judge/strict'
