"""The mesh table, and eight devices (fsdp 4 × tensor 2) against one."""
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import losses
from r1jax.models import build
from r1jax.records import Batch, Prompts
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import rl
from r1jax.stages.rl.programs import Normalizers, make_loss
from r1jax.training.optimizers import make_optimizer
from r1jax.training.train_step import init_state, state_shardings

P = jax.sharding.PartitionSpec
DEVICES = jax.devices('cpu')


@pytest.fixture(scope='module')
def mesh():
  if len(DEVICES) != 8:
    pytest.skip(f'needs 8 CPU devices and has {len(DEVICES)}')
  return sharding.make_mesh(4, 2, DEVICES)


@pytest.mark.parametrize('sizes, shape', [
    ((4, 2), (4, 2)), ((-1, 2), (4, 2)), ((2, -1), (2, 4)), ((8, 1), (8, 1)), ((-1, 8), (1, 8))])
def test_make_mesh_uses_up_the_devices(sizes, shape):
  devices = np.arange(8)        # the arithmetic alone: a Mesh takes any objects
  for axes in itertools.permutations(sharding.AXES, 2):
    mesh = sharding.make_mesh(**dict(zip(axes, sizes)), devices=devices)
    assert dict(mesh.shape) == dict.fromkeys(sharding.AXES, 1) | dict(zip(axes, shape))


@pytest.mark.parametrize('fsdp, tensor', [
    (1, 1), (3, 2), (8, 2), (-1, 3), (-1, -1), (0, -1), (-1, 0), (0, 8), (-2, -4), (-2, -1)])
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(fsdp, tensor):
  with pytest.raises(ValueError, match=rf'fsdp={fsdp}, .*tensor={tensor}\) does not fit 8'):
    sharding.make_mesh(fsdp, tensor, np.arange(8))


def test_an_axis_that_does_not_divide_is_replicated(mesh):
  axes = {'w': ('vocab', 'embed'), 'b': (None, 'mlp'), 's': (None,)}
  shapes = {'w': jax.ShapeDtypeStruct((7, 8), float), 'b': jax.ShapeDtypeStruct((4, 6), float),
            's': jax.ShapeDtypeStruct((3,), float)}
  specs = jax.tree.map(lambda x: x.spec, sharding.shardings(mesh, axes, shapes))
  assert specs == {'w': P(None, 'fsdp'), 'b': P(None, 'tensor'), 's': P(None)}
  whole = jax.tree.map(lambda x: x.spec, sharding.shardings(mesh, axes))
  assert whole['w'] == P('tensor', 'fsdp')


def test_place_splits_rows_where_they_divide(mesh):
  tree = {'rows': np.arange(24.0).reshape(8, 3), 'torn': np.arange(6.0), 'scalar': np.float32(2)}
  placed = sharding.place(tree, mesh, batch=True)
  shards = {name: x.sharding.shard_shape(x.shape) for name, x in placed.items()}
  assert shards == {'rows': (2, 3), 'torn': (6,), 'scalar': ()}
  jax.tree.map(np.testing.assert_array_equal, sharding.to_host(placed), tree)
  assert sharding.place(tree, mesh)['rows'].sharding.is_fully_replicated


def test_constrain_without_a_mesh_changes_nothing():
  x = jnp.ones((4, 2))
  assert sharding.constrain(x, 'batch', 'embed') is x
  with sharding.use(None):
    assert sharding.constrain(x, 'batch', 'embed') is x


@pytest.mark.parametrize('fields', [{}, dict(qkv_bias=True, qk_norm=False, tied_embedding=False)])
def test_every_parameter_has_logical_axes(fields, tiny_config):
  model = build(dataclasses.replace(tiny_config, **fields))
  params = jax.eval_shape(model.init, jax.random.key(0))

  def check(path, leaf, axes):
    named = sum((sharding.RULES[axis] for axis in axes if axis), ())
    assert len(axes) == leaf.ndim and len(named) == len(set(named))      # no mesh axis twice
    assert named or path[-1].key == 'scale'
  jax.tree_util.tree_map_with_path(check, params, model.logical_axes)


def test_moments_lie_beside_their_parameters(mesh, tiny):
  state = jax.eval_shape(
      lambda params: init_state(params, make_optimizer(learning_rate=1.0)), tiny.params)
  placed = state_shardings(mesh, tiny.model.logical_axes, state)
  assert jax.tree.structure(placed) == jax.tree.structure(state)
  (adam,) = [leaf for leaf in jax.tree.leaves(
      placed.optimizer, is_leaf=lambda x: hasattr(x, 'mu')) if hasattr(leaf, 'mu')]
  assert adam.mu == adam.nu == placed.params
  assert placed.params['embedding'].spec == P('tensor', 'fsdp')
  assert adam.count.spec == placed.step.spec == P()


@pytest.fixture(scope='module')
def gradient(tiny):
  """f(params, batch, normalizers) -> ((loss, metrics), gradients) of the RL loss, compiled."""
  settings = rl.DEFAULT | dict(kl_coefficient=0.2)
  return jax.jit(jax.value_and_grad(make_loss(tiny.model, settings), has_aux=True))


@pytest.fixture(scope='module')
def batch(prompts):
  rng = np.random.default_rng(3)
  mask = np.float32(np.arange(5) < np.array([5, 4, 1, 2, 0, 1, 5, 3])[:, None])
  return Batch(np.asarray(prompts.tokens), np.asarray(prompts.lengths),
               rng.integers(0, 40, (8, 5)), mask, advantages=rng.normal(size=8).astype(np.float32),
               **dict(zip(('behaviour_logprobs', 'old_logprobs', 'reference_logprobs'),
                          rng.normal(-3, 1, (3, 8, 5)).astype(np.float32))))


NORMALIZERS = Normalizers(jnp.float32(8), jnp.float32(21), jnp.float32(0.2))


@pytest.fixture(scope='module')
def alone(gradient, tiny, batch):
  """What one device gives."""
  return gradient(tiny.params, batch, NORMALIZERS)


def assert_equal_to(want, got):
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got)):
    np.testing.assert_allclose(b, a, atol=1e-5, rtol=1e-5, err_msg=str(path))


def test_pitfall_01_eight_devices_give_the_loss_and_gradients_of_one(
    mesh, gradient, alone, tiny, batch):
  placed = jax.device_put(
      tiny.params, sharding.shardings(mesh, tiny.model.logical_axes, tiny.params))
  assert placed['embedding'].sharding.shard_shape((40, 16)) == (20, 4)
  with sharding.use(mesh):
    got = gradient(placed, sharding.place(batch, mesh, batch=True),
                   sharding.place(NORMALIZERS, mesh))
  assert got[1]['embedding'].sharding.device_set == set(DEVICES)
  assert_equal_to(alone, got)


@pytest.mark.parametrize('aggregation', losses.AGGREGATIONS)
def test_pitfall_01_every_aggregation_is_the_same_on_eight_devices(mesh, batch, aggregation):
  @jax.jit
  def gradient(logprobs, batch):
    return jax.value_and_grad(lambda x: losses.grpo_loss(
        x, batch.old_logprobs, batch.advantages, batch.completion_mask, aggregation=aggregation,
        reference_logprobs=batch.reference_logprobs, kl_coefficient=0.2)[0])(logprobs)
  want = gradient(batch.behaviour_logprobs, batch)
  with sharding.use(mesh):
    placed = sharding.place(batch, mesh, batch=True)
    got = gradient(placed.behaviour_logprobs, placed)
  assert got[1].sharding.device_set == set(DEVICES) and np.abs(want[1]).max() > 0.01
  assert_equal_to(want, got)


def test_pitfall_01_the_order_of_groups_changes_nothing(gradient, alone, tiny, batch):
  order = np.array([2, 0, 3, 1])

  def turn(x):
    return x.reshape(4, -1, *x.shape[1:])[order].reshape(x.shape)
  got = gradient(tiny.params, jax.tree.map(turn, batch), NORMALIZERS)
  assert_equal_to(alone, got)


def test_pitfall_13_eight_devices_draw_the_tokens_of_one(mesh, tiny, prompts):
  sample = Sampler(tiny.model, group_size=2, max_new_tokens=5, stop_ids=(3, 8, 21))
  want = sample(tiny.params, prompts, 0)
  placed = jax.device_put(
      tiny.params, sharding.shardings(mesh, tiny.model.logical_axes, tiny.params))
  on_host = Prompts(*map(np.asarray, (prompts.tokens, prompts.lengths, prompts.example_ids)))
  with sharding.use(mesh):
    got = sample(placed, sharding.place(on_host, mesh, batch=True), 0)
  assert len(got.tokens.sharding.device_set) == 8
  np.testing.assert_array_equal(got.mask, want.mask)
  np.testing.assert_array_equal(got.tokens * got.mask, want.tokens * want.mask)
  np.testing.assert_allclose(got.behaviour_logprobs * got.mask,
                             want.behaviour_logprobs * want.mask, atol=1e-5)
