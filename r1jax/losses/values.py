"""Losses and measures of a value function (PPO's critic)."""
import jax
import jax.numpy as jnp

from r1jax import checks
from r1jax.masked import masked_max, masked_mean, masked_sum, select


def value_loss(
    values: jax.Array, returns: jax.Array, completion_mask: jax.Array, *,
    old_values: jax.Array | None = None, clip_epsilon: float | jax.Array = 0.2,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """½·mean_t max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²) (the clip: PPO's first code).

  The gradient flows through `values` alone. A value that left the interval around its old one, and
  is the worse of the two, has none.

  Args:
    values: [N, C] of the critic: V_t is the expected return before token t.
    returns: [N, C], `advantages.gae`'s second result.
    completion_mask: [N, C].
    old_values: [N, C] from before the update; None: ½·mean_t (V − R)².
    clip_epsilon: ε, in units of reward (not relative).
    normalizer: the number of tokens of a larger whole; by default this batch's own. It divides the
      metrics as well, so that micro-batches add up.

  Returns:
    (loss, metrics), float32 scalars: means over tokens `value/mean`, `value/error` (of (V − R)²)
    and, with old values, `value/clip_ratio` (tokens on which the clip acts).

  Raises:
    ValueError: for shapes or dtypes that do not fit, or ε below 0.
  """
  checks.rank('[N, C]', values=values)
  checks.shapes(values.shape, returns=returns, completion_mask=completion_mask,
                old_values=old_values)
  checks.floats(values=values, returns=returns, old_values=old_values)
  checks.at_least(0, clip_epsilon=clip_epsilon)
  mask = completion_mask != 0
  wide = lambda x: jnp.asarray(x, jnp.float32)
  fixed = lambda x: jax.lax.stop_gradient(wide(x))
  errors = worse = jnp.square(select(wide(values) - fixed(returns), mask))
  sums = {'value/mean': jnp.sum(select(fixed(values), mask), 1),
          'value/error': jnp.sum(jax.lax.stop_gradient(errors), 1)}
  if old_values is not None:
    old = fixed(old_values)
    clipped = jnp.clip(fixed(values), old - clip_epsilon, old + clip_epsilon)
    clipped = jnp.square(select(clipped - fixed(returns), mask))
    acts = clipped > errors
    worse = jnp.where(acts, clipped, errors)
    sums['value/clip_ratio'] = jnp.sum(acts.astype(jnp.float32), 1)
  loss, tokens, *totals = jnp.sum(jnp.stack([
      jnp.sum(worse, 1), jnp.sum(wide(completion_mask), 1), *sums.values()]), 1)
  normalizer = jnp.maximum(tokens, 1) if normalizer is None else normalizer
  metrics = {name: total / normalizer for name, total in zip(sums, totals)}
  return 0.5 * loss / normalizer, jax.lax.stop_gradient(metrics)


def explained_variance(
    values: jax.Array, returns: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """1 − Var(R − V)/Var(R) over tokens: 1 for a perfect critic, 0 for a constant, below 0 for worse.

  It is no mean over tokens: measure it on the whole batch, once a rollout, not on micro-batches.

  Args:
    values: [N, C].
    returns: [N, C].
    completion_mask: [N, C].

  Returns:
    float32 scalar without gradient; 0 where the returns do not vary.

  Raises:
    ValueError: for shapes or dtypes that do not fit.
  """
  checks.rank('[N, C]', values=values)
  checks.shapes(values.shape, returns=returns, completion_mask=completion_mask)
  checks.floats(values=values, returns=returns)
  kept = lambda x: select(jax.lax.stop_gradient(jnp.asarray(x, jnp.float32)), completion_mask)
  values, returns = kept(values), kept(returns)

  def squares(x):
    return masked_sum(jnp.square(x - masked_mean(x, completion_mask)), completion_mask)

  # Equal returns leave float noise in their mean, not in their range.
  varied = masked_max(returns, completion_mask) > -masked_max(-returns, completion_mask)
  share = squares(returns - values) / jnp.where(varied, squares(returns), 1)
  return jnp.where(varied, 1 - share, 0)
