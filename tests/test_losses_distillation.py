import functools

import jax
import jax.numpy as jnp
from loss_cases import finite_differences, float32
import numpy as np
import optax
import pytest

from r1jax import losses
from r1jax.losses import DIVERGENCES, distillation_loss, distillation_top_k_loss

pytestmark = pytest.mark.usefixtures('strict_ranks')

V = 9
MASK = float32([[1, 1, 0], [1, 0, 1]])
WEIGHTS = MASK * float32([[0.5, 1, 1], [2, 1, 0.3]])
STUDENT, TEACHER = float32(np.random.default_rng(0).normal(0, 1.5, (2, 2, 3, V)))


def log_softmax(x):
  x = np.float64(x)
  return x - np.log(np.sum(np.exp(x), -1, keepdims=True))


def reference(student, teacher, divergence, *, mixture=0.3, temperature=1.0):
  log_q, log_p = log_softmax(np.float64(student) / temperature), log_softmax(
      np.float64(teacher) / temperature)

  def kl(a, b):
    return np.sum(np.exp(a) * (a - b), -1)

  log_m = np.log(mixture * np.exp(log_p) + (1 - mixture) * np.exp(log_q))
  values = {'forward': kl(log_p, log_q), 'reverse': kl(log_q, log_p),
            'jensen_shannon': mixture * kl(log_p, log_m) + (1 - mixture) * kl(log_q, log_m)}
  return np.sum(values[divergence] * WEIGHTS) / np.sum(WEIGHTS)


@pytest.mark.parametrize('divergence', DIVERGENCES)
@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_value_and_gradient_equal_the_reference(divergence, temperature):
  settings = dict(mixture=0.3, temperature=temperature)
  value, gradient = jax.value_and_grad(lambda student: distillation_loss(
      student, TEACHER, WEIGHTS, divergence=divergence, **settings)[0])(STUDENT)

  def of(student):
    return reference(student, TEACHER, divergence, **settings)

  np.testing.assert_allclose(value, of(STUDENT), rtol=1e-5)
  np.testing.assert_allclose(gradient, finite_differences(of, STUDENT), atol=1e-6)


def test_forward_equals_optax():
  want = optax.losses.kl_divergence(jax.nn.log_softmax(STUDENT), jax.nn.softmax(TEACHER))
  np.testing.assert_allclose(distillation_loss(STUDENT, TEACHER, WEIGHTS)[0],
                             np.average(want, weights=WEIGHTS), rtol=1e-5)


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_a_student_like_its_teacher_has_nothing_to_learn(divergence):
  value, gradient = jax.value_and_grad(lambda student: distillation_loss(
      student, TEACHER, WEIGHTS, divergence=divergence)[0])(TEACHER + 3)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0 * TEACHER, atol=1e-6)


def top(k, teacher=TEACHER):
  logprobs = np.float32(log_softmax(teacher))
  ids = np.argsort(-logprobs, -1)[..., :k].astype(np.int32)
  return np.take_along_axis(logprobs, ids, -1), ids


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_top_k_is_the_divergence_with_the_rest_as_one_outcome(divergence):
  def coarse(x, ids):
    p = np.exp(log_softmax(x))
    head = np.take_along_axis(p, ids, -1)
    return np.log(np.concatenate([head, 1 - head.sum(-1, keepdims=True)], -1))

  before = 0
  for k in (1, 3, 6, V):
    logprobs, ids = top(k)
    value, gradient = jax.value_and_grad(lambda student, logprobs=logprobs, ids=ids: (
        distillation_top_k_loss(
            student, logprobs, ids, WEIGHTS, divergence=divergence, mixture=0.3)[0]))(STUDENT)

    def want(student, ids=ids, k=k):
      if k == V:
        return reference(student, TEACHER, divergence)
      return reference(coarse(student, ids), coarse(TEACHER, ids), divergence)

    np.testing.assert_allclose(value, want(STUDENT), rtol=1e-4)
    np.testing.assert_allclose(gradient, finite_differences(want, STUDENT), atol=1e-5)
    assert before < value        # more tokens tell more
    before = value


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_pitfall_02_nothing_without_weight_reaches_value_or_gradient(divergence):
  def spoil(x):
    return np.where(MASK[..., None] == 0, np.float32(np.nan), x)

  logprobs, ids = top(3)
  far = np.where(MASK[..., None] == 0, 10 ** 6, ids)
  for loss, junk in (
      (lambda x, weights: distillation_loss(x, TEACHER, weights, divergence=divergence),
       lambda x, weights: distillation_loss(x, spoil(TEACHER), weights, divergence=divergence)),
      (lambda x, weights: distillation_top_k_loss(x, logprobs, ids, weights, divergence=divergence),
       lambda x, weights: distillation_top_k_loss(
           x, spoil(logprobs), far, weights, divergence=divergence))):
    def with_gradient(loss, x, weights):
      return jax.value_and_grad(lambda x: loss(x, weights), has_aux=True)(x)

    jax.tree.map(np.testing.assert_array_equal, with_gradient(junk, spoil(STUDENT), WEIGHTS),
                 with_gradient(loss, STUDENT, WEIGHTS))
    (value, _), gradient = with_gradient(junk, spoil(STUDENT), 0 * WEIGHTS)
    assert value == 0 and np.all(gradient == 0)


@pytest.mark.parametrize('divergence', DIVERGENCES)
def test_nothing_overflows_and_bfloat16_is_computed_in_float32(divergence):
  far = np.float32(50 * np.sign(STUDENT))
  logprobs, ids = top(3, -far)
  for loss in (lambda x: distillation_loss(x, -far, WEIGHTS, divergence=divergence)[0],
               lambda x: distillation_top_k_loss(
                   x, logprobs, ids, WEIGHTS, divergence=divergence)[0]):
    value, gradient = jax.value_and_grad(loss)(far)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
  half = [jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER)]
  value, _ = distillation_loss(*half, WEIGHTS, divergence=divergence, mixture=0.3)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(
      value, reference(*(np.asarray(x, np.float32) for x in half), divergence), rtol=1e-5)


def test_the_teacher_carries_no_gradient():
  assert not np.any(jax.grad(lambda t: distillation_loss(STUDENT, t, WEIGHTS)[0])(TEACHER))
  logprobs, ids = top(3)
  assert not np.any(jax.grad(
      lambda t: distillation_top_k_loss(STUDENT, t, ids, WEIGHTS)[0])(logprobs))


def test_pitfall_01_chunks_and_micro_batches_add_up():
  want = distillation_loss(STUDENT, TEACHER, WEIGHTS)[0]
  rows = sum(distillation_loss(STUDENT[n:n + 1], TEACHER[n:n + 1], WEIGHTS[n:n + 1],
                               normalizer=WEIGHTS.sum())[0] for n in range(2))
  chunks, _ = losses.in_chunks(
      functools.partial(distillation_loss, normalizer=WEIGHTS.sum()), STUDENT, TEACHER, WEIGHTS,
      chunk_size=2)
  np.testing.assert_allclose([rows, chunks], [want, want], rtol=1e-6)


@pytest.mark.parametrize('call, message', [
    (lambda: distillation_loss(STUDENT[0], TEACHER[0], WEIGHTS), r'must have shape \[N, T, V\]'),
    (lambda: distillation_loss(STUDENT, TEACHER[..., :8], WEIGHTS),
     'teacher_logits must have shape'),
    (lambda: distillation_loss(STUDENT, TEACHER, WEIGHTS[:1]),
     r'weights must have shape .*, got \[1, 3\]'),
    (lambda: distillation_loss(STUDENT, TEACHER, WEIGHTS, divergence='kl'),
     "divergence='kl' is unknown: .*known: forward, reverse, jensen_shannon"),
    (lambda: distillation_loss(STUDENT, TEACHER, WEIGHTS, temperature=0.0),
     'temperature must be greater than 0, got 0.0'),
    (lambda: distillation_loss(
        STUDENT, TEACHER, WEIGHTS, divergence='jensen_shannon', mixture=1.0),
     'mixture must be .*, got 1.0'),
    (lambda: distillation_top_k_loss(STUDENT, TEACHER, jnp.zeros((2, 3, 4), jnp.int32), WEIGHTS),
     r'teacher_ids must have shape \[2, 3, 9\], got \[2, 3, 4\]')])
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
