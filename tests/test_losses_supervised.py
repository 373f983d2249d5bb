import functools

import jax
import jax.numpy as jnp
from loss_cases import MASK, finite_differences
import numpy as np
import optax
import pytest

from r1jax import losses

pytestmark = pytest.mark.usefixtures('strict_ranks')

V, D = 7, 3
WEIGHTS = np.float32(MASK * np.random.default_rng(9).uniform(0.1, 2, MASK.shape))


def example(seed=0):
  rng = np.random.default_rng(seed)
  return dict(logits=np.float32(rng.normal(0, 2, (*MASK.shape, V))),
              targets=rng.integers(0, V, MASK.shape).astype(np.int32), weights=WEIGHTS)


def reference(logits, targets, weights, z_coefficient=0.0):
  """Token by token, in float64."""
  total = 0.0
  for at in np.ndindex(targets.shape):
    if weights[at]:
      row = np.float64(logits[at])
      log_z = np.log(np.sum(np.exp(row)))
      total += np.float64(weights[at]) * (log_z - row[targets[at]] + z_coefficient * log_z ** 2)
  return total / np.sum(np.float64(weights))


def with_gradient(args, **settings):
  return jax.value_and_grad(lambda logits: losses.cross_entropy_loss(
      logits, args['targets'], args['weights'], **settings), has_aux=True)(args['logits'])


def test_supervised_loss_equals_the_reference_in_value_and_gradient():
  rng = np.random.default_rng(5)
  logprobs = np.float32(rng.normal(-2, 1, MASK.shape))
  value, gradient = jax.value_and_grad(
      lambda x: losses.supervised_loss(x, WEIGHTS)[0])(logprobs)
  np.testing.assert_allclose(
      value, -np.sum(np.float64(logprobs) * WEIGHTS) / np.sum(np.float64(WEIGHTS)), rtol=1e-6)
  np.testing.assert_allclose(gradient, -WEIGHTS / WEIGHTS.sum(), rtol=1e-6)
  halves = sum(losses.supervised_loss(logprobs[part], WEIGHTS[part], normalizer=WEIGHTS.sum())[0]
               for part in (slice(0, 3), slice(3, 6)))
  np.testing.assert_allclose(halves, value, rtol=1e-6)


def test_pitfall_02_supervised_loss_ignores_what_has_no_weight():
  logprobs = np.float32(np.where(MASK == 0, -np.inf, -1.5))

  def of(mask):
    return jax.value_and_grad(lambda x: losses.supervised_loss(x, mask)[0])(logprobs)

  value, gradient = of(MASK)
  assert value == 1.5
  np.testing.assert_allclose(gradient, -MASK / MASK.sum(), rtol=1e-6)
  value, gradient = of(0 * MASK)
  assert value == 0 and np.all(gradient == 0)
  with pytest.raises(ValueError, match=r'weights must have shape \[6, 5\], got \[6, 4\]'):
    losses.supervised_loss(logprobs, MASK[:, :4])


@pytest.mark.parametrize('z', [0.0, 0.03])
def test_cross_entropy_equals_the_reference_in_value_and_gradient(z):
  args = example()
  (value, metrics), gradient = with_gradient(args, z_coefficient=z)
  np.testing.assert_allclose(value, reference(**args, z_coefficient=z), rtol=1e-5)
  np.testing.assert_allclose(metrics['cross_entropy'], reference(**args), rtol=1e-5)
  args = {name: x[:2] for name, x in args.items()}
  (_, _), gradient = with_gradient(args, z_coefficient=z)
  want = finite_differences(
      lambda logits: reference(**args | {'logits': logits}, z_coefficient=z), args['logits'])
  np.testing.assert_allclose(gradient, want, atol=1e-6)


def test_cross_entropy_equals_optax():
  args = example()
  want = optax.losses.softmax_cross_entropy_with_integer_labels(args['logits'], args['targets'])
  np.testing.assert_allclose(
      losses.cross_entropy_loss(**args)[0], np.average(want, weights=WEIGHTS), rtol=1e-5)


def test_excluded_tokens_have_no_part():
  args = example()
  args['logits'][..., 2] = -np.inf
  args['targets'][args['targets'] == 2] = 0
  (value, _), gradient = with_gradient(args, z_coefficient=0.1)
  small = args | {'logits': np.delete(args['logits'], 2, -1),
                  'targets': args['targets'] - (args['targets'] > 2)}
  (want, _), _ = with_gradient(small, z_coefficient=0.1)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  assert np.all(np.isfinite(gradient)) and np.all(gradient[..., 2] == 0)


def test_packed_rows_give_the_sum_over_their_documents():
  """Two documents in a row: the first's last token has no target of its own."""
  rng = np.random.default_rng(2)
  logits = np.float32(rng.normal(size=(1, 7, V)))
  targets = rng.integers(0, V, (1, 7)).astype(np.int32)
  weights = np.float32([[1, 1, 0, 1, 1, 1, 0]])
  packed, _ = losses.cross_entropy_loss(logits, targets, weights)
  alone = [losses.cross_entropy_loss(
      logits[:, part], targets[:, part], np.ones((1, part.stop - part.start), np.float32),
      normalizer=5.0)[0] for part in (slice(0, 2), slice(3, 6))]
  np.testing.assert_allclose(sum(alone), packed, rtol=1e-6)


@pytest.mark.parametrize('junk', [np.nan, np.inf])
def test_pitfall_02_nothing_without_weight_reaches_value_or_gradient(junk):
  args = example()
  clean = with_gradient(args, z_coefficient=0.1)
  spoilt = args | {'logits': np.where(MASK[..., None] == 0, np.float32(junk), args['logits']),
                   'targets': np.where(MASK == 0, 10 ** 6, args['targets'])}
  jax.tree.map(np.testing.assert_array_equal, with_gradient(spoilt, z_coefficient=0.1), clean)
  (value, metrics), gradient = with_gradient(spoilt | {'weights': 0 * MASK}, z_coefficient=0.1)
  assert value == 0 and metrics['cross_entropy'] == 0 and np.all(gradient == 0)


def test_large_logits_and_bfloat16():
  args = example()
  far = args | {'logits': np.float32(50 * np.sign(args['logits']))}
  (value, _), gradient = with_gradient(far, z_coefficient=0.1)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))
  half = args | {'logits': jnp.asarray(args['logits'], jnp.bfloat16)}
  value, _ = losses.cross_entropy_loss(**half)
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(
      value, reference(**half | {'logits': np.asarray(half['logits'], np.float32)}), rtol=1e-5)


@pytest.mark.parametrize('chunk_size', [1, 2, 4, 5, 9])
def test_pitfall_01_chunks_change_nothing_in_value_or_any_gradient(chunk_size):
  rng = np.random.default_rng(3)
  hidden = np.float32(rng.normal(size=(*MASK.shape, D)))
  table, args = np.float32(rng.normal(size=(D, V))), example()
  targets, weights = args['targets'], args['weights']

  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def whole(hidden, table):
    return losses.cross_entropy_loss(hidden @ table, targets, weights, z_coefficient=0.1)

  @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
  def chunked(hidden, table):
    return losses.chunked_cross_entropy_loss(
        hidden, lambda x: x @ table, targets, weights, z_coefficient=0.1, chunk_size=chunk_size)

  compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  want = whole(hidden, table)
  jax.tree.map(compare, jax.jit(chunked)(hidden, table), want)
  # Hidden states without weight may be anything: not even the table's gradient sees them.
  spoilt = np.where(MASK[..., None] == 0, np.float32(np.nan), hidden)
  jax.tree.map(compare, jax.jit(chunked)(spoilt, table), want)


def test_pitfall_21_chunks_never_hold_whole_logits():
  rows, length, wide, vocabulary = 4, 64, 8, 512
  args = (jax.ShapeDtypeStruct((rows, length, wide), jnp.float32),
          jax.ShapeDtypeStruct((wide, vocabulary), jnp.float32),
          jax.ShapeDtypeStruct((rows, length), jnp.int32),
          jax.ShapeDtypeStruct((rows, length), jnp.float32))

  def temporary(chunk_size):
    def loss(hidden, table, targets, weights):
      return losses.chunked_cross_entropy_loss(
          hidden, lambda x: x @ table, targets, weights, chunk_size=chunk_size)[0]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(4) < temporary(64) / 3


def test_in_chunks_adds_up_any_loss_and_takes_the_largest_of_the_largest():
  x = np.float32(np.random.default_rng(0).normal(size=(2, 7)))

  def loss(x, mask):
    return (jnp.sum(jnp.square(x) * mask), {
        'sum': jnp.sum(x * mask), 'x/max': jnp.max(jnp.where(mask != 0, x, -jnp.inf))})

  value, metrics = losses.in_chunks(loss, x, np.ones_like(x), chunk_size=3)
  np.testing.assert_allclose(value, np.sum(x * x), rtol=1e-6)
  np.testing.assert_allclose(metrics['sum'], np.sum(x), rtol=1e-5)
  assert metrics['x/max'] == x.max()


@pytest.mark.parametrize('change, message', [
    (dict(logits=np.zeros((6, 5))), r'logits must have shape \[N, T, V\], got \[6, 5\]'),
    (dict(targets=np.zeros((6, 4), np.int32)), r'targets must have shape \[6, 5\], got \[6, 4\]'),
    (dict(targets=np.zeros((6, 5))), 'targets must have an integer dtype, got float64'),
    (dict(weights=np.zeros(6)), r'weights must have shape \[6, 5\], got \[6\]'),
    (dict(logits=np.zeros((6, 5, 7), np.int32)),
     'logits must have a floating-point dtype, got int32'),
    (dict(z_coefficient=-1.0), 'z_coefficient must be at least 0, got -1.0')])
def test_what_does_not_fit_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    losses.cross_entropy_loss(**example() | change)


def test_what_does_not_fit_in_chunks_is_refused():
  with pytest.raises(ValueError, match='chunk_size must be at least 1, got 0'):
    losses.in_chunks(lambda x: (jnp.sum(x), {}), np.ones((2, 3)), chunk_size=0)
  with pytest.raises(ValueError, match=r'must be \[2, 3\] .*, got \[2, 4\]'):
    losses.in_chunks(lambda x, y: (0, {}), np.ones((2, 3)), np.ones((2, 4)), chunk_size=2)
