"""The chain of experiments/r1.py: what its stages share, and a run of all of it."""
import json

import pytest
from runs import compiled, no_curves, one_device  # noqa: F401 (fixtures)
from test_experiments import load

from r1jax import pipeline
from r1jax.stages import reward_model
from r1jax.stages.config import plain
from r1jax.stages.stage import StopRequested


def stages(argument):
  return plain(load('r1').get_config(argument))['stages']


@pytest.mark.parametrize('size', load('r1').SIZES)
def test_stages_share_nothing_that_one_of_them_sets(size):
  found = stages(size)
  source = {name: stage['model']['source'] for name, stage in found.items()}
  earlier = dict(
      cold_samples='zero', dev2='dev1', samples='dev2', preference_samples='dev3', r1='dev3')
  assert source == earlier | dict.fromkeys(
      ('base', 'zero', 'dev1', 'dev3', *reward_model.OBJECTIVES), source['base']) | dict.fromkeys(
          ('small_base', 'distilled', 'small_rl'), source['small_base'])
  assert 'language' in found['dev2']['rewards'] and 'language' not in found['zero']['rewards']
  assert [name for name, stage in found.items()
          if stage.get('sampling', {}).get('temperature') == 0.7] == ['r1']
  assert [name for name, stage in found.items()
          if stage.get('general_prompts', {}).get('prompts_per_batch')] == ['r1']
  assert found['base']['model']['source'] != found['small_base']['model']['source'] or (
      size == 'smollm2_135m')    # no smaller model is at hand


@pytest.mark.parametrize('size', load('r1').SIZES)
def test_every_model_is_measured_on_the_same_problems(size):
  found = [stage['evaluations'] for stage in stages(size).values() if stage.get('evaluations')]
  assert len(found) == 9 and all(evaluations == found[0] for evaluations in found)
  assert set(found[0]) == {'reasoning', 'cooler', 'few_shot', 'general'}
  for evaluation in found[0].values():
    assert evaluation['split'] == 'test' and evaluation['correctness_reward'] != 'format'


def test_an_override_reaches_every_stage_that_is_meant():
  config = load('r1').get_config('qwen3_0_6b')
  config.stages.zero.data.folder, config.stages.zero.model.source = '/questions', '/base'
  found = plain(config)['stages']
  for name in ('zero', 'cold_samples', 'dev2', 'samples', 'r1', 'small_rl'):
    assert found[name]['data']['folder'] == '/questions'
  for name in ('base', 'zero', 'dev1', 'dev3', 'helpfulness', 'safety'):
    assert found[name]['model']['source'] == '/base'
  assert {evaluation['data']['folder'] for stage in found.values()
          for evaluation in stage.get('evaluations', {}).values()
          if evaluation['data']['name'] == 'gsm8k'} == {'/questions'}


PARTS = {'cold_start': ('cold_samples', 'dev1'), 'reasoning_rl': ('dev2',),
         'rejection_sft': ('samples', 'dev3'),
         'all_scenario_rl': ('preference_samples', 'helpfulness', 'safety', 'r1'),
         'distill': ('samples', 'small_base', 'distilled', 'small_rl')}


@pytest.mark.parametrize('size', load('r1').SIZES)
@pytest.mark.parametrize('part', PARTS)
def test_a_part_has_its_stages_as_the_chain_has_them(part, size):
  """Except for models of stages that the part lacks: there it begins with the base."""
  for argument in (size, f'{size},debug'):
    whole, alone = stages(argument), plain(load(part).get_config(argument))['stages']
    assert tuple(alone) == PARTS[part]
    for name, stage in alone.items():
      expected = dict(whole[name])
      for field in {'inputs', 'sample_stages'} & expected.keys():
        expected[field] = [source for source in expected[field] if source in alone]
      if expected['model']['source'] in whole.keys() - alone:
        stands_in = {field: whole['base']['model'][field] for field in ('source', 'preset')}
        expected['model'] = expected['model'] | stands_in
      assert stage == expected
      assert stage['kind'] not in ('sft', 'reward_model') or stage['sample_stages']    # none lost


@pytest.mark.parametrize('size', load('r1').SIZES)
def test_reward_models_learn_from_the_policy_that_they_will_judge(size):
  found = stages(size)
  samples, r1 = found['preference_samples'], found['r1']
  assert samples['model']['source'] == r1['model']['source'] == 'dev3'
  assert samples['data'] == r1['general_prompts']['data']
  assert samples['correctness_reward'] == 'skill'
  assert (samples['pattern'], samples['filters'], samples['min_kept']) == ('drawn', {}, 0)
  for objective in reward_model.OBJECTIVES:
    stage = found[objective]
    assert (stage['objective'], stage['sample_stages'], stage['inputs']) == (
        objective, ['preference_samples'], ['preference_samples'])
    assert r1['general_prompts']['reward_models'][objective]['source'] == objective
  assert r1['general_prompts']['rewards']['skill'] == 0    # the truth is logged, not learnt


@pytest.mark.parametrize('size', load('r1').SIZES)
def test_only_fine_tuning_has_bad_answers(size):
  found = stages(size)
  with_bad_answers = {
      name for name, stage in found.items() if stage.get('data', {}).get('bad_answer_share')}
  assert with_bad_answers == {'dev3', 'distilled'}
  for stage in found.values():
    for config in (stage.get('general_prompts', {}), *stage.get('evaluations', {}).values()):
      assert not config.get('data', {}).get('bad_answer_share')


def test_the_cold_start_may_begin_with_another_model_than_the_base():
  config = load('r1').get_config('tiny')
  config.stages.dev1.model.source, config.stages.dev1.inputs = 'zero', ('cold_samples', 'zero')
  pipeline.check(plain(config))
  assert config.stages.dev3.model.source == config.stages.base.model.source == 'miniature'


class Stopper:
  """Tells a run to stop, as after a signal, from the `after`-th time that it asks."""

  def __init__(self, after):
    self.left = after

  def __call__(self):
    self.left -= 1
    return self.left <= 0


def keep_one_evaluation_each(stages):
  """Each stage keeps one, the first, second, ... in turn; 'r1' keeps all."""
  measured = [stage for stage in stages.values() if stage.get('evaluations')]
  for place, stage in enumerate(measured):
    names = list(stage.evaluations)
    for name in names:
      if stage is not stages.r1 and name != names[place % len(names)]:
        del stage.evaluations[name]


@pytest.mark.slow
def test_the_whole_recipe_runs_and_a_stopped_one_ends_with_the_same_table(
    compiled, one_device, tmp_path):
  config = load('r1').get_config('tiny,debug')
  keep_one_evaluation_each(config.stages)
  artifacts = pipeline.run(config, tmp_path / 'whole')
  assert list(artifacts) == list(config.stages)
  results = json.loads((tmp_path / 'whole' / 'results.json').read_text())
  assert {'base', 'zero', 'dev1', 'dev2', 'dev3', 'r1', 'small_base', 'distilled',
          'small_rl'} <= set(results)
  for column in ('reasoning pass@1', 'cooler pass@1', 'few_shot pass@1', 'general skills'):
    assert column in results['r1']
  with pytest.raises(StopRequested):
    pipeline.run(config, tmp_path / 'stopped', should_stop=Stopper(25))
  done = {path.parent.name for path in (tmp_path / 'stopped').glob('*/manifest.json')}
  assert set() < done < set(config.stages)
  pipeline.run(config, tmp_path / 'stopped')
  for name in ('results.md', 'results.json'):
    assert (tmp_path / 'stopped' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
