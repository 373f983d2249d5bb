import jax
import jax.numpy as jnp
from loss_cases import finite_differences, float32
import numpy as np
import optax
import pytest

from r1jax.losses import bradley_terry_loss, safety_loss

pytestmark = pytest.mark.usefixtures('strict_ranks')

RNG = np.random.default_rng(0)
CHOSEN, REJECTED, MARGINS = float32(RNG.normal(0, 2, (3, 6)))
LABELS = float32([1, 0, 1, 1, 0, 0.7])
MASK = float32([1, 1, 0, 1, 1, 1])


def pairs(chosen, rejected, margins=0.0, centring=0.0, mask=1.0):
  chosen, rejected, margins = np.float64(chosen), np.float64(rejected), np.float64(margins)
  losses = np.log1p(np.exp(-(chosen - rejected - margins))) + centring * (chosen + rejected) ** 2
  return np.sum(losses * mask) / np.sum(mask * np.ones(6))


def points(rewards, labels, mask=1.0):
  p = 1 / (1 + np.exp(-np.float64(rewards)))
  return -np.sum((labels * np.log(p) + (1 - labels) * np.log(1 - p)) * mask) / np.sum(
      mask * np.ones(6))


@pytest.mark.parametrize('settings, given', [
    ({}, {}), ({'mask': MASK}, {'mask': MASK}),
    ({'margins': MARGINS, 'centring': 0.1},
     {'margins': MARGINS, 'centring_coefficient': 0.1})])
def test_bradley_terry_equals_the_reference_in_value_and_gradient(settings, given):
  def of(chosen, rejected):
    return bradley_terry_loss(chosen, rejected, **given)

  (value, metrics), gradients = jax.value_and_grad(of, (0, 1), has_aux=True)(CHOSEN, REJECTED)
  np.testing.assert_allclose(value, pairs(CHOSEN, REJECTED, **settings), rtol=1e-5)
  np.testing.assert_allclose(gradients[0], finite_differences(
      lambda x: pairs(x, REJECTED, **settings), CHOSEN), atol=1e-6)
  np.testing.assert_allclose(gradients[1], finite_differences(
      lambda x: pairs(CHOSEN, x, **settings), REJECTED), atol=1e-6)
  mask = settings.get('mask', np.ones(6))
  for name, want in {'accuracy': CHOSEN > REJECTED, 'reward/chosen': CHOSEN,
                     'reward/rejected': REJECTED}.items():
    np.testing.assert_allclose(metrics[name], np.average(want, weights=mask), rtol=1e-5)


def test_bradley_terry_knows_differences_alone_until_it_is_centred():
  plain = bradley_terry_loss(CHOSEN, REJECTED)[0]
  np.testing.assert_allclose(bradley_terry_loss(CHOSEN + 5, REJECTED + 5)[0], plain, rtol=1e-5)
  assert bradley_terry_loss(CHOSEN + 5, REJECTED + 5, centring_coefficient=0.01)[0] > plain + 0.5
  assert bradley_terry_loss(CHOSEN, CHOSEN)[1]['accuracy'] == 0.5


def test_safety_equals_the_reference_and_optax_in_value_and_gradient():
  (value, metrics), gradient = jax.value_and_grad(safety_loss, has_aux=True)(
      CHOSEN, LABELS, mask=MASK)
  np.testing.assert_allclose(value, points(CHOSEN, LABELS, MASK), rtol=1e-5)
  np.testing.assert_allclose(
      gradient, finite_differences(lambda x: points(x, LABELS, MASK), CHOSEN), atol=1e-6)
  np.testing.assert_allclose(
      metrics['accuracy'], np.average((CHOSEN > 0) == (LABELS > 0.5), weights=MASK), rtol=1e-6)
  np.testing.assert_allclose(metrics['reward/mean'], np.average(CHOSEN, weights=MASK), rtol=1e-5)
  np.testing.assert_allclose(
      safety_loss(CHOSEN, LABELS)[0],
      optax.losses.sigmoid_binary_cross_entropy(CHOSEN, LABELS).mean(), rtol=1e-6)


LOSSES = {'pairs': lambda x, y, **rest: bradley_terry_loss(
    x, y, centring_coefficient=0.1, margins=y, **rest), 'points': safety_loss}


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_pitfall_01_micro_batches_and_order_change_nothing(loss):
  y = np.abs(REJECTED) % 1
  value, metrics = loss(CHOSEN, y, mask=MASK)
  pieces = [loss(CHOSEN[part], y[part], mask=MASK[part], normalizer=MASK.sum())
            for part in np.split(np.arange(6), 3)]
  np.testing.assert_allclose(sum(piece[0] for piece in pieces), value, rtol=1e-5)
  order = np.random.default_rng(3).permutation(6)
  np.testing.assert_allclose(loss(CHOSEN[order], y[order], mask=MASK[order])[0], value, rtol=1e-5)
  for name in metrics:
    np.testing.assert_allclose(sum(piece[1][name] for piece in pieces), metrics[name], rtol=1e-5)


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_pitfall_02_masked_junk_empty_masks_and_large_rewards(loss):
  y = np.abs(REJECTED) % 1

  def of(x, y, mask):
    return jax.value_and_grad(
        lambda x: loss(x, y, mask=mask), has_aux=True)(x)

  clean = of(CHOSEN, y, MASK)

  def spoil(x):
    return np.where(MASK == 0, np.float32(np.nan), x)

  jax.tree.map(np.testing.assert_array_equal, of(spoil(CHOSEN), spoil(y), MASK), clean)
  (value, metrics), gradient = of(np.full(6, np.nan, np.float32), y, 0 * MASK)
  assert value == 0 and all(x == 0 for x in metrics.values()) and np.all(gradient == 0)
  for far in (50.0, -50.0):
    (value, _), gradient = of(np.full(6, far, np.float32), y, MASK)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_bfloat16_is_computed_in_float32_and_metrics_carry_no_gradient(loss):
  half = jnp.asarray(CHOSEN, jnp.bfloat16), jnp.asarray(REJECTED, jnp.bfloat16)
  value, _ = loss(*half)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, loss(*(x.astype(jnp.float32) for x in half))[0], rtol=1e-6)
  assert not np.any(jax.grad(lambda x: sum(loss(x, REJECTED)[1].values()))(CHOSEN))


@pytest.mark.parametrize('call, message', [
    (lambda: bradley_terry_loss(CHOSEN, REJECTED[:5]),
     r'rejected_rewards must have shape .*, got \[5\]'),
    (lambda: bradley_terry_loss(CHOSEN[None], REJECTED[None]),
     r'must have shape \[N\], got \[1, 6\]'),
    (lambda: bradley_terry_loss(CHOSEN, REJECTED, margins=MARGINS[:2]), 'margins must have shape'),
    (lambda: bradley_terry_loss(CHOSEN, REJECTED, centring_coefficient=-1.0), 'centring_coeff'),
    (lambda: safety_loss(CHOSEN, LABELS[:5]), r'labels must have shape \[6\], got \[5\]'),
    (lambda: safety_loss(jnp.arange(6), LABELS),
     'rewards must have a floating-point dtype, got int32')])
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
