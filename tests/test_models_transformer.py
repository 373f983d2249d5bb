import dataclasses

from decoding_caches import advanced, decoding_cache
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import build, transformer


@pytest.fixture(scope='module')
def forward(tiny):
  """f(tokens, positions, segment_ids) -> hidden states of the tiny model, compiled."""
  run = jax.jit(lambda tokens, positions, segment_ids: tiny.model.apply(
      tiny.params, tokens, positions=positions, segment_ids=segment_ids)[0])
  return lambda *arrays: np.asarray(run(*(np.asarray(x, np.int32) for x in arrays)))


def test_pitfall_04_packed_and_padded_documents_are_as_if_alone(forward):
  rng = np.random.default_rng(0)
  one, other = rng.integers(0, 40, 4), rng.integers(0, 40, 3)
  tokens, positions, segments = rng.integers(0, 40, (5, 10)), np.zeros((5, 10)), np.zeros((5, 10))

  def put(row, start, document, segment, first=0):
    place = (row, slice(start, start + len(document)))
    tokens[place], segments[place] = document, segment
    positions[place] = first + np.arange(len(document))

  put(0, 0, one, 1)          # packed, with padding in front of the third document
  put(0, 4, other, 2)
  put(0, 7, other, 3)
  put(1, 0, one, 1)          # padded on the right
  put(2, 7, other, 1)        # padded on the left
  put(3, 0, other, 5)
  put(4, 2, other, 1, 900)   # only distances between positions count
  hidden = forward(tokens, positions, segments)
  assert np.std(hidden) > 0.5
  np.testing.assert_allclose(hidden[0, :4], hidden[1, :4], atol=1e-5)
  for row, start, atol in ((0, 4, 1e-5), (0, 7, 1e-5), (3, 0, 1e-5), (4, 2, 1e-3)):
    np.testing.assert_allclose(hidden[row, start:start + 3], hidden[2, 7:], atol=atol)


def test_a_segment_sees_its_parent_and_not_its_siblings(tiny, forward):
  """Two prompts and their completions packed into one row, against each pair in its own row."""
  rng = np.random.default_rng(3)
  tokens = rng.integers(0, 40, 16)
  segments = np.repeat([1, 2, 3, 4, 5, 0], [3, 2, 4, 4, 2, 1])    # 2, 3 continue 1; 5 continues 4
  parents = np.repeat([0, 1, 1, 0, 4, 0], [3, 2, 4, 4, 2, 1])
  positions = np.r_[0:3, 3:5, 3:7, 0:4, 4:6, 0]
  packed = tiny.model.apply(tiny.params, tokens[None], positions=positions[None],
                            segment_ids=segments[None], parent_ids=parents[None])[0][0]
  for segment, parent in ((2, 1), (3, 1), (5, 4)):
    place = (segments == parent) | (segments == segment)
    alone = forward(tokens[None, place], positions[None, place], np.ones((1, place.sum())))
    np.testing.assert_allclose(packed[place], alone[0], atol=1e-5)


def test_a_token_sees_no_later_one(forward):
  tokens = np.random.default_rng(1).integers(0, 40, (5, 10))
  changed = tokens.copy()
  changed[:, 6] = (changed[:, 6] + 1) % 40
  arguments = np.broadcast_to(np.arange(10), tokens.shape), np.ones_like(tokens)
  before, after = forward(tokens, *arguments), forward(changed, *arguments)
  np.testing.assert_array_equal(before[:, :6], after[:, :6])
  assert np.all(np.any(before[:, 6:] != after[:, 6:], -1))


def test_cached_decoding_equals_the_whole_sequence(tiny, prompts, forward):
  """Three completions of each prompt."""
  rng = np.random.default_rng(2)
  completions, lengths = rng.integers(0, 40, (12, 4)), np.repeat(np.asarray(prompts.lengths), 3)

  @jax.jit
  def prefill(tokens, lengths):
    positions, segments = transformer.prompt_segments(tokens, lengths)
    _, new_kv, _ = tiny.model.apply(
        tiny.params, tokens, positions=positions, segment_ids=segments)
    return decoding_cache(tiny.model.config, new_kv, lengths, group_size=3, size=4)

  @jax.jit
  def step(tokens, positions, cache):
    hidden, new_kv, _ = tiny.model.apply(
        tiny.params, tokens, positions=positions, segment_ids=jnp.ones_like(tokens), cache=cache)
    return hidden[:, 0], advanced(cache, new_kv)

  cache, hidden = prefill(prompts.tokens, prompts.lengths), []
  assert cache.prefix[0].keys.shape[1] == 4      # of the prompts, not of the completions
  for i in range(4):
    column, cache = step(completions[:, i:i + 1], lengths[:, None] + i, cache)
    hidden.append(column)

  rows = np.pad(np.repeat(np.asarray(prompts.tokens), 3, 0), ((0, 0), (0, 4)))
  places = lengths[:, None] + np.arange(4)
  np.put_along_axis(rows, places, completions, 1)
  whole = forward(rows, np.broadcast_to(np.arange(10), rows.shape), np.ones_like(rows))
  want = np.take_along_axis(whole, places[..., None], 1)
  np.testing.assert_allclose(np.stack(hidden, 1), want, atol=1e-5)


def test_rematerialisation_changes_nothing_and_every_parameter_has_a_gradient(
    tiny_config, random_params):
  config = dataclasses.replace(tiny_config, qkv_bias=True, tied_embedding=False)
  params = random_params(build(config))
  tokens = np.random.default_rng(3).integers(0, 40, (2, 7))

  def gradient(remat):
    model = build(config, remat=remat)

    @jax.jit
    @jax.value_and_grad
    def run(params):
      hidden, _, _ = model.apply(
          params, tokens, positions=jnp.broadcast_to(jnp.arange(7), tokens.shape),
          segment_ids=jnp.ones_like(tokens))
      return jnp.mean(jax.nn.logsumexp(model.unembed(params, hidden), -1))
    return run(params)

  plain, saved = gradient(False), gradient(True)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(saved)):
    np.testing.assert_allclose(b, a, atol=1e-5, err_msg=str(path))
    rows = np.asarray(a).reshape(2, -1) if 'stacks' in str(path) else np.asarray(a)[None]
    assert np.all(np.any(rows, tuple(range(1, rows.ndim)))), path      # in both layers


def test_bfloat16_computes_so_and_gives_float32_logits(tiny_config):
  model = build(tiny_config, compute_dtype='bfloat16')
  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
  hidden, new_kv, _ = jax.eval_shape(lambda params, tokens: model.apply(
      params, tokens, positions=tokens, segment_ids=tokens), params, tokens)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  assert {leaf.dtype for leaf in jax.tree.leaves((hidden, new_kv))} == {jnp.dtype('bfloat16')}
  assert jax.eval_shape(model.unembed, params, hidden).dtype == jnp.float32


def test_init_is_decided_by_its_key(tiny):
  first, again, other = (
      jax.device_get(tiny.model.init(jax.random.key(seed))) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(other)):
    if path[-1].key == 'scale':
      assert np.all(a == 1)
    else:
      assert np.all(a != b) and abs(np.mean(a)) < 0.005, path
      wanted = 0.01 if path[-1].key in ('out', 'down') else 0.02      # 0.02/√(2 layers · 2)
      np.testing.assert_allclose(np.std(a), wanted, rtol=0.15, err_msg=str(path))
    if 'stacks' in str(path) and path[-1].key != 'scale':
      assert np.all(a[0] != a[1])
