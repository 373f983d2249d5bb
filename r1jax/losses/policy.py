"""The policy loss: one mechanism, of which the named recipes are thin compositions.

With ρ = π/π_old, a policy loss is

    −agg[ w · L(ρ, A) ] + β·agg[KL(π ‖ π_ref)] + β_old·agg[KL(π_old ‖ π)] − c·agg[entropy]

where L is the clipped surrogate, w corrects for a behaviour policy that was not the old policy, and
agg weighs tokens. Every recipe is a choice of the ratio's level, of the clip, and of agg.

Where it departs from the papers: the dual clip of PPO and the two-sided ("delta") clip of
INTELLECT-2 are one keyword, since they are one function wherever δ ≥ 1+ε; KL terms are estimated
from the sampled tokens, also in PPO's KL-constrained form, where the paper has the exact KL.
"""
import jax
import jax.numpy as jnp

from r1jax import checks, divergences
from r1jax.masked import select

AGGREGATIONS = ('sequence_mean', 'token_mean', 'sequence_sum', 'fixed_length')
RATIO_LEVELS = ('token', 'sequence', 'sequence_token', 'product')
CLIPS = ('ppo', 'cispo', 'none')
CORRECTIONS = ('token_truncate', 'token_mask', 'sequence_truncate', 'sequence_mask')


def loss_normalizer(mask: jax.Array, aggregation: str, max_length: int | None = None) -> jax.Array:
  """What the weighted sum over tokens is divided by.

  'sequence_mean' (GRPO): the mean of each completion's mean: the number of completions, empty ones
  included. 'token_mean' (DAPO): the number of tokens. 'sequence_sum' (RLOO, REINFORCE as derived):
  the mean of each completion's sum: the number of completions. 'fixed_length' (Dr. GRPO):
  completions times `max_length`, a constant, by default the mask's width: padding then changes the
  loss, so give it.

  Args:
    mask: [N, C] completion mask.
    aggregation: one of `AGGREGATIONS`.
    max_length: the constant of 'fixed_length', in tokens.

  Returns:
    float32 scalar. The sum of the normalisers of parts of a batch is that of the batch.

  Raises:
    ValueError: for another rank or word.
  """
  checks.word(AGGREGATIONS, aggregation=aggregation)
  checks.rank('[N, C]', completion_mask=mask)
  tokens = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1)
  return _normalizer(tokens, mask.shape, aggregation, max_length)


def policy_loss(
    logprobs: jax.Array, old_logprobs: jax.Array | None, advantages: jax.Array,
    completion_mask: jax.Array, *, ratio_level: str = 'token', clip: str = 'ppo',
    clip_epsilon_low: float | jax.Array = 0.2, clip_epsilon_high: float | jax.Array = 0.2,
    dual_clip: float | None = None, aggregation: str = 'token_mean',
    normalizer: jax.Array | None = None, max_length: int | None = None,
    token_count: jax.Array | None = None, reference_logprobs: jax.Array | None = None,
    kl_coefficient: float | jax.Array = 0.0, kl_estimator: str = 'k3',
    old_kl_coefficient: float | jax.Array | None = None, entropies: jax.Array | None = None,
    entropy_coefficient: float | jax.Array = 0.0, behaviour_logprobs: jax.Array | None = None,
    correction: str = 'token_truncate', correction_low: float = 0.0, correction_high: float = 2.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The policy loss in general; the named losses of `recipes` are choices of its keywords.

  The gradient flows through `logprobs` and `entropies` alone; old, reference and behaviour
  log-probabilities, advantages, correction weights and metrics carry none. Log-ratios are cut at
  `divergences.MAX_LOG_RATIO` before exp, so that nothing overflows.

  Args:
    logprobs: [N, C] of the policy, at the sampling temperature. N may be a micro-batch's rows.
    old_logprobs: [N, C] of the parameters that the rollout began with; None when the batch is
      their first update: then ρ is 1 in value and the gradient is the policy gradient.
    advantages: [N], or [N, C] where the ratio is per token.
    completion_mask: [N, C], 0 where a token does not count; the rest of a row may lie anywhere.
    ratio_level: what ρ is. 'token': each token's own. 'sequence': exp of the completion's mean
      log-ratio (GSPO). 'sequence_token': that in value, the token's own in gradient (GSPO-token).
      'product': the whole completion's, the product of its tokens' (RLOO, off-policy).
    clip: 'ppo': L = min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A): a token beyond the bound that its
      advantage pushes it to has no gradient. 'cispo': L = sg(clip(ρ, 1−ε_low, 1+ε_high))·A·log π:
      the weight is bounded, every token keeps a gradient. 'none': L = ρA.
    clip_epsilon_low, clip_epsilon_high: distances of the bounds *from 1*; DAPO's clip-higher
      (arXiv:2503.14476, eq. 8) where they differ.
    dual_clip: c > 1 bounds ρ from above where A < 0, L = max(L, c·A) (arXiv:1912.09729;
      two-sided clipping's δ, arXiv:2505.07291, is the same where δ ≥ 1+ε_high); None: no bound.
    aggregation: one of `AGGREGATIONS`; see `loss_normalizer`.
    normalizer: the divisor of a larger whole (`loss_normalizer` of its mask), so that micro-batches
      and hosts add up exactly; by default this batch's own.
    max_length: the constant of 'fixed_length', in tokens.
    token_count: divides the metrics; by default this batch's own number of tokens.
    reference_logprobs: [N, C] of the reference; needed where kl_coefficient is not 0.
    kl_coefficient: β, also an array (an adaptive one). Completions with A = 0 feel it, too.
    kl_estimator: 'k1', 'k2', 'k3' or 'k3_corrected'; see `divergences` for each one's gradient.
    old_kl_coefficient: β_old of KL(π_old ‖ π) = E_old[ρ − 1 − log ρ], unbiased in value and
      gradient since the old policy sampled. None: neither the term nor its metric.
    entropies: [N, C] of the policy's distributions, for the bonus and its metric.
    entropy_coefficient: c.
    behaviour_logprobs: [N, C] recorded while sampling, where the sampler's arithmetic is not the
      trainer's: L is multiplied by a weight made of w = π_old/π_behaviour; None: it is not.
    correction: the weight. 'token_truncate': min(w, high) (TIS; Ionides, 2008). 'token_mask':
      w where low ≤ w ≤ high, else 0 (IcePop). 'sequence_truncate' and 'sequence_mask': the same
      with the product of w over the completion. Masked tokens stay in the normaliser.
    correction_low, correction_high: the bounds of w; low serves the masks alone.

  Returns:
    (loss, metrics), float32 scalars. Metrics are means over tokens, for the whole that
    `token_count` stands for: those of micro-batches add up (of 'ratio/max', the largest is it).
    `ratio/mean`, `ratio/max`, `clip_ratio/low` and `/high` (tokens on which a bound acts: for
    'ppo' low where A < 0 and high where A > 0), `clip_ratio/dual`; absent where there is no ratio
    ('cispo' without old log-probabilities). `kl`, `kl_old`, `entropy`, `correction/mean` (of the
    weights) and `correction/share` (of tokens truncated or masked) where their inputs are given.

  Raises:
    ValueError: for shapes or dtypes that do not fit, an unknown word, a bound out of range, or a
      coefficient without what it weighs.
  """
  _check(logprobs, old_logprobs, advantages, completion_mask, reference_logprobs, entropies,
         behaviour_logprobs)
  checks.word(RATIO_LEVELS, ratio_level=ratio_level)
  checks.word(CLIPS, clip=clip)
  checks.word(AGGREGATIONS, aggregation=aggregation)
  checks.word(divergences.ESTIMATORS, kl_estimator=kl_estimator)
  checks.word(CORRECTIONS, correction=correction)
  checks.at_least(0, clip_epsilon_low=clip_epsilon_low, clip_epsilon_high=clip_epsilon_high,
                  correction_low=correction_low)
  checks.at_least(1, strictly=True, dual_clip=dual_clip)
  checks.at_least(correction_low, correction_high=correction_high)
  if dual_clip is not None and clip != 'ppo':
    raise ValueError(f"dual_clip={dual_clip} is for clip='ppo': set it to None with {clip!r}")
  if ratio_level in ('sequence', 'product') and advantages.ndim == 2:
    raise ValueError(f'advantages have shape {advantages.shape}: give [{logprobs.shape[0]}] for '
                     f"ratio_level={ratio_level!r}, or use 'sequence_token'")
  _needs(kl_coefficient, 'kl_coefficient', reference_logprobs, 'reference_logprobs')
  _needs(entropy_coefficient, 'entropy_coefficient', entropies, 'entropies')
  _needs(old_kl_coefficient, 'old_kl_coefficient', old_logprobs, 'old_logprobs')

  # Masked values become harmless before any arithmetic, so that no 0·inf or NaN can arise.
  mask = completion_mask != 0
  wide = lambda x: jnp.asarray(x, jnp.float32)
  lengths = jnp.sum(wide(completion_mask), 1)
  kept = lambda x: select(wide(x), mask)
  fixed = lambda x: jax.lax.stop_gradient(kept(x))
  # log π/π_other: the difference first, then the mask, in one pass.
  log_ratio = lambda other: kept(wide(logprobs) - jax.lax.stop_gradient(wide(other)))
  old = logprobs if old_logprobs is None else old_logprobs
  per_token = advantages.ndim == 2 or ratio_level == 'sequence_token'
  if advantages.ndim == 1:
    advantages = select(wide(advantages), lengths)[:, None]
  elif ratio_level == 'sequence_token':
    advantages = kept(advantages)     # elsewhere a ratio of 0 tells what is masked
  advantages = jax.lax.stop_gradient(wide(advantages))

  # Values [N, 1] stand for each of a completion's tokens; values [N, C] are 0 under the mask.
  def by_row(values):
    return values[:, 0] * lengths if values.shape[1] == 1 else jnp.sum(values, 1)

  count = lambda acts: by_row(acts.astype(jnp.float32))
  sums = {}     # [N], what is summed over rows at the end: all of it in one reduction
  if clip == 'cispo' and old_logprobs is None:
    surrogate = kept(advantages * wide(logprobs))
  else:
    ratio, value = _ratio(log_ratio(old), mask, lengths, ratio_level)
    if clip == 'cispo':
      weights, counts = _cispo(value, count, clip_epsilon_low, clip_epsilon_high)
      surrogate = kept(weights * advantages * wide(logprobs))
    elif clip == 'ppo':
      cut, counts = _ppo(value, advantages, count, clip_epsilon_low, clip_epsilon_high, dual_clip)
      surrogate = cut(ratio) * advantages
    else:
      surrogate, counts = ratio * advantages, {}
    if per_token and clip != 'cispo':
      surrogate = select(surrogate, mask)
    sums |= {f'clip_ratio/{side}': rows for side, rows in counts.items()}
    sums['ratio/mean'] = by_row(value)
    largest = jnp.max(select(jnp.max(value, 1), lengths))
  if behaviour_logprobs is not None:
    difference = fixed(wide(old) - wide(behaviour_logprobs))
    weights, beyond = _correction(difference, mask, correction, correction_low, correction_high)
    surrogate = surrogate * weights
    sums |= {'correction/mean': by_row(weights), 'correction/share': by_row(beyond)}
  loss = -by_row(surrogate)
  if reference_logprobs is not None:
    extra = (kept(old),) if kl_estimator == 'k3_corrected' else ()
    sums['kl'] = by_row(divergences.ESTIMATORS[kl_estimator](
        kept(logprobs), fixed(reference_logprobs), *extra))
    loss = loss + kl_coefficient * sums['kl']
  if old_kl_coefficient is not None:
    known = value if ratio_level == 'token' else None
    sums['kl_old'] = by_row(divergences.exp_excess(log_ratio(old), known))
    loss = loss + old_kl_coefficient * sums['kl_old']
  if entropies is not None:
    sums['entropy'] = by_row(kept(entropies))
    loss = loss - entropy_coefficient * sums['entropy']
  if aggregation == 'sequence_mean':
    loss = loss / jnp.maximum(lengths, 1)

  loss, tokens, *totals = jnp.sum(jnp.stack([loss, lengths, *sums.values()]), 1)
  tokens = jnp.maximum(tokens, 1)
  if normalizer is None:
    normalizer = _normalizer(tokens, mask.shape, aggregation, max_length)
  token_count = tokens if token_count is None else token_count
  metrics = {name: total / token_count for name, total in zip(sums, totals)}
  if 'ratio/mean' in metrics:
    metrics['ratio/max'] = largest
  return loss / normalizer, jax.tree.map(jax.lax.stop_gradient, metrics)


def _check(logprobs, old_logprobs, advantages, completion_mask, reference_logprobs, entropies,
           behaviour_logprobs):
  arrays = dict(old_logprobs=old_logprobs, reference_logprobs=reference_logprobs,
                entropies=entropies, behaviour_logprobs=behaviour_logprobs)
  checks.rank('[N, C]', logprobs=logprobs)
  checks.shapes(logprobs.shape, completion_mask=completion_mask, **arrays)
  checks.shapes(logprobs.shape[:1], logprobs.shape, advantages=advantages)
  checks.floats(logprobs=logprobs, advantages=advantages, **arrays)


def _needs(coefficient, name, array, array_name):
  """Refuses a coefficient, unless it is 0 or absent, without the array that it weighs."""
  given = coefficient is not None and not (
      isinstance(coefficient, (int, float)) and coefficient == 0)
  if given and array is None:
    raise ValueError(f'{name}={coefficient} needs {array_name}: give them or set it to 0')


def _normalizer(tokens, shape, aggregation, max_length):
  if aggregation == 'token_mean':
    return tokens
  return jnp.float32(shape[0] * (
      (max_length or shape[1]) if aggregation == 'fixed_length' else 1))


@jax.custom_jvp
def _bounded(log_ratio):
  """Cut at ± `MAX_LOG_RATIO` in value; the gradient keeps its direction beyond."""
  return jnp.clip(log_ratio, -divergences.MAX_LOG_RATIO, divergences.MAX_LOG_RATIO)


_bounded.defjvps(lambda tangent, _, __: tangent)


def _ratio(log_ratio, mask, lengths, level):
  """(ρ, its value without gradient), [N, 1] or [N, C]; the latter's value is 0 where masked."""
  if level == 'token':
    ratio = jnp.exp(jnp.where(mask, _bounded(log_ratio), -jnp.inf))
    return ratio, jax.lax.stop_gradient(ratio)
  whole = jnp.sum(log_ratio, 1)
  if level != 'product':
    whole = whole / jnp.maximum(lengths, 1)
  ratio = jnp.exp(_bounded(whole))[:, None]
  value = jax.lax.stop_gradient(ratio)
  if level == 'sequence_token':
    ratio = value * (1 + log_ratio - jax.lax.stop_gradient(log_ratio))
  return ratio, value


def _ppo(value, advantages, count, low, high, dual):
  """(x -> x, or the bound where A pushes ρ beyond it; {side: [N], on how many tokens it does})."""
  positive, negative = advantages > 0, advantages < 0
  bound = jnp.where(positive, 1 + high, 1 - low)
  acts = jnp.where(positive, value > bound, negative & (value < bound) & (value > 0))
  if advantages.shape[1] == 1:
    either = count(acts)     # a row has one sign: one count will do
    counts = {'low': select(either, negative[:, 0]), 'high': select(either, positive[:, 0])}
  else:
    sign = select(jnp.where(positive, 1.0, -1.0), acts)
    either, balance = count(jnp.abs(sign)), count(sign)
    counts = {'low': (either - balance) / 2, 'high': (either + balance) / 2}
  if dual is None:
    return lambda x: jnp.where(acts, bound, x), counts
  beyond = negative & (value > dual)
  return (lambda x: jnp.where(acts, bound, jnp.where(beyond, dual, x)),
          counts | {'dual': count(beyond)})


def _cispo(value, count, low, high):
  """(clip(ρ) as a weight, {side: [N], how many of a completion's tokens are cut there})."""
  lower, upper = 1 - low, 1 + high
  if isinstance(lower, (int, float)) and lower <= 0:     # no ratio is below 0
    return jnp.minimum(value, upper), {
        'low': jnp.zeros(value.shape[0]), 'high': count(value > upper)}
  return jnp.clip(value, lower, upper), {
      'low': count((value < lower) & (value > 0)), 'high': count(value > upper)}


def _correction(log_weights, mask, correction, low, high):
  """(weights, 1 where they were truncated or masked), [N, 1] or [N, C], of log w [N, C]."""
  level, form = correction.split('_')
  if level == 'sequence':
    log_weights = jnp.sum(log_weights, 1, keepdims=True)
  weights = jnp.exp(jnp.minimum(log_weights, divergences.MAX_LOG_RATIO))
  if form == 'truncate':
    cut = weights > high
    weights = jnp.minimum(weights, high)
  else:
    cut = (weights < low) | (weights > high)
    weights = select(weights, ~cut)
  cut = cut.astype(jnp.float32)
  if level == 'token':
    weights, cut = select(weights, mask), select(cut, mask)
  return weights, cut
