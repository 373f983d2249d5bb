"""`flash.flash_attention` as Pallas kernels for TPU.

The scores of a block lie as [keys, queries], so that sums over keys run over sublanes, and arrays
with one number per query lie along lanes. Results that come out transposed ([E, T], [D, T]) are
transposed back by XLA. Blocks outside the range of blocks with a visible pair (`block_range`,
prefetched as scalars) are neither fetched nor computed.
"""
from collections.abc import Callable
import functools
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from r1jax.kernels.attention_ids import (
    AttentionIds,
    block_may_attend,
    block_range,
    may_attend,
    pad,
)
from r1jax.kernels.blockwise import LOWEST_SCORE, MASKED_SCORE

_LARGEST = 512     # tokens of a block: scores of 512 × 512 in float32 take 1 MiB of VMEM
_LANES = 128       # of a TPU's vector registers; a block is a multiple of them
_ID_ROWS = 8       # ids are padded to the 8 sublanes of an int32 tile


def forward(queries, keys, values, query_ids, key_ids, *, window, interpret=False):
  """Computes `flash.flash_attention`; arguments and results as in `blockwise.forward`.

  With `interpret` the kernel runs on any machine, in Pallas' interpreter.
  """
  (n, t, k, r, d), e = queries.shape, values.shape[-1]
  row, column = _side(query_ids, queries=True), _side(key_ids, queries=False)
  first, end = block_range(block_may_attend(row.ids, column.ids, window))
  pairs, moved, _ = _work(queries, keys, values, query_ids, row, column)
  of_query, of_key = _keys_innermost(row, column, r)
  out, log_sum_exp = pl.pallas_call(
      functools.partial(_forward_kernel, may_attend=_block_may_attend(query_ids, window)),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(n, k, r, row.num_blocks, column.num_blocks),
          in_specs=[of_query.tokens(d), of_key.tokens(d), of_key.tokens(e),
                    of_query.ids(), of_key.ids()],
          out_specs=[of_query.transposed(e), of_query.transposed(1)],
          scratch_shapes=[pltpu.VMEM((width, row.size), jnp.float32) for width in (1, 1, e)]),
      out_shape=[jax.ShapeDtypeStruct((n, k * r, e, row.length), queries.dtype),
                 jax.ShapeDtypeStruct((n, k * r, 1, row.length), jnp.float32)],
      interpret=interpret, **_compiler_options(pairs, d + e, moved, inner=1),
  )(first, end, row.heads(queries), column.heads(keys), column.heads(values),
    row.id_rows, column.id_rows)

  def from_heads(x):
    return jnp.transpose(x[..., :t].reshape(n, k, r, -1, t), (0, 4, 1, 2, 3))
  return from_heads(out), from_heads(log_sum_exp)[..., 0]


def _forward_kernel(first, end, queries, keys, values, query_ids, key_ids, out, log_sum_exp,
                    largest, total, sums, *, may_attend):
  j = pl.program_id(4)

  @pl.when(j == 0)
  def _():
    largest[...] = jnp.full_like(largest, LOWEST_SCORE)
    total[...] = jnp.zeros_like(total)
    sums[...] = jnp.zeros_like(sums)

  @pl.when(_in_range(pl.program_id(3), j, first, end))
  def _():
    scores = _scores(queries, keys, query_ids, key_ids, may_attend)
    larger = jnp.maximum(largest[...], jnp.max(scores, 0, keepdims=True))
    weights = jnp.exp(scores - larger)
    shrink = jnp.exp(largest[...] - larger)
    total[...] = total[...] * shrink + jnp.sum(weights, 0, keepdims=True)
    sums[...] = sums[...] * shrink + _dot(values[0, 0], weights.astype(values.dtype), 0, 0)
    largest[...] = larger

  @pl.when(j == pl.num_programs(4) - 1)
  def _():
    any_key = total[...] > 0
    safe = jnp.where(any_key, total[...], 1)
    out[0, 0] = (sums[...] / safe).astype(out.dtype)
    log_sum_exp[0, 0] = jnp.where(any_key, largest[...] + jnp.log(safe), MASKED_SCORE)


def backward(
    queries, keys, values, query_ids, key_ids, log_sum_exp, d_out, delta, *, window,
    interpret=False):
  """Computes the gradients of queries, keys and values; arguments as in `blockwise.backward`.

  With `interpret` the kernels run on any machine, in Pallas' interpreter.
  """
  t, s = queries.shape[1], keys.shape[1]
  row, column = _side(query_ids, queries=True), _side(key_ids, queries=False)
  visible = block_may_attend(row.ids, column.ids, window)

  def along_lanes(x):
    return row.heads(x[..., None]).swapaxes(2, 3)
  call = _BackwardCall(
      shapes=(queries.shape, values.shape[-1]), row=row, column=column,
      work=_work(queries, keys, values, query_ids, row, column),
      may_attend=_block_may_attend(query_ids, window), interpret=interpret)
  operands = (row.heads(queries), column.heads(keys), column.heads(values), row.id_rows,
              column.id_rows, row.heads(d_out.astype(queries.dtype)), along_lanes(log_sum_exp),
              along_lanes(delta))
  d_queries = call.queries(*block_range(visible), *operands)
  d_keys, d_values = call.keys(*block_range(visible.swapaxes(1, 2)), *operands)
  n, _, k, r, d = queries.shape
  d_queries = jnp.transpose(d_queries[..., :t].reshape(n, k, r, d, t), (0, 4, 1, 2, 3))
  return d_queries, d_keys[:, :, :s].swapaxes(1, 2), d_values[:, :, :s].swapaxes(1, 2)


class _BackwardCall(NamedTuple):
  """The two kernels of the backward pass, which read the same operands in different orders."""
  shapes: tuple[tuple[int, ...], int]   # of queries [N, T, K, R, D], and E
  row: '_Side'
  column: '_Side'
  work: tuple[int, int, int]            # what `_work` returns
  may_attend: Callable
  interpret: bool

  def queries(self, first, end, *operands):
    """The gradient of queries [N, K·R, D, T]: keys are the innermost axis of the grid."""
    (n, _, k, r, d), e = self.shapes
    row, column, (pairs, moved, _) = self.row, self.column, self.work
    of_query, of_key = _keys_innermost(row, column, r)
    return pl.pallas_call(
        functools.partial(_queries_kernel, may_attend=self.may_attend),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=(n, k, r, row.num_blocks, column.num_blocks),
            in_specs=self._in_specs(of_query, of_key), out_specs=of_query.transposed(d),
            scratch_shapes=[pltpu.VMEM((d, row.size), jnp.float32)]),
        out_shape=jax.ShapeDtypeStruct((n, k * r, d, row.length), operands[0].dtype),
        interpret=self.interpret, **_compiler_options(pairs, 2 * d + e, moved, inner=1),
    )(first, end, *operands)

  def keys(self, first, end, *operands):
    """The gradients of keys and values [N, K, S, ·]: queries are the innermost axis."""
    (n, _, k, r, d), e = self.shapes
    row, column, (pairs, _, moved) = self.row, self.column, self.work
    of_query, of_key = _queries_innermost(row, column, r)
    return pl.pallas_call(
        functools.partial(_keys_kernel, may_attend=self.may_attend),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=(n, k, column.num_blocks, r, row.num_blocks),
            in_specs=self._in_specs(of_query, of_key),
            out_specs=[of_key.tokens(d), of_key.tokens(e)],
            scratch_shapes=[pltpu.VMEM((column.size, width), jnp.float32) for width in (d, e)]),
        out_shape=[jax.ShapeDtypeStruct((n, k, column.length, d), operands[1].dtype),
                   jax.ShapeDtypeStruct((n, k, column.length, e), operands[2].dtype)],
        interpret=self.interpret, **_compiler_options(pairs, 2 * (d + e), moved, inner=2),
    )(first, end, *operands)

  def _in_specs(self, of_query: '_Specs', of_key: '_Specs'):
    (*_, d), e = self.shapes
    return [of_query.tokens(d), of_key.tokens(d), of_key.tokens(e), of_query.ids(), of_key.ids(),
            of_query.tokens(e), of_query.transposed(1), of_query.transposed(1)]


def _queries_kernel(first, end, queries, keys, values, query_ids, key_ids, d_out, log_sum_exp,
                    delta, d_queries, sums, *, may_attend):
  j = pl.program_id(4)

  @pl.when(j == 0)
  def _():
    sums[...] = jnp.zeros_like(sums)

  @pl.when(_in_range(pl.program_id(3), j, first, end))
  def _():
    scores = _scores(queries, keys, query_ids, key_ids, may_attend)
    _, d_scores = _score_gradients(scores, values, d_out, log_sum_exp, delta)
    sums[...] += _dot(keys[0, 0], d_scores.astype(keys.dtype), 0, 0)

  @pl.when(j == pl.num_programs(4) - 1)
  def _():
    d_queries[0, 0] = sums[...].astype(d_queries.dtype)


def _keys_kernel(first, end, queries, keys, values, query_ids, key_ids, d_out, log_sum_exp,
                 delta, d_keys, d_values, key_sums, value_sums, *, may_attend):
  head, i = pl.program_id(3), pl.program_id(4)

  @pl.when((head == 0) & (i == 0))
  def _():
    key_sums[...] = jnp.zeros_like(key_sums)
    value_sums[...] = jnp.zeros_like(value_sums)

  @pl.when(_in_range(pl.program_id(2), i, first, end))
  def _():
    scores = _scores(queries, keys, query_ids, key_ids, may_attend)
    weights, d_scores = _score_gradients(scores, values, d_out, log_sum_exp, delta)
    value_sums[...] += _dot(weights.astype(d_out.dtype), d_out[0, 0], 1, 0)
    key_sums[...] += _dot(d_scores.astype(queries.dtype), queries[0, 0], 1, 0)

  @pl.when((head == pl.num_programs(3) - 1) & (i == pl.num_programs(4) - 1))
  def _():
    d_keys[0, 0] = key_sums[...].astype(d_keys.dtype)
    d_values[0, 0] = value_sums[...].astype(d_values.dtype)


def _scores(queries, keys, query_ids, key_ids, may_attend):
  """[keys, queries] of a block."""
  visible = may_attend(query_ids[0], key_ids[0].T)
  return jnp.where(visible, _dot(keys[0, 0], queries[0, 0], 1, 1), MASKED_SCORE)


def _score_gradients(scores, values, d_out, log_sum_exp, delta):
  """(weights, gradients of the scores), both [keys, queries]."""
  weights = jnp.exp(scores - log_sum_exp[0, 0])
  return weights, weights * (_dot(values[0, 0], d_out[0, 0], 1, 1) - delta[0, 0])


def _dot(a, b, a_axis, b_axis):
  return jax.lax.dot_general(
      a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=jnp.float32)


def _block_may_attend(query_ids, window):
  """`may_attend` for ids as the kernels read them: [id rows, queries] and [keys, id rows]."""
  given = [x is not None for x in query_ids]

  def of_block(queries, keys):
    return may_attend(
        AttentionIds(*(queries[i:i + 1] if has else None for i, has in enumerate(given))),
        AttentionIds(*(keys[:, i:i + 1] if has else None for i, has in enumerate(given))), window)
  return of_block


class _Side(NamedTuple):
  """Queries or keys, padded to whole blocks."""
  size: int              # tokens of a block
  ids: AttentionIds      # [N, blocks, size]
  id_rows: jax.Array     # [N, _ID_ROWS, blocks · size]: the fields of `ids`, one row each

  @property
  def num_blocks(self) -> int:
    """Number of blocks."""
    return self.ids.segment_ids.shape[1]

  @property
  def length(self) -> int:
    """Number of tokens, padding included."""
    return self.num_blocks * self.size

  def heads(self, x):
    """[N, T, K, (R,) D] -> [N, K (· R), blocks · size, D]."""
    n, t, d = x.shape[0], x.shape[1], x.shape[-1]
    x = x.reshape(n, t, -1, d).swapaxes(1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, self.length - t), (0, 0)))


def _side(ids: AttentionIds, *, queries: bool) -> _Side:
  n, t = ids.segment_ids.shape
  size = min(-(-t // _LANES) * _LANES, _LARGEST)
  ids = pad(ids, -t % size, queries=queries)
  rows = jnp.stack([jnp.zeros_like(ids.segment_ids) if x is None else x for x in ids], 1)
  rows = jnp.pad(rows, ((0, 0), (0, _ID_ROWS - len(ids)), (0, 0)))
  return _Side(size, jax.tree.map(lambda x: x.reshape(n, -1, size), ids), rows)


class _Specs(NamedTuple):
  """BlockSpecs of one side's arrays; `at` maps grid indices to (row, head, block)."""
  size: int
  at: Callable[..., tuple[Any, Any, Any]]

  def tokens(self, width):
    """Of arrays [N, heads, tokens, width]."""
    return pl.BlockSpec((1, 1, self.size, width), lambda *place: (*self.at(*place), 0))

  def transposed(self, width):
    """Of arrays [N, heads, width, tokens]."""
    def at(*place):
      n, head, block = self.at(*place)
      return n, head, 0, block
    return pl.BlockSpec((1, 1, width, self.size), at)

  def ids(self):
    """Of `_Side.id_rows`."""
    def at(*place):
      n, _, block = self.at(*place)
      return n, 0, block
    return pl.BlockSpec((1, _ID_ROWS, self.size), at)


def _keys_innermost(row: _Side, column: _Side, r: int) -> tuple[_Specs, _Specs]:
  """Specs of queries and keys on the grid (N, K, R, query blocks, key blocks)."""
  def at_query(n, k, head, i, j, first, end):
    return n, k * r + head, i

  def at_key(n, k, head, i, j, first, end):
    return n, k, _clip(n, i, j, first, end)
  return _Specs(row.size, at_query), _Specs(column.size, at_key)


def _queries_innermost(row: _Side, column: _Side, r: int) -> tuple[_Specs, _Specs]:
  """Specs of queries and keys on the grid (N, K, key blocks, R, query blocks)."""
  def at_query(n, k, j, head, i, first, end):
    return n, k * r + head, _clip(n, j, i, first, end)

  def at_key(n, k, j, head, i, first, end):
    return n, k, j
  return _Specs(row.size, at_query), _Specs(column.size, at_key)


def _clip(n, i, j, first, end):
  """Block j, or the nearest one in the range of row n, block i: no other block is fetched."""
  return jnp.clip(j, first[n, i], jnp.maximum(end[n, i] - 1, first[n, i]))


def _in_range(i, j, first, end):
  n = pl.program_id(0)
  return (first[n, i] <= j) & (j < end[n, i])


def _compiler_options(pairs: int, widths: int, moved: int, inner: int) -> dict[str, Any]:
  """Options of `pallas_call`: a cost estimate for XLA, parallel axes for Mosaic.

  Args:
    pairs: pairs of query and key that are computed.
    widths: sum of the widths of the products of each pair.
    moved: bytes that are fetched.
    inner: number of innermost grid axes that must run in order.
  """
  axes: list[Literal['parallel', 'arbitrary']] = ['parallel'] * (5 - inner)
  axes += ['arbitrary'] * inner
  return dict(
      cost_estimate=pl.CostEstimate(
          flops=2 * pairs * widths, transcendentals=pairs, bytes_accessed=moved),
      compiler_params=pltpu.CompilerParams(dimension_semantics=tuple(axes)))


def _work(queries, keys, values, query_ids, row: _Side, column: _Side) -> tuple[int, int, int]:
  """(pairs of query and key, bytes moved with keys innermost, bytes moved with queries innermost).

  Causal attention is counted as half of all blocks.
  """
  n, t, k, r, _ = queries.shape
  share = 1 if query_ids.order is None else 2
  of_queries, of_keys = (
      sum(x.size * x.dtype.itemsize for x in side) for side in ((queries, queries), (keys, values)))
  return (n * k * r * t * keys.shape[1] // share,
          of_queries + of_keys * r * row.num_blocks // share,
          2 * of_keys + of_queries * column.num_blocks // share)
