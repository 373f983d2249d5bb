"""Attacks fail in the sandbox on every kind of machine, and a layer that fails refuses to run."""
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
import runs
import sandbox_attacks
import sandbox_driver

# The layers that each is to use; None where that depends on the kernel.
MACHINES = {
    'as it is': None,
    'container': ('chroot', 'uid', 'landlock', 'seccomp'),
    'container without Landlock': ('chroot', 'uid', 'seccomp'),
    'rootless container': None,
    'nobody': None,
    'nobody in a container': ('landlock', 'seccomp'),
}
# Of two, of most and of fewest rights, every Python is tried; the others take as many seconds each.
ALL = [pytest.param(machine, marks=() if machine in ('as it is', 'nobody in a container') else
                    pytest.mark.slow) for machine in MACHINES]
ROOTS = 'as it is', 'container', 'container without Landlock'
# What kernels, their settings and containers may forbid everybody.
MAY_FAIL_ANYWHERE = {
    'use the calls of another architecture', 'set up io_uring', 'mount in a user namespace',
    'trace another process', 'read memory by process_vm_readv', 'make a device',
    'read the memory of another process', 'take a descriptor of its parent', 'write to the kernel',
    'escape from chroot', 'run machine code of its own', 'bomb with threads',
}
# What these do is done by another step, too, or (as nobody) not needed.
HARMLESS = {
    'container': {'capset, lies', 'capget, lies', 'close_range, fails'},
    'nobody in a container': {'capset, lies', 'capget, lies', 'close_range, fails'} | {
        f'{name}, {how}' for name in ('setresuid', 'setresgid', 'setgroups', 'chroot')
        for how in ('fails', 'lies')},
}


def python_of_everybody():
  """An interpreter that a user without privileges can run, of some version that r1jax supports."""
  for minor in (sys.version_info.minor, 11, 12, 13):
    for path in (getattr(sys, '_base_executable', sys.executable),
                 shutil.which(f'python3.{minor}', path='/usr/bin:/usr/local/bin')):
      if path and subprocess.run(
          ['/bin/sh', '-c', '"$1" -c "import ctypes"', 'sh', path], capture_output=True,
          user=sandbox_driver.NOBODY, group=sandbox_driver.NOBODY, cwd='/').returncode == 0:
        return path
  return None


@functools.cache
def drive(machine, what):
  """What `sandbox_driver` found; skips where this machine cannot pretend to be that one."""
  if sys.platform != 'linux':
    pytest.skip('nothing is confined on this system')
  python = sys.executable
  if machine != 'as it is':
    if os.geteuid() != 0:
      pytest.skip('only root can pretend to be on another machine')
    python = python_of_everybody()
    if python is None:
      pytest.skip('no interpreter that every user can run')
  # A copy, because nobody may read the checkout.
  with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    copy = pathlib.Path(folder)
    shutil.copytree(runs.ROOT / 'r1jax' / 'rewards' / 'sandbox', copy / 'r1jax/rewards/sandbox',
                    ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('r1jax/__init__.py', 'r1jax/errors.py', 'r1jax/rewards/__init__.py',
                 'tests/sandbox_driver.py', 'tests/sandbox_attacks.py'):
      shutil.copy(runs.ROOT / name, copy / name.removeprefix('tests/'))
    done = subprocess.run([python, '-B', 'sandbox_driver.py', machine, what], cwd=folder,
                          capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  if not result['layers']:
    if MACHINES[machine] is None:
      pytest.skip(result['reason'])
    pytest.skip(f'this machine is none to try it on: {result["reason"]}')
  return result


@pytest.mark.parametrize('machine', ALL)
def test_the_best_layers_that_a_machine_has_are_used(machine):
  layers = tuple(drive(machine, 'attacks')['layers'])
  assert 'seccomp' in layers and ('landlock' in layers or {'chroot', 'uid'} <= set(layers))
  if MACHINES[machine] and 'landlock' in layers:
    assert layers == MACHINES[machine]


@pytest.mark.parametrize('attack', sandbox_attacks.ATTACKS)
@pytest.mark.parametrize('machine', ALL)
def test_attacks_that_succeed_elsewhere_fail_in_the_sandbox(machine, attack):
  found = drive(machine, 'attacks')['found'][attack]
  kind, output, _ = found['outcome']
  assert not found['effects']
  assert 'SUCCEEDED' not in (output or '')
  if not found['without']:
    may_fail = attack in MAY_FAIL_ANYWHERE or (
        sandbox_attacks.ATTACKS[attack].needs_root and machine not in ROOTS) or os.geteuid() != 0
    assert may_fail, 'the attack does not even succeed without the sandbox'
    pytest.skip('fails here without the sandbox, too')
  assert kind == {'take all memory': 'memory', 'outlive a request to end': 'timeout',
                  'flood its output': 'output', 'kill its parent': 'raised'}.get(attack, kind)


@pytest.mark.parametrize('machine', ALL)
def test_after_all_attacks_nothing_is_left_and_honest_programs_run(machine):
  assert drive(machine, 'attacks')['found']['at last'] == {'effects': [], 'honest': '3\n'}


@pytest.mark.parametrize('name, error', sandbox_driver.FAILURES)
@pytest.mark.parametrize('machine', [
    pytest.param('container', marks=pytest.mark.slow), 'nobody in a container'])
def test_no_program_runs_when_a_layer_fails_or_only_seems_to_hold(machine, name, error):
  step = f'{name}, {"fails" if error else "lies"}'
  said = drive(machine, 'failures')['found'][step]
  assert said.startswith('refused: ') or (said == 'confined' and step in HARMLESS[machine]), said
