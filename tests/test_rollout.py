import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import rollout as rollouts
from r1jax.data.prompts import PromptBatch
from r1jax.records import Prompts, Rollout
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import Rewards


@pytest.mark.parametrize('limit', [1, 20, 32, 33, 100, 256, 257, 1000, 32_768])
def test_batches_have_one_of_two_widths_that_holds_every_length(limit):
  rng = np.random.default_rng(limit)
  lengths = np.unique(np.append(rng.integers(1, limit + 1, 500), [1, limit]))
  buckets = [rollouts.length_bucket(np.array([1, length]), limit) for length in lengths]
  assert all(length <= bucket <= limit for length, bucket in zip(lengths, buckets))
  assert set(buckets) == set(rollouts.batch_widths(limit)) and sorted(buckets) == buckets
  assert len(set(buckets)) <= 2 and buckets[0] <= limit / 2 + 32
  assert all(bucket % 32 == 0 or bucket == limit for bucket in buckets)


@pytest.fixture
def rollout():
  table = jnp.arange(30.0).reshape(6, 5)
  prompts = Prompts(jnp.ones((2, 4), jnp.int32), jnp.array([4, 2]), jnp.array([8, 9]))
  return Rollout(prompts, table.astype(jnp.int32), (table % 5 < 3) * 1.0, -table, -2 * table,
                 jnp.ones(6, bool))


def test_a_batch_is_the_rollout_cut_to_its_length(rollout):
  batch = rollouts.make_batch(rollout, 4)
  for name, want in dict(completion_tokens=rollout.tokens, completion_mask=rollout.mask,
                         behaviour_logprobs=rollout.behaviour_logprobs).items():
    np.testing.assert_array_equal(getattr(batch, name), want[:, :4], err_msg=name)
  assert batch.prompt_tokens is rollout.prompts.tokens
  assert batch.advantages is batch.old_logprobs is batch.reference_logprobs is None
  assert rollouts.make_batch(rollout).completion_tokens.shape == (6, 5)


COMPLETIONS = [
    Completion('wait a a a a a', 6, False), Completion('so 苹果 是 fruit', 4, False),
    Completion('check, but wrong', 8, True), Completion('fine', 2, False)]
REWARDS = Rewards(
    total=np.array([1.0, 0.0, 0.5, 0.5]),
    components={'format': np.array([1.0, 0, 1, 1]), 'number': np.array([np.nan, 1, np.nan, 0]),
                'never': np.full(4, np.nan)},
    counters={'unjudged/number': 2, 'timeouts': 3})


def test_pitfall_19_metrics_of_a_rollout():
  got = rollouts.rollout_metrics(COMPLETIONS, REWARDS, group_size=2)
  assert all(type(value) is float for value in got.values())
  assert got == pytest.approx({
      'reward': 0.5, 'reward_std': np.std([1, 0], ddof=1) / 2, 'frac_reward_zero_std': 0.5,
      'completions/mean_length': 5, 'completions/min_length': 2, 'completions/max_length': 8,
      'completions/clipped_ratio': 0.25, 'completions/mean_terminated_length': 4,
      'reflective_words': 4 / 4, 'repetition': (1 / 3) / 4, 'language_mixing': 0.25,
      'rewards/format/mean': 0.75, 'rewards/format/std': np.std([1, 0, 1, 1]),
      'rewards/number/mean': 0.5, 'rewards/number/std': 0.5,
      'rewards/unjudged/number': 2, 'rewards/workers/timeouts': 3})


def test_metrics_where_no_completion_ended_and_groups_are_of_one():
  cut = [dataclasses.replace(completion, truncated=True) for completion in COMPLETIONS]
  got = rollouts.rollout_metrics(cut, REWARDS, group_size=1)
  assert got['completions/mean_terminated_length'] == 0 and got['completions/clipped_ratio'] == 1
  assert got['reward_std'] == 0 and got['frac_reward_zero_std'] == 1


def test_what_was_not_judged_is_left_out_of_every_metric():
  judged = dataclasses.replace(REWARDS, total=np.array([1.0, np.nan, 0.5, 0.5, 0.0, 1.0]))
  got = rollouts.rollout_metrics([COMPLETIONS[0]] * 6, dataclasses.replace(judged, components={
      'format': judged.total}), group_size=3)
  assert got['reward'] == got['rewards/format/mean'] == pytest.approx(0.6)
  assert got['reward_std'] == pytest.approx((np.std([1, 0.5], ddof=1) + np.std(
      [0.5, 0, 1], ddof=1)) / 2)
  assert got['frac_reward_zero_std'] == 0
  nothing = dataclasses.replace(REWARDS, total=np.full(4, np.nan))
  got = rollouts.rollout_metrics(COMPLETIONS, nothing, group_size=2)
  assert 'reward' not in got and got['reward_std'] == 0 and got['frac_reward_zero_std'] == 1
  assert all(map(np.isfinite, got.values()))


def test_a_group_is_unequal_if_two_of_its_judged_rewards_differ():
  groups = [[1, 1, 1], [1, 0, 1], [np.nan, 0, 0], [np.nan, 0, 0.5], [np.nan] * 3]
  rewards = Rewards(np.ravel(groups), {}, {})
  assert rollouts.unequal_groups(rewards, 3).tolist() == [False, True, False, True, False]


def test_sample_rows_are_json_and_name_their_example():
  ids = np.array([7, 3], np.int32)
  prompts = PromptBatch(np.zeros((2, 4), np.int32), np.ones(2, np.int32), ids, [
      dict(language='zh', task='json', objective='safety', check='json'), {}], 2, 0)
  records = rollouts.sample_rows(prompts, ['p', 'q'], COMPLETIONS, REWARDS, group_size=2)
  assert json.loads(json.dumps(records)) == records
  assert [(r['example_id'], r['sample'], r['prompt']) for r in records] == [
      (7, 0, 'p'), (7, 1, 'p'), (3, 0, 'q'), (3, 1, 'q')]
  for field, value in dict(language='zh', task='json', objective='safety').items():
    assert [r.get(field, '') for r in records] == [value, value, '', '']
  assert 'check' not in records[0]
  assert records[2]['completion'] == 'check, but wrong' and records[2]['truncated']
  unjudged = rollouts.sample_rows(prompts, ['p', 'q'], COMPLETIONS, dataclasses.replace(
      REWARDS, total=np.full(4, np.nan)), group_size=2)
  assert unjudged[0]['rewards']['reward'] is None
  assert records[1]['rewards'] == {'reward': 0.0, 'format': 0.0, 'number': 1.0, 'never': None}


def test_examples_are_repeated_in_the_order_of_rows():
  assert rollouts.repeat_examples(['a', 'b'], 3) == ['a', 'a', 'a', 'b', 'b', 'b']
