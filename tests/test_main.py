"""python -m r1jax.main, as a person or a scheduler runs it."""
import json
import signal

import pytest
import runs
from runs import base, compiled  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.stages.artifact import open_artifact

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
    planned, first = [process.stdout.readline() for _ in range(3)][1:]
    if stop:
      process.send_signal(signal.SIGTERM)
    output, complaint = process.communicate()
    assert first.startswith("stage 'zero' (rl) in "), complaint
    assert ('resumes at step ' in planned) != stop, planned
    assert process.returncode == (128 + signal.SIGTERM if stop else 0), complaint
    if stop:
      assert output.splitlines()[-1].startswith("stage 'zero' was asked to stop: its state after ")
  assert [record['step'] for record in metrics.read_metrics(tmp_path / 'zero')] == [1, 2]
  assert open_artifact(tmp_path / 'zero').manifest.stage == 'zero'


TINY = runs.ROOT / 'experiments' / 'r1_zero.py:tiny,debug'
ZERO = '--config.stages.zero'


# Arguments after --config=... --workdir=..., and what the one line of complaint must say.
WRONG = {
    f'{ZERO}.stepz=2': [f"{ZERO}.stepz=2 is not a field of the config: did you mean 'steps'?"],
    f'{ZERO}.prompts_per_batch=0':
        ['config.stages.zero.prompts_per_batch must be at least 1, got 0'],
    f'{ZERO}.model.source=/nowhere': ["There is no model '/nowhere': name", 'as model.source'],
    '--only=zeroo': ["only='zeroo' is not a stage: did you mean 'zero'? (known: zero)"],
    '--workdir=': ['--workdir is missing: give --config=EXPERIMENT and --workdir=FOLDER'],
    '--config=r1_zero.py:tyni': ['r1_zero.py:tyni is unknown: use one of tiny'],
    '--config=nothing.py': ['No such file', 'nothing.py'],
    '--config=mine.py':
        ['mine/train.jsonl, line 2: this is not valid JSON (column 1: Expecting value)'],
}


def test_what_is_wrong_is_said_in_one_line(compiled, tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'train.jsonl').write_text('{"prompt": "1+1?", "answer": 2}\nno JSON\n')
  data = dict(name='jsonl', folder=str(tmp_path / 'mine'))
  mine = write_experiment(tmp_path, {'zero': runs.rl_config('miniature') | dict(data=data)})
  experiments = {'--config=r1_zero.py:tyni': runs.ROOT / 'experiments' / 'r1_zero.py:tyni',
                 '--config=nothing.py': tmp_path / 'nothing.py', '--config=mine.py': mine}
  running = [runs.start(
      '-m', 'r1jax.main', f'--config={experiments.get(case, TINY)}',
      *[f'--workdir={tmp_path}/run {number}'] * (case != '--workdir='),
      *[case] * case.startswith((ZERO, '--only')),
      f'--compilation_cache={compiled}', compiled=compiled, XLA_FLAGS='', PJRT_NPROC='')
      for number, case in enumerate(WRONG)]
  for process, (case, expected) in zip(running, WRONG.items(), strict=True):
    _, complaint = process.communicate()
    assert process.returncode == 1, (case, complaint)
    assert len(complaint.splitlines()) == 1 and complaint.startswith('r1jax: '), complaint
    for words in expected:
      assert words in complaint, (case, complaint)


@pytest.mark.parametrize('flag, zero, other', [
    ('--from=base', 'runs', 'left out: not there'),
    ('--until=base', 'left out: not there', 'left out: not there'),
    ('--only=base,other', 'left out: not there', 'runs')])
def test_a_dry_run_lists_the_stages_and_runs_nothing(flag, zero, other, compiled, tmp_path):
  experiment = write_experiment(tmp_path, {
      'base': runs.rl_config('miniature'),
      'zero': runs.rl_config('base', inputs=('base',)), 'other': runs.rl_config('miniature')})
  process = start(experiment, tmp_path / 'run', '--dry_run', flag, compiled=compiled)
  output, complaint = process.communicate()
  assert process.returncode == 0, complaint
  assert 'config.stages.zero.steps = 2 (default 100)' in output.splitlines()
  assert output.splitlines()[-4:] == ['stage  kind  inputs  state',
                                      'base   rl    -       runs',
                                      f'other  rl    -       {other}',
                                      f'zero   rl    base    {zero}']
  assert not (tmp_path / 'run').exists()
