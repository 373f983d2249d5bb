"""What the attention of each kind of layer may see: masks, or for long rows integer ids."""
from typing import Any

import jax.numpy as jnp

from r1jax.kernels.attention_ids import AttentionIds
from r1jax.models import rotary
from r1jax.models.attention import Context, is_long
from r1jax.models.config import ModelConfig
from r1jax.models.kv_cache import Cache


def contexts_of_kinds(
    config: ModelConfig, positions, segment_ids, parent_ids, cache: Cache | None,
) -> dict[str, Context]:
  """Kind of layer -> its `Context`, without the layer's own keys and values in the cache.

  With a cache that has a suffix, rows decode: its lengths say what they see.

  Args:
    config: the architecture.
    positions: [N, T] int.
    segment_ids: [N, T] int, 0 is padding.
    parent_ids: [N, T] int, the segment that a token sees besides its own, 0 for none; or None.
    cache: earlier tokens that all tokens see.
  """
  seen = near = _seen(positions, segment_ids, parent_ids, cache)
  if 'ids' in seen:
    near = seen | dict(ids=seen['ids']._replace(positions=_int32(positions)), window=config.window)
  elif 'self_mask' in seen and config.window is not None:
    near = masks_within(config.window, positions, **seen)
  factors = rotary.query_factors(config, positions)
  contexts = {}
  if set(config.kinds) - {'local', 'no_rope'}:
    context = Context(*rotary.tables(config, positions), **seen, query_factors=factors)
    contexts = {kind: context for kind in config.kinds if kind not in ('local', 'no_rope')}
  if 'no_rope' in config.kinds:
    contexts['no_rope'] = Context(None, None, **seen, query_factors=factors)
  if 'local' in config.kinds:
    contexts['local'] = Context(
        *rotary.tables(config, positions, local=True), **near, query_factors=factors)
  return contexts


def _seen(positions, segment_ids, parent_ids, cache: Cache | None) -> dict[str, Any]:
  """What tokens may see where there is no window, as fields of `Context`."""
  if cache is not None and cache.suffix is not None:
    assert cache.prompts is not None
    return dict(shards=cache.prompts.shape[0])
  seen: dict[str, Any] = {}
  if cache is not None:
    size = cache.prefix[0].keys.shape[-1]
    seen['prefix_mask'] = jnp.arange(size) < cache.prefix_lengths[:, None]
  count = positions.shape[1]
  if is_long(count, sum(mask.shape[-1] for mask in seen.values())):
    order = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), positions.shape)
    return seen | dict(ids=AttentionIds(_int32(segment_ids), _int32(parent_ids), order))
  return seen | dict(self_mask=_self_mask(segment_ids, parent_ids))


def masks_within(window: int, positions, self_mask, prefix_mask=None) -> dict[str, Any]:
  """Masks of layers that see `window` positions, including a token's own: [N, T, ·] each.

  The position of a prompt's token is its place in the prefix. The other arguments are masks without
  a window, as in `attention.attend`.
  """
  def near(others):
    return positions[:, :, None] - others[:, None, :] < window

  masks = dict(self_mask=self_mask & near(positions))
  if prefix_mask is not None:
    b, size = prefix_mask.shape
    real = jnp.repeat(prefix_mask, positions.shape[0] // b, 0)[:, None]
    masks['prefix_mask'] = real & near(jnp.arange(size)[None])
  return masks


def _self_mask(segment_ids, parent_ids):
  """[N, T, T] bool: may token t see token s of its row."""
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  if parent_ids is not None:
    same |= (parent_ids[:, :, None] == segment_ids[:, None, :]) & (parent_ids != 0)[:, :, None]
  return same & jnp.tri(segment_ids.shape[1], dtype=bool)


def _int32(x):
  return None if x is None else x.astype(jnp.int32)
