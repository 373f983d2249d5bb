"""Which groups are trained on, and when sampling ends."""
import types

import numpy as np
import pytest

from r1jax.rewards.suite import Rewards
from r1jax.stages.rl import dynamic_sampling


def rewards_of(*groups):
  return Rewards(np.ravel(groups).astype(float), {}, {})


def test_unequal_groups_are_chosen_first_and_in_their_order():
  rng = np.random.default_rng(0)
  for _ in range(50):
    unequal, count = rng.random(12) < rng.random(), rng.integers(1, 13)
    chosen = dynamic_sampling.choose_groups(unequal, count)
    assert len(chosen) == count and (np.diff(chosen) > 0).all()
    assert unequal[chosen].sum() == min(count, unequal.sum())
    for kind in (True, False):    # of each kind the first ones
      of_kind = np.flatnonzero(unequal == kind)
      taken = (unequal[chosen] == kind).sum()
      assert chosen[unequal[chosen] == kind].tolist() == of_kind[:taken].tolist()


@pytest.mark.parametrize('extra, unequal, rounds', [
    (0, [1, 1, 1], 1), (3, [4], 1), (3, [2, 1, 1], 3), (2, [0, 0, 0, 4], 3)])
def test_rounds_are_sampled_until_a_batch_is_full_or_there_are_no_more(extra, unequal, rounds):
  """Four groups of two a round, of which `unequal` have different rewards."""
  config = dict(dynamic_sampling_rounds=extra, prompts_per_batch=4, group_size=2)

  def sample(counters):
    return types.SimpleNamespace(number=counters, next_counters=counters + 1)

  def collect(drawn):
    assert extra, 'without dynamic sampling nobody waits for rewards'
    return rewards_of([[0, row < unequal[one.number]] for one in drawn for row in range(4)])

  drawn = dynamic_sampling.sample_rounds(sample, collect, 0, config)
  assert [one.number for one in drawn] == list(range(rounds))


def test_each_kind_of_prompts_keeps_its_share_of_the_batch():
  rng = np.random.default_rng(0)
  for _ in range(50):
    rounds, general = rng.integers(1, 4), rng.integers(0, 5)
    unequal = rng.random(5 * rounds) < rng.random()
    kinds = np.arange(5 * rounds) % 5 >= 5 - general
    chosen = dynamic_sampling.choose_groups(unequal, 5, general)
    assert len(chosen) == 5 and (np.diff(chosen) > 0).all() and kinds[chosen].sum() == general
    for kind, count in ((False, 5 - general), (True, general)):
      taken = unequal[chosen][kinds[chosen] == kind].sum()
      assert taken == min(count, unequal[kinds == kind].sum())


def test_sampling_goes_on_until_each_kind_has_its_unequal_groups():
  """Of four groups the last is general, and equal until the third round."""
  config = dict(dynamic_sampling_rounds=5, prompts_per_batch=4, group_size=2)

  def sample(counters):
    return types.SimpleNamespace(number=counters, next_counters=counters + 1)

  def collect(drawn):
    return rewards_of([[0, row < 3 or one.number == 2] for one in drawn for row in range(4)])

  drawn = dynamic_sampling.sample_rounds(sample, collect, 0, config, num_general=1)
  assert len(drawn) == 3
