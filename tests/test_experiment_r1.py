"""The chain of experiments/r1.py: what its stages share, and a run of all of it."""
import json

import pytest
from runs import compiled, one_device  # noqa: F401 (fixtures)
from test_experiments import load

from r1jax import pipeline
from r1jax.stages import common


def stages(argument):
  return common.plain(load('r1.py').get_config(argument))['stages']


@pytest.mark.parametrize('size', load('r1.py').SIZES)
def test_stages_share_nothing_that_one_of_them_sets(size):
  found = stages(size)
  assert {name: stage['model']['source'] for name, stage in found.items()
          if name not in ('dev2', 'r1', 'cold_samples', 'samples')} == {
              name: found['small_base' if name in ('distilled', 'small_rl') else 'base'][
                  'model']['source']
              for name in ('base', 'zero', 'dev1', 'dev3', 'helpfulness', 'safety')} | {
                  name: found['small_base']['model']['source']
                  for name in ('small_base', 'distilled', 'small_rl')}
  assert (found['dev2']['model']['source'], found['r1']['model']['source']) == ('dev1', 'dev3')
  assert (found['cold_samples']['model']['source'], found['samples']['model']['source']) == (
      'zero', 'dev2')
  assert 'language' in found['dev2']['rewards'] and 'language' not in found['zero']['rewards']
  assert [name for name, stage in found.items()
          if stage.get('sampling', {}).get('temperature') == 0.7] == ['r1']
  assert [name for name, stage in found.items()
          if stage.get('general', {}).get('prompts')] == ['r1']
  assert found['base']['model']['source'] != found['small_base']['model']['source'] or (
      size == 'smollm2_135m')    # of which there is no smaller one


@pytest.mark.parametrize('size', load('r1.py').SIZES)
def test_every_model_is_measured_on_the_same_problems(size):
  found = [stage['evaluations'] for stage in stages(size).values() if stage.get('evaluations')]
  assert len(found) == 9 and all(evaluations == found[0] for evaluations in found)
  assert set(found[0]) == {'reasoning', 'cooler', 'few_shot', 'general'}
  for evaluation in found[0].values():
    assert evaluation['split'] == 'test' and evaluation['accuracy'] != 'format'


def test_an_override_reaches_every_stage_that_is_meant():
  config = load('r1.py').get_config('qwen3_0_6b')
  config.stages.zero.data.folder, config.stages.zero.model.source = '/questions', '/base'
  found = common.plain(config)['stages']
  for name in ('zero', 'cold_samples', 'dev2', 'samples', 'r1', 'small_rl'):
    assert found[name]['data']['folder'] == '/questions'
  for name in ('base', 'zero', 'dev1', 'dev3', 'helpfulness', 'safety'):
    assert found[name]['model']['source'] == '/base'
  assert {evaluation['data']['folder'] for stage in found.values()
          for evaluation in stage.get('evaluations', {}).values()
          if evaluation['data']['name'] == 'gsm8k'} == {'/questions'}


class Stopper:
  """Says that a run is to stop, once, at the n-th time that it is asked."""

  def __init__(self, after):
    self.left = after

  def __call__(self):
    self.left -= 1
    return self.left == 0


@pytest.mark.slow
def test_the_whole_recipe_runs_and_a_stopped_one_ends_with_the_same_table(
    compiled, one_device, tmp_path):
  config = load('r1.py').get_config('tiny,debug')
  artifacts = pipeline.run(config, tmp_path / 'whole')
  assert list(artifacts) == list(config.stages)
  results = json.loads((tmp_path / 'whole' / 'results.json').read_text())
  assert {'base', 'zero', 'dev1', 'dev2', 'dev3', 'r1', 'small_base', 'distilled',
          'small_rl'} <= set(results)
  for column in ('reasoning pass@1', 'cooler pass@1', 'few_shot pass@1', 'general skills'):
    assert column in results['r1']
  with pytest.raises(common.StopRequested):
    pipeline.run(config, tmp_path / 'stopped', should_stop=Stopper(25))
  done = {path.parent.name for path in (tmp_path / 'stopped').glob('*/manifest.json')}
  assert set() < done < set(config.stages)
  pipeline.run(config, tmp_path / 'stopped')
  for name in ('results.md', 'results.json'):
    assert (tmp_path / 'stopped' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
