"""Attention in parts against one plain softmax in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.attention import KeyValue, attend, rotary_frequencies, rotate

B, G, K, R, D, PREFIX, SUFFIX = 2, 3, 2, 2, 4, 5, 6
N = B * G


def by_hand(queries, keys, values, visible):
  """softmax(q·k/√D)·v of each row, token and head; visible [N, T, positions] bool."""
  out = np.zeros(queries.shape)
  for n, t, k, r in np.ndindex(queries.shape[:-1]):
    scores = keys[n, visible[n, t], k] @ queries[n, t, k, r] / np.sqrt(D)
    weights = np.exp(scores - scores.max())
    out[n, t, k, r] = weights @ values[n, visible[n, t], k] / weights.sum()
  return out


@pytest.mark.parametrize('tokens', [1, 3])
@pytest.mark.parametrize('parts', ['', 'prefix', 'suffix', 'prefix suffix'])
def test_parts_are_merged_exactly(parts, tokens):
  rng = np.random.default_rng(tokens)
  draw = lambda *shape: rng.normal(0, 2, shape).astype(np.float32)
  queries, keys, values = draw(N, tokens, K, R, D), draw(N, tokens, K, D), draw(N, tokens, K, D)
  self_mask = np.broadcast_to(np.tri(tokens, dtype=bool), (N, tokens, tokens))
  given, all_keys, all_values, visible = {}, [keys], [values], [self_mask]

  def add(name, keys, values, mask, repeats):
    given[name] = KeyValue(keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3))
    given[f'{name}_mask'] = mask
    all_keys.append(np.repeat(keys, repeats, 0))
    all_values.append(np.repeat(values, repeats, 0))
    rows = np.repeat(np.broadcast_to(mask, keys.shape[:2]), repeats, 0)
    visible.append(np.broadcast_to(rows[:, None], (N, tokens, rows.shape[1])))

  if 'prefix' in parts:
    mask = np.arange(PREFIX) < np.array([[5], [2]])
    add('prefix', draw(B, PREFIX, K, D), draw(B, PREFIX, K, D), mask, G)
  if 'suffix' in parts:
    add('suffix', draw(N, SUFFIX, K, D), draw(N, SUFFIX, K, D), np.arange(SUFFIX) < 4, 1)
  got = jax.jit(attend)(queries, keys, values, self_mask, **given)
  want = by_hand(queries, np.concatenate(all_keys, 1), np.concatenate(all_values, 1),
                 np.concatenate(visible, 2))
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_token_that_sees_nothing_stays_finite_in_value_and_gradient():
  x = jnp.ones((1, 2, K, R, D))
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(attend(
      x, x[:, :, :, 0], x[:, :, :, 0], jnp.zeros((1, 2, 2), bool))))(x)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_rotation_keeps_lengths_and_tells_distances_alone():
  rng = np.random.default_rng(0)
  query, key = rng.normal(size=(2, 1, 1, 1, 1, 8)).astype(np.float32)
  frequencies = rotary_frequencies(8, 100.0, None)

  def at(x, position):
    angles = jnp.full((1, 1, 1), position) * frequencies
    return rotate(x, jnp.sin(angles), jnp.cos(angles))
  near, far, other = (jnp.sum(at(query, q) * at(key, k)) for q, k in ((5, 3), (105, 103), (5, 4)))
  np.testing.assert_allclose(near, far, rtol=1e-4)
  assert abs(near - other) > 0.01
  np.testing.assert_allclose(jnp.linalg.norm(at(query, 7)), np.linalg.norm(query), rtol=1e-5)
