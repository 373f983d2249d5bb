"""Packed groups give what unpacked ones give: values, losses, gradients, whole runs."""
import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics, models, sharding, train_step
from r1jax.data.packing import pack_groups
from r1jax.logprobs import completion_logprobs, micro_batch
from r1jax.records import Batch, PackedBatch
from r1jax.reward_model import completion_values, init_scalar, scalar_axes
from r1jax.stages import rl, rl_programs

BYTES = {'bytes': (runs.by_bytes, 1.0)}
MESH = sharding.make_mesh(1, 1, jax.devices()[:1])


# Where tokens lie.


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
  flat = lambda x: x.reshape(-1, x.shape[-1])
  segments, positions, members, starts, ends = map(flat, (
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
  for one in range(used):     # no two rows could have been one
    assert all(lower[one] + lower[other] > length for other in range(one))


def test_rows_are_full_of_lengths_as_rollouts_have_them():
  for seed in range(5):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(100, 301, 32)
    completions = np.clip(rng.lognormal(6, 0.8, 512), 1, 2048).astype(int)
    packing = pack_groups(prompts, completions, row_length=4096, num_rows=1, longest=2348)
    assert rl_programs.packing_fill(packing) > 0.95
    real = prompts.sum() + completions.sum()
    assert real / (packing.num_micro_batches * 4096) > 0.9     # copies of prompts left out


def test_shapes_depend_on_settings_more_than_on_lengths():
  pack = functools.partial(pack_groups, row_length=64, num_rows=2, longest=40)
  shapes = {tuple(x.shape for x in jax.tree.leaves(pack(
      np.full(4, 8), np.full(16, size)))) for size in (5, 11, 17, 32)}
  assert len(shapes) == 1
  many = pack(np.full(4, 1), np.full(16, 1))
  assert many.completions.shape[2] == 32 and many.num_micro_batches == 1


@pytest.mark.parametrize('arguments, message', [
    (([3, 4], [1, 2, 3], 10), r'prompt_lengths \(2,\) and completion_lengths \(3,\) do not fit'),
    (([0], [1], 10), 'a prompt has no token'),
    (([3], [8], 10), 'have 11 tokens, of at most longest=10, in rows of row_length=12'),
    (([3], [8], 13), 'at most longest=13, in rows of row_length=12: raise the lower')])
def test_groups_that_do_not_fit_are_refused_in_one_sentence(arguments, message):
  prompts, completions, longest = arguments
  with pytest.raises(ValueError, match=message):
    pack_groups(np.array(prompts), np.array(completions), row_length=12, num_rows=1,
                longest=longest)


# Values, losses and gradients.


def settings_of(row_length=0, rows=1, **fields):
  return runs.merged(rl.DEFAULT, dict(group_size=4, packing=dict(
      row_length=row_length, rows=rows), sampling=dict(max_new_tokens=9)) | fields)


@pytest.fixture(scope='module')
def batch(prompts):
  """Four groups of four with lengths from 0 to 9, all scores given."""
  rng = np.random.default_rng(0)
  lengths = np.array([9, 3, 0, 1, 9, 9, 8, 7, 1, 1, 0, 2, 5, 9, 4, 6])
  draw = lambda: jnp.asarray(rng.normal(-3, 0.3, (16, 9)), jnp.float32)
  return Batch(prompts.tokens, prompts.lengths, jnp.asarray(rng.integers(0, 40, (16, 9)), jnp.int32),
               jnp.asarray(np.arange(9) < lengths[:, None], jnp.float32), draw(),
               jnp.asarray(rng.normal(size=16), jnp.float32), draw(), draw(), 3 + draw(), 3 + draw())


def by_update(loss, params, batch, settings, **options):
  """(metrics, gradients, as plain descent returns them) of `train_step.make_update`."""
  import optax
  state = train_step.init_state(params, optax.sgd(1.0))
  normalizers = rl_programs.batch_normalizers(
      getattr(batch, 'batch', batch).completion_mask, 0.3,
      aggregation=settings['loss']['aggregation'], max_length=9)
  update = jax.jit(train_step.make_update(loss, optax.sgd(1.0), **options))
  after, measured = update(state, batch, normalizers)
  return measured, jax.tree.map(jnp.subtract, params, after.params)


def assert_equal(got, want):
  for name in want[0]:
    assert float(got[0][name]) == pytest.approx(float(want[0][name]), rel=1e-5, abs=1e-5), name
  scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(want[1]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a / scale, b / scale, atol=1e-5),
               got[1], want[1])


LOSSES = {
    'sequence_mean': dict(kl_coefficient=0.3),
    'token_mean': dict(loss=dict(aggregation='token_mean', entropy_coefficient=0.1,
                                 correction='sequence_mask')),
    'gspo': dict(loss=dict(ratio_level='sequence', aggregation='fixed_length')),
    'rloo': dict(loss=dict(ratio_level='product', clip='none', old_kl_coefficient=0.2)),
    'cispo': dict(loss=dict(clip='cispo', aggregation='token_mean')),
}


@pytest.mark.parametrize('case', LOSSES)
@pytest.mark.parametrize('rows', [1, 3])
def test_packed_losses_and_gradients_equal_the_unpacked(tiny, batch, case, rows):
  settings = settings_of(24, rows, **LOSSES[case])
  loss = rl_programs.make_loss(tiny.model, settings)
  packed = rl_programs.pack(batch, settings, MESH)
  assert packed.packing.num_micro_batches > 1     # and groups are split over rows
  got = by_update(loss, tiny.params, packed, settings, split=rl_programs._split)
  assert_equal(got, by_update(loss, tiny.params, batch, settings))
