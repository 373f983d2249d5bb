"""Files that a config names are known by what is in them."""
import json
import os
import shutil

import numpy as np
import pytest
import runs
from runs import base, compiled, one_device  # noqa: F401 (fixtures)

from r1jax import pipeline
from r1jax.checkpoint import Checkpointer
from r1jax.errors import UserError
from r1jax.models.compute import Compute
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path
from r1jax.stages import contents, evaluate, reward_model, rl, sft, stage


@pytest.fixture
def data(tmp_path):
  """A folder of train.jsonl and test.jsonl."""
  (tmp_path / 'data').mkdir()
  for split in ('train', 'test'):
    (tmp_path / 'data' / f'{split}.jsonl').write_text(''.join(
        json.dumps(dict(prompt=f'{n}+1?', answer=n + 1)) + '\n' for n in range(8)))
  return tmp_path / 'data'


def edit(path):
  """Changes one byte, and neither size nor time."""
  times, content = os.stat(path), path.read_bytes()
  path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def chain(base, data, **fields):
  own = dict(name='jsonl', folder=str(data))
  return dict(mesh=dict(fsdp=1), stages=dict(zero=runs.rl_config(
      base, evaluations={'one': runs.evaluation_config() | dict(data=own)}, **fields) | dict(
          data=own)))


def state_of(config, workdir):
  found, = pipeline.state(config, workdir)
  return str(found)


def leave(config, workdir, *, finished):
  """What a run of the stage leaves behind, without the work."""
  zero, folder = config['stages']['zero'], Path(workdir / 'zero')
  run = stage.begin('rl', rl.SETTINGS, zero, {}, folder, stage='zero')
  with Checkpointer(folder / 'checkpoints') as checkpoints:
    checkpoints.save(1, {'x': np.zeros(1)}, {'identity': run.resume_identity})
  if finished:
    stage.leave_files(run, files=(), template='', scores={}, compute=Compute())
    wanted = stage.wanted_evaluations(rl.SETTINGS, zero, run.identity, {}, folder)
    stage.write_evaluation(folder, 'one', [], {
        **wanted['one'], 'parameters': '', 'scores': {}, 'compute': {}})
  return run


def test_a_result_of_other_data_is_not_that_of_these(base, data, tmp_path):
  config = chain(base, data)
  leave(config, tmp_path / 'run', finished=True)
  assert state_of(config, tmp_path / 'run') == 'done'
  edit(data / 'test.jsonl')    # only the evaluation reads it
  assert state_of(config, tmp_path / 'run') == 'evaluates: one'
  edit(data / 'train.jsonl')
  assert state_of(config, tmp_path / 'run') == (
      f'runs again: what is in {data}/train.jsonl changed')
  edit(data / 'train.jsonl')
  edit(data / 'test.jsonl')
  assert state_of(config, tmp_path / 'run') == 'done'
  shutil.rmtree(data)          # what it was is recorded
  assert state_of(config, tmp_path / 'run') == 'done'


def test_a_run_does_not_go_on_with_other_data(base, data, tmp_path):
  config = chain(base, data)
  leave(config, tmp_path / 'run', finished=False)
  assert state_of(config, tmp_path / 'run') == 'resumes at step 1'
  edit(data / 'test.jsonl')
  assert state_of(config, tmp_path / 'run') == 'resumes at step 1'
  edit(data / 'train.jsonl')
  assert 'train.jsonl changed' in state_of(config, tmp_path / 'run')
  with pytest.raises(UserError, match='another run of stage .zero.: what is in .*train.jsonl chan'):
    leave(config, tmp_path / 'run', finished=False)


def test_a_run_is_known_by_the_data_that_it_began_with(base, data, tmp_path):
  run = leave(chain(base, data), tmp_path / 'run', finished=False)
  before = run.identity
  edit(data / 'train.jsonl')
  assert run.identity == before


def test_another_model_at_the_same_path_is_another_model(base, data, tmp_path):
  shutil.copytree(base, tmp_path / 'base')
  for sums in (True, False):    # a folder of r1jax, and one of somebody else
    config = chain(str(tmp_path / 'base'), data)
    leave(config, tmp_path / f'run{sums}', finished=True)
    shutil.copytree(tmp_path / 'base', tmp_path / 'before', dirs_exist_ok=True)
    runs.export_base(tmp_path / f'other{sums}', runs.SHAPE)
    (tmp_path / 'base' / 'README.md').write_text('is no part of it')
    assert state_of(config, tmp_path / f'run{sums}') == 'done'
    edit(tmp_path / 'base' / (checksums.FILE if sums else 'model.safetensors'))
    assert f'what is in {tmp_path}/base changed' in state_of(config, tmp_path / f'run{sums}')
    shutil.copytree(tmp_path / 'before', tmp_path / 'base', dirs_exist_ok=True)
    (tmp_path / 'base' / checksums.FILE).unlink()


def test_what_each_stage_reads(tmp_path, base, data):
  own, folder = dict(name='jsonl', folder=str(data)), tmp_path / 'data'
  train, test = f'{folder}/train.jsonl', f'{folder}/test.jsonl'

  def paths(settings, config, inputs=()):
    return list(contents.contents(settings, config, inputs))
  assert paths(evaluate.SETTINGS, evaluate.DEFAULT | dict(data=own)) == [test]
  assert paths(evaluate.SETTINGS, evaluate.DEFAULT | dict(data=own, shots=1)) == [test, train]
  assert paths(sft.SETTINGS, sft.DEFAULT | dict(files=(test, train))) == [test, train]
  assert paths(sft.SETTINGS, sft.DEFAULT | dict(data=own)) == [train]
  assert paths(reward_model.SETTINGS, reward_model.DEFAULT | dict(data=own)) == [test, train]
  source = {'judge': dict(source=base)}
  general = runs.rl_config('miniature', critic=dict(source='a'), general_prompts=dict(
      data=own, reward_models=source))
  assert paths(rl.SETTINGS, general, ['a']) == sorted([base, train])
  assert paths(rl.SETTINGS, runs.rl_config('miniature')) == []
  assert paths(rl.SETTINGS, runs.rl_config('gone')) == []
  assert contents.contents(rl.SETTINGS, runs.rl_config('gone'), (), {'gone': 'x'}) == {'gone': 'x'}


def test_a_large_model_is_sampled_and_large_data_are_not(tmp_path, monkeypatch):
  monkeypatch.setattr(contents, 'LARGE', 1000)
  monkeypatch.setattr(contents, '_BLOCK', 10)
  monkeypatch.setattr(contents, 'SAMPLES', 5)
  folder = Path(f'memory://{tmp_path.name}')

  def digest(content, *, large):
    (folder / 'x').write_bytes(content)
    return contents._digest(folder / 'x', large=large)
  whole = bytes(1000)
  for large in (False, True):
    assert digest(whole, large=large) == digest(whole, large=large)
    assert digest(whole, large=large) != digest(bytes(1001), large=large)
    assert digest(whole, large=large) != digest(bytes(999) + b'1', large=large)
    assert digest(whole[:-1], large=large) != digest(bytes(20) + b'1' + bytes(978), large=large)
  assert digest(whole, large=True) == digest(bytes(20) + b'1' + bytes(979), large=True)
  assert digest(whole, large=False) != digest(bytes(20) + b'1' + bytes(979), large=False)
