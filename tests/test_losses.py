"""What holds for the rooms as a whole: what they load, and that what they export is documented."""
import functools
import inspect
import re
import subprocess
import sys

import jax
from loss_cases import float32
import numpy as np
import pytest

from r1jax import advantages, divergences, losses

ROOMS = (losses, advantages, divergences)


def functions():
  return {f'{room.__name__}.{name}': function for room in ROOMS
          for name, function in vars(room).items()
          if inspect.isfunction(function) and function.__module__.startswith(room.__name__)
          and not name.startswith('_')}


def test_losses_export_what_they_import_and_nothing_else():
  assert losses.__all__ == sorted(losses.__all__)
  assert set(losses.__all__) == {
      name for name, value in vars(losses).items()
      if not name.startswith('_') and not inspect.ismodule(value)}


def test_importing_them_loads_jax_and_numpy_alone():
  code = '''
import sys
import jax, jax.numpy, numpy
before = set(sys.modules)
from r1jax import losses, advantages, divergences
print(*(set(sys.modules) - before))
print('HEAVY', *({'flax', 'optax', 'transformers', 'grain', 'orbax', 'tensorflow', 'torch'}
                 & set(sys.modules)))
'''
  out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  added, heavy = out.stdout.splitlines()
  assert 'r1jax.losses' in added and heavy == 'HEAVY'
  assert {name.split('.')[0] for name in added.split()} <= {
      'r1jax', 'jax', 'jaxlib', 'numpy', *sys.stdlib_module_names}


@pytest.mark.parametrize('name', functions())
def test_every_public_function_says_what_it_takes_gives_and_refuses(name):
  function = functions()[name]
  text, signature = inspect.getdoc(function), inspect.signature(function)
  assert text and len(text.split('\n')[0]) < 100
  sections = re.findall(r'^(Args|Returns|Raises):$', text, re.M)
  if name.endswith(('exp_excess', 'weight_sum')):     # these accept everything
    return
  assert sections == ['Args', 'Returns', 'Raises']
  for argument in signature.parameters:
    assert re.search(rf'^  [*]*{argument}: ', text, re.M), f'{name} does not describe {argument}'


def test_the_rooms_hold_what_the_recipe_needs():
  assert {'grpo_loss', 'dr_grpo_loss', 'dapo_loss', 'bnpo_loss', 'gspo_loss', 'gspo_token_loss',
          'cispo_loss', 'rloo_loss', 'reinforce_loss', 'reinforce_pp_loss', 'ppo_clip_loss',
          'ppo_kl_loss', 'policy_loss', 'value_loss', 'supervised_loss', 'cross_entropy_loss',
          'bradley_terry_loss', 'safety_loss', 'distillation_loss'} <= set(vars(losses))


RNG = np.random.default_rng(0)
ROWS, TOKENS, WIDE, OTHER = (float32(RNG.normal(size=shape))
                             for shape in ((4,), (4, 6), (4, 6, 5), (4, 6, 5)))
MASK = float32(np.arange(6) < np.array([6, 2, 0, 5])[:, None])
IDS = RNG.integers(0, 5, (4, 6)).astype(np.int32)
CALLS = {
    'value': (losses.value_loss, TOKENS, TOKENS[::-1], MASK),
    'supervised': (losses.supervised_loss, TOKENS, MASK),
    'cross_entropy': (losses.cross_entropy_loss, WIDE, IDS, MASK),
    'chunked': (lambda x, *rest: losses.chunked_cross_entropy_loss(
        x, lambda hidden: hidden @ OTHER[0, :5], *rest, chunk_size=2), WIDE, IDS, MASK),
    'bradley_terry': (losses.bradley_terry_loss, ROWS, ROWS[::-1]),
    'safety': (losses.safety_loss, ROWS, float32([1, 0, 1, 1])),
    'distillation': (losses.distillation_loss, WIDE, OTHER, MASK),
    'top_k': (losses.distillation_top_k_loss, WIDE, -np.abs(OTHER[..., :2]) - 1,
              np.stack([IDS, (IDS + 1) % 5], -1), MASK)}


@pytest.mark.parametrize('name', CALLS)
def test_pitfall_01_jit_and_devices_change_nothing(name):
  """Those of the policy losses and advantages are in their own rooms."""
  if len(jax.devices('cpu')) < 2:
    pytest.skip('needs 2 CPU devices and has 1')
  loss, *args = CALLS[name]
  with_gradient = jax.value_and_grad(loss, has_aux=True)
  mesh = jax.make_mesh((2,), ('rows',), devices=jax.devices('cpu')[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  placed = jax.device_put(args, jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('rows')))
  want = with_gradient(*args)
  assert np.any(want[1] != 0)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
               jax.jit(with_gradient)(*placed), want)
