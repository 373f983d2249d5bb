"""Losses and measures of a value function (PPO's critic)."""
import jax
import jax.numpy as jnp

from r1jax import checks
from r1jax.masked import masked_mean, masked_sum, select


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
    (loss, metrics), float32 scalars: means over tokens `value/mean`, `value/error` (of (V − R)²),
    and `value/clip_ratio` (tokens on which the clip acts) with old values.

  Raises:
    ValueError: for shapes or dtypes that do not fit, or ε below 0.
  """
  checks.rank('[N, C]', values=values)
  checks.shapes(values.shape, returns=returns, completion_mask=completion_mask,
                old_values=old_values)
  checks.floats(values=values, returns=returns, old_values=old_values)
  checks.at_least(0, clip_epsilon=clip_epsilon)
  kept = lambda x: select(x.astype(jnp.float32), completion_mask)
  values, returns = kept(values), jax.lax.stop_gradient(kept(returns))
  if normalizer is None:
    normalizer = jnp.maximum(jnp.sum((completion_mask != 0).astype(jnp.float32)), 1)
  mean = lambda x: jnp.sum(x) / normalizer     # of what is 0 under the mask
  errors = worse = jnp.square(values - returns)
  metrics = {'value/mean': mean(values), 'value/error': mean(errors)}
  if old_values is not None:
    old = jax.lax.stop_gradient(kept(old_values))
    clipped = jnp.square(jnp.clip(values, old - clip_epsilon, old + clip_epsilon) - returns)
    acts = clipped > errors
    worse = jnp.where(acts, jax.lax.stop_gradient(clipped), errors)
    metrics['value/clip_ratio'] = mean(acts.astype(jnp.float32))
  return 0.5 * mean(worse), jax.tree.map(jax.lax.stop_gradient, metrics)


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
  kept = lambda x: select(jax.lax.stop_gradient(x.astype(jnp.float32)), completion_mask)
  values, returns = kept(values), kept(returns)

  def squares(x):
    return masked_sum(jnp.square(x - masked_mean(x, completion_mask)), completion_mask)

  whole = squares(returns)
  share = squares(returns - values) / jnp.where(whole > 0, whole, 1)
  return jnp.where(whole > 0, 1 - share, 0)
