"""Rows sorted into groups, each group multiplied with its own matrix, with gradients."""
import jax
import jax.numpy as jnp

from r1jax.models.quantized import Matrix, Quantized


def grouped_product(rows: jax.Array, matrices: Matrix, sizes: jax.Array) -> jax.Array:
  """Multiplies each group of rows with its matrix.

  On TPU this is `jax.lax.ragged_dot`. Elsewhere ragged_dot multiplies every row with every matrix,
  so there a loop takes blocks of rows of one group at a time: as many operations as the rows need,
  and at most one block more per group.

  Args:
    rows: [M, A], sorted by group.
    matrices: [E, A, B]; quantised ones have no gradients.
    sizes: [E] int, rows of each group; they add up to M or less, and carry no gradient.

  Returns:
    [M, B] in the rows' dtype; rows after the last group are arbitrary.
  """
  if not isinstance(matrices, Quantized):
    return _grouped(rows, matrices, sizes)
  group = jnp.repeat(jnp.arange(sizes.size), sizes, total_repeat_length=rows.shape[0])
  products = _run(rows, matrices.values, sizes)
  return (products * matrices.scales[group, 0]).astype(rows.dtype)


def _run(rows, matrices, sizes):
  return jax.lax.platform_dependent(
      rows, matrices, sizes, tpu=_ragged_product, default=_blocked_product)


_grouped = jax.custom_vjp(_run)


def _grouped_forward(rows, matrices, sizes):
  return _run(rows, matrices, sizes), (rows, matrices, sizes)


def _grouped_backward(saved, d_out):
  rows, matrices, sizes = saved
  d_rows = _grouped(d_out, jnp.swapaxes(matrices, 1, 2), sizes)
  d_matrices = jax.lax.platform_dependent(
      rows, d_out, sizes, tpu=_ragged_outer, default=_blocked_outer)
  return d_rows, d_matrices.astype(matrices.dtype), None


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _ragged_product(rows, matrices, sizes):
  return jax.lax.ragged_dot(rows, matrices.astype(rows.dtype), sizes)


def _ragged_outer(rows, d_out, sizes):
  """Σ over each group's rows of rowᵀ·d_out: [E, A, B] float32, with ragged_dot."""
  dimensions = jax.lax.RaggedDotDimensionNumbers(
      dot_dimension_numbers=(([0], [0]), ([], [])), lhs_ragged_dimensions=[0],
      rhs_group_dimensions=[])
  return jax.lax.ragged_dot_general(
      rows, d_out, sizes, dimensions, preferred_element_type=jnp.float32)


def block_rows(num_rows: int, num_groups: int) -> int:
  """Rows of a block: about those of an even group, so that most groups are one or two blocks.

  A power of two, from 8 to 512.
  """
  even = -(-num_rows // num_groups)
  return min(max(8, 1 << (even - 1).bit_length()), 512)


def _blocks(num_rows, sizes):
  """(number of blocks, their rows, f(block) -> (group, first row, group's rows from there on))."""
  size = block_rows(num_rows, sizes.shape[0])
  blocks = -(-sizes // size)
  last = jnp.cumsum(blocks)
  starts = jnp.cumsum(sizes) - sizes

  def place(block):
    group = jnp.sum(last <= block)
    within = (block - (last[group] - blocks[group])) * size
    return group, starts[group] + within, sizes[group] - within
  return last[-1], size, place


def _blocked_product(rows, matrices, sizes):
  count, size, place = _blocks(rows.shape[0], sizes)
  padded = _pad_rows(rows, size)

  def step(block, out):
    # A block may reach into the next group's rows; that group's own block comes later and wins.
    group, start, _ = place(block)
    taken = jax.lax.dynamic_slice_in_dim(padded, start, size)
    matrix = jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False).astype(rows.dtype)
    value = jnp.matmul(taken, matrix, preferred_element_type=jnp.float32)
    return jax.lax.dynamic_update_slice_in_dim(out, value.astype(out.dtype), start, 0)

  out = jnp.zeros((rows.shape[0] + size, matrices.shape[2]), rows.dtype)
  return jax.lax.fori_loop(0, count, step, out)[:rows.shape[0]]


def _blocked_outer(rows, d_out, sizes):
  """Σ over each group's rows of rowᵀ·d_out: [E, A, B] float32, block by block."""
  count, size, place = _blocks(rows.shape[0], sizes)
  rows, d_out = _pad_rows(rows, size), _pad_rows(d_out, size)

  def step(block, out):
    group, start, left = place(block)
    taken = jax.lax.dynamic_slice_in_dim(rows, start, size)
    taken = jnp.where(jnp.arange(size)[:, None] < left, taken, 0)
    value = jnp.matmul(taken.T, jax.lax.dynamic_slice_in_dim(d_out, start, size),
                       preferred_element_type=jnp.float32)
    return out.at[group].add(value)

  out = jnp.zeros((sizes.shape[0], rows.shape[1], d_out.shape[1]), jnp.float32)
  return jax.lax.fori_loop(0, count, step, out)


def _pad_rows(x, count):
  return jnp.pad(x, ((0, count), (0, 0)))
