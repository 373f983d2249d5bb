"""A pool of reward workers: processes that compare formulas and can be killed.

A worker runs `r1jax.rewards.worker`.
"""

import atexit
from collections import deque
from collections.abc import Callable
import concurrent.futures
import contextvars
import json
import math
import queue
import sys
import threading
import time
from typing import Protocol

from r1jax.errors import UserError
from r1jax.rewards import processes

_COMMAND = (sys.executable, '-P', '-m', 'r1jax.rewards.worker')
_START_SECONDS = 120.0
_GRACE_SECONDS = 1.0    # for the kernel's timer to kill a worker; a stopped one outlives it


class Late(Exception):
  """The deadline of a batch passed before a question was answered."""


class _Worker(processes.Process):
  """One process with at most one outstanding task; any exception in `ask` kills it."""

  def __init__(self):
    super().__init__(_COMMAND)
    self._lines: deque[bytes] = deque()
    try:
      message = self._read(_START_SECONDS)
    except (processes.Timeout, processes.Crash) as error:
      raise UserError(
          'a reward worker did not start: run `python -m r1jax.rewards.worker` to see why'
      ) from error
    if message['event'] == 'failed':
      self.kill()
      raise ModuleNotFoundError(
          f'comparing formulas needs math-verify ({message["reason"]}): pip install math-verify',
          name='math_verify')

  def ask(self, gold: str, answer: str, timeout_s: float) -> bool | None:
    """The process's verdict; raises `Timeout` or `Crash` if there is none.

    A process that does not even begin has crashed: the question is not to blame.
    """
    task = {'gold': gold, 'answer': answer, 'seconds': timeout_s}
    try:
      self.send(json.dumps(task).encode() + b'\n', timeout_s)
      self._read(timeout_s)
    except processes.Timeout as error:
      raise processes.Crash from error
    return self._read(timeout_s + _GRACE_SECONDS)['verdict']

  def _read(self, seconds: float) -> dict:
    if not self._lines:
      self._lines.extend(self.lines(seconds))
    return json.loads(self._lines.popleft())


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
    self._busy: set[_Worker] = set()
    self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
    for _ in range(num_workers):
      self._idle.put(None)

  @property
  def num_workers(self) -> int:
    """The largest number of processes."""
    return self._num_workers

  def equivalent(
      self, gold: str, answer: str, *, deadline: float = math.inf,
  ) -> bool | None:
    """Whether the LaTeX formula `answer` is equivalent to `gold`; None if the gold is unreadable.

    A worker may crash for reasons of its own, such as a lack of memory: then the question is asked
    once more. False if that crashes, too, or if a worker times out, which `crashes` or `timeouts`
    counts.

    Args:
      gold: LaTeX.
      answer: LaTeX.
      deadline: the time, by `time.monotonic`, after which the answer is not waited for.

    Raises:
      Late: the deadline passed.
      ImportError: math-verify is not installed.
      RuntimeError: the pool is closed, or a worker does not start.
    """
    try:
      try:
        return self._ask(gold, answer, deadline)
      except processes.Crash:
        self._count('retries')
        return self._ask(gold, answer, deadline)
    except processes.Crash:
      self._count('crashes')
    except processes.Timeout:
      self._count('timeouts')
    return False

  def counters(self) -> dict[str, int]:
    """The pool's counts so far, by name."""
    return {'timeouts': self.timeouts, 'crashes': self.crashes, 'retries': self.retries}

  def _count(self, name: str) -> None:
    with self._lock:
      setattr(self, name, getattr(self, name) + 1)

  def _ask(self, gold: str, answer: str, deadline: float) -> bool | None:
    """The verdict of the next worker that is free; raises as `_Worker.ask`, and Late."""
    try:
      worker = self._idle.get(timeout=_until(deadline))
    except queue.Empty:
      raise Late from None
    healthy = False
    try:
      if worker is not None and not worker.alive:
        worker.kill()
        worker = None
      worker = self._begin(worker)
      seconds = min(self._timeout_s, _until(deadline) or math.inf)
      result = worker.ask(gold, answer, seconds)
      healthy = True
      return result
    except (processes.Crash, processes.Timeout):
      if time.monotonic() >= deadline:
        raise Late from None
      raise
    finally:
      with self._lock:
        self._busy -= {worker}
      if worker is not None and not healthy:
        worker.kill()
        worker = None
      self._idle.put(worker)

  def _begin(self, worker: _Worker | None) -> _Worker:
    """The worker, or a new one, which `stop` will find."""
    worker = worker or (None if self._closed else _Worker())
    with self._lock:
      if worker is not None and not self._closed:
        self._busy.add(worker)
        return worker
    if worker is not None:
      worker.kill()
    raise RuntimeError('this worker pool is closed: make a new one')

  def stop(self) -> None:
    """Kills workers in the midst of their tasks: who waits for one gets a RuntimeError."""
    with self._lock:
      self._closed = True
      for worker in self._busy:
        worker.stop()

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


def _until(deadline: float) -> float | None:
  """The seconds until a deadline, at least a few; None if it is infinite."""
  return None if deadline == math.inf else max(1e-3, deadline - time.monotonic())


class AskedOnce:
  """Asks a pool each question once: equal ones, at the same time or later, get the same answer.

  Attributes:
    repeats: number of questions that were not asked again.
  """

  def __init__(self, pool: WorkerPool, deadline: Callable[[], float] = lambda: math.inf):
    """Remembers no answers yet; `deadline` returns that for `WorkerPool.equivalent`."""
    self.repeats = 0
    self._pool, self._deadline = pool, deadline
    self._lock = threading.Lock()
    self._answers: dict[tuple[str, str], concurrent.futures.Future] = {}

  @property
  def num_workers(self) -> int:
    """The number of questions that are answered at the same time."""
    return self._pool.num_workers

  def note_repeats(self, count: int) -> None:
    """Counts questions that were not even put to this."""
    with self._lock:
      self.repeats += count

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
      found.set_result(self._pool.equivalent(gold, answer, deadline=self._deadline()))
    except BaseException as error:
      found.set_exception(error)
    return found.result()


class Pool(Protocol):
  """What reward functions ask."""

  def equivalent(self, gold: str, answer: str) -> bool | None:
    """As `WorkerPool.equivalent`."""


_shared_pool = WorkerPool(num_workers=1)
atexit.register(_shared_pool.close)
_current_pool: contextvars.ContextVar[Pool] = contextvars.ContextVar(
    'current_pool', default=_shared_pool)


def use_pool(pool: Pool) -> None:
  """Makes this thread's reward functions use `pool` instead of the one shared by the process."""
  _current_pool.set(pool)


def current_pool() -> Pool:
  """The pool that this thread's reward functions use."""
  return _current_pool.get()
