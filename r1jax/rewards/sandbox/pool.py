"""Runs programs that nobody trusts, several at once."""
from collections.abc import Callable, Sequence
import dataclasses
import functools
import logging
import math
import os
import queue
import signal
import threading

from r1jax.errors import UserError, printable
from r1jax.rewards.sandbox import client, jail, runner, syscalls, values
from r1jax.rewards.sandbox.programs import Outcome, Program

# Tries what must fail, and prints what did not; then does what must work.
_PROBE = Program('''
import os, threading
def allowed(name, *arguments):
  try:
    getattr(os, name)(*arguments)
  except OSError:
    return False
  return True
calls = [('open', '/etc/passwd', os.O_RDONLY), ('open', '/', os.O_RDONLY), ('listdir', '/'),
         ('fork',), ('kill', os.getppid(), 0), ('setuid', 0), ('chroot', '/'), ('mkdir', 'folder'),
         ('write', 4, b''), ('execv', '/bin/true', ['true'])]
print([call[0] for call in calls if allowed(*call)], input())
thread = threading.Thread(target=lambda: print(sum(range(10))))
thread.start()
thread.join()
''')
_PROBE_INPUT = 'read'
_PROBE_OUTPUT = '[] read\n45\n'

_MAX_SECONDS = 3600
_MIN_MEMORY = 32 << 20
_MAX_BYTES = 1 << 40

_lock = threading.Lock()


def layers() -> tuple[str, ...]:
  """What confines a program on this machine, of `docs/sandbox.md`; tried once by a process.

  Raises:
    UserError: too little holds here; no program is run.
  """
  with _lock:
    return _tried_layers()


@functools.cache
def _tried_layers() -> tuple[str, ...]:
  if syscalls.architecture() is None:
    raise UserError('programs can be confined on Linux only, by a 64-bit Python on x86_64 or '
                    'aarch64, so none is run: use such a machine or an outside sandbox')
  reasons = []
  for candidate in jail.AS_ROOT if os.geteuid() == 0 else jail.AS_USER:
    reason = _fault(candidate)
    if reason is None:
      logging.info('Programs are confined by %s.', ', '.join(candidate))
      return candidate
    logging.info('Not confined by %s: %s.', ', '.join(candidate), reason)
    reasons.append(reason)
  raise UserError('programs cannot be confined on this machine, so none is run: use root, a kernel '
                  f'with Landlock (5.13) or an outside sandbox ({reasons[-1]})')


def _fault(candidate: tuple[str, ...]) -> str | None:
  """Why these layers do not hold, or None."""
  slot = _Slot(candidate)
  try:
    settings = _Settings(30.0, 256 << 20, 1 << 16)
    outcome = slot.run(_request(_PROBE, _PROBE_INPUT, settings), settings)
  except (client.ServerFailure, OSError) as failure:
    return str(failure)
  finally:
    slot.close()
  return None if outcome.value == _PROBE_OUTPUT else f'a trial gave {outcome}'


@dataclasses.dataclass(frozen=True)
class _Settings:
  timeout_s: float
  memory_bytes: int
  output_bytes: int


@dataclasses.dataclass(frozen=True)
class _Request:
  """A program and an input, as the child reads them."""

  content: bytes
  stdin: bytes
  is_script: bool


def _request(program: Program, given: str | tuple, settings: _Settings) -> _Request:
  """Raises UserError if the input does not fit the program."""
  if program.function is None:
    if not isinstance(given, str):
      raise UserError(f'an input of a program must be its standard input, a str, got {given!r:.80}')
    stdin, arguments = given.encode('utf-8', 'surrogatepass'), None
  else:
    if not isinstance(given, tuple):
      raise UserError(
          f'an input of a function must be the tuple of its arguments, got {given!r:.80}')
    stdin, arguments = b'', given
  try:
    content = runner.request(program.source, program.function, arguments, settings.output_bytes)
  except (values.NotPlain, values.TooLarge) as error:
    raise UserError('an argument must be a plain value of None, bool, int, float, str, list, '
                    f'tuple, dict and set: {error}') from None
  return _Request(content, stdin, program.function is None)


class _Slot:
  """A place for one run at a time, with a server that is started when first needed."""

  def __init__(self, layers: tuple[str, ...]):
    self._layers = layers
    self._server: client.Server | None = None

  def run(self, request: '_Request', settings: _Settings) -> Outcome:
    """Runs a program once; raises `client.ServerFailure`, after which a new server is started."""
    limits = {'address_space': settings.memory_bytes, 'seconds': math.ceil(settings.timeout_s) + 1}
    if self._server is not None and not self._server.alive:
      self.close()
    try:
      if self._server is None:
        self._server = client.Server(self._layers)
      run = self._server.run(
          request.content, request.stdin, has_output=request.is_script, limits=limits,
          seconds=settings.timeout_s, output_bytes=settings.output_bytes)
    except BaseException:
      self.close()
      raise
    return _outcome(run, is_script=request.is_script, seconds=limits['seconds'])

  def close(self) -> None:
    server, self._server = self._server, None
    if server is not None:
      server.close()


def _outcome(run: client.Run, *, is_script: bool, seconds: int) -> Outcome:
  """What a run came to, of what the process wrote and how it ended."""
  if run.killed is not None:
    return Outcome(run.killed)
  signalled = os.WTERMSIG(run.status) if os.WIFSIGNALED(run.status) else 0
  if signalled in (signal.SIGXCPU, signal.SIGKILL) and run.seconds >= seconds:
    return Outcome('timeout')
  kind, text = run.report[:1], run.report[1:]
  if kind == runner.RAISED:
    return Outcome('raised', message=printable(text.decode(errors='replace')))
  if kind == runner.MEMORY:
    return Outcome('memory')
  if kind == runner.OUTPUT:
    return Outcome('output')
  if run.status == 0 and is_script:
    return Outcome('finished', run.output.decode(errors='replace'))
  if run.status == 0 and kind == runner.VALUE:
    try:
      return Outcome('finished', values.decode(text))
    except values.NotPlain:
      pass
  return Outcome('crashed')


class Sandbox:
  """Runs programs in processes that can do nothing but compute.

  The processes are started when they are first needed. They end with `close`, and with the process
  that made them, however that ends.
  """

  def __init__(self, workers: int = 2, timeout_s: float = 10.0, memory_bytes: int = 1 << 30,
               output_bytes: int = 1 << 20):
    """Makes the sandbox without starting a process.

    Args:
      workers: how many programs run at once, at least 1.
      timeout_s: seconds that a run may take on the clock. Programs run at a low priority, so on a
        machine whose cores are all busy they take a multiple of their processor time.
      memory_bytes: bytes that a run may allocate, at least 32 MiB.
      output_bytes: bytes that a run may write to standard output, or return.

    Raises:
      UserError: an argument is out of range.
    """
    if not workers >= 1:
      raise UserError(f'workers must be at least 1, got {workers}')
    if not 0 < timeout_s <= _MAX_SECONDS:
      raise UserError(f'timeout_s must be above 0 and at most {_MAX_SECONDS}, got {timeout_s}')
    if not _MIN_MEMORY <= memory_bytes <= _MAX_BYTES:
      raise UserError(
          f'memory_bytes must be from {_MIN_MEMORY} to {_MAX_BYTES}, got {memory_bytes}')
    if not 1 <= output_bytes <= _MAX_BYTES:
      raise UserError(f'output_bytes must be from 1 to {_MAX_BYTES}, got {output_bytes}')
    self._settings = _Settings(timeout_s, memory_bytes, output_bytes)
    self._workers = workers
    self._closed = False
    self._slots: queue.LifoQueue[_Slot | None] = queue.LifoQueue()
    for _ in range(workers):
      self._slots.put(None)

  def run(self, program: Program, inputs: Sequence[str | tuple],
          stop_at: Callable[[Sequence[Outcome]], bool] | None = None) -> list[Outcome]:
    """Runs a program once for each input, each in a process of its own, and returns the outcomes.

    Threads may call this at the same time; they share the workers.

    Args:
      program: what is run.
      inputs: for each run the text on standard input, or for a function the tuple of its
        arguments, made of None, bool, int, float, str, list, tuple, dict and set.
      stop_at: called with the outcomes so far after each run; when it returns True the other
        inputs are not run, and the list that is returned is shorter than `inputs`.

    Raises:
      UserError: an input does not fit the program, or nothing here can confine a program.
      RuntimeError: the sandbox is closed, or its processes fail again and again.
    """
    outcomes: list[Outcome] = []
    for request in [_request(program, given, self._settings) for given in inputs]:
      outcomes.append(self._run(request))
      if stop_at is not None and stop_at(outcomes):
        break
    return outcomes

  def _run(self, request: _Request) -> Outcome:
    slot = self._slots.get()
    try:
      if self._closed:
        raise RuntimeError('this sandbox is closed: make a new one')
      slot = slot or _Slot(layers())
      for last in (False, True):
        try:
          return slot.run(request, self._settings)
        except client.ProgramFailure:
          if last:
            return Outcome('crashed')
        except client.ServerFailure as failure:
          if last:
            raise RuntimeError(f'a process of the sandbox failed: {failure}') from failure
      raise AssertionError
    finally:
      self._slots.put(slot)

  def close(self) -> None:
    """Ends every process of the sandbox, once the runs that are under way are over."""
    self._closed = True
    for slot in [self._slots.get() for _ in range(self._workers)]:
      if slot is not None:
        slot.close()
    for _ in range(self._workers):
      self._slots.put(None)

  def __enter__(self) -> 'Sandbox':
    return self

  def __exit__(self, *exception) -> None:
    self.close()
