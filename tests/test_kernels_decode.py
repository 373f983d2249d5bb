"""Attention of rows that decode against one plain softmax in float64."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import decode, decode_tpu
from r1jax.kernels.decode import KeySet, decode_attention, make_steps
from r1jax.runtime import sharding

L, K, R, D, E = 3, 2, 2, 4, 5


def softmax(scores):
  weights = np.exp(scores - scores.max())
  return weights / weights.sum()


def by_hand(queries, own_keys, own_values, layer, sets, value_queries=None):
  out = np.zeros((*queries.shape[:3], own_values.shape[-1]))
  for n, k, r in np.ndindex(*queries.shape[:3]):
    keys, values = [own_keys[n, k][None]], [own_values[n, k][None]]
    for one in sets:
      owner = n if one.owners is None else one.owners[n]
      columns = (one.firsts[n] + np.arange(one.counts[n])) % one.keys.shape[-1]
      keys.append(np.asarray(one.keys[layer, owner, k, :, columns]).reshape(-1, D))
      values.append(np.asarray(one.values[layer, owner, k, columns]))
    keys, values = (np.concatenate(x).astype(float) for x in (keys, values))
    scores = keys @ np.asarray(queries[n, k, r], float)
    if value_queries is not None:
      scores = scores + values @ np.asarray(value_queries[n, k, r], float)
    out[n, k, r] = softmax(scores) @ values
  return out


def draw(rng, *shape):
  return rng.normal(0, 1, shape).astype(np.float32)


def case(rng, rows, prompts, prefix, suffix, heads=R):
  """Operands with rows of no, one and all columns, and rings that wrap."""
  def counted(columns):
    counts = rng.integers(0, columns + 1, rows).astype(np.int32)
    counts[:3] = 0, 1, columns
    return rng.integers(0, columns, rows).astype(np.int32), counts
  owners = rng.integers(0, prompts, rows).astype(np.int32)
  counts = rng.integers(1, prefix + 1, rows).astype(np.int32)
  sets = (
      KeySet(draw(rng, L, prompts, K, D, prefix), draw(rng, L, prompts, K, prefix, E), owners,
             np.zeros(rows, np.int32), counts),
      KeySet(draw(rng, L, rows + 2, K, D, suffix), draw(rng, L, rows + 2, K, suffix, E), None,
             *counted(suffix)))
  return (draw(rng, rows, K, heads, D), draw(rng, rows, K, D), draw(rng, rows, K, E),
          np.int32(1), sets)


@pytest.fixture
def on(monkeypatch):
  """Takes this machine for another platform; the kernel for TPU is then interpreted."""
  def take_for(platform):
    monkeypatch.setattr(sharding, 'platform', lambda: platform)
    kernel = functools.partial(decode_tpu.decode_attention, interpret=True)
    monkeypatch.setattr(decode_tpu, 'decode_attention', kernel)
  return take_for


@pytest.mark.parametrize('latent', [False, True])
@pytest.mark.parametrize('rows, prefix, suffix, heads', [(4, 5, 7, R), (24, 128, 192, 2),
                                                         (7, 64, 128, 9)])
@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_sets_are_merged_exactly(platform, rows, prefix, suffix, heads, latent, on):
  on(platform)
  rng = np.random.default_rng(rows)
  operands = case(rng, rows, 3, prefix, suffix, heads)
  more = dict(value_queries=draw(rng, rows, K, heads, E)) if latent else {}
  got = jax.jit(decode_attention)(*operands, **more)
  np.testing.assert_allclose(got, by_hand(*operands, **more), atol=2e-5)


def test_a_row_has_the_same_bits_wherever_it_is_and_whatever_is_beside_it():
  rng = np.random.default_rng(1)
  queries, keys, values, layer, (prefix, suffix) = case(rng, 24, 3, 128, 192)
  attend = jax.jit(decode_attention)
  want = attend(queries, keys, values, layer, (prefix, suffix))
  order = rng.permutation(24)[:16]
  stack = suffix._replace(
      keys=suffix.keys[:, order], values=suffix.values[:, order],
      firsts=suffix.firsts[order], counts=suffix.counts[order])
  others = prefix._replace(owners=prefix.owners[order], firsts=prefix.firsts[order],
                           counts=prefix.counts[order])
  got = attend(queries[order], keys[order], values[order], layer, (others, stack))
  np.testing.assert_array_equal(got, want[order])


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_scales_multiply_keys_and_values(platform, on):
  on(platform)
  rng = np.random.default_rng(3)
  *operands, sets = case(rng, 7, 3, 64, 128)

  def scaled(one):
    """(in int8 with scales, what that is)."""
    scales = [rng.uniform(0.01, 0.02, (*one.keys.shape[:3], one.keys.shape[-1])) for _ in range(2)]
    keys, values = ((50 * x).astype(np.int8) for x in (one.keys, one.values))
    of_keys, of_values = (x.astype(np.float32) for x in scales)
    return (one._replace(keys=keys, values=values, key_scales=of_keys, value_scales=of_values),
            one._replace(keys=keys * of_keys[:, :, :, None], values=values * of_values[..., None]))
  given, meant = zip(*map(scaled, sets))
  got = jax.jit(decode_attention)(*operands, given)
  np.testing.assert_allclose(got, by_hand(*operands, meant), atol=2e-5)


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_on_a_mesh_owners_count_within_their_shard(platform, on):
  on(platform)
  rng = np.random.default_rng(2)
  queries, keys, values, layer, (prefix, suffix) = case(rng, 8, 4, 5, 7)
  suffix = suffix._replace(keys=suffix.keys[:, :8], values=suffix.values[:, :8])
  shard = np.arange(8) // 4
  here = prefix._replace(owners=(prefix.owners % 2).astype(np.int32))
  whole = prefix._replace(owners=here.owners + 2 * shard)
  want = by_hand(queries, keys, values, layer, (whole, suffix))
  with sharding.use(sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])):
    def attend(*operands):
      return decode_attention(*operands, steps=make_steps(operands[-1], shards=2), shards=2)
    got = jax.jit(attend)(queries, keys, values, layer, (here, suffix))
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_columns_are_whole_blocks_where_there_are_several(on):
  assert [decode.num_columns(size) for size in (1, 63, 64, 65, 128, 129)] == [
      1, 63, 64, 128, 128, 192]
  on('tpu')
  assert [decode.num_columns(size) for size in (1, 64, 128, 129)] == [128, 128, 128, 256]
  assert jnp.isfinite(decode.MASKED_SCORE)
