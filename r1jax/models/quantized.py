"""Eight-bit numbers for rollouts: a layer's matrices, and cached keys and values.

A number x is kept as round(x / scale), with one float32 scale for all numbers that a product sums
over: for a matrix one per output channel, for keys and values one per token and head. Symmetric,
without a zero point: 0 stays 0, and the largest magnitude becomes the type's largest number (127 of
int8, 448 of float8_e4m3fn). So |x − x̂| ≤ scale / 2 for int8, and a relative error of 1/16 at most
(or scale / 1024, near 0) for float8_e4m3fn.

Products read the eight-bit numbers and multiply the sums by the scales: Σ_a x_a·q_ab·s_b =
s_b·Σ_a x_a·q_ab. An int8 number is exact in bfloat16. Only what a product reads at a time is ever
converted.
"""
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding

WEIGHT_DTYPES = ('int8',)
CACHE_DTYPES = ('int8', 'float8_e4m3fn')

# Name of a layer's matrix -> the axes that its product sums over.
# Embeddings, norms, biases and routers are not quantised. A token reads one row of the embedding;
# and an error of the unembedding would go straight into the logits, with no layer after it that
# could level it out, for a small share of a large model's bytes.
SUMMED_AXES: dict[str, tuple[int, ...]] = {
    'qkv': (-4,),
    'out': (-4, -3, -2),
    'gate_up': (-3,),
    'down': (-2,),
    'compress': (-2,),
    'query_compress': (-2,),
    'query': (-3,),
    'key_value': (-3,),
    'experts_gate_up': (-3,),
    'experts_down': (-2,),
    'projection': (-3, -2),
}


@pytree_dataclass
class Quantized:
  """An array in eight bits: values · scales. As a parameter it stands where its matrix stood."""
  values: jax.Array   # int8 or float8_e4m3fn, the shape of the array
  scales: jax.Array   # float32, the same shape with 1 for the axes that a product sums over

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the array."""
    return self.values.shape

  @property
  def ndim(self) -> int:
    """The number of axes."""
    return self.values.ndim

  def __getitem__(self, index: Any) -> 'Quantized':
    """Both arrays at an index that is valid for both; flax's parameters are read as `x[...]`."""
    return Quantized(self.values[index], self.scales[index])


Matrix = jax.Array | Quantized


def quantize(x: jax.Array, axes: Sequence[int], dtype: str = 'int8') -> Quantized:
  """An array in eight bits, with one scale for the numbers along `axes`.

  Args:
    x: the array.
    axes: those that a product sums over.
    dtype: 'int8' or 'float8_e4m3fn'.
  """
  x = x.astype(jnp.float32)
  is_integer = jnp.issubdtype(dtype, jnp.integer)
  limit = float(jnp.iinfo(dtype).max if is_integer else jnp.finfo(dtype).max)
  # The smallest normal number, so that a row of zeros is not divided by 0.
  scales = jnp.maximum(jnp.max(jnp.abs(x), tuple(axes), keepdims=True) / limit,
                       jnp.finfo(jnp.float32).tiny)
  scaled = jnp.clip(x / scales, -limit, limit)
  return Quantized((jnp.round(scaled) if is_integer else scaled).astype(dtype), scales)


def dequantize(x: Quantized, dtype: Any = jnp.float32) -> jax.Array:
  """The array that the eight bits stand for."""
  return (x.values.astype(jnp.float32) * x.scales).astype(dtype)


def merge_last(matrix: Matrix, axis: int) -> Matrix:
  """The matrix with its axes from `axis` on merged into one."""
  return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], -1), matrix)


def as_two_axes(matrix: Matrix, inputs: int) -> Matrix:
  """A matrix [A..., B...] as [A, B], where the product of the A is `inputs`."""
  if isinstance(matrix, Quantized):
    return Quantized(matrix.values.reshape(inputs, -1), matrix.scales.reshape(1, -1))
  return matrix.reshape(inputs, -1)


def einsum(form: str, x: jax.Array, matrix: Matrix) -> jax.Array:
  """jnp.einsum(form, x, matrix), in the dtype of `x`.

  Scales of a quantised matrix multiply the result; where the product sums over an axis that has
  scales, they multiply `x` instead.
  """
  if not isinstance(matrix, Quantized):
    return jnp.einsum(form, x, matrix.astype(x.dtype))
  operands, out = form.split('->')
  of_x, of_matrix = operands.split(',')
  scaled = [name for name, size in zip(of_matrix, matrix.scales.shape) if size > 1]
  values = matrix.values.astype(x.dtype)
  if set(scaled) <= set(out):
    return _times(jnp.einsum(form, x, values), out, matrix.scales, of_matrix)
  return jnp.einsum(form, _times(x, of_x, matrix.scales, of_matrix), values)


def _times(x, names: str, scales, of_scales: str):
  """X times the scales, aligned by the names of their axes."""
  shared = [name for name in names if name in of_scales]
  dropped = [i for i, name in enumerate(of_scales) if name not in shared]
  aligned = jnp.squeeze(scales, dropped)
  order = [name for name in of_scales if name in shared]
  aligned = jnp.transpose(aligned, [order.index(name) for name in shared])
  aligned = jnp.expand_dims(aligned, [i for i, name in enumerate(names) if name not in shared])
  return (x * aligned).astype(x.dtype)


def kept_in_loop(params: Any, x: jax.Array) -> Any:
  """The parameters, made to depend on `x`, which changes in the loop that reads them.

  A scan of one layer is no loop to XLA, which then converts that layer's eight-bit numbers before
  the loop over tokens, and reads the wide copy at every token. (Layers that a scan takes out of a
  stack need no such barrier, and would be copied by it.)
  """
  def one(leaf):
    if not isinstance(leaf, Quantized):
      return leaf
    values, _ = jax.lax.optimization_barrier((leaf.values, x))
    return dataclasses.replace(leaf, values=values)
  return jax.tree.map(one, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def gathered(matrix: Matrix, *logical_axes: str | None) -> Matrix:
  """As `sharding.gathered`; what is sent is the eight-bit numbers."""
  return jax.tree.map(lambda x: sharding.gathered(x, *logical_axes), matrix)
