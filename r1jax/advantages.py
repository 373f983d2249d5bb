"""Advantages: how much better than its baseline a completion was. Pure functions of arrays.

None of them carries a gradient: rewards come from outside the graph.
"""
import jax
import jax.numpy as jnp


def group_relative(
    rewards: jax.Array, *, scale: str = 'std', epsilon: float = 1e-6,
) -> jax.Array:
  """GRPO's advantage A = (r − mean) / (std + ε) within each group (arXiv:2402.03300, §4.1.2).

  The standard deviation divides by G − 1 (as torch.std and TRL do; verl as well). A group whose
  rewards are all equal gets exactly zero, whatever rounding leaves in its mean.

  Args:
    rewards: [B, G] float, finite.
    scale: 'std' as above; 'none' leaves A = r − mean (Dr. GRPO, arXiv:2503.20783).
    epsilon: added to the standard deviation, in units of reward.

  Returns:
    [B·G] float32, a group's advantages together.

  Raises:
    ValueError: for another rank or `scale`, or for G = 1 with 'std' (it has none).
  """
  if rewards.ndim != 2:
    raise ValueError(f'group_relative: rewards have shape {rewards.shape}: give [B, G]')
  if scale not in ('std', 'none'):
    raise ValueError(f"group_relative: scale={scale!r} is unknown: use 'std' or 'none'")
  group_size = rewards.shape[1]
  if scale == 'std' and group_size == 1:
    raise ValueError("group_relative: a group of 1 has no standard deviation: use a group_size "
                     "of at least 2, or scale='none'")
  rewards = jax.lax.stop_gradient(rewards.astype(jnp.float32))
  centred = rewards - jnp.mean(rewards, 1, keepdims=True)
  if scale == 'std':
    centred = centred / (jnp.std(rewards, 1, ddof=1, keepdims=True) + epsilon)
  equal = jnp.all(rewards == rewards[:, :1], 1, keepdims=True)
  return jnp.where(equal, 0.0, centred).reshape(-1)
