"""python -m r1jax.main, as a person or a scheduler runs it."""
import json
import signal

import pytest
import runs
from runs import base, compiled  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.stages import common

EXPERIMENT = '''
import json, pathlib
from ml_collections import ConfigDict

def get_config(argument=''):
  return ConfigDict(json.loads(pathlib.Path(__file__).with_name('config.json').read_text()))
'''


def write_experiment(folder, stages):
  (folder / 'experiment.py').write_text(EXPERIMENT)
  (folder / 'config.json').write_text(json.dumps(dict(stages=stages, mesh=dict(fsdp=1, tensor=1))))
  return folder / 'experiment.py'


def start(experiment, workdir, *overrides, compiled):
  """Starts the program as on a machine with one device."""
  return runs.start(
      '-m', 'r1jax.main', f'--config={experiment}', f'--workdir={workdir}',
      f'--compilation_cache={compiled}', *overrides, compiled=compiled, XLA_FLAGS='', PJRT_NPROC='')


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on_to_the_end(base, compiled, tmp_path):
  experiment = write_experiment(tmp_path, {'zero': runs.rl_config(base)})
  for stop in (True, False):
    process = start(experiment, tmp_path, compiled=compiled)
    first = process.stdout.readline()
    if stop:
      process.send_signal(signal.SIGTERM)
    output, complaint = process.communicate()
    assert first.startswith("stage 'zero' (rl) in "), complaint
    assert process.returncode == (128 + signal.SIGTERM if stop else 0), complaint
    if stop:
      assert output.splitlines()[-1].startswith("stage 'zero' was asked to stop: its state after ")
  assert [record['step'] for record in metrics.read_metrics(tmp_path / 'zero')] == [1, 2]
  assert common.open_artifact(tmp_path / 'zero').manifest.stage == 'zero'


@pytest.mark.slow
def test_what_is_wrong_is_said_in_one_line(base, compiled, tmp_path):
  broken = tmp_path / 'broken'
  broken.mkdir()
  (broken / 'train.jsonl').write_text('{"prompt": "1+1?", "answer": 2}\nno JSON\n')
  data = dict(name='jsonl', folder=str(broken))
  stages = {'zero': runs.rl_config(base)}
  good, bad = (tmp_path / name for name in ('good', 'bad'))
  good.mkdir(), bad.mkdir()
  good = write_experiment(good, stages)
  bad = write_experiment(bad, {'zero': {**runs.rl_config(base), 'data': data}})
  cases = {
      (good, '--config.stages.zero.stepz=2'): ["'stepz'", 'Did you mean "steps"'],
      (good, '--config.stages.zero.steps=two'): ['config.stages.zero.steps=two', 'int'],
      (good, '--config.stages.zero.prompts=0'): ['prompts=0', 'at least 1'],
      (f'{runs.ROOT}/experiments/r1_zero.py:tyni', ''): ['r1_zero.py:tyni', 'use one of tiny'],
      (tmp_path / 'nothing.py', ''): ['No such file', 'nothing.py'],
      (bad, ''): [f'{broken}/train.jsonl, line 2', 'no JSON'],
  }
  running = [start(experiment, tmp_path / 'run', *filter(None, [override]), compiled=compiled)
             for experiment, override in cases]
  for process, (case, expected) in zip(running, cases.items(), strict=True):
    _, complaint = process.communicate()
    assert process.returncode == 1, (case, complaint)
    assert len(complaint.splitlines()) == 1 and complaint.startswith('r1jax: '), complaint
    for words in expected:
      assert words in complaint, (case, complaint)
