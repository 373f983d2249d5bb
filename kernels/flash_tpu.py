"""`flash_attention` as Pallas kernels for TPU.

Scores lie as [keys, queries] of a block, so that sums over keys, and what there is one of for each
query, lie along lanes. Results that come out turned ([E, T], [D, T]) are turned back by XLA. Blocks
before the first and after the last in which anybody may see anybody (`seen_range`, prefetched as
scalars) are neither fetched nor computed.
"""
import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from r1jax.kernels.blockwise import LOWEST, NEVER
from r1jax.kernels.marks import Marks, blocks_seen, padded, seen_range, sees

_LARGEST = 512     # tokens of a block
_LANES = 128       # a block is a multiple of them
_MARK_ROWS = 8     # a tile's


def forward(queries, keys, values, query_marks, key_marks, *, window, interpret=False):
  """As `flash_attention`; `interpret` runs the kernel on any machine."""
  (n, t, k, r, d), e = queries.shape, values.shape[-1]
  row, column = _side(query_marks, queries=True), _side(key_marks, queries=False)
  first, end = seen_range(blocks_seen(row.marks, column.marks, window))
  pairs, moved, _ = _work(queries, keys, values, query_marks, row, column)
  at_query = lambda n, k, head, i, j, *_: (n, k * r + head, i)
  at_key = lambda n, k, head, i, j, first, end: (n, k, _clip(n, i, j, first, end))
  of_query, of_key = _Specs(row.size, at_query), _Specs(column.size, at_key)
  out, log_total = pl.pallas_call(
      functools.partial(_forward_kernel, sees=_seer(query_marks, window)),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(n, k, r, row.count, column.count),
          in_specs=[of_query.tokens(d), of_key.tokens(d), of_key.tokens(e),
                    of_query.marks(), of_key.marks()],
          out_specs=[of_query.turned(e), of_query.turned(1)],
          scratch_shapes=[pltpu.VMEM((width, row.size), jnp.float32) for width in (1, 1, e)]),
      out_shape=[jax.ShapeDtypeStruct((n, k * r, e, row.length), queries.dtype),
                 jax.ShapeDtypeStruct((n, k * r, 1, row.length), jnp.float32)],
      interpret=interpret, **_static(pairs, d + e, moved, inner=1),
  )(first, end, row.heads(queries), column.heads(keys), column.heads(values), row.rows, column.rows)
  whole = lambda x: jnp.transpose(x[..., :t].reshape(n, k, r, -1, t), (0, 4, 1, 2, 3))
  return whole(out), whole(log_total)[..., 0]


def _forward_kernel(first, end, queries, keys, values, query_marks, key_marks, out, log_total,
                    largest, total, sums, *, sees):
  j = pl.program_id(4)

  @pl.when(j == 0)
  def _():
    largest[...] = jnp.full_like(largest, LOWEST)
    total[...] = jnp.zeros_like(total)
    sums[...] = jnp.zeros_like(sums)

  @pl.when(_inside(pl.program_id(3), j, first, end))
  def _():
    scores = _scores(queries, keys, query_marks, key_marks, sees)
    larger = jnp.maximum(largest[...], jnp.max(scores, 0, keepdims=True))
    weights = jnp.exp(scores - larger)
    shrink = jnp.exp(largest[...] - larger)
    total[...] = total[...] * shrink + jnp.sum(weights, 0, keepdims=True)
    sums[...] = sums[...] * shrink + _dot(values[0, 0], weights.astype(values.dtype), 0, 0)
    largest[...] = larger

  @pl.when(j == pl.num_programs(4) - 1)
  def _():
    some = total[...] > 0
    safe = jnp.where(some, total[...], 1)
    out[0, 0] = (sums[...] / safe).astype(out.dtype)
    log_total[0, 0] = jnp.where(some, largest[...] + jnp.log(safe), NEVER)


def backward(
    queries, keys, values, query_marks, key_marks, log_total, out_slope, drop, *, window,
    interpret=False):
  """As `blockwise.backward`."""
  (n, t, k, r, d), s, e = queries.shape, keys.shape[1], values.shape[-1]
  row, column = _side(query_marks, queries=True), _side(key_marks, queries=False)
  seen = blocks_seen(row.marks, column.marks, window)
  lanes = lambda x: row.heads(x[..., None]).swapaxes(2, 3)
  operands = (row.heads(queries), column.heads(keys), column.heads(values), row.rows, column.rows,
              row.heads(out_slope.astype(queries.dtype)), lanes(log_total), lanes(drop))
  in_specs = lambda of_query, of_key: [
      of_query.tokens(d), of_key.tokens(d), of_key.tokens(e), of_query.marks(), of_key.marks(),
      of_query.tokens(e), of_query.turned(1), of_query.turned(1)]
  pairs, by_query, by_key = _work(queries, keys, values, query_marks, row, column)

  at_query = lambda n, k, head, i, j, *_: (n, k * r + head, i)
  at_key = lambda n, k, head, i, j, first, end: (n, k, _clip(n, i, j, first, end))
  of_query, of_key = _Specs(row.size, at_query), _Specs(column.size, at_key)
  d_queries = pl.pallas_call(
      functools.partial(_queries_kernel, sees=_seer(query_marks, window)),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(n, k, r, row.count, column.count),
          in_specs=in_specs(of_query, of_key), out_specs=of_query.turned(d),
          scratch_shapes=[pltpu.VMEM((d, row.size), jnp.float32)]),
      out_shape=jax.ShapeDtypeStruct((n, k * r, d, row.length), queries.dtype),
      interpret=interpret, **_static(pairs, 2 * d + e, by_query, inner=1),
  )(*seen_range(seen), *operands)

  at_key = lambda n, k, j, head, i, *_: (n, k, j)
  at_query = lambda n, k, j, head, i, first, end: (
      n, k * r + head, _clip(n, j, i, first, end))
  of_query, of_key = _Specs(row.size, at_query), _Specs(column.size, at_key)
  d_keys, d_values = pl.pallas_call(
      functools.partial(_keys_kernel, sees=_seer(query_marks, window)),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(n, k, column.count, r, row.count),
          in_specs=in_specs(of_query, of_key), out_specs=[of_key.tokens(d), of_key.tokens(e)],
          scratch_shapes=[pltpu.VMEM((column.size, width), jnp.float32) for width in (d, e)]),
      out_shape=[jax.ShapeDtypeStruct((n, k, column.length, d), keys.dtype),
                 jax.ShapeDtypeStruct((n, k, column.length, e), values.dtype)],
      interpret=interpret, **_static(pairs, 2 * (d + e), by_key, inner=2),
  )(*seen_range(seen.swapaxes(1, 2)), *operands)
  d_queries = jnp.transpose(d_queries[..., :t].reshape(n, k, r, d, t), (0, 4, 1, 2, 3))
  return d_queries, d_keys[:, :, :s].swapaxes(1, 2), d_values[:, :, :s].swapaxes(1, 2)


def _queries_kernel(first, end, queries, keys, values, query_marks, key_marks, out_slope, log_total,
                    drop, d_queries, sums, *, sees):
  j = pl.program_id(4)

  @pl.when(j == 0)
  def _():
    sums[...] = jnp.zeros_like(sums)

  @pl.when(_inside(pl.program_id(3), j, first, end))
  def _():
    scores = _scores(queries, keys, query_marks, key_marks, sees)
    _, d_scores = _slopes(scores, values, out_slope, log_total, drop)
    sums[...] += _dot(keys[0, 0], d_scores.astype(keys.dtype), 0, 0)

  @pl.when(j == pl.num_programs(4) - 1)
  def _():
    d_queries[0, 0] = sums[...].astype(d_queries.dtype)


def _keys_kernel(first, end, queries, keys, values, query_marks, key_marks, out_slope, log_total,
                 drop, d_keys, d_values, key_sums, value_sums, *, sees):
  head, i = pl.program_id(3), pl.program_id(4)

  @pl.when((head == 0) & (i == 0))
  def _():
    key_sums[...] = jnp.zeros_like(key_sums)
    value_sums[...] = jnp.zeros_like(value_sums)

  @pl.when(_inside(pl.program_id(2), i, first, end))
  def _():
    scores = _scores(queries, keys, query_marks, key_marks, sees)
    weights, d_scores = _slopes(scores, values, out_slope, log_total, drop)
    value_sums[...] += _dot(weights.astype(out_slope.dtype), out_slope[0, 0], 1, 0)
    key_sums[...] += _dot(d_scores.astype(queries.dtype), queries[0, 0], 1, 0)

  @pl.when((head == pl.num_programs(3) - 1) & (i == pl.num_programs(4) - 1))
  def _():
    d_keys[0, 0] = key_sums[...].astype(d_keys.dtype)
    d_values[0, 0] = value_sums[...].astype(d_values.dtype)


def _scores(queries, keys, query_marks, key_marks, sees):
  """[keys, queries] of a block."""
  seen = sees(query_marks[0], key_marks[0].T)
  return jnp.where(seen, _dot(keys[0, 0], queries[0, 0], 1, 1), NEVER)


def _slopes(scores, values, out_slope, log_total, drop):
  """(weights, slopes of the scores), both [keys, queries]."""
  weights = jnp.exp(scores - log_total[0, 0])
  return weights, weights * (_dot(values[0, 0], out_slope[0, 0], 1, 1) - drop[0, 0])


def _dot(a, b, a_axis, b_axis):
  return jax.lax.dot_general(
      a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


def _seer(query_marks, window):
  """`sees` of marks as the kernels read them: [rows, queries] and [keys, rows]."""
  given = [x is not None for x in query_marks]

  def of_block(queries, keys):
    return sees(Marks(*(queries[i:i + 1] if has else None for i, has in enumerate(given))),
                Marks(*(keys[:, i:i + 1] if has else None for i, has in enumerate(given))), window)
  return of_block


class _Side(NamedTuple):
  """Queries or keys, padded to whole blocks."""
  size: int            # of a block
  marks: Marks         # [N, blocks, size]
  rows: jax.Array      # [N, _MARK_ROWS, blocks · size]

  @property
  def count(self):
    return self.marks.segments.shape[1]

  @property
  def length(self):
    return self.count * self.size

  def heads(self, x):
    """[N, T, K, (R,) D] -> [N, K (· R), blocks · size, D]."""
    n, t, d = *x.shape[:2], x.shape[-1]
    x = x.reshape(n, t, -1, d).swapaxes(1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, self.length - t), (0, 0)))


def _side(marks, *, queries):
  n, t = marks.segments.shape
  size = min(-(-t // _LANES) * _LANES, _LARGEST)
  marks = padded(marks, -t % size, queries=queries)
  rows = jnp.stack([jnp.zeros_like(marks.segments) if x is None else x for x in marks], 1)
  rows = jnp.pad(rows, ((0, 0), (0, _MARK_ROWS - len(marks)), (0, 0)))
  return _Side(size, jax.tree.map(lambda x: x.reshape(n, -1, size), marks), rows)


class _Specs(NamedTuple):
  """Blocks of one side's arrays; `at` gives (row, head, block) from the grid's place."""
  size: int
  at: object

  def tokens(self, width):
    return pl.BlockSpec((1, 1, self.size, width), lambda *place: (*self.at(*place), 0))

  def turned(self, width):
    def at(*place):
      n, head, block = self.at(*place)
      return n, head, 0, block
    return pl.BlockSpec((1, 1, width, self.size), at)

  def marks(self):
    def at(*place):
      n, _, block = self.at(*place)
      return n, 0, block
    return pl.BlockSpec((1, _MARK_ROWS, self.size), at)


def _clip(n, i, j, first, end):
  """Block j, or the nearest one that is in the range of row n, block i."""
  return jnp.clip(j, first[n, i], jnp.maximum(end[n, i] - 1, first[n, i]))


def _inside(i, j, first, end):
  n = pl.program_id(0)
  return (first[n, i] <= j) & (j < end[n, i])


def _static(pairs, widths, moved, inner):
  """What XLA and Mosaic are told: `pairs` of query and key, Σ of the products' widths, bytes."""
  return dict(
      cost_estimate=pl.CostEstimate(
          flops=2 * pairs * widths, transcendentals=pairs, bytes_accessed=moved),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel',) * (5 - inner) + ('arbitrary',) * inner))


def _work(queries, keys, values, query_marks, row, column):
  """(pairs of query and key, bytes moved where keys are the inner axis, where queries are)."""
  n, t, k, r, _ = queries.shape
  share = 1 if query_marks.places is None else 2      # of causal attention half of the blocks
  of_queries, of_keys = (
      sum(x.size * x.dtype.itemsize for x in side) for side in ((queries, queries), (keys, values)))
  return (n * k * r * t * keys.shape[1] // share,
          of_queries + of_keys * r * row.count // share,
          2 * of_keys + of_queries * column.count // share)
