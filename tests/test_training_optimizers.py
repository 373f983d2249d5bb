import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_models_families import CONFIGS
from test_models_huggingface import LLAMA, QWEN2, QWEN3

from r1jax.models import build, families
from r1jax.training import scalar_head
from r1jax.training.optimizers import make_optimizer


@pytest.mark.parametrize('warmup, decay, final', [
    (0, 0, 0.0), (4, 0, 0.0), (3, 9, 0.2), (0, 5, 0.0)])
def test_the_learning_rate_rises_and_falls_as_stated(warmup, decay, final):
  optimizer = make_optimizer(learning_rate=2.0, warmup_steps=warmup, decay_steps=decay,
                             final_learning_rate=final, max_grad_norm=1e9)
  params, gradient = {'w': jnp.zeros(1)}, {'w': jnp.ones(1)}
  state, rates, wanted = optimizer.init(params), [], []
  step = jax.jit(optimizer.update)
  for i in range(12):
    changes, state = step(gradient, state, params)
    rates.append(-changes['w'][0])       # Adam divides a constant gradient by itself
    share = min(1.0, max(0.0, (i - warmup) / (decay - warmup))) if decay else 0.0
    cosine = final + (2 - final) * (1 + np.cos(np.pi * share)) / 2
    wanted.append(cosine * min(1.0, (i + 1) / warmup if warmup else 1.0))
  np.testing.assert_allclose(rates, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('config', [LLAMA, QWEN2, QWEN3, *CONFIGS.values()],
                         ids=lambda config: config.family)
def test_what_a_checkpoint_holds_as_a_vector_is_not_decayed(config):
  model = build(config)
  changes = changes_by_decay(jax.eval_shape(model.init, jax.random.key(0)))
  tensors = families.tensors(config, families.FAMILIES[config.family]).values()
  assert {len(tensor.shape) for tensor in tensors} == {1, 2}
  for tensor in tensors:
    change = functools.reduce(operator.getitem, tensor.path, changes)
    np.testing.assert_allclose(change, 0 if len(tensor.shape) == 1 else -0.05, err_msg=tensor)


def test_a_scalar_head_is_a_vector_and_its_backbone_decays_as_alone(tiny):
  changes = changes_by_decay(scalar_head.init_scalar(tiny.model, tiny.params))
  assert not np.any(changes['head'])
  jax.tree.map(np.testing.assert_array_equal, changes['backbone'], changes_by_decay(tiny.params))


def changes_by_decay(shapes):
  """The changes by a decay of 0.05 of parameters that are 1."""
  params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
  optimizer = make_optimizer(learning_rate=0.1, weight_decay=0.5)
  gradient = jax.tree.map(np.zeros_like, params)
  return jax.jit(lambda: optimizer.update(gradient, optimizer.init(params), params)[0])()


def test_the_global_gradient_norm_is_clipped():
  gradient = {'a': jnp.array([30.0, 0.0]), 'b': jnp.array([[40.0]])}
  optimizer = make_optimizer(learning_rate=0.1, max_grad_norm=2.0, beta1=0.75)
  _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
  np.testing.assert_allclose(optax.tree_utils.tree_get(state, 'mu')['a'], [0.25 * 1.2, 0])
  np.testing.assert_allclose(optax.tree_utils.tree_get(state, 'mu')['b'], [[0.25 * 1.6]])


def test_a_max_grad_norm_of_zero_means_no_clipping():
  params, gradient = {'w': jnp.zeros(2)}, {'w': jnp.array([30.0, 40.0])}

  def first_update(max_grad_norm):
    optimizer = make_optimizer(learning_rate=0.1, max_grad_norm=max_grad_norm)
    return optimizer.update(gradient, optimizer.init(params), params)

  got, want = first_update(0.0), first_update(1e9)
  jax.tree.map(np.testing.assert_array_equal, got, want)     # states too, of the same structure
  np.testing.assert_allclose(got[0]['w'], -0.1, rtol=1e-5)


def test_a_negative_max_grad_norm_is_refused():
  with pytest.raises(ValueError, match='max_grad_norm must be at least 0, got -1'):
    make_optimizer(learning_rate=0.1, max_grad_norm=-1)
