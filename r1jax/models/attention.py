"""Grouped-query attention of whole rows, over one or two sets of keys in one softmax: exact.

A row's queries attend to
  prefix   the prompt, kept once for the G rows of its group,            [B, K, ·, P]
  self     the T tokens at hand, causally and within their segment,      [N, T, K, ·]
with K key/value heads, R query heads for each, D head width. Scores and sums are float32. For long
rows `attend_long` works by blocks: neither scores nor masks [T, ·] are kept. Rows that decode
attend as `kernels.decode` says.

Keys are cached with the position axis last, values with it second to last.
"""
from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels.attention_ids import AttentionIds
from r1jax.kernels.decode import KeySet, columns_axis, decode_attention
from r1jax.kernels.decode_steps import Steps
from r1jax.kernels.flash import flash_attention
from r1jax.models import quantized
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

  In eight bits, they are multiplied with their scales, one per position and head.
  """
  keys: jax.Array                          # [..., K, D, positions]
  values: jax.Array                        # [..., K, positions, D]
  key_scales: jax.Array | None = None      # [..., K, positions] float32
  value_scales: jax.Array | None = None    # [..., K, positions] float32

  def stored(self, dtype: Any) -> 'KeyValue':
    """Keys and values as a cache of this dtype keeps them; '' for their own."""
    new = self
    if dtype:
      keys = quantized.quantize(self.keys, (-2,), dtype)
      values = quantized.quantize(self.values, (-1,), dtype)
      new = KeyValue(keys.values, values.values, keys.scales[..., 0, :], values.scales[..., 0])
    if columns_axis('keys') == -1:
      return new
    return dataclasses.replace(
        new, keys=new.keys.swapaxes(-1, -2), values=new.values.swapaxes(-1, -2))


class Context(NamedTuple):
  """What a layer's attention needs besides its input: masks, attention ids, or cached rows."""
  sines: jax.Array | None               # [N, T, rotated width / 2]; None: nothing is rotated
  cosines: jax.Array | None
  self_mask: jax.Array | None = None    # [N, T, T] bool; None where there are ids
  prefix_mask: jax.Array | None = None
  prefix: KeyValue | None = None        # of this layer
  ids: AttentionIds | None = None       # of long rows
  window: int | None = None             # with ids; otherwise the masks contain the window
  query_factors: jax.Array | None = None   # [N, T], by which queries are multiplied
  cached: tuple[KeySet, ...] = ()       # of rows that decode, see `kv_cache.key_sets`
  steps: tuple[Steps, ...] | None = None   # of `cached`, see `decode.make_steps`
  layer: jax.Array | None = None        # int32 scalar: which one of the stacks in `cached`
  shards: int = 1                       # of these rows, see `decode_attention`

  def attend(
      self, queries: jax.Array, keys: jax.Array, values: jax.Array, **others: Any) -> jax.Array:
    """Attends to the cache and to these tokens, by `decode`, `attend` or `attend_long`.

    Args:
      queries: [N, T, K, R, D].
      keys: [N, T, K, D].
      values: [N, T, K, E].
      **others: other arguments of these functions; they may replace `prefix`.
    """
    if self.cached:
      return self.decode(queries, keys, values, **others)
    options = dict(prefix=self.prefix, prefix_mask=self.prefix_mask) | others
    if self.ids is None:
      assert self.self_mask is not None
      return attend(queries, keys, values, self.self_mask, **options)
    return attend_long(queries, keys, values, self.ids, window=self.window, **options)

  def decode(
      self, queries: jax.Array, keys: jax.Array, values: jax.Array, *,
      scale: float | None = None, value_queries: jax.Array | None = None) -> jax.Array:
    """Attends to what each row has cached and, causally, to its tokens at hand.

    Each token decodes as a row of its own. Those before it are a further set.

    Args:
      queries: [N, T, K, R, D].
      keys: [N, T, K, D].
      values: [N, T, K, E].
      scale: of the scores; None is 1/√D.
      value_queries: [N, T, K, R, E] or None, as for `decode_attention`.
    """
    assert self.layer is not None
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    cached, shape = self.cached, queries.shape
    if shape[1] > 1:
      *others, at_hand = cached
      own = KeyValue(jnp.transpose(keys, (0, 2, 3, 1))[None], jnp.swapaxes(values, 1, 2)[None])
      own = own.stored('' if at_hand.key_scales is None else at_hand.keys.dtype)
      cached = (*others, at_hand._replace(
          keys=own.keys, values=own.values, key_scales=own.key_scales,
          value_scales=own.value_scales))

    def by_token(x):
      return x.reshape(-1, *x.shape[2:])
    out = decode_attention(
        scale * by_token(queries), by_token(keys), by_token(values), self.layer, cached,
        value_queries=None if value_queries is None else scale * by_token(value_queries),
        steps=self.steps, shards=self.shards)
    return out.reshape(*shape[:2], *out.shape[1:])


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
    scale: float | None = None,
) -> jax.Array:
  """softmax(scale·q·k)·v over prefix and self together.

  Args:
    queries: [N, T, K, R, D].
    keys: [N, T, K, D] of the same tokens.
    values: [N, T, K, E] of the same tokens; E is D except in latent attention.
    self_mask: [N, T, T] bool, may token t see token s.
    prefix: keys and values of B prompts, N a multiple of B; rows of a group are neighbours.
    prefix_mask: [B, P] bool, which positions are real; or [N, T, P], which a token sees.
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


def _merge(sets: list[_Scored], dtype) -> jax.Array:
  """One softmax over the scores of all sets; the weights enter products as `dtype`."""
  largest = jax.lax.stop_gradient(
      jnp.max(jnp.stack([jnp.max(scores, -1) for scores, _ in sets]), 0))[..., None]
  exps = [jnp.exp(scores - largest) for scores, _ in sets]
  total = sum(jnp.sum(e, -1, keepdims=True) for e in exps)
  out: Any = sum(weigh(e.astype(dtype)) for e, (_, weigh) in zip(exps, sets))
  return out / total


class _LongSet(NamedTuple):
  """One set of keys of `attend_long`; its rows are all N rows, or one per group."""
  keys: jax.Array             # [rows, positions, K, D]
  values: jax.Array           # [rows, positions, K, E]
  query_ids: AttentionIds     # [N, T]
  key_ids: AttentionIds       # [rows, positions]


def attend_long(
    queries: jax.Array, keys: jax.Array, values: jax.Array, ids: AttentionIds, *,
    window: int | None = None,
    prefix: KeyValue | None = None, prefix_mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
  """softmax(scale·q·k)·v over prefix and self together, in memory linear in length.

  Each set of keys is attended to by blocks; results are merged by their log-sum-exps. On a mesh,
  rows are split by whole groups, heads as everywhere, and queries along 'context' too; each device
  has all keys and values of its rows and heads.

  Args:
    queries: [N, T, K, R, D].
    keys: [N, T, K, D] of the same tokens.
    values: [N, T, K, E] of the same tokens; E is D except in latent attention.
    ids: [N, T] each, with `order`, and with `positions` where there is a window.
    window: number of positions that a token sees, including its own; None for all. The position of
      a prompt's token is its place in the prefix.
    prefix: keys and values of B prompts, N a multiple of B; rows of a group are neighbours.
    prefix_mask: [B, P] bool, which positions are real.
    scale: None is 1/√D.

  Returns:
    [N, T, K, R, E] in the queries' dtype.
  """
  queries = queries * (queries.shape[-1] ** -0.5 if scale is None else scale)
  sets = [_LongSet(keys, values, ids, ids._replace(parent_ids=None))]
  if prefix is not None:
    assert prefix_mask is not None
    mask = prefix_mask.astype(jnp.int32)
    positions = None if window is None else jnp.broadcast_to(
        jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape)
    sets.append(_LongSet(
        jnp.transpose(prefix.keys, (0, 3, 1, 2)), jnp.swapaxes(prefix.values, 1, 2),
        AttentionIds(jnp.ones_like(ids.segment_ids), positions=ids.positions),
        AttentionIds(mask, positions=positions)))
  return _on_mesh(functools.partial(_merge_long, window=window), queries, sets)


def _merge_long(queries, sets: list[_LongSet], *, window):
  outs, log_sum_exps = zip(*(_attend_to_set(queries, key_set, window) for key_set in sets))
  if len(sets) == 1:
    return outs[0]
  stacked = jnp.stack(log_sum_exps)
  weights = jnp.exp(stacked - jax.nn.logsumexp(stacked, 0))[..., None]
  return sum(w * out for w, out in zip(weights, outs)).astype(queries.dtype)


def _attend_to_set(queries, key_set: _LongSet, window):
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


def _on_mesh(run, queries, sets: list[_LongSet]):
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
  specs = [_LongSet(of_keys, of_keys, specs_of(key_set.query_ids, P(rows, tokens)),
                   specs_of(key_set.key_ids, P(rows)))
           for key_set in sets]
  return jax.shard_map(run, mesh=mesh, check_vma=False, in_specs=(of_queries, specs),
                       out_specs=of_queries)(queries, sets)
