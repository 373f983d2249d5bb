"""The reward `code`. Real programs run in the sandbox; else a fake stands in for it."""
import concurrent.futures
import time
import warnings

import pytest

from r1jax.errors import UserError
from r1jax.rewards import parameters
from r1jax.rewards.code import reward
from r1jax.rewards.code.reward import code_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.sandbox import Outcome, layers
from r1jax.rewards.suite import RewardSuite, named_rewards

ADD = ['assert add(1, 2) == 3', 'assert add(2, 2) == 4', 'assert add(5, 0) == 5']
SUM = {'inputs': ['1 2\n', '3 4\n'], 'outputs': ['3\n', '7\n']}


def completion(program, truncated=False):
  return Completion(f'<think>Let me see.</think>\n```python\n{program}\n```', 9, truncated)


def judge(program, tests, **settings):
  return code_reward(completion(program), {'tests': tests}, **settings)


@pytest.fixture(scope='module')
def confined():
  try:
    layers()
  except UserError as error:
    pytest.skip(str(error))


HONEST = {
    'a function': ('def add(a, b):\n    return a + b', ADD),
    'a method': ('class Solution:\n    def add(self, a, b):\n        return a + b', ADD),
    'a method of types that it does not import': (
        'class Solution:\n  def add(self, a: Optional[int], b: int) -> int:\n    return a + b',
        ADD),
    'a lambda': ('add = lambda a, b: a + b', ADD),
    'with a main part': (
        'def add(a, b):\n  return a + b\nif __name__ == "__main__":\n  print(add(*input()))', ADD),
    'that prints': ('def add(a, b):\n  print(3)\n  return a + b', ADD),
    'lines': ('print(sum(map(int, input().split())))', SUM),
    'a whole text': (
        'import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.read().split()))))', SUM),
    'names': ('def add(a, b=0):\n  return a + b', [
        'assert add(1) == 1', 'assert add(b=2, a=1) == 3', 'assert add(1, b=1) == 2']),
    'names of a method': ('class Solution:\n  def add(self, a, b): return a - b',
                          'assert Solution().add(b=1, a=3) == 2'),
    'an exit': ('print(sum(map(int, input().split())))\nraise SystemExit', SUM),
}
WRONG = {
    'one value': ('def add(a, b):\n    return 3', ADD), 'nothing': ('def add(a, b): pass', ADD),
    'a text': ('def add(a, b):\n    return str(a + b)', ADD),
    'a list': ('def add(a, b):\n    return [a + b]', ADD),
    'a near miss': ('def add(a, b):\n    return a + b + 1e-3', ADD),
    'no function': ('def sub(a, b):\n    return a - b', ADD),
    'not Python': ('def add(a, b)\n    return a + b', ADD),
    'an error': ('def add(a, b):\n    return a / 0', ADD),
    'more lines': ('a, b = map(int, input().split())\nfor n in range(20): print(n)', SUM),
    'both answers': ('print(3)\nprint(7)', SUM), 'one answer': ('print(3)', SUM),
    'no output': ('input()', SUM), 'an exception': ('print(3)\nraise ValueError', SUM),
    'an exit status': ('print(sum(map(int, input().split())))\nraise SystemExit(1)', SUM),
}
EVERYTHING = '''
class Yes{base}:
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __lt__(self, other): return True
  def __hash__(self): return 3
  def __repr__(self): return '3'
  def __str__(self): return '3'
  def __bool__(self): return True
'''
LOOK = '''
import gc, sys
def values():
  frame = sys._getframe()
  while frame:
    yield from frame.f_locals.values()
    yield from frame.f_globals.values()
    frame = frame.f_back
  yield from gc.get_objects()
  for module in list(sys.modules.values()):
    yield from vars(module).values()
found = []
for value in values():
  if type(value).__name__ in ('Problem', 'Test', 'Expectation'):
    found.append(value)
'''
FORGED = {
    'an exit code': ('import os\nos._exit(0)', ADD), 'exit 0': ('raise SystemExit(0)', ADD),
    'an exit in the call': ('import os\ndef add(a, b): os._exit(0)', ADD),
    'an object that equals all': (EVERYTHING.format(base='') + 'def add(a, b): return Yes()', ADD),
    'an integer that equals all': (
        EVERYTHING.format(base='(int)') + 'def add(a, b): return Yes(3)', ADD),
    'a list of them': (EVERYTHING.format(base='') + 'def add(a, b): return [Yes()]', ADD),
    'a search of frames and memory': (LOOK + 'def add(a, b): return found[0].tests', ADD),
    'a printed verdict': ('print("passed")\nprint("1.0")\nprint({"kind": "finished"})', SUM),
    'a verdict on every descriptor': ('''
import os
def add(a, b):
  for descriptor in range(3, 20):
    try: os.write(descriptor, b'=3')
    except OSError: pass
  os._exit(0)''', ADD),
    'another comparison': ('''
import builtins, operator
builtins.all = builtins.any = builtins.isinstance = lambda *arguments: True
operator.eq = lambda a, b: True
def add(a, b): return None''', ADD),
    'a text that equals all': (
        EVERYTHING.format(base='(str)') + 'def add(a, b): return Yes("3")', ADD),
    'a float that equals all': (
        EVERYTHING.format(base='(float)') + 'def add(a, b): return Yes(3)', ADD),
    'a class of another name': (
        EVERYTHING.format(base='') + 'Yes.__name__ = "int"\ndef add(a, b): return Yes()', ADD),
    'another class': (EVERYTHING.format(base='') + '''  __class__ = property(lambda self: int)
def add(a, b): return Yes()''', ADD),
    'nan': ('def add(a, b): return float("nan")', ADD), 'True': ('def add(a, b): return True', ADD),
    'a generator of all numbers': ('def add(a, b):\n  yield from range(100)', ADD),
    'a coroutine': ('async def add(a, b): return a + b', ADD),
    'the function itself': ('def add(a, b): return add', ADD),
    'an exception with the value': ('def add(a, b): raise SystemExit(a + b)', ADD),
    'a raised value': ('def add(a, b): raise Exception(a + b)', ADD),
    'deep lists': ('def add(a, b):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x', ADD),
    'a list of itself': ('def add(a, b):\n  x = []\n  x.append(x)\n  return x', ADD),
    'much output': ('print("3\\n7\\n" * 10 ** 6)', SUM), 'a rewound line': ('print("7\\r3")', SUM),
    'errors only': ('import sys\nsys.stderr.write(str(sum(map(int, input().split()))))', SUM),
    'all memory': ('x = []\nwhile True: x.append(bytearray(1 << 24))', SUM),
    'a killed process': ('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)', SUM),
    'all processes': ('import os, signal\nos.kill(-1, signal.SIGKILL)', SUM),
    'a closed output': ('import os\nos.close(1)\nprint(3)', SUM),
    'a crash': ('import ctypes\nctypes.string_at(0)', SUM),
    'recursion': ('def f(): f()\nf()', SUM), 'no main': ('if __name__ == "main": print(3)', SUM),
    'a poisoned module': ('''
import json, sys
json.dumps = lambda *a, **k: '3'
for module in list(sys.modules.values()):
  if hasattr(module, 'encode'): module.encode = lambda *a, **k: b'3'
def add(a, b): return None''', ADD),
    'its own source': ('print(open(__file__).read())', SUM),
    'an expected file': ('import glob\nfor f in glob.glob("/**", recursive=True): print(f)', SUM),
}


@pytest.mark.parametrize('name', HONEST)
def test_honest_programs_score_1(name, confined):
  assert judge(*HONEST[name]) == 1.0


@pytest.mark.parametrize('name', WRONG)
def test_wrong_programs_score_0(name, confined):
  assert judge(*WRONG[name]) == 0.0


@pytest.mark.parametrize('name', FORGED)
def test_forged_programs_score_0(name, confined):
  assert judge(*FORGED[name]) == 0.0


def test_nothing_of_what_is_expected_is_in_the_sandbox(confined):
  assert judge(LOOK + 'def add(a, b): return len(found)', ['assert add(1, 2) == 0']) == 1.0


def test_a_share_and_a_prefix(confined):
  assert judge('def add(a, b): return 4', ADD, score='share') == pytest.approx(1 / 3)
  assert judge('def add(a, b): return 4 if a == 2 else 3', ADD, max_tests=2) == 1.0
  example = {'tests': ADD, 'prefix': 'from operator import add as plus'}
  assert code_reward(completion('def add(a, b): return plus(a, b)'), example) == 1.0


def test_a_program_that_hangs_takes_its_time_once(confined):
  program = 'def add(a, b):\n  while a == 1: pass\n  return a + b'
  assert judge(program, ADD, timeout_s=0.3) == 0.0
  runs = ['assert add(5, 0) == 5'] + ['assert add(1, 2) == 3'] * 200
  assert judge(program, runs, timeout_s=0.3, score='share') == pytest.approx(1 / 201)


class Fake:
  """Runs no program: gives outcomes in turn, and raises those that are exceptions."""

  def __init__(self, *outcomes):
    self.outcomes, self.programs, self.given = list(outcomes), [], []

  def run(self, program, inputs, stop_at):
    self.programs.append(program)
    outcomes = []
    for given in inputs:
      self.given.append(given)
      outcome = self.outcomes.pop(0)
      if isinstance(outcome, Exception):
        raise outcome
      outcomes.append(outcome)
      if stop_at(outcomes):
        break
    return outcomes


@pytest.fixture
def fake(monkeypatch):
  def install(*outcomes):
    made = Fake(*outcomes)
    monkeypatch.setattr(reward, '_runner', lambda *settings: made)
    return made
  monkeypatch.setattr(reward, '_told', [])
  return install


def finished(*values):
  return [Outcome('finished', value) for value in values]


@pytest.mark.parametrize('score, outcomes, value, runs', [
    ('all', finished(3, 4, 5), 1.0, 3), ('all', finished(3, 9, 5), 0.0, 2),
    ('all', [*finished(3), Outcome('timeout')], 0.0, 2),
    ('share', finished(3, 9, 5), 2 / 3, 3), ('share', [*finished(3), Outcome('timeout')], 1 / 3, 2),
    ('share', [Outcome('raised'), Outcome('crashed', 4), *finished(5)], 1 / 3, 3),
    ('share', [Outcome('memory'), Outcome('output'), Outcome('raised', 5)], 0.0, 3),
])
def test_outcomes_are_scored(fake, score, outcomes, value, runs):
  sandbox = fake(*outcomes)
  assert judge('add', ADD, score=score) == pytest.approx(value)
  assert sandbox.given == [(1, 2), (2, 2), (5, 0)][:runs]


def test_what_cannot_be_judged(fake):
  assert code_reward(completion('x'), {'answer': '3'}) is None
  for text in ('no program', '<think>```python\nx\n```', '```python\nx'):
    assert code_reward(Completion(text, 3, True), {'tests': ADD}) == 0.0
  assert code_reward(Completion('```\nx\n```', 3, False), {'tests': ADD},
                     prompt_opens_think=True) == 0.0
  fake(RuntimeError('broken'), *finished(3, 4, 5))
  assert judge('x', ADD) == 1.0
  fake(*finished(3), RuntimeError('broken'), RuntimeError('still broken'))
  with pytest.warns(UserWarning, match='still broken.*not judged'):
    assert judge('x', ADD) is None
  fake(RuntimeError('broken'), RuntimeError('broken'))
  with warnings.catch_warnings():
    warnings.simplefilter('error')    # it is told once
    assert judge('x', ADD) is None


def test_tests_may_come_as_they_stand_in_data(fake):
  fake(*finished(3))
  assert judge('x', ['assert f(1) == 3']) == 1.0
  with pytest.raises(UserError, match='none of the known forms'):
    judge('x', 3)


def test_threads_share_a_sandbox(monkeypatch):
  made = []

  def make(*settings):
    time.sleep(0.01)
    made.append(settings)
    return Fake(*finished(*range(100)))
  monkeypatch.setattr(reward, 'Sandbox', make)
  monkeypatch.setattr(reward, '_runners', {})
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    list(threads.map(lambda _: judge('x', ADD, memory_mb=64), range(16)))
  assert [settings[1:] for settings in made] == [(10.0, 64 << 20)]


def test_tests_are_read_once_for_a_group(fake, monkeypatch):
  read, actual = [], reward.read_problem
  monkeypatch.setattr(
      reward, 'read_problem', lambda *given: read.append(given) or actual(*given))
  fake(*finished(3, 3, 3, 3, 4))
  group, other = {'tests': ['assert f(1) == 3']}, {'tests': ['assert f(1) == 4']}
  assert [code_reward(completion('x'), example) for example in (group, group, other, group, other)
          ] == [1.0, 1.0, 0.0, 1.0, 1.0]
  assert len(read) == 2


@pytest.mark.parametrize('program, tests, function', [
    ('def add(a): pass', ADD, 'add'),
    ('class Solution:\n  def add(self): pass', ADD, 'Solution.add'),
    ('class Solution:\n  def other(self): pass\nadd = 3', ADD, 'add'),
    ('class Solution:\n  def add(self): pass\ndef add(): pass', ADD, 'add'),
    ('def add(): pass', {'function': 'Solution.add', 'inputs': [[1]], 'outputs': [1]}, 'add'),
    ('class Solution: pass', {'function': 'Solution.add', 'inputs': [[1]], 'outputs': [1]},
     'Solution.add'),
    ('class Other:\n  def add(self): pass', ADD, 'add'), ('x', SUM, None)])
def test_the_function_is_found(fake, program, tests, function):
  sandbox = fake(*finished(0))
  assert judge(program, tests) == 0.0
  assert sandbox.programs[0].function == function


def test_settings_are_checked():
  def faults(**settings):
    known = {name: one.default for name, one in parameters.settings_of(code_reward).items()}
    return list(parameters.faults_of(code_reward)(known | settings))
  assert not faults() and not faults(sandbox='http://localhost:8080', timeout_s=3600.0)
  for name, values in dict(timeout_s=(0.0, -1.0, float('nan'), 4e3), memory_mb=(0, 2 ** 40),
                           max_tests=(-1,), sandbox=('here', 'ftp://x', 'file:///etc')).items():
    for value in values:
      fault, = faults(**{name: value})
      assert fault.startswith(f'{name} must be') and str(value) in fault


def test_a_suite_judges_a_batch(fake):
  fake(*finished(3, 4, 5))
  with RewardSuite(named_rewards({'code': 1.0}, settings={'code': {'score': 'share'}})) as suite:
    judged = suite.submit([completion('x'), Completion('nothing', 3, False)],
                          [{'tests': ADD}] * 2).collect()
  assert judged.total.tolist() == [1.0, 0.0]
