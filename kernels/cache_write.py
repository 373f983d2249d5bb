"""Writes one token of each row into stacked arrays of a cache, each row at its own column."""
import functools

import jax
import jax.numpy as jnp


def write_tokens(stack: jax.Array, new: jax.Array, columns: jax.Array, *, axis: int) -> jax.Array:
  """`stack` with one new column of each of its first N rows, in all layers.

  Where `stack` is donated, or carried by a loop, it is changed in place. On TPU this is a Pallas
  kernel: XLA's own forms (scatter, or a loop of slice updates) copy the stack into another layout.

  Args:
    stack: [L, M, K, D, S] with axis −1, such as keys; [L, M, K, S, E] with axis −2, such as values;
      or [L, M, K, S] with axis −1, such as scales.
    new: [L, N, K, D], [L, N, K, E] or [L, N, K], N ≤ M; converted to the stack's dtype.
    columns: [N] int32, where each row's column goes; a row with one outside of 0 … S − 1 writes
      nothing.
    axis: of the columns: −1 or −2.

  Raises:
    ValueError: the shapes do not match.
  """
  rest = list(stack.shape[2:])
  del rest[axis]
  layers, n = new.shape[:2]
  if (axis not in (-1, -2) or [layers, *rest] != [stack.shape[0], *new.shape[2:]]
      or n > stack.shape[1] or columns.shape != (n,)):
    raise ValueError(f'new {new.shape} and columns {columns.shape} do not match the stack '
                     f'{stack.shape} with axis={axis}: pass one column of its first N rows')
  operands = stack, new.astype(stack.dtype), columns.astype(jnp.int32)
  return jax.lax.platform_dependent(
      *operands, tpu=functools.partial(_kernel, axis=axis),
      default=functools.partial(_scatter, axis=axis))


def _kernel(*operands, axis):
  from r1jax.kernels import cache_write_tpu  # imports Pallas, which only TPUs need
  return cache_write_tpu.write_tokens(*operands, axis=axis)


def _scatter(stack, new, columns, *, axis):
  size = stack.shape[axis]
  columns = jnp.where(columns < 0, size, columns)    # a negative index counts from the end
  rows = jnp.arange(new.shape[1])
  at = (slice(None), rows, ..., columns) if axis == -1 else (
      slice(None), rows, slice(None), columns)
  return stack.at[at].set(jnp.moveaxis(new, 1, 0), mode='drop', unique_indices=True)
