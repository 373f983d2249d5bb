"""The cache of keys and values: of prompts, which their completions share, and of completions.

Token j of a completion is at column j, wherever and whenever its row began; where layers only see a
window, columns are a ring that the window fits into.

Keys and values may be kept in eight bits. They are rounded when they are cached: a token attends to
itself, and the tokens of a prompt to each other while it is prefilled, as they were computed.
"""
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels import decode
from r1jax.kernels.cache_write import write_tokens
from r1jax.models.attention import KeyValue
from r1jax.models.config import ModelConfig
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding


@pytree_dataclass
class Cache:
  """Keys and values of earlier tokens; opaque outside `models/`.

  `prefix` belongs to B prompts and is never copied per completion. Without `suffix`, the rows of a
  prompt are neighbours. With it, rows decode: `shards` × n rows, the first n of each shard's share
  of the M rows of `suffix`, each of any prompt of its shard.
  """
  prefix: tuple[KeyValue, ...]                # a KeyValue per stack of layers, leaves [L, B, ...]
  prefix_lengths: jax.Array                   # [B] int32: real tokens of each prompt
  suffix: tuple[KeyValue, ...] | None = None  # leaves [L, M, ...]
  prompts: jax.Array | None = None            # [shards, n] int32: which of its shard's prompts
  lengths: jax.Array | None = None            # [shards, n] int32: tokens of each row in `suffix`


def as_prefix(new_kv: tuple[KeyValue, ...], lengths: jax.Array) -> Cache:
  """The cache that the completions of some prompts share.

  Args:
    new_kv: what `Model.apply` returned for the prompts, padded on the right.
    lengths: [B] int, real tokens of each prompt.
  """
  return Cache(_constrain(new_kv), lengths.astype(jnp.int32))


def empty(
    config: ModelConfig, new_kv: tuple[KeyValue, ...], *, num_prompts: int, num_rows: int,
    size: int, shards: int, cache_dtype: str = '', ahead: int = 0,
) -> Cache:
  """A cache with room for prompts and completions.

  Args:
    config: the architecture.
    new_kv: what `Model.apply` returns for some prompts, or its shapes.
    num_prompts: B.
    num_rows: M.
    size: tokens of a completion.
    shards: into how many parts prompts and rows are split.
    cache_dtype: one of `quantized.CACHE_DTYPES`; '' for that of `new_kv`.
    ahead: tokens of a row that may be appended and not kept. They have columns of their own, so
      that in a ring they do not replace what the window still shows.
  """
  kinds = [kind for pattern, _ in config.runs for kind in pattern]

  def room(like: KeyValue, rows: int, tokens: int) -> KeyValue:
    def one(x: jax.Array, field: str) -> jax.Array:
      shape = list(x.shape)
      shape[1], shape[decode.columns_axis(field)] = rows, decode.num_columns(tokens)
      return jnp.zeros(shape, x.dtype)
    return _by_field(one, jax.eval_shape(lambda x: x.stored(cache_dtype), like))

  def tokens_of(kind: str) -> int:
    seen = min(size, config.window) if kind == 'local' and config.window else size
    return seen + ahead
  prompt_size = new_kv[0].keys.shape[-1]
  return Cache(
      _constrain(tuple(room(like, num_prompts, prompt_size) for like in new_kv)),
      jnp.ones(num_prompts, jnp.int32),
      _split_rows(tuple(room(like, num_rows, tokens_of(kind))
                        for like, kind in zip(new_kv, kinds, strict=True)), shards),
      jnp.zeros((shards, num_rows // shards), jnp.int32),
      jnp.zeros((shards, num_rows // shards), jnp.int32))


def put_prompts(cache: Cache, new_kv: tuple[KeyValue, ...], lengths: jax.Array,
                places: jax.Array) -> Cache:
  """The cache with more prompts.

  Args:
    cache: from `empty`.
    new_kv: what `Model.apply` returned for the prompts, padded on the right.
    lengths: [shards · q] int, real tokens of each prompt.
    places: [shards, q] int32, where each goes among the prompts of its shard; those that are there
      no longer matter. A place beyond the last leaves its prompt out.
  """
  shards = places.shape[0]

  def put(places, old, new):
    def one(old, new, field):
      axis = decode.columns_axis(field)
      new = jnp.pad(new, [(0, 0)] * (new.ndim + axis) + [(0, old.shape[axis] - new.shape[axis])]
                    + [(0, 0)] * (-1 - axis))
      return old.at[:, places[0]].set(new.astype(old.dtype), mode='drop')
    return _by_field(one, old, _as_in(old, new))
  prefix = tuple(_of_shards(put, shards, places, old, new)
                 for old, new in zip(cache.prefix, new_kv))
  known = cache.prefix_lengths.reshape(shards, -1)
  known = jax.vmap(lambda old, at, new: old.at[at].set(new, mode='drop'))(
      known, places, lengths.reshape(shards, -1).astype(jnp.int32))
  return dataclasses.replace(cache, prefix=prefix, prefix_lengths=known.reshape(-1))


def of_rows(cache: Cache, prompts: jax.Array, dtype: str) -> Cache:
  """The prefix of rows that need not be neighbours of their group: a prompt for each row.

  Args:
    cache: from `empty`.
    prompts: [shards, r] int32, the prompt of each row among those of its shard.
    dtype: of keys and values that are kept in eight bits.
  """
  shards = prompts.shape[0]

  def take(prompts, stack: KeyValue) -> KeyValue:
    return _as_computed(jax.tree.map(lambda x: x[:, prompts[0]], stack), dtype)
  lengths = jnp.take_along_axis(cache.prefix_lengths.reshape(shards, -1), prompts, 1)
  return as_prefix(tuple(_of_shards(take, shards, prompts, stack) for stack in cache.prefix),
                   lengths.reshape(-1))


def put_rows(cache: Cache, new_kv: tuple[KeyValue, ...], lengths: jax.Array,
             rows: jax.Array) -> Cache:
  """The cache with the tokens of some rows, from their first one on, computed in one pass.

  `lengths` of the cache stay.

  Args:
    cache: from `empty`.
    new_kv: what `Model.apply` returned for the rows, padded on the right.
    lengths: [shards, r] int32, tokens of each row.
    rows: [shards, r] int32, where each goes among the rows of its shard; one beyond the last leaves
      its row out.
  """
  assert cache.suffix is not None

  def put(both, old, new):
    lengths, rows = both[0]

    def one(old, new, field):
      axis = decode.columns_axis(field)
      columns = jnp.arange(old.shape[axis])
      # The last token of a row that belongs to each column of the ring.
      tokens = columns + columns.size * ((lengths[:, None] - 1 - columns) // columns.size)
      shape = [1] * new.ndim
      shape[1], shape[axis] = tokens.shape
      tokens = jnp.clip(tokens, 0, new.shape[axis] - 1).reshape(shape)
      chosen = jnp.take_along_axis(new, tokens, axis).astype(old.dtype)

      def put_row(i, x):     # as in `move_rows`
        row = jnp.minimum(rows[i], x.shape[1] - 1)
        here = jax.lax.dynamic_slice_in_dim(x, row, 1, 1)
        there = jax.lax.dynamic_slice_in_dim(chosen, i, 1, 1)
        return jax.lax.dynamic_update_slice_in_dim(
            x, jnp.where(rows[i] < x.shape[1], there, here), row, 1)
      return jax.lax.fori_loop(0, rows.size, put_row, old)
    return _by_field(one, old, _as_in(old, new))
  both = jnp.stack([lengths, rows], 1)
  return dataclasses.replace(cache, suffix=tuple(
      _of_shards(put, rows.shape[0], both, old, new)
      for old, new in zip(cache.suffix, new_kv)))


def move_rows(cache: Cache, sources: jax.Array, targets: jax.Array) -> Cache:
  """The cache with what rows of `suffix` hold copied to other rows of their shards.

  Args:
    cache: from `empty`; its `prompts` and `lengths` stay.
    sources: [shards, m] int32, rows among those of their shard.
    targets: [shards, m] int32; one beyond the last row copies nothing.
  """
  assert cache.suffix is not None

  def move(both, stack):
    def move_row(i, x):     # one after another: a scatter of rows copies the stack on a TPU
      source, target = both[0, :, i]
      row = jax.lax.dynamic_slice_in_dim(x, source, 1, 1)
      target = jnp.where(target < x.shape[1], target, source)
      return jax.lax.dynamic_update_slice_in_dim(x, row, target, 1)
    return jax.tree.map(
        lambda x: jax.lax.fori_loop(0, both.shape[2], move_row, x), stack)
  both = jnp.stack([sources, targets], 1)
  return dataclasses.replace(cache, suffix=tuple(
      _of_shards(move, sources.shape[0], both, stack) for stack in cache.suffix))


def append(cache: Cache, new_kv: tuple[KeyValue, ...]) -> Cache:
  """The cache with T more tokens of each row that decodes, after those it has.

  `lengths` stay: which of the tokens a row keeps is known to the caller.

  Args:
    cache: with a suffix that has room for the tokens.
    new_kv: what `Model.apply` returned for T tokens of each row.
  """
  assert cache.suffix is not None and cache.lengths is not None

  def write(lengths, old: KeyValue, new: KeyValue) -> KeyValue:
    count, new = new.keys.shape[-1], _as_in(old, new)
    for token in range(count):
      columns = (lengths[0] + token) % old.keys.shape[decode.columns_axis('keys')]

      def one(old, new, field, token=token, columns=columns):
        axis = decode.columns_axis(field)
        column = jax.lax.index_in_dim(new, token, axis, keepdims=False)
        return write_tokens(old, column, columns, axis=axis)
      old = _by_field(one, old, new)
    return old
  shards = cache.lengths.shape[0]
  return dataclasses.replace(cache, suffix=tuple(
      _of_shards(write, shards, cache.lengths, old, new)
      for old, new in zip(cache.suffix, new_kv)))


def _of_shards(function, shards: int, by_shard: jax.Array, *stacks: Any) -> Any:
  """Applies function(by_shard [1, ...], stacks) to each shard's own part.

  Args:
    function: returns a tree like the first of `stacks`.
    shards: how many.
    by_shard: [shards, ...].
    *stacks: KeyValues, leaves [L, rows, K, ...], rows and heads split as everywhere.
  """
  if not sharding.is_multi_device():
    return function(by_shard, *stacks)
  mesh = jax.sharding.get_abstract_mesh()
  heads = stacks[0].keys.shape[2]
  rows, split = sharding.spec_that_divides(mesh, (shards, heads), ('batch', 'kv_heads'))
  stacked = P(None, rows, split)
  return jax.shard_map(function, mesh=mesh, check_vma=False,
                       in_specs=(P(rows), *[stacked] * len(stacks)), out_specs=stacked)(
      by_shard, *stacks)


def _as_in(cached: KeyValue, new: KeyValue) -> KeyValue:
  """New keys and values as `cached` keeps its own."""
  return new.stored('' if cached.key_scales is None else cached.keys.dtype)


def _as_computed(cached: KeyValue, dtype: str) -> KeyValue:
  """Cached keys and values as `Model.apply` takes a prefix; `dtype` is of those in eight bits."""
  keys, values = cached.keys, cached.values
  if decode.columns_axis('keys') != -1:
    keys, values = keys.swapaxes(-1, -2), values.swapaxes(-1, -2)
  if cached.key_scales is None or cached.value_scales is None:
    return KeyValue(keys, values)
  return KeyValue((keys * cached.key_scales[..., None, :]).astype(dtype),
                  (values * cached.value_scales[..., None]).astype(dtype))


def _by_field(function: Callable[..., jax.Array], *key_values: KeyValue) -> KeyValue:
  """A KeyValue of function(arrays of a field, its name), for the fields that there are."""
  return KeyValue(**{
      name: function(*(getattr(one, name) for one in key_values), name)
      for name in KeyValue.__dataclass_fields__ if getattr(key_values[0], name) is not None})


def _constrain(key_values: Any) -> Any:
  """States how keys and values, leaves [L, N, K, ...], lie on the mesh."""
  return jax.tree.map(lambda x: sharding.constrain(x, None, 'batch', 'kv_heads'), key_values)


def _split_rows(key_values: Any, shards: int) -> Any:
  """As `_constrain`, where N is split into `shards`, even if the mesh could split it into more."""
  def one(x):
    by_shard = x.reshape(x.shape[0], shards, -1, *x.shape[2:])
    return sharding.constrain(by_shard, None, 'batch', None, 'kv_heads').reshape(x.shape)
  return jax.tree.map(one, key_values)


def key_sets(config: ModelConfig, cache: Cache, kind: str, stack: int, *,
             tokens: int = 1) -> tuple[decode.KeySet, ...]:
  """What rows that decode read of prompts and of their own tokens, in a stack of layers.

  Args:
    config: the architecture.
    cache: with a suffix.
    kind: of the layers.
    stack: their number among the stacks.
    tokens: T that each row decodes at once.

  Returns:
    Of N·T tokens, a row's together, as if each were a row. With T above 1 the last set is that of
    the tokens at hand, [1, N, K, ·, T], whose keys and values attention puts in.
  """
  assert cache.suffix is not None and cache.prompts is not None and cache.lengths is not None
  shards, num_rows = cache.prompts.shape
  in_prompt = jnp.take_along_axis(
      cache.prefix_lengths.reshape(shards, -1), cache.prompts, 1).reshape(-1)
  in_prompt, prompts, own = (jnp.repeat(x, tokens) for x in (
      in_prompt, cache.prompts.reshape(-1), cache.lengths.reshape(-1)))
  at_hand = jnp.tile(jnp.arange(tokens, dtype=jnp.int32), shards * num_rows)
  first, seen, near = jnp.zeros_like(own), own, at_hand
  if kind == 'local' and config.window is not None:
    first = jnp.clip(in_prompt + own + at_hand - config.window + 1, 0, in_prompt)
    near = jnp.minimum(at_hand, config.window - 1)
    seen = jnp.minimum(own, config.window - 1 - near)
  prefix, suffix = cache.prefix[stack], cache.suffix[stack]
  begin = (own - seen) % suffix.keys.shape[decode.columns_axis('keys')]

  def key_set(like: KeyValue, owners, firsts, counts):
    return decode.KeySet(like.keys, like.values, owners, firsts, counts,
                         like.key_scales, like.value_scales)
  of_prompts = key_set(prefix, prompts, first, in_prompt - first)
  if tokens == 1:
    return of_prompts, key_set(suffix, None, begin, seen)
  rows = jnp.tile(jnp.repeat(jnp.arange(num_rows, dtype=jnp.int32), tokens), shards)

  def empty_array(x, field):
    shape = [1, shards * num_rows, *x.shape[2:]]
    shape[decode.columns_axis(field)] = tokens
    return jnp.zeros(shape, x.dtype)
  return (of_prompts, key_set(suffix, rows, begin, seen),
          key_set(_by_field(empty_array, suffix), rows, at_hand - near, near))
