"""`decode.decode_attention` as a Pallas kernel for TPU.

The kernel's grid is the list of steps of `decode_steps`. Its length is a grid bound that the device
computes, so a block that nobody reads costs nothing. Rows that share a block are multiplied with it
together.

Blocks are fetched from the stacked arrays in place; the layer is a prefetched scalar. XLA stores
values whose width is not a multiple of 128 with their columns last, and so the kernel reads them.
"""
import functools
import json
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from r1jax.kernels.blockwise import MASKED_SCORE
from r1jax.kernels.decode_cost import DecodeCost, SetCost
from r1jax.kernels.decode_steps import TILE_ROWS, Rows, SetShape, Steps, make_steps, part_size

_LANES = 128              # of a vector register
_SUBLANES = 8             # of a float32 register
_SHARED_QUERIES = 128     # that are multiplied with a shared block at a time
_DEFAULT_VMEM = 12 * 2 ** 20    # bytes that every TPU gives a kernel which does not ask


def decode_attention(
    queries, own_keys, own_values, layer, sets, *, value_queries=None, steps=None, interpret=False):
  """Computes `decode.decode_attention`; arguments and result are its own.

  Args:
    queries: [N, K, R, D], already scaled.
    own_keys: [N, K, D].
    own_values: [N, K, E].
    layer: int32 scalar.
    sets: of KeySet.
    value_queries: [N, K, R, E] or None.
    steps: what `make_steps` returns for these sets; None: it is called here. XLA does not move it
      out of a loop over layers.
    interpret: run on any machine, in Pallas' interpreter.
  """
  shapes = tuple(map(SetShape.of, sets))
  arrays = list(map(_arrays, sets, shapes))
  steps = make_steps(len(queries), sets) if steps is None else steps
  size, begin, outs = part_size(len(queries), shapes), 0, []
  for part in steps:
    rows = slice(begin, begin + size)
    outs.append(_call(
        part, jnp.reshape(layer, 1).astype(jnp.int32),
        [_pad_heads(x[rows]) for x in (queries, value_queries) if x is not None],
        [x[rows].astype(jnp.float32)[:, :, None] for x in (own_keys, own_values)], arrays,
        shapes, interpret))
    begin += size
  return jnp.concatenate(outs)[:, :, :queries.shape[2]]


def _call(steps: Steps, layer, of_queries, of_tokens, arrays, shapes, interpret: bool):
  """The rows of one `Steps`: [N, K, padded R, E]."""
  (n, k, heads, d), e = of_queries[0].shape, of_tokens[1].shape[-1]
  tile = min(TILE_ROWS, n)
  specs = ([_of_tile(tile, x) for x in of_queries], [_of_tile(tile, x) for x in of_tokens],
           [_of_set(i, shape, *of_set) for i, (shape, of_set) in enumerate(zip(shapes, arrays))])
  out = jax.ShapeDtypeStruct((n, k, heads, e), of_queries[0].dtype)
  scratch = [pltpu.VMEM((tile, k, heads, width), jnp.float32) for width in (1, 1, e)]
  cost = _cost(
      n, k * heads * (d + e * len(of_queries)), shapes, arrays, (of_queries, of_tokens, out))
  flops, moved = cost.total()
  return pl.pallas_call(
      functools.partial(_kernel, tile=tile, shapes=shapes, dtype=out.dtype),
      name='decode_attention', metadata={'decode_attention': json.dumps(cost.to_json())},
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=2, grid=(steps.counts.shape[0], jnp.max(steps.counts)),
          in_specs=specs, out_specs=_of_tile(tile, out), scratch_shapes=scratch),
      out_shape=out,
      cost_estimate=pl.CostEstimate(flops=flops, transcendentals=0, bytes_accessed=moved),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel', 'arbitrary'),
          vmem_limit_bytes=_vmem_limit(specs, (of_queries, of_tokens, arrays), tile, out, scratch)),
      interpret=interpret,
  )(steps, layer, of_queries, of_tokens, arrays)


def _pad_heads(x):
  """[N, K, R, D], R padded to whole sublanes, so that rows can be joined."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % _SUBLANES), (0, 0)))


def _arrays(one, shape: SetShape):
  """A set's keys, values and scales, as the kernel reads them."""
  values = one.values if shape.values_axis == 1 else jnp.swapaxes(one.values, -1, -2)
  scales = [x[:, :, None] for x in (one.key_scales, one.value_scales) if x is not None]
  return [one.keys, values, *scales]


def _vmem_limit(specs, arrays, tile: int, out, scratch) -> int | None:
  """Bytes of fast memory to ask for, where the kernel needs more than it is given."""
  def size(shape, dtype):
    *major, rows, lanes = shape
    rows, lanes = -(-rows // _SUBLANES) * _SUBLANES, -(-lanes // _LANES) * _LANES
    return math.prod((*major, rows, lanes)) * jnp.dtype(dtype).itemsize
  blocks = jax.tree.map(lambda x, spec: size(spec.block_shape, x.dtype), arrays, specs)
  needed = 2 * (sum(jax.tree.leaves(blocks)) + size((tile, *out.shape[1:]), out.dtype))
  needed += sum(size(x.shape, x.dtype) for x in scratch)
  return None if needed < _DEFAULT_VMEM else 2 * needed


def _step(steps: Steps, half, i):
  """Number of step i of a half; behind its last step, of that one."""
  return steps.starts[half] + jnp.minimum(i, steps.counts[half] - 1)


def _of_tile(tile: int, x) -> pl.BlockSpec:
  """Of an array [N, K, ·, ·]."""
  return pl.BlockSpec((tile, *x.shape[1:]), lambda half, i, steps, layer: (
      jax.lax.div(steps.rows[_step(steps, half, i)], tile), 0, 0, 0))


def _of_set(i: int, shape: SetShape, keys, values, *scales) -> list[pl.BlockSpec]:
  """Of the arrays of set i: all [L, M, K, ·, ·]; scales [L, M, 1, K, S]."""
  def of(x, axis: int):
    sizes = [1, 1, *x.shape[2:]]
    sizes[2 + axis] = shape.block

    def at(half, step, steps, layer):
      place = steps.places[i][_step(steps, half, step)]
      where = [layer[0] if x.shape[0] > 1 else 0, jax.lax.div(place, shape.num_blocks), 0, 0, 0]
      where[2 + axis] = jax.lax.rem(place, shape.num_blocks)
      return tuple(where)
    return pl.BlockSpec(tuple(sizes), at)
  return [of(keys, 2), of(values, shape.values_axis), *(of(x, 2) for x in scales)]


def _kernel(steps, layer, of_queries, of_tokens, sets, out, *state, tile, shapes, dtype):
  half, i = pl.program_id(0), pl.program_id(1)
  step, last = _step(steps, half, i), steps.starts[half] + steps.counts[half] - 1
  row, is_step = steps.rows[step], i < steps.counts[half]

  def first_of_tile(row):
    return jax.lax.div(row, tile) * tile     # Mosaic's // wants to know the chip
  first = first_of_tile(row)

  def leaves(other):
    return first_of_tile(steps.rows[other]) != first

  @pl.when(is_step & ((i == 0) | leaves(jnp.maximum(step - 1, 0))))
  def _():
    _attend_to_themselves(of_queries, of_tokens, *state)

  for number, shape in enumerate(shapes):
    @pl.when(is_step & (steps.kinds[step] == number))
    def _(number=number, shape=shape):
      rows, block = steps.sets[number], jax.lax.rem(steps.places[number][step], shape.num_blocks)
      read = functools.partial(
          _attend, of_queries=of_queries, key_set=sets[number], shape=shape, state=state,
          dtype=dtype, begin=block * shape.block)
      if shape.shared:
        _for_owner(rows, row, first, read, tile=tile, heads=out.shape[2])
      else:
        read([row - first], [rows.firsts[row]], [rows.counts[row]])

  @pl.when(is_step & ((step == last) | leaves(jnp.minimum(step + 1, last))))
  def _():
    _, total, sums = state
    out[...] = (sums[...] / total[...]).astype(out.dtype)


def _for_owner(rows: Rows, row, first, read, *, tile: int, heads: int):
  """Reads a shared block for the rows of a tile that have the owner of `row`, some at a time."""
  together = max(1, _SHARED_QUERIES // heads)
  for begin in range(0, tile, together):
    members = range(begin, min(begin + together, tile))
    counts = [jnp.where(rows.owners[first + j] == rows.owners[row], rows.counts[first + j], 0)
              for j in members]

    @pl.when(functools.reduce(jnp.maximum, counts) > 0)
    def _(members=members, counts=counts):
      read(list(members), [rows.firsts[first + j] for j in members], counts)


def _attend_to_themselves(of_queries, of_tokens, largest, total, sums):
  """Starts the sums of a tile with the tokens themselves."""
  scores = [jnp.sum(queries[...].astype(jnp.float32) * own[...], -1, keepdims=True)
            for queries, own in zip(of_queries, of_tokens)]
  largest[...] = sum(scores[1:], scores[0])
  total[...] = jnp.ones_like(total)
  sums[...] = jnp.broadcast_to(of_tokens[1][...], sums.shape)


def _attend(rows, firsts, counts, *, of_queries, key_set, shape: SetShape, state, dtype, begin):
  """Adds a block to the sums of some rows.

  Args:
    rows: their numbers within the tile.
    firsts: the first column of each.
    counts: how many columns each reads.
    of_queries: references to the queries of the tile, and to the value queries if there are any.
    key_set: references to the set's block.
    shape: of the set.
    state: references to the largest scores, the totals and the sums of the tile.
    dtype: in which keys, values and weights are multiplied.
    begin: the block's first column.
  """
  keys, values, *scales = (x[0, 0] for x in key_set)
  before, total, sums = (_join(ref, rows) for ref in state)
  visible = _visible(shape, of_queries[0].shape[2], firsts, counts, begin)
  # What no row reads may be anything, even not a number.
  values = jnp.where(_any_row(visible, shape.values_axis), values.astype(dtype), 0)
  scores = _dot(_join(of_queries[0], rows).astype(dtype), keys.astype(dtype), 1)
  if shape.key_scales:
    scores *= scales[0][0][:, None]
  if len(of_queries) > 1:
    of_values = _dot(_join(of_queries[1], rows).astype(dtype), values, 3 - shape.values_axis)
    scores += of_values * scales[-1][0][:, None] if shape.value_scales else of_values
  scores = jnp.where(visible, scores, MASKED_SCORE)
  largest = jnp.maximum(before, jnp.max(scores, -1, keepdims=True))
  weights = jnp.exp(scores - largest)
  # Exactly 1 where the block changes nothing.
  shrink = jnp.where(before == largest, 1, jnp.exp(before - largest))
  total = total * shrink + jnp.sum(weights, -1, keepdims=True)
  if shape.value_scales:
    weights = jnp.where(visible, weights * scales[-1][0][:, None], 0)
  sums = sums * shrink + _dot(weights.astype(dtype), values, shape.values_axis)
  for ref, x in zip(state, (largest, total, sums)):
    _split(ref, rows, x)


def _join(ref, rows):
  """[K, rows · heads, ·] of a reference [rows, K, heads, ·], in float32."""
  return jnp.concatenate([ref[row].astype(jnp.float32) for row in rows], 1)


def _split(ref, rows, x):
  """Stores what `_join` has joined."""
  heads = ref.shape[2]
  for i, row in enumerate(rows):
    ref[row] = x[:, i * heads:(i + 1) * heads]


def _dot(a, b, axis):
  """Products [K, rows, ·] of a [K, rows, W] with b [K, ·, ·], whose axis `axis` is W."""
  return jax.lax.dot_general(
      a, b, (((2,), (axis,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def _visible(shape: SetShape, heads: int, firsts, counts, begin):
  """Which columns of a block the queries of some rows read: bool [rows · heads, columns]."""
  sizes = len(firsts) * heads, shape.block
  column = begin + jax.lax.broadcasted_iota(jnp.int32, sizes, 1)
  query = jax.lax.broadcasted_iota(jnp.int32, sizes, 0)
  first, count = firsts[0], counts[0]
  for i in range(1, len(firsts)):
    first = jnp.where(query >= i * heads, firsts[i], first)
    count = jnp.where(query >= i * heads, counts[i], count)
  place = column - first
  place = jnp.where(place < 0, place + shape.columns, place)
  return (place < count) & (column < shape.columns)


def _any_row(visible, axis: int):
  """Which columns any row reads, along this axis of values [K, ·, ·]: [columns, 1] or [1, ·]."""
  read = jnp.max(visible.astype(jnp.float32), 0, keepdims=True)
  if axis == 1:
    read = jnp.broadcast_to(read, (_SUBLANES, read.shape[1])).T[:, :1]
  return read > 0


def _cost(n: int, column_products: int, shapes, arrays, others) -> DecodeCost:
  """Of one call, for the compiler and for plans.

  Args:
    n: N.
    column_products: multiplications of a row with one column that it reads.
    shapes: of the sets.
    arrays: of the sets, as `_arrays` returns them.
    others: arrays that are read or written whole.
  """
  def of_set(shape, of_set):
    column_bytes = sum(
        x.dtype.itemsize * x.size // (x.shape[0] * x.shape[1] * shape.columns) for x in of_set)
    readers = min(n, -(-n // TILE_ROWS) + of_set[0].shape[1] - 1) if shape.shared else n
    return SetCost(shape.shared, readers, shape.columns, shape.block, column_bytes)
  return DecodeCost(
      n, 2 * column_products, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(others)),
      tuple(map(of_set, shapes, arrays)))
