"""`cache_write.write_tokens` as a Pallas kernel for TPU.

It reads, changes and writes back the tiles that hold the rows' columns. Values whose width is not a
multiple of 128 are stored with their columns last, as in `decode_tpu`.
"""
import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

_LANES = 128              # of a vector register
_BLOCK_BYTES = 2 ** 20    # of a row's tiles, in several layers, that are changed in one step
_DEFAULT_VMEM = 12 * 2 ** 20    # bytes that every TPU gives a kernel which does not ask


def write_tokens(stack, new, columns, *, axis, interpret=False):
  """Computes `cache_write.write_tokens`; arguments and result are its own.

  With `interpret` the kernel runs on any machine, in Pallas' interpreter.
  """
  write = functools.partial(write_tokens, columns=columns, axis=-1, interpret=interpret)
  if stack.ndim == 4:
    return write(stack[:, :, None], new[:, :, None])[:, :, 0]
  if axis == -2 and stack.shape[-1] % _LANES:
    return jnp.swapaxes(write(jnp.swapaxes(stack, -1, -2), new), -1, -2)
  (num_layers, n), size = new.shape[:2], stack.shape[axis]
  tile = list(stack.shape[2:])
  tile[axis] = min(size, _LANES if axis == -1 else 32 // stack.dtype.itemsize)
  tile_bytes = math.prod(tile) * stack.dtype.itemsize
  layers = min(num_layers, max(1, _BLOCK_BYTES // tile_bytes))

  def at(i, row, columns):
    where = [i, row, 0, 0, 0]
    where[axis] = _tile_of(columns[row], size, tile[axis])
    return tuple(where)

  of_stack = pl.BlockSpec((layers, 1, *tile), at)
  of_new = pl.BlockSpec((layers, 1, *new.shape[2:]), lambda i, row, columns: (i, row, 0, 0))
  buffers = 4 * layers * tile_bytes
  return pl.pallas_call(
      functools.partial(_kernel, axis=axis, size=size), name='write_tokens',
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=1, grid=(pl.cdiv(num_layers, layers), n),
          in_specs=[of_new, of_stack], out_specs=of_stack),
      out_shape=jax.ShapeDtypeStruct(stack.shape, stack.dtype), input_output_aliases={2: 0},
      cost_estimate=pl.CostEstimate(
          flops=0, transcendentals=0, bytes_accessed=2 * num_layers * n * tile_bytes),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel', 'parallel'),
          vmem_limit_bytes=2 * buffers if buffers > _DEFAULT_VMEM else None),
      interpret=interpret,
  )(columns, new, stack)


def _kernel(columns, new, old, out, *, axis, size):
  column, tile = columns[pl.program_id(1)], old.shape[2:]
  place = column - _tile_of(column, size, tile[axis]) * tile[axis]
  here = jax.lax.broadcasted_iota(jnp.int32, tile, len(tile) + axis) == place

  def of_layer(layer, _):
    token = new[layer, 0].astype(jnp.float32)[:, None]
    if axis == -1:
      token = jnp.swapaxes(jnp.broadcast_to(token, (tile[0], tile[2], tile[1])), 1, 2)
    old_tile = old[layer, 0].astype(jnp.float32)
    out[layer, 0] = jnp.where(here, token, old_tile).astype(out.dtype)
  jax.lax.fori_loop(0, old.shape[0], of_layer, None)


def _tile_of(column, size, tile):
  return jax.lax.div(jnp.clip(column, 0, size - 1), tile)    # Mosaic's // wants to know the chip
