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
