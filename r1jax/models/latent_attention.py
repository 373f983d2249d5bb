"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434; V3, arXiv:2412.19437).

A position leaves a latent [rank] and one rotated key [rope_dim], shared by all heads: nothing else
is cached. Several tokens at a time are attended in the full form, whose keys and values are made
from the latents, a prompt's once for its whole group. One token at a time (decoding) is attended in
the absorbed form: queries are carried into the latent's space, and latents are read as they lie.
"""
from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.models import attention
from r1jax.models.attention import KeyValue
from r1jax.models.config import ModelConfig, YarnScaling
from r1jax.models.layers import RMSNorm, normal, out_deviation, product
from r1jax.runtime import sharding

_EPSILON = 1e-6   # of the latents' norms, whatever the model's


class LatentAttention(nnx.Module):

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    c, l, h = config, config.latent, config.num_heads
    self.compress = normal(rngs, (c.width, l.rank + l.rope_dim))
    self.query_compress = normal(rngs, (c.width, l.query_rank)) if l.query_rank else None
    self.query = normal(rngs, (l.query_rank or c.width, h, c.head_dim))
    self.key_value = normal(rngs, (l.rank, h, c.head_dim - l.rope_dim + l.value_dim))
    self.out = normal(rngs, (h, 1, l.value_dim, c.width), out_deviation(c))
    self.query_norm = RMSNorm(l.query_rank, _EPSILON) if l.query_rank else None
    self.latent_norm = RMSNorm(l.rank, _EPSILON)
    self.config = l
    self.scale = c.head_dim ** -0.5
    if isinstance(c.rope_scaling, YarnScaling):
      self.scale *= attention.yarn_mscale(c.rope_scaling, c.rope_scaling.mscale_all_dim) ** 2

  def __call__(self, x, context: attention.Context) -> tuple[jax.Array, KeyValue]:
    l, (query_rank, h, d) = self.config, self.query.shape
    n, t, width = x.shape
    latents, keys = jnp.split(product(x, self.compress[...]), (l.rank,), -1)
    queries = x if self.query_compress is None else self.query_norm(
        product(x, self.query_compress[...]))
    queries = product(queries, self.query[...].reshape(query_rank, -1)).reshape(n, t, h, d)
    plain, rotated = jnp.split(queries, (d - l.rope_dim,), -1)
    rotate = lambda y: attention.rotate(
        y, context.sines, context.cosines, interleaved=l.interleaved)
    rotated = rotate(rotated[:, :, :, None])[..., 0, :]
    keys = rotate(keys[:, :, None, None])[:, :, 0, 0]
    latents = self.latent_norm(latents)
    keys, latents = (sharding.constrain(x, 'batch', None, None) for x in (keys, latents))
    if t == 1 and context.prefix is not None:
      values = self._absorbed(plain, rotated, keys, latents, context)
    else:
      values = self._full(plain, rotated, keys, latents, context)
    out = product(values.reshape(n, t, -1), self.out[...].reshape(-1, width))
    return out, KeyValue(jnp.swapaxes(keys, 1, 2)[:, None], latents[:, None])

  def _up(self, dtype):
    """From the latent to a head's (keys [rank, H, D], values [rank, H, E])."""
    keys_width = self.key_value.shape[2] - self.config.value_dim
    return jnp.split(self.key_value[...].astype(dtype), (keys_width,), -1)

  def _absorbed(self, plain, rotated, keys, latents, context):
    up_keys, up_values = self._up(plain.dtype)
    mixed = attention.attend_latent(
        rotated, jnp.einsum('nthd,ehd->nthe', plain, up_keys), keys, latents, context.self_mask,
        scale=self.scale, prefix=context.prefix, prefix_mask=context.prefix_mask,
        suffix=context.suffix, suffix_mask=context.suffix_mask)
    return jnp.einsum('nthe,ehv->nthv', mixed, up_values)

  def _full(self, plain, rotated, keys, latents, context):
    def expand(keys, latents):
      """Every head's keys and values: [.., S, D], [.., S, E] -> [.., S, H, ·] both."""
      both = product(latents, self.key_value[...].reshape(latents.shape[-1], -1))
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
        prefix=expand_cached(context.prefix), suffix=expand_cached(context.suffix),
        scale=self.scale)
    return out[:, :, :, 0]
