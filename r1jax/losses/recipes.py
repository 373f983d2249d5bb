"""Named policy losses: `policy_loss` with some of its keywords set.

They differ less than their names suggest: most combine a clip, an aggregation, and advantages of
their own. ρ is π/π_old, A the advantage, sg stops a gradient.
"""
import jax

from r1jax import checks
from r1jax.losses.policy import policy_loss


def grpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.2, aggregation: str = 'sequence_mean', **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GRPO: −agg[min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) − β·KL] (arXiv:2402.03300, eq. 3).

  Use it with `advantages.group_relative`. The paper has `kl_coefficient=0.04` with
  `kl_estimator='k3'`, R1 has 0.001; the default is 0, no KL term.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: ε_low, the distance of ρ's lower bound from 1.
    clip_epsilon_high: ε_high, the distance of ρ's upper bound from 1.
    aggregation: how tokens are weighted; the paper has the mean of each completion's mean.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation=aggregation, **options)


def dr_grpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, max_length: int, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Dr. GRPO: −Σ_n Σ_t min(ρA, clip(ρ)·A) / (N·max_length) (arXiv:2503.20783, §3.2).

  Use it with `advantages.group_relative(scale='none')`: then neither a completion's length nor a
  group's standard deviation changes a token's weight. The paper sums over tokens, which is
  `max_length=1`; its code and this function divide by a constant.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    max_length: the constant, in tokens: the completion budget, not the batch's width.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='fixed_length', max_length=max_length, **options)


def dapo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.28, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """DAPO: −Σ min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) / Σ tokens (arXiv:2503.14476, eq. 8).

  Use it with `advantages.group_relative`, `group_filter` and `overlong_penalty`, without a KL term.
  The mean is over the tokens of the whole batch: pass `normalizer` for micro-batches.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: ε_low, the distance of ρ's lower bound from 1.
    clip_epsilon_high: ε_high, the distance of ρ's upper bound from 1 ("clip-higher").
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation='token_mean', **options)


def bnpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """BNPO as trainers know it: −Σ min(ρA, clip(ρ)·A) / Σ tokens *of this call's batch*.

  It is DAPO's mean with a symmetric clip. In TRL, where the name comes from, each micro-batch
  divides by its own number of tokens, so tokens of small micro-batches weigh more; pass
  `normalizer` for the exact mean. The paper of that name (arXiv:2506.02864) is about advantages
  instead: `advantages.beta_normalized`.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='token_mean', **options)


def gspo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 3e-4,
    clip_epsilon_high: float | jax.Array = 4e-4, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GSPO: −mean_n min(s_n A_n, clip(s_n)·A_n), s = exp(mean_t log ρ_t) (arXiv:2507.18071, eq. 5–7).

  Use it with `advantages.group_relative`. A completion has one ratio: all of its tokens are clipped
  or none.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N].
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: the distance from 1 of the lower bound of s, which stays much closer to 1 than
      a token's ratio.
    clip_epsilon_high: the distance from 1 of the upper bound of s.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`; those of the ratio are
    means over tokens of the completion's ratio. The gradient flows through `logprobs` (and
    `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, ratio_level='sequence',
      clip_epsilon_low=clip_epsilon_low, clip_epsilon_high=clip_epsilon_high,
      aggregation='sequence_mean', **options)


def gspo_token_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 3e-4,
    clip_epsilon_high: float | jax.Array = 4e-4, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GSPO-token: GSPO with s_t = sg(s)·π_t/sg(π_t), for advantages per token.

  (arXiv:2507.18071, eq. 13–14.) Equal to `gspo_loss`, in value and gradient, if all advantages of a
  completion are equal.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: the distance from 1 of the lower bound of s = exp(mean_t log ρ_t).
    clip_epsilon_high: the distance from 1 of the upper bound of s.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, ratio_level='sequence_token',
      clip_epsilon_low=clip_epsilon_low, clip_epsilon_high=clip_epsilon_high,
      aggregation='sequence_mean', **options)


def cispo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, min_ratio: float = 0.0, max_ratio: float = 5.0, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """CISPO: −Σ sg(clip(ρ, min, max))·A·log π / Σ tokens (MiniMax-M1, arXiv:2506.13585, eq. 4–5).

  The bounds are *absolute* here, as in TRL; the paper writes 1−ε_low and 1+ε_high, so its ε_high is
  max_ratio − 1, and it has no lower bound. The weight carries no gradient, and no token loses its
  own. The value of this loss does not measure progress.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: all weights are 1,
      as in `reinforce_loss`.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    min_ratio: the lower bound of ρ, at least 0.
    max_ratio: the upper bound of ρ, at least 1.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  checks.at_least(0, min_ratio=min_ratio)
  checks.at_least(1, max_ratio=max_ratio)
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip='cispo',
      clip_epsilon_low=1 - min_ratio, clip_epsilon_high=max_ratio - 1, aggregation='token_mean',
      **options)


def reinforce_loss(
    logprobs: jax.Array, advantages: jax.Array, completion_mask: jax.Array, *,
    aggregation: str = 'token_mean', **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """REINFORCE: −agg[A·log π] (Williams, 1992), for a batch that the policy itself has sampled.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    advantages: [N], or [N, C] per token: returns minus any baseline.
    completion_mask: [N, C], 0 where a token does not count.
    aggregation: how tokens are weighted; 'sequence_sum' is the policy gradient as derived.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(logprobs, None, advantages, completion_mask, clip='cispo',
                     aggregation=aggregation, **options)


def rloo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.2, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """RLOO: −mean_n min(ρ_n A_n, clip(ρ_n)·A_n), ρ_n = Π_t ρ_t (arXiv:2402.14740).

  Use it with `advantages.leave_one_out`. The whole completion is one action. In the first update of
  a rollout ρ = 1 and the gradient is the paper's, −mean_n A_n Σ_t ∇log π_t; the ratio and its clip,
  which the paper does not have, are for later updates.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N].
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: the distance from 1 of the lower bound of ρ_n.
    clip_epsilon_high: the distance from 1 of the upper bound of ρ_n.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`; those of the ratio are
    means over tokens of the completion's ratio. The gradient flows through `logprobs` (and
    `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, ratio_level='product',
      clip_epsilon_low=clip_epsilon_low, clip_epsilon_high=clip_epsilon_high,
      aggregation='sequence_mean', **options)


def reinforce_pp_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """REINFORCE++: −Σ min(ρA, clip(ρ, 1±ε)·A) / Σ tokens (arXiv:2501.03262).

  The advantages make the difference: `advantages.reinforce_pp` (KL in the token rewards, normalised
  over the batch), or `advantages.reinforce_pp_baseline` (the group's mean subtracted first, KL in
  the loss with `kl_estimator='k2'`).

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N, C], from one of these functions.
    completion_mask: [N, C], 0 where a token does not count.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='token_mean', **options)


def ppo_clip_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.2, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """PPO, clip form: −mean_t min(ρA, clip(ρ, 1±ε)·A) (arXiv:1707.06347, eq. 7).

  Use it with `advantages.gae` and `whiten`, `value_loss` for the critic, and `entropies` with
  `entropy_coefficient` for the bonus of eq. 9. `old_kl_coefficient=0.0` measures KL(π_old ‖ π).

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with; None: the policy's own.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    clip_epsilon_low: ε_low, the distance of ρ's lower bound from 1.
    clip_epsilon_high: ε_high, the distance of ρ's upper bound from 1.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation='token_mean', **options)


def ppo_kl_loss(
    logprobs: jax.Array, old_logprobs: jax.Array, advantages: jax.Array,
    completion_mask: jax.Array, *, old_kl_coefficient: float | jax.Array, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """PPO, KL-constrained form: −mean_t [ρA − β·KL(π_old ‖ π)] (arXiv:1707.06347, eq. 8).

  For β, use `divergences.double_or_halve` with the metric `kl_old`.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats.
    old_logprobs: [N, C] under the parameters that the rollout began with.
    advantages: [N], or [N, C] per token.
    completion_mask: [N, C], 0 where a token does not count.
    old_kl_coefficient: β, a number or a controller's coefficient.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics), float32 scalars, with the metrics of `policy_loss`. The gradient flows through
    `logprobs` (and `entropies`, if given) alone.

  Raises:
    ValueError: for a wrong shape or dtype, or an option out of range.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask, clip='none',
                     old_kl_coefficient=old_kl_coefficient, aggregation='token_mean', **options)
