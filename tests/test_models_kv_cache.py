"""Caches in eight bits: what they keep, and decoding that equals decoding from rounded numbers."""
import dataclasses

from decoding_caches import advanced, decoding_cache
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models_families import CONFIGS

from r1jax.models import build, kv_cache, transformer
from r1jax.models.attention import KeyValue
from r1jax.models.quantized import CACHE_DTYPES, dequantize, quantize
from r1jax.sampling.sampler import Sampler


def rounded(new, dtype):
  """Keys and values as floats, rounded with a scale per token and head."""
  return KeyValue(dequantize(quantize(new.keys, (-2,), dtype)),
                  dequantize(quantize(new.values, (-1,), dtype)))


def as_floats(cached):
  """What a KeyValue in eight bits stands for."""
  return KeyValue(cached.keys.astype(jnp.float32) * cached.key_scales[..., None, :],
                  cached.values.astype(jnp.float32) * cached.value_scales[..., None])


@pytest.mark.parametrize('dtype', CACHE_DTYPES)
def test_prompts_and_tokens_are_kept_with_a_scale_per_token_and_head(dtype, tiny_config):
  rng = np.random.default_rng(0)
  sizes = rng.lognormal(0, 3, (2, 3, 2, 1, 7))    # of tokens and heads

  def draw(rows, columns):
    keys, values = rng.normal(size=(2, 2, rows, 2, 8, columns))
    values = np.swapaxes(values, -1, -2)
    size = sizes[:, :rows, :, :, :columns]
    return (KeyValue(jnp.asarray(keys * size, jnp.float32),
                     jnp.asarray(values * np.swapaxes(size, -1, -2), jnp.float32)),)
  prompts, token = draw(3, 6), draw(3, 1)
  cache = decoding_cache(tiny_config, prompts, jnp.array([6, 1, 4]), group_size=1, size=5,
                         cache_dtype=dtype)
  assert cache.prefix[0].keys.dtype == dtype and cache.suffix[0].values.dtype == dtype
  assert cache.suffix[0].key_scales.shape == (2, 3, 2, 5)
  cache = advanced(advanced(cache, token), draw(3, 1))
  close = np.testing.assert_allclose
  want = rounded(prompts[0], dtype)
  for x, y in zip(jax.tree.leaves(as_floats(cache.prefix[0])), jax.tree.leaves(want)):
    close(x, y, rtol=1e-6)
  want = rounded(token[0], dtype)
  close(as_floats(cache.suffix[0]).keys[..., :1], want.keys, rtol=1e-6)
  close(as_floats(cache.suffix[0]).values[..., :1, :], want.values, rtol=1e-6)
  moved = kv_cache.move_rows(cache, jnp.array([[2, 1]]), jnp.array([[0, 9]])).suffix[0]
  for x, y in zip(jax.tree.leaves(moved), jax.tree.leaves(cache.suffix[0]), strict=True):
    np.testing.assert_array_equal(x, y[:, np.array([2, 1, 2])])


@pytest.mark.parametrize('name, dtype', [
    ('tiny', 'float8_e4m3fn'), ('qwen3_moe', 'int8'), ('gemma3', 'int8'), ('deepseek_v3', 'int8'),
    ('deepseek_v3', 'float8_e4m3fn')])
def test_decoding_reads_the_rounded_numbers(name, dtype, tiny, prompts, random_params):
  """Of every family; the token at hand attends to itself unrounded."""
  model = tiny.model if name == 'tiny' else build(CONFIGS[name])
  params = random_params(model)
  positions, segments = transformer.prompt_segments(prompts.tokens, prompts.lengths)
  apply = jax.jit(model.apply)
  _, new_kv, _ = apply(params, prompts.tokens, positions=positions, segment_ids=segments)
  tokens = jnp.arange(8, dtype=jnp.int32)[:, None]
  starts = jnp.repeat(prompts.lengths, 2)[:, None]
  step = jax.jit(lambda cache, past: model.apply(
      params, tokens, positions=starts + past, segment_ids=jnp.ones_like(tokens), cache=cache)[:2])
  start = decoding_cache(model.config, new_kv, prompts.lengths, group_size=2, size=4)
  _, new_kv_of_tokens = step(start, 0)
  cache = advanced(decoding_cache(model.config, new_kv, prompts.lengths, group_size=2, size=4,
                                  cache_dtype=dtype), new_kv_of_tokens)
  floats = dataclasses.replace(cache, prefix=tuple(map(as_floats, cache.prefix)),
                               suffix=tuple(map(as_floats, cache.suffix)))
  got, _ = step(cache, 1)
  want, _ = step(floats, 1)
  np.testing.assert_allclose(got, want, atol=2e-5)
  unrounded, _ = step(advanced(start, new_kv_of_tokens), 1)
  assert np.max(np.abs(got - unrounded)) > 1e-3


def test_rollouts_do_not_depend_on_slots_and_begin_with_what_prompts_see_unrounded(tiny, prompts):
  def sample(**settings):
    return Sampler(tiny.model, group_size=2, max_new_tokens=5, stop_ids=(3, 8), chunk=2,
                   **settings)(tiny.params, prompts, 0)
  together, in_slots = sample(cache_dtype='int8'), sample(cache_dtype='int8', slots=4)
  for field in ('tokens', 'behaviour_logprobs'):
    np.testing.assert_array_equal(getattr(in_slots, field) * together.mask,
                                  getattr(together, field) * together.mask)
  plain = sample()
  difference = np.abs(plain.behaviour_logprobs - together.behaviour_logprobs)
  assert not difference[:, 0].any() and np.max(difference[:, 1]) > 1e-4
