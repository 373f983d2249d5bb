"""Caches of rows that decode, as the sampler makes them."""
import dataclasses

import jax.numpy as jnp

from r1jax.models import kv_cache


def decoding_cache(config, new_kv, lengths, *, group_size, size, cache_dtype='', ahead=0):
  """A cache for `group_size` completions of each prompt, a prompt's together."""
  count = lengths.shape[0]
  cache = kv_cache.empty(config, new_kv, num_prompts=count, num_rows=count * group_size, size=size,
                         shards=1, cache_dtype=cache_dtype, ahead=ahead)
  cache = kv_cache.put_prompts(cache, new_kv, lengths, jnp.arange(count)[None])
  return dataclasses.replace(cache, prompts=jnp.repeat(jnp.arange(count), group_size)[None])


def advanced(cache, new_kv, kept=1):
  """The cache with more tokens of each row, of which it keeps so many."""
  cache = kv_cache.append(cache, new_kv)
  return dataclasses.replace(cache, lengths=cache.lengths + kept)
