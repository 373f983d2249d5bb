"""Divergences between policies, estimated or exact, and controllers of a KL coefficient.

The estimators (Schulman, "Approximating KL divergence", 2020) take log-probabilities of tokens that
were drawn from the policy, and estimate KL(policy ‖ reference) per token. A good value does not
imply a good gradient as a term of a loss:

| estimator | value in expectation | gradient in expectation |
|---|---|---|
| k1 | the KL, of either sign, of high variance | zero |
| k2 | biased in the third order of the distance | the KL's |
| k3 | the KL, never negative | that of the reverse, KL(reference ‖ policy) |
| k3_corrected | the KL, never negative | the KL's, for any old policy that sampled |

All are computed in float32, in nats, and carry gradients to every argument unless they say
otherwise.
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checks
from r1jax.records import pytree_dataclass

MAX_LOG_RATIO = 60.0    # log-ratios are cut here before exp, so that sums stay finite


def _difference(logprobs, reference_logprobs):
  checks.floats(logprobs=logprobs, reference_logprobs=reference_logprobs)
  checks.shapes(logprobs.shape, reference_logprobs=reference_logprobs)
  return logprobs.astype(jnp.float32) - reference_logprobs.astype(jnp.float32)


def exp_excess(x: jax.Array, exp_x: jax.Array | None = None) -> jax.Array:
  """exp(x) − 1 − x, elementwise, without cancellation for small x; x is cut at `MAX_LOG_RATIO`.

  Args:
    x: float32, any shape. Carries the gradient.
    exp_x: exp(x), if it is known already. Carries no gradient.

  Returns:
    float32 of that shape, never negative.
  """
  return _exp_excess(x, jnp.exp(jnp.minimum(x, MAX_LOG_RATIO)) if exp_x is None else exp_x)


@jax.custom_jvp
def _exp_excess(x, exp_x):
  x = jnp.minimum(x, MAX_LOG_RATIO)
  near = jnp.clip(x, -0.1, 0.1)
  series = jnp.square(near) * (1 / 2 + near * (1 / 6 + near * (1 / 24 + near / 120)))
  return jnp.where(jnp.abs(x) < 0.1, series, exp_x - 1 - x)


@_exp_excess.defjvp
def _exp_excess_jvp(primals, tangents):
  """The derivative by x, exp(x) − 1, is the excess plus x."""
  excess = _exp_excess(*primals)
  return excess, (excess + jnp.minimum(primals[0], MAX_LOG_RATIO)) * tangents[0]


def kl_k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k1 = log π/π_ref: unbiased, of high variance, of either sign; no expected gradient.

  Args:
    logprobs: log-probabilities of sampled tokens under the policy, any shape.
    reference_logprobs: of the same tokens under the reference, of the same shape.

  Returns:
    float32 of that shape, in nats.

  Raises:
    ValueError: if shapes differ or an argument is not floating-point.
  """
  return _difference(logprobs, reference_logprobs)


def kl_k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k2 = ½ (log π/π_ref)²: biased, of low variance; its expected gradient is the KL's.

  Args:
    logprobs: log-probabilities of sampled tokens under the policy, any shape.
    reference_logprobs: of the same tokens under the reference, of the same shape.

  Returns:
    float32 of that shape, in nats.

  Raises:
    ValueError: if shapes differ or an argument is not floating-point.
  """
  return 0.5 * jnp.square(_difference(logprobs, reference_logprobs))


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k3 = π_ref/π − log(π_ref/π) − 1: unbiased, never negative (GRPO, arXiv:2402.03300, eq. 4).

  Its expected gradient is that of the reverse KL(reference ‖ policy).

  Args:
    logprobs: log-probabilities of sampled tokens under the policy, any shape.
    reference_logprobs: of the same tokens under the reference, of the same shape.

  Returns:
    float32 of that shape, in nats.

  Raises:
    ValueError: if shapes differ or an argument is not floating-point.
  """
  return exp_excess(-_difference(logprobs, reference_logprobs))


def kl_k3_corrected(
    logprobs: jax.Array, reference_logprobs: jax.Array, old_logprobs: jax.Array | None = None,
) -> jax.Array:
  """π/π_old · k3 (DeepSeek-V3.2, arXiv:2512.02556, eq. 7): unbiased in value and in gradient.

  The ratio carries a gradient (the score-function term); the old policy does not. Both log-ratios
  are cut at half of `MAX_LOG_RATIO`, so their product stays finite.

  Args:
    logprobs: log-probabilities of sampled tokens under the policy, any shape.
    reference_logprobs: of the same tokens under the reference, of the same shape.
    old_logprobs: of the same tokens under the policy that sampled them; None: the policy itself.
      Carry no gradient.

  Returns:
    float32 of that shape, in nats.

  Raises:
    ValueError: if shapes differ or an argument is not floating-point.
  """
  half = MAX_LOG_RATIO / 2
  old_logprobs = logprobs if old_logprobs is None else old_logprobs
  log_ratio = _difference(logprobs, jax.lax.stop_gradient(old_logprobs))
  excess = exp_excess(jnp.minimum(-_difference(logprobs, reference_logprobs), half))
  return jnp.exp(jnp.minimum(log_ratio, half)) * excess


ESTIMATORS = {'k1': kl_k1, 'k2': kl_k2, 'k3': kl_k3, 'k3_corrected': kl_k3_corrected}


def _log_softmaxes(logits, other_logits):
  checks.floats(logits=logits, other_logits=other_logits)
  checks.shapes(logits.shape, other_logits=other_logits)
  return (jax.nn.log_softmax(logits.astype(jnp.float32)),
          jax.nn.log_softmax(other_logits.astype(jnp.float32)))


def _expected(log_p, values):
  """Σ p·values over the last axis; where p is 0 a value of ±inf adds nothing."""
  return jnp.sum(jnp.exp(log_p) * jnp.where(jnp.isfinite(log_p), values, 0), -1)


def kl(logits: jax.Array, other_logits: jax.Array) -> jax.Array:
  """The exact KL(p ‖ q) = Σ_v p_v (log p_v − log q_v), p = softmax(logits), q of the other.

  A token that p excludes (a logit of −inf) adds nothing; one that only q excludes makes it
  infinite.

  Args:
    logits: [..., V] of p, up to a constant, so log-probabilities are fine.
    other_logits: [..., V] of q.

  Returns:
    [...] float32, in nats.

  Raises:
    ValueError: if shapes differ or an argument is not floating-point.
  """
  log_p, log_q = _log_softmaxes(logits, other_logits)
  return _expected(log_p, log_p - log_q)


def jensen_shannon(
    logits: jax.Array, other_logits: jax.Array, *, mixture: float = 0.5,
) -> jax.Array:
  """β·KL(p ‖ m) + (1−β)·KL(q ‖ m), m = β·p + (1−β)·q (arXiv:2306.13649, eq. 1).

  It is at most the entropy of (β, 1−β), log 2 for β = ½. Divided by β it tends to KL(p ‖ q) for
  β → 0; divided by 1−β, to KL(q ‖ p) for β → 1.

  Args:
    logits: [..., V] of p.
    other_logits: [..., V] of q.
    mixture: β, between 0 and 1.

  Returns:
    [...] float32, in nats.

  Raises:
    ValueError: if shapes differ, an argument is not floating-point, or β is not inside (0, 1).
  """
  if not 0 < mixture < 1:
    raise ValueError(f'mixture must be greater than 0 and less than 1, got {mixture}')
  log_p, log_q = _log_softmaxes(logits, other_logits)
  # Tokens that both exclude are left out: logaddexp of two infinities has no gradient.
  within = jnp.isfinite(log_p) | jnp.isfinite(log_q)
  log_m = jnp.logaddexp(log_p + jnp.log(mixture),
                        jnp.where(within, log_q, 0) + jnp.log1p(-mixture))
  return mixture * _expected(log_p, log_p - log_m) + (1 - mixture) * _expected(log_q, log_q - log_m)


def entropy(logits: jax.Array) -> jax.Array:
  """−Σ_v p_v log p_v, p = softmax(logits).

  Args:
    logits: [..., V]; -inf excludes a token.

  Returns:
    [...] float32, in nats.

  Raises:
    ValueError: if the logits are not floating-point.
  """
  checks.floats(logits=logits)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -_expected(log_p, log_p)


@pytree_dataclass
class KLController:
  """The state of an adaptive KL coefficient, saved with a run like an optimizer's state.

  With a NumPy scalar all is computed on the host.
  """
  coefficient: jax.Array    # float32 scalar, β


def init_controller(coefficient: float) -> KLController:
  """The controller before the first measurement.

  Args:
    coefficient: β, above 0.

  Returns:
    The controller's state.

  Raises:
    ValueError: for 0 or less, which no factor can change.
  """
  checks.at_least(0, strictly=True, coefficient=coefficient)
  return KLController(jnp.float32(coefficient))


def double_or_halve(
    controller: KLController, kl: jax.Array, *, target: float | jax.Array,
) -> KLController:
  """PPO's rule (arXiv:1707.06347, §4): β·2 where KL > 1.5·target, β/2 where KL < target/1.5.

  Args:
    controller: from `init_controller` or the last call.
    kl: scalar, the mean KL measured since the last call, in nats per token. NaN leaves β unchanged.
    target: the KL to aim for, above 0.

  Returns:
    The next controller.

  Raises:
    ValueError: for a target of 0 or less.
  """
  checks.at_least(0, strictly=True, target=target)
  xp = _module_of(controller)
  factor = xp.where(kl > 1.5 * target, 2.0, xp.where(kl < target / 1.5, 0.5, 1.0))
  return KLController(controller.coefficient * xp.float32(factor))


def proportional(
    controller: KLController, kl: jax.Array, *, target: float | jax.Array,
    horizon: float | jax.Array, num_samples: int | jax.Array,
) -> KLController:
  """RLHF's rule (arXiv:1909.08593, §2.2): β·(1 + clip(KL/target − 1, ±0.2)·n/horizon).

  Args:
    controller: from `init_controller` or the last call.
    kl: scalar, in the paper the mean KL of a *completion* (summed over its tokens). NaN leaves β
      unchanged.
    target: the KL to aim for, above 0, in the units of `kl`.
    horizon: completions over which β may change by about a fifth; 10,000 in the paper.
    num_samples: n, the number of completions that `kl` was measured on.

  Returns:
    The next controller.

  Raises:
    ValueError: for a target or a horizon of 0 or less.
  """
  checks.at_least(0, strictly=True, target=target, horizon=horizon)
  xp = _module_of(controller)
  error = xp.float32(kl / target - 1).clip(-0.2, 0.2)
  factor = 1 + xp.float32(xp.where(xp.isnan(error), 0, error)) * num_samples / horizon
  return KLController(controller.coefficient * factor)


def _module_of(controller: KLController) -> Any:
  """NumPy for a controller on the host, else jax.numpy."""
  return np if isinstance(controller.coefficient, np.floating) else jnp
