"""Grouped-query attention over up to three sets of keys in one softmax: exact, nothing is copied.

A row's queries attend to
  prefix   the prompt, kept once for the G rows of its group,            [B, K, ·, P]
  suffix   what the row has sampled so far, in a cache,                  [N, K, ·, S]
  self     the T tokens at hand, causally and within their segment,      [N, T, K, ·]
with K key/value heads, R query heads for each, D head width. Scores and sums are float32. For long
rows `attend_long` works by blocks: neither scores nor masks [T, ·] are kept.

Keys are cached with the position axis last, values with it second to last. On a CPU, the products
of one query per row with the suffix are written as reductions over leading axes, which XLA fuses
with the reading of the layer's slice of the cache (1.10 s against 1.88 s for the dot-product form,
128 steps of the 4.07M benchmark model). A TPU's compiler makes float32 copies of keys and values
for that form, so on TPU and GPU they are dot products.
"""
from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels.attention_ids import AttentionIds
from r1jax.kernels.flash import flash_attention
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding

MASKED_SCORE = -1e30   # finite, so that a fully masked row stays finite

# From this many tokens on (or as many scores per head) blocks are the faster form on a CPU.
LONG = 512


@pytree_dataclass
class KeyValue:
  """Keys and values of some positions, as they are stored in a cache.

  Latent attention keeps the rotated key, which all heads share, as `keys`, and the latent, from
  which values and the rest of the keys are made, as `values`; K is then 1, and their D differ.
  """
  keys: jax.Array      # [..., K, D, positions]
  values: jax.Array    # [..., K, positions, D]


class Context(NamedTuple):
  """What a layer's attention needs besides its input: the masks of `attend`, or attention ids."""
  sines: jax.Array | None               # [N, T, rotated width / 2]; None: nothing is rotated
  cosines: jax.Array | None
  self_mask: jax.Array | None = None    # [N, T, T] bool; None where there are ids
  prefix_mask: jax.Array | None = None
  suffix_mask: jax.Array | None = None
  prefix: KeyValue | None = None        # of this layer
  suffix: KeyValue | None = None
  ids: AttentionIds | None = None       # of long rows
  window: int | None = None             # with ids; otherwise the masks contain the window
  query_factors: jax.Array | None = None   # [N, T], by which queries are multiplied

  def attend(
      self, queries: jax.Array, keys: jax.Array, values: jax.Array, **others: Any) -> jax.Array:
    """Attends to the cache and to these tokens, by `attend` or `attend_long`.

    Args:
      queries: [N, T, K, R, D].
      keys: [N, T, K, D].
      values: [N, T, K, E].
      **others: other arguments of these functions; they may replace `prefix` and `suffix`.
    """
    options = dict(prefix=self.prefix, prefix_mask=self.prefix_mask,
                   suffix=self.suffix, suffix_mask=self.suffix_mask) | others
    if self.ids is None:
      assert self.self_mask is not None
      return attend(queries, keys, values, self.self_mask, **options)
    return attend_long(queries, keys, values, self.ids, window=self.window, **options)


def is_long(tokens: int, cached: int) -> bool:
  """Whether rows of `tokens` tokens after `cached` cached ones are attended to by blocks."""
  return tokens > 1 and tokens * (tokens + cached) >= LONG ** 2


class _Scored(NamedTuple):
  """One set of keys: the scores of all queries, and what weights of these scores give."""
  scores: jax.Array                             # [N, K, R, T, positions] float32, masked
  weigh: Callable[[jax.Array], jax.Array]       # weights, as the scores -> [N, K, R, T, E] float32


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
    values: [N, T, K, E] of the same tokens; E is D except in latent attention.
    self_mask: [N, T, T] bool, may token t see token s.
    prefix: keys and values of B prompts, N a multiple of B; rows of a group are neighbours.
    prefix_mask: [B, P] bool, which positions are real; or [N, T, P], which a token sees.
    suffix: keys and values of each row's earlier tokens.
    suffix_mask: [S] or [N, S] bool, which are real; or [N, T, S], which a token sees.
    scale: None is 1/√D.

  Returns:
    [N, T, K, R, E] in the queries' dtype.
  """
  dtype = queries.dtype
  queries = queries * (queries.shape[-1] ** -0.5 if scale is None else scale)
  rows = jnp.moveaxis(queries, 1, 3)                                     # [N, K, R, T, D]
  sets = [_score_self(rows, keys, values, self_mask)]
  if prefix is not None:
    sets.append(_score_prefix(rows, prefix, prefix_mask))
  if suffix is not None:
    sets.append(_score_suffix(rows, suffix, suffix_mask))
  return jnp.moveaxis(_merge(sets, dtype), 3, 1).astype(dtype)


def _score_self(rows, keys, values, mask) -> _Scored:
  """The tokens themselves; with one token per row the products are written elementwise."""
  t = rows.shape[3]
  if t == 1:
    scores = jnp.sum(rows.astype(jnp.float32) * keys[:, 0, :, None, None], -1, keepdims=True)
  else:
    scores = jnp.einsum('nkrtd,nskd->nkrts', rows, keys, preferred_element_type=jnp.float32)

  def weigh(weights):
    if t == 1:
      return weights * values[:, 0, :, None, None]
    return jnp.einsum('nkrts,nskd->nkrtd', weights, values, preferred_element_type=jnp.float32)
  return _Scored(jnp.where(mask[:, None, None], scores, MASKED_SCORE), weigh)


def _score_prefix(rows, prefix: KeyValue, mask) -> _Scored:
  """The prompts: the queries of a group are one batch of G·R·T queries of its prompt's keys."""
  n, k, r, t, d = rows.shape
  b = prefix.keys.shape[0]
  g = n // b

  def by_group(x):
    return jnp.moveaxis(x.reshape(b, g, k, r, t, x.shape[-1]), 1, 2).reshape(
        b, k, g * r * t, x.shape[-1])

  def by_row(x):
    return jnp.moveaxis(x.reshape(b, k, g, r, t, x.shape[-1]), 2, 1).reshape(
        n, k, r, t, x.shape[-1])

  scores = jnp.einsum('bkqd,bkdp->bkqp', by_group(rows), prefix.keys,
                      preferred_element_type=jnp.float32)
  if mask.ndim == 2:
    scores = jnp.where(mask[:, None, None], scores, MASKED_SCORE)
  scores = by_row(scores)
  if mask.ndim == 3:
    scores = jnp.where(mask[:, None, None], scores, MASKED_SCORE)

  def weigh(weights):
    return by_row(jnp.einsum('bkqp,bkpd->bkqd', by_group(weights), prefix.values,
                             preferred_element_type=jnp.float32))
  return _Scored(scores, weigh)


def _score_suffix(rows, suffix: KeyValue, mask) -> _Scored:
  """Each row's own cached tokens; the module's docstring says why CPUs have a form of their own."""
  mask = (mask[:, None, None] if mask.ndim == 3 else
          mask.reshape((-1, 1, 1, 1, mask.shape[-1])))
  if rows.shape[3] == 1 and sharding.platform() == 'cpu':
    scores = jnp.sum(rows[:, :, :, 0, :, None].astype(jnp.float32) * suffix.keys[:, :, None], -2)
    scores = scores[:, :, :, None]

    def weigh(weights):
      return jnp.sum(
          weights[:, :, :, 0, :, None] * suffix.values[:, :, None], -2)[:, :, :, None]
  else:
    scores = jnp.einsum('nkrtd,nkds->nkrts', rows, suffix.keys, preferred_element_type=jnp.float32)

    def weigh(weights):
      return jnp.einsum('nkrts,nksd->nkrtd', weights, suffix.values,
                        preferred_element_type=jnp.float32)
  return _Scored(jnp.where(mask, scores, MASKED_SCORE), weigh)


def _merge(sets: list[_Scored], dtype) -> jax.Array:
  """One softmax over the scores of all sets; the weights enter products as `dtype`."""
  largest = jax.lax.stop_gradient(
      jnp.max(jnp.stack([jnp.max(scores, -1) for scores, _ in sets]), 0))[..., None]
  exps = [jnp.exp(scores - largest) for scores, _ in sets]
  total = sum(jnp.sum(e, -1, keepdims=True) for e in exps)
  out: Any = sum(weigh(e.astype(dtype)) for e, (_, weigh) in zip(exps, sets))
  return out / total


class _KeySet(NamedTuple):
  """One set of keys of `attend_long`; its rows are all N rows, or one per group."""
  keys: jax.Array             # [rows, positions, K, D]
  values: jax.Array           # [rows, positions, K, E]
  query_ids: AttentionIds     # [N, T]
  key_ids: AttentionIds       # [rows, positions]


def attend_long(
    queries: jax.Array, keys: jax.Array, values: jax.Array, ids: AttentionIds, *,
    window: int | None = None,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    suffix: KeyValue | None = None, suffix_mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
  """softmax(scale·q·k)·v over prefix, suffix and self together, in memory linear in length.

  Each set of keys is attended to by blocks; results are merged by their log-sum-exps. On a mesh,
  rows are split by whole groups, heads as everywhere, and queries along 'context' too; each device
  has all keys and values of its rows and heads.

  Args:
    queries: [N, T, K, R, D].
    keys: [N, T, K, D] of the same tokens.
    values: [N, T, K, E] of the same tokens; E is D except in latent attention.
    ids: [N, T] each, with `order`, and with `positions` where there is a window.
    window: number of positions that a token sees, including its own; None for all. The position of
      a prompt's token is its place in the prefix, and the suffix directly precedes these tokens.
    prefix: keys and values of B prompts, N a multiple of B; rows of a group are neighbours.
    prefix_mask: [B, P] bool, which positions are real.
    suffix: keys and values of each row's earlier tokens.
    suffix_mask: [S] or [N, S] bool, which positions are real.
    scale: None is 1/√D.

  Returns:
    [N, T, K, R, E] in the queries' dtype.
  """
  n, _, _, _, d = queries.shape
  queries = queries * (d ** -0.5 if scale is None else scale)
  all_real = AttentionIds(jnp.ones_like(ids.segment_ids), positions=ids.positions)

  def cached(key_value, mask, rows, first):
    """A cached set: all real positions are seen; `first` is the position of its first place."""
    mask = jnp.broadcast_to(mask, (rows, mask.shape[-1])).astype(jnp.int32)
    positions = None if window is None else jnp.broadcast_to(
        first + jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape)
    return _KeySet(jnp.transpose(key_value.keys, (0, 3, 1, 2)),
                   jnp.swapaxes(key_value.values, 1, 2),
                   all_real, AttentionIds(mask, positions=positions))

  sets = [_KeySet(keys, values, ids, ids._replace(parent_ids=None))]
  if prefix is not None:
    sets.append(cached(prefix, prefix_mask, prefix.keys.shape[0], 0))
  if suffix is not None:
    assert suffix_mask is not None
    first: Any = 0
    if window is not None:
      assert ids.positions is not None
      first = ids.positions[:, :1] - jnp.sum(suffix_mask, -1, keepdims=True, dtype=jnp.int32)
    sets.append(cached(suffix, suffix_mask, n, first))
  return _on_mesh(functools.partial(_merge_long, window=window), queries, sets)


def _merge_long(queries, sets: list[_KeySet], *, window):
  outs, log_sum_exps = zip(*(_attend_to_set(queries, key_set, window) for key_set in sets))
  if len(sets) == 1:
    return outs[0]
  stacked = jnp.stack(log_sum_exps)
  weights = jnp.exp(stacked - jax.nn.logsumexp(stacked, 0))[..., None]
  return sum(w * out for w, out in zip(weights, outs)).astype(queries.dtype)


def _attend_to_set(queries, key_set: _KeySet, window):
  """(out [N, T, K, R, E], log-sum-exp [N, T, K, R]) over one set of keys.

  Rows of a group share keys, so they are one row of G·T tokens to them.
  """
  def group(x):
    return x.reshape(key_set.keys.shape[0], -1, *x.shape[2:])

  def split(x):
    return x.reshape(*queries.shape[:2], *x.shape[2:])
  out, log_sum_exp = flash_attention(
      group(queries), key_set.keys, key_set.values, jax.tree.map(group, key_set.query_ids),
      key_set.key_ids, window)
  return split(out), split(log_sum_exp)


def _on_mesh(run, queries, sets: list[_KeySet]):
  """run(queries, sets) on each device's rows, heads and queries: XLA cannot split a kernel."""
  if not sharding.is_multi_device():
    return run(queries, sets)
  mesh = jax.sharding.get_abstract_mesh()
  shape = min(key_set.keys.shape[0] for key_set in sets), *queries.shape[1:3]
  rows, tokens, heads = sharding.spec_that_divides(mesh, shape, ('batch', 'sequence', 'kv_heads'))

  def specs_of(ids, spec):
    return jax.tree.map(lambda _: spec, ids)
  of_keys: Any = P(rows, None, heads)
  of_queries = P(rows, tokens, heads)
  specs = [_KeySet(of_keys, of_keys, specs_of(key_set.query_ids, P(rows, tokens)),
                   specs_of(key_set.key_ids, P(rows)))
           for key_set in sets]
  return jax.shard_map(run, mesh=mesh, check_vma=False, in_specs=(of_queries, specs),
                       out_specs=of_queries)(queries, sets)


def attend_latent(
    queries: jax.Array, latent_queries: jax.Array, keys: jax.Array, latents: jax.Array,
    self_mask: jax.Array, *, scale: float,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    suffix: KeyValue | None = None, suffix_mask: jax.Array | None = None,
) -> jax.Array:
  """softmax(scale·(q·k + q'·c))·c: all heads read one rotated key k and one latent c per position.

  Args:
    queries: [N, T, H, D], rotated.
    latent_queries: [N, T, H, E], mapped into the latent's space.
    keys: [N, T, D] of the same tokens.
    latents: [N, T, E] of the same tokens.
    self_mask: [N, T, T] bool, may token t see token s.
    scale: of the scores.
    prefix: rotated keys and latents of B prompts (K = 1), N a multiple of B.
    prefix_mask: [B, P] bool, which positions are real.
    suffix: rotated keys and latents of each row's earlier tokens (K = 1).
    suffix_mask: [S] or [N, S] bool, which positions are real.

  Returns:
    [N, T, H, E] in the queries' dtype.
  """
  queries, latent_queries = queries * scale, latent_queries * scale
  scores = (_einsum('nthd,nsd->nhts', queries, keys)
            + _einsum('nthe,nse->nhts', latent_queries, latents))
  sets = [_Scored(jnp.where(self_mask[:, None], scores, MASKED_SCORE),
                  lambda weights: _einsum('nhts,nse->nhte', weights, latents))]
  if prefix is not None:
    assert prefix_mask is not None
    b = prefix.keys.shape[0]
    mask = jnp.repeat(prefix_mask, queries.shape[0] // b, 0)[:, None, None]
    sets.append(_score_latents(queries, latent_queries, prefix, mask))
  if suffix is not None:
    assert suffix_mask is not None
    mask = suffix_mask.reshape((-1, 1, 1, suffix_mask.shape[-1]))
    sets.append(_score_latents(queries, latent_queries, suffix, mask))
  return jnp.moveaxis(_merge(sets, queries.dtype), 1, 2).astype(queries.dtype)


def _score_latents(queries, latent_queries, cached: KeyValue, mask) -> _Scored:
  """Cached rotated keys and latents, each row of which serves a group of neighbouring rows.

  Scores are [N, H, T, positions]; the mask broadcasts to them.
  """
  n, t, h, _ = queries.shape
  keys, latents = cached.keys[:, 0], cached.values[:, 0]
  rows = keys.shape[0]

  def group(x):
    return x.reshape(rows, n // rows, *x.shape[1:])

  scores = (_einsum('bgthd,bds->bghts', group(queries), keys)
            + _einsum('bgthe,bse->bghts', group(latent_queries), latents))
  scores = jnp.where(mask, scores.reshape(n, h, t, -1), MASKED_SCORE)

  def weigh(weights):
    return _einsum('bghts,bse->bghte', group(weights), latents).reshape(n, h, t, -1)
  return _Scored(scores, weigh)


def _einsum(form, *operands):
  return jnp.einsum(form, *operands, preferred_element_type=jnp.float32)
