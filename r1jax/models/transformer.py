"""The decoder-only transformer, described with flax.nnx and seen from outside as pure functions.

RMSNorm before attention and MLP (SwiGLU), rotary positions, grouped heads, no dropout. Matrices
that read the same input are stored as one, split so that a tensor axis cuts no head: queries, keys
and values as [width, K, R + 2, D], gate and up projections as [width, 2, mlp]. Layers are stacked
and scanned; the cache goes into the scan read-only and the new keys and values come out of it, so
no step copies a cache. Master weights are float32, the products run in `compute_dtype`, norms,
softmax and log-probabilities in float32.
"""
import dataclasses
import functools
from typing import Callable, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.models import attention
from r1jax.models.attention import KeyValue
from r1jax.models.config import ModelConfig
from r1jax.records import record


@record
class Cache:
  """What earlier tokens leave for later ones; opaque outside `models/`.

  `prefix` belongs to the prompts [B], is never written and never copied per completion; `suffix`
  belongs to the completions [N] and holds `length` tokens of each.
  """
  prefix: tuple[KeyValue, ...]              # a KeyValue per stack of layers, leaves [L, B, ...]
  prefix_mask: jax.Array                    # [B, P] bool
  suffix: tuple[KeyValue, ...] | None = None  # leaves [L, N, ...]; None: no completion token yet
  length: jax.Array | None = None           # int32 scalar


class RMSNorm(nnx.Module):

  def __init__(self, width: int, epsilon: float):
    self.scale = nnx.Param(jnp.ones(width))
    self.epsilon = epsilon

  def __call__(self, x):
    squares = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    normed = x.astype(jnp.float32) * jax.lax.rsqrt(squares + self.epsilon)
    return (normed * self.scale[...]).astype(x.dtype)


def _normal(rngs: nnx.Rngs, shape, deviation=0.02):
  return nnx.Param(deviation * jax.random.normal(rngs.params(), shape))


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """x [..., A] times a matrix [A, B], as one product of two matrices.

  With more axes XLA transposes activations in the backward pass: nearly twice the time on a CPU.
  """
  rows = x.reshape(-1, x.shape[-1]) @ matrix.astype(x.dtype)
  return rows.reshape(*x.shape[:-1], -1)


class Attention(nnx.Module):

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    c, k, r, d = config, config.num_kv_heads, config.group_size, config.head_dim
    self.qkv = _normal(rngs, (c.width, k, r + 2, d))
    self.qkv_bias = nnx.Param(jnp.zeros((k, r + 2, d))) if c.qkv_bias else None
    self.out = _normal(rngs, (k, r, d, c.width), 0.02 / (2 * c.num_layers) ** 0.5)
    self.query_norm = RMSNorm(d, c.norm_epsilon) if c.qk_norm else None
    self.key_norm = RMSNorm(d, c.norm_epsilon) if c.qk_norm else None

  def __call__(self, x, sines, cosines, attend):
    width, k, heads, d = self.qkv.shape
    qkv = _product(x, self.qkv[...].reshape(width, -1)).reshape(*x.shape[:-1], k, heads, d)
    if self.qkv_bias is not None:
      qkv = qkv + self.qkv_bias[...].astype(x.dtype)
    queries, keys, values = qkv[..., :-2, :], qkv[..., -2:-1, :], qkv[..., -1, :]
    if self.query_norm is not None:
      queries, keys = self.query_norm(queries), self.key_norm(keys)
    queries = attention.rotate(queries, sines, cosines)
    keys = attention.rotate(keys, sines, cosines)[..., 0, :]
    heads_out = attend(queries, keys, values).reshape(*x.shape[:-1], -1)
    out = _product(heads_out, self.out[...].reshape(-1, width))
    return out, KeyValue(jnp.transpose(keys, (0, 2, 3, 1)), jnp.transpose(values, (0, 2, 1, 3)))


class Mlp(nnx.Module):

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.gate_up = _normal(rngs, (config.width, 2, config.mlp_width))
    self.down = _normal(rngs, (config.mlp_width, config.width), 0.02 / (2 * config.num_layers) ** 0.5)

  def __call__(self, x):
    gate, up = jnp.split(_product(x, self.gate_up[...].reshape(x.shape[-1], -1)), 2, -1)
    return _product(jax.nn.silu(gate) * up, self.down[...])


class Block(nnx.Module):
  """One layer: x + attention(norm(x)), then + mlp(norm(·))."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
    self.attention = Attention(config, rngs)
    self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
    self.mlp = Mlp(config, rngs)

  def __call__(self, x, sines, cosines, attend):
    out, key_value = self.attention(self.attention_norm(x), sines, cosines, attend)
    x = x + out
    x = x + self.mlp(self.mlp_norm(x))
    return sharding.constrain(x, 'batch', None, None), key_value


class Transformer(nnx.Module):
  """Parameters only: `stacks` has one stacked Block per run of equal layers, in order."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    def stack(repeats):
      make = nnx.vmap(lambda r: Block(config, r), in_axes=0, out_axes=0)
      return make(rngs.split(repeats))

    self.embedding = _normal(rngs, (config.vocab_size, config.width))
    self.stacks = nnx.Dict({'stack_0': stack(config.num_layers)})
    self.final_norm = RMSNorm(config.width, config.norm_epsilon)
    self.unembedding = (
        None if config.tied_embedding else _normal(rngs, (config.vocab_size, config.width)))


# Parameter path (its last names) -> logical axes, without the leading axis of a stack.
LOGICAL_AXES = {
    'embedding': ('vocab', 'embed'),
    'unembedding': ('vocab', 'embed'),
    'qkv': ('embed', 'kv_heads', None, None),
    'qkv_bias': ('kv_heads', None, None),
    'out': ('kv_heads', None, None, 'embed'),
    'gate_up': ('embed', None, 'mlp'),
    'down': ('mlp', 'embed'),
    'scale': (None,),
}


class Model(NamedTuple):
  """A transformer as everything outside `models/` sees it: a parameter pytree, pure functions.

  init(key) -> params: float32 master weights.
  apply(params, tokens [N, T], *, positions [N, T], segment_ids [N, T], cache)
    -> (hidden [N, T, width], new_kv, aux): a token sees the earlier ones of its own segment
    (0 is padding) and, with a cache, the prefix and the suffix.
  unembed(params, hidden) -> float32 logits [..., V].
  unembedding(params) -> [V, width], for `logprobs`, which never makes whole logits.
  logical_axes: a tree like params, of tuples of names that `sharding.RULES` places.
  """
  config: ModelConfig
  init: Callable
  apply: Callable
  unembed: Callable
  unembedding: Callable
  logical_axes: dict


def build(config: ModelConfig, *, compute_dtype: str = 'float32', remat: bool = False) -> Model:
  """The pure functions of a transformer of this shape.

  Args:
    config: the architecture.
    compute_dtype: 'float32' or 'bfloat16', of products and activations; params stay float32.
    remat: keep only each layer's input for the backward pass, not its projections too. Attention
      weights, norms and gates are computed again either way.
  """
  dtype = jnp.dtype(compute_dtype)
  abstract = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
  graph = nnx.graphdef(abstract)
  block_graph = nnx.graphdef(nnx.eval_shape(lambda: Block(config, nnx.Rngs(0))))

  @functools.partial(jax.jit, out_shardings=None)
  def init(key):
    return nnx.to_pure_dict(nnx.state(Transformer(config, nnx.Rngs(params=key)), nnx.Param))

  def apply(params, tokens, *, positions, segment_ids, cache: Cache | None = None):
    model = nnx.merge(graph, params)
    # Embeddings and norms are cast where they are used; matrices inside their layer.
    x = sharding.constrain(model.embedding[...].astype(dtype)[tokens], 'batch', None, None)
    frequencies = attention.rotary_frequencies(
        config.head_dim, config.rope_theta, config.rope_scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    sines, cosines = jnp.sin(angles), jnp.cos(angles)
    count = tokens.shape[1]
    self_mask = (segment_ids[:, :, None] == segment_ids[:, None, :]) & jnp.tri(count, dtype=bool)
    masks = {}
    if cache is not None:
      masks['prefix_mask'] = cache.prefix_mask
      if cache.suffix is not None:
        size = cache.suffix[0].keys.shape[-1]
        masks['suffix_mask'] = jnp.arange(size) < cache.length

    def layer(x, scanned):
      block_params, prefix, suffix = scanned
      attend = functools.partial(attention.attend, self_mask=self_mask, prefix=prefix,
                                 suffix=suffix, **masks)
      return nnx.merge(block_graph, block_params)(x, sines, cosines, attend)

    new_kv = []
    # Activations that a product made are kept; recomputing the rest is cheaper than its traffic.
    policy = None if remat else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    body = jax.checkpoint(layer, prevent_cse=False, policy=policy)
    for i in range(len(params['stacks'])):
      prefix = cache.prefix[i] if cache is not None else None
      suffix = cache.suffix[i] if cache is not None and cache.suffix is not None else None
      x, key_value = jax.lax.scan(body, x, (params['stacks'][f'stack_{i}'], prefix, suffix))
      new_kv.append(key_value)
    return model.final_norm(x), tuple(new_kv), {}

  def unembedding(params):
    return params['embedding'] if config.tied_embedding else params['unembedding']

  def unembed(params, hidden):
    return jnp.einsum('...d,vd->...v', hidden, unembedding(params).astype(dtype),
                      preferred_element_type=jnp.float32)

  return Model(config, init, apply, unembed, unembedding, _logical_axes(abstract))


def _logical_axes(abstract) -> dict:
  def axes(path, leaf):
    names = [getattr(entry, 'key', None) for entry in path]
    stacked = (None,) if 'stacks' in names else ()
    return stacked + LOGICAL_AXES[names[-1]]
  return jax.tree_util.tree_map_with_path(axes, nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))


def cast(params, compute_dtype: str):
  """Float parameters in the compute type; the sampler casts once a rollout, not once a token."""
  return jax.tree.map(lambda x: x.astype(compute_dtype), params)


def prompt_segments(tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(positions, segment_ids), both [B, P], of prompts padded on the right."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  return positions, (positions < lengths[:, None]).astype(jnp.int32)


def as_prefix(new_kv, lengths: jax.Array) -> Cache:
  """The cache that completions of these prompts share. lengths [B]."""
  size = new_kv[0].keys.shape[-1]
  return Cache(new_kv, jnp.arange(size) < lengths[:, None])


def with_suffix(cache: Cache, num_rows: int, size: int) -> Cache:
  """Room for `size` completion tokens a row, kept tokens kept: a larger bucket is made so."""
  def room(x, axis, rows_axis=1):
    shape = list(x.shape)
    shape[rows_axis], shape[axis] = num_rows, size
    return jnp.zeros(shape, x.dtype)

  empty = tuple(KeyValue(room(kv.keys, -1), room(kv.values, -2)) for kv in cache.prefix)
  if cache.suffix is None:
    return dataclasses.replace(cache, suffix=empty, length=jnp.int32(0))
  grow = lambda old, new: jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim)
  return dataclasses.replace(cache, suffix=jax.tree.map(grow, cache.suffix, empty))


def append(cache: Cache, new_kv) -> Cache:
  """The cache with one more completion token a row written at its length."""
  def write(old: KeyValue, new: KeyValue):
    at = cache.length
    return KeyValue(
        jax.lax.dynamic_update_slice_in_dim(old.keys, new.keys.astype(old.keys.dtype), at, -1),
        jax.lax.dynamic_update_slice_in_dim(old.values, new.values.astype(old.values.dtype), at, -2))

  suffix = tuple(write(old, new) for old, new in zip(cache.suffix, new_kv))
  return dataclasses.replace(cache, suffix=suffix, length=cache.length + 1)
