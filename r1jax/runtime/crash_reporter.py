"""Says in one sentence why this process ended, from a process beside it.

When another host dies, jax ends this process from C++, and logs at length what happened inside it.
The reporter takes what this process writes to standard error, passes it on, and holds back the
errors that C++ logs: they are printed if the process lives on, and dropped if it ends by them.
`R1JAX_TRACEBACK=1` shows them all.

This file is also the program of the other process. It imports the standard library only.
"""
from collections.abc import Iterator
import contextlib
import os
import re
import select
import subprocess
import sys
import time

_HELD_S = 10.0     # seconds after which what was held back is printed, if the process lives
_DRAIN_S = 2.0     # seconds for the last words of a process that has ended

# An error that C++ logs, a warning of the service that connects hosts, or the stacks that a signal
# dumps; what follows belongs to them, up to a line of Python's or r1jax's.
_STAMP = rb'\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ '
_BEGINS = re.compile(rb'[EF]' + _STAMP + rb'[\w./-]+:\d+\] |W' + _STAMP +
                     rb'[\w/-]*(coordination|preemption|distributed)[\w/.-]*:\d+\] |'
                     rb'Fatal Python error: |\*\*\* (Check|SIG)')
_ENDS = re.compile(rb'r1jax: |Traceback \(most recent call last\):|[IW]' + _STAMP)


class LogFilter:
  """Parts lines into those to print and those to hold back."""

  def __init__(self) -> None:
    self.held: list[bytes] = []
    self._holding = False

  def passed(self, line: bytes) -> bool:
    """Whether a line is to be printed; else it is kept in `held`."""
    if _BEGINS.match(line):
      self._holding = True
    elif _ENDS.match(line):
      self._holding = False
    if self._holding:
      self.held.append(line)
    return not self._holding

  def release(self) -> list[bytes]:
    """The lines that were held back; no more are, until the next error."""
    held, self.held, self._holding = self.held, [], False
    return held


class CrashReporter:
  """A separate process that prints a message if this process ends without closing it.

  Args:
    message: what it prints, one sentence.
  """

  def __init__(self, message: str):
    errors, self._errors = os.pipe()
    self._process = subprocess.Popen(
        [sys.executable, '-IS', __file__, str(errors)], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True, pass_fds=(errors,))
    os.close(errors)
    assert self._process.stdin is not None
    self._pipe = self._process.stdin
    self._original: int | None = None
    self.set_message(message)

  def set_message(self, message: str) -> None:
    """Replaces the message."""
    with contextlib.suppress(OSError):
      self._pipe.write(' '.join(message.split()) + '\n')
      self._pipe.flush()

  def hold_back_logs(self) -> None:
    """From now on standard error goes through the reporter, without what C++ logs at the end."""
    if 'R1JAX_TRACEBACK' in os.environ or self._original is not None:
      return
    sys.stderr.flush()
    self._original = os.dup(2)
    os.dup2(self._errors, 2)

  def close(self) -> None:
    """Ends the reporter without a message: this process ends normally, or has printed an error."""
    if self._errors >= 0:
      if self._original is not None:
        with contextlib.suppress(OSError, ValueError):
          sys.stderr.flush()
        if os.path.sameopenfile(2, self._errors):    # nobody has silenced it
          os.dup2(self._original, 2)
        os.close(self._original)
      os.close(self._errors)
      self._errors = -1
    with contextlib.suppress(OSError):
      self._pipe.write('\n')
      self._pipe.close()
    self._process.wait()


def _lines(buffer: bytes) -> tuple[list[bytes], bytes]:
  """The whole lines of what was read, and the rest."""
  *lines, rest = buffer.split(b'\n')
  return [line + b'\n' for line in lines], rest


def _run(messages: int, errors: int) -> None:
  """Passes on what comes from `errors` until `messages` ends, and prints the last message."""
  log, message, told, rest, until = LogFilter(), b'', b'', b'', 0.0
  open_ends = {messages, errors}
  while open_ends:
    ended = messages not in open_ends
    left = until - time.monotonic() if until else None
    ready = select.select(list(open_ends), [], [], None if left is None else max(0.0, left))[0]
    if not ready and ended:
      break
    if not ready:
      _print(log.release())
      until = 0.0
    for source in ready:
      content = os.read(source, 1 << 16)
      if not content:
        open_ends.discard(source)
        if source == messages:
          until = time.monotonic() + (_DRAIN_S if message else _DRAIN_S / 10)
      elif source == messages:
        *lines, told = (told + content).split(b'\n')
        message = lines[-1] if lines else message
      else:
        lines, rest = _lines(rest + content)
        _print(line for line in lines if log.passed(line))
        if rest and not log.held and not _BEGINS.match(rest) and b'\r' in rest:
          _print([rest])
          rest = b''
        if log.held and not until:
          until = time.monotonic() + _HELD_S
  if rest and log.passed(rest):
    _print([rest + b'\n' * bool(message)])
  if message:
    _print([b'r1jax: ' + message + b'\n'])
  else:
    _print(log.release())


def _print(lines: Iterator[bytes] | list[bytes]) -> None:
  content = b''.join(lines)
  while content:
    try:
      content = content[os.write(2, content):]
    except OSError:
      return


if __name__ == '__main__':
  _run(0, int(sys.argv[1]))
