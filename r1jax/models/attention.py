"""Grouped-query attention over up to three parts, merged in one softmax: exact, nothing copied.

A row's queries attend to
  prefix   the prompt, kept once for the G rows of its group,           [B, K, ·, P]
  suffix   what the row has sampled so far, in a cache,                 [N, K, ·, S]
  self     the T tokens at hand, causally and within their segment,     [N, T, K, ·]
K key/value heads, R query heads for each, D head width. Scores and sums are float32. Of long rows
no scores and no masks [T, ·] are kept: `attend_long`, by blocks.

Keys are cached with the position axis last and values with it second to last. On a CPU the products
of one query a row are written as reductions over leading axes, which XLA fuses with the reading of
the layer's slice of the cache (1.10 s against 1.88 s for the dot-product form, 128 steps of the
4.07M benchmark model). A TPU's compiler makes float32 copies of keys and values for that form, so
that there, and on a GPU, they are dots.
"""
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels.flash import flash_attention
from r1jax.kernels.marks import Marks
from r1jax.models.config import LinearScaling, ModelConfig, RopeScaling, YarnScaling
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding

NEVER = -1e30   # a masked score: finite, so that a fully masked row stays finite

LONG = 512   # from so many tokens on, or as many scores a head, blocks are the faster form on a CPU


@pytree_dataclass
class KeyValue:
  """Keys and values of some positions, as they lie in a cache.

  Latent attention keeps the rotated key, shared by all heads, as `keys` and the latent, from which
  the rest of the keys comes too, as `values`: K = 1, and their D differ.
  """
  keys: jax.Array      # [..., K, D, positions]
  values: jax.Array    # [..., K, positions, D]


class Context(NamedTuple):
  """What the attention of a layer needs beside its input: the masks of `attend`, or marks."""
  sines: jax.Array                     # [N, T, rotated width / 2]
  cosines: jax.Array
  self_mask: jax.Array | None = None
  prefix_mask: jax.Array | None = None
  suffix_mask: jax.Array | None = None
  prefix: KeyValue | None = None       # of this layer
  suffix: KeyValue | None = None
  marks: Marks | None = None           # where it is long, and then in place of self_mask
  window: int | None = None            # with marks: where there is one, no mask tells it

  def attend(self, queries: jax.Array, keys: jax.Array, values: jax.Array, **others) -> jax.Array:
    """Over the cache and these tokens; `others` go on to the form and may replace a part."""
    options = dict(prefix=self.prefix, prefix_mask=self.prefix_mask,
                   suffix=self.suffix, suffix_mask=self.suffix_mask) | others
    if self.marks is None:
      return attend(queries, keys, values, self.self_mask, **options)
    return attend_long(queries, keys, values, self.marks, window=self.window, **options)


def is_long(tokens: int, cached: int) -> bool:
  """Whether so many tokens a row, after so many cached ones, are attended by blocks."""
  return tokens > 1 and tokens * (tokens + cached) >= LONG ** 2


def attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, self_mask: jax.Array, *,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    suffix: KeyValue | None = None, suffix_mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
  """softmax(scale·q·k)·v over prefix, suffix and self together.

  Args:
    queries: [N, T, K, R, D].
    keys: [N, T, K, D] of the same tokens.
    values: [N, T, K, E] of the same tokens; E is D but in latent attention.
    self_mask: [N, T, T] bool, may token t see token s.
    prefix: keys and values of B prompts, N a multiple of B; rows of a group are neighbours.
    prefix_mask: [B, P] bool, which positions are real; or [N, T, P], which a token sees.
    suffix: keys and values of each row's earlier tokens.
    suffix_mask: [S] or [N, S] bool, which are real; or [N, T, S].
    scale: None is 1/√D.

  Returns:
    [N, T, K, R, E] in the queries' dtype.
  """
  n, t, k, r, d = queries.shape
  dtype = queries.dtype
  queries = queries * (d ** -0.5 if scale is None else scale)
  rows = jnp.moveaxis(queries, 1, 3)                                     # [N, K, R, T, D]
  parts = []                                                             # (scores, weigh)

  def weigh_self(weights):
    if t == 1:
      return weights * values[:, 0, :, None, None]
    return jnp.einsum('nkrts,nskd->nkrtd', weights, values, preferred_element_type=jnp.float32)

  if t == 1:
    scores = jnp.sum(rows.astype(jnp.float32) * keys[:, 0, :, None, None], -1, keepdims=True)
  else:
    scores = jnp.einsum('nkrtd,nskd->nkrts', rows, keys, preferred_element_type=jnp.float32)
  parts.append((jnp.where(self_mask[:, None, None], scores, NEVER), weigh_self))

  if prefix is not None:
    b, length = prefix.keys.shape[0], prefix.keys.shape[-1]
    g = n // b
    by_group = jnp.moveaxis(rows.reshape(b, g, k, r, t, d), 1, 2).reshape(b, k, g * r * t, d)
    scores = jnp.einsum('bkqd,bkdp->bkqp', by_group, prefix.keys,
                        preferred_element_type=jnp.float32)
    if prefix_mask.ndim == 2:
      scores = jnp.where(prefix_mask[:, None, None], scores, NEVER)
    split = lambda x: jnp.moveaxis(
        x.reshape(b, k, g, r, t, x.shape[-1]), 2, 1).reshape(n, k, r, t, x.shape[-1])

    def weigh_prefix(weights):
      weights = jnp.moveaxis(weights.reshape(b, g, k, r, t, length), 1, 2)
      return split(jnp.einsum('bkqp,bkpd->bkqd', weights.reshape(b, k, g * r * t, length),
                              prefix.values, preferred_element_type=jnp.float32))

    scores = split(scores)
    if prefix_mask.ndim == 3:
      scores = jnp.where(prefix_mask[:, None, None], scores, NEVER)
    parts.append((scores, weigh_prefix))

  if suffix is not None:
    mask = (suffix_mask[:, None, None] if suffix_mask.ndim == 3 else
            suffix_mask.reshape((-1, 1, 1, 1, suffix_mask.shape[-1])))
    if t == 1 and sharding.platform() == 'cpu':
      scores = jnp.sum(rows[:, :, :, 0, :, None].astype(jnp.float32) * suffix.keys[:, :, None], -2)
      scores = scores[:, :, :, None]
      weigh_suffix = lambda w: jnp.sum(
          w[:, :, :, 0, :, None] * suffix.values[:, :, None], -2)[:, :, :, None]
    else:
      scores = jnp.einsum('nkrtd,nkds->nkrts', rows, suffix.keys,
                          preferred_element_type=jnp.float32)
      weigh_suffix = lambda w: jnp.einsum('nkrts,nksd->nkrtd', w, suffix.values,
                                          preferred_element_type=jnp.float32)
    parts.append((jnp.where(mask, scores, NEVER), weigh_suffix))

  return jnp.moveaxis(_merge(parts, dtype), 3, 1).astype(dtype)


def attend_long(
    queries: jax.Array, keys: jax.Array, values: jax.Array, marks: Marks, *,
    window: int | None = None,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    suffix: KeyValue | None = None, suffix_mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
  """`attend` in memory linear in length: each part by blocks, then merged by their log-sum-exps.

  On a mesh rows are split by whole groups and heads as everywhere, queries along 'context' too;
  each device has all keys and values of its rows and heads.

  Args:
    queries, keys, values, prefix, suffix, scale: as in `attend`.
    marks: of the tokens, with places, and with positions where there is a window.
    window: how many positions a token sees, its own included; None: all. A prompt's place is its
      position, and the suffix directly precedes these tokens.
    prefix_mask: [B, P] bool.
    suffix_mask: [S] or [N, S] bool.

  Returns:
    [N, T, K, R, E] in the queries' dtype.
  """
  n, _, _, _, d = queries.shape
  queries = queries * (d ** -0.5 if scale is None else scale)
  anyone = Marks(jnp.ones_like(marks.segments), positions=marks.positions)

  def cached(part, mask, rows, first):
    """A part all of whose real positions are seen, the first of them at position `first`."""
    mask = jnp.broadcast_to(mask, (rows, mask.shape[-1])).astype(jnp.int32)
    positions = None if window is None else jnp.broadcast_to(
        first + jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape)
    return (jnp.transpose(part.keys, (0, 3, 1, 2)), jnp.swapaxes(part.values, 1, 2),
            anyone, Marks(mask, positions=positions))

  parts = [(keys, values, marks, marks._replace(parents=None))]
  if prefix is not None:
    parts.append(cached(prefix, prefix_mask, prefix.keys.shape[0], 0))
  if suffix is not None:
    first = 0
    if window is not None:
      first = marks.positions[:, :1] - jnp.sum(suffix_mask, -1, keepdims=True, dtype=jnp.int32)
    parts.append(cached(suffix, suffix_mask, n, first))
  return _on_mesh(functools.partial(_merge_long, window=window), queries, parts)


def _merge_long(queries, parts, *, window):
  """Parts are (keys, values, marks of the queries, of the keys), keys of all rows or of groups."""
  def of_part(keys, values, query_marks, key_marks):
    # The rows of a group are one row of as many more tokens to the keys that they share.
    group = lambda x: x.reshape(keys.shape[0], -1, *x.shape[2:])
    out, log_total = flash_attention(
        group(queries), keys, values, jax.tree.map(group, query_marks), key_marks, window)
    split = lambda x: x.reshape(*queries.shape[:2], *x.shape[2:])
    return split(out), split(log_total)

  outs, log_totals = zip(*(of_part(*part) for part in parts))
  if len(parts) == 1:
    return outs[0]
  log_totals = jnp.stack(log_totals)
  weights = jnp.exp(log_totals - jax.nn.logsumexp(log_totals, 0))[..., None]
  return sum(w * out for w, out in zip(weights, outs)).astype(queries.dtype)


def _on_mesh(run, queries, parts):
  """run(queries, parts) with each device's rows, heads and queries: XLA cannot split a kernel."""
  if not sharding.is_multi_device():
    return run(queries, parts)
  mesh = jax.sharding.get_abstract_mesh()
  shape = min(keys.shape[0] for keys, *_ in parts), *queries.shape[1:3]
  rows, tokens, heads = sharding.spec_that_divides(mesh, shape, ('batch', 'sequence', 'kv_heads'))
  of_marks = lambda marks, spec: jax.tree.map(lambda _: spec, marks)
  of_keys = P(rows, None, heads)
  specs = [(of_keys, of_keys, of_marks(query_marks, P(rows, tokens)), of_marks(key_marks, P(rows)))
           for _, _, query_marks, key_marks in parts]
  of_queries = P(rows, tokens, heads)
  return jax.shard_map(run, mesh=mesh, check_vma=False, in_specs=(of_queries, specs),
                       out_specs=of_queries)(queries, parts)


def attend_latent(
    queries: jax.Array, latent_queries: jax.Array, keys: jax.Array, latents: jax.Array,
    self_mask: jax.Array, *, scale: float,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    suffix: KeyValue | None = None, suffix_mask: jax.Array | None = None,
) -> jax.Array:
  """softmax(scale·(q·k + q'·c))·c: all heads read one rotated key k and one latent c a position.

  Args:
    queries: [N, T, H, D] rotated; latent_queries: [N, T, H, E], carried into the latent's space.
    keys: [N, T, D]; latents: [N, T, E]. Else as in `attend`, with K = 1 in prefix and suffix.

  Returns:
    [N, T, H, E] in the queries' dtype.
  """
  n, t, h, _ = queries.shape
  product = lambda form, *operands: jnp.einsum(
      form, *operands, preferred_element_type=jnp.float32)
  queries, latent_queries = queries * scale, latent_queries * scale
  scores = (product('nthd,nsd->nhts', queries, keys)
            + product('nthe,nse->nhts', latent_queries, latents))
  parts = [(jnp.where(self_mask[:, None], scores, NEVER),
            lambda weights: product('nhts,nse->nhte', weights, latents))]

  def add(cached, mask, rows):
    """A part whose `rows` positions serve n // rows neighbouring rows of queries each."""
    keys, latents = cached.keys[:, 0], cached.values[:, 0]
    group = lambda x: x.reshape(rows, n // rows, *x.shape[1:])
    scores = (product('bgthd,bds->bghts', group(queries), keys)
              + product('bgthe,bse->bghts', group(latent_queries), latents))
    scores = jnp.where(mask, scores.reshape(n, h, t, -1), NEVER)
    parts.append((scores, lambda weights: product(
        'bghts,bse->bghte', group(weights), latents).reshape(n, h, t, -1)))

  if prefix is not None:
    b = prefix.keys.shape[0]
    add(prefix, jnp.repeat(prefix_mask, n // b, 0)[:, None, None], b)
  if suffix is not None:
    add(suffix, suffix_mask.reshape((-1, 1, 1, suffix_mask.shape[-1])), n)
  return jnp.moveaxis(_merge(parts, queries.dtype), 1, 2).astype(queries.dtype)


def _merge(parts, dtype) -> jax.Array:
  """What the weights of one softmax over all parts' scores give; they enter products as `dtype`."""
  largest = jax.lax.stop_gradient(
      jnp.max(jnp.stack([jnp.max(s, -1) for s, _ in parts]), 0))[..., None]
  exps = [jnp.exp(scores - largest) for scores, _ in parts]
  total = sum(jnp.sum(e, -1, keepdims=True) for e in exps)
  return sum(weigh(e.astype(dtype)) for e, (_, weigh) in zip(exps, parts)) / total


def rotary_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | LinearScaling | YarnScaling | None
) -> jax.Array:
  """Rotary frequencies [head_dim/2], stretched where `scaling` is given."""
  frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  if scaling is None:
    return frequencies
  if isinstance(scaling, LinearScaling):
    return frequencies / scaling.factor
  if isinstance(scaling, YarnScaling):
    # The place, among the frequencies, of the one that turns so often in the original length.
    place = lambda turns: head_dim * math.log(
        scaling.original_max_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low = max(math.floor(place(scaling.fast_turns)), 0)
    high = min(math.ceil(place(scaling.slow_turns)), head_dim - 1)
    smooth = 1 - (jnp.arange(head_dim // 2) - low) / max(high - low, 0.001)
  else:
    turns = scaling.original_max_length * frequencies / (2 * jnp.pi)
    smooth = (turns - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor)
  smooth = jnp.clip(smooth, 0, 1)
  return frequencies * (smooth + (1 - smooth) / scaling.factor)


def rotary_tables(
    config: ModelConfig, positions: jax.Array, *, local: bool = False
) -> tuple[jax.Array, jax.Array]:
  """(sines, cosines) [N, T, rotated width / 2] of positions [N, T]."""
  width = config.latent.rope_dim if config.latent else config.head_dim
  theta, scaling = config.rope_theta, config.rope_scaling
  if local:
    theta, scaling = config.local_rope_theta or theta, None
  angles = positions[..., None].astype(jnp.float32) * rotary_frequencies(width, theta, scaling)
  sines, cosines = jnp.sin(angles), jnp.cos(angles)
  if isinstance(scaling, YarnScaling):
    size = yarn_mscale(scaling, scaling.mscale) / yarn_mscale(scaling, scaling.mscale_all_dim)
    sines, cosines = sines * size, cosines * size
  return sines, cosines


def yarn_mscale(scaling: YarnScaling, mscale: float) -> float:
  """0.1·mscale·ln(factor) + 1, and 1 where nothing is stretched."""
  return 0.1 * mscale * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0


def rotate(
    x: jax.Array, sines: jax.Array, cosines: jax.Array, *, interleaved: bool = False
) -> jax.Array:
  """Rotary positions (arXiv:2104.09864): x [N, T, K, h, D], sines and cosines [N, T, D/2].

  Halves are paired as in Hugging Face, or with `interleaved` neighbours (in and out are then
  ordered differently, alike for queries and keys).
  """
  x32 = x.astype(jnp.float32)
  first, second = (
      (x32[..., 0::2], x32[..., 1::2]) if interleaved else jnp.split(x32, 2, axis=-1))
  sines, cosines = sines[:, :, None, None], cosines[:, :, None, None]    # [N, T, 1, 1, D/2]
  return jnp.concatenate([first * cosines - second * sines,
                          second * cosines + first * sines], -1).astype(x.dtype)
