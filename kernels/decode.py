"""Attention of one token per row to cached keys and values, of which each row reads its own.

The cache is a stack over layers that is read where it lies: nothing of it is copied but the block
at hand. Softmax and sums are float32 and go block by block, beginning with the token itself. A
block beyond what a row has changes nothing of that row, bit for bit, so a row's result depends
neither on its place nor on the rows beside it.

On a CPU, rows are taken in tiles, and the blocks of a tile end where its longest row does. On a GPU
a loop whose length depends on the data would wait for the host at each step, so there the one block
has all columns. On a TPU this is a Pallas kernel (`decode_tpu`).
"""
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels import decode_steps
from r1jax.kernels.decode_steps import Steps
from r1jax.runtime import sharding

MASKED_SCORE = -1e30   # finite, so that a fully masked block stays finite
TILE = 8               # rows, at most
BLOCK = 64             # columns
FEW_QUERIES = 8        # per key; up to so many a CPU reduces faster than it multiplies matrices


class KeySet(NamedTuple):
  """Cached keys and values that rows read while they decode, stacked over L layers.

  Row n reads `counts[n]` columns from `firsts[n]` on; after the last column comes the first. S is
  such as `num_columns` returns. With L = 1 all layers read the same. Scales multiply the keys and
  values of a column.
  """
  keys: jax.Array            # [L, M, K, D, S]; on a GPU [L, M, K, S, D]
  values: jax.Array          # [L, M, K, S, E]; on a GPU [L, M, K, E, S]
  owners: jax.Array | None   # [N] int32: which of the M a row reads; None: row n reads the n-th
  firsts: jax.Array          # [N] int32
  counts: jax.Array          # [N] int32, at most S
  key_scales: jax.Array | None = None     # [L, M, K, S] float32, of int8 or float8 keys
  value_scales: jax.Array | None = None


class _Sums(NamedTuple):
  """What online softmax keeps of the columns so far."""
  largest: jax.Array    # [N, K, R] the largest score
  total: jax.Array      # [N, K, R] Σ exp(score − largest)
  weighted: jax.Array   # [N, K, R, E] Σ exp(score − largest)·value


def num_columns(size: int) -> int:
  """The least number of columns, at least `size`, that a cache may have."""
  if sharding.platform() == 'tpu':
    return decode_steps.padded_columns(size)
  return size if size <= BLOCK else -(-size // BLOCK) * BLOCK


def make_steps(sets: Sequence[KeySet], *, shards: int = 1) -> tuple[Steps, ...] | None:
  """What `decode_attention` does in each layer alike: on TPU, which blocks its kernel reads.

  XLA does not move this out of a loop over layers, so call it before the loop.

  Args:
    sets: what each row has cached.
    shards: as for `decode_attention`.
  """
  if sharding.platform() != 'tpu':
    return None
  sets = tuple(sets)
  if not sharding.is_multi_device():
    return _make_steps(sets)
  mesh, rows, heads = _split(shards, sets[0].keys.shape[2])
  return jax.shard_map(_make_steps, mesh=mesh, check_vma=False, out_specs=P(rows),
                       in_specs=(_specs_of_sets(sets, rows, heads),))(sets)


def _make_steps(sets: tuple[KeySet, ...]) -> tuple[Steps, ...]:
  return decode_steps.make_steps(len(sets[0].counts), sets)


def decode_attention(
    queries: jax.Array, own_keys: jax.Array, own_values: jax.Array, layer: jax.Array,
    sets: Sequence[KeySet], *, value_queries: jax.Array | None = None,
    steps: tuple[Steps, ...] | None = None, shards: int = 1,
) -> jax.Array:
  """softmax(q·k)·v over the token itself and all sets together.

  Args:
    queries: [N, K, R, D], scaled.
    own_keys: [N, K, D] of the same tokens.
    own_values: [N, K, E] likewise.
    layer: int32 scalar, the layer of the stacks.
    sets: what each row has cached.
    value_queries: [N, K, R, E]; scores are then q·k + value_query·v, as in latent attention.
    steps: what `make_steps` returned for these sets; None: it is called here.
    shards: on a mesh, into how many the rows are split. `owners` count within a shard.

  Returns:
    [N, K, R, E] in the queries' dtype.
  """
  operands, sets = (queries, own_keys, own_values, value_queries), tuple(sets)
  if not sharding.is_multi_device():
    return _attend(layer, operands, sets, steps)
  mesh, rows, heads = _split(shards, queries.shape[1])
  by_row = P(rows, heads)
  return jax.shard_map(
      _attend, mesh=mesh, check_vma=False, out_specs=by_row,
      in_specs=(P(), by_row, _specs_of_sets(sets, rows, heads), P(rows)))(
          layer, operands, sets, steps)


def _split(shards: int, num_heads: int):
  """The mesh, and its axes that split rows and heads."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh, *sharding.spec_that_divides(mesh, (shards, num_heads), ('batch', 'kv_heads'))


def _specs_of_sets(sets: tuple[KeySet, ...], rows, heads):
  return jax.tree.map(lambda x: P(rows) if x.ndim == 1 else P(None, rows, heads), sets)


def _attend(layer, operands, sets: tuple[KeySet, ...], steps):
  queries, own_keys, own_values, value_queries = operands
  if sharding.platform() == 'tpu':
    from r1jax.kernels import decode_tpu  # imports Pallas, which only TPUs need
    return decode_tpu.decode_attention(
        queries, own_keys, own_values, layer, sets, value_queries=value_queries, steps=steps)
  dtype = queries.dtype
  as_float = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
  own = as_float(operands)
  if sharding.platform() == 'gpu':
    return _attend_whole(layer, own, sets).astype(dtype)
  num_rows = queries.shape[0]
  tile = max(size for size in range(1, TILE + 1) if num_rows % size == 0)

  def attend_tile(i, out):
    start = i * tile
    cut = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, tile), own)
    found = _attend_rows(layer, start, cut, [_cut(one, start, tile) for one in sets])
    return jax.lax.dynamic_update_slice_in_dim(out, found.astype(dtype), start, 0)
  shape = *queries.shape[:3], own_values.shape[-1]
  return jax.lax.fori_loop(0, num_rows // tile, attend_tile, jnp.zeros(shape, dtype))


def _cut(one: KeySet, start, tile: int) -> KeySet:
  """A set as the rows of a tile read it."""
  fields = {name: jax.lax.dynamic_slice_in_dim(getattr(one, name), start, tile)
            for name in ('owners', 'firsts', 'counts') if getattr(one, name) is not None}
  return one._replace(**fields)


def columns_axis(field: str) -> int:
  """The axis of columns of an array of a KeySet, from the end.

  A GPU's compiler sums along the last axis where an array lies in its stack; before it sums along
  another it copies a layer.
  """
  of_keys, of_values = (-2, -1) if sharding.platform() == 'gpu' else (-1, -2)
  return {'keys': of_keys, 'values': of_values}.get(field, -1)


def _attend_whole(layer, own, sets: Sequence[KeySet]):
  """All rows and all columns at once, as a GPU takes them; `own` are of the rows."""
  queries, _, _, value_queries = own
  sums = _begin(*own)
  for one in sets:
    rows = jnp.arange(len(queries)) if one.owners is None else one.owners
    at = jnp.minimum(layer, len(one.keys) - 1)
    keys, values = (x[at, rows].astype(jnp.float32) for x in (one.keys, one.values))
    of_keys, of_values = (1 if x is None else x[at, rows][:, :, None].astype(jnp.float32)
                          for x in (one.key_scales, one.value_scales))
    scores = jnp.sum(queries[:, :, :, None] * keys[:, :, None], -1) * of_keys
    if value_queries is not None:
      scores += jnp.einsum('nkre,nkec->nkrc', value_queries, values) * of_values
    scores = _visible(one, jnp.arange(keys.shape[-2]), keys.shape[-2], scores)
    largest = jnp.maximum(sums.largest, jnp.max(scores, -1))
    kept, weights = jnp.exp(sums.largest - largest), jnp.exp(scores - largest[..., None])
    # Behind a barrier, values are read where they lie; else they are copied before.
    weights = jax.lax.optimization_barrier(weights)
    weighed = jnp.sum((weights * of_values)[:, :, :, None] * values[:, :, None], -1)
    sums = _Sums(largest, sums.total * kept + jnp.sum(weights, -1),
                 sums.weighted * kept[..., None] + weighed)
  return sums.weighted / sums.total[..., None]


def _begin(queries, own_keys, own_values, value_queries) -> _Sums:
  """The sums of the tokens themselves."""
  score = jnp.sum(queries * own_keys[:, :, None], -1)
  if value_queries is not None:
    score += jnp.sum(value_queries * own_values[:, :, None], -1)
  weighted = jnp.broadcast_to(own_values[:, :, None], (*score.shape, own_values.shape[-1]))
  return _Sums(score, jnp.ones_like(score), weighted)


def _visible(one: KeySet, columns, count: int, scores):
  """Scores [N, K, R, columns], those of columns that a row does not read masked."""
  seen = (columns - one.firsts[:, None]) % count < one.counts[:, None]
  return jnp.where(seen[:, None, None], scores, MASKED_SCORE)


def _attend_rows(layer, start, own, sets: Sequence[KeySet]):
  """The rows from `start` on; `own` and all of the sets but the stacks are of these rows."""
  queries, _, _, value_queries = own
  sums = _begin(*own)
  for one in sets:
    columns = one.keys.shape[-1]
    width = min(BLOCK, columns)
    add = functools.partial(_add_block, layer, start, queries, value_queries, one, width)
    if width == columns:
      sums = add(0, sums)
    else:
      first, last = _bounds(one, columns, width)
      sums = jax.lax.fori_loop(first, last, add, sums)
  return sums.weighted / sums.total[..., None]


def _bounds(one: KeySet, columns: int, width: int):
  """The first block that a row reads, and the one after the last."""
  ends = one.firsts + one.counts
  wraps, reads = ends > columns, one.counts > 0
  first = jnp.min(jnp.where(wraps, 0, jnp.where(reads, one.firsts, columns)))
  last = jnp.max(jnp.where(wraps, columns, jnp.where(reads, ends, 0)))
  return first // width, -(-last // width)


def _add_block(layer, start, queries, value_queries, one: KeySet, width: int, block, sums: _Sums):
  keys, values, *scales = _read(layer, start, queries.shape[0], one, width, block)
  of_keys, of_values = (1 if x is None else x[:, :, None] for x in scales)
  scores = _scores(queries, keys) * of_keys
  if value_queries is not None:
    scores += _scores(value_queries, jnp.swapaxes(values, -1, -2)) * of_values
  columns = block * width + jnp.arange(width)
  scores = _visible(one, columns, one.keys.shape[-1], scores)
  largest = jnp.maximum(sums.largest, jnp.max(scores, -1))
  kept, weights = jnp.exp(sums.largest - largest), jnp.exp(scores - largest[..., None])
  return _Sums(largest, sums.total * kept + jnp.sum(weights, -1),
               sums.weighted * kept[..., None] + _weigh(weights * of_values, values))


def _read(layer, start, num_rows: int, one: KeySet, width: int, block):
  """Of a block, float32: keys [rows, K, D, width], values [rows, K, width, E] and their scales."""
  stacks = one.keys, one.values, one.key_scales, one.value_scales

  def cut(row, count):
    def of_stack(x, axis):
      begin, sizes = [layer, row] + [0] * (x.ndim - 2), [1, count, *x.shape[2:]]
      begin[axis], sizes[axis] = block * width, width
      return jax.lax.dynamic_slice(x, begin, sizes)[0].astype(jnp.float32)
    return [None if x is None else of_stack(x, axis) for x, axis in zip(stacks, (-1, -2, -1, -1))]
  if one.owners is None:
    return cut(start, num_rows)
  return jax.tree.map(lambda x: x[:, 0], jax.vmap(lambda row: cut(row, 1))(one.owners))


def _scores(queries, keys):
  """[N, K, R, columns] of queries [N, K, R, D] and keys [N, K, D, columns]."""
  if queries.shape[2] <= FEW_QUERIES:
    return jnp.sum(queries[..., None] * keys[:, :, None], -2)
  return jnp.einsum('nkrd,nkdc->nkrc', queries, keys)


def _weigh(weights, values):
  """[N, K, R, E] of weights [N, K, R, columns] and values [N, K, columns, E]."""
  if weights.shape[2] <= FEW_QUERIES:
    return jnp.sum(weights[..., None] * values[:, :, None], -2)
  return jnp.einsum('nkrc,nkce->nkre', weights, values)
