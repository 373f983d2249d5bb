"""Estimators of KL(policy ‖ reference) per token, from the log-probabilities of sampled tokens.

(Schulman, "Approximating KL divergence", 2020.) Each is unbiased in value or low in variance when
the tokens were drawn from the policy; as terms of a loss their gradients differ: that of k2 is the
gradient of the KL, that of k1 is zero in expectation, that of k3 is the gradient of the reverse,
KL(reference ‖ policy).
"""
import jax
import jax.numpy as jnp


def kl_k1(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k1 = log π/π_ref: unbiased, of high variance, of either sign. Any equal shapes."""
  return logprobs - reference_logprobs


def kl_k2(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k2 = ½ (log π/π_ref)²: biased, of low variance; its expected gradient is the KL's."""
  return 0.5 * jnp.square(logprobs - reference_logprobs)


def kl_k3(logprobs: jax.Array, reference_logprobs: jax.Array) -> jax.Array:
  """k3 = π_ref/π − log(π_ref/π) − 1: unbiased, never negative (GRPO, arXiv:2402.03300, eq. 4)."""
  log_ratio = reference_logprobs - logprobs
  return jnp.expm1(log_ratio) - log_ratio


ESTIMATORS = {'k1': kl_k1, 'k2': kl_k2, 'k3': kl_k3}
