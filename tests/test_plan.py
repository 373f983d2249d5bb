import dataclasses
import functools
import importlib.util
import json
import re
import subprocess
import sys

import jax
from jax.sharding import NamedSharding, PartitionSpec as P
import jax.numpy as jnp
import numpy as np
import pytest
import runs

sys.path.append(str(runs.ROOT / 'experiments'))

import r1
import r1_zero
from r1jax import models, sharding, train_step
from r1jax.pipeline import KINDS
from r1jax.plan import chips, estimate, hlo, search, table
from r1jax.records import Batch
from r1jax.stages import abstract, common, rl_programs

PEAKS = dict(flops_per_second=1e12, bytes_per_second=1e11)
CHIP = chips.Chip('test', 1e12, 1e9, 1e11, 0.0)
cost = functools.partial(hlo.cost, **PEAKS)


def compiled_text(function, *arguments):
  return jax.jit(function).lower(*arguments).compile().as_text()


def like(*shape, dtype='float32', sharding=None):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def devices(count):
  return chips.Topology('local', CHIP, tuple(jax.devices()[:count]))


# Costs.


def test_a_loop_costs_its_body_times_its_trips():
  def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  def repeated(x, weights):
    return jax.lax.scan(lambda x, _: (layers(x, weights), None), x, None, length=3)[0]

  one = 2 * 64 * 32 * 32
  for count in (2, 7):
    arguments = like(64, 32), like(count, 32, 32)
    assert cost(compiled_text(layers, *arguments)).flops == count * one
    assert cost(compiled_text(repeated, *arguments)).flops == 3 * count * one
    slope = compiled_text(jax.grad(lambda x, w: layers(x, w).sum(), 1), *arguments)
    assert cost(slope).flops in (3 * count * one, (3 * count - 1) * one)   # none to x of the first


def test_a_loop_whose_trips_the_data_decide_runs_as_often_as_is_said():
  def decode(x, w, end):
    going_on = lambda state: (state[1] < end) & (jnp.max(state[0]) < 9)
    return jax.lax.while_loop(going_on, lambda state: (state[0] @ w, state[1] + 1), (x, 0))[0]
  text = compiled_text(decode, like(8, 32), like(32, 32), like(dtype='int32'))
  found = cost(text, unknown_trips=5)
  assert found.flops == 5 * 2 * 8 * 32 * 32
  assert found.unknown_loops == 1


def test_a_loop_within_one_whose_trips_the_data_decide_runs_once():
  def repeated(x, w, ends):
    def inner(x, end):
      return jax.lax.while_loop(lambda state: state[1] < end,
                                lambda state: (state[0] @ w, state[1] + 1), (x, 0))[0]
    return jax.lax.while_loop(lambda state: state[1] < ends[0], lambda state: (
        inner(state[0], ends[1]), state[1] + 1), (x, 0))[0]
  text = compiled_text(repeated, like(8, 32), like(32, 32), like(2, dtype='int32'))
  assert cost(text, unknown_trips=5).flops == 5 * 2 * 8 * 32 * 32


@pytest.mark.parametrize('tied', [True, False])
def test_a_forward_pass_is_that_of_flops_per_token(tied):
  config = models.ModelConfig(
      family='qwen3', vocab_size=256, width=64, num_layers=3, num_heads=4, num_kv_heads=2,
      head_dim=16, mlp_width=96, qk_norm=True, tied_embedding=tied)
  model = models.build(config)

  def forward(params, tokens):
    ones = jnp.ones_like(tokens)
    hidden, _, _ = model.apply(
        params, tokens, positions=jnp.cumsum(ones, 1), segment_ids=ones)
    return model.unembed(params, hidden)
  params = jax.eval_shape(model.init, jax.random.key(0))
  found = cost(compiled_text(forward, params, like(2, 48, dtype='int32'))).flops
  # The plain form multiplies with all positions, later ones too, and norms are no products.
  assert found == pytest.approx(2 * 48 * models.flops_per_token(config, 48), rel=0.01)


def test_of_stacked_weights_a_layer_reads_its_own():
  def layers(x, weights):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]
  count, stack = 50, 50 * 64 * 64 * 4
  found = cost(compiled_text(layers, like(4, 64), like(count, 64, 64))).bytes
  assert stack < found < 4 * stack     # and not 50 times the stack


COLLECTIVES = {
    'all-reduce': (lambda x: jax.lax.psum(x, 'fsdp'), 'fsdp', lambda size: 2 * 3 / 4 * size),
    'all-gather': (lambda x: jnp.sum(jax.lax.all_gather(x, 'tensor'), 0), 'tensor',
                   lambda size: size),
    'reduce-scatter': (lambda x: jnp.tile(jax.lax.psum_scatter(x, 'fsdp', tiled=True), (4, 1)),
                       'fsdp', lambda size: 3 / 4 * size),
    'all-to-all': (lambda x: jax.lax.all_to_all(x, 'fsdp', 0, 0, tiled=True), 'fsdp',
                   lambda size: 3 / 4 * size),
    'collective-permute': (lambda x: jax.lax.ppermute(
        x, 'fsdp', [(i, (i + 1) % 4) for i in range(4)]), 'fsdp', lambda size: size)}


@pytest.mark.parametrize('kind', COLLECTIVES)
def test_collectives_are_counted_by_kind_axis_and_trip(kind):
  one, axes, moved = COLLECTIVES[kind]
  mesh = sharding.make_mesh(4, 2)

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=P('fsdp', 'tensor'),
                     out_specs=P('fsdp', 'tensor'), check_vma=False)
  def program(x):
    return jax.lax.scan(lambda x, _: (one(jnp.sin(x)), None), x, None, length=5)[0]
  found = cost(compiled_text(program, like(32, 16))).collectives
  found = [c for c in found if c.kind == kind]
  assert sum(c.times for c in found) == 5
  assert {c.loops for c in found} == {1}
  assert {chips.axes_of(c, mesh.shape_tuple) for c in found} == {axes}
  assert sum(c.moved * c.times for c in found) == 5 * moved(8 * 8 * 4)


def test_groups_are_read_in_every_form():
  expected = ((0, 2, 4, 6), (1, 3, 5, 7))
  for written in ('replica_groups={{0,2,4,6},{1,3,5,7}}', 'replica_groups=[2,4]<=[4,2]T(1,0)',
                  "replica_groups=mesh['a'=4,'b'=2] {'a'}",
                  "replica_groups=mesh['a'=8] {'a':(1)4}"):
    assert hlo.groups_of(f'channel_id=1, {written}, dimensions={{0}}', 8) == expected
  assert hlo.groups_of("replica_groups=mesh['a'=4,'b'=2] {'b'}", 8) == (
      (0, 1), (2, 3), (4, 5), (6, 7))
  assert hlo.groups_of('replica_groups=[4,2]<=[8]', 8) == ((0, 1), (2, 3), (4, 5), (6, 7))
  assert hlo.groups_of('channel_id=1', 3) == ((0, 1, 2),)


# As libtpu writes: a batched product as a convolution, a loop's bounds behind copies, memory S(1).
TPU = '''HloModule jit_f, is_scheduled=true, num_partitions=4

%body (p: (s32[], bf16[8,16,32], bf16[8,32,64])) -> (s32[], bf16[8,16,32], bf16[8,32,64]) {
  %p = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}, bf16[8,32,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=2
  %one = s32[]{:T(128)} constant(1)
  %i.c = s32[]{:T(128)S(6)} copy(%i), backend_config={"flag_configs":[]}
  %next = s32[]{:T(128)} add(%i.c, %one)
  %y = bf16[8,16,64]{2,1,0:T(8,128)S(1)} convolution(%x, %w), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf, metadata={op_name="dot"}
  ROOT %t = (s32[], bf16[8,16,32], bf16[8,32,64]) tuple(%next, %x, %w)
}

%condition (q: (s32[], bf16[8,16,32], bf16[8,32,64])) -> pred[] {
  %q = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  %end = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%j, %end), direction=LT
}

ENTRY %main (a: bf16[8,16,32], b: bf16[8,32,64]) -> bf16[8,16,32] {
  %a = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %begin = s32[]{:T(128)} constant(2)
  %begin.c = s32[]{:T(128)} copy(%begin)
  %state = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) tuple(%begin.c, %a, %b)
  %loop = (s32[]{:T(128)}, bf16[8,16,32]{2,1,0}, bf16[8,32,64]{2,1,0}) while(%state), condition=%condition, body=%body
  %k = bf16[8,16,32]{2,1,0} custom-call(%a), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"cost_estimate":{"flops":"1000","bytes_accessed":"9"}}}
  ROOT %out = bf16[8,16,32]{2,1,0} get-tuple-element(%loop), index=1
}
'''


def test_programs_as_libtpu_writes_them():
  computations, entry = hlo.parse(TPU)
  loop = computations[entry]['loop']
  assert hlo.trip_count(loop, computations[entry], computations) == 10
  found = cost(TPU)
  assert found.flops == 10 * 2 * 8 * 16 * 32 * 64 + 1000     # the kernel by its own estimate
  read, kernel, scalars = (8 * 16 * 32 + 8 * 32 * 64) * 2, 2 * 8 * 16 * 32 * 2, 10 * 100 + 8
  assert 10 * read + kernel <= found.bytes <= 10 * read + kernel + scalars   # S(1) is no memory


NESTED = '''HloModule jit_f, is_scheduled=true

%slice (s: f32[50,64,64], i: s32[]) -> f32[64,64] {
  %s = f32[50,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %d = f32[1,64,64]{2,1,0} dynamic-slice(%s, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = f32[64,64]{1,0} bitcast(%d)
}

%product (x: f32[8,64], w: f32[50,64,64], n: s32[]) -> f32[8,64] {
  %x = f32[8,64]{1,0} parameter(0)
  %n = s32[] parameter(2)
  %w = f32[50,64,64]{2,1,0} parameter(1)
  %one = f32[64,64]{1,0} fusion(%w, %n), kind=kLoop, calls=%slice
  ROOT %y = f32[8,64]{1,0} dot(%x, %one), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,64], b: f32[50,64,64], c: s32[]) -> f32[8,64] {
  %a = f32[8,64]{1,0} parameter(0)
  %b = f32[50,64,64]{2,1,0} parameter(1)
  %c = s32[] parameter(2)
  ROOT %out = f32[8,64]{1,0} fusion(%a, %b, %c), kind=kOutput, calls=%product
}
'''


def test_a_slice_that_is_fused_twice_is_a_slice_all_the_same():
  found = cost(NESTED)
  assert found.bytes == 4 * (2 * 8 * 64 + 64 * 64 + 1)
  assert found.flops == 2 * 8 * 64 * 64


# As libtpu writes a reduce-scatter: an all-reduce in a fusion with the slice that is kept.
SCATTERED = '''HloModule jit_f, is_scheduled=true, num_partitions=4

%all-reduce-scatter.clone (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  %r = bf16[64,8]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %s = bf16[16,8]{1,0} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={16,8}
}

ENTRY %main (x: bf16[64,8]) -> bf16[16,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  ROOT %f = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.clone
}
'''


def test_a_fused_reduce_scatter_is_no_all_reduce():
  found, = cost(SCATTERED).collectives
  assert found.kind == 'reduce-scatter' and found.moved == 3 / 4 * 64 * 8 * 2


# Topologies.


@pytest.mark.parametrize('name, said', [
    ('v9:4x4', "topology='v9:4x4' is unknown: name a chip of v5e, v6e, v5p"),
    ('v5p:4x4', "has 2 sizes, and slices of v5p have 3: write it as 'v5p:4x4x4'"),
    ('v5e', "is unknown"), ('local:two', "write 'local', or 'local:8'")])
def test_a_topology_that_is_none_is_refused(name, said, monkeypatch):
  monkeypatch.setattr(chips.os, 'environ', {})
  with pytest.raises(ValueError, match=said):
    chips.prepare(name)


def test_without_libtpu_its_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(ModuleNotFoundError, match=r"install it with pip install 'r1jax\[plan\]'"):
    chips.open_topology('v5e:4x4')


@dataclasses.dataclass
class _Device:
  coords: tuple[int, ...]


def test_a_collective_uses_the_links_along_which_its_group_lies():
  chip = dataclasses.replace(chips.CHIPS['v5p'], network=600.0)
  grid = [_Device((x, y, z)) for z in range(4) for y in range(4) for x in range(2)]
  topology = chips.Topology('v5p:2x4x4', chip, tuple(grid))
  gather = lambda *groups: hlo.Collective('all-gather', '', 100.0, groups, 0, '')
  seconds = lambda *groups: chips.network_seconds(gather(*groups), topology)
  along_y = (0, 2, 4, 6)          # a ring of four: two of the six links
  assert seconds(along_y) == pytest.approx(300 / 200)
  assert seconds((0, 1)) == pytest.approx(100 / 100)      # two chips: one link
  assert seconds(tuple(range(32))) == pytest.approx(3100 / 500)
  assert seconds((0,)) == 0


# Stages.


def zero(**overrides):
  config = common.plain(r1_zero.get_config('tiny,debug'))
  config['stages']['zero'] |= overrides
  return config


def traced(stage, mesh, shape_of):
  """The programs of a stage, traced and not compiled, and its Work."""
  programs, found, answer = KINDS[stage['kind']].programs(stage, mesh, shape_of), [], None
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
  planned, _ = estimate.compile_program(programs['update'], mesh, devices(4))
  with sharding.use(mesh):
    loaded = common.load_model(inputs={}, mesh=mesh, **stage['model'])
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
  besides = lambda **overrides: {
      name: abstract.bytes_on_a_device(one.beside) / 4 / models.num_params(
          models.PRESETS['miniature'])
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
  figures, _ = estimate.compile_program(programs['score'], mesh, devices(1))
  padded, _ = estimate.compile_program(
      traced_zero(zero(epochs=2))[1]['score'], mesh, devices(1))
  assert figures.unknown_loops == 1 and 0.5 < figures.flops / padded.flops < 2


def test_every_kind_of_stage_has_its_programs():
  mesh, seen = sharding.make_mesh(1, 1, jax.devices()[:1]), {}
  chain = common.plain(r1.get_config('tiny,debug'))['stages']
  one_evaluation = dict(list(chain['base']['evaluations'].items())[:1])
  chain['base'] = chain['base'] | {'evaluations': one_evaluation}
  critic = zero(advantage='gae', epochs=2)['stages']['zero']
  base = dict(common.plain(KINDS['pretrain'].DEFAULT))
  for name, stage in (chain | {'ppo': critic, 'corpus': base}).items():
    if stage['kind'] in seen and name != 'ppo':
      continue
    found, work = traced(stage, mesh, estimate.shape_finder(chain, name))
    seen[stage['kind']] = [program.name for program in found]
    assert work.tokens > 0
  assert set(seen) == set(KINDS)
  own = lambda kind: [name for name in seen[kind] if not name.startswith('evaluation ')]
  assert own('rl')[-4:] == ['score', 'value', 'update', 'update of the critic']
  assert own('sft') == own('pretrain') == own('reward_model') == ['update']
  for kind in ('rl', 'sft'):
    assert seen[kind][-1].startswith('evaluation ') and ': decode' in seen[kind][-1]
  assert seen['reject'][:2] == ['reshard', 'prefill']
  assert seen['evaluate'][0].endswith(': reshard')


def test_a_shape_comes_from_the_source_or_the_chain_or_the_preset():
  stages = {'zero': dict(kind='rl', model=common.MODEL | dict(source='Nowhere', preset='qwen3_8b')),
            'next': dict(kind='sft', model=common.MODEL | dict(source='zero')),
            'base': dict(kind='pretrain', preset='miniature_small')}
  shape_of = estimate.shape_finder(stages, 'config.stages.x')
  of = lambda **model: shape_of(common.MODEL | model)
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
  monkeypatch.setattr(estimate, '_compiler_version', lambda topology: '1')
  mesh = sharding.make_mesh(4, 1, topology.devices)
  double = jax.jit(lambda x: x @ x.T)
  program = abstract.Program('double', double, (sharding.abstract(like(8, 4), mesh, batch=True),))
  first = estimate.compile_program(program, mesh, topology, tmp_path)
  monkeypatch.setattr(estimate, '_compile', None)
  assert estimate.compile_program(program, mesh, topology, tmp_path) == first
  other = dataclasses.replace(program, arguments=(
      sharding.abstract(like(16, 4), mesh, batch=True),))
  with pytest.raises(TypeError):
    estimate.compile_program(other, mesh, topology, tmp_path)


def test_what_the_compiler_says_of_too_large_a_program():
  for said in ('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G '
               'hbm. Exceeded hbm capacity by 6.75G. arguments 2.50G', 'RESOURCE_EXHAUSTED: the '
               'total memory required for HLO temporaries (22.50G) exceeds available HBM (15.75G)'):
    assert estimate._refused('update', said).total == 22.5 * 2 ** 30
    assert estimate._refused('update', said).too_large
  with pytest.raises(ValueError, match="the compiler refuses 'update': INTERNAL: a fault"):
    estimate._refused('update', 'INTERNAL: a fault')


@pytest.mark.slow
def test_a_search_finds_settings_that_fit():
  base = dict(common.plain(KINDS['pretrain'].DEFAULT), micro_batches=1)
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
  moe = dict(source=common.RANDOM, preset='tiny_qwen3_moe')
  config = zero(prompts=6, micro_batches=1, model=common.MODEL | moe)
  config['stages']['more'] = config['stages']['zero'] | dict(prompts=2)
  topology = chips.Topology('test:8', CHIP, tuple(jax.devices()))
  found = [{axis: size for axis, size in mesh.items() if size > 1}
           for mesh in search._meshes(config, ['zero', 'more'], topology)]
  assert sorted(found, key=str) == [
      {'expert': 2, 'sequence': 4}, {'fsdp': 2, 'sequence': 4}, {'sequence': 8}]
  assert found[0] == {'expert': 2, 'sequence': 4}     # the cheapest


def test_every_stage_of_the_recipe_has_settings_to_try():
  config, topology = common.plain(r1.get_config('tiny,debug')), devices(1)
  for name, stage in config['stages'].items():
    candidate = next(search._settings(config, name, topology))
    held = 4 * models.num_params(search._shape(config, name))
    assert search._least_bytes(candidate, name) >= held
    assert search.rough_bytes(candidate, name) >= (4 if 'micro_batches' in stage else 1) * held


def test_flags_are_what_changes():
  config = zero()
  settings = next(iter(search._settings(
      {**config, 'mesh': config['mesh'] | dict(fsdp=4)}, 'zero', devices(4))))
  assert sorted(search.flags_between(config, settings, 'zero')) == sorted([
      '--config.mesh.fsdp=4', '--config.stages.zero.micro_batches=1',
      '--config.stages.zero.sampling.placement=tensor', *(
          f'--config.stages.zero.evaluations.{name}.sampling.placement=tensor'
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
  assert programs['update']['flops'] > programs['update']['xla_flops'] > 0
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
