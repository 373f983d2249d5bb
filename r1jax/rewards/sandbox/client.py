"""The trainer's side of a fork server: starts it, hands it programs, collects what they write."""
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import time
from typing import Literal

from r1jax.rewards.sandbox import kernel, runner

_START_SECONDS = 60.0    # for a server, and for a child until its program begins
_GRACE_SECONDS = 10.0    # for what was killed to be gone
_BLOCK_BYTES = 1 << 16    # what a pipe holds
_PAUSE_MS = 2
_BOOTSTRAP = ('import sys; root = sys.argv.pop(1); sys.path.append(root); '
              'from r1jax.rewards.sandbox import server; sys.path.remove(root); server.main()')


Killed = Literal['timeout', 'output'] | None    # why a program was killed, if it was


class ServerFailure(Exception):
  """A server that cannot be used, with the reason."""


class ProgramFailure(ServerFailure):
  """A server that failed when a program had begun, which may be to blame."""


@dataclasses.dataclass(frozen=True)
class Run:
  """What is known of a run when it is over.

  Attributes:
    killed: 'timeout' or 'output' if it was killed for that; None if it ended by itself.
    status: as `waitpid` gives it.
    seconds: processor time.
    output: what it wrote to standard output, cut where it was too much.
    report: what it wrote to `runner.REPORT` after `runner.READY`, cut where it was too much.
  """

  killed: Killed
  status: int
  seconds: float
  output: bytes
  report: bytes


class _Stream:
  """What comes out of a pipe, up to one byte more than it may be."""

  def __init__(self, descriptor: int, max_bytes: int):
    self.content = bytearray()
    self.ended = False
    self._descriptor = descriptor
    self._max_bytes = max_bytes
    os.set_blocking(descriptor, False)

  @property
  def overflows(self) -> bool:
    return len(self.content) > self._max_bytes

  def read(self) -> None:
    try:
      block = os.read(self._descriptor, _BLOCK_BYTES)
    except BlockingIOError:
      return
    self.ended = not block
    self.content += block[:self._max_bytes + 1 - len(self.content)]

  def drain(self) -> None:
    """Reads what is left of a writer that is gone, even if a fork of this process holds its end."""
    before = -1
    while before < len(self.content) and not self.overflows:
      before = len(self.content)
      self.read()


class Server:
  """A process of `r1jax.rewards.sandbox.server`; any exception of `run` makes it unusable."""

  def __init__(self, layers: tuple[str, ...]):
    """Starts the process and waits until it is ready; raises `ServerFailure` if it is not."""
    # Packets, so that a message never arrives in pieces or with the next one.
    self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # An interpreter may need this one to start; the server empties its environment.
    kept = {name: os.environ[name] for name in ('LD_LIBRARY_PATH',) if name in os.environ}
    self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
      with theirs:
        self._process = subprocess.Popen(
            [sys.executable, '-s', '-S', '-P', '-X', 'utf8', '-c', _BOOTSTRAP,
             str(pathlib.Path(__file__).resolve().parents[3]), ','.join(layers), str(os.getpid())],
            stdin=theirs.fileno(), stdout=self._null, stderr=self._null, cwd='/',
            start_new_session=True, env=kept | {'PYTHONHASHSEED': '0'})
    except BaseException:
      self._control.close()
      os.close(self._null)
      raise
    try:
      message = self._receive(time.monotonic() + _START_SECONDS)
      if 'refused' in message:
        raise ServerFailure(message['refused'])
    except BaseException:
      self.close()
      raise

  @property
  def alive(self) -> bool:
    """Whether the process has not ended."""
    return self._process.poll() is None

  def run(self, request: bytes, stdin: bytes, *, has_output: bool, limits: dict[str, int],
          seconds: float, output_bytes: int) -> Run:
    """Runs a program and returns when it has ended, by itself or not.

    Args:
      request: made by `runner.request`.
      stdin: its standard input.
      has_output: whether its standard output is collected, or lost.
      limits: `address_space` and `seconds`, as the server reads them.
      seconds: the time limit, from the moment when the program begins.
      output_bytes: the largest output, and the largest report.

    Raises:
      ServerFailure: the server died, or the child was not confined, or could not be killed.
    """
    with contextlib.ExitStack() as ours:
      with contextlib.ExitStack() as theirs:
        report, to_report = _pipe(ours, theirs)
        output, to_output = _pipe(ours, theirs) if has_output else (-1, self._null)
        descriptors = [_file(theirs, stdin), to_output, self._null, to_report,
                       _file(theirs, request)]
        try:
          socket.send_fds(self._control, [json.dumps(limits).encode()], descriptors)
        except OSError as error:
          raise ServerFailure('it has ended') from error
      streams = {report: _Stream(report, output_bytes + len(runner.READY + runner.VALUE))}
      if has_output:
        streams[output] = _Stream(output, output_bytes)
      begun = False
      try:
        self._await_beginning(streams[report], report)
        begun = True
        killed, message = self._collect(streams, time.monotonic() + seconds)
      except ServerFailure as failure:
        raise (ProgramFailure if begun else ServerFailure)(*failure.args) from failure
      return Run(killed, message['status'], message['seconds'],
                 bytes(streams[output].content) if has_output else b'',
                 bytes(streams[report].content[1:]))

  def _await_beginning(self, report: _Stream, descriptor: int) -> None:
    """Returns when the child is confined; the program begins at that moment."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(self._control, select.POLLIN)
    poll.poll(1000 * _START_SECONDS)
    report.read()
    if not report.content.startswith(runner.READY):
      raise ServerFailure(bytes(report.content[1:]).decode(errors='replace')
                          or 'a process did not begin')

  def _collect(self, streams: dict[int, _Stream], deadline: float) -> tuple[Killed, dict]:
    """Reads what the program writes until it is gone: why it was killed, what the server says."""
    news, end = select.poll(), select.poll()
    end.register(self._control, select.POLLIN)
    for descriptor in (self._control.fileno(), *streams):
      news.register(descriptor, select.POLLIN)
    killed: Killed = None
    message = None
    while message is None:
      left = max(deadline - time.monotonic(), 0.0)
      # It may have ended in time although this thread is late.
      if not left and not end.poll(0):
        if killed:
          raise ServerFailure('a process that was killed did not end')
        killed, deadline = 'timeout', self._kill()
        continue
      for descriptor, _ in news.poll(1000 * left + 1):
        if descriptor == self._control.fileno():
          message = self._receive(deadline)
          continue
        stream = streams[descriptor]
        stream.read()
        if stream.ended or stream.overflows:
          news.unregister(descriptor)
        if stream.overflows and not killed:
          killed, deadline = 'output', self._kill()
      if message is None:
        end.poll(_PAUSE_MS)    # a program that writes byte by byte does not keep this thread busy
    for stream in streams.values():
      stream.drain()
      if stream.overflows:
        killed = killed or 'output'
    return killed, message

  def _kill(self) -> float:
    """Kills the program, and returns when it must be gone."""
    try:
      self._control.send(b'kill')
    except OSError as error:
      raise ServerFailure('it has ended') from error
    return time.monotonic() + _GRACE_SECONDS

  def _receive(self, deadline: float) -> dict:
    self._control.settimeout(max(deadline - time.monotonic(), 1e-3))
    try:
      message = self._control.recv(4096)
    except OSError as error:
      raise ServerFailure('it did not answer') from error
    if not message:
      raise ServerFailure('it has ended')
    return json.loads(message)

  def close(self) -> None:
    """Ends the server and what it runs, and waits until they are gone."""
    with contextlib.suppress(OSError):    # it has ended already
      self._control.shutdown(socket.SHUT_RDWR)    # whoever else may hold the socket by a fork
    self._control.close()
    os.close(self._null)
    try:
      self._process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
  ends = os.pipe()
  for stack, end in zip((ours, theirs), ends):
    stack.callback(os.close, end)
  return ends


def _file(stack: contextlib.ExitStack, content: bytes) -> int:
  descriptor = kernel.memory_file(content)
  stack.callback(os.close, descriptor)
  return descriptor
