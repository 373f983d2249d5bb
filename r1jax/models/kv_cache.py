"""The cache of keys and values: one prefix per prompt, one growing suffix per completion."""
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.attention import KeyValue
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding

# Fields of a KeyValue -> their axis of positions.
SUFFIX_AXES = {'keys': -1, 'values': -2}


@pytree_dataclass
class Cache:
  """Keys and values of earlier tokens; opaque outside `models/`.

  `prefix` belongs to the B prompts: it is never written, and never copied per completion. `suffix`
  belongs to the N completions, a multiple of B.
  """
  prefix: tuple[KeyValue, ...]              # a KeyValue per stack of layers, leaves [L, B, ...]
  prefix_mask: jax.Array                    # [B, P] bool: which prompt tokens are real
  suffix: tuple[KeyValue, ...] | None = None  # leaves [L, N, ...]; None: no room made yet
  length: jax.Array | None = None           # int32 scalar: tokens of each completion in `suffix`


def as_prefix(new_kv: tuple[KeyValue, ...], lengths: jax.Array) -> Cache:
  """The cache that the completions of some prompts share.

  Args:
    new_kv: what `Model.apply` returned for the prompts, padded on the right.
    lengths: [B] int, real tokens of each prompt.
  """
  size = new_kv[0].keys.shape[-1]
  return Cache(_constrain(new_kv), jnp.arange(size) < lengths[:, None])


def with_suffix(
    cache: Cache, num_rows: int, size: int, room: Callable[..., jax.Array] | None = None) -> Cache:
  """A cache with room for `size` tokens of each completion; tokens already in it are kept.

  Args:
    cache: a cache with a smaller suffix, or none.
    num_rows: N, the number of completions.
    size: tokens per completion.
    room: `suffix_room`, or a compiled version of it; called once for each array of the suffix.
  """
  def grow(i: int, field: str) -> jax.Array:
    old = None if cache.suffix is None else getattr(cache.suffix[i], field)
    return (room or suffix_room)(
        old, getattr(cache.prefix[i], field), field=field, num_rows=num_rows, size=size)

  suffix = tuple(KeyValue(**{field: grow(i, field) for field in SUFFIX_AXES})
                 for i in range(len(cache.prefix)))
  length = jnp.int32(0) if cache.length is None else cache.length
  return dataclasses.replace(cache, suffix=suffix, length=length)


def suffix_room(
    old: jax.Array | None, prefix: jax.Array, *, field: str, num_rows: int, size: int) -> jax.Array:
  """One array of a suffix, zeros after the tokens of `old`.

  Args:
    old: the array of a smaller suffix, which the result begins with; None where there is none.
    prefix: the same array of the prefix, [L, B, ...]; it gives the other axes and the dtype.
    field: 'keys' or 'values'.
    num_rows: N, the number of completions.
    size: tokens per completion.
  """
  shape = list(prefix.shape)
  shape[1], shape[SUFFIX_AXES[field]] = num_rows, size
  new = jnp.zeros(shape, prefix.dtype)
  if old is not None:
    new = jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)
  return _constrain(new)


def append(cache: Cache, new_kv: tuple[KeyValue, ...]) -> Cache:
  """The cache with one more token of each completion, written at `cache.length`.

  Args:
    cache: with a suffix that has room for the token.
    new_kv: what `Model.apply` returned for one token of each completion.
  """
  assert cache.suffix is not None and cache.length is not None
  at = cache.length

  def write(old: KeyValue, new: KeyValue, field: str) -> jax.Array:
    array = getattr(old, field)
    return jax.lax.dynamic_update_slice_in_dim(
        array, getattr(new, field).astype(array.dtype), at, SUFFIX_AXES[field])

  suffix = tuple(KeyValue(write(old, new, 'keys'), write(old, new, 'values'))
                 for old, new in zip(cache.suffix, new_kv))
  return dataclasses.replace(cache, suffix=suffix, length=at + 1)


def _constrain(key_values: Any) -> Any:
  """States how keys and values, leaves [L, N, K, ...], lie on the mesh."""
  return jax.tree.map(lambda x: sharding.constrain(x, None, 'batch', 'kv_heads'), key_values)
