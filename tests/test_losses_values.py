import functools

import jax
import jax.numpy as jnp
from loss_cases import HOLES, MASK, finite_differences
import numpy as np
import pytest

from r1jax.losses import explained_variance, value_loss

pytestmark = pytest.mark.usefixtures('strict_ranks')


def example(seed=0):
  rng = np.random.default_rng(seed)
  old = rng.normal(size=MASK.shape)
  return {name: np.float32(x) for name, x in dict(
      values=old + rng.uniform(-0.5, 0.5, MASK.shape), returns=rng.normal(size=MASK.shape),
      old_values=old).items()}


def reference(values, returns, old_values=None, mask=MASK, epsilon=0.2):
  total = []
  for at in zip(*np.nonzero(mask)):
    v, r = np.float64(values[at]), np.float64(returns[at])
    loss = (v - r) ** 2
    if old_values is not None:
      o = np.float64(old_values[at])
      loss = max(loss, (min(max(v, o - epsilon), o + epsilon) - r) ** 2)
    total.append(loss / 2)
  return sum(total) / len(total)


def with_gradient(args, mask=MASK, **settings):
  rest = {name: x for name, x in args.items() if name != 'values'}
  return jax.value_and_grad(lambda values: value_loss(
      values, **rest, completion_mask=mask, **settings), has_aux=True)(args['values'])


@pytest.mark.parametrize('mask', [MASK, HOLES])
@pytest.mark.parametrize('clipped', [True, False])
def test_value_and_gradient_equal_the_reference(mask, clipped):
  args = example()
  args = args if clipped else args | {'old_values': None}
  (value, metrics), gradient = with_gradient(args, mask)

  def of(values):
    return reference(**args | {'values': values}, mask=mask)

  np.testing.assert_allclose(value, of(args['values']), rtol=1e-5)
  np.testing.assert_allclose(gradient, finite_differences(of, args['values']), atol=1e-6)
  np.testing.assert_allclose(
      metrics['value/error'], 2 * reference(args['values'], args['returns'], mask=mask), rtol=1e-5)
  np.testing.assert_allclose(metrics['value/mean'], args['values'][mask == 1].mean(), rtol=1e-5)
  assert ('value/clip_ratio' in metrics) == clipped
  if clipped:
    stuck = np.asarray(gradient)[mask == 1] == 0
    assert metrics['value/clip_ratio'] == np.float32(stuck.mean()) and 0 < stuck.sum() < stuck.size


def test_equal_to_optax_without_clip():
  import optax
  args = example()
  np.testing.assert_allclose(
      value_loss(args['values'], args['returns'], np.ones_like(MASK))[0],
      optax.losses.l2_loss(args['values'], args['returns']).mean(), rtol=1e-6)


@pytest.mark.parametrize('value, acts', [(1.3, False), (1.1, False), (0.7, True), (0.9, False)])
def test_the_clip_holds_back_only_what_came_nearer_to_the_return(value, acts):
  # From 1 the return 0 is below: 0.7 has come further than 0.2, 1.3 has gone away.

  def one(x):
    return jnp.full((1, 1), x)

  (loss, metrics), gradient = with_gradient(
      dict(values=one(value), returns=one(0.0), old_values=one(1.0)), one(1.0))
  np.testing.assert_allclose(gradient, one(0.0 if acts else value), rtol=1e-6)
  assert metrics['value/clip_ratio'] == acts


def test_pitfall_01_micro_batches_and_padding_change_nothing():
  args = example()
  (value, metrics), gradient = with_gradient(args)
  pieces = [with_gradient({name: x[part] for name, x in args.items()}, MASK[part],
                          normalizer=MASK.sum()) for part in np.split(np.arange(6), 3)]
  np.testing.assert_allclose(sum(piece[0][0] for piece in pieces), value, rtol=1e-5)
  np.testing.assert_allclose(np.concatenate([piece[1] for piece in pieces]), gradient, rtol=1e-5)
  for name in metrics:
    np.testing.assert_allclose(sum(piece[0][1][name] for piece in pieces), metrics[name], rtol=1e-5)

  def wide(x, fill):
    return np.pad(x, ((0, 0), (2, 3)), constant_values=fill)

  padded = with_gradient({name: wide(x, np.nan) for name, x in args.items()}, wide(MASK, 0))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), padded,
               ((value, metrics), wide(np.asarray(gradient), 0)))


def test_pitfall_02_masked_junk_and_empty_masks():
  args = example()
  clean = with_gradient(args)
  for junk in (np.nan, np.inf, -np.inf):
    spoilt = {name: np.where(MASK == 0, np.float32(junk), x) for name, x in args.items()}
    jax.tree.map(np.testing.assert_array_equal, with_gradient(spoilt), clean)
  (value, metrics), gradient = with_gradient(args, 0 * MASK)
  assert value == 0 and all(x == 0 for x in metrics.values()) and np.all(gradient == 0)
  assert explained_variance(args['values'], args['returns'], 0 * MASK) == 0


def test_only_values_carry_a_gradient_and_bfloat16_is_computed_in_float32():
  args = example()
  gradients = jax.grad(lambda args: value_loss(**args, completion_mask=MASK)[0])(args)
  assert not np.any(gradients['returns']) and not np.any(gradients['old_values'])
  half = {name: jnp.asarray(x, jnp.bfloat16) for name, x in args.items()}
  value, _ = value_loss(**half, completion_mask=MASK)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(
      value, reference(**{name: np.asarray(x, np.float32) for name, x in half.items()}), rtol=1e-5)


@pytest.mark.parametrize('mask', [MASK, HOLES])
def test_explained_variance_equals_float64_numpy(mask):
  args = example()
  v, r = (np.float64(args[name])[mask == 1] for name in ('values', 'returns'))
  value = explained_variance(args['values'], args['returns'], mask)
  np.testing.assert_allclose(value, 1 - np.var(r - v) / np.var(r), rtol=1e-5)
  returns = args['returns']
  assert explained_variance(returns, returns, mask) == 1
  np.testing.assert_allclose(explained_variance(returns + 3, returns, mask), 1, atol=1e-6)
  np.testing.assert_allclose(explained_variance(0 * returns, returns, mask), 0, atol=1e-6)
  assert explained_variance(args['values'], 0 * returns + np.float32(0.1), mask) == 0
  assert not np.any(jax.grad(explained_variance)(args['values'], returns, mask))


def test_a_return_that_is_not_known_does_not_count():
  args = example()
  unknown = args | {'returns': jnp.asarray(args['returns']).at[0].set(jnp.nan)}
  without = jnp.asarray(MASK).at[0].set(0)
  jax.tree.map(np.testing.assert_array_equal, with_gradient(unknown),
               with_gradient(args, mask=without))
  assert explained_variance(unknown['values'], unknown['returns'], MASK) == explained_variance(
      args['values'], args['returns'], without)


@pytest.mark.parametrize('change, message', [
    (dict(values=np.zeros(5)), r'values must have shape \[N, C\], got \[5\]'),
    (dict(returns=np.zeros((6, 4))), r'returns must have shape \[6, 5\], got \[6, 4\]'),
    (dict(old_values=np.zeros(6)), r'old_values must have shape .*, got \[6\]'),
    (dict(completion_mask=MASK[:3]), r'completion_mask must have shape .*, got \[3, 5\]'),
    (dict(values=np.zeros((6, 5), np.int32)), 'values must have a floating-point dtype, got int32'),
    (dict(clip_epsilon=-1.0), 'clip_epsilon must be at least 0, got -1.0')])
def test_what_does_not_fit_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    value_loss(**example() | {'completion_mask': MASK} | change)
