"""Modules of a transformer's layer: norms, grouped-query attention, the gated MLP.

Matrices that read the same input are stored as one, in a shape that a mesh's tensor axis can split
between heads: queries, keys and values as [width, K, R + 2, D], gate and up projections as
[width, 2, mlp].
"""
import functools

from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.models import attention, quantized, rotary
from r1jax.models.attention import KeyValue
from r1jax.models.config import ModelConfig
from r1jax.models.quantized import Matrix
from r1jax.runtime import sharding

ACTIVATIONS = {
    'silu': jax.nn.silu,
    'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
}


class RMSNorm(nnx.Module):
  """x / √(mean x² + ε), times `scale`, or with `offset` times 1 + `scale`."""

  def __init__(self, width: int, epsilon: float, *, offset: bool = False):
    self.scale = nnx.Param(jnp.zeros(width) if offset else jnp.ones(width))
    self.epsilon = epsilon
    self.offset = offset

  def __call__(self, x):
    """Normalises the last axis of x [..., width], in float32; returns the dtype of x."""
    squares = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    normed = x.astype(jnp.float32) * jax.lax.rsqrt(squares + self.epsilon)
    scale = 1 + self.scale[...].astype(jnp.float32) if self.offset else self.scale[...]
    return (normed * scale).astype(x.dtype)


def norm(config: ModelConfig, width: int | None = None) -> RMSNorm:
  """A norm of the model's kind, over the model's width or the given one."""
  return RMSNorm(width or config.width, config.norm_epsilon, offset=config.offset_norms)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float = 0.02) -> nnx.Param:
  """A parameter drawn from a normal distribution with mean 0 and this standard deviation."""
  return nnx.Param(deviation * jax.random.normal(rngs.params(), shape))


def product(x: jax.Array, matrix: Matrix) -> jax.Array:
  """Multiplies x [..., A] with a matrix [A..., B...], whose axes are merged to [A, B].

  With more axes, XLA transposes activations in the backward pass: nearly twice the time on a CPU.
  Where a mesh splits the positions of rows, leading axes cannot be merged and are kept.
  """
  matrix = quantized.as_two_axes(matrix, x.shape[-1])
  if sharding.num_shards('sequence') > 1:
    return _matmul(x, matrix)
  return _matmul(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], -1)


def _matmul(x, matrix):
  if isinstance(matrix, quantized.Quantized):
    return quantized.einsum('nta,ab->ntb' if x.ndim == 3 else 'na,ab->nb', x, matrix)
  return x @ matrix.astype(x.dtype)


def join_heads(matrix: jax.Array, *axes: str | None) -> jax.Array:
  """The columns of all heads, [..., heads, ...], as one axis.

  A TPU lays out the last two axes in tiles, and reads a matrix where it lies in its stack only if
  these are rows and columns. Where the devices do not divide the heads, nothing is joined.

  Args:
    matrix: one or a stack of them.
    *axes: its logical axes; those of the heads' columns, which come last, are None.
  """
  at, name = max((i, axis) for i, axis in enumerate(axes) if axis)
  if sharding.num_shards(name, matrix.shape[at]) != sharding.num_shards(name):
    return matrix
  return sharding.constrain(matrix.reshape(*matrix.shape[:at], -1), *axes[:at + 1])


def join_gate_up(gate_up: jax.Array, *axes: str | None) -> jax.Array:
  """Gates and ups [..., width, 2, W] as the columns [..., width, 2·W], see `join_heads`.

  Where W is split over devices, each device has its gates and then its ups: no weight moves between
  devices. Where the devices do not divide W, nothing is joined.

  Args:
    gate_up: the matrices.
    *axes: their logical axes.
  """
  *leading, _, wide = gate_up.shape
  shards = sharding.num_shards('mlp', wide)
  if shards != sharding.num_shards('mlp'):
    return gate_up
  columns = gate_up.reshape(*leading, 2, shards, wide // shards)
  joined = jnp.swapaxes(columns, -3, -2).reshape(*leading, 2 * wide)
  return sharding.constrain(joined, *axes[:-2], 'mlp')


def split_gate_up(columns: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(gates, ups) [..., W] of products with what `join_gate_up` returned, [..., 2·W]."""
  *leading, both = columns.shape
  parts = columns.reshape(*leading, sharding.num_shards('mlp'), 2, -1)
  gate, up = parts[..., 0, :], parts[..., 1, :]
  return gate.reshape(*leading, both // 2), up.reshape(*leading, both // 2)


def out_deviation(config: ModelConfig) -> float:
  """Standard deviation, at initialisation, of the two matrices per layer that write to x."""
  return 0.02 / (2 * config.num_layers) ** 0.5


class Attention(nnx.Module):
  """Grouped-query attention with rotary positions."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    c, k, r, d = config, config.num_kv_heads, config.group_size, config.head_dim
    self.qkv = normal(rngs, (c.width, k, r + 2, d))
    self.qkv_bias = nnx.Param(jnp.zeros((k, r + 2, d))) if c.qkv_bias else None
    self.out = normal(rngs, (k, r, d, c.width), out_deviation(c))
    self.query_norm = norm(c, d) if c.qk_norm else None
    self.key_norm = norm(c, d) if c.qk_norm else None
    self.scale = None if c.query_scale is None else c.query_scale ** -0.5
    self.heads = k, r + 2, d

  def __call__(self, x, context: attention.Context) -> tuple[jax.Array, KeyValue]:
    """Applies attention to x [N, T, width]; returns its output and the tokens' keys and values."""
    qkv = product(x, self.qkv[...]).reshape(*x.shape[:-1], *self.heads)
    if self.qkv_bias is not None:
      qkv = qkv + self.qkv_bias[...].astype(x.dtype)
    queries, keys, values = qkv[..., :-2, :], qkv[..., -2:-1, :], qkv[..., -1, :]
    if self.query_norm is not None and self.key_norm is not None:
      queries, keys = self.query_norm(queries), self.key_norm(keys)
    if context.sines is not None and context.cosines is not None:
      queries = rotary.rotate(queries, context.sines, context.cosines)
      keys = rotary.rotate(keys, context.sines, context.cosines)
    if context.query_factors is not None:
      queries = queries * context.query_factors[:, :, None, None, None].astype(x.dtype)
    keys = keys[..., 0, :]
    queries = sharding.constrain(queries, 'batch', 'sequence', 'kv_heads')
    keys, values = (sharding.constrain(x, 'batch', None, 'kv_heads') for x in (keys, values))
    heads_out = context.attend(queries, keys, values, scale=self.scale).reshape(*x.shape[:-1], -1)
    out = product(heads_out, self.out[...])
    return out, KeyValue(jnp.transpose(keys, (0, 2, 3, 1)), jnp.transpose(values, (0, 2, 1, 3)))


class Mlp(nnx.Module):
  """(activation(x·gate) ∘ x·up)·down: SwiGLU, or with 'gelu_tanh' GeGLU (arXiv:2002.05202)."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, width: int | None = None):
    width = width or config.mlp_width
    self.gate_up = normal(rngs, (config.width, 2, width))
    self.down = normal(rngs, (width, config.width), out_deviation(config))
    self.activation = config.activation

  def __call__(self, x):
    """Applies the MLP to x [N, T, width]."""
    gate_up = self.gate_up[...]
    if gate_up.ndim == 2:
      gate, up = split_gate_up(product(x, gate_up))
    elif sharding.num_shards('mlp') > 1:   # a split last axis cannot be merged with another
      both = quantized.einsum('ntd,dgf->ntgf', x, gate_up)
      gate, up = both[..., 0, :], both[..., 1, :]
    else:
      gate, up = jnp.split(product(x, gate_up), 2, -1)
    return product(ACTIVATIONS[self.activation](gate) * up, self.down[...])
