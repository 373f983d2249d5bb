"""The worker's program, run as the process that it is."""

import json
import signal
import subprocess
import sys

import pytest

from r1jax.rewards import worker

COMMAND = (sys.executable, '-m', 'r1jax.rewards.worker')


def run(*tasks, options=()):
  """Events, exit status and standard error of a worker that is given `tasks`."""
  lines = ''.join(
      json.dumps({'gold': gold, 'answer': answer, 'seconds': seconds}) + '\n'
      for gold, answer, seconds in tasks)
  done = subprocess.run(
      (COMMAND[0], *options, *COMMAND[1:]), input=lines, capture_output=True, text=True,
      timeout=120, check=False)
  return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr


def test_answers_tasks_and_ends_with_its_input_without_ever_importing_jax():
  events, status, imports = run(
      (r'2\sqrt{3}', r'\sqrt{12}', 60), (r'2\sqrt{3}', '\ud800\x00', 60), (r'\frac', '1', 60),
      ('8', '( 8 ++', 60),
      ('2x', r'\text{__import__("os").system("exit 1")}', 60), options=('-X', 'importtime'))
  assert events.pop(0) == {'event': 'ready'}
  assert events[::2] == [{'event': 'started'}] * 5
  assert [event['verdict'] for event in events[1::2]] == [True, False, None, False, False]
  assert status == 0
  modules = {
      line.rpartition('|')[2].strip().partition('.')[0] for line in imports.splitlines()
      if line.startswith('import time:')}
  assert 'math_verify' in modules
  assert not modules & {'jax', 'jaxlib', 'flax', 'torch', 'tensorflow'}


def test_pitfall_15_the_clock_runs_inside_the_worker_from_the_start_of_a_task():
  events, status, _ = run(('2x', 'x+x', 60), ('2x', '99^{98^{97}}', 0.5), ('2x', '2x', 60))
  assert [event['event'] for event in events] == ['ready', 'started', 'done', 'started']
  assert status == -signal.SIGALRM


@pytest.mark.parametrize('code', [
    '__import__("os")', '(1).__class__', '99**98**97', 'Integer (2 )**Integer (9 )',
    "Symbol ('x')", 'Float (__file__)', "Integer ('1.5')", ''])
def test_pitfall_15_nothing_but_numbers_is_read(code):
  with pytest.raises(ValueError):
    worker.read_literal(code)


def test_pitfall_15_the_evaluator_of_sympy_is_replaced_in_the_process():
  program = (
      'from r1jax.rewards import worker\n'
      'worker._prepare()\n'
      'import sympy\n'
      'print(sympy.Number("12"))\n'
      'try:\n'
      '  print(sympy.sympify("print(13)"))\n'
      'except ValueError:\n'
      '  print("refused")\n')
  done = subprocess.run(
      (sys.executable, '-c', program), capture_output=True, text=True, timeout=120, check=True)
  assert done.stdout.split() == ['12', 'refused']


def test_numbers_are_read():
  assert worker.read_literal('Integer (12 )') == 12
  assert worker.read_literal("Float ('2.5' )") == 2.5
