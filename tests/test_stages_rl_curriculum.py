"""A run of RL whose problems are drawn by their running pass rates, on some of the data."""
from mixture_cases import general, mixed_config  # noqa: F401 (fixture)
import numpy as np
import pytest
from rate_cases import leave_rates
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.data import curriculum
from r1jax.errors import UserError
from r1jax.stages import difficulty, rl
from r1jax.stages.rl import prompts as rl_prompts
from r1jax.tokenization import load_tokenizer

RATES = [number % 5 for number in range(40)]    # of four
RULE = dict(rule='learnability', floor=0.2)


def by_parity(completion, example):
  """Passes about half of the completions; now and then it cannot judge."""
  total = sum(completion.text.encode())
  return None if total % 7 == 0 else float(total % 2)


def run_followed(base, general, rates, workdir, should_stop=lambda: False):
  """Three iterations, each of which may draw twice, with general prompts from the second on.

  Checkpoints are after the second and the third.
  """
  config = mixed_config(
      base, general, dynamic_sampling_rounds=1, checkpoint_every=2,
      sampling=dict(max_new_tokens=8, chunk=8), general_prompts=dict(
          prompts_per_batch=2)) | dict(inputs=('rates',))
  config['general_prompts'] |= dict(reward_models={}, rewards={'format': 1.0})
  config['data'] = runs.DATA | dict(
      filter=dict(source='rates', low=0.25, unknown='keep'), curriculum=RULE)
  return rl.run(config, {'rates': rates}, workdir, stage='zero', should_stop=should_stop,
                reward_functions={'parity': (by_parity, 1.0)})


@pytest.fixture(scope='module')
def followed(base, general, tmp_path_factory):
  rates = leave_rates(tmp_path_factory.mktemp('rates'), RATES)
  workdir = tmp_path_factory.mktemp('followed')
  return run_followed(base, general, rates, workdir), workdir, rates


def test_only_the_problems_that_were_kept_are_drawn_and_the_manifest_counts_them(followed):
  artifact, workdir, _ = followed
  rows = [row for row in metrics.read_jsonl(workdir / 'rollouts') if row['example_id'] < 64]
  assert rows and all(row['example_id'] >= 40 or row['example_id'] % 5 for row in rows)
  scores = artifact.manifest.scores
  assert (scores['problems'], scores['problems/kept'], scores['problems/below']) == (64, 56, 8)


def test_draws_follow_the_estimates_and_estimates_the_verdicts_of_all_rounds(followed):
  """The rollouts on disk, and what the last checkpoint holds."""
  _, workdir, _ = followed
  step, _, arrays = runs.last_checkpoint(workdir)
  found = {name: np.frombuffer(arrays[f"curriculum['tree']['{name}']"], dtype) for name, dtype in (
      ('passed', np.float32), ('judged', np.float32), ('drawn', np.int32))}
  ids = [number for number in range(64) if number >= 40 or number % 5]
  judged = np.asarray([4 if number < 40 else 0 for number in ids])
  passed = np.asarray([number % 5 if number < 40 else 0 for number in ids])
  course = curriculum.begin(np.asarray(ids), judged=judged, passed=passed, seed=0, decay=0.5,
                            **RULE)
  groups = {}
  for row in metrics.read_jsonl(workdir / 'rollouts'):
    if row['example_id'] < 64:
      value = row['rewards']['parity']
      groups.setdefault((row['iteration'], row['example_id']), []).append(
          np.nan if value is None else value)
  counter = 0
  for iteration in range(3):
    drawn = [number for of, number in groups if of == iteration]
    order = course.order(iteration, counter)
    assert drawn == [ids[order[counter + place]] for place in range(len(drawn))]
    counter += len(drawn)
    course = course.follow(np.asarray(drawn), np.asarray([groups[iteration, n] for n in drawn]))
  assert step == 3 and len(groups) == found['drawn'].sum() > 8
  for name in found:
    np.testing.assert_array_equal(found[name], getattr(course, name))
  logged = metrics.read_metrics(workdir)[-1]
  for name, value in course.metrics().items():
    assert logged[name] == pytest.approx(value)


def test_a_run_that_is_stopped_at_any_moment_goes_on_as_one_that_was_not(
    followed, base, general, tmp_path):
  artifact, workdir, rates = followed
  runs.finish(lambda stop: run_followed(base, general, rates, tmp_path, stop), [2, 3, 2])
  runs.assert_same(tmp_path, workdir)


def test_rounds_of_an_iteration_draw_different_problems(followed, base):
  _, _, rates = followed
  data = runs.DATA | dict(filter=dict(source='rates', low=0.25), curriculum=RULE)
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


def test_estimates_begin_with_rates_of_their_own_or_with_those_of_the_filter(followed):
  _, _, rates = followed
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
  def named(rewards, **given):
    return difficulty.passing_reward(dict(data=dict(curriculum=given)), rewards)
  assert named(['number'], rule='failure') == 'number'
  assert named(['format', 'number'], rule='failure', reward='number') == 'number'
  assert named(['format', 'number']) == ''
