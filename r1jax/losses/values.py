"""The loss of a value function (PPO's critic), and how well it explains the returns."""
import jax
import jax.numpy as jnp

from r1jax import checks
from r1jax.masked import masked_max, masked_mean, masked_sum, select


def value_loss(
    values: jax.Array, returns: jax.Array, completion_mask: jax.Array, *,
    old_values: jax.Array | None = None, clip_epsilon: float | jax.Array = 0.2,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """½·mean_t max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²).

  The squared error is from PPO (arXiv:1707.06347, eq. 9), the clip from its first code. The
  gradient flows through `values` alone. A value outside the interval around its old one has no
  gradient if the clipped error is the larger one.

  Args:
    values: [N, C] of the critic: V_t is the expected return before token t, in units of reward.
    returns: [N, C], the second result of `advantages.gae`; a token whose return is NaN, because its
      completion could not be judged, does not count.
    completion_mask: [N, C], 0 where a token does not count.
    old_values: [N, C] from before the update; None: ½·mean_t (V − R)².
    clip_epsilon: ε, in units of reward (not relative).
    normalizer: the number of tokens of a larger whole; by default this batch's own. It divides the
      metrics as well, so that micro-batches add up.

  Returns:
    (loss, metrics), float32 scalars: means over tokens `value/mean`, `value/error` (of (V − R)²)
    and, with old values, `value/clip_ratio` (tokens on which the clip acts).

  Raises:
    ValueError: for a wrong shape or dtype, or ε below 0.
  """
  checks.rank('[N, C]', values=values)
  checks.shapes(values.shape, returns=returns, completion_mask=completion_mask,
                old_values=old_values)
  checks.floats(values=values, returns=returns, old_values=old_values)
  checks.at_least(0, clip_epsilon=clip_epsilon)
  mask = (completion_mask != 0) & ~jnp.isnan(returns)
  errors = larger = jnp.square(select(_float32(values) - _fixed(returns), mask))
  sums = {'value/mean': jnp.sum(select(_fixed(values), mask), 1),
          'value/error': jnp.sum(jax.lax.stop_gradient(errors), 1)}
  if old_values is not None:
    old = _fixed(old_values)
    clipped = jnp.clip(_fixed(values), old - clip_epsilon, old + clip_epsilon)
    clipped_errors = jnp.square(select(clipped - _fixed(returns), mask))
    acts = clipped_errors > errors
    larger = jnp.where(acts, clipped_errors, errors)
    sums['value/clip_ratio'] = jnp.sum(acts.astype(jnp.float32), 1)
  # One reduction over rows for the loss, the number of tokens and the metrics.
  loss, num_tokens, *totals = jnp.sum(jnp.stack([
      jnp.sum(larger, 1), jnp.sum(select(_float32(completion_mask), mask), 1), *sums.values()]), 1)
  normalizer = jnp.maximum(num_tokens, 1) if normalizer is None else normalizer
  metrics = {name: total / normalizer for name, total in zip(sums, totals)}
  return 0.5 * loss / normalizer, jax.lax.stop_gradient(metrics)


def explained_variance(
    values: jax.Array, returns: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """1 − Var(R − V)/Var(R) over tokens: 1 for a perfect critic, 0 for a constant, below 0 for worse.

  It is not a mean over tokens: measure it on the whole batch, once per rollout, not on
  micro-batches.

  Args:
    values: [N, C] of the critic, in units of reward.
    returns: [N, C]; a token whose return is NaN does not count.
    completion_mask: [N, C], 0 where a token does not count.

  Returns:
    float32 scalar without gradient; 0 if all returns are equal.

  Raises:
    ValueError: for a wrong shape or dtype.
  """
  checks.rank('[N, C]', values=values)
  checks.shapes(values.shape, returns=returns, completion_mask=completion_mask)
  checks.floats(values=values, returns=returns)
  mask = (completion_mask != 0) & ~jnp.isnan(returns)
  values, returns = select(_fixed(values), mask), select(_fixed(returns), mask)

  def squares(x):
    return masked_sum(jnp.square(x - masked_mean(x, mask)), mask)

  # Equal returns may differ from their rounded mean, but their range is exactly 0.
  varied = masked_max(returns, mask) > -masked_max(-returns, mask)
  unexplained = squares(returns - values) / jnp.where(varied, squares(returns), 1)
  return jnp.where(varied, 1 - unexplained, 0)


def _float32(x) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


def _fixed(x) -> jax.Array:
  return jax.lax.stop_gradient(_float32(x))
