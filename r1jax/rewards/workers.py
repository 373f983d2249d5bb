"""A pool of reward workers: processes that compare formulas and can be killed.

A worker runs `r1jax.rewards.worker`. It is a fresh interpreter, not a fork of a process that runs
jax. It has a session of its own, so that a Ctrl-C or a preemption notice meant for the trainer does
not kill the workers that compute its last rewards.
"""

import atexit
import concurrent.futures
import contextvars
import json
import os
import pathlib
import queue
import select
import signal
import subprocess
import sys
import threading
import time

from r1jax.errors import UserError

_COMMAND = (sys.executable, '-P', '-m', 'r1jax.rewards.worker')
_START_SECONDS = 120.0
_GRACE_SECONDS = 1.0    # for the kernel's timer to kill a worker; a stopped one outlives it


class _Timeout(Exception):
  pass


class _Crash(Exception):
  pass


class _Worker:
  """One process with at most one outstanding task; any exception in `ask` kills it."""

  def __init__(self):
    path = [str(pathlib.Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
    self._process = subprocess.Popen(
        _COMMAND, bufsize=0, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {
            'PYTHONPATH': os.pathsep.join(filter(None, path)), 'PYTHONHASHSEED': '0'})
    self._unread = b''
    try:
      message = self._read(_START_SECONDS)
    except (_Timeout, _Crash) as error:
      raise UserError(
          'a reward worker did not start: run `python -m r1jax.rewards.worker` to see why'
      ) from error
    if message['event'] == 'failed':
      self.kill()
      raise ModuleNotFoundError(
          f'comparing formulas needs math-verify ({message["reason"]}): pip install math-verify',
          name='math_verify')

  @property
  def alive(self) -> bool:
    return self._process.poll() is None

  def ask(self, gold: str, answer: str, timeout_s: float) -> bool | None:
    """The process's verdict; raises `_Timeout` or `_Crash` if there is none.

    A process that does not even begin has crashed: the question is not to blame.
    """
    task = {'gold': gold, 'answer': answer, 'seconds': timeout_s}
    try:
      self._process.stdin.write(json.dumps(task).encode() + b'\n')
    except OSError as error:
      self.kill()
      raise _Crash from error
    try:
      self._read(timeout_s)
    except _Timeout as error:
      raise _Crash from error
    return self._read(timeout_s + _GRACE_SECONDS)['verdict']

  def kill(self) -> int:
    """Kills the process and returns its exit status."""
    self._process.kill()
    for pipe in (self._process.stdin, self._process.stdout):
      pipe.close()
    return self._process.wait()

  def _read(self, seconds: float) -> dict:
    """The next message; kills the process and raises if it exits or takes too long."""
    poll = select.poll()
    poll.register(self._process.stdout, select.POLLIN)
    deadline = time.monotonic() + seconds
    while b'\n' not in self._unread:
      left = deadline - time.monotonic()
      if left <= 0 or not poll.poll(1000 * left):
        self.kill()
        raise _Timeout
      block = os.read(self._process.stdout.fileno(), 4096)
      if not block:
        status = self._process.wait()
        self.kill()
        raise _Timeout if status == -signal.SIGALRM else _Crash
      self._unread += block
    line, _, self._unread = self._unread.partition(b'\n')
    return json.loads(line)


class WorkerPool:
  """Worker processes, started when first needed and replaced when they die.

  A pool may be shared by threads; up to `num_workers` of them can wait for an answer at the same
  time.

  Attributes:
    timeouts: number of questions that took longer than `timeout_s`.
    crashes: number of questions during which two workers died.
    retries: number of questions that were asked once more, because a worker died.
  """

  def __init__(self, num_workers: int = 2, timeout_s: float = 5.0):
    """Makes the pool without starting a process.

    Args:
      num_workers: the largest number of processes, at least 1.
      timeout_s: seconds that a task may take, counted from its start in the worker.

    Raises:
      UserError: an argument is out of range.
    """
    if num_workers < 1:
      raise UserError(f'num_workers must be at least 1, got {num_workers}')
    if not timeout_s > 0:
      raise UserError(f'timeout_s must be positive, got {timeout_s}')
    self.timeouts = 0
    self.crashes = 0
    self.retries = 0
    self._timeout_s = timeout_s
    self._num_workers = num_workers
    self._closed = False
    self._lock = threading.Lock()
    self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
    for _ in range(num_workers):
      self._idle.put(None)

  def equivalent(self, gold: str, answer: str) -> bool | None:
    """Whether the LaTeX formula `answer` is equivalent to `gold`; None if the gold is unreadable.

    A worker may crash for reasons of its own, such as a lack of memory: then the question is asked
    once more. False if that crashes, too, or if a worker times out, which `crashes` or `timeouts`
    counts.

    Raises:
      ImportError: math-verify is not installed.
      RuntimeError: the pool is closed, or a worker does not start.
    """
    try:
      try:
        return self._ask(gold, answer)
      except _Crash:
        self._count('retries')
        return self._ask(gold, answer)
    except _Crash:
      self._count('crashes')
    except _Timeout:
      self._count('timeouts')
    return False

  def counters(self) -> dict[str, int]:
    """The pool's counts so far, by name."""
    return {'timeouts': self.timeouts, 'crashes': self.crashes, 'retries': self.retries}

  def _count(self, name: str) -> None:
    with self._lock:
      setattr(self, name, getattr(self, name) + 1)

  def _ask(self, gold: str, answer: str) -> bool | None:
    """The verdict of the next worker that is free; raises as `_Worker.ask`."""
    worker = self._idle.get()
    healthy = False
    try:
      if self._closed:
        raise RuntimeError('this worker pool is closed: make a new one')
      if worker is not None and not worker.alive:
        worker.kill()
        worker = None
      worker = worker or _Worker()
      result = worker.ask(gold, answer, self._timeout_s)
      healthy = True
      return result
    finally:
      if worker is not None and not healthy:
        worker.kill()
        worker = None
      self._idle.put(worker)

  def close(self) -> None:
    """Ends the workers once their current tasks are done."""
    self._closed = True
    for _ in range(self._num_workers):
      worker = self._idle.get()
      if worker is not None:
        worker.kill()
    for _ in range(self._num_workers):
      self._idle.put(None)

  def __enter__(self) -> 'WorkerPool':
    return self

  def __exit__(self, *exception) -> None:
    self.close()


class AskedOnce:
  """Asks a pool each question once: equal ones, at the same time or later, get the same answer.

  Attributes:
    repeats: number of questions that were not asked again.
  """

  def __init__(self, pool: WorkerPool):
    """Remembers no answers yet."""
    self.repeats = 0
    self._pool = pool
    self._lock = threading.Lock()
    self._answers: dict[tuple[str, str], concurrent.futures.Future] = {}

  def equivalent(self, gold: str, answer: str) -> bool | None:
    """As `WorkerPool.equivalent`."""
    with self._lock:
      known = self._answers.get((gold, answer))
      if known is None:
        found = self._answers[gold, answer] = concurrent.futures.Future()
      else:
        self.repeats += 1
    if known is not None:
      return known.result()
    try:
      found.set_result(self._pool.equivalent(gold, answer))
    except BaseException as error:
      found.set_exception(error)
    return found.result()


_shared_pool = WorkerPool(num_workers=1)
atexit.register(_shared_pool.close)
_current_pool: contextvars.ContextVar[WorkerPool | AskedOnce] = contextvars.ContextVar(
    'current_pool', default=_shared_pool)


def use_pool(pool: WorkerPool | AskedOnce) -> None:
  """Makes this thread's reward functions use `pool` instead of the one shared by the process."""
  _current_pool.set(pool)


def current_pool() -> WorkerPool | AskedOnce:
  """The pool that this thread's reward functions use."""
  return _current_pool.get()
