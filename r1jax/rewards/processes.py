"""A worker process: a fresh interpreter that is sent bytes, answers in lines, and can be killed.

It is not a fork of a process that runs jax. It has a session of its own, so that a Ctrl-C or a
preemption notice meant for the trainer does not kill what computes its last rewards.
"""
from collections.abc import Sequence
import os
import pathlib
import select
import signal
import subprocess
import time

_BLOCK = 1 << 16


class Timeout(Exception):
  """A worker took too long, and is killed."""


class Crash(Exception):
  """A worker exited by itself."""


class Process:
  """One worker process; any exception in `send` and `lines` kills it."""

  def __init__(self, command: Sequence[str], *, errors: int | None = subprocess.DEVNULL):
    """Starts a program.

    Args:
      command: the program and its arguments; it can import r1jax.
      errors: where its standard error goes; None is that of this process.
    """
    path = [str(pathlib.Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
    self._process = subprocess.Popen(
        command, bufsize=0, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        env=os.environ | {
            'PYTHONPATH': os.pathsep.join(filter(None, path)), 'PYTHONHASHSEED': '0',
            'JAX_PLATFORMS': 'cpu'})
    assert self._process.stdin is not None and self._process.stdout is not None
    self._unread = b''
    os.set_blocking(self._process.stdin.fileno(), False)
    self._writable, self._readable = select.poll(), select.poll()
    self._writable.register(self._process.stdin, select.POLLOUT)
    self._readable.register(self._process.stdout, select.POLLIN)

  @property
  def pid(self) -> int:
    """Its process id."""
    return self._process.pid

  @property
  def alive(self) -> bool:
    """Whether it has not ended."""
    return self._process.poll() is None

  def send(self, message: bytes, seconds: float) -> None:
    """Writes a message, however slowly the process reads it.

    Raises:
      Timeout: it was not read within so many seconds.
      Crash: the process has ended.
    """
    assert self._process.stdin is not None
    view, deadline = memoryview(message), time.monotonic() + seconds
    try:
      while view:
        self._wait(self._writable, deadline)
        view = view[self._process.stdin.write(view[:_BLOCK]) or 0:]
    except (OSError, ValueError) as error:    # it has ended, or was killed by another thread
      self.kill()
      raise Crash from error

  def lines(self, seconds: float) -> list[bytes]:
    """The lines that it has written since the last call; waits for one.

    Raises:
      Timeout: there was none within so many seconds, or the kernel's timer ended the process.
      Crash: the process ended otherwise.
    """
    assert self._process.stdout is not None
    deadline = time.monotonic() + seconds
    unread = [self._unread]
    while b'\n' not in unread[-1]:
      self._wait(self._readable, deadline)
      try:
        block = os.read(self._process.stdout.fileno(), _BLOCK)
      except (OSError, ValueError) as error:
        raise Crash from error
      if not block:
        raise Timeout if self.kill() == -signal.SIGALRM else Crash
      unread.append(block)
    *lines, self._unread = b''.join(unread).split(b'\n')
    return lines

  def stop(self) -> None:
    """Kills the process while another thread may be talking to it, which raises Crash there."""
    self._process.kill()

  def kill(self) -> int:
    """Kills the process and returns its exit status."""
    self._process.kill()
    status = self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      assert pipe is not None
      pipe.close()
    return status

  def _wait(self, poll: select.poll, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
      self.kill()
      raise Timeout
