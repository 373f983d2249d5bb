"""Drafts: tokens that a row may draw next, so that one pass of the model can check several.

What is drawn does not change. A row's token i is drawn with its own key from the logits that it
has; a draft only lets these logits be computed earlier, and is kept as long as it is the token that
is drawn there. So greedy rows keep their tokens, and sampled ones too: a draft is kept with the
probability that the model gives it.

Drafts are looked up: the longest text that a row has ended with before, in prompt or completion,
was followed by tokens, which are drafted again.

Departure from speculative sampling (arXiv:2302.01318, arXiv:2211.17192): a draft is compared with
what the row draws, not accepted with probability min(1, p/q) and drawn from the difference
otherwise. For drafts without a distribution of their own, such as these, both keep a draft equally
often. Only this way a row's key decides its tokens with drafts as without.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from r1jax.records import Rollout
from r1jax.runtime import sharding

LONGEST = 8    # tokens that are compared, at most


def put_tokens(table: jax.Array, new: jax.Array, columns: jax.Array) -> jax.Array:
  """`table` [N, S] with row n's `new` [N, T] from `columns[n]` on; what is beyond S is left out."""
  at = jnp.arange(table.shape[1]) - columns[:, None]
  for i in range(new.shape[1]):
    table = jnp.where(at == i, new[:, i:i + 1], table)
  return table


def look_up(texts: jax.Array, lengths: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """The tokens that followed when a row last ended as it does now.

  Of earlier places that agree with the end of the text the one with the most equal tokens before
  it is taken, of these the last. Where the text has too few tokens after it, they are repeated.

  Args:
    texts: [N, S] int32.
    lengths: [N] int32, tokens of each text, at least 1.
    count: tokens to draft.

  Returns:
    (drafts [N, count] int32, found [N] bool: whether even the last token occurred before).
  """
  size = texts.shape[1]
  places = jnp.arange(size)
  equal = jnp.zeros(texts.shape, jnp.int32)
  agrees = (places > 0) & (places < lengths[:, None])
  for back in range(1, LONGEST + 1):
    last = jnp.take_along_axis(texts, jnp.maximum(lengths - back, 0)[:, None], 1)
    before = jnp.pad(texts, ((0, 0), (back, 0)))[:, :size]
    agrees &= (before == last) & (places >= back)
    equal += agrees
  best = jnp.argmax(equal * size + places * (equal > 0), 1)
  found = jnp.max(equal, 1) > 0
  period = jnp.maximum(lengths - best, 1)
  at = best[:, None] + jnp.arange(count) % period[:, None]
  return jnp.take_along_axis(texts, at, 1), found


def count_kept(drafts: jax.Array, drawn: jax.Array, goes_on: jax.Array) -> jax.Array:
  """How many drafts of each row are kept: the first ones, as long as each is what was drawn.

  Args:
    drafts: [N, k] int32.
    drawn: [N, k] int32: what the row draws where it has kept all drafts before.
    goes_on: [N, k] bool: whether it draws there at all.

  Returns:
    [N] int32.
  """
  return jnp.sum(jnp.cumprod((drafts == drawn) & goes_on, 1, dtype=jnp.int32), 1)


def metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
  """How drafts did; empty where there were none.

  Args:
    rollouts: of one sampler.

  Returns:
    'drafts/accepted_share' of the tokens drafted, absent where none was found, and
    'drafts/tokens_per_step' of a row.
  """
  if any(rollout.drafts is None for rollout in rollouts):
    return {}
  drafted, kept = sum(sharding.to_host(rollout.drafts).sum(0) for rollout in rollouts)
  tokens = sum(sharding.to_host(rollout.mask).sum() for rollout in rollouts)
  shares = {'drafts/accepted_share': float(kept / drafted)} if drafted else {}
  return shares | {'drafts/tokens_per_step': float(tokens / (tokens - kept))}
