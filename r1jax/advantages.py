"""Advantages, how much better than its baseline a completion or a token was, and token rewards.

These are pure functions of arrays. None of them carries a gradient: rewards come from outside the
graph. All compute in float32. They need the whole batch: compute advantages before the batch is
split into mini-batches.

Conventions. Standard deviations *within a group* divide by G − 1, those *over a batch* (`whiten`
and what uses it) by the number of values; ε is added to the deviation of the former and to the
variance of the latter. If all rewards are equal, advantages are exactly 0, also where rounding
makes the mean differ from them.

A reward of NaN says that a completion could not be judged. It is left out of all statistics, of its
group and of the batch, and its advantage is exactly 0: the others get what they would get without
it. In a loss such a row counts like those of a group of equal rewards: it keeps its place in the
denominator, and the KL to a reference still has its gradient there.
"""
import jax
import jax.numpy as jnp

from r1jax import checks, divergences
from r1jax.masked import masked_max, masked_mean, select

SCALES = ('std', 'batch', 'none')


def _fixed(x) -> jax.Array:
  return jax.lax.stop_gradient(x.astype(jnp.float32))


def _centred(rewards, axis=-1):
  """(r − mean, judged, number judged), along an axis; 0 where unjudged and where all are equal."""
  judged = ~jnp.isnan(rewards)
  count = jnp.sum(judged.astype(jnp.float32), axis, keepdims=True)
  mean = jnp.sum(select(rewards, judged), axis, keepdims=True) / jnp.maximum(count, 1)
  largest = jnp.max(jnp.where(judged, rewards, -jnp.inf), axis, keepdims=True)
  smallest = jnp.min(jnp.where(judged, rewards, jnp.inf), axis, keepdims=True)
  centred = select(rewards - mean, judged & (largest > smallest))
  return centred, judged, count


def _deviation(centred, count, axis=-1, ddof=1):
  squares = jnp.sum(jnp.square(centred), axis, keepdims=True)
  return jnp.sqrt(squares / jnp.maximum(count - ddof, 1))


def group_relative(
    rewards: jax.Array, *, scale: str = 'std', epsilon: float = 1e-6,
) -> jax.Array:
  """GRPO's advantage A = (r − mean) / (std + ε) within each group (arXiv:2402.03300, §4.1.2).

  Args:
    rewards: [B, G], finite, or NaN where a completion could not be judged.
    scale: the standard deviation. 'std': the group's, which divides by G − 1 (as in torch.std, TRL
      and verl). 'batch': that of all rewards of the batch, while the mean is the group's (Lite PPO,
      arXiv:2508.08221, §4.2). 'none': A = r − mean (Dr. GRPO, arXiv:2503.20783, §3.2).
    epsilon: added to the standard deviation, in units of reward.

  Returns:
    [B·G] float32, without gradient, a group's advantages together.

  Raises:
    ValueError: for a wrong shape, an unknown scale, or G = 1 with 'std'.
  """
  checks.rank('[B, G]', rewards=rewards)
  checks.word(SCALES, scale=scale)
  if scale == 'std' and rewards.shape[1] == 1:
    raise ValueError("groups must have at least 2 rewards with scale='std', got 1: use a larger "
                     "group_size, or scale='none'")
  rewards = _fixed(rewards)
  centred, _, count = _centred(rewards)
  if scale == 'std':
    centred = centred / (_deviation(centred, count) + epsilon)
  elif scale == 'batch':
    whole, _, number = _centred(rewards, None)
    centred = centred / (_deviation(whole, number, None) + epsilon)
  return centred.reshape(-1)


def leave_one_out(rewards: jax.Array) -> jax.Array:
  """RLOO's A_i = r_i − the mean of the others = G/(G−1)·(r_i − mean) (arXiv:2402.14740).

  Args:
    rewards: [B, G], finite, or NaN where a completion could not be judged.

  Returns:
    [B·G] float32, without gradient, a group's advantages together.

  Raises:
    ValueError: for a wrong shape, or G = 1, where there are no others.
  """
  checks.rank('[B, G]', rewards=rewards)
  if rewards.shape[1] == 1:
    raise ValueError('groups must have at least 2 rewards to leave one out, got 1: use a larger '
                     'group_size')
  centred, _, count = _centred(_fixed(rewards))
  return (centred * count / jnp.maximum(count - 1, 1)).reshape(-1)


def batch_normalized(rewards: jax.Array, *, epsilon: float = 1e-8) -> jax.Array:
  """A = (r − mean)/√(var + ε) over the batch, not the group (REINFORCE++, arXiv:2501.03262).

  Args:
    rewards: [B, G], finite, or NaN where a completion could not be judged.
    epsilon: added to the variance, which divides by the number of rewards.

  Returns:
    [B·G] float32, without gradient.

  Raises:
    ValueError: for a wrong shape.
  """
  checks.rank('[B, G]', rewards=rewards)
  rewards = _fixed(rewards).reshape(-1)
  return whiten(rewards, ~jnp.isnan(rewards), epsilon=epsilon)


def per_reward(
    rewards: jax.Array, weights: jax.Array | None = None, *, epsilon: float = 1e-6,
) -> jax.Array:
  """GDPO: each reward normalised within the group, then summed, then whitened over the batch.

  A = whiten(Σ_k w_k·(r_k − mean_k)/(std_k + ε)) (arXiv:2601.05242). Unlike the advantage of a sum,
  it distinguishes (1, 0) from (0, 1), and no reward hides another by its scale.

  Args:
    rewards: [B, G, K], K rewards of each completion before weighting, finite, or NaN where one
      could not be judged, which then adds nothing.
    weights: [K]; None: all 1.
    epsilon: added to the standard deviations, which divide by G − 1, in units of reward.

  Returns:
    [B·G] float32, without gradient, a group's advantages together.

  Raises:
    ValueError: for a wrong shape, or G = 1.
  """
  checks.rank('[B, G, K]', rewards=rewards)
  checks.shapes(rewards.shape[2:], weights=weights)
  if rewards.shape[1] == 1:
    raise ValueError('groups must have at least 2 completions, got 1: use a larger group_size')
  rewards = _fixed(rewards)
  centred, _, count = _centred(rewards, 1)
  scaled = centred / (_deviation(centred, count, 1) + epsilon)
  if weights is not None:
    scaled = scaled * _fixed(weights)[None, None, :]
  return whiten(jnp.sum(scaled, -1).reshape(-1), jnp.any(~jnp.isnan(rewards), -1).reshape(-1))


def beta_normalized(rewards: jax.Array, *, max_concentration: float = 100.0) -> jax.Array:
  """BNPO's A = (r − p) / f(p; α, β), p a group's mean, f the Beta density (arXiv:2506.02864).

  α = 1 + a/3 and β = 1 + b/3, where Beta(a, b) has the mean and the variance of the batch's p. Of
  all Beta densities, this one minimises the variance of the gradient. f = 1 gives REINFORCE with a
  baseline, and α = β = 3/2 gives GRPO up to a factor.

  Args:
    rewards: [B, G], 0 or 1, or NaN where a completion could not be judged.
    max_concentration: the largest a + b, which is reached if the groups' means hardly differ.

  Returns:
    [B·G] float32, without gradient, a group's advantages together.

  Raises:
    ValueError: for a wrong shape.
  """
  checks.rank('[B, G]', rewards=rewards)
  rewards = _fixed(rewards)
  centred, judged, count = _centred(rewards)
  p = jnp.sum(select(rewards, judged), 1) / jnp.maximum(count[:, 0], 1)
  mean = masked_mean(p, count[:, 0])
  variance = masked_mean(jnp.square(p - mean), count[:, 0])
  spread = mean * (1 - mean)
  concentration = jnp.clip(spread / jnp.maximum(variance, 1e-12) - 1, 0, max_concentration)
  alpha, beta = 1 + mean * concentration / 3, 1 + (1 - mean) * concentration / 3
  inside = (p > 0) & (p < 1)
  safe = jnp.where(inside, p, 0.5)
  density = jnp.exp((alpha - 1) * jnp.log(safe) + (beta - 1) * jnp.log1p(-safe)
                    - jax.scipy.special.betaln(alpha, beta))
  return select(centred / density[:, None], inside[:, None]).reshape(-1)


def process_relative(
    step_rewards: jax.Array, step_mask: jax.Array, *, group_size: int, epsilon: float = 1e-6,
) -> jax.Array:
  """DeepSeekMath's advantages from process rewards (arXiv:2402.03300, §4.1.3).

  The rewards of all steps of a group's completions are normalised together, to
  (r − mean)/(std + ε). A token's advantage is the sum of these over the steps that end with it or
  after it.

  Args:
    step_rewards: [N, C], a step's reward on its last token, NaN where the step could not be judged,
      which then adds nothing; anything elsewhere.
    step_mask: [N, C], 1 on the last token of each step.
    group_size: G, a divisor of N; a group's rows lie together.
    epsilon: added to the standard deviation, which divides by the number of steps minus 1.

  Returns:
    [N, C] float32, without gradient, 0 after the last step.

  Raises:
    ValueError: for a wrong shape, or a group_size that does not divide N.
  """
  checks.rank('[N, C]', step_rewards=step_rewards)
  checks.shapes(step_rewards.shape, step_mask=step_mask)
  n, c = step_rewards.shape
  if group_size < 1 or n % group_size:
    raise ValueError(f'group_size must divide the {n} rows of step_rewards, got {group_size}')
  grouped = jnp.where(step_mask != 0, _fixed(step_rewards), jnp.nan).reshape(-1, group_size * c)
  centred, _, count = _centred(grouped)
  scaled = (centred / (_deviation(centred, count) + epsilon)).reshape(n, c)
  return reward_to_go(scaled, jnp.ones_like(step_mask))


def reward_to_go(
    rewards: jax.Array, completion_mask: jax.Array, *, gamma: float = 1.0,
) -> jax.Array:
  """R_t = r_t + γ·R_{t+1}, over the tokens that count; masked tokens are skipped.

  Args:
    rewards: [N, C] per token; a row with a NaN on a token that counts is 0.
    completion_mask: [N, C], 0 where a token does not count.
    gamma: the discount γ per token.

  Returns:
    [N, C] float32, without gradient, 0 under the mask.

  Raises:
    ValueError: for a wrong shape, or γ below 0.
  """
  checks.rank('[N, C]', rewards=rewards)
  checks.shapes(rewards.shape, completion_mask=completion_mask)
  zeros = jnp.zeros(rewards.shape, jnp.float32)
  return gae(rewards, zeros, completion_mask, gamma=gamma, gae_lambda=1.0)[0]


def gae(
    rewards: jax.Array, values: jax.Array, completion_mask: jax.Array, *, gamma: float = 1.0,
    gae_lambda: float = 1.0, final_values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation (arXiv:1506.02438, eq. 16), over the tokens that count.

  δ_t = r_t + γ·V_{t+1} − V_t, A_t = δ_t + γλ·A_{t+1}, R_t = A_t + V_t. Masked tokens are skipped,
  wherever they are: t + 1 is the next token that counts.

  Args:
    rewards: [N, C] per token; NaN on a token that counts says that its row could not be judged.
    values: [N, C], V_t the expected return before token t.
    completion_mask: [N, C], 0 where a token does not count.
    gamma: the discount γ per token; usually 1 for language.
    gae_lambda: λ. 1: A = return − value, without bias from the critic; 0: A = δ.
    final_values: [N], the value after the last token, for completions that were cut; None: 0.

  Returns:
    (advantages, returns), [N, C] float32, without gradient, 0 under the mask. A row that could not
    be judged has advantages of 0 and returns of NaN, which `losses.value_loss` leaves out.

  Raises:
    ValueError: for a wrong shape or dtype, or γ or λ below 0.
  """
  checks.rank('[N, C]', rewards=rewards)
  checks.shapes(rewards.shape, values=values, completion_mask=completion_mask)
  checks.shapes(rewards.shape[:1], final_values=final_values)
  checks.floats(values=values, final_values=final_values)
  checks.at_least(0, gamma=gamma, gae_lambda=gae_lambda)
  counted = completion_mask != 0
  rewards = select(_fixed(rewards), counted)
  mask = counted & ~jnp.any(jnp.isnan(rewards), 1, keepdims=True)
  rewards, values = select(rewards, mask), select(_fixed(values), mask)
  zeros = jnp.zeros(rewards.shape[0], jnp.float32)
  final = zeros if final_values is None else _fixed(final_values)

  def step(carry, now):
    next_value, next_advantage = carry
    reward, value, counts = now
    advantage = reward + gamma * next_value - value + gamma * gae_lambda * next_advantage
    kept = jnp.where(counts, value, next_value), jnp.where(counts, advantage, next_advantage)
    return kept, select(advantage, counts)

  _, advantages = jax.lax.scan(step, (final, zeros), (rewards.T, values.T, mask.T), reverse=True)
  advantages = advantages.T
  return advantages, jnp.where(counted & ~mask, jnp.nan, advantages + values)


def whiten(
    values: jax.Array, mask: jax.Array, *, shift_mean: bool = True, epsilon: float = 1e-8,
) -> jax.Array:
  """(x − mean)/√(var + ε) over all values that count; var divides by their number.

  Args:
    values: any shape.
    mask: of the same shape, 0 where a value does not count.
    shift_mean: True makes the mean 0, for advantages; False keeps it, for rewards (as in the code
      of arXiv:1909.08593).
    epsilon: added to the variance.

  Returns:
    float32 of that shape, 0 under the mask, without gradient. If all values are equal: exactly 0,
    or with `shift_mean=False` the values themselves.

  Raises:
    ValueError: if the shapes differ.
  """
  checks.shapes(values.shape, mask=mask)
  values = select(_fixed(values), mask)
  mean = masked_mean(values, mask)
  equal = masked_max(values, mask) == -masked_max(-values, mask)
  centred = select(jnp.where(equal, 0, values - mean), mask)
  whitened = centred * jax.lax.rsqrt(masked_mean(jnp.square(centred), mask) + epsilon)
  return whitened if shift_mean else select(whitened + mean, mask)


def token_rewards(
    rewards: jax.Array, logprobs: jax.Array, reference_logprobs: jax.Array,
    completion_mask: jax.Array, *, kl_coefficient: float | jax.Array, kl_estimator: str = 'k1',
) -> jax.Array:
  """RLHF's r_t = −β·KL_t, plus the completion's reward on its last token (arXiv:1909.08593, eq. 2).

  Args:
    rewards: [N], of whole completions, NaN where one could not be judged; that of an empty
      completion is ignored.
    logprobs: [N, C] of the sampled tokens under the policy that sampled, or the old policy.
    reference_logprobs: [N, C] of the same tokens under the reference.
    completion_mask: [N, C], 0 where a token does not count.
    kl_coefficient: β, a number or a controller's coefficient.
    kl_estimator: 'k1' (in a reward, unbiased in value and in gradient), 'k2' or 'k3'.

  Returns:
    [N, C] float32, without gradient, 0 under the mask; NaN stays, on the last token.

  Raises:
    ValueError: for a wrong shape or dtype, or an unknown estimator.
  """
  checks.rank('[N, C]', logprobs=logprobs)
  checks.shapes(logprobs.shape, reference_logprobs=reference_logprobs,
                completion_mask=completion_mask)
  checks.shapes(logprobs.shape[:1], rewards=rewards)
  checks.floats(logprobs=logprobs, reference_logprobs=reference_logprobs)
  checks.word(('k1', 'k2', 'k3'), kl_estimator=kl_estimator)
  mask = completion_mask != 0
  kl = divergences.ESTIMATORS[kl_estimator](
      select(_fixed(logprobs), mask), select(_fixed(reference_logprobs), mask))
  after = jnp.cumsum(mask[:, ::-1].astype(jnp.int32), 1)[:, ::-1]
  last = mask & (after == 1)
  return select(_fixed(rewards)[:, None], last) - jax.lax.stop_gradient(kl_coefficient * kl)


def reinforce_pp(
    rewards: jax.Array, logprobs: jax.Array, reference_logprobs: jax.Array,
    completion_mask: jax.Array, *, kl_coefficient: float | jax.Array, kl_estimator: str = 'k1',
    gamma: float = 1.0,
) -> jax.Array:
  """REINFORCE++: the returns of token rewards, whitened over the batch's tokens.

  A_t = whiten(Σ_{s≥t} γ^(s−t)·r_s), with the r of `token_rewards` (arXiv:2501.03262).

  Args:
    rewards: [N], of whole completions, NaN where one could not be judged; that of an empty
      completion is ignored.
    logprobs: [N, C] of the sampled tokens under the policy that sampled, or the old policy.
    reference_logprobs: [N, C] of the same tokens under the reference.
    completion_mask: [N, C], 0 where a token does not count.
    kl_coefficient: β, a number or a controller's coefficient.
    kl_estimator: 'k1' (in a reward, unbiased in value and in gradient), 'k2' or 'k3'.
    gamma: the discount γ per token.

  Returns:
    [N, C] float32, without gradient, 0 under the mask.

  Raises:
    ValueError: for a wrong shape or dtype, an unknown estimator, or γ below 0.
  """
  by_token = token_rewards(rewards, logprobs, reference_logprobs, completion_mask,
                           kl_coefficient=kl_coefficient, kl_estimator=kl_estimator)
  judged = (completion_mask != 0) & ~jnp.isnan(rewards)[:, None]
  return whiten(reward_to_go(by_token, completion_mask, gamma=gamma), judged)


def reinforce_pp_baseline(rewards: jax.Array, completion_mask: jax.Array) -> jax.Array:
  """REINFORCE++ with baseline: r − the group's mean, whitened over the batch's tokens.

  (arXiv:2501.03262.) Every token of a completion counts in the statistics.

  Args:
    rewards: [B, G], finite, or NaN where a completion could not be judged.
    completion_mask: [B·G, C], a group's rows together; 0 where a token does not count.

  Returns:
    [B·G, C] float32, without gradient, 0 under the mask.

  Raises:
    ValueError: for a wrong shape.
  """
  checks.rank('[B, G]', rewards=rewards)
  checks.rank('[N, C]', completion_mask=completion_mask)
  if completion_mask.shape[0] != rewards.shape[0] * rewards.shape[1]:
    raise ValueError(f'completion_mask must have B·G = {rewards.size} rows, got '
                     f'{completion_mask.shape[0]}')
  centred = group_relative(rewards, scale='none')
  judged = (completion_mask != 0) & ~jnp.isnan(rewards).reshape(-1, 1)
  return whiten(jnp.broadcast_to(centred[:, None], completion_mask.shape), judged)


def group_filter(correct: jax.Array) -> jax.Array:
  """DAPO's 0 < correct < G: the groups with both right and wrong answers among those judged.

  Only these have advantages other than 0 (arXiv:2503.14476, eq. 11).

  Args:
    correct: [B, G], bool, or a reward that is above 0 where an answer is right, and NaN where a
      completion could not be judged.

  Returns:
    [B] bool, True for the groups to keep.

  Raises:
    ValueError: for a wrong shape.
  """
  checks.rank('[B, G]', correct=correct)
  return jnp.any(correct > 0, 1) & jnp.any(correct <= 0, 1)


def overlong_penalty(lengths: jax.Array, *, max_length: int, buffer: int) -> jax.Array:
  """DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13), to be added to the reward.

  It is 0 up to max_length − buffer tokens, falls linearly to −1 at max_length, and stays −1.

  Args:
    lengths: of completions in tokens, any shape.
    max_length: the length in tokens from which the penalty is −1; 20,480 in DAPO.
    buffer: the number of tokens before it in which the penalty grows; 4,096 in DAPO.

  Returns:
    float32 of that shape, without gradient; a NumPy array if `lengths` is one.

  Raises:
    ValueError: for a buffer that is not between 1 and max_length.
  """
  if not 1 <= buffer <= max_length:
    raise ValueError(f'buffer must be between 1 and max_length={max_length}, got {buffer}')
  beyond = lengths.astype(jnp.float32) - (max_length - buffer)
  return -(beyond / buffer).clip(0, 1)
