"""Losses for reward models: of pairs of completions, and of single ones."""
import jax
import jax.numpy as jnp

from r1jax import checks
from r1jax.masked import select


def bradley_terry_loss(
    chosen_rewards: jax.Array, rejected_rewards: jax.Array, *, margins: jax.Array | None = None,
    centring_coefficient: float = 0.0, mask: jax.Array | None = None,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """mean[−log σ(r_chosen − r_rejected − m) + c·(r_chosen + r_rejected)²] over pairs.

  (Bradley and Terry, 1952; InstructGPT, arXiv:2203.02155, eq. 1; the margin: Llama 2,
  arXiv:2307.09288, eq. 2; the centring: arXiv:2312.09244.) The likelihood does not determine a
  constant that is added to all rewards; the second term does, by pulling the mean of a pair to 0.
  The gradient flows through both rewards.

  Args:
    chosen_rewards: [N], a reward model's output for the preferred completion of each pair.
    rejected_rewards: [N], its output for the other one.
    margins: [N], m, by how much the first is better, in units of reward; None: 0. Carries no
      gradient.
    centring_coefficient: c; its paper has 0.01.
    mask: [N], 0 for pairs that only fill up a batch; None: all count.
    normalizer: the number of pairs of a larger whole; by default this batch's own. It divides the
      metrics as well.

  Returns:
    (loss, metrics), float32 scalars: `accuracy` (share of pairs in the right order, a tie counts
    half), `reward/chosen` and `reward/rejected`, means over pairs.

  Raises:
    ValueError: for a wrong shape or dtype, or c below 0.
  """
  checks.rank('[N]', chosen_rewards=chosen_rewards)
  checks.shapes(chosen_rewards.shape, rejected_rewards=rejected_rewards, margins=margins, mask=mask)
  checks.floats(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards, margins=margins)
  checks.at_least(0, centring_coefficient=centring_coefficient)
  mask = jnp.ones(chosen_rewards.shape, bool) if mask is None else mask != 0
  chosen, rejected = (select(x.astype(jnp.float32), mask)
                      for x in (chosen_rewards, rejected_rewards))
  difference = chosen - rejected
  if margins is not None:
    difference = difference - jax.lax.stop_gradient(select(margins.astype(jnp.float32), mask))
  losses = jax.nn.softplus(-difference)
  if centring_coefficient:
    losses = losses + centring_coefficient * jnp.square(chosen + rejected)
  in_order = jnp.where(chosen > rejected, 1.0, jnp.where(chosen == rejected, 0.5, 0.0))
  return _means(losses, {'accuracy': in_order, 'reward/chosen': chosen,
                         'reward/rejected': rejected}, mask, normalizer)


def safety_loss(
    rewards: jax.Array, labels: jax.Array, *, mask: jax.Array | None = None,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """−mean[y·log σ(r) + (1−y)·log σ(−r)]: each completion is safe or not (R1, arXiv:2501.12948v2).

  The gradient flows through `rewards` alone.

  Args:
    rewards: [N], a reward model's output for each completion.
    labels: [N], y: 1 safe, 0 unsafe, or a judge's probability in between. Carries no gradient.
    mask: [N], 0 for rows that only fill up a batch; None: all count.
    normalizer: the number of rows of a larger whole; by default this batch's own. It divides the
      metrics as well.

  Returns:
    (loss, metrics), float32 scalars: `accuracy` (share of rows where r > 0 agrees with y > ½) and
    `reward/mean`.

  Raises:
    ValueError: for a wrong shape or dtype.
  """
  checks.rank('[N]', rewards=rewards)
  checks.shapes(rewards.shape, labels=labels, mask=mask)
  checks.floats(rewards=rewards)
  mask = jnp.ones(rewards.shape, bool) if mask is None else mask != 0
  rewards = select(rewards.astype(jnp.float32), mask)
  labels = jax.lax.stop_gradient(select(labels.astype(jnp.float32), mask))
  losses = jax.nn.softplus(rewards) - labels * rewards
  right = ((rewards > 0) == (labels > 0.5)).astype(jnp.float32)
  return _means(losses, {'accuracy': right, 'reward/mean': rewards}, mask, normalizer)


def _means(losses, measured: dict[str, jax.Array], mask, normalizer):
  """(loss, metrics): the means of [N] values over the rows of the mask."""
  if normalizer is None:
    normalizer = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1)

  def mean(values):
    return jnp.sum(select(values, mask)) / normalizer

  metrics = {name: mean(values) for name, values in measured.items()}
  return mean(losses), jax.tree.map(jax.lax.stop_gradient, metrics)
