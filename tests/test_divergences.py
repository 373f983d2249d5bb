"""Pitfall 8: every estimator against the exact KL of a policy small enough to enumerate."""
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
from loss_cases import float32
import numpy as np
import optax
import pytest

from r1jax import divergences
from r1jax.divergences import ESTIMATORS, kl, kl_k1, kl_k2, kl_k3, kl_k3_corrected

pytestmark = pytest.mark.usefixtures('strict_ranks')

POLICY, REFERENCE, OLD = (
    jnp.asarray(np.random.default_rng(seed).normal(size=7), jnp.float32) for seed in range(3))


def exact_kl(p_logits, q_logits):
  log_p, log_q = jax.nn.log_softmax(p_logits), jax.nn.log_softmax(q_logits)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def expected(estimator, logits, reference, sampled_from, *rest):
  """E[estimator] over every token, weighted by a policy that carries no gradient, as samples do."""
  weights = jax.lax.stop_gradient(jax.nn.softmax(sampled_from))
  return jnp.sum(weights * estimator(jax.nn.log_softmax(logits), jax.nn.log_softmax(reference),
                                     *(jax.nn.log_softmax(x) for x in rest)))


@pytest.mark.parametrize('estimator', [kl_k1, kl_k3, kl_k3_corrected])
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
    ('k3', lambda logits: exact_kl(REFERENCE, logits)),
    ('k3_corrected', lambda logits: exact_kl(logits, REFERENCE))])
def test_pitfall_08_expected_gradients_are_those_that_the_docstring_states(name, gradient_of):
  got = jax.grad(lambda logits: expected(ESTIMATORS[name], logits, REFERENCE, POLICY))(POLICY)
  np.testing.assert_allclose(got, jax.grad(gradient_of)(POLICY), atol=1e-6)


def test_pitfall_08_the_corrected_k3_is_exact_whatever_policy_sampled():
  def of(logits):
    return expected(kl_k3_corrected, logits, REFERENCE, OLD, OLD)

  np.testing.assert_allclose(of(POLICY), exact_kl(POLICY, REFERENCE), rtol=1e-5)
  np.testing.assert_allclose(jax.grad(of)(POLICY), jax.grad(exact_kl)(POLICY, REFERENCE), atol=1e-6)
  # k3 alone is not.
  assert abs(expected(kl_k3, POLICY, REFERENCE, OLD) - exact_kl(POLICY, REFERENCE)) > 0.1


def test_pitfall_08_the_kl_from_the_old_policy_is_exact_in_value_and_gradient():
  """PPO's E_old[ρ − 1 − log ρ] = KL(old ‖ policy)."""

  def of(logits):
    return expected(
        lambda new, old: divergences.exp_excess(new - old), logits, OLD, OLD)

  np.testing.assert_allclose(of(POLICY), exact_kl(OLD, POLICY), rtol=1e-5)
  np.testing.assert_allclose(
      jax.grad(of)(POLICY), jax.grad(exact_kl, 1)(OLD, POLICY), atol=1e-6)


def test_k2_and_k3_are_never_negative_and_zero_for_equal_policies():
  p, q = np.random.default_rng(2).normal(-2, 2, (2, 5, 30)).astype(np.float32)
  assert np.all(kl_k2(p, q) > 0) and np.all(kl_k3(p, q) > 0) and np.all(kl_k3_corrected(p, q) > 0)
  for estimator in ESTIMATORS.values():
    np.testing.assert_array_equal(estimator(p, p), np.zeros_like(p))


@pytest.mark.parametrize('x', [
    1e-3, -1e-3, 0.0999, 0.1001, -0.0999, -0.1001, 3.0, -3.0, 20.0, -90.0])
def test_k3_and_its_gradient_keep_their_digits(x):
  # exp(x) − 1 − x in float32 would have none left of x = 1e-3.
  value, slope = jax.value_and_grad(divergences.exp_excess)(jnp.float32(x))
  x = np.float64(np.float32(x))
  np.testing.assert_allclose(value, np.expm1(x) - x, rtol=3e-5)
  np.testing.assert_allclose(slope, np.expm1(x), rtol=1e-5)
  np.testing.assert_allclose(kl_k3(jnp.float32(0), jnp.float32(x)), value)


@pytest.mark.parametrize('x', [50.0, -50.0, 1e4, -1e4, 1e9, -1e9])
def test_nothing_overflows_at_large_log_ratios(x):
  for estimator in ESTIMATORS.values():
    if estimator is not kl_k2 or abs(x) < 1e9:
      for args in ((x, 0.0), (0.0, x)):
        value, slope = jax.value_and_grad(estimator, (0, 1))(*map(jnp.float32, args))
        assert np.isfinite(value) and np.all(np.isfinite(slope))
  value, slope = jax.value_and_grad(kl_k3_corrected)(
      jnp.float32(0), jnp.float32(x), jnp.float32(-x))
  assert np.isfinite(value) and np.isfinite(slope)


def test_bfloat16_is_computed_in_float32():
  p, q = (jnp.asarray(x, jnp.bfloat16) for x in (POLICY, REFERENCE))
  exact = p.astype(jnp.float32), q.astype(jnp.float32)
  for function in (*ESTIMATORS.values(), kl, divergences.jensen_shannon):
    assert function(p, q).dtype == jnp.float32
    np.testing.assert_array_equal(function(p, q), function(*exact))


# Exact divergences.

LOGITS, OTHER = float32(np.random.default_rng(5).normal(0, 2, (2, 3, 4, 7)))


def softmax(x):
  p = np.exp(np.float64(x))
  return p / p.sum(-1, keepdims=True)


def test_exact_divergences_equal_float64_numpy_and_optax():
  p, q = softmax(LOGITS), softmax(OTHER)
  np.testing.assert_allclose(kl(LOGITS, OTHER), np.sum(p * np.log(p / q), -1), rtol=1e-5)
  np.testing.assert_allclose(divergences.entropy(LOGITS), -np.sum(p * np.log(p), -1), rtol=1e-5)
  m = 0.3 * p + 0.7 * q
  want = 0.3 * np.sum(p * np.log(p / m), -1) + 0.7 * np.sum(q * np.log(q / m), -1)
  np.testing.assert_allclose(
      divergences.jensen_shannon(LOGITS, OTHER, mixture=0.3), want, rtol=1e-4)
  np.testing.assert_allclose(kl(LOGITS, OTHER), optax.losses.kl_divergence(
      jax.nn.log_softmax(OTHER), jax.nn.softmax(LOGITS)), rtol=1e-5)


@pytest.mark.parametrize('function', [
    kl, divergences.jensen_shannon, lambda p, q: divergences.entropy(p) + divergences.entropy(q)])
def test_exact_divergences_have_the_gradient_of_finite_differences(function):
  def of(p, q):
    return jnp.sum(function(p, q))

  check_grads(of, (LOGITS[0], OTHER[0]), order=1, modes=['rev'], rtol=2e-2, atol=2e-2)


def test_jensen_shannon_is_bounded_symmetric_and_tends_to_the_kls():
  js = divergences.jensen_shannon
  np.testing.assert_allclose(js(LOGITS, OTHER), js(OTHER, LOGITS), rtol=1e-4)
  far = jnp.array([50.0, 0, 0]), jnp.array([0, 50.0, 0])
  np.testing.assert_allclose(js(*far), np.log(2), rtol=1e-5)
  np.testing.assert_allclose(js(LOGITS, OTHER, mixture=1e-3) / 1e-3, kl(LOGITS, OTHER), rtol=0.05)
  np.testing.assert_allclose(
      js(LOGITS, OTHER, mixture=1 - 1e-3) / 1e-3, kl(OTHER, LOGITS), rtol=0.05)


def test_excluded_tokens_add_nothing_and_carry_no_gradient():
  p, q = (np.insert(x, 3, -np.inf, -1) for x in (LOGITS, OTHER))
  for function in (kl, divergences.jensen_shannon):
    np.testing.assert_allclose(function(p, q), function(LOGITS, OTHER), rtol=1e-4, atol=1e-6)
    gradients = jax.grad(lambda p, q, f=function: jnp.sum(f(p, q)), (0, 1))(p, q)
    assert all(np.all(np.isfinite(x)) and np.all(x[..., 3] == 0) for x in gradients)
  one_sided = jax.grad(lambda p, q: jnp.sum(divergences.jensen_shannon(p, q)), (0, 1))(
      p[..., :7], OTHER)      # finite, though the KL of the other is not
  assert all(np.all(np.isfinite(x)) for x in one_sided)
  gradient = jax.grad(lambda p: jnp.sum(divergences.entropy(p)))(p)
  assert np.all(np.isfinite(gradient))
  assert np.all(np.isposinf(kl(LOGITS, q[..., :7])))     # the policy has what the other has not


# Controllers.

def test_double_or_halve_follows_ppo():
  start = divergences.init_controller(0.2)
  for measured, factor in ((0.151, 2), (0.149, 1), (0.1, 1), (0.067, 1), (0.066, 0.5), (np.nan, 1)):
    after = divergences.double_or_halve(start, jnp.float32(measured), target=0.1)
    np.testing.assert_allclose(after.coefficient, 0.2 * factor, rtol=1e-6)


def test_proportional_follows_rlhf():
  start = divergences.init_controller(0.2)
  for measured, error in ((6.0, 0), (6.6, 0.1), (9.0, 0.2), (5.7, -0.05), (0.0, -0.2), (np.nan, 0)):
    after = divergences.proportional(
        start, jnp.float32(measured), target=6.0, horizon=10_000, num_samples=256)
    np.testing.assert_allclose(
        after.coefficient, 0.2 * (1 + error * 256 / 10_000), rtol=1e-6)


@pytest.mark.parametrize('measured', [0.0, 0.0999, 0.2, 1.7, np.nan, np.inf])
def test_a_controller_on_the_host_computes_the_same(measured):
  for rule, settings in ((divergences.double_or_halve, {}),
                         (divergences.proportional, dict(horizon=300.0, num_samples=7))):
    on_host = rule(divergences.KLController(np.float32(0.3)), measured, target=0.1, **settings)
    on_device = rule(divergences.init_controller(0.3), measured, target=0.1, **settings)
    assert type(on_host.coefficient) is np.float32
    np.testing.assert_array_equal(on_host.coefficient, on_device.coefficient)


def test_controllers_are_pytrees_that_a_jitted_loop_can_carry():
  def loop(controller):
    def step(controller, kl):
      return (divergences.double_or_halve(controller, kl, target=0.1), None)

    return jax.lax.scan(step, controller, jnp.array([1.0, 1.0, 0.1, 0.0]))[0]

  after = jax.jit(loop)(divergences.init_controller(0.5))
  assert after.coefficient == 1.0 and jax.tree.leaves(after)[0].dtype == jnp.float32


@pytest.mark.parametrize('call, message', [
    (lambda: kl_k1(POLICY, REFERENCE[:3]), r'reference_logprobs must have shape \[7\], got \[3\]'),
    (lambda: kl_k3(POLICY, jnp.arange(7)),
     'reference_logprobs must have a floating-point dtype, got int32'),
    (lambda: kl(LOGITS, OTHER[0]), 'other_logits must have shape'),
    (lambda: divergences.jensen_shannon(LOGITS, OTHER, mixture=0.0),
     'mixture must be greater than 0 .*, got 0.0'),
    (lambda: divergences.entropy(jnp.arange(3)),
     'logits must have a floating-point dtype, got int32'),
    (lambda: divergences.init_controller(0.0), 'coefficient must be greater than 0, got 0.0'),
    (lambda: divergences.double_or_halve(
        divergences.init_controller(1.0), jnp.float32(1), target=0.0),
     'target must be greater than 0, got 0.0'),
    (lambda: divergences.proportional(
        divergences.init_controller(1.0), jnp.float32(1), target=1.0, horizon=0, num_samples=1),
     'horizon must be greater than 0, got 0')])
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
