"""Losses as pure functions of arrays: (loss, metrics), float32, masked exactly.

`completion_mask` is 1 on the tokens that count; what stands elsewhere, NaN included, never reaches
a value or a gradient. A `normalizer` replaces a loss's own divisor by that of a larger whole, so
that micro-batches, devices and hosts add up exactly to the loss of the whole.
"""
import jax
import jax.numpy as jnp

from r1jax import divergences
from r1jax.masked import masked_max, masked_sum, select

AGGREGATIONS = ('sequence_mean', 'token_mean', 'fixed_length')


def _sequence_weights(mask: jax.Array, aggregation: str) -> jax.Array:
  """[N, 1] or scalar weights that tokens have before the normaliser divides their sum."""
  if aggregation == 'sequence_mean':
    return 1 / jnp.maximum(jnp.sum(mask, 1, keepdims=True), 1)
  return jnp.float32(1)


def loss_normalizer(mask: jax.Array, aggregation: str, max_length: int | None = None) -> jax.Array:
  """What the weighted sum over tokens is divided by.

  'sequence_mean' (GRPO): the mean of each completion's mean: the number of completions, empty
  ones included. 'token_mean' (DAPO): the number of tokens. 'fixed_length' (Dr. GRPO): completions
  times `max_length`, a constant, by default the mask's width: padding then changes the loss, so
  give it.

  Args:
    mask: [N, C] completion mask.

  Raises:
    ValueError: for another `aggregation`.
  """
  if aggregation not in AGGREGATIONS:
    raise ValueError(f'aggregation={aggregation!r} is unknown: use one of {", ".join(AGGREGATIONS)}')
  if aggregation == 'token_mean':
    return jnp.maximum(jnp.sum(mask), 1)
  return jnp.float32(mask.shape[0] * (
      1 if aggregation == 'sequence_mean' else (max_length or mask.shape[1])))


def grpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float = 0.2, clip_epsilon_high: float = 0.2,
    aggregation: str = 'sequence_mean', normalizer: jax.Array | None = None,
    max_length: int | None = None, reference_logprobs: jax.Array | None = None,
    kl_coefficient: float = 0.0, kl_estimator: str = 'k3', token_count: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GRPO: −agg[min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) − β·KL] (arXiv:2402.03300, eq. 3).

  ρ = exp(logprobs − old_logprobs), per token. The gradient flows through `logprobs` alone.

  Args:
    logprobs: [N, C] of the policy, at the sampling temperature.
    old_logprobs: [N, C] of the parameters that the rollout began with; None when the batch is
      their first update: then ρ is 1 in value and the gradient is the policy gradient.
    advantages: [N] or [N, C].
    completion_mask: [N, C] of 0 and 1.
    clip_epsilon_low, clip_epsilon_high: how far ρ may fall below and rise above 1 (DAPO's
      clip-higher, arXiv:2503.14476, where they differ).
    aggregation: 'sequence_mean', 'token_mean' or 'fixed_length'; see `loss_normalizer`.
    normalizer: the divisor of a larger whole; by default this batch's own.
    max_length: the constant of 'fixed_length', in tokens.
    reference_logprobs: [N, C] of the reference; needed where kl_coefficient is not 0.
    kl_coefficient: β. The KL term also reaches completions whose advantage is zero.
    kl_estimator: 'k1', 'k2' or 'k3'; see `divergences` for what each one's gradient is.
    token_count: divides the metrics; by default this batch's own number of tokens.

  Returns:
    (loss, metrics): metrics are means over tokens, for the whole that `token_count` stands for.
    `clip_ratio/low` and `/high` count tokens on which the clip acts, `ratio/mean`, `ratio/max`,
    and `kl` where a reference is given.

  Raises:
    ValueError: for shapes that do not fit, an unknown word, or β without a reference.
  """
  if logprobs.ndim != 2 or completion_mask.shape != logprobs.shape:
    raise ValueError(f'grpo_loss: logprobs {logprobs.shape} and completion_mask '
                     f'{completion_mask.shape} do not fit: give both as [N, C]')
  if advantages.shape not in (logprobs.shape, logprobs.shape[:1]):
    raise ValueError(f'grpo_loss: advantages have shape {advantages.shape}: give '
                     f'[{logprobs.shape[0]}] or {list(logprobs.shape)}')
  for name, other in (('old_logprobs', old_logprobs), ('reference_logprobs', reference_logprobs)):
    if other is not None and other.shape != logprobs.shape:
      raise ValueError(f'grpo_loss: {name} have shape {other.shape}: give {list(logprobs.shape)}')
  if kl_coefficient and reference_logprobs is None:
    raise ValueError(f'grpo_loss: kl_coefficient={kl_coefficient} needs reference_logprobs: give '
                     'them or set it to 0')
  if kl_estimator not in divergences.ESTIMATORS:
    raise ValueError(f'kl_estimator={kl_estimator!r} is unknown: use one of '
                     f'{", ".join(divergences.ESTIMATORS)}')
  mask = completion_mask.astype(jnp.float32)
  own = loss_normalizer(mask, aggregation, max_length)
  normalizer = own if normalizer is None else normalizer
  token_count = jnp.maximum(jnp.sum(mask), 1) if token_count is None else token_count
  # Masked values become harmless before any exponential, so that no 0·inf can arise.
  logprobs = select(logprobs.astype(jnp.float32), mask)
  old = logprobs if old_logprobs is None else select(old_logprobs.astype(jnp.float32), mask)
  advantages = jax.lax.stop_gradient(advantages.astype(jnp.float32))
  advantages = advantages[:, None] if advantages.ndim == 1 else advantages

  ratio = jnp.exp(logprobs - jax.lax.stop_gradient(old))
  clipped = jnp.clip(ratio, 1 - clip_epsilon_low, 1 + clip_epsilon_high)
  per_token = -jnp.minimum(ratio * advantages, clipped * advantages)
  mean = lambda values: masked_sum(values, mask) / token_count
  metrics = {
      'clip_ratio/low': mean((ratio < 1 - clip_epsilon_low) & (advantages < 0)),
      'clip_ratio/high': mean((ratio > 1 + clip_epsilon_high) & (advantages > 0)),
      'ratio/mean': mean(ratio), 'ratio/max': masked_max(ratio, mask)}
  if reference_logprobs is not None:
    reference = jax.lax.stop_gradient(select(reference_logprobs.astype(jnp.float32), mask))
    kl = divergences.ESTIMATORS[kl_estimator](logprobs, reference)
    per_token = per_token + kl_coefficient * kl
    metrics['kl'] = mean(kl)
  loss = masked_sum(per_token * _sequence_weights(mask, aggregation), mask) / normalizer
  return loss, jax.tree.map(jax.lax.stop_gradient, metrics)


def supervised_loss(
    logprobs: jax.Array, weights: jax.Array, *, normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted cross-entropy −Σ w·log π / Σ w, for pre-training and SFT.

  Args:
    logprobs: [N, T] log-probabilities of the tokens that are to be learnt.
    weights: [N, T], not negative; 0 on prompts and padding.
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats a token, {}).

  Raises:
    ValueError: where the shapes differ.
  """
  if logprobs.shape != weights.shape:
    raise ValueError(f'supervised_loss: logprobs {logprobs.shape} and weights {weights.shape} '
                     'differ: give equal shapes')
  weights = weights.astype(jnp.float32)
  normalizer = jnp.maximum(jnp.sum(weights), 1e-8) if normalizer is None else normalizer
  return -masked_sum(logprobs.astype(jnp.float32) * weights, weights) / normalizer, {}
