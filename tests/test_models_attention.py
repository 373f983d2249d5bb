"""Attention over several sets of keys against one plain softmax in float64."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import flash
from r1jax.kernels.attention_ids import AttentionIds
from r1jax.models import Latent, ModelConfig, YarnScaling, attention, build, kv_cache
from r1jax.models.attention import KeyValue, attend, is_long
from r1jax.runtime import sharding

B, G, K, R, D, PREFIX = 2, 3, 2, 2, 4, 5
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
@pytest.mark.parametrize('cached', ['', 'prefix'])
def test_sets_of_keys_are_merged_exactly(cached, tokens):
  rng = np.random.default_rng(tokens)
  def draw(*shape):
    return rng.normal(0, 2, shape).astype(np.float32)
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

  if cached:
    mask = np.arange(PREFIX) < np.array([[5], [2]])
    add('prefix', draw(B, PREFIX, K, D), draw(B, PREFIX, K, D), mask, G)
  got = jax.jit(attend)(queries, keys, values, self_mask, **given)
  want = by_hand(queries, np.concatenate(all_keys, 1), np.concatenate(all_values, 1),
                 np.concatenate(visible, 2))
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_token_that_sees_nothing_stays_finite_in_value_and_gradient():
  x = jnp.ones((1, 2, K, R, D))
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(attend(
      x, x[:, :, :, 0], x[:, :, :, 0], jnp.zeros((1, 2, 2), bool))))(x)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


# Long rows: by blocks, and equal to the plain form.

SIZES: dict[str, Any] = dict(
    vocab_size=40, width=16, num_heads=4, head_dim=8, mlp_width=24, num_layers=2)
CONFIGS = {
    'grouped, windows': ModelConfig(
        family='gemma3_text', **SIZES, num_kv_heads=2, window=7, local_rope_theta=100.0,
        layers=((('local', 'dense'), 1),), query_scale=12.0),
    'latent': ModelConfig(
        family='deepseek_v3', **SIZES | dict(head_dim=10), num_kv_heads=4,
        rope_scaling=YarnScaling(original_max_length=16, mscale_all_dim=0.7),
        latent=Latent(rank=12, rope_dim=4, value_dim=6), tied_embedding=False),
}
GROUP, COMPLETION = 2, 19


@pytest.fixture
def lengths_that_are_long(monkeypatch):
  """f(LONG): from now on what is traced takes blocks of 16 from so many tokens on."""
  monkeypatch.setitem(flash._BLOCKS, 'cpu', 16)
  return lambda size: monkeypatch.setattr(attention, 'LONG', size)


def two_passes(model, params, prompts, completions):
  """Hidden states of packed prompts, then of their completions over the prompts' cache."""
  rows, size = prompts.shape
  segments = jnp.repeat(jnp.array([1, 2, 3, 0]), size // 4)[None].repeat(rows, 0)
  positions = jnp.broadcast_to(jnp.arange(size), prompts.shape)
  parents = jnp.where(segments == 3, 1, 0)
  hidden, new_kv, _ = model.apply(
      params, prompts, positions=positions, segment_ids=segments, parent_ids=parents)
  lengths = jnp.arange(size, size - rows, -1)
  cache = kv_cache.as_prefix(new_kv, lengths)
  starts = jnp.repeat(lengths, GROUP)[:, None]
  place = jnp.arange(COMPLETION)
  after, later_kv, _ = model.apply(
      params, completions, positions=starts + place, cache=cache,
      segment_ids=jnp.where(place < COMPLETION - 3, 1, 0)[None].repeat(len(completions), 0))
  return hidden, after, (new_kv, later_kv)


@pytest.mark.parametrize('name', CONFIGS)
def test_long_rows_give_the_values_and_gradients_of_the_plain_form(
    name, lengths_that_are_long, random_params):
  rng = np.random.default_rng(0)
  prompts, completions = rng.integers(0, 40, (2, 44)), rng.integers(0, 40, (4, COMPLETION))
  params = random_params(build(CONFIGS[name]))

  def run(size):
    lengths_that_are_long(size)
    model = build(CONFIGS[name])

    def loss(params):
      hidden, after, cached = two_passes(model, params, prompts, completions)
      return jnp.mean(jnp.square(hidden[..., 0])) + jnp.mean(after[..., 1] * after[..., 2]), (
          hidden, after, cached)
    lowered = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params)
    return '44x44x' in lowered.as_text(), lowered.compile()(params)

  (has_square, plain), (still, long) = run(1024), run(2)
  assert has_square and not still      # neither scores nor masks
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(long)):
    np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-5, err_msg=str(path))


def test_one_token_is_never_long_and_many_are():
  assert not is_long(1, 10 ** 7) and not is_long(192, 64) and is_long(64, 32_768)
  assert is_long(attention.LONG, 0) and not is_long(attention.LONG - 1, 0)


@pytest.mark.parametrize('fsdp, context, groups', [(2, 2, 4), (4, 1, 4), (4, 1, 2)])
def test_on_a_mesh_of_eight_rows_queries_and_heads_are_split(fsdp, context, groups, monkeypatch):
  """Values and gradients of one device; groups stay whole: two are not split over four devices."""
  monkeypatch.setitem(flash._BLOCKS, 'cpu', 16)
  mesh = sharding.make_mesh(fsdp=fsdp, context=context, tensor=2)
  rng = np.random.default_rng(0)
  def draw(*shape):
    return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)
  arrays = draw(8, 40, 2, 2, D), draw(8, 40, 2, D), draw(8, 40, 2, D), KeyValue(
      draw(groups, 2, D, 24), draw(groups, 2, 24, D))
  weights = draw(8, 40, 2, 2, D)
  segments = jnp.asarray(np.sort(rng.integers(1, 4, (8, 40)), 1), jnp.int32)
  places = jnp.broadcast_to(jnp.arange(40, dtype=jnp.int32), (8, 40))
  ids = AttentionIds(segments, jnp.where(segments == 3, 1, 0), places)

  def run(arrays):
    *own, prefix = arrays
    out = attention.attend_long(
        *own, ids, prefix=prefix,
        prefix_mask=jnp.arange(24) < jnp.arange(20, 20 + groups)[:, None])
    return jnp.sum(out * weights), out
  step = jax.jit(jax.grad(run, has_aux=True))
  want = step(arrays)
  with sharding.use(mesh):
    lowered = step.lower(sharding.place(arrays, mesh, batch=True))
    got = lowered.compile()(sharding.place(arrays, mesh, batch=True))
  rows, tokens = 8 if groups < fsdp else 8 // fsdp, 40 // context
  assert f'tensor<{rows}x{tokens}x1x2x{D}xf32>' in lowered.as_text()
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, atol=1e-5)
