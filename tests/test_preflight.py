"""A chain is checked whole before its first stage computes; a dry run says the same."""
import re

import pytest
import runs
from runs import base, compiled, no_curves, one_device  # noqa: F401 (fixtures)

from r1jax import pipeline, preflight
from r1jax.errors import UserError
from r1jax.models import huggingface
from r1jax.rewards.code import reward
from r1jax.stages import judges, loading, pretrain, reject, rl


def chain(base, **changes):
  """RL of a base, draws from it, fine-tuning on these; `changes` are fields of stages by name."""
  short = dict(data=runs.DATA, max_prompt_length=32, sampling=dict(max_new_tokens=8, chunk=8))
  stages = dict(
      zero=runs.rl_config(base, evaluations={'trained': runs.evaluation_config()}),
      draw=runs.merged(reject.DEFAULT, dict(
          inputs=('zero',), model=dict(source='zero'), problems=4, prompts_per_batch=2, **short)),
      tuned=runs.sft_config('zero', inputs=('zero', 'draw'), evaluations={
          'first': runs.evaluation_config(model=dict(source='zero'))}))
  for name, fields in changes.items():
    stages[name] = runs.merged(stages[name], fields)
    stages[name] |= {field: fields[field] for field in ('data', 'reward_models', 'judges')
                      if field in fields}
  return dict(stages=stages, mesh=dict(fsdp=1))


NOWHERE = dict(name='jsonl', folder='/nowhere')
FAULTS = {
    'data of the first stage': (dict(zero=dict(data=NOWHERE)), 'no file /nowhere/train.jsonl'),
    'data of a later stage': (dict(draw=dict(data=NOWHERE)), 'no file /nowhere/train.jsonl'),
    'data of fine-tuning': (dict(tuned=dict(data=NOWHERE)), 'no file /nowhere/train.jsonl'),
    'data of an evaluation': (
        dict(tuned=dict(evaluations={'own': dict(runs.evaluation_config(), data=NOWHERE)})),
        'no file /nowhere/test.jsonl'),
    'too few problems': (dict(draw=dict(problems=65)), 'problems=65'),
    'a model': (dict(zero=dict(model=dict(source='/nowhere'))), "no model '/nowhere'"),
    'a model of an evaluation': (
        dict(zero=dict(evaluations={'trained': dict(model=dict(source='/nowhere'))})),
        "no model '/nowhere'"),
    'the preset of a later stage': (
        dict(tuned=dict(model=dict(preset='qwen3_8b'))), "model.preset='qwen3_8b' has "),
    'a reward model': (dict(zero=dict(reward_models={'good': dict(source='/nowhere')})),
                       "reward_models.good.source='/nowhere' is neither a stage nor the folder"),
    'a judge': (dict(zero=dict(judges={'good': dict(source='/nowhere')})), "no model '/nowhere'"),
    'the positions of a judge': (
        dict(zero=dict(judges={'good': dict(source='miniature', max_prompt_length=10**6)})),
        'zero.judges.good.max_prompt_length + '),
    'the server of a judge': (
        dict(zero=dict(judges={'good': dict(url='http://127.0.0.1:9/v1', model='m')})),
        "zero.judges.good.url='http://127.0.0.1:9/v1' does not answer"),
    'experts': (dict(tuned=dict(experts=dict(bias_rate=0.1))), 'the model has no experts'),
    'positions of a later model': (
        dict(draw=dict(max_prompt_length=250)), "must be at most the model's 256 positions"),
}


@pytest.mark.parametrize('case', FAULTS)
def test_what_is_missing_anywhere_is_told_before_anything_is_loaded(
    case, base, one_device, tmp_path, monkeypatch):
  changes, sentence = FAULTS[case]
  monkeypatch.setattr(huggingface, 'load_params', lambda *_, **__: pytest.fail('weights are read'))
  config = chain(base, **changes)
  for do in (pipeline.run, pipeline.dry_run):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(sentence)) as told:
      do(config, tmp_path / 'run')
    assert '\n' not in str(told.value)
  assert not (tmp_path / 'run').exists()


def test_a_mesh_that_does_not_fit_the_devices_or_the_batches_is_told(base, tmp_path):
  for mesh, sentence in ((dict(fsdp=3), 'does not fit 8 device'),
                         (dict(fsdp=8), 'config.stages.zero.prompts_per_batch')):
    with pytest.raises(ValueError, match=sentence):
      pipeline.dry_run(chain(base) | dict(mesh=mesh), tmp_path / 'run')


def test_a_chain_that_can_run_is_listed_with_its_settings(base, one_device, tmp_path):
  told = pipeline.dry_run(chain(base), tmp_path / 'run').splitlines()
  assert 'config.stages.zero.steps = 2 (default 100)' in told
  assert [line.split()[-1] for line in told[-3:]] == ['runs'] * 3
  assert not (tmp_path / 'run').exists()


def test_stages_that_are_done_are_not_checked_again(base, one_device, tmp_path, monkeypatch):
  config = chain(base)
  pipeline.run(config, tmp_path / 'run', until='zero')
  found = []
  monkeypatch.setattr(loading, 'check_models', lambda config, *_: found.append(config['kind']))
  pipeline.dry_run(config, tmp_path / 'run')
  assert found == ['reject', 'sft']


def test_a_base_trained_in_the_chain_is_not_looked_for(base, one_device, tmp_path):
  config = chain('base', zero=dict(inputs=('base',)))
  config['stages']['base'] = pretrain.DEFAULT
  assert 'base ' in pipeline.dry_run(config, tmp_path / 'run')


def test_a_machine_that_cannot_confine_programs_is_told_so(base, one_device, tmp_path, monkeypatch):
  def refuse():
    raise UserError('programs cannot be confined on this machine')
  monkeypatch.setattr(reward, 'layers', refuse)
  monkeypatch.setattr(huggingface, 'load_params', lambda *_, **__: pytest.fail('weights are read'))
  elsewhere = {'code': {'sandbox': 'http://localhost:1'}}
  for changes, where in (
      (dict(zero=dict(rewards={'code': 1.0})), 'zero.rewards'),
      (dict(draw=dict(correctness_reward='code')), 'draw.correctness_reward'),
      (dict(zero=dict(evaluations={'trained': dict(correctness_reward='code')})),
       'zero.evaluations.trained.correctness_reward')):
    config = chain(base, **changes)
    for do in (pipeline.run, pipeline.dry_run):
      with pytest.raises(UserError, match=f"{where}: reward 'code': programs cannot be confined"):
        do(config, tmp_path / 'run')
  with pytest.raises(UserError, match="zero.rewards: reward 'code'"):
    rl.run(runs.rl_config(base, rewards={'code': 1.0}), {}, tmp_path / 'zero', stage='zero')
  pipeline.dry_run(chain(base, draw=dict(
      correctness_reward='code', reward_settings=elsewhere)), tmp_path / 'run')


def test_a_stage_that_leaves_no_model_that_replies_is_no_judge(base):
  stages = {kind: dict(kind=kind) for kind in ('reject', 'sft', 'reward_model', 'evaluate')}
  for kind in stages:
    settings = judges.filled(dict(source=kind))
    if kind == 'sft':
      preflight._check_judge(stages, settings, 'here')
    else:
      with pytest.raises(UserError, match=f"here.source='{kind}' is a stage of kind '{kind}'"):
        preflight._check_judge(stages, settings, 'here')
