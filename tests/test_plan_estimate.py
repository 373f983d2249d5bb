"""A stage is planned as it runs."""
import functools

import jax
from plan_cases import devices, traced, traced_zero, zero
import pytest

from r1jax import models
from r1jax.experiments import r1
from r1jax.pipeline import KINDS
from r1jax.plan import compiler, estimate
from r1jax.runtime import sharding
from r1jax.stages import program_shapes
from r1jax.stages.config import plain
from r1jax.stages.fields import MODEL


def test_a_plan_counts_what_lies_besides():
  one_model = 4 * models.num_params(models.PRESETS['miniature'])

  def besides(**overrides):
    return {name: program_shapes.bytes_on_a_device(one.beside) / one_model
            for name, one in traced_zero(zero(**overrides))[1].items()}
  close = functools.partial(pytest.approx, rel=0.01)
  plain, kept = besides(), besides(kl_coefficient=0.1)
  assert (plain['update'], plain['prefill']) == (0, close(3))     # the parameters, two moments
  assert (kept['update'], kept['prefill']) == (close(1), close(4))       # and the reference
  away = besides(kl_coefficient=0.1, in_host_memory=('reference', 'optimizer'))
  assert (away['update'], away['prefill'], away['score']) == (0, close(1), close(1))
  evaluated = kept["evaluation 'base': prefill"]
  assert evaluated == close(3 + 1 + 1)    # the state, the reference, another model


def test_judges_are_planned_with_their_models_beside_all_else():
  miniature = 4 * models.num_params(models.PRESETS['miniature'])
  judge = dict(source='miniature', max_prompt_length=40, max_new_tokens=8, rows=3, votes=2)
  both = {'a': judge, 'b': judge | dict(rubric=({'criterion': 'x'}, {'criterion': 'y'}))}
  _, plain = traced_zero(zero())
  _, found = traced_zero(zero(judges=both | dict(far=dict(url='http://x', model='m'))))
  assert [name for name in found if not name.startswith("judge '")] == list(plain)
  for name, program in plain.items():
    more = program_shapes.bytes_on_a_device(found[name].beside) - program_shapes.bytes_on_a_device(
        program.beside)
    assert more == pytest.approx(miniature, rel=0.01)    # once, though two judges name it
  prefill = found["judge 'a': prefill"]
  assert prefill.arguments[2].tokens.shape == (3, 40)
  rows = zero()['stages']['zero']['prompts_per_batch'] * zero()['stages']['zero']['group_size']
  assert prefill.times == -(-rows // 3) and found["judge 'b': prefill"].times == -(-2 * rows // 3)
  held = program_shapes.bytes_on_a_device(prefill.beside) / miniature
  assert held == pytest.approx(4, rel=0.01)    # the policy with its moments, and the judge


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
  rates = plain(KINDS['pass_rate'].DEFAULT) | {'model': critic['model'], 'data': critic['data']}
  for name, stage in (chain | {'ppo': critic, 'corpus': base, 'rates': rates}).items():
    if stage['kind'] in seen and name != 'ppo':
      continue
    found, work = traced(stage, mesh, estimate.shape_finder(chain, name))
    seen[stage['kind']] = [program.name for program in found]
    times[stage['kind']] = [program.times for program in found]
    assert work.tokens > 0
  assert set(seen) == set(KINDS)

  def own(kind):
    return [name for name in seen[kind] if not name.startswith('evaluation ')]
  assert own('rl')[-4:] == ['score', 'value', 'update', 'update of the critic']
  assert own('sft') == own('pretrain') == own('reward_model') == ['update']
  for kind in ('rl', 'sft'):
    assert seen[kind][-1].startswith('evaluation ') and ': decode' in seen[kind][-1]
    assert times[kind][-1] == 0 < times[kind][0]     # no part of an iteration
  assert seen['reject'][:2] == seen['pass_rate'][:2] == ['reshard', 'slots']
  assert seen['evaluate'][0].endswith(': reshard')


def test_a_shape_comes_from_the_source_or_the_chain_or_the_preset():
  stages = {'zero': dict(kind='rl', model=MODEL.default | dict(
                source='Nowhere', preset='qwen3_8b')),
            'next': dict(kind='sft', model=MODEL.default | dict(source='zero')),
            'base': dict(kind='pretrain', preset='miniature_small')}
  shape_of = estimate.shape_finder(stages, 'config.stages.x')

  def of(**model):
    return shape_of(MODEL.default | model)
  assert of(source='next') == models.PRESETS['qwen3_8b']
  assert of(source='base') == models.PRESETS['miniature_small']
  assert of(source='miniature', preset='qwen3_8b') == models.PRESETS['miniature']
  with pytest.raises(ValueError, match="x.model.source='Nowhere' is not on this .*preset"):
    of(source='Nowhere')


def test_axes_that_do_not_fit_the_topology_are_refused():
  config = zero()
  config['mesh']['fsdp'] = 3
  with pytest.raises(ValueError, match='does not fit 4 device'):
    estimate.plan_stage(config, 'zero', devices(4))
