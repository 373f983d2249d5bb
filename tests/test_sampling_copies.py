"""No token of a rollout copies a layer's cache: read from the compiled decoding program."""
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from r1jax import models
from r1jax.plan import hlo
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import program_shapes

_UPDATES = ('dynamic-update-slice', 'scatter')
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'opt-barrier', 'while',
         'conditional', 'call')
SHAPE = models.ModelConfig(
    'qwen3', vocab_size=256, width=128, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=128,
    mlp_width=128, qk_norm=True)
SHAPES = {
    'dense': SHAPE,
    'window': dataclasses.replace(
        SHAPE, family='gemma3_text', layers=((('local',), 3),), window=256,
        local_rope_theta=10_000.0, scaled_embedding=True),
    'latent': dataclasses.replace(
        models.PRESETS['tiny_deepseek_v3'], num_layers=4,
        layers=((('dense',), 2), (('experts',), 2))),
}


def made_in_loops(text: str, least: float) -> list[str]:
  """What instructions inside loops make that is as large as this, except by changing it in place.

  Args:
    text: optimised HLO.
    least: bytes.
  """
  module, found = hlo.parse(text), []

  def updates(one):
    if one.opcode == 'fusion':
      fused = module.computations[one.called[0]]
      root = hlo.root_of(fused)
      roots = [fused[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    else:
      roots = [one]
    for i, root in enumerate(roots):
      while root.opcode == 'bitcast':
        root = fused[root.operands[0]]
      roots[i] = root
    return [root.opcode in _UPDATES or 'output_to_operand_aliasing' in root.attributes
            for root in roots]

  def walk(name: str, loops: int) -> None:
    for one in module.computations[name].values():
      if one.opcode == 'while':
        walk(one.computation_of('body'), loops + 1)
      elif one.opcode in ('conditional', 'call'):
        for called in one.called:
          walk(called, loops)
      elif loops and one.opcode not in _FREE and not one.opcode.endswith('-done'):
        found.extend(f'{one.opcode} {shape} {one.op_name}'
                     for shape, in_place in zip(one.shapes, updates(one) * len(one.shapes))
                     if shape.bytes >= least and not in_place)
  walk(module.entry, 0)
  return found


def check(kind: str, devices, text_of, dtype: str = 'bfloat16') -> None:
  """Asserts that decoding copies no layer's cache.

  Args:
    kind: of `SHAPES`.
    devices: to compile for.
    text_of: lowered -> optimised HLO.
    dtype: of the cache.
  """
  config, mesh = SHAPES[kind], sharding.make_mesh(1, 1, devices)
  model = models.build(config, compute_dtype=dtype)
  sampler = Sampler(model, group_size=8, max_new_tokens=1024, stop_ids=(0,), slots=32,
                    compute_dtype=dtype, rollout_sharding='tensor')
  programs = program_shapes.sampling(
      sampler, model, program_shapes.params_of(model, mesh), mesh, prompts=4, prompt_length=128,
      group_size=8, max_new_tokens=1024, mean_length=1024)
  program = programs.send(None)
  while not program.name.startswith('decode'):
    outputs = _lower(program, mesh).out_info
    program = programs.send(jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.P())), outputs))
  least = min(leaf.size * leaf.dtype.itemsize / leaf.shape[0]
              for leaf in jax.tree.leaves(program.arguments[1].cache.suffix))
  assert made_in_loops(text_of(_lower(program, mesh)), least / 2) == []


def _lower(program, mesh):
  with sharding.use(mesh):
    return program.function.lower(*program.arguments, **program.keywords)


def _optimised(lowered) -> str:
  return lowered.compile().as_text()


@pytest.mark.parametrize('kind', SHAPES)
def test_pitfall_35_on_a_cpu_no_token_copies_a_layer(kind):
  check(kind, jax.devices()[:1], _optimised, 'float32')


TPU = '''
import sys
from r1jax.plan.topology import open_topology, prepare_environment
prepare_environment('v5e:1x1')
from r1jax.plan import compiler
import test_sampling_copies
topology = open_topology('v5e:1x1')
for kind in test_sampling_copies.SHAPES:
  test_sampling_copies.check(kind, topology.devices, lambda lowered: compiler._compile_fully(
      lowered, topology)[0][0])
'''
# A GPU as XLA's compiler wants it described; the numbers are an H100's.
GPU = '''
from jax.experimental import topologies
import test_sampling_copies
topology = topologies.get_topology_desc(
    platform='cuda', topology_name='', topology='1x1x1', target_config="""
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
""")
for kind in 'dense', 'window':     # latent attention reads values in two orders
  test_sampling_copies.check(kind, list(topology.devices), test_sampling_copies._optimised)
'''


@pytest.mark.parametrize('module, script', [('libtpu', TPU), ('jax_cuda13_plugin', GPU)])
def test_on_an_accelerator_no_token_copies_a_layer(module, script):
  if importlib.util.find_spec(module) is None:
    pytest.skip(f'{module}, which has the compiler, is not installed')
  here = pathlib.Path(__file__).parent
  paths = os.pathsep.join([str(here), str(here.parent)])
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False,
                        env=os.environ | {'PYTHONPATH': paths, 'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stderr
