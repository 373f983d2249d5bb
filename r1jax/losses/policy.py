"""The policy loss: one function, of which the named losses in `recipes` are special cases.

With ρ = π/π_old, a policy loss is

    −agg[w · L(ρ, A)] + β·agg[KL(π ‖ π_ref)] + β_old·agg[KL(π_old ‖ π)] − c·agg[entropy]

where L is the clipped surrogate, w corrects for a behaviour policy that differs from the old
policy, and agg weighs tokens. Each named loss chooses the level of the ratio, the clip, and agg.

Departures from the papers: the dual clip of PPO and the two-sided ("delta") clip of INTELLECT-2 are
one keyword, since they are the same function wherever δ ≥ 1+ε. KL terms are estimated from the
sampled tokens, also in PPO's KL-constrained form, where the paper has the exact KL.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax import checks, divergences
from r1jax.masked import select

AGGREGATIONS = ('sequence_mean', 'token_mean', 'sequence_sum', 'fixed_length')
RATIO_LEVELS = ('token', 'sequence', 'sequence_token', 'product')
CLIPS = ('ppo', 'cispo', 'none')
CORRECTIONS = ('token_truncate', 'token_mask', 'sequence_truncate', 'sequence_mask')


def loss_normalizer(mask: jax.Array, aggregation: str, max_length: int | None = None) -> jax.Array:
  """The divisor of the weighted sum over tokens.

  'sequence_mean' (GRPO) is the mean of each completion's mean; the divisor is the number of
  completions, empty ones included. 'token_mean' (DAPO): the number of tokens. 'sequence_sum' (RLOO,
  and REINFORCE as derived) is the mean of each completion's sum: the number of completions.
  'fixed_length' (Dr. GRPO): the number of completions times `max_length`.

  Args:
    mask: [N, C] completion mask.
    aggregation: one of `AGGREGATIONS`.
    max_length: the constant of 'fixed_length', in tokens. None uses C, which makes the loss depend
      on padding: set it.

  Returns:
    float32 scalar without gradient. The normalizers of the parts of a batch add up to the
    normalizer of the batch.

  Raises:
    ValueError: if `mask` is not [N, C] or `aggregation` is unknown.
  """
  checks.word(AGGREGATIONS, aggregation=aggregation)
  checks.rank('[N, C]', completion_mask=mask)
  num_tokens = jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1)
  return _normalizer(num_tokens, mask.shape, aggregation, max_length)


# Longer than a screen because its docstring explains each of its keywords.
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
  """The general policy loss; the named losses in `recipes` set some of its keywords.

  The gradient flows through `logprobs` and `entropies` alone; old, reference and behaviour
  log-probabilities, advantages, correction weights and metrics carry none. Log-ratios are cut at
  `divergences.MAX_LOG_RATIO` before exp, so nothing overflows.

  Args:
    logprobs: [N, C] log-probabilities of the sampled tokens under the policy, in nats, at the
      sampling temperature. N may be the rows of a micro-batch.
    old_logprobs: [N, C] under the parameters that the rollout began with. None if the batch is the
      first update after its rollout: then ρ is 1 in value and the gradient is the policy gradient.
    advantages: [N], or [N, C] if `ratio_level` is 'token' or 'sequence_token'.
    completion_mask: [N, C], 0 where a token does not count; zeros may be anywhere in a row.
    ratio_level: what ρ is. 'token': each token's own. 'sequence': exp of the completion's mean
      log-ratio (GSPO). 'sequence_token': that in value, the token's own in gradient (GSPO-token).
      'product': the whole completion's, the product over its tokens (RLOO, off-policy).
    clip: 'ppo': L = min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A); a token that is beyond the bound toward
      which its advantage pushes it has no gradient. 'cispo': L = sg(clip(ρ, 1−ε_low, 1+ε_high))·A·
      log π; the weight is bounded, and every token keeps a gradient. 'none': L = ρA.
    clip_epsilon_low: ε_low, the distance of the lower bound *from 1*.
    clip_epsilon_high: ε_high, the distance of the upper bound *from 1*; greater than ε_low in
      DAPO's clip-higher (arXiv:2503.14476, eq. 8).
    dual_clip: c > 1 bounds ρ from above where A < 0: L = max(L, c·A) (arXiv:1912.09729; the δ of
      two-sided clipping, arXiv:2505.07291, is the same for δ ≥ 1+ε_high). None: no such bound.
    aggregation: one of `AGGREGATIONS`; see `loss_normalizer`.
    normalizer: the divisor of a larger whole (`loss_normalizer` of its mask), with which
      micro-batches and hosts add up exactly; by default this batch's own.
    max_length: the constant of 'fixed_length', in tokens.
    token_count: divides the metrics; by default this batch's own number of tokens.
    reference_logprobs: [N, C] under the reference; needed unless `kl_coefficient` is 0.
    kl_coefficient: β, a number or an array (an adaptive one). Completions with A = 0 have this
      term too.
    kl_estimator: 'k1', 'k2', 'k3' or 'k3_corrected'; see `divergences` for each one's gradient.
    old_kl_coefficient: β_old of KL(π_old ‖ π) = E_old[ρ − 1 − log ρ], unbiased in value and
      gradient since the old policy sampled. None: neither the term nor its metric.
    entropies: [N, C] of the policy's distributions in nats, for the bonus and its metric.
    entropy_coefficient: c, the weight of the entropy bonus.
    behaviour_logprobs: [N, C] as recorded while sampling, for a sampler whose arithmetic is not
      the trainer's: L is multiplied by a weight made of w = π_old/π_behaviour. None: no weight.
    correction: that weight. 'token_truncate': min(w, high) (TIS; Ionides, 2008). 'token_mask': w
      where low ≤ w ≤ high, else 0 (IcePop). 'sequence_truncate' and 'sequence_mask': the same with
      the product of w over the completion. Masked tokens still count in the normalizer.
    correction_low: the lower bound of w, used by the masks only.
    correction_high: the upper bound of w.

  Returns:
    (loss, metrics), float32 scalars. Metrics are means over tokens, of the whole that `token_count`
    stands for, so those of micro-batches add up (for 'ratio/max', take the largest). `ratio/mean`,
    `ratio/max`, `clip_ratio/low`, `clip_ratio/high` (tokens on which a bound acts: for 'ppo' low
    where A < 0 and high where A > 0), `clip_ratio/dual`; absent if there is no ratio ('cispo'
    without old log-probabilities). `kl`, `kl_old`, `entropy`, `correction/mean` (of the weights)
    and `correction/share` (of tokens truncated or masked) if their inputs are given.

  Raises:
    ValueError: for a wrong shape or dtype, an unknown word, a bound out of range, or a coefficient
      without the array that it weighs.
  """
  _check_arrays(logprobs, advantages, completion_mask, dict(
      old_logprobs=old_logprobs, reference_logprobs=reference_logprobs, entropies=entropies,
      behaviour_logprobs=behaviour_logprobs))
  bounds = _Clip(clip, clip_epsilon_low, clip_epsilon_high, dual_clip).checked()
  behaviour = _Correction(correction, correction_low, correction_high).checked()
  checks.word(AGGREGATIONS, aggregation=aggregation)
  checks.word(divergences.ESTIMATORS, kl_estimator=kl_estimator)
  _check_ratio_level(ratio_level, advantages)
  _needs('kl_coefficient', kl_coefficient, reference_logprobs=reference_logprobs)
  _needs('entropy_coefficient', entropy_coefficient, entropies=entropies)
  _needs('old_kl_coefficient', old_kl_coefficient, old_logprobs=old_logprobs)

  tokens = _Tokens(completion_mask != 0, jnp.sum(_float32(completion_mask), 1))
  old = logprobs if old_logprobs is None else old_logprobs
  ratio = None
  if not (clip == 'cispo' and old_logprobs is None):     # there the weight is 1, without a ratio
    ratio = _ratio(tokens.log_ratio(logprobs, old), tokens, ratio_level)
  surrogate, sums = _surrogate(ratio, logprobs, advantages, tokens, ratio_level, bounds)
  if behaviour_logprobs is not None:
    weights, cut = behaviour.weights(tokens.fixed(_float32(old) - _float32(behaviour_logprobs)),
                                     tokens.mask)
    surrogate = surrogate * weights
    sums |= {'correction/mean': tokens.by_row(weights), 'correction/share': tokens.by_row(cut)}

  loss = -tokens.by_row(surrogate)
  if reference_logprobs is not None:
    sums['kl'] = tokens.by_row(
        _reference_kl(logprobs, old, reference_logprobs, tokens, kl_estimator))
    loss = loss + kl_coefficient * sums['kl']
  if old_kl_coefficient is not None:
    known = ratio.value if ratio is not None and ratio_level == 'token' else None
    # Not the log-ratio above: bfloat16 gradients of the two terms are rounded apart.
    sums['kl_old'] = tokens.by_row(
        divergences.exp_excess(tokens.log_ratio(logprobs, old), known))
    loss = loss + old_kl_coefficient * sums['kl_old']
  if entropies is not None:
    sums['entropy'] = tokens.by_row(tokens.kept(entropies))
    loss = loss - entropy_coefficient * sums['entropy']

  loss, metrics = _reduce(loss, sums, tokens, aggregation, normalizer, max_length, token_count)
  if ratio is not None:
    metrics['ratio/max'] = jnp.max(select(jnp.max(ratio.value, 1), tokens.lengths))
  return loss, jax.tree.map(jax.lax.stop_gradient, metrics)


def _float32(x) -> jax.Array:
  return jnp.asarray(x, jnp.float32)


class _Tokens(NamedTuple):
  """Which tokens count. Masked values become 0 before any arithmetic, so no 0·inf can arise."""
  mask: jax.Array       # [N, C] bool
  lengths: jax.Array    # [N] float32: tokens that count

  def kept(self, x) -> jax.Array:
    """float32 values, 0 under the mask."""
    return select(_float32(x), self.mask)

  def fixed(self, x) -> jax.Array:
    """`kept`, without gradient."""
    return jax.lax.stop_gradient(self.kept(x))

  def log_ratio(self, logprobs, other) -> jax.Array:
    """The log-ratio log π/π_other: first the difference, then the mask, in one memory pass."""
    return self.kept(_float32(logprobs) - jax.lax.stop_gradient(_float32(other)))

  def by_row(self, values) -> jax.Array:
    """Sums [N] over a completion's tokens, of [N, C] (0 under the mask) or [N, 1] (for each)."""
    return values[:, 0] * self.lengths if values.shape[1] == 1 else jnp.sum(values, 1)

  def count_where(self, condition) -> jax.Array:
    """[N]: on how many tokens it holds."""
    return self.by_row(condition.astype(jnp.float32))


class _Ratio(NamedTuple):
  """ρ, [N, 1] for whole completions or [N, C]; a token's is 0 in value under the mask."""
  ratio: jax.Array    # with its gradient
  value: jax.Array    # without


class _Clip(NamedTuple):
  """`policy_loss`'s clip and its bounds."""
  kind: str
  low: float | jax.Array
  high: float | jax.Array
  dual: float | None

  def checked(self) -> '_Clip':
    """This clip; raises ValueError if it is unknown or a bound is out of range."""
    checks.word(CLIPS, clip=self.kind)
    checks.at_least(0, clip_epsilon_low=self.low, clip_epsilon_high=self.high)
    checks.at_least(1, strictly=True, dual_clip=self.dual)
    if self.dual is not None and self.kind != 'ppo':
      raise ValueError(f"dual_clip={self.dual} needs clip='ppo', got {self.kind!r}: set dual_clip "
                       'to None')
    return self


class _Correction(NamedTuple):
  """`policy_loss`'s correction and its bounds."""
  kind: str
  low: float
  high: float

  def checked(self) -> '_Correction':
    """This correction; raises ValueError if it is unknown or a bound is out of range."""
    checks.word(CORRECTIONS, correction=self.kind)
    checks.at_least(0, correction_low=self.low)
    checks.at_least(self.low, correction_high=self.high)
    return self

  def weights(self, log_weights, mask) -> tuple[jax.Array, jax.Array]:
    """(weights, 1 where they were truncated or masked), [N, 1] or [N, C], of log w [N, C]."""
    level, form = self.kind.split('_')
    if level == 'sequence':
      log_weights = jnp.sum(log_weights, 1, keepdims=True)
    weights = jnp.exp(jnp.minimum(log_weights, divergences.MAX_LOG_RATIO))
    if form == 'truncate':
      cut = weights > self.high
      weights = jnp.minimum(weights, self.high)
    else:
      cut = (weights < self.low) | (weights > self.high)
      weights = select(weights, ~cut)
    cut = cut.astype(jnp.float32)
    if level == 'token':
      weights, cut = select(weights, mask), select(cut, mask)
    return weights, cut


def _check_arrays(logprobs, advantages, completion_mask, others) -> None:
  checks.rank('[N, C]', logprobs=logprobs)
  checks.shapes(logprobs.shape, completion_mask=completion_mask, **others)
  checks.shapes(logprobs.shape[:1], logprobs.shape, advantages=advantages)
  checks.floats(logprobs=logprobs, advantages=advantages, **others)


def _check_ratio_level(ratio_level, advantages) -> None:
  checks.word(RATIO_LEVELS, ratio_level=ratio_level)
  if ratio_level in ('sequence', 'product') and advantages.ndim == 2:
    raise ValueError(f'advantages must have shape [{advantages.shape[0]}] with '
                     f'ratio_level={ratio_level!r}, got {list(advantages.shape)}: use '
                     "'sequence_token' for advantages per token")


def _needs(name, coefficient, **arrays) -> None:
  """Refuses a coefficient, unless it is 0 or None, without the array that it weighs."""
  (array_name, array), = arrays.items()
  is_zero = isinstance(coefficient, (int, float)) and coefficient == 0
  if array is None and coefficient is not None and not is_zero:
    raise ValueError(f'{name}={coefficient} needs {array_name}, got None: pass {array_name} or set '
                     f'{name} to 0')


@jax.custom_jvp
def _bounded(log_ratio):
  """Cut at ± `MAX_LOG_RATIO` in value; the gradient keeps its direction beyond."""
  return jnp.clip(log_ratio, -divergences.MAX_LOG_RATIO, divergences.MAX_LOG_RATIO)


_bounded.defjvps(lambda tangent, _, __: tangent)


def _ratio(log_ratio, tokens: _Tokens, level: str) -> _Ratio:
  """ρ at one of `RATIO_LEVELS`, of the tokens' log-ratios [N, C]."""
  if level == 'token':
    ratio = jnp.exp(jnp.where(tokens.mask, _bounded(log_ratio), -jnp.inf))
    return _Ratio(ratio, jax.lax.stop_gradient(ratio))
  whole = jnp.sum(log_ratio, 1)
  if level != 'product':
    whole = whole / jnp.maximum(tokens.lengths, 1)
  ratio = jnp.exp(_bounded(whole))[:, None]
  value = jax.lax.stop_gradient(ratio)
  if level == 'sequence_token':
    ratio = value * (1 + log_ratio - jax.lax.stop_gradient(log_ratio))
  return _Ratio(ratio, value)


def _surrogate(
    ratio: _Ratio | None, logprobs, advantages, tokens: _Tokens, ratio_level: str, clip: _Clip,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(L, [N, C] or [N, 1]; metrics of the ratio and its clip, summed over each row [N])."""
  per_token = advantages.ndim == 2 or ratio_level == 'sequence_token'
  if advantages.ndim == 1:
    advantages = select(_float32(advantages), tokens.lengths)[:, None]
  elif ratio_level == 'sequence_token':
    advantages = tokens.kept(advantages)     # at other levels the ratio is 0 under the mask
  advantages = jax.lax.stop_gradient(_float32(advantages))

  if ratio is None:
    return tokens.kept(advantages * _float32(logprobs)), {}
  counts: dict[str, jax.Array] = {}
  if clip.kind == 'cispo':
    weights, counts = _clip_cispo(ratio.value, tokens, clip)
    surrogate = tokens.kept(weights * advantages * _float32(logprobs))
  elif clip.kind == 'ppo':
    clipped, counts = _clip_ppo(ratio, advantages, tokens, clip)
    surrogate = clipped * advantages
  else:
    surrogate = ratio.ratio * advantages
  if per_token and clip.kind != 'cispo':
    surrogate = select(surrogate, tokens.mask)
  return surrogate, {f'clip_ratio/{side}': rows for side, rows in counts.items()} | {
      'ratio/mean': tokens.by_row(ratio.value)}


def _clip_ppo(ratio: _Ratio, advantages, tokens: _Tokens, clip: _Clip):
  """(ρ, or the bound where A pushes ρ beyond it; {side: [N], on how many tokens that is so})."""
  value, positive, negative = ratio.value, advantages > 0, advantages < 0
  bound = jnp.where(positive, 1 + clip.high, 1 - clip.low)
  acts = jnp.where(positive, value > bound, negative & (value < bound) & (value > 0))
  if advantages.shape[1] == 1:
    either = tokens.count_where(acts)     # a row has one sign, so one count is enough
    counts = {'low': select(either, negative[:, 0]), 'high': select(either, positive[:, 0])}
  else:
    sign = select(jnp.where(positive, 1.0, -1.0), acts)
    either, balance = tokens.count_where(jnp.abs(sign)), tokens.count_where(sign)
    counts = {'low': (either - balance) / 2, 'high': (either + balance) / 2}
  if clip.dual is None:
    return jnp.where(acts, bound, ratio.ratio), counts
  beyond = negative & (value > clip.dual)
  clipped = jnp.where(acts, bound, jnp.where(beyond, clip.dual, ratio.ratio))
  return clipped, counts | {'dual': tokens.count_where(beyond)}


def _clip_cispo(value, tokens: _Tokens, clip: _Clip):
  """(clip(ρ) as a weight, {side: [N], how many of a completion's tokens are clipped there})."""
  lower, upper = 1 - clip.low, 1 + clip.high
  if isinstance(lower, (int, float)) and lower <= 0:     # no ratio is below 0
    return jnp.minimum(value, upper), {
        'low': jnp.zeros(value.shape[0]), 'high': tokens.count_where(value > upper)}
  return jnp.clip(value, lower, upper), {
      'low': tokens.count_where((value < lower) & (value > 0)),
      'high': tokens.count_where(value > upper)}


def _reference_kl(logprobs, old, reference_logprobs, tokens: _Tokens, estimator: str) -> jax.Array:
  """KL(π ‖ π_ref) per token, [N, C]."""
  estimate = divergences.ESTIMATORS[estimator]
  extra = (tokens.kept(old),) if estimator == 'k3_corrected' else ()
  return estimate(tokens.kept(logprobs), tokens.fixed(reference_logprobs), *extra)


def _reduce(
    loss, sums: dict[str, jax.Array], tokens: _Tokens, aggregation: str, normalizer, max_length,
    token_count,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """(loss, metrics) from the loss and the metrics of each row [N], in one reduction over rows."""
  if aggregation == 'sequence_mean':
    loss = loss / jnp.maximum(tokens.lengths, 1)
  loss, num_tokens, *totals = jnp.sum(jnp.stack([loss, tokens.lengths, *sums.values()]), 1)
  num_tokens = jnp.maximum(num_tokens, 1)
  if normalizer is None:
    normalizer = _normalizer(num_tokens, tokens.mask.shape, aggregation, max_length)
  token_count = num_tokens if token_count is None else token_count
  return loss / normalizer, {name: total / token_count for name, total in zip(sums, totals)}


def _normalizer(num_tokens, shape, aggregation, max_length) -> jax.Array:
  if aggregation == 'token_mean':
    return num_tokens
  return jnp.float32(shape[0] * (
      (max_length or shape[1]) if aggregation == 'fixed_length' else 1))
