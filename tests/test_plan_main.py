"""The command `python -m r1jax.plan`."""
import importlib.util
import json
import re
import subprocess
import sys

import pytest
import runs

from r1jax.plan import table


def plan(*flags):
  return subprocess.run(
      [sys.executable, '-m', 'r1jax.plan', '--config=experiments/r1_zero.py:tiny,debug', *flags],
      capture_output=True, text=True, cwd=runs.ROOT, check=False)


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path):
  done = plan('--topology=local:2', '--config.mesh.fsdp=-1', '--steps=5',
              '--config.stages.zero.kl_coefficient=0.1', f'--json={tmp_path / "plan.json"}')
  assert done.returncode == 0, done.stderr
  assert 'mesh fsdp=2: memory of a chip' in done.stdout and 'tokens/s' in done.stdout
  stage, = json.loads((tmp_path / 'plan.json').read_text())['stages']
  assert stage['mesh']['fsdp'] == 2 and stage['fits']
  programs = {one['name']: one for one in stage['programs']}
  assert list(programs) == [
      'reshard', 'slots', 'prefill', 'enter', 'decode 16 rows', 'score', 'update',
      *(name for name in programs if name.startswith('evaluation '))]
  assert 'useful row-steps' in done.stdout and stage['run']['useful_row_steps'] == 1
  assert programs['update']['flops'] > programs['score']['flops'] > 0
  assert {one['kind'] for one in programs['update']['traffic']} & {'all-gather', 'all-reduce'}
  run = stage['run']
  assert run['iterations'] == 5
  rounded = 1 + 1e-9
  assert run['overlapped']['seconds'] <= rounded * run['in_turn']['seconds']
  assert run['in_turn']['seconds'] <= rounded * run['serial']['seconds']
  assert run['serial']['seconds'] == pytest.approx(
      sum(one['serial'] for one in stage['programs']))
  for bound, name in table.BOUNDS.items():
    seconds = run[bound]['seconds']
    assert run[bound]['chip_hours'] == pytest.approx(5 * seconds * 2 / 3600)
    printed = table.format_seconds(seconds), f'{run[bound]["tokens_per_second"]:,.0f}'
    assert re.search(rf'│ {name} +│ +{printed[0]} │ +{printed[1]} │', done.stdout), printed


def test_a_slice_is_compiled_for_without_one(tmp_path):
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed: the extra `plan` has it')
  done = plan('--topology=v5e:2x2', '--config.mesh.fsdp=-1', '--cache=',
              '--config.stages.zero.micro_batches=1',
              f'--json={tmp_path / "plan.json"}')
  assert done.returncode == 0, done.stderr
  stage, = json.loads((tmp_path / 'plan.json').read_text())['stages']
  assert stage['fits'] and stage['chips'] == 4
  update = next(one for one in stage['programs'] if one['name'] == 'update')
  assert update['network_seconds'] > 0
