"""Settings are searched: in which order, and until which fit."""
import dataclasses
import types

import jax
from plan_cases import CHIP, devices, zero
import pytest

from r1jax import models
from r1jax.experiments import r1
from r1jax.pipeline import KINDS
from r1jax.plan import estimate, rough_memory, search
from r1jax.plan.topology import Topology
from r1jax.runtime import sharding
from r1jax.stages import loading
from r1jax.stages.config import plain
from r1jax.stages.fields import MODEL


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
  config = zero(prompts_per_batch=6, micro_batches=1, model=MODEL.default | moe,
                packing=dict(row_length=0, rows=1))
  config['stages']['more'] = config['stages']['zero'] | dict(prompts_per_batch=2)
  topology = Topology('test:8', CHIP, tuple(jax.devices()))
  found = [{axis: size for axis, size in mesh.items() if size > 1}
           for mesh in search._meshes(config, ['zero', 'more'], topology, True)]
  assert sorted(found, key=str) == [
      {'expert': 2, 'context': 4}, {'fsdp': 2, 'context': 4}, {'context': 8}]
  assert found[0] == {'expert': 2, 'context': 4}     # the cheapest


@pytest.fixture
def planned(monkeypatch):
  """f(fits(stage's name, its config)) -> [(stage's name, mesh, rollout_sharding, slots)], as asked.

  Instead of False, `fits` may return the program that is too large; otherwise it is 'prefill'.
  """
  def say(fits):
    asked = []

    def plan_stage(config, name, *_, **__):
      stage = config['stages'][name]
      sampling, answer = stage['sampling'], fits(name, stage)
      asked.append((name, str(config['mesh']), sampling['rollout_sharding'], sampling['slots']))
      last = types.SimpleNamespace(name=answer if isinstance(answer, str) else 'prefill')
      return types.SimpleNamespace(
          fits=answer is True, seconds=lambda bound: 2.0,
          estimates=[types.SimpleNamespace(resident=1.0, figures=last)])
    monkeypatch.setattr(estimate, 'plan_stage', plan_stage)
    return asked
  return say


def test_weights_are_gathered_at_every_token_only_where_nothing_else_fits(planned):
  asked = planned(lambda name, stage: stage['sampling']['rollout_sharding'] == 'train')
  tried, found = search.search(zero(), ['zero'], devices(4))
  assert found['stages']['zero']['sampling']['rollout_sharding'] == 'train'
  assert [one[2] for one in asked] == ['tensor'] * (len(asked) - 1) + ['train']
  assert len({one[1] for one in asked[:-1]}) > 1     # on all meshes, and each but once
  assert len(set(asked)) == len(asked) == len(tried)
  assert [one['fits'] for one in tried] == [False] * (len(asked) - 1) + [True]


def test_the_stage_that_did_not_fit_comes_first_on_the_next_mesh(planned):
  config = zero()
  config['stages']['more'] = config['stages']['zero']
  asked = planned(lambda name, stage: (
      name == 'zero' or stage['sampling']['rollout_sharding'] == 'train'))
  _, found = search.search(config, ['zero', 'more'], devices(4))
  assert found['stages']['more']['sampling']['rollout_sharding'] == 'train'
  assert [name for name, *_ in asked][:2] == ['zero', 'more']
  assert {name for name, *_ in asked[2:]} == {'more'}       # 'zero' is known of the found mesh


def test_fewer_slots_are_tried_where_more_do_not_fit(planned):
  """What draws too much is not tried again with as many slots, nor what trains too much."""
  def fits(_, stage):
    if not 0 < stage['sampling']['slots'] <= 16:
      return 'decode 64 rows'
    return stage['micro_batches'] >= 2 or 'update'
  asked = planned(fits)
  config = zero(prompts_per_batch=8, group_size=8)
  config['stages']['zero']['packing']['row_length'] = 0
  tried, found = search.search(config, ['zero'], devices(1))
  slots = [slots for *_, slots in asked]
  assert slots[:3] == [0, 32, 16] and set(slots[3:]) == {16}
  stage = found['stages']['zero']
  assert (stage['micro_batches'], stage['model']['remat']) == (2, False)
  assert {one['sampling']['slots'] for one in (stage, *stage['evaluations'].values())} == {16}
  assert len(tried) == len(asked)


def test_every_stage_of_the_recipe_has_settings_to_try():
  config, topology = plain(r1.get_config('tiny,debug')), devices(1)
  for name, stage in config['stages'].items():
    held = 4 * models.num_params(rough_memory.stage_shape(config, name))
    candidates = list(search._settings(config, name, topology, True))
    assert candidates
    for candidate in candidates:     # parameters; gradients and moments of what is trained
      least = rough_memory.least_bytes(candidate, name)
      assert rough_memory.rough_bytes(candidate, name) >= least >= (
          4 if 'micro_batches' in stage else 1) * held


def test_flags_are_what_changes():
  config = zero()
  settings = next(iter(search._settings(
      {**config, 'mesh': config['mesh'] | dict(fsdp=4)}, 'zero', devices(4), False)))
  assert sorted(search.flags_between(config, settings, 'zero')) == sorted([
      '--config.mesh.fsdp=4', '--config.stages.zero.packing.rows=16',
      '--config.stages.zero.sampling.rollout_sharding=tensor', *(
          f'--config.stages.zero.evaluations.{name}.sampling.rollout_sharding=tensor'
          for name in config['stages']['zero']['evaluations'])])
