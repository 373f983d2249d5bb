"""What a process says last when it ends by itself, by an error, or because C++ ended it."""
import os
import signal
import subprocess
import sys

import pytest

from r1jax.runtime import crash_reporter

CXX = [
    b'W1130 19:12:48.247874    5490 preemption_sync_manager.cc:147] Failed to retrieve notice\n',
    b'E1130 18:59:24.526377    8131 coordination_service_agent.cc:289] Polled an error.\n',
    b'F1130 18:59:24.526406    8131 client.h:80] Terminating process because the service failed\n',
    b'Additional GRPC error information from remote target coordination_service:\n',
    b':UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"Socket closed"}\n',
    b'*** Check failure stack trace: ***\n', b'    @     0x7f9c3d040634  absl::lts::SendToLog()\n',
    b'Fatal Python error: Aborted\n', b'\n', b'Thread 0x00007f9c (most recent call first):\n',
    b'  File "/x/threading.py", line 324 in wait\n', b'Extension modules: numpy (total: 1)\n']
OURS = [b'r1jax: a sentence\n', b'Traceback (most recent call last):\n',
        b'  File "/x/y.py", line 3, in run\n', b'ValueError: x\n',
        b'W1130 18:59:24.526377    8131 compiler.cc:1] slow\n', b'  its second line\n',
        b'*** a title\n']


def test_the_logs_of_cxx_are_told_from_what_python_says():
  log = crash_reporter.LogFilter()
  assert [line for line in OURS[:1] + CXX + OURS[1:] + CXX if log.passed(line)] == OURS
  assert log.release() == CXX * 2 and log.held == []


def run(body, **environment):
  """(exit status, standard error) of a process whose reporter is `reporter`."""
  start = (f'import os, runpy, sys; reporter = runpy.run_path({crash_reporter.__file__!r})'
           '["CrashReporter"]("it died"); reporter.hold_back_logs()\n')
  done = subprocess.run([sys.executable, '-IS', '-c', start + body], stderr=subprocess.PIPE,
                        env={**os.environ, **environment}, timeout=60)
  return done.returncode, done.stderr


KILL = f'os.kill(os.getpid(), {signal.SIGKILL:d})'
LOG = f'for line in {CXX!r}: os.write(2, line)\n'


@pytest.mark.parametrize('body, said', [
    (LOG + KILL, b'r1jax: it died\n'),
    ('print("a warning", file=sys.stderr)\n' + LOG + KILL, b'a warning\nr1jax: it died\n'),
    (LOG + 'print("r1jax: a fault", file=sys.stderr)\n' + KILL,
     b'r1jax: a fault\nr1jax: it died\n'),
    ('os.write(2, b"no end")\n' + KILL, b'no end\nr1jax: it died\n'),
    ('reporter.set_message("another\\nword"); ' + KILL, b'r1jax: another word\n')])
def test_the_sentence_stands_last_and_without_the_logs(body, said):
  assert run(body) == (-signal.SIGKILL, said)


def test_an_orderly_end_loses_nothing_and_says_nothing():
  status, said = run(LOG + 'os.write(2, b"half a line")\nreporter.close()\nos.write(2, b"!\\n")')
  assert status == 0 and said == b''.join(CXX) + b'half a line!\n'


def test_all_is_shown_when_a_traceback_is_asked_for():
  assert run(LOG + KILL, R1JAX_TRACEBACK='1')[1] == b''.join(CXX) + b'r1jax: it died\n'
