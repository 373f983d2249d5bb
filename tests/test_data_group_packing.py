"""Where prompts and completions lie in packed rows."""
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from r1jax.data.group_packing import pack_groups
from r1jax.stages.rl import programs as rl_programs

GROUPS = st.integers(1, 5).flatmap(lambda size: st.lists(st.tuples(
    st.integers(1, 7), st.lists(st.integers(0, 13), min_size=size, max_size=size)), min_size=1,
    max_size=8))


@hypothesis.settings(deadline=None, derandomize=True, max_examples=60)
@hypothesis.given(GROUPS, st.sampled_from([20, 21, 27, 64]), st.sampled_from([1, 2, 5]))
def test_every_completion_is_whole_in_one_row_behind_its_prompt(groups, length, num_rows):
  prompts = np.array([prompt for prompt, _ in groups])
  completions = np.array([sizes for _, sizes in groups]).reshape(-1)
  group_size = completions.size // prompts.size
  packing = pack_groups(prompts, completions, row_length=length, num_rows=num_rows, longest=20)
  assert {field.dtype.name for field in jax.tree.leaves(packing)} == {'int32'}
  assert packing.segment_ids.shape[1:] == packing.positions.shape[1:] == (num_rows, length)
  segments, positions, members, starts, ends = (x.reshape(-1, x.shape[-1]) for x in (
      packing.segment_ids, packing.positions, packing.completions, packing.starts,
      packing.prompt_ends))
  assert sorted(members[members < completions.size]) == list(range(completions.size))
  used = 0
  for row in range(len(segments)):
    here = [n for n in members[row] if n < completions.size]
    places = {}
    for slot, n in enumerate(here):
      b, start, end = n // group_size, starts[row, slot], ends[row, slot]
      places |= dict.fromkeys(range(start, start + completions[n]), 1 + len(prompts) + n)
      places |= dict.fromkeys(range(end - prompts[b] + 1, end + 1), 1 + b)
      own = positions[row, start:start + completions[n]]
      np.testing.assert_array_equal(own, prompts[b] + np.arange(completions[n]))
      np.testing.assert_array_equal(
          positions[row, end - prompts[b] + 1:end + 1], np.arange(prompts[b]))
      assert end < start
    # Nothing else is there, nothing overlaps, and padding is at the end.
    assert [places.get(place, 0) for place in range(length)] == segments[row].tolist()
    distinct = {n // group_size for n in here}
    assert len(places) == sum(prompts[b] for b in distinct) + sum(completions[n] for n in here)
    assert not segments[row, len(places):].any() and not positions[row, len(places):].any()
    used += bool(here)
  assert packing.num_micro_batches == -(-used // num_rows)
  assert not segments[used:].any()
  lower = [segments[row].astype(bool).sum() for row in range(used)]
  filled = (members[:used] < completions.size).all(1)     # that take no more completions
  for one in np.flatnonzero(~filled):     # no two rows could have been one
    assert all(lower[one] + lower[other] > length for other in np.flatnonzero(~filled[:one]))


def test_rows_are_full_of_lengths_as_rollouts_have_them():
  for seed in range(5):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(100, 301, 32)
    completions = np.clip(rng.lognormal(6, 0.8, 512), 1, 2048).astype(int)
    packing = pack_groups(prompts, completions, row_length=4096, num_rows=1, longest=2348)
    assert rl_programs.packing_fill(packing) > 0.95
    real = prompts.sum() + completions.sum()
    assert real / (packing.num_micro_batches * 4096) > 0.9     # copies of prompts left out


def test_shapes_depend_on_settings_and_never_on_lengths():
  pack = functools.partial(pack_groups, row_length=64, num_rows=2, longest=40)
  packings = [pack(np.full(4, 8), np.full(40, size)) for size in (0, 1, 5, 11, 17, 32)]
  packings.append(pack(np.full(4, 1), np.append(np.full(36, 1), np.full(4, 39))))
  assert len({tuple(x.shape for x in jax.tree.leaves(packing)) for packing in packings}) == 1
  assert packings[0].completions.shape[2] == 32     # of which a row has at most so many
  assert packings[0].num_micro_batches == 1 and (packings[0].completions[0] < 40).sum() == 40


@pytest.mark.parametrize('arguments, message', [
    (([3, 4], [1, 2, 3], 10), r'prompt_lengths \(2,\) and completion_lengths \(3,\) do not fit'),
    (([0], [1], 10), 'prompt_lengths must be at least 1 .* got minima of 0'),
    (([3], [8], 10), 'have 11 tokens, more than longest=10: raise longest'),
    (([3], [8], 13), 'longest=13 exceeds row_length=12: raise row_length')])
def test_groups_that_do_not_fit_are_refused_in_one_sentence(arguments, message):
  prompts, completions, longest = arguments
  with pytest.raises(ValueError, match=message):
    pack_groups(np.array(prompts), np.array(completions), row_length=12, num_rows=1,
                longest=longest)
