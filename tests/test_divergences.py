"""Pitfall 8: every estimator against the exact KL of a policy small enough to enumerate."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.divergences import ESTIMATORS, kl_k1, kl_k2, kl_k3

pytestmark = pytest.mark.usefixtures('strict_ranks')

POLICY = jnp.asarray(np.random.default_rng(0).normal(size=7), jnp.float32)
REFERENCE = jnp.asarray(np.random.default_rng(1).normal(size=7), jnp.float32)


def exact_kl(p_logits, q_logits):
  log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def expected(estimator, logits, reference, sampled_from):
  """E[estimator] over every token, weighted by a policy that carries no gradient, as samples do."""
  weights = jax.lax.stop_gradient(jax.nn.softmax(sampled_from))
  return jnp.sum(weights * estimator(jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)))


@pytest.mark.parametrize('estimator', [kl_k1, kl_k3])
def test_pitfall_08_k1_and_k3_are_unbiased_in_value(estimator):
  want = exact_kl(POLICY, REFERENCE)
  assert want > 0.3
  np.testing.assert_allclose(expected(estimator, POLICY, REFERENCE, POLICY), want, rtol=1e-5)


def test_pitfall_08_the_bias_of_k2_is_of_third_order():
  bias = []
  for distance in (0.2, 0.1):
    reference = POLICY + distance * REFERENCE
    bias.append(abs(expected(kl_k2, POLICY, reference, POLICY) - exact_kl(POLICY, reference)))
  assert 0 < bias[0] < 0.1 * exact_kl(POLICY, POLICY + 0.2 * REFERENCE)
  assert 6 < bias[0] / bias[1] < 10      # 2³


@pytest.mark.parametrize('name, gradient_of', [
    ('k1', lambda logits: 0 * jnp.sum(logits)),
    ('k2', lambda logits: exact_kl(logits, REFERENCE)),
    ('k3', lambda logits: exact_kl(REFERENCE, logits))])
def test_pitfall_08_expected_gradients_are_those_that_the_docstring_states(name, gradient_of):
  got = jax.grad(lambda logits: expected(ESTIMATORS[name], logits, REFERENCE, POLICY))(POLICY)
  np.testing.assert_allclose(got, jax.grad(gradient_of)(POLICY), atol=1e-6)


def test_k2_and_k3_are_never_negative_and_zero_for_equal_policies():
  p, q = np.random.default_rng(2).normal(-2, 2, (2, 5, 30)).astype(np.float32)
  assert np.all(kl_k2(p, q) > 0) and np.all(kl_k3(p, q) > 0)
  for estimator in ESTIMATORS.values():
    np.testing.assert_array_equal(estimator(p, p), np.zeros_like(p))


def test_k3_keeps_its_digits_where_policies_are_close():
  # exp(x) − 1 − x in float32 would have none left.
  np.testing.assert_allclose(kl_k3(jnp.float32(0), jnp.float32(1e-3)), 5.00167e-7, rtol=1e-3)
