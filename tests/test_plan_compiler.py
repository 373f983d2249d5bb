"""What is said of a compiled program's memory is what it takes."""
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
from plan_cases import CHIP, devices, like, traced_zero, zero
import pytest
import runs

from r1jax.plan import compiler
from r1jax.plan.topology import Topology
from r1jax.records import Batch
from r1jax.runtime import sharding
from r1jax.stages import loading, program_shapes
from r1jax.stages.rl import programs as rl_programs
from r1jax.training import optimizers, train_step


def test_what_a_plan_says_of_memory_is_what_the_real_program_takes():
  """CPU's own figures of the program that a run compiles, and the arrays that it holds."""
  config = zero(kl_coefficient=0.1, epochs=2, packing=dict(row_length=0, rows=1))
  stage, (mesh, programs) = config['stages']['zero'], traced_zero(config, 4)
  planned, _ = compiler.compile_program(programs['update'], mesh, devices(4))
  with sharding.use(mesh):
    loaded = loading.load_model(inputs={}, mesh=mesh, **stage['model'])
    optimizer = optimizers.make_optimizer(**stage['optimizer'])
    programs = rl_programs.make_programs(loaded.model, optimizer, optimizer, stage, (0,), bool)
    init = functools.partial(train_step.init_state, optimizer=optimizer)
    shapes = jax.eval_shape(init, loaded.params)
    state = jax.jit(init, out_shardings=train_step.state_shardings(
        mesh, loaded.model.logical_axes, shapes))(loaded.params)
    rows = np.ones((16, stage['sampling']['max_new_tokens']), np.float32)
    prompts = np.ones((4, stage['max_prompt_length']), np.int32)
    batch = sharding.place(Batch(
        prompts, prompts[:, 0], rows.astype(np.int32), rows, rows, rows[:, 0], rows, rows), mesh,
        batch=True)
    normalizers = sharding.place(rl_programs.Normalizers(
        *[np.float32(1)] * len(rl_programs.Normalizers._fields)), mesh)
    real = programs.update.lower(state, batch, normalizers).compile().memory_analysis()
  held = sum(leaf.addressable_shards[0].data.nbytes
             for leaf in jax.tree.leaves((state, batch, normalizers)))
  total = (real.argument_size_in_bytes + real.output_size_in_bytes - real.alias_size_in_bytes
           + real.temp_size_in_bytes + real.generated_code_size_in_bytes)
  assert planned.arguments == pytest.approx(held, rel=0.01)
  assert planned.total == pytest.approx(total, rel=0.1)
  assert planned.temporaries > 0


def test_figures_are_kept(tmp_path, monkeypatch):
  topology = Topology('test:4', CHIP, tuple(jax.devices()[:4]))
  monkeypatch.setattr(compiler, '_compiler_version', lambda topology: '1')
  mesh = sharding.make_mesh(4, 1, topology.devices)
  double = jax.jit(lambda x: x @ x.T)
  program = program_shapes.ProgramShapes(
      'double', double, (sharding.shapes_on(like(8, 4), mesh, batch=True),))
  first = compiler.compile_program(program, mesh, topology, tmp_path)
  monkeypatch.setattr(compiler, '_compile', None)
  assert compiler.compile_program(program, mesh, topology, tmp_path) == first
  other = dataclasses.replace(program, arguments=(
      sharding.shapes_on(like(16, 4), mesh, batch=True),))
  with pytest.raises(TypeError):
    compiler.compile_program(other, mesh, topology, tmp_path)


def test_what_the_compiler_says_of_too_large_a_program():
  for said in ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G '
               'hbm. Exceeded hbm capacity by 6.75G. arguments 2.50G', 'RESOURCE_EXHAUSTED: the '
               'total memory required for HLO temporaries (22.50G) exceeds available HBM (15.75G)'):
    assert compiler._too_large_figures('update', said).total == 22.5 * 2 ** 30
    assert compiler._too_large_figures('update', said).too_large
  with pytest.raises(ValueError, match="the compiler refuses 'update': INTERNAL: a fault"):
    compiler._too_large_figures('update', 'INTERNAL: a fault')


def test_what_libtpu_says_of_buffers():
  memory = compiler._read_memory('''BufferAssignment:
allocation 0: size 64, color 1, page 0, preallocated-temp:
 value: <1 fusion @0> (size=64,offset=0): f32[16]
allocation 1: size 512, page 0, parameter 0, shape |f32[128]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 1024, page 0, parameter 1, shape |f32[256]| at ShapeIndex {}:
allocation 3: size 2048, page 0, maybe-live-out:
allocation 4: size 4096, color 0, page 0, preallocated-temp:
''')
  assert dataclasses.astuple(memory) == (1536, 2560, 512, 4096)
  assert memory.total == 1536 + 2048 + 4096


STOPPED = '''
from r1jax.plan.topology import open_topology, prepare_environment
prepare_environment('v5e:2x2')
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from r1jax.plan import compiler, costs
from r1jax.runtime import sharding
topology = open_topology('v5e:2x2')
mesh = sharding.make_mesh(4, 1, topology.devices)
like = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, 'float32', sharding=NamedSharding(mesh, spec))

def loss(weights, x):
  return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0] ** 2)
with sharding.use(mesh):
  lowered = jax.jit(jax.value_and_grad(loss)).lower(
      like(P(None, 'fsdp'), 8, 512, 512), like(P('fsdp'), 32768, 512))
(text, memory), _ = compiler._compile_fully(lowered, topology)
stopped, other = compiler._compile_without_code(lowered, topology.chip, 0.0)
cost, again = [costs.cost(one, flops_per_second=1e12, bytes_per_second=1e11)
               for one in (text, stopped)]
assert cost.flops == again.flops > 0
assert abs(again.bytes / cost.bytes - 1) < 0.01
assert abs(again.core_seconds / cost.core_seconds - 1) < 0.02
moved = lambda cost: [(one.kind, one.moved, one.times) for one in cost.collectives]
assert moved(cost) == moved(again) != []
for field in ('arguments', 'outputs', 'aliased'):
  assert abs(getattr(memory, field) - getattr(other, field)) <= 2 ** 12, field
assert 0.9 * memory.temporaries < other.temporaries < 1.1 * memory.temporaries
assert compiler._compile_without_code(lowered, topology.chip, 15.5 * 2 ** 30) is None
'''


def test_a_program_that_is_stopped_before_its_machine_code_is_the_same():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed: the extra `plan` has it')
  done = subprocess.run([sys.executable, '-c', STOPPED], capture_output=True, text=True,
                        cwd=runs.ROOT, check=False)
  assert done.returncode == 0, done.stderr


DAMAGED = '', '[]', '{}', '{"figures": 1, "specs": null}', '{"figures": {'


@pytest.mark.parametrize('damage', DAMAGED)
def test_a_damaged_file_of_the_cache_is_as_if_it_were_not_there(damage, tmp_path):
  file = tmp_path / 'figures.json'
  assert compiler._read_cached(file, 'update') is None
  figures = compiler.Figures(1.0, 2.0, 3.0, 4.0, 'update', flops=5.0)
  file.write_text(json.dumps({'figures': dataclasses.asdict(figures), 'specs': None}))
  assert compiler._read_cached(file, 'update') == (figures, None)
  file.write_text(damage)
  assert compiler._read_cached(file, 'update') is None
