"""What programs usually do works in the sandbox as outside; no program forges a verdict."""
import importlib.util
import subprocess
import sys
import textwrap

import pytest

from r1jax.errors import UserError
from r1jax.rewards.sandbox import Program, Sandbox, layers, server


@pytest.fixture(scope='module')
def sandbox():
  try:
    layers()
  except UserError as error:
    pytest.skip(str(error))
  with Sandbox(workers=1, timeout_s=20.0) as made:
    yield made


def run(sandbox, source, given='', function=None):
  return sandbox.run(Program(textwrap.dedent(source), function), [given])[0]


def test_usual_modules_can_be_imported(sandbox):
  # An interpreter may be built without some of them.
  built = [name for name in server.MODULES if importlib.util.find_spec(name)]
  assert len(built) > 100
  source = ''.join(f'import {name}\n' for name in built) + 'print("imported")'
  assert run(sandbox, source).value == 'imported\n', run(sandbox, source)


@pytest.mark.parametrize('name', ['numpy', 'r1jax', 'subprocess_of_mine', 'collections.mine'])
def test_nothing_else_can_be_imported(sandbox, name):
  assert run(sandbox, f'import {name}').message.startswith('ModuleNotFoundError')


WORKS = {
    'reading in every way': '''
        import os, sys
        first = sys.stdin.readline()
        second = input()
        third = sys.stdin.buffer.readline()
        print(first.strip(), second, third.decode().strip(), sys.stdin.read().split())''',
    'reading the descriptor': '''
        import io, os
        text = os.read(0, max(8192, os.fstat(0).st_size))
        print(io.BytesIO(text).readline().decode().strip())''',
    'reading by a new file': '''
        print(open(0).read().split()[0])''',
    'deep recursion': '''
        import sys
        sys.setrecursionlimit(10**6)
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        print(depth(50_000))''',
    'deep recursion in a thread with a larger stack': '''
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(1 << 27)
        def main():
          def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
          print(depth(50_000))
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()''',
    'threads that nobody waits for': '''
        import threading, time
        def late():
          time.sleep(0.05)
          print('late')
        threading.Thread(target=late).start()
        print('early')''',
    'executors that nobody closes': '''
        from concurrent.futures import ThreadPoolExecutor
        executor = ThreadPoolExecutor(4)
        print(sum(executor.map(abs, range(-5, 5))))''',
    'handlers at the end': '''
        import atexit
        atexit.register(print, 'the end')
        print('first')''',
    'classes of its own': '''
        from __future__ import annotations
        import copy, dataclasses, enum, pickle, typing
        @dataclasses.dataclass
        class Point:
          x: int
          y: typing.ClassVar[int] = 3
        class Colour(enum.Enum):
          RED = 1
        print(pickle.loads(pickle.dumps(Point(1))), copy.deepcopy(Point(2)), Colour.RED)''',
    'dates, text and large numbers': '''
        import datetime, decimal, math
        print(datetime.datetime.strptime('2024-02-29', '%Y-%m-%d').weekday())
        print('é中'.encode('gbk', 'ignore'), 'straße'.encode('latin-1').decode('cp1252'))
        print(decimal.Decimal(2) ** 200, len(str(10 ** 20_000)), math.comb(60, 30))''',
    'digests and chance': '''
        import hashlib, os, random, secrets, uuid, zlib
        for name in 'md5', 'sha1', 'sha256', 'sha512', 'sha3_256', 'blake2b':
          print(hashlib.new(name, b'x').hexdigest(), zlib.crc32(b'x'))
        print(len(os.urandom(8)), uuid.uuid4().version, secrets.randbelow(1))
        random.seed(1)
        print(random.random(), random.SystemRandom().randrange(1))''',
    'errors that it handles': '''
        import sys, traceback
        try:
          1 / 0
        except ZeroDivisionError:
          traceback.print_exc()
          print('handled', file=sys.stderr)
        try:
          open('input.txt')
        except OSError:
          print('no file')''',
    'a main function and an exit': '''
        import sys
        def main():
          print('main')
        if __name__ == '__main__':
          sys.exit(main())''',
    'output in every way': '''
        import os, sys
        sys.stdout.write('a\\n')
        sys.stdout.flush()
        sys.stdout.buffer.write('é\\n'.encode())
        sys.stdout.buffer.flush()
        os.write(1, b'c\\n')
        print(1, 2, sep=',', end='!', flush=True)
        exit()''',
    'an alarm of its own': '''
        import signal, time
        def ring(*_): raise TimeoutError
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
          time.sleep(10)
        except TimeoutError:
          print('rang')''',
}


@pytest.mark.parametrize('name', WORKS)
def test_what_works_outside_works(sandbox, tmp_path, name):
  given = '1 2\n3 4\n5 6\n7 8\n9 10\n'
  path = tmp_path / 'program.py'
  path.write_text(textwrap.dedent(WORKS[name]))
  outside = subprocess.run(
      [sys.executable, '-X', 'utf8', '-X', 'int_max_str_digits=0', path], input=given,
      capture_output=True, text=True, cwd=tmp_path)
  outcome = run(sandbox, WORKS[name], given)
  assert outside.returncode == 0
  assert (outcome.kind, outcome.value) == ('finished', outside.stdout), outcome


def test_recursion_through_the_library_has_room(sandbox):
  source = '''
      import functools, sys
      sys.setrecursionlimit(10**6)
      @functools.cache
      def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
      print(depth(20_000 if sys.version_info < (3, 12) else 400))'''
  assert run(sandbox, source).kind == 'finished'


def test_a_program_sees_its_four_descriptors_and_nothing_of_its_machine(sandbox, monkeypatch):
  monkeypatch.setenv('SECRET', 'of the trainer')
  source = '''
      import os, sys
      found = []
      for number in range(64):
        try:
          os.fstat(number)
          found.append(number)
        except OSError:
          pass
      print(found, dict(os.environ), sys.path, sys.argv)'''
  assert run(sandbox, source).value == "[0, 1, 2, 3] {} [] ['program.py']\n"


def test_nothing_of_another_run_is_in_memory(sandbox):
  assert run(sandbox, 'print(input().upper())', 'a former input').value == 'A FORMER INPUT\n'
  source = '''
      import gc, sys
      gc.unfreeze()
      frame, seen = sys._getframe(), []
      while frame is not None:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back
      seen += [repr(item) for item in gc.get_objects() if type(item) in (dict, list, tuple)]
      text = ''.join(seen)
      words = input()[::-1]
      print(len(text) > 10**6, words in text, words.upper() in text)'''
  assert run(sandbox, source, 'tupni remrof a').value == 'True False False\n'


HONEST = 'def add(a, b):\n  return a + b'
WRONG = 'def add(a, b):\n  return a - b'
FORGED = {
    'an exit': 'import os\ndef add(a, b):\n  os._exit(0)',
    'an exit while it is loaded': 'import sys\nsys.exit(0)',
    'an object that equals everything': '''
        class Equal(int):
          def __eq__(self, other): return True
          def __hash__(self): return 0
        def add(a, b): return Equal()''',
    'a text of another length': '''
        class Text(str):
          def __len__(self): return 0
          def __eq__(self, other): return True
        def add(a, b): return Text('3')''',
    'another class': '''
        class Equal:
          @property
          def __class__(self): return int
          def __eq__(self, other): return True
        def add(a, b): return Equal()''',
    'a patched encoder': '''
        import gc, json, types
        json.dumps = lambda *_, **__: '{"__eq__": true}'
        def add(a, b): return None''',
    'a report of its own': '''
        import os
        def add(a, b):
          os.write(3, b'+=true')
          os._exit(0)''',
    'a report before that of the runner': '''
        import os
        def add(a, b):
          os.write(3, b'=')
          return 3''',
    'builtins that lie': '''
        import builtins
        builtins.type = lambda value: int
        builtins.len = lambda value: 0
        def add(a, b): return [3]''',
    'a trace of the runner': '''
        import sys
        def trace(frame, event, argument):
          if event == 'return': frame.f_locals.clear()
          return trace
        sys.settrace(trace)
        sys._getframe(3).f_trace = trace
        def add(a, b): return -1''',
    'no function': 'add = None',
    'no program': 'this is no program',
}


def score(sandbox, source):
  outcome = run(sandbox, source, (1, 2), 'add')
  return int(outcome.kind == 'finished' and type(outcome.value) is int and outcome.value == 3)


def test_pitfall_32_honest_wrong_and_forged_programs_get_1_0_0(sandbox):
  assert score(sandbox, HONEST) == 1
  assert score(sandbox, WRONG) == 0
  assert {name: score(sandbox, source) for name, source in FORGED.items()} == dict.fromkeys(
      FORGED, 0)


def test_what_forges_the_verdict_of_an_exit_status_or_a_comparison(tmp_path):
  """The positive control: judged inside their own process, forged programs pass."""
  passed = []
  for name in ('an exit', 'an exit while it is loaded', 'an object that equals everything'):
    program = textwrap.dedent(FORGED[name]) + '\nassert add(1, 2) == 3\n'
    if subprocess.run([sys.executable, '-c', program]).returncode == 0:
      passed.append(name)
  assert len(passed) == 3
