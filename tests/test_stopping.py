"""The first signal is heard and the second ends the process, whatever its main thread does."""
import fcntl
import os
import signal
import subprocess
import sys
import termios

import pytest
import runs

# What holds the main thread: as in Python; as XLA does, in C without the interpreter's lock; and in
# C with it.
BUSY = {
    'python': 'while True: pass',
    'waiting': 'import time; time.sleep(600)',
    'C': 'import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", 10 ** 9)',
    'regex': 'import re; re.match("(a|aa)+$", "a" * 200 + "b")',
}
PROGRAM = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)    # under nohup it is ignored
from r1jax.stopping import StopSignals
signals = StopSignals()
print('ready', flush=True)
{}
"""


@pytest.fixture
def start():
  """Starts a program and waits until it is ready; ends it with the test."""
  started = []

  def start(program):
    process = subprocess.Popen(
        [sys.executable, '-c', program], cwd=runs.ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True)
    started.append(process)
    assert process.stdout.readline() == 'ready\n', process.stderr.read()
    return process

  yield start
  for process in started:
    process.kill()


@pytest.mark.parametrize('first, second', [('SIGINT', 'SIGINT'), ('SIGTERM', 'SIGHUP')])
@pytest.mark.parametrize('busy', BUSY)
def test_the_first_signal_asks_and_the_second_ends_at_once(start, busy, first, second):
  process = start(PROGRAM.format(BUSY[busy]))
  process.send_signal(signal.Signals[first])
  assert process.stderr.readline().startswith('r1jax: asked to stop: the state is saved once what')
  process.send_signal(signal.Signals[second])
  _, said = process.communicate(timeout=60)
  assert said == 'r1jax: stopped at once; what was saved before is there\n'
  assert process.returncode == 128 + signal.Signals[second]


SEVERAL = """
import ctypes, time
received = []
notice = ctypes.CFUNCTYPE(None, ctypes.c_int)(received.append)    # in the place of jax's handler
libc = ctypes.CDLL(None)
libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
libc.signal(15, ctypes.cast(notice, ctypes.c_void_p))
from r1jax.stopping import StopSignals
signals = StopSignals(several_hosts=True)
print('ready', flush=True)
while not received: time.sleep(0.01)
print(received, signals.received, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize('first', ['SIGINT', 'SIGTERM'])
def test_on_several_hosts_the_first_is_passed_on_to_jax(start, first):
  process = start(SEVERAL)
  process.send_signal(signal.Signals[first])
  assert process.stdout.readline() == f'[15] [{signal.Signals[first].value}]\n'
  assert process.stderr.readline().startswith('r1jax: asked to stop')
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM


HUNG_UP = """
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_{})
from r1jax.stopping import StopSignals
signals = StopSignals()
print('ready', flush=True)
while not signals.asked(): time.sleep(0.01)
print('what would fail on a terminal that is gone', flush=True)
open({!r}, 'w').write('saved')
"""


def test_a_terminal_that_is_closed_is_printed_to_no_more(tmp_path):
  terminal, other = os.openpty()
  process = subprocess.Popen(
      [sys.executable, '-c', HUNG_UP.format('DFL', str(tmp_path / 'saved'))], cwd=runs.ROOT,
      stdin=other, stdout=other, stderr=other, start_new_session=True,
      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
  os.close(other)
  assert os.read(terminal, 100).startswith(b'ready')
  os.close(terminal)
  assert process.wait(timeout=60) == 0 and (tmp_path / 'saved').read_text() == 'saved'


def test_nohup_is_respected(start):
  process = start(HUNG_UP.format('IGN', '/dev/null'))
  process.send_signal(signal.SIGHUP)
  process.send_signal(signal.SIGTERM)
  assert process.stderr.readline().startswith('r1jax: asked to stop')
  assert process.wait(timeout=60) == 0
