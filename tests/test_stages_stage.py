"""A stage's folder compared with what is asked for: what goes on, and what runs again."""
import dataclasses
import json
import os
import re
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves, one_device  # noqa: F401 (fixtures)
from safetensors.numpy import load_file

from r1jax import pipeline
from r1jax.errors import UserError
from r1jax.models import huggingface
from r1jax.runtime import checksums, sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, rl, sft, stage
from r1jax.stages.artifact import open_artifact
from r1jax.stages.stage import StopRequested
from r1jax.tokenization import load_tokenizer

pytestmark = pytest.mark.slow    # most tests train

# Settings that decide how a run is done, watched or measured, each with another value.
HOW = {
    'micro_batches': dict(micro_batches=2),
    'packing': dict(packing=dict(row_length=64, rows=2)),
    'rematerialisation': dict(model=dict(remat=True)),
    'chunk': dict(sampling=dict(chunk=4)),
    'sharding of the sampler': dict(sampling=dict(rollout_sharding='tensor')),
    'reward workers': dict(reward_workers=1),
    'reward timeout': dict(reward_timeout_s=9.0),
    'timeout of a batch': dict(reward_batch_timeout_s=90.0),
    'checkpoint cadence': dict(checkpoint_every=7),
    'checkpoints kept': dict(keep_checkpoints=5),
    'printed samples': dict(print_samples_every=3),
    'host memory': dict(in_host_memory=('optimizer',)),
}
WHAT = {
    'learning rate': (dict(optimizer=dict(learning_rate=0.5)), 'config.optimizer.learning_rate'),
    'seed': (dict(seed=4), 'config.seed'),
    'data': (dict(data=dict(seed=9)), 'config.data.seed'),
    'reward weight': (dict(rewards={'format': 1.0}), 'config.rewards.format'),
    'temperature': (dict(sampling=dict(temperature=0.5)), 'config.sampling.temperature'),
    'group size': (dict(group_size=4), 'config.group_size'),
    'mini-batches': (dict(mini_batches=2), 'config.mini_batches'),
}


def config_of(base, **fields):
  return dict(stages=dict(zero=runs.rl_config(base, **fields)), mesh=dict(fsdp=1))


def state_of(config, workdir):
  found, = pipeline.state(config, workdir)
  return found


@pytest.fixture(scope='module')
def stopped(base, tmp_path_factory):
  """A chain of one stage of RL, stopped after its first update of two."""
  workdir = tmp_path_factory.mktemp('stopped')
  with pytest.raises(StopRequested):
    rl.run(runs.rl_config(base), {}, workdir / 'zero', stage='zero', should_stop=runs.stop_at(2))
  return workdir


@pytest.fixture(scope='module')
def finished(base, tmp_path_factory):
  """The same, with all updates done."""
  workdir = tmp_path_factory.mktemp('finished')
  rl.run(runs.rl_config(base), {}, workdir / 'zero', stage='zero')
  return workdir


@pytest.mark.parametrize('setting', HOW)
def test_pitfall_27_how_a_run_is_done_neither_restarts_it_nor_invalidates_its_result(
    setting, base, stopped, finished):
  config = config_of(base, **HOW[setting])
  assert str(state_of(config, stopped)) == 'resumes at step 1'
  assert str(state_of(config, finished)) == 'done'


def test_neither_does_the_mesh(base, stopped, finished):
  config = config_of(base) | dict(mesh=dict(fsdp=2, tensor=4))
  assert str(state_of(config, stopped)) == 'resumes at step 1'
  assert str(state_of(config, finished)) == 'done'


@pytest.mark.parametrize('setting', WHAT)
def test_what_is_computed_runs_again(setting, base, stopped, finished):
  fields, named = WHAT[setting]
  for workdir in (stopped, finished):
    found = state_of(config_of(base, **fields), workdir)
    assert str(found) == f'runs again: {named} changed' and found.replaces


def test_a_run_goes_on_with_other_settings_to_the_same_result(
    base, stopped, finished, one_device, tmp_path):
  """All at once, but for those that change the order of sums."""
  shutil.copytree(stopped, tmp_path / 'run')
  config = config_of(base)
  for name in HOW.keys() - {'micro_batches', 'packing', 'rematerialisation', 'host memory'}:
    config['stages']['zero'] = runs.merged(config['stages']['zero'], HOW[name])
  pipeline.run(config, tmp_path / 'run')
  same, other = (runs.result_of(workdir / 'zero') for workdir in (finished, tmp_path / 'run'))
  assert {name: same[name] for name in same if name != 'metrics'} == {
      name: other[name] for name in other if name != 'metrics'}
  assert [row['loss'] for row in same['metrics']] == [row['loss'] for row in other['metrics']]


def test_a_run_goes_on_with_other_sums_to_nearly_the_same_result(
    base, stopped, finished, one_device, tmp_path):
  shutil.copytree(stopped, tmp_path / 'run')
  fields = HOW['micro_batches'] | HOW['rematerialisation']
  pipeline.run(config_of(base, **fields), tmp_path / 'run')
  want, got = (runs.result_of(workdir / 'zero')['metrics']
               for workdir in (finished, tmp_path / 'run'))
  assert float(got[-1]['grad_norm']) == pytest.approx(float(want[-1]['grad_norm']), rel=1e-4)


# Steps that are raised.


def test_raised_steps_end_where_a_run_of_that_length_ends(base, finished, one_device, tmp_path):
  longer = config_of(base, steps=4, evaluations={'trained': runs.evaluation_config()})
  shutil.copytree(finished, tmp_path / 'run')
  assert str(state_of(longer, tmp_path / 'run')) == (
      'resumes at step 2, config.steps was raised from 2 to 4')
  with pytest.raises(StopRequested):
    pipeline.run(longer, tmp_path / 'run', should_stop=runs.stop_at(2))
  assert not (tmp_path / 'run' / 'zero' / 'manifest.json').exists()    # it is finished no more
  assert str(state_of(longer, tmp_path / 'run')) == 'resumes at step 3'
  pipeline.run(longer, tmp_path / 'run')
  rl.run(longer['stages']['zero'], {}, tmp_path / 'whole', stage='zero')
  runs.assert_same(tmp_path / 'run' / 'zero', tmp_path / 'whole')
  assert str(state_of(longer, tmp_path / 'run')) == 'done'


def test_steps_of_a_stopped_run_may_change_in_what_is_still_to_come(base, stopped, finished):
  assert str(state_of(config_of(base, steps=6), stopped)) == 'resumes at step 1'
  assert str(state_of(config_of(base, steps=1), stopped)) == 'resumes at step 1'
  assert str(state_of(config_of(base, steps=1), finished)) == (
      'runs again: config.steps was lowered from 2 to 1')


def test_a_schedule_over_the_whole_run_says_that_it_starts_again(base, one_device, tmp_path):
  own = tmp_path / 'own.jsonl'
  own.write_text('{"prompt": "1+1?", "reasoning": "1+1=2.", "summary": "2"}\n' * 8)
  config = runs.sft_config(base, inputs=(), sample_stages=(), files=(str(own),), rows=1, epochs=2,
                           last_step=2)
  sft.run(config, {}, tmp_path / 'run' / 'tuned', stage='tuned')

  def state(**fields):
    return str(state_of(dict(stages=dict(tuned=config | fields)), tmp_path / 'run'))
  assert state() == 'done'
  assert state(last_step=3) == 'resumes at step 2, config.last_step was raised from 2 to 3'
  assert state(last_step=0) == 'resumes at step 2, config.last_step was raised from 2 to 0'
  assert state(last_step=1) == 'runs again: config.last_step was lowered from 2 to 1'
  assert state(epochs=3) == (
      'runs again: config.epochs changed (the learning rate follows a cosine over all epochs, '
      'so it starts again)')
  sft.run(config | dict(last_step=3), {}, tmp_path / 'run' / 'tuned', stage='tuned')
  sft.run(config | dict(last_step=3), {}, tmp_path / 'whole', stage='tuned')
  runs.assert_same(tmp_path / 'run' / 'tuned', tmp_path / 'whole')


# The type of what is exported.


def exported(workdir):
  return load_file(workdir / 'zero' / 'model' / 'model.safetensors')


def test_another_export_type_exports_the_last_checkpoint_again(
    base, finished, one_device, tmp_path, monkeypatch):
  monkeypatch.setattr(rl.train._Trainer, '_update', lambda *_: pytest.fail('something is trained'))
  shutil.copytree(finished, tmp_path / 'run')
  whole, config = exported(finished), config_of(base, export_dtype='bfloat16')
  assert str(state_of(config, tmp_path / 'run')) == (
      'resumes at step 2, to export its result in another type')
  pipeline.run(config, tmp_path / 'run')
  for name, tensor in exported(tmp_path / 'run').items():
    np.testing.assert_array_equal(tensor, whole[name].astype(ml_dtypes.bfloat16), strict=True)
  shape = json.loads((tmp_path / 'run' / 'zero' / 'model' / 'config.json').read_text())
  assert shape['torch_dtype'] == 'bfloat16'
  pipeline.run(config_of(base), tmp_path / 'run')
  np.testing.assert_equal(exported(tmp_path / 'run'), whole)
  # With another learning rate, too, it is another run.
  config = config_of(base, export_dtype='bfloat16', optimizer=dict(learning_rate=0.5))
  assert str(state_of(config, tmp_path / 'run')).startswith('runs again: config.')


def test_a_bfloat16_base_is_exported_in_bfloat16_and_what_is_exported_is_evaluated(
    base, one_device, tmp_path, evaluated):
  params = huggingface.load_params(base, runs.SHAPE)
  huggingface.export(tmp_path / 'base', runs.SHAPE, params, dtype='bfloat16',
                     tokenizer=load_tokenizer(base))
  config = config_of(str(tmp_path / 'base'), evaluations={'one': runs.evaluation_config()})
  pipeline.run(config, tmp_path / 'run')
  assert {str(tensor.dtype) for tensor in exported(tmp_path / 'run').values()} == {'bfloat16'}
  scores = (tmp_path / 'run' / 'zero' / 'evaluations' / 'one.jsonl').read_text()
  shutil.rmtree(tmp_path / 'run' / 'zero' / 'evaluations')
  assert str(state_of(config, tmp_path / 'run')) == 'evaluates: one'
  pipeline.run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'zero' / 'evaluations' / 'one.jsonl').read_text() == scores
  assert len(evaluated) == 2


# Evaluations.


@pytest.fixture
def evaluated(monkeypatch):
  """The configs of the evaluations that run."""
  evaluated, evaluate_model = [], evaluate.evaluate_model

  def record(config, *args, **keywords):
    evaluated.append(config)
    return evaluate_model(config, *args, **keywords)
  monkeypatch.setattr(evaluate, 'evaluate_model', record)
  return evaluated


def test_an_added_evaluation_runs_alone_on_the_stages_model(
    base, finished, one_device, tmp_path, evaluated, monkeypatch):
  monkeypatch.setattr(rl.train, '_Trainer', lambda *_: pytest.fail('something is trained'))
  shutil.copytree(finished, tmp_path / 'run')
  one, two = (runs.evaluation_config(problems=problems) for problems in (2, 3))
  config = config_of(base, evaluations={'one': one})
  assert str(state_of(config, tmp_path / 'run')) == 'evaluates: one'
  first = pipeline.run(config, tmp_path / 'run')['zero']
  assert len(evaluated) == 1 and set(first.manifest.scores) == {'one'}
  config['stages']['zero']['evaluations']['two'] = two
  assert str(state_of(config, tmp_path / 'run')) == 'evaluates: two'
  both = pipeline.run(config, tmp_path / 'run')['zero']
  assert [one['problems'] for one in evaluated] == [2, 3]
  assert both.identity == first.identity == open_artifact(finished / 'zero').identity
  assert both.manifest.scores['one'] == first.manifest.scores['one']
  assert both.manifest.compute['evaluated'] > first.manifest.compute['evaluated'] > 0
  assert both.manifest.compute['trained'] == first.manifest.compute['trained']
  table = (tmp_path / 'run' / 'zero' / 'results.md').read_text()
  assert '| one |' in table and '| two |' in table
  # It is what the stage would have left with them from the start.
  monkeypatch.undo()
  whole = rl.run(config['stages']['zero'], {}, tmp_path / 'whole', stage='zero')
  assert whole.manifest.scores == both.manifest.scores


def test_an_evaluation_with_other_settings_runs_again_and_how_it_is_run_does_not_count(
    base, finished, one_device, tmp_path, evaluated):
  shutil.copytree(finished, tmp_path / 'run')
  config = config_of(base, evaluations={'one': runs.evaluation_config()})
  pipeline.run(config, tmp_path / 'run')
  settings = config['stages']['zero']['evaluations']
  settings['one'] = runs.merged(settings['one'], dict(prompts_per_batch=1, reward_workers=1))
  assert str(state_of(config, tmp_path / 'run')) == 'done'
  settings['one'] = runs.merged(settings['one'], dict(sampling=dict(temperature=0.3)))
  assert str(state_of(config, tmp_path / 'run')) == 'evaluates: one'
  pipeline.run(config, tmp_path / 'run')
  assert [one['sampling']['temperature'] for one in evaluated] == [1.0, 0.3]


def test_an_input_that_only_an_evaluation_reads_does_not_identify_the_result(base, finished):
  config = config_of(base)
  before = state_of(config, finished).identity
  config['stages']['zero'] |= dict(inputs=('other',), evaluations={
      'other': runs.evaluation_config(model=dict(source='other'))})
  config['stages']['other'] = runs.rl_config(base, seed=3)
  found = {one.name: one for one in pipeline.state(config, finished)}
  assert found['zero'].identity == before and found['zero'].state == 'evaluates'


def test_another_trained_model_in_the_same_folder_is_evaluated_itself(
    base, one_device, tmp_path, monkeypatch):
  config, seen = runs.rl_config(base, evaluations={'one': runs.evaluation_config()}), []

  def evaluate_model(config, loaded, **_):
    seen.append(loaded)
    return {'accuracy': (len(seen), 0, 0)}, []
  monkeypatch.setattr(evaluate, 'evaluate_model', evaluate_model)
  run = stage.begin('rl', rl.SETTINGS, config, {}, tmp_path, stage='zero')
  one = loading.load_model(base, {}, compute_dtype='float32', remat=False, mesh=run.mesh)
  other = dataclasses.replace(one, params=jax.tree.map(lambda x: 2 * x, one.params))
  scores = [evaluate.run_all(run, model)['one']['accuracy'][0] for model in (
      one, one, other, other, one)]
  assert scores == [1, 1, 2, 2, 3] and seen == [one, other, one]


# Functions from a notebook.


def test_another_reward_function_is_another_run(base, tmp_path):
  def short(completion, example):
    return float(len(completion.text) < 9)

  def long(completion, example):
    return float(len(completion.text) >= 9)
  config = runs.rl_config(base, steps=1)

  def run(function, weight=1.0):
    return rl.run(config, {}, tmp_path, reward_functions={'length': (function, weight)})
  first = run(short)
  assert run(short).identity == first.identity
  for others in ((long, 1.0), (short, 0.5)):
    with pytest.raises(ValueError, match='holds another run .* its reward functions changed'):
      run(*others)
  with pytest.raises(ValueError, match='built-in function len.* has no source .* wrap it'):
    run(len)


# Results that are no longer whole.


def test_a_result_of_which_a_file_is_gone_or_torn_is_done_no_more(
    base, finished, one_device, tmp_path):
  config = config_of(base)
  want = runs.result_of(finished / 'zero')
  for damage, why in (
      (lambda model: shutil.rmtree(model), 'model/config.json is missing'),
      (lambda model: os.truncate(model / 'model.safetensors', 100),
       'model/model.safetensors has 100 of its [0-9]+ bytes'),
      (lambda model: (model / 'tokenizer.json').unlink(), 'model/tokenizer.json is missing')):
    shutil.copytree(finished, tmp_path / 'run', dirs_exist_ok=True)
    damage(tmp_path / 'run' / 'zero' / 'model')
    assert re.fullmatch(f'resumes at step 2, {why}', str(state_of(config, tmp_path / 'run')))
  # A stage that reads it does not take it for whole.
  config['stages']['next'] = runs.rl_config('zero', inputs=('zero',))
  with pytest.raises(UserError, match="reads 'zero', which is left out: not finished"):
    pipeline.state(config, tmp_path / 'run', only=['next'])
  del config['stages']['next']
  pipeline.run(config, tmp_path / 'run')    # its last checkpoint is exported again
  assert runs.result_of(tmp_path / 'run' / 'zero') == want
  assert str(state_of(config, tmp_path / 'run')) == 'done'


def test_a_flipped_bit_in_any_file_of_a_result_is_refused_by_name(base, finished, tmp_path):
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])

  def load(source, inputs):
    loading.load_model(source, inputs, compute_dtype='float32', remat=False, mesh=mesh)
  names = sorted(path.name for path in (finished / 'zero' / 'model').iterdir())
  assert {'model.safetensors', 'tokenizer.json', 'r1jax_checksums.json'} < set(names)
  for place, name in enumerate(names):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    file = tmp_path / 'zero' / 'model' / name
    runs.flip(file, file.stat().st_size * place // len(names), place)
    with pytest.raises(UserError, match=rf'result of stage .zero. in .* is damaged \(model/{name} '
                       r'has other content than was written\): remove .*/zero/model and run'):
      load('zero', {'zero': open_artifact(tmp_path / 'zero')})
    with pytest.raises(UserError, match=rf'the model in .*/zero/model is damaged \({name} .*take '
                       'another copy'):
      load(str(tmp_path / 'zero' / 'model'), {})
  file = tmp_path / 'zero' / 'manifest.json'
  file.write_bytes(file.read_bytes().replace(b'"rl"', b'"rm"'))
  with pytest.raises(UserError, match='manifest.json is not the manifest.*is not as it was writ'):
    open_artifact(tmp_path / 'zero')


# Files that are torn or edited.


DAMAGE = {'empty': lambda content: b'', 'a list': lambda content: b'[]',
          'no fields': lambda content: b'{}', 'torn': lambda content: content[:len(content) // 2],
          'no text': lambda content: b'\xff' + content, 'deep': lambda content: b'[' * 99_999,
          'edited': lambda content: content.replace(b'1', b'2', 1)}


@pytest.fixture(scope='module')
def evaluated_config(base):
  return config_of(base, evaluations={'one': runs.evaluation_config()})


@pytest.fixture(scope='module')
def evaluated_run(finished, evaluated_config, tmp_path_factory):
  """The finished stage with what an evaluation would have left."""
  workdir = tmp_path_factory.mktemp('evaluated') / 'run'
  shutil.copytree(finished, workdir)
  config, trained = evaluated_config['stages']['zero'], open_artifact(workdir / 'zero').identity
  wanted = stage.wanted_evaluations(rl.SETTINGS, config, trained, {}, Path(workdir / 'zero'))
  stage.write_evaluation(Path(workdir / 'zero'), 'one', [{'sample': 0}], {
      **wanted['one'], 'parameters': '', 'scores': {}, 'compute': {}})
  return workdir


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('name', ['stage.json', 'manifest.json', 'evaluations/one.json',
                                  'checkpoints/2/checkpoint.json'])
def test_a_damaged_file_is_named_and_nothing_runs_over_it(
    name, damage, evaluated_run, evaluated_config, tmp_path):
  shutil.copytree(evaluated_run, tmp_path / 'run')
  assert str(state_of(evaluated_config, tmp_path / 'run')) == 'done'
  path = tmp_path / 'run' / 'zero' / name
  path.write_bytes(DAMAGE[damage](path.read_bytes()))
  with pytest.raises(UserError, match=f'{path}|{path.parent} is damaged') as told:
    state_of(evaluated_config, tmp_path / 'run')
  assert ': remove' in str(told.value) and '\n' not in str(told.value)


@pytest.mark.parametrize('name, state', [
    ('evaluations/one.json', 'evaluates: one'), ('evaluations/one.jsonl', 'evaluates: one'),
    ('stage.json', 'done'), ('manifest.json', 'resumes at step 2')])
def test_without_a_damaged_file_the_stage_goes_on(
    name, state, evaluated_run, evaluated_config, tmp_path):
  shutil.copytree(evaluated_run, tmp_path / 'run')
  (tmp_path / 'run' / 'zero' / name).unlink()
  assert str(state_of(evaluated_config, tmp_path / 'run')) == state


def test_a_torn_record_of_a_stage_that_has_saved_nothing_is_written_again(base, tmp_path):
  (tmp_path / 'zero').mkdir()
  (tmp_path / 'zero' / 'stage.json').write_bytes(b'{"conf')
  assert str(state_of(config_of(base), tmp_path)) == 'runs'


def test_checkpoints_of_another_run_are_not_taken_up(base, stopped, tmp_path):
  shutil.copytree(stopped, tmp_path / 'run')
  record = tmp_path / 'run' / 'zero' / 'stage.json'
  begun = checksums.unseal(record.read_bytes()) | {'resume_identity': 'another'}
  record.write_text(checksums.seal(json.dumps(begun)))
  with pytest.raises(UserError, match=f'{tmp_path}/run/zero/checkpoints/1 is of another run than'):
    state_of(config_of(base), tmp_path / 'run')


def test_checkpoints_of_another_version_are_refused(base, stopped, tmp_path, one_device):
  shutil.copytree(stopped, tmp_path / 'run')
  saved = tmp_path / 'run' / 'zero' / 'checkpoints' / '1' / 'checkpoint.json'
  marker = checksums.unseal(saved.read_bytes())
  marker['meta']['place'] = marker['meta'].pop('batch_length')
  saved.write_text(checksums.seal(json.dumps(marker)))
  with pytest.raises(UserError, match='checkpoints/1 was saved by another version .* place'):
    pipeline.run(config_of(base), tmp_path / 'run')


@pytest.mark.parametrize('field, value', [
    ('data', {'name': 'of another version', 'size': 1}), ('data', 'miniature'), ('data', []),
    ('optimizer', 3), ('rewards', ['number']), ('rewards', {'number': 'much'}), ('steps', 'many'),
    ('evaluations', None), ('kl_coefficient', None), ('model', {'source': {}})])
def test_a_record_of_another_version_differs_by_name(base, stopped, tmp_path, field, value):
  shutil.copytree(stopped, tmp_path / 'run')
  record = tmp_path / 'run' / 'zero' / 'stage.json'
  begun = checksums.unseal(record.read_bytes())
  begun['config'][field] = value
  record.write_text(checksums.seal(json.dumps(begun)))
  assert state_of(config_of(base), tmp_path / 'run').state == 'resumes'
  said = str(state_of(config_of(base, seed=5), tmp_path / 'run'))
  named = () if field in ('steps', 'evaluations') else (f'config.{field}',)
  assert said.startswith('runs again: ') and all(name in said for name in (*named, 'config.seed'))
