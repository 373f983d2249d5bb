"""Which blocks may be skipped, against pairs of query and key that are written down by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.attention_ids import AttentionIds, block_may_attend, block_range, pad


def visible(query_ids, key_ids, window):
  """[N, T, S] bool, query by query."""
  q, k = (jax.tree.map(np.asarray, ids) for ids in (query_ids, key_ids))
  seen = np.zeros((*q.segment_ids.shape, k.segment_ids.shape[1]), bool)
  for n, t in np.ndindex(q.segment_ids.shape):
    seen[n, t] = k.segment_ids[n] == q.segment_ids[n, t]
    if q.parent_ids is not None and q.parent_ids[n, t]:
      seen[n, t, k.segment_ids[n] == q.parent_ids[n, t]] = True
    if q.order is not None:
      seen[n, t, k.order[n] > q.order[n, t]] = False
    if window is not None:
      seen[n, t, k.positions[n] <= q.positions[n, t] - window] = False
  return seen


@pytest.mark.parametrize('seed', range(20))
def test_a_block_in_which_somebody_sees_somebody_is_never_passed_over(seed):
  rng = np.random.default_rng(seed)
  def draw(high):
    return jnp.asarray(np.sort(rng.integers(0, high, (2, 24)), 1), jnp.int32)
  def shuffled(x):
    return jnp.asarray(rng.permuted(x, axis=1)) if seed % 2 else x
  query = AttentionIds(draw(4), shuffled(draw(3)), shuffled(draw(30)), shuffled(draw(30)))
  key = AttentionIds(draw(5), None, shuffled(draw(40)), draw(30))
  window = [None, 1, 9][seed % 3]
  query, key = pad(query, 8, queries=True), pad(key, 8, queries=False)
  seen = visible(query, key, window)
  assert not seen[:, 24:].any() and not seen[:, :, 24:].any()
  def blocks(ids):
    return jax.tree.map(lambda x: x.reshape(2, 4, 8), ids)
  found = np.asarray(block_may_attend(blocks(query), blocks(key), window))
  needed = seen.reshape(2, 4, 8, 4, 8).any((2, 4))
  assert np.all(found >= needed)
  first, end = block_range(found)
  inside = (np.arange(4) >= first[..., None]) & (np.arange(4) < end[..., None])
  assert np.all(inside >= found) and np.all(inside.any(-1) == found.any(-1))


def test_of_causal_rows_no_block_above_the_diagonal_is_visited():
  places = jnp.arange(96, dtype=jnp.int32).reshape(1, 6, 16)
  ids = pad(AttentionIds(jnp.ones((1, 85), jnp.int32), None, jnp.arange(85, dtype=jnp.int32)[None]),
                 11, queries=False)
  ids = jax.tree.map(lambda x: x.reshape(1, 6, 16), ids)
  query = AttentionIds(jnp.ones((1, 6, 16), jnp.int32), jnp.zeros((1, 6, 16), jnp.int32), places)
  np.testing.assert_array_equal(block_may_attend(query, ids, None)[0], np.tri(6, dtype=bool))
