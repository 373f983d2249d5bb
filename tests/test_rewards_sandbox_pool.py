"""Programs run, and end, as they are said to, and nothing of a run is left."""
import concurrent.futures
import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from r1jax.errors import UserError
from r1jax.rewards.sandbox import Outcome, Program, Sandbox, client, jail, layers, pool, syscalls


def confined():
  try:
    return bool(layers())
  except UserError:
    return False


needs_layers = pytest.mark.skipif(not confined(), reason='programs cannot be confined here')


@pytest.fixture(scope='module')
def sandbox():
  if not confined():
    pytest.skip('programs cannot be confined here')
  with Sandbox(workers=2, timeout_s=20.0, memory_bytes=128 << 20, output_bytes=10_000) as made:
    yield made


def run(sandbox, source, given='', function=None):
  return sandbox.run(Program(textwrap.dedent(source), function), [given])[0]


def test_scripts_read_standard_input_and_write_standard_output(sandbox):
  program = Program('a, b = map(int, input().split())\nprint(a + b)')
  assert sandbox.run(program, ['1 2', '3 4\n']) == [
      Outcome('finished', '3\n'), Outcome('finished', '7\n')]


def test_functions_are_called_and_methods_of_a_new_object(sandbox):
  source = '''
    print('not a value')
    def swap(a, b):
      print('nor this')
      return b, [a]
    class Solution:
      def __init__(self):
        self.seen = 0
      def count(self, items):
        self.seen += len(items)
        return {'seen': self.seen}
  '''
  assert run(sandbox, source, (1, {2.5}), 'swap') == Outcome('finished', ({2.5}, [1]))
  assert run(sandbox, source, ([1, 2],), 'Solution.count') == Outcome('finished', {'seen': 2})


@pytest.mark.parametrize('source, kind', [
    ('import sys; print(1); sys.exit()', 'finished'),
    ('import os; print(1, flush=True); os._exit(0)', 'finished'),
    ('print(1); exit(0)', 'finished'),
    ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', 'crashed'),
    ('import sys; print(1); sys.exit(1)', 'crashed'),
    ('import sys; print(1); sys.exit("wrong")', 'crashed'),
    ('print(1); raise ValueError("no")', 'raised'),
    ('print(1', 'raised'),
    ('raise KeyboardInterrupt', 'raised'),
    ('\0', 'raised'),
    ('print("\ud800")', 'raised'),
    ('import ctypes; ctypes.string_at(0)', 'crashed'),
    ('x = bytearray(200 << 20)', 'memory'),
    ('x = [0]\nwhile True: x = x + x', 'memory'),
    ('print("a" * 10_001)', 'output'),
    ('while True: print("a" * 1000)', 'output'),
    ('import os\nos.close(3); print(1)', 'finished'),
    ('import os\nos.close(3); raise ValueError', 'crashed'),
    ('import os\nwhile True: os.write(3, b"a" * 1000)', 'output'),
], ids=lambda text: text[:40])
def test_every_end_has_its_kind(sandbox, source, kind):
  outcome = run(sandbox, source)
  assert outcome.kind == kind
  assert outcome.value == ('1\n' if kind == 'finished' else None)


@pytest.mark.parametrize('body, kind', [
    ('import os; os._exit(0)', 'crashed'),
    ('import sys; sys.exit(0)', 'crashed'),
    ('return object()', 'raised'),
    ('return (i for i in range(3))', 'raised'),
    ('return "a" * 10_001', 'output'),
    ('return 10 ** 10_000', 'output'),
    ('x = []; x.append(x); return x', 'raised'),
    ('import os; os.close(3); return 1', 'crashed'),
    ('import os; os.write(3, b"="); return 1', 'crashed'),
    ('import os; os.write(3, b"=[[1"); os._exit(0)', 'crashed'),
    ('import os, time; os.write(3, b"=1"); os.close(3); time.sleep(60)', 'timeout'),
    ('raise ValueError("no")', 'raised'),
    ('return (lambda: f())()', 'raised'),
    ('import atexit; atexit.register(print, 1); return 2', 'finished'),
], ids=lambda text: text[:40])
def test_every_end_of_a_call_has_its_kind(body, kind):
  if not confined():
    pytest.skip('programs cannot be confined here')
  seconds = 0.2 if kind == 'timeout' else 20.0
  with Sandbox(workers=1, timeout_s=seconds, output_bytes=10_000) as sandbox:
    outcome = run(sandbox, f'def f():\n  {body}', (), 'f')
  assert outcome.kind == kind
  assert outcome.value == (2 if kind == 'finished' else None)


def test_a_message_says_what_was_raised(sandbox):
  assert run(sandbox, '1 / 0').message == 'ZeroDivisionError: division by zero'
  source = 'class E(Exception):\n  def __str__(self): raise E\nraise E'
  assert run(sandbox, source) == Outcome('raised', message='E')
  assert len(run(sandbox, 'raise ValueError("x" * 10**6)').message) == 200
  assert run(sandbox, 'raise ValueError("\\x1b[2J")').message == r'ValueError: \x1b[2J'


@needs_layers
def test_time_is_limited_on_the_clock_and_for_each_run_alone():
  programs = [
      'while True: pass', 'import time; time.sleep(60)', 'import os\nos.kill(os.getpid(), 19)',
      'import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass',
      'import os, time\nos.close(1); os.close(3); time.sleep(60)',
      'import threading\nthreading.Thread(target=threading.Event().wait).start()',
      'input(); import sys; sys.stdin.read(); import signal; signal.pause()']
  with Sandbox(workers=2, timeout_s=0.3) as sandbox:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
      kinds = list(threads.map(lambda source: run(sandbox, source, 'a\n' * 10**5).kind, programs))
    assert kinds == ['timeout'] * len(programs)
    assert run(sandbox, 'print(1)').kind == 'finished'


def test_an_input_that_nobody_reads_blocks_nothing(sandbox):
  assert run(sandbox, 'print(1)', 'x' * 10**7) == Outcome('finished', '1\n')


def test_runs_do_not_see_each_other(sandbox):
  program = Program('''
import builtins, collections, json, random, sys
print(getattr(builtins, 'seen', 0), json.dumps(1), random.random(), input(), hash('a'))
builtins.seen = sys.seen = 1
json.dumps = lambda value: 'poisoned'
print = None
''')
  outcomes = sandbox.run(program, ['a', 'a', 'a', 'a'])
  assert len(set(outcomes)) == 1 and outcomes[0].kind == 'finished'


def test_runs_stop_where_the_caller_says(sandbox):
  program = Program('print(input())')
  outcomes = sandbox.run(program, ['1', '2', '3'], lambda so_far: so_far[-1].value == '2\n')
  assert [outcome.value for outcome in outcomes] == ['1\n', '2\n']


def test_threads_share_the_workers(sandbox):
  def ask(number):
    return [outcome.value for outcome in sandbox.run(
        Program('def f(x): return x * x', 'f'), [(number,), (number + 1,)])]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    found = list(threads.map(ask, range(24)))
  assert found == [[n * n, (n + 1) * (n + 1)] for n in range(24)]


def test_a_trainer_may_have_thousands_of_descriptors(sandbox):
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
  opened = []
  try:
    opened += [os.open(os.devnull, os.O_RDONLY) for _ in range(min(4096, limit[1]) - 200)]
    with Sandbox(workers=1) as another:
      assert run(another, 'print(input())', 'a').value == 'a\n'
    assert run(sandbox, 'print(input())', 'a').value == 'a\n'
  finally:
    for descriptor in opened:
      os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize('program, given, word', [
    (Program('', None), (1,), 'a str'), (Program('', 'f'), 'a', 'tuple'),
    (Program('', 'f'), [1], 'tuple'), (Program('', 'f'), (object(),), 'plain')])
def test_inputs_that_do_not_fit_are_refused_before_any_run(sandbox, program, given, word):
  with pytest.raises(UserError, match=word):
    sandbox.run(program, [given])


@pytest.mark.parametrize('setting', [
    {'workers': 0}, {'timeout_s': 0}, {'timeout_s': float('nan')}, {'memory_bytes': 1000},
    {'output_bytes': 0}])
def test_settings_out_of_range_are_refused(setting):
  with pytest.raises(UserError, match=f'{next(iter(setting))} must be'):
    Sandbox(**setting)


def processes_of(session_leader):
  """Processes that this one has started, directly or not."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = path.read_text().rpartition(')')[2].split()
    except OSError:
      continue
    if int(fields[1]) in (session_leader, *found) and fields[0] != 'Z':
      found.append(int(path.parent.name))
  return found


@needs_layers
def test_servers_that_die_are_replaced():
  others = set(processes_of(os.getpid()))
  with Sandbox(workers=2) as sandbox, concurrent.futures.ThreadPoolExecutor(2) as threads:
    def run_four():
      return list(threads.map(lambda _: run(sandbox, 'print(1)').value, range(4)))
    assert run_four() == ['1\n'] * 4
    died = set(processes_of(os.getpid())) - others
    for pid in died:
      with contextlib.suppress(ProcessLookupError):    # a server ends with its guardian
        os.kill(pid, signal.SIGKILL)
    assert run_four() == ['1\n'] * 4
    assert died and not died & set(processes_of(os.getpid()))


def open_descriptors():
  return sorted(os.listdir('/proc/self/fd'))


@needs_layers
def test_closing_leaves_no_process_descriptor_or_file():
  before = processes_of(os.getpid()), open_descriptors(), list(pathlib.Path('/tmp').glob('r1jax*'))
  with Sandbox(workers=2, timeout_s=0.2) as sandbox:
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
      list(threads.map(lambda source: run(sandbox, source), [
          'print(1)', 'while True: pass', '1 / 0', 'import os; os.abort()'] * 2))
  assert before == (
      processes_of(os.getpid()), open_descriptors(), list(pathlib.Path('/tmp').glob('r1jax*')))
  with pytest.raises(RuntimeError, match='closed'):
    run(sandbox, 'print(1)')


@needs_layers
@pytest.mark.slow
def test_a_thousand_runs_leave_nothing():
  others = set(processes_of(os.getpid()))
  with Sandbox(workers=2) as sandbox, concurrent.futures.ThreadPoolExecutor(2) as threads:
    list(threads.map(lambda _: run(sandbox, 'import time; time.sleep(0.3)'), range(2)))
    descriptors, servers = open_descriptors(), set(processes_of(os.getpid())) - others
    program = Program('print(sum(map(int, input().split())))')
    sums = threads.map(
        lambda start: [outcome.value for outcome in sandbox.run(
            program, [f'{number} 1' for number in range(start, start + 50)])], range(0, 1000, 50))
    assert [int(value) for values in sums for value in values] == list(range(1, 1001))
    assert open_descriptors() == descriptors
    assert set(processes_of(os.getpid())) - others == servers and len(servers) == 4


TRAINER = '''
import threading
from r1jax.rewards.sandbox import Program, Sandbox
sandbox = Sandbox(workers=2, timeout_s=600)
program = Program('while True: pass')
for _ in range(2):
  threading.Thread(target=sandbox.run, args=(program, [''])).start()
'''


@needs_layers
def test_the_death_of_the_trainer_ends_every_process_of_it():
  trainer = subprocess.Popen([sys.executable, '-c', TRAINER], cwd=pathlib.Path(__file__).parents[1])
  deadline = time.monotonic() + 60
  while len(children := processes_of(trainer.pid)) < 6 and time.monotonic() < deadline:
    time.sleep(0.05)    # a guardian, a server and a program for each worker
  trainer.kill()
  trainer.wait()
  assert len(children) >= 6
  while any(os.path.exists(f'/proc/{pid}') for pid in children) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not [pid for pid in children if os.path.exists(f'/proc/{pid}')]


@pytest.mark.parametrize('what', ['architecture', 'layers'])
def test_where_nothing_holds_nothing_is_run(monkeypatch, what):
  pool._tried_layers.cache_clear()
  if what == 'architecture':
    monkeypatch.setattr(syscalls, 'architecture', lambda: None)
  else:
    monkeypatch.setattr(jail, 'AS_ROOT', (('landlock', 'no such thing'),))
    monkeypatch.setattr(jail, 'AS_USER', (('landlock', 'no such thing'),))

    def fail(_):
      raise client.ServerFailure('no such thing')
    monkeypatch.setattr(client, 'Server', fail)
  try:
    with Sandbox() as sandbox, pytest.raises(UserError, match='none is run'):
      run(sandbox, 'print(1)')
  finally:
    pool._tried_layers.cache_clear()
