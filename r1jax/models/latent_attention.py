"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434; V3, arXiv:2412.19437).

Only a latent [rank] and one rotated key [rope_dim], shared by all heads, are cached per position.
Several tokens at a time use the full form, whose keys and values are made from the latents (those
of a prompt once for its whole group). Rows that decode, one token at a time, use the absorbed form:
queries are mapped into the latent's space, and latents are read as they are cached.
"""
from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.models import attention, quantized, rotary
from r1jax.models.attention import KeyValue
from r1jax.models.config import ModelConfig, YarnScaling
from r1jax.models.layers import RMSNorm, normal, out_deviation, product
from r1jax.runtime import sharding

# Of the norms of latents, whatever the model's `norm_epsilon`; as in transformers.
_EPSILON = 1e-6


class LatentAttention(nnx.Module):
  """Attention whose keys and values are made from one latent per position."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    c, latent, h = config, config.latent, config.num_heads
    assert latent is not None
    self.compress = normal(rngs, (c.width, latent.rank + latent.rope_dim))
    self.query_compress = normal(rngs, (c.width, latent.query_rank)) if latent.query_rank else None
    self.query = normal(rngs, (latent.query_rank or c.width, h, c.head_dim))
    self.key_value = normal(rngs, (latent.rank, h, c.head_dim - latent.rope_dim + latent.value_dim))
    self.out = normal(rngs, (h, 1, latent.value_dim, c.width), out_deviation(c))
    self.query_norm = RMSNorm(latent.query_rank, _EPSILON) if latent.query_rank else None
    self.latent_norm = RMSNorm(latent.rank, _EPSILON)
    self.config = latent
    self.heads = h, c.head_dim
    self.scale = c.head_dim ** -0.5
    if isinstance(c.rope_scaling, YarnScaling):
      self.scale *= rotary.yarn_mscale(c.rope_scaling, c.rope_scaling.mscale_all_dim) ** 2

  def __call__(self, x, context: attention.Context) -> tuple[jax.Array, KeyValue]:
    """Applies attention to x [N, T, width]; returns its output and what to cache of the tokens."""
    (h, d), (n, t, _) = self.heads, x.shape
    latents, keys = jnp.split(product(x, self.compress[...]), (self.config.rank,), -1)
    queries = x
    if self.query_norm is not None and self.query_compress is not None:
      queries = self.query_norm(product(x, self.query_compress[...]))
    queries = product(queries, self.query[...]).reshape(n, t, h, d)
    plain, rotated = jnp.split(queries, (d - self.config.rope_dim,), -1)
    rotated = self._rotate(rotated[:, :, :, None], context)[..., 0, :]
    keys = self._rotate(keys[:, :, None, None], context)[:, :, 0, 0]
    latents = self.latent_norm(latents)
    keys, latents = (sharding.constrain(x, 'batch', None, None) for x in (keys, latents))
    if context.cached:
      values = self._absorbed(plain, rotated, keys, latents, context)
    else:
      values = self._full(plain, rotated, keys, latents, context)
    out = product(values.reshape(n, t, -1), self.out[...])
    return out, KeyValue(jnp.swapaxes(keys, 1, 2)[:, None], latents[:, None])

  def _rotate(self, x, context):
    return rotary.rotate(
        x, context.sines, context.cosines, interleaved=self.config.interleaved)

  def _up(self):
    """Maps from the latent to every head: (keys [rank, H, D], values [rank, H, E])."""
    keys_width = self.key_value.shape[2] - self.config.value_dim
    return self.key_value[..., :keys_width], self.key_value[..., keys_width:]

  def _absorbed(self, plain, rotated, keys, latents, context):
    up_keys, up_values = self._up()
    mixed = context.decode(
        rotated[:, :, None], keys[:, :, None], latents[:, :, None], scale=self.scale,
        value_queries=quantized.einsum('nthd,ehd->nthe', plain, up_keys)[:, :, None])
    return quantized.einsum('nthe,ehv->nthv', mixed[:, :, 0], up_values)

  def _full(self, plain, rotated, keys, latents, context):
    def expand(keys, latents):
      """Keys and values of all heads: [..., S, D], [..., S, E] -> both [..., S, H, ·]."""
      both = product(latents, self.key_value[...])
      both = both.reshape(*latents.shape[:-1], *self.key_value.shape[1:])
      own, values = jnp.split(both, (plain.shape[-1],), -1)
      shared = jnp.broadcast_to(keys[..., None, :], (*own.shape[:-1], keys.shape[-1]))
      return jnp.concatenate([own, shared], -1), values

    def expand_cached(cached):
      if cached is None:
        return None
      keys, values = expand(jnp.swapaxes(cached.keys[:, 0], 1, 2), cached.values[:, 0])
      return KeyValue(jnp.transpose(keys, (0, 2, 3, 1)), jnp.transpose(values, (0, 2, 1, 3)))

    queries = sharding.constrain(
        jnp.concatenate([plain, rotated], -1), 'batch', 'sequence', 'kv_heads')
    out = context.attend(
        queries[:, :, :, None], *expand(keys, latents),
        prefix=expand_cached(context.prefix), scale=self.scale)
    return out[:, :, :, 0]
