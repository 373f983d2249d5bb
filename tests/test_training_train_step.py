import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.models import build
from r1jax.records import Batch
from r1jax.stages import rl
from r1jax.stages.rl.programs import batch_normalizers, make_loss
from r1jax.training.optimizers import make_optimizer
from r1jax.training.train_step import init_state, make_update


def linear(params, batch, normalizer):
  """A loss whose gradient is the batch's sum: Σ batch·w / normalizer."""
  return jnp.sum(batch * params['w']) / normalizer, {'size': jnp.sum(batch) / normalizer}


@pytest.fixture(scope='module')
def batch(prompts):
  """Four groups of two completions of very different lengths, with an advantage each."""
  rng = np.random.default_rng(3)
  mask = np.float32(np.arange(5) < np.array([5, 5, 1, 2, 0, 1, 5, 3])[:, None])
  logprobs = rng.normal(-3, 1, (3, 8, 5)).astype(np.float32)
  return Batch(prompts.tokens, prompts.lengths, jnp.asarray(rng.integers(0, 40, (8, 5))),
               jnp.asarray(mask), jnp.asarray(logprobs[0]),
               advantages=jnp.asarray(rng.normal(size=8), jnp.float32),
               old_logprobs=jnp.asarray(logprobs[1]), reference_logprobs=jnp.asarray(logprobs[2]))


def test_pitfall_01_micro_batches_update_as_the_whole_batch_does(tiny, batch):
  loss = rl.DEFAULT['loss'] | dict(aggregation='token_mean')
  settings = rl.DEFAULT | dict(loss=loss, kl_coefficient=0.2)
  normalizers = batch_normalizers(
      batch.completion_mask, 0.2, aggregation='token_mean', max_length=5)
  # With Adam a gradient's rounding would decide the sign of an update.
  optimizer = optax.sgd(1.0)
  state = init_state(tiny.params, optimizer)
  whole, pieces = (
      jax.jit(make_update(make_loss(tiny.model, settings), optimizer, num_micro_batches=count))(
          state, batch, normalizers) for count in (1, 4))
  for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(pieces)):
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-4, err_msg=str(path))
  assert whole[1]['grad_norm'] > 0.1 and whole[1].keys() == pieces[1].keys()


@pytest.mark.parametrize('fault', ['nan loss', 'infinite gradient'])
def test_an_update_that_is_not_finite_is_refused_and_counted(fault):
  def loss(params, batch, normalizer):
    value, metrics = linear(params, jnp.abs(batch), normalizer)
    if fault == 'nan loss':
      return value + jnp.where(batch[0, 0] < 0, jnp.nan, 0.0), metrics
    return value + jnp.sum(jnp.sqrt(jnp.where(batch[0, 0] < 0, 0.0 * params['w'], 1.0))), metrics

  optimizer = make_optimizer(learning_rate=0.1, warmup_steps=3, weight_decay=0.1)
  update = jax.jit(make_update(loss, optimizer))
  state = init_state({'w': jnp.arange(1.0, 4.0)}, optimizer)
  good, bad = jnp.ones((2, 3)), jnp.full((2, 3), -1.0)
  state, _ = update(state, good, 2.0)
  refused, metrics = update(state, bad, 2.0)
  assert not np.isfinite(metrics['loss'] + metrics['grad_norm'])
  assert refused.skipped_updates == metrics['skipped_updates'] == 1 and refused.step == 2
  assert refused.skipped_in_a_row == 1
  for name in ('params', 'optimizer'):
    jax.tree.map(np.testing.assert_array_equal, getattr(refused, name), getattr(state, name))
  # The run goes on as if nothing had happened, warm-up included.
  after, metrics = update(refused, good, 2.0)
  want, _ = update(state, good, 2.0)
  jax.tree.map(np.testing.assert_array_equal, after.params, want.params)
  assert np.any(after.params['w'] != state.params['w'])
  assert after.skipped_updates == 1 and after.skipped_in_a_row == 0
  assert after.step == 3 and np.isfinite(metrics['loss'])


def overflow(params, metrics):
  return params | {'v': jnp.float32(jnp.inf) * params['v']}, metrics


@pytest.mark.parametrize('learning_rate, after_update', [
    (1e39, None),            # the update is infinite
    (3e38, None),            # the sum of parameter and update is
    (0.1, overflow)])        # what is changed after the update is
def test_pitfall_26_an_update_that_would_not_be_finite_is_skipped(learning_rate, after_update):
  def loss(params, batch, normalizer):
    return linear({'w': params['w'] - jax.lax.stop_gradient(params['w'])}, batch, normalizer)[0], {}
  optimizer = make_optimizer(learning_rate=learning_rate)
  state = init_state({'w': jnp.full(2, -3e38), 'v': jnp.ones(2)}, optimizer)
  update = jax.jit(make_update(loss, optimizer, after=after_update))
  for count in (1, 2):
    after, metrics = update(state, jnp.ones(2), 1.0)
    assert np.isfinite(metrics['loss']) and np.isfinite(metrics['grad_norm'])
    assert after.skipped_updates == after.skipped_in_a_row == count
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.optimizer),
                 (state.params, state.optimizer))
    state = after


def test_metrics_of_micro_batches_are_added_and_maxima_taken():
  def loss(params, batch, normalizer):
    return linear(params, batch, normalizer)[0], {
        'mean': jnp.sum(batch) / normalizer, 'ratio/max': jnp.max(batch)}
  optimizer = optax.sgd(0.1)
  update = make_update(loss, optimizer, num_micro_batches=3)
  state, metrics = update(
      init_state({'w': jnp.ones(())}, optimizer), jnp.array([1.0, 2, 9, 4, 5, 6]), 6.0)
  assert metrics['mean'] == 4.5 and metrics['ratio/max'] == 9 and metrics['loss'] == 4.5
  np.testing.assert_allclose(state.params['w'], 1 - 0.45)


def test_pitfall_10_masters_take_a_small_update_under_bfloat16(tiny_config):
  model = build(tiny_config, compute_dtype='bfloat16')
  masters = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
  assert {leaf.dtype for leaf in masters} == {jnp.dtype('float32')}

  def loss(params, batch, normalizer):
    return jnp.sum((batch @ params['w'].astype(jnp.bfloat16)).astype(jnp.float32)) / normalizer, {}

  optimizer = make_optimizer(learning_rate=1e-6)     # Adam's first change
  state, _ = jax.jit(make_update(loss, optimizer))(
      init_state({'w': jnp.ones((3, 2))}, optimizer), jnp.ones((4, 3), jnp.bfloat16), 4.0)
  np.testing.assert_allclose(1 - state.params['w'], np.full((3, 2), 1e-6), rtol=0.1)
  assert np.all(state.params['w'].astype(jnp.bfloat16) == 1)     # which would have lost it
