"""A stage is planned as it runs, settings are searched, the command says it."""
import dataclasses
import functools
import importlib.util
import json
import re
import subprocess
import sys
import types

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import runs

sys.path.append(str(runs.ROOT / 'experiments'))

import r1
import r1_zero

from r1jax import models
from r1jax.pipeline import KINDS
from r1jax.plan import chips, compiler, estimate, search, table
from r1jax.records import Batch
from r1jax.runtime import sharding
from r1jax.stages import loading, program_shapes
from r1jax.stages.config import plain
from r1jax.stages.fields import MODEL
from r1jax.stages.rl import programs as rl_programs
from r1jax.training import train_step

CHIP = chips.Chip('test', 1e12, 1e9, 1e11, 0.0)


def like(*shape, dtype='float32', sharding=None):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def devices(count):
  return chips.Topology('local', CHIP, tuple(jax.devices()[:count]))


# Stages.


def zero(**overrides):
  config = plain(r1_zero.get_config('tiny,debug'))
  config['stages']['zero'] |= overrides
  return config


def traced(stage, mesh, shape_of):
  """The programs of a stage, traced and not compiled, and its IterationWork."""
  programs, found, answer = KINDS[stage['kind']].shapes(stage, mesh, shape_of), [], None
  while True:
    try:
      found.append(programs.send(answer))
    except StopIteration as end:
      return found, end.value
    with sharding.use(mesh):
      answer = jax.eval_shape(
          functools.partial(found[-1].function, **found[-1].keywords), *found[-1].arguments)
    answer = jax.tree.map(
        lambda x: like(*x.shape, dtype=x.dtype, sharding=NamedSharding(mesh, P())), answer)


def traced_zero(config, count=1):
  mesh = sharding.make_mesh(count, 1, jax.devices()[:count])
  found, _ = traced(config['stages']['zero'], mesh, estimate.shape_finder(config['stages'], 'zero'))
  return mesh, {program.name: program for program in found}


def test_what_a_plan_says_of_memory_is_what_the_real_program_takes():
  """CPU's own figures of the program that a run compiles, and the arrays that it holds."""
  config = zero(kl_coefficient=0.1, epochs=2)
  stage, (mesh, programs) = config['stages']['zero'], traced_zero(config, 4)
  planned, _ = compiler.compile_program(programs['update'], mesh, devices(4))
  with sharding.use(mesh):
    loaded = loading.load_model(inputs={}, mesh=mesh, **stage['model'])
    optimizer = train_step.make_optimizer(**stage['optimizer'])
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


def test_a_plan_counts_what_lies_besides():
  one_model = 4 * models.num_params(models.PRESETS['miniature'])
  besides = lambda **overrides: {
      name: program_shapes.bytes_on_a_device(one.beside) / one_model
      for name, one in traced_zero(zero(**overrides))[1].items()}
  close = functools.partial(pytest.approx, rel=0.01)
  plain, kept = besides(), besides(kl_coefficient=0.1)
  assert (plain['update'], plain['prefill']) == (0, close(3))     # the parameters, two moments
  assert (kept['update'], kept['prefill']) == (close(1), close(4))       # and the reference
  away = besides(kl_coefficient=0.1, in_host_memory=('reference', 'optimizer'))
  assert (away['update'], away['prefill'], away['score']) == (0, close(1), close(1))
  evaluated = kept["evaluation 'base': prefill"]
  assert evaluated == close(3 + 1 + 1)    # the state, the reference, another model


def test_packed_rows_are_planned_as_they_are_run():
  """16 completions of 16 tokens behind prompts of 48: 5 in a row of 128, two rows a micro-batch."""
  packing = zero()['stages']['zero']['packing'] | dict(row_length=128, rows=2)
  mesh, programs = traced_zero(zero(epochs=2, packing=packing))
  for name in ('score', 'update'):
    batch = programs[name].arguments[1]
    assert batch.packing.segment_ids.shape[1:] == (2, 128)
    assert programs[name].unknown_trips == 2     # 4 prompts, a row each
  figures, _ = compiler.compile_program(programs['score'], mesh, devices(1))
  padded, _ = compiler.compile_program(
      traced_zero(zero(epochs=2))[1]['score'], mesh, devices(1))
  assert figures.unknown_loops == 1 and 0.5 < figures.flops / padded.flops < 2


def test_every_kind_of_stage_has_its_programs():
  mesh, seen, times = sharding.make_mesh(1, 1, jax.devices()[:1]), {}, {}
  chain = plain(r1.get_config('tiny,debug'))['stages']
  one_evaluation = dict(list(chain['base']['evaluations'].items())[:1])
  chain['base'] = chain['base'] | {'evaluations': one_evaluation}
  critic = zero(advantage='gae', epochs=2)['stages']['zero']
  base = dict(plain(KINDS['pretrain'].DEFAULT))
  for name, stage in (chain | {'ppo': critic, 'corpus': base}).items():
    if stage['kind'] in seen and name != 'ppo':
      continue
    found, work = traced(stage, mesh, estimate.shape_finder(chain, name))
    seen[stage['kind']] = [program.name for program in found]
    times[stage['kind']] = [program.times for program in found]
    assert work.tokens > 0
  assert set(seen) == set(KINDS)
  own = lambda kind: [name for name in seen[kind] if not name.startswith('evaluation ')]
  assert own('rl')[-4:] == ['score', 'value', 'update', 'update of the critic']
  assert own('sft') == own('pretrain') == own('reward_model') == ['update']
  for kind in ('rl', 'sft'):
    assert seen[kind][-1].startswith('evaluation ') and ': decode' in seen[kind][-1]
    assert times[kind][-1] == 0 < times[kind][0]     # no part of an iteration
  assert seen['reject'][:2] == ['reshard', 'prefill']
  assert seen['evaluate'][0].endswith(': reshard')


def test_a_shape_comes_from_the_source_or_the_chain_or_the_preset():
  stages = {'zero': dict(kind='rl', model=MODEL.default | dict(source='Nowhere', preset='qwen3_8b')),
            'next': dict(kind='sft', model=MODEL.default | dict(source='zero')),
            'base': dict(kind='pretrain', preset='miniature_small')}
  shape_of = estimate.shape_finder(stages, 'config.stages.x')
  of = lambda **model: shape_of(MODEL.default | model)
  assert of(source='next') == models.PRESETS['qwen3_8b']
  assert of(source='base') == models.PRESETS['miniature_small']
  assert of(source='miniature', preset='qwen3_8b') == models.PRESETS['miniature']
  with pytest.raises(ValueError, match="x.model.source='Nowhere' is not at hand and .*preset"):
    of(source='Nowhere')


def test_axes_that_do_not_fit_the_topology_are_refused():
  config = zero()
  config['mesh']['fsdp'] = 3
  with pytest.raises(ValueError, match='does not fit 4 device'):
    estimate.plan_stage(config, 'zero', devices(4))


def test_figures_are_kept(tmp_path, monkeypatch):
  topology = chips.Topology('test:4', CHIP, tuple(jax.devices()[:4]))
  monkeypatch.setattr(compiler, '_compiler_version', lambda topology: '1')
  mesh = sharding.make_mesh(4, 1, topology.devices)
  double = jax.jit(lambda x: x @ x.T)
  program = program_shapes.ProgramShapes('double', double, (sharding.abstract(like(8, 4), mesh, batch=True),))
  first = compiler.compile_program(program, mesh, topology, tmp_path)
  monkeypatch.setattr(compiler, '_compile', None)
  assert compiler.compile_program(program, mesh, topology, tmp_path) == first
  other = dataclasses.replace(program, arguments=(
      sharding.abstract(like(16, 4), mesh, batch=True),))
  with pytest.raises(TypeError):
    compiler.compile_program(other, mesh, topology, tmp_path)


def test_what_the_compiler_says_of_too_large_a_program():
  for said in ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G '
               'hbm. Exceeded hbm capacity by 6.75G. arguments 2.50G', 'RESOURCE_EXHAUSTED: the '
               'total memory required for HLO temporaries (22.50G) exceeds available HBM (15.75G)'):
    assert compiler._refused('update', said).total == 22.5 * 2 ** 30
    assert compiler._refused('update', said).too_large
  with pytest.raises(ValueError, match="the compiler refuses 'update': INTERNAL: a fault"):
    compiler._refused('update', 'INTERNAL: a fault')


@pytest.mark.slow
def test_a_search_finds_settings_that_fit():
  base = dict(plain(KINDS['pretrain'].DEFAULT), micro_batches=1)
  mesh = dict.fromkeys(sharding.AXES, 1)
  config, topology = dict(seed=0, mesh=mesh, stages=dict(base=base)), devices(1)
  most = estimate.plan_stage(config, 'base', topology).estimates[0].resident
  narrow = dataclasses.replace(
      topology, chip=dataclasses.replace(CHIP, memory=0.5 * most))
  assert not estimate.plan_stage(config, 'base', narrow).fits
  tried, found = search.search(config, ['base'], narrow)
  assert estimate.plan_stage(found, 'base', narrow).fits
  assert tried[-1]['fits'] and tried[-1]['resident'] <= narrow.chip.memory
  assert any(flag.startswith('--config.stages.base.') for flag in tried[-1]['flags'])
  assert not any(one['fits'] for one in tried[:-1])
  impossible = dataclasses.replace(topology, chip=dataclasses.replace(CHIP, memory=1e5))
  assert search.search(config, ['base'], impossible) == ([], None)     # nothing is compiled


def test_a_search_goes_over_all_meshes_that_all_stages_bear():
  """Without compiling: 8 chips for a mixture with 4 experts and one key/value head."""
  moe = dict(source=loading.RANDOM, preset='tiny_qwen3_moe')
  config = zero(prompts_per_batch=6, micro_batches=1, model=MODEL.default | moe)
  config['stages']['more'] = config['stages']['zero'] | dict(prompts_per_batch=2)
  topology = chips.Topology('test:8', CHIP, tuple(jax.devices()))
  found = [{axis: size for axis, size in mesh.items() if size > 1}
           for mesh in search._meshes(config, ['zero', 'more'], topology, True)]
  assert sorted(found, key=str) == [
      {'expert': 2, 'context': 4}, {'fsdp': 2, 'context': 4}, {'context': 8}]
  assert found[0] == {'expert': 2, 'context': 4}     # the cheapest


@pytest.fixture
def planned(monkeypatch):
  """f(fits(stage's name, its config)) -> [(stage's name, mesh, rollout_sharding)], as they are asked."""
  def say(fits):
    asked = []

    def plan_stage(config, name, *_, **__):
      stage = config['stages'][name]
      asked.append((name, str(config['mesh']), stage['sampling']['rollout_sharding']))
      prefill = types.SimpleNamespace(resident=1.0, figures=types.SimpleNamespace(name='prefill'))
      return types.SimpleNamespace(
          fits=fits(name, stage), estimates=[prefill], seconds=lambda bound: 2.0)
    monkeypatch.setattr(estimate, 'plan_stage', plan_stage)
    return asked
  return say


def test_weights_are_gathered_at_every_token_only_where_nothing_else_fits(planned):
  asked = planned(lambda name, stage: stage['sampling']['rollout_sharding'] == 'train')
  tried, found = search.search(zero(), ['zero'], devices(4))
  assert found['stages']['zero']['sampling']['rollout_sharding'] == 'train'
  assert [one[-1] for one in asked] == ['tensor'] * (len(asked) - 1) + ['train']
  assert len({mesh for _, mesh, _ in asked[:-1]}) > 1     # on all meshes, and each but once
  assert len(set(asked)) == len(asked) == len(tried)
  assert [one['fits'] for one in tried] == [False] * (len(asked) - 1) + [True]


def test_the_stage_that_did_not_fit_comes_first_on_the_next_mesh(planned):
  config = zero()
  config['stages']['more'] = config['stages']['zero']
  asked = planned(lambda name, stage: name == 'zero' or stage['sampling']['rollout_sharding'] == 'train')
  _, found = search.search(config, ['zero', 'more'], devices(4))
  assert found['stages']['more']['sampling']['rollout_sharding'] == 'train'
  assert [name for name, *_ in asked][:2] == ['zero', 'more']
  assert {name for name, *_ in asked[2:]} == {'more'}       # 'zero' is known of the found mesh


def test_every_stage_of_the_recipe_has_settings_to_try():
  config, topology = plain(r1.get_config('tiny,debug')), devices(1)
  for name, stage in config['stages'].items():
    held = 4 * models.num_params(search._shape(config, name))
    candidates = list(search._settings(config, name, topology, True))
    assert candidates
    for candidate in candidates:     # parameters; gradients and moments of what is trained
      least = search._least_bytes(candidate, name)
      assert search.rough_bytes(candidate, name) >= least >= (
          4 if 'micro_batches' in stage else 1) * held


def test_a_cache_that_is_larger_than_an_update_is_what_counts():
  stage = zero()['stages']['zero']
  config = zero(prompts_per_batch=64, micro_batches=64, model=stage['model'] | dict(remat=True),
                sampling=stage['sampling'] | dict(max_new_tokens=4096))
  shape = search._shape(config, 'zero')
  a_token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
  assert search.rough_bytes(config, 'zero') > 64 * stage['group_size'] * 4096 * a_token


@pytest.mark.parametrize('chunk, growing', [(64, 0), (32, 1 / 4), (16, 3 / 8)])
def test_a_growing_cache_lies_there_by_halves_twice(chunk, growing):
  """Keys, say: all that are kept, and while the last chunk's place is made the old ones of them."""
  sampling = zero()['stages']['zero']['sampling'] | dict(max_new_tokens=64, chunk=chunk)
  few, many = (zero(prompts_per_batch=prompts, sampling=sampling) for prompts in (4, 8))
  shape = search._shape(few, 'zero')
  a_row = 64 * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
  rows = 4 * few['stages']['zero']['group_size']
  grown = [search._cache_bytes(one['stages']['zero'], one['mesh'], shape) for one in (few, many)]
  assert grown[1] - grown[0] == pytest.approx(rows * a_row * (1 + growing))


def test_flags_are_what_changes():
  config = zero()
  settings = next(iter(search._settings(
      {**config, 'mesh': config['mesh'] | dict(fsdp=4)}, 'zero', devices(4), False)))
  assert sorted(search.flags_between(config, settings, 'zero')) == sorted([
      '--config.mesh.fsdp=4', '--config.stages.zero.micro_batches=1',
      '--config.stages.zero.sampling.rollout_sharding=tensor', *(
          f'--config.stages.zero.evaluations.{name}.sampling.rollout_sharding=tensor'
          for name in config['stages']['zero']['evaluations'])])


# The command.


def plan(*flags):
  return subprocess.run(
      [sys.executable, '-m', 'r1jax.plan', '--config=experiments/r1_zero.py:tiny,debug', *flags],
      capture_output=True, text=True, cwd=runs.ROOT, check=False)


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path):
  done = plan('--topology=local:2', '--config.mesh.fsdp=-1', '--steps=5',
              '--config.stages.zero.kl_coefficient=0.1', f'--json={tmp_path / "plan.json"}')
  assert done.returncode == 0, done.stderr
  assert 'mesh fsdp=2: memory of a chip' in done.stdout and 'tokens/s' in done.stdout
  stage, = json.loads((tmp_path / 'plan.json').read_text())['stages']
  assert stage['mesh']['fsdp'] == 2 and stage['fits']
  programs = {one['name']: one for one in stage['programs']}
  assert list(programs) == [
      'reshard', 'prefill', 'cache, first chunk: keys', 'cache, first chunk: values',
      'decode, first chunk', 'cache, last chunk: keys', 'cache, last chunk: values',
      'decode, last chunk', 'score', 'update',
      *(name for name in programs if name.startswith('evaluation '))]
  assert programs['update']['flops'] > programs['score']['flops'] > 0
  assert {one['kind'] for one in programs['update']['traffic']} & {'all-gather', 'all-reduce'}
  run = stage['run']
  assert run['iterations'] == 5
  rounded = 1 + 1e-9
  assert run['overlapped']['seconds'] <= rounded * run['in_turn']['seconds']
  assert run['in_turn']['seconds'] <= rounded * run['serial']['seconds']
  assert run['serial']['seconds'] == pytest.approx(
      sum(one['serial'] for one in stage['programs']))
  for bound, name in table.BOUNDS.items():
    seconds = run[bound]['seconds']
    assert run[bound]['chip_hours'] == pytest.approx(5 * seconds * 2 / 3600)
    printed = table.duration(seconds), f'{run[bound]["tokens_per_second"]:,.0f}'
    assert re.search(rf'│ {name} +│ +{printed[0]} │ +{printed[1]} │', done.stdout), printed


STOPPED = '''
from r1jax.plan import chips, compiler, hlo
chips.prepare('v5e:2x2')
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from r1jax.runtime import sharding
topology = chips.open_topology('v5e:2x2')
mesh = sharding.make_mesh(4, 1, topology.devices)
like = lambda spec, *shape: jax.ShapeDtypeStruct(
    shape, 'float32', sharding=NamedSharding(mesh, spec))

def loss(weights, x):
  return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0] ** 2)
with sharding.use(mesh):
  lowered = jax.jit(jax.value_and_grad(loss)).lower(
      like(P(None, 'fsdp'), 8, 512, 512), like(P('fsdp'), 32768, 512))
(text, memory), _ = compiler._finish(lowered, topology)
stopped, other = compiler._optimise(lowered, topology.chip, 0.0)
cost, again = [hlo.cost(one, flops_per_second=1e12, bytes_per_second=1e11)
               for one in (text, stopped)]
assert cost.flops == again.flops > 0
assert abs(again.bytes / cost.bytes - 1) < 0.01
assert abs(again.core_seconds / cost.core_seconds - 1) < 0.02
moved = lambda cost: [(one.kind, one.moved, one.times) for one in cost.collectives]
assert moved(cost) == moved(again) != []
for field in ('arguments', 'outputs', 'aliased'):
  assert abs(getattr(memory, field) - getattr(other, field)) <= 2 ** 12, field
assert 0.9 * memory.temporaries < other.temporaries < 1.1 * memory.temporaries
assert compiler._optimise(lowered, topology.chip, 15.5 * 2 ** 30) is None
'''


def test_a_program_that_is_stopped_before_its_machine_code_is_the_same():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed: the extra `plan` has it')
  done = subprocess.run([sys.executable, '-c', STOPPED], capture_output=True, text=True,
                        cwd=runs.ROOT, check=False)
  assert done.returncode == 0, done.stderr


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


def test_a_slice_is_compiled_for_without_one(tmp_path):
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed: the extra `plan` has it')
  done = plan('--topology=v5e:2x2', '--config.mesh.fsdp=-1', '--cache=',
              '--config.stages.zero.micro_batches=1',
              f'--json={tmp_path / "plan.json"}')
  assert done.returncode == 0, done.stderr
  stage, = json.loads((tmp_path / 'plan.json').read_text())['stages']
  assert stage['fits'] and stage['chips'] == 4
  update = next(one for one in stage['programs'] if one['name'] == 'update')
  assert update['network_seconds'] > 0
