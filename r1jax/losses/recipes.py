"""Named policy losses, each a choice of `policy_loss`'s keywords.

They differ less than their names: most are a clip, an aggregation, and advantages of their own.
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

  With `advantages.group_relative`. The KL of the paper is `kl_coefficient=0.04` there (0.001 in R1)
  with `kl_estimator='k3'`, the defaults are 0 and 'k3'.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`: [N, C], [N, C] or
      None, [N] or [N, C], [N, C].
    clip_epsilon_low, clip_epsilon_high: distances of the bounds from 1.
    aggregation: the paper's is the mean of each completion's mean.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation=aggregation, **options)


def dr_grpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, max_length: int, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Dr. GRPO: −Σ_n Σ_t min(ρA, clip(ρ)·A) / (N·max_length) (arXiv:2503.20783, §3.2).

  With `advantages.group_relative(scale='none')`: neither a completion's length nor a group's
  deviation changes a token's weight. The paper sums over tokens, which is `max_length=1`; its code
  and this function divide by a constant.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`.
    max_length: the constant, in tokens: the completion budget, whatever the batch's width is.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='fixed_length', max_length=max_length, **options)


def dapo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.28, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """DAPO: −Σ min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) / Σ tokens (arXiv:2503.14476, eq. 8).

  With `advantages.group_relative`, `group_filter` and `overlong_penalty`; without a KL term. The
  mean is over the tokens of the whole batch: of micro-batches with `normalizer`.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`.
    clip_epsilon_low, clip_epsilon_high: distances of the bounds from 1 ("clip-higher").
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation='token_mean', **options)


def bnpo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """BNPO as trainers know it: −Σ min(ρA, clip(ρ)·A) / Σ tokens *of the batch at hand*.

  DAPO's mean with a symmetric clip. In TRL, where the name comes from, each micro-batch divides by
  its own number of tokens, so that tokens of small micro-batches weigh more; give `normalizer` for
  the exact mean. The paper of that name (arXiv:2506.02864) is about the advantages instead:
  `advantages.beta_normalized`.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='token_mean', **options)


def gspo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 3e-4,
    clip_epsilon_high: float | jax.Array = 4e-4, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """GSPO: −mean_n min(s_n A_n, clip(s_n)·A_n), s = exp(mean_t log ρ_t) (arXiv:2507.18071, eq. 5–7).

  With `advantages.group_relative`. One ratio a completion: all of its tokens are clipped, or none.

  Args:
    logprobs, old_logprobs, completion_mask: as for `policy_loss`.
    advantages: [N].
    clip_epsilon_low, clip_epsilon_high: distances from 1 of the bounds of s, which differs far less
      from 1 than a token's ratio.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises; the
    ratio's metrics are of s, each completion weighing as many as its tokens.
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
  """GSPO-token: GSPO with s_t = sg(s)·π_t/sg(π_t), for advantages per token (eq. 13–14 there).

  Equal to `gspo_loss`, in value and gradient, where a completion's advantages are all equal.

  Args:
    logprobs, old_logprobs, completion_mask: as for `policy_loss`.
    advantages: [N] or [N, C].
    clip_epsilon_low, clip_epsilon_high: distances from 1 of the bounds of s.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
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

  The bounds are *absolute* here (as in TRL); the paper writes 1−ε_low and 1+ε_high, so that its
  ε_high is max_ratio − 1, and bounds nothing from below. The weight carries no gradient and no
  token loses its own. The loss's value is no measure of progress.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`; without old
      log-probabilities all weights are 1, and it is `reinforce_loss`.
    min_ratio, max_ratio: what ρ is cut to.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
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
    logprobs: [N, C] of the policy.
    advantages: [N] or [N, C], returns less any baseline.
    completion_mask: [N, C].
    aggregation: 'sequence_sum' is the policy gradient as derived; the others weigh its tokens.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(logprobs, None, advantages, completion_mask, clip='cispo',
                     aggregation=aggregation, **options)


def rloo_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.2, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """RLOO: −mean_n min(ρ_n A_n, clip(ρ_n)·A_n), ρ_n = Π_t ρ_t (arXiv:2402.14740).

  With `advantages.leave_one_out`. The whole completion is one action. In the rollout's first update
  ρ = 1, and the gradient is the paper's, −mean_n A_n Σ_t ∇log π_t; the ratio and its clip, which
  the paper does not have, serve the updates after it.

  Args:
    logprobs, old_logprobs, completion_mask: as for `policy_loss`.
    advantages: [N].
    clip_epsilon_low, clip_epsilon_high: distances from 1 of the bounds of ρ_n.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises; the
    ratio's metrics are of ρ_n, each completion weighing as many as its tokens.
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

  What makes it are the advantages: `advantages.reinforce_pp` (KL in the token rewards, normalised
  over the batch) or `advantages.reinforce_pp_baseline` (the group's mean subtracted first, KL in
  the loss with `kl_estimator='k2'`).

  Args:
    logprobs, old_logprobs, completion_mask: as for `policy_loss`.
    advantages: [N, C], as these functions return them.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask,
                     aggregation='token_mean', **options)


def ppo_clip_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, clip_epsilon_low: float | jax.Array = 0.2,
    clip_epsilon_high: float | jax.Array = 0.2, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """PPO, clip form: −mean_t min(ρA, clip(ρ, 1±ε)·A) (arXiv:1707.06347, eq. 7).

  With `advantages.gae` and `whiten`, `value_loss` for the critic, `entropies` and
  `entropy_coefficient` for eq. 9's bonus. `old_kl_coefficient=0.0` measures KL(π_old ‖ π).

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`.
    clip_epsilon_low, clip_epsilon_high: distances of the bounds from 1.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(
      logprobs, old_logprobs, advantages, completion_mask, clip_epsilon_low=clip_epsilon_low,
      clip_epsilon_high=clip_epsilon_high, aggregation='token_mean', **options)


def ppo_kl_loss(
    logprobs: jax.Array, old_logprobs: jax.Array, advantages: jax.Array,
    completion_mask: jax.Array, *, old_kl_coefficient: float | jax.Array, **options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """PPO, KL-constrained form: −mean_t [ρA − β·KL(π_old ‖ π)] (arXiv:1707.06347, eq. 8).

  With `divergences.double_or_halve`, fed with the metric `kl_old`, for β.

  Args:
    logprobs, old_logprobs, advantages, completion_mask: as for `policy_loss`.
    old_kl_coefficient: β, a number or a controller's coefficient.
    **options: other keywords of `policy_loss`.

  Returns:
    (loss, metrics) as `policy_loss`, which see for what carries a gradient and what raises.
  """
  return policy_loss(logprobs, old_logprobs, advantages, completion_mask, clip='none',
                     old_kl_coefficient=old_kl_coefficient, aggregation='token_mean', **options)
