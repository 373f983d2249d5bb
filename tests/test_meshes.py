"""Every mesh axis against one device, what compiled programs gather, and what is refused."""
import dataclasses
import importlib.util
import math
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401  (fixtures)

from r1jax import metrics
from r1jax.models import Experts, build, experts
from r1jax.plan import hlo
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import loading, rl, sft
from r1jax.stages.config import check_mesh
from r1jax.stages.stage import StopRequested

P = jax.sharding.PartitionSpec
_PATH = pathlib.Path(__file__).parents[1] / 'experiments' / 'benchmarks' / 'meshes.py'


@pytest.fixture(scope='module')
def meshes():
  """The benchmark that compares all meshes, of which a covering few are tried here."""
  spec = importlib.util.spec_from_file_location('meshes', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def mesh_of(**sizes):
  count = int(np.prod(list(sizes.values())))
  return sharding.make_mesh(**sizes, devices=jax.devices()[:count])


def test_rollouts_are_those_of_one_device(meshes):
  programs = meshes.Programs('moe')
  tokens, logprobs = programs.draw(mesh_of(expert=2, context=2, tensor=2), 'tensor')
  assert tokens == 0 and logprobs < 1e-5 and programs.rollout.mask.sum() > 50


@pytest.mark.slow
@pytest.mark.parametrize('name, sizes', [
    ('moe', dict(expert=2, context=2, tensor=2)),
    ('deepseek', dict(fsdp=2, expert=2, context=2))])
def test_loss_and_gradients_are_those_of_one_device(name, sizes, meshes, monkeypatch):
  monkeypatch.setattr(experts, 'GATHERED_TOKENS', 8)      # so that they are gathered in chunks
  programs = meshes.Programs(name)
  assert max(programs.update(mesh_of(**sizes))) < 1e-5
  assert max(np.abs(x).max() for x in jax.tree.leaves(programs.updated[1])) > 1e-2


def gathers(compiled) -> list[tuple[str, tuple[int, ...]]]:
  """(computation, shape) of all all-gathers of a compiled program."""
  found, computation = [], ''
  for line in compiled.as_text().splitlines():
    if line.startswith(('%', 'ENTRY')):
      computation = line.split()[0]
    for shape in re.findall(r'\w+\[([\d,]*)\][^ ]* all-gather', line):
      found.append((computation, tuple(map(int, filter(None, shape.split(','))))))
  return found


def compiled_gradient(model, mesh, shape):
  """The program of the gradient of a loss of tokens of this shape, and its parameters' shapes."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  placed = sharding.shardings(mesh, model.logical_axes, shapes)
  params = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=where), shapes, placed)
  tokens = sharding.shapes_on(jax.ShapeDtypeStruct(shape, jnp.int32), mesh, batch=True)

  def loss(params, tokens):
    hidden, _, _ = model.apply(params, tokens, segment_ids=jnp.ones_like(tokens),
                               positions=jnp.broadcast_to(jnp.arange(shape[1]), shape))
    return jnp.sum(hidden ** 2)
  with sharding.use(mesh):
    return jax.jit(jax.grad(loss), out_shardings=placed).lower(params, tokens).compile(), shapes


def test_weights_are_gathered_a_layer_at_a_time(tiny_config):
  layers = 5
  model = build(dataclasses.replace(tiny_config, num_layers=layers), remat=True)
  compiled, shapes = compiled_gradient(model, mesh_of(fsdp=4), (8, 6))
  found = gathers(compiled)
  width, mlp = tiny_config.width, tiny_config.mlp_width
  matrices = sorted(size for size in (
      width * 2 * 4 * 8, 2 * 2 * 8 * width, width * 2 * mlp, mlp * width) for _ in range(2))
  inside = sorted(int(np.prod(shape)) for name, shape in found if name != 'ENTRY')
  assert inside == matrices              # forward and backward, one layer of each
  outside = [shape for name, shape in found if name == 'ENTRY']
  assert outside == [(tiny_config.vocab_size, width)]        # the embedding
  per_device = sum(x.size for x in jax.tree.leaves(shapes)) / 4 * 4
  assert compiled.memory_analysis().output_size_in_bytes < 1.2 * per_device


def test_gradients_of_experts_are_scattered_as_they_are_summed(tiny_config):
  width, wide = tiny_config.width, 100
  config = dataclasses.replace(
      tiny_config, family='qwen3_moe', layers=((('experts',), 2),),
      experts=Experts(count=4, per_token=2, width=wide))
  compiled, _ = compiled_gradient(
      build(config, remat=True), mesh_of(data=2, fsdp=2, expert=2), (8, 4))
  down, gate_up = (2 * wide * width // 2 * by for by in (1, 2))     # of a layer, on a device
  sizes = {'all-gather': [], 'all-reduce': [], 'reduce-scatter': []}
  for computation in hlo.parse(compiled.as_text()).computations.values():
    for one in computation.values():
      if one.opcode in sizes:
        sizes[one.opcode] += [math.prod(shape.dims) for shape in one.shapes]
  large = {opcode: sorted(n for n in found if n >= down) for opcode, found in sizes.items()}
  assert large['all-gather'] == [2 * down] * 2 + [2 * gate_up] * 2  # forward and backward
  assert large['reduce-scatter'] == [down, gate_up]
  assert large['all-reduce'] == [down, gate_up]         # of these parts, over the data axis


@pytest.mark.parametrize('rollout_sharding', sharding.ROLLOUT_SHARDINGS)
def test_decoding_gathers_no_weights_that_lie_whole(rollout_sharding, tiny):
  mesh = mesh_of(fsdp=4)
  sampler = Sampler(tiny.model, group_size=2, max_new_tokens=4, stop_ids=(3,),
                    rollout_sharding=rollout_sharding)
  prompts = Prompts(np.zeros((4, 6), np.int32), np.ones(4, np.int32), np.arange(4))
  with sharding.rules(sharding.ROLLOUT_SHARDINGS[rollout_sharding]):
    placed = sharding.shardings(mesh, tiny.model.logical_axes, tiny.params)
  params = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=where), tiny.params, placed)
  with sharding.use(mesh):
    resharded = jax.eval_shape(sampler.programs.reshard, params)
    layout = sampler.layout(4)
    slots = jax.eval_shape(
        lambda params: sampler.programs.empty_slots(params, prompts, layout=layout), resharded)
    found = gathers(sampler.programs.decode_chunk.lower(params, slots, 4, 0, num_rows=2).compile())
  assert bool(found) == (rollout_sharding == 'train')


def test_an_axis_of_the_mesh_is_used_once_and_only_as_far_as_it_divides():
  mesh = sharding.make_mesh(2, 2, np.arange(16), expert=2, context=2)

  def spec(shape, *axes):
    return sharding.spec_that_divides(mesh, shape, axes)
  assert spec((8, 16), 'expert', 'embed') == P('expert', ('fsdp', 'context'))
  assert spec((16, 8), 'embed', 'mlp') == P(('fsdp', 'expert', 'context'), 'tensor')
  assert spec((12, 7), 'embed', 'mlp') == P(('fsdp', 'expert'), None)
  assert spec((6, 4), 'batch', 'sequence') == P('fsdp', 'context')
  with sharding.rules(sharding.ROLLOUT_RULES):
    assert spec((8, 16), 'expert', 'embed') == P('expert', None)
    assert spec((8, 1), 'batch', 'sequence') == P(('fsdp', 'expert', 'context'), None)


def test_parts_of_a_size_are_those_of_the_axes_that_divide_it():
  assert sharding.num_shards('batch') == 1
  with sharding.use(mesh_of(fsdp=2, expert=2, tensor=2)):
    assert [sharding.num_shards('batch', size) for size in (None, 4, 6, 3)] == [4, 4, 2, 1]
    assert sharding.num_shards('sequence') == 1 and sharding.num_shards('vocab', 7) == 1


@pytest.mark.parametrize('config, words', [
    (rl.DEFAULT | dict(prompts_per_batch=12, mini_batches=2, micro_batches=3),
     'x.prompts_per_batch / mini_batches / micro_batches=2 cannot .* fsdp=2 × expert=2: .* '
     'multiple of 4'),
    (rl.DEFAULT | dict(max_prompt_length=63), 'x.max_prompt_length=63 .* context=2: .* of 2'),
    (rl.DEFAULT | dict(sampling=rl.DEFAULT['sampling'] | dict(max_new_tokens=7)),
     'x.sampling.max_new_tokens=7 .* multiple of 2'),
    (sft.DEFAULT | dict(rows=6, row_length=64), 'x.rows=6 cannot .* multiple of 4')])
def test_a_batch_that_the_mesh_does_not_divide_is_refused(config, words):
  mesh = sharding.make_mesh(2, 1, np.arange(8), expert=2, context=2)
  with pytest.raises(ValueError, match=words):
    check_mesh(config, mesh, 'x')
  check_mesh(config, sharding.make_mesh(devices=np.arange(1)), 'x')


@pytest.mark.parametrize('sizes, words', [
    (dict(tensor=4), 'num_kv_heads=[0-9]+ cannot be split over the mesh axes tensor=4'),
    (dict(expert=8), 'experts.count=[0-9]+ cannot be split over the mesh axes expert=8')])
def test_a_model_that_the_mesh_does_not_divide_is_refused(sizes, words):
  preset = 'tiny_qwen3_moe'
  with pytest.raises(ValueError, match=words):
    loading.load_model('random', {}, compute_dtype='float32', remat=False, mesh=mesh_of(**sizes),
                      preset=preset)


def test_reference_and_optimizer_wait_in_host_memory(base, tmp_path):   # noqa: F811
  """The same run, also where it is interrupted and goes on."""
  config = runs.rl_config(base, rewards={}, kl_coefficient=0.1, reference_refresh=1)
  rewards = {'bytes': (runs.by_bytes, 1.0)}
  rl.run(config, {}, tmp_path / 'device', reward_functions=rewards)
  config['in_host_memory'] = ('reference', 'optimizer')
  seen, score = [], sharding.in_device_memory
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, 'in_device_memory', lambda tree: (seen.extend(
        x.sharding.memory_kind for x in jax.tree.leaves(tree)), score(tree))[1])
    begun = tmp_path / 'host' / 'checkpoints' / '1'
    with pytest.raises(StopRequested):
      rl.run(config, {}, tmp_path / 'host', reward_functions=rewards, should_stop=begun.exists)
    rl.run(config, {}, tmp_path / 'host', reward_functions=rewards)
  assert seen and set(seen) == {sharding.HOST_MEMORY}
  records = [metrics.read_metrics(tmp_path / name) for name in ('device', 'host')]
  assert [record['step'] for record in records[0]] == [1, 2]
  for a, b in zip(*records, strict=True):
    assert a['kl'] == b['kl'] and a['loss'] == b['loss'] and a['grad_norm'] == b['grad_norm']


def test_host_memory_is_refused_where_there_is_none():
  device = types.SimpleNamespace(platform='tpu', addressable_memories=lambda: [
      types.SimpleNamespace(kind='device')])
  mesh = types.SimpleNamespace(devices=np.array([device]))
  with pytest.raises(ValueError, match="x: tpu devices have no memory 'pinned_host' .*device"):
    sharding.check_host_memory(mesh, 'x')
  with pytest.raises(ValueError, match="in_host_memory must hold .*, got 'critic'"):
    rl.SETTINGS.check(rl.DEFAULT | dict(rewards={'exact_match': 1.0}, data=runs.DATA,
                               in_host_memory=('critic',)), 'x')
