"""Calling a function on a batch: in threads or in an event loop, each call with a time limit.

A call that takes too long is abandoned: its thread is left to itself, its task is cancelled, and
another one goes on. A thread cannot be killed, so what an abandoned call does to the outside still
happens. No limit can end a call that keeps the interpreter for itself, such as a regular expression
that backtracks.
"""
import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import math
import threading
import time
from typing import Any, TypeVar

from r1jax.errors import UserError

TIMEOUT_S = 60.0    # of a call whose function has no `limits`
_AT_ONCE = 64       # calls of a coroutine function without `limits`
_BLOCKED_S = 1.0    # an event loop that does not answer for so long is given up
ATTRIBUTE = 'r1jax_limits'

Arguments = Sequence[tuple]
_Lane = threading.Thread | asyncio.Task
_Function = TypeVar('_Function', bound=Callable)


@dataclasses.dataclass(frozen=True)
class Limits:
  """How a function is called.

  Attributes:
    at_once: calls that run at the same time.
    timeout_s: seconds that a call may take.
  """
  at_once: int
  timeout_s: float


@dataclasses.dataclass(frozen=True)
class Failed:
  """The outcome of a call that raised an exception."""
  error: BaseException


class _TimedOut:
  """The type of `TIMED_OUT`."""


TIMED_OUT = _TimedOut()    # the outcome of a call that took too long


def limits(
    *, at_once: int | None = None, timeout_s: float = TIMEOUT_S,
) -> Callable[[_Function], _Function]:
  """Decorates a reward function: how many of its calls run at once, and how long each may take.

      @limits(at_once=16, timeout_s=30.0)
      def judge(completion, example): ...

  A plain function runs in that many threads, and must allow it; a coroutine function (`async def`)
  in that many tasks. A call that takes longer is not waited for, and its completion is not judged.
  By default a plain function is called once at a time, a coroutine function 64 times, and both for
  60 seconds at most.

  Raises:
    UserError: `at_once` is not a whole number from 1 on, or `timeout_s` not positive and finite, or
      the function is a method of an object.
  """
  if at_once is not None and (
      isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
    raise UserError(f'at_once must be a whole number of at least 1, got {at_once!r}')
  if not isinstance(timeout_s, (int, float)) or not 0 < timeout_s < math.inf:
    raise UserError(f'timeout_s must be a positive number of seconds, got {timeout_s!r}')

  def declare(function: _Function) -> _Function:
    try:
      setattr(function, ATTRIBUTE, (at_once, float(timeout_s)))
    except AttributeError:
      raise UserError(f'{function!r} cannot carry limits: decorate the function where it is '
                      'defined, or a functools.partial of it') from None
    return function
  return declare


def limits_of(function: Callable) -> Limits:
  """The limits that a function declares, or those of its kind."""
  inner = function
  while isinstance(inner, functools.partial) and not hasattr(inner, ATTRIBUTE):
    inner = inner.func
  at_once, timeout_s = getattr(inner, ATTRIBUTE, (None, TIMEOUT_S))
  return Limits(at_once or (_AT_ONCE if is_async(function) else 1), timeout_s)


def is_async(function: Callable) -> bool:
  """Whether a function is known to return a coroutine: `async def`, also of an object's call."""
  return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
      getattr(function, '__call__', None))  # noqa: B004


class Feed:
  """Arguments of calls, a few at a time: calls begin with those that are there.

  Attributes:
    arguments: those so far.
    ended: whether no more will come.
    deadline: the time, by `time.monotonic`, when all that has no outcome is `TIMED_OUT`; infinite
      until the feed has ended.
    changed: held while these change, and notified then.
  """

  def __init__(self) -> None:
    self.arguments: list[tuple] = []
    self.ended = False
    self.deadline = math.inf
    self.changed = threading.Condition()

  def add(self, arguments: Iterable[tuple]) -> None:
    """Adds the arguments of more calls."""
    with self.changed:
      self.arguments += arguments
      self.changed.notify_all()

  def end(self, deadline: float = math.inf) -> None:
    """Says that no more will come."""
    with self.changed:
      self.ended, self.deadline = True, deadline
      self.changed.notify_all()

  def waves(self) -> Iterator[list[tuple]]:
    """All arguments in order, each time those that have come meanwhile."""
    done = 0
    while True:
      with self.changed:
        while not self.ended and len(self.arguments) == done:
          self.changed.wait()
        wave = self.arguments[done:]
      if not wave:
        return
      done += len(wave)
      yield wave


class Caller:
  """Calls functions on batches, one batch after the other; an event loop of its own runs tasks."""

  def __init__(self) -> None:
    self._loop = EventLoop()
    self._lock = threading.Lock()
    self._calls: _Calls | None = None
    self._stopped = False

  def call_all(
      self, function: Callable, arguments: Arguments | Feed, limited: Limits,
      deadline: float = math.inf,
  ) -> list[Any]:
    """The outcome of `function(*arguments[i])` for each i, in their order.

    It returns once the arguments have ended, or a call has failed.

    An outcome is what the call returned, `Failed` or `TIMED_OUT`. After a failure no further call
    begins: the outcomes up to the first `Failed` are complete. Calls see the context variables of
    this thread.

    Args:
      function: a plain or a coroutine function; also a plain one that returns what can be awaited.
      arguments: of each call.
      limited: how many calls run at once, and how long each may take.
      deadline: the time, by `time.monotonic`, when all that has no outcome is `TIMED_OUT`; a feed
        has its own.

    Raises:
      RuntimeError: `stop` was called before the calls had ended.
    """
    if isinstance(arguments, Feed):
      feed = arguments
    else:
      feed = Feed()
      feed.add(arguments)
      feed.end(deadline)
    if not is_async(function):
      outcomes = self._run(_Threads(function, feed), limited)
      first = next((outcome for outcome in outcomes if isinstance(outcome, Failed)), None)
      if first is None or not isinstance(first.error, _IsAwaitable):
        return outcomes
      if limited.at_once == 1:
        limited = dataclasses.replace(limited, at_once=_AT_ONCE)
    return self._run(_Tasks(function, feed, limited.at_once, self._loop), limited)

  def stop(self) -> None:
    """Abandons the calls that are running, and begins no more."""
    with self._lock:
      self._stopped = True
      if self._calls is not None:
        self._calls.abandon()

  def close(self) -> None:
    """Ends the event loop."""
    self._loop.close()

  def _run(self, lanes: '_Threads | _Tasks', limited: Limits) -> list[Any]:
    with self._lock:
      self._calls = calls = lanes.calls
      if self._stopped:
        calls.abandon()
    while not calls.settled:
      lanes.start(calls.lanes_wanted(limited.at_once))
      lanes.replace(calls.wait(limited))
    if self._stopped:
      raise RuntimeError('these calls were abandoned, because their caller was stopped')
    return calls.outcomes()


class _IsAwaitable(Exception):
  """A plain function returned something to be awaited."""


class _Calls:
  """Calls that lanes, threads or tasks, take in order."""

  def __init__(self, feed: Feed):
    self._feed, self._changed = feed, feed.changed
    self._outcomes: dict[int, Any] = {}
    self._begun = self._lanes = 0
    self._failed = False
    self._running: dict[_Lane, tuple[int, float]] = {}

  def outcomes(self) -> list[Any]:
    """Those of all arguments so far; None for calls that were not made."""
    with self._changed:
      return [self._outcomes.get(index) for index in range(len(self._feed.arguments))]

  @property
  def settled(self) -> bool:
    """Whether no outcome is to come."""
    with self._changed:
      return self._is_settled()

  def lanes_wanted(self, at_once: int) -> int:
    """How many lanes to start, for calls that wait and where no more than these run at once."""
    with self._changed:
      if self._failed or time.monotonic() >= self._feed.deadline:
        return 0
      return max(0, min(at_once - self._lanes, len(self._feed.arguments) - self._begun))

  def started(self, count: int) -> None:
    """Takes note of lanes that are being started."""
    with self._changed:
      self._lanes += count

  def take(self, lane: _Lane) -> tuple[Any, ...] | None:
    """Begins a lane's next call: its arguments; None if there is none, and the lane ends."""
    with self._changed:
      if self._failed or self._begun == len(self._feed.arguments):
        self._lanes -= 1
        return None
      index, self._begun = self._begun, self._begun + 1
      self._running[lane] = index, time.monotonic()
      return self._feed.arguments[index]

  def put(self, lane: _Lane, outcome: Any) -> bool:
    """Ends a lane's call; False if the lane has been abandoned."""
    with self._changed:
      if lane not in self._running:
        return False
      self._end(lane, outcome)
      if self._is_settled():
        self._changed.notify_all()
      return True

  def abandon(self) -> None:
    """Lets no call begin, and waits for none."""
    with self._changed:
      for lane in list(self._running):
        self._abandon(lane)
      self._failed = True
      self._changed.notify_all()

  def wait(self, limited: Limits) -> list[_Lane]:
    """Waits until all is settled, more is to do or a call may be late; abandons late ones' lanes.

    After the deadline all are late, and what has not begun has timed out.
    """
    with self._changed:
      now = time.monotonic()
      begun = min((start for _, start in self._running.values()), default=now)
      until = min(begun + limited.timeout_s, self._feed.deadline)
      if not self._is_settled() and not self.lanes_wanted(limited.at_once):
        self._changed.wait(None if until == math.inf else max(0.0, until - now))
      now, deadline = time.monotonic(), self._feed.deadline
      late = [lane for lane, (_, start) in self._running.items()
              if now - start >= limited.timeout_s or now >= deadline]
      for lane in late:
        self._abandon(lane)
      if now >= deadline and not self._failed:
        count = len(self._feed.arguments)
        self._outcomes |= dict.fromkeys(range(self._begun, count), TIMED_OUT)
        self._begun = count
      return late

  def _abandon(self, lane: _Lane) -> None:
    self._end(lane, TIMED_OUT)
    self._lanes -= 1

  def _end(self, lane: _Lane, outcome: Any) -> None:
    index, _ = self._running.pop(lane)
    self._outcomes[index] = outcome
    self._failed |= isinstance(outcome, Failed)

  def _is_settled(self) -> bool:
    all_are_there = self._feed.ended and len(self._outcomes) == len(self._feed.arguments)
    return all_are_there or (self._failed and not self._running)


class _Threads:
  """Lanes of a plain function."""

  def __init__(self, function: Callable, feed: Feed):
    self.calls = _Calls(feed)
    self._function = function

  def start(self, count: int) -> None:
    """Starts so many lanes."""
    self.calls.started(count)
    for _ in range(count):
      threading.Thread(target=contextvars.copy_context().run, args=(self._lane,), daemon=True,
                       name='reward').start()

  def replace(self, late: Sequence[_Lane]) -> None:
    """Starts as many lanes as were abandoned."""
    self.start(len(late))

  def _lane(self) -> None:
    lane = threading.current_thread()
    while (arguments := self.calls.take(lane)) is not None:
      try:
        outcome = self._function(*arguments)
        if inspect.isawaitable(outcome):
          getattr(outcome, 'close', lambda: None)()
          outcome = Failed(_IsAwaitable())
      except BaseException as error:    # of a user's function, for whoever waits for it
        outcome = Failed(error)
      if not self.calls.put(lane, outcome):
        return


class _Tasks:
  """Lanes of a coroutine function."""

  def __init__(self, function: Callable, feed: Feed, at_once: int, loop: 'EventLoop'):
    self.calls = _Calls(feed)
    self._function = function
    self._at_once, self._loop = at_once, loop
    self._futures: list = []    # an event loop does not keep its tasks alive

  def start(self, count: int) -> None:
    """Starts so many lanes."""
    if not count:
      return
    self.calls.started(count)
    self._loop.renew_if_blocked()
    self._futures += [self._loop.submit(self._lane()) for _ in range(count)]

  def replace(self, late: Sequence[_Lane]) -> None:
    """Cancels lanes that were abandoned, and starts as many; all in a new loop if it is blocked."""
    for task in late:
      assert isinstance(task, asyncio.Task)
      with contextlib.suppress(RuntimeError):    # its loop has ended
        task.get_loop().call_soon_threadsafe(task.cancel)
    self.start(self._at_once if self._loop.renew_if_blocked() else len(late))

  async def _lane(self) -> None:
    lane = asyncio.current_task()
    assert lane is not None
    while (arguments := self.calls.take(lane)) is not None:
      try:
        outcome = self._function(*arguments)
        if inspect.isawaitable(outcome):
          outcome = await outcome
      except asyncio.CancelledError:    # it was late, or its loop was given up
        outcome = TIMED_OUT
      except BaseException as error:
        outcome = Failed(error)
      if not self.calls.put(lane, outcome):
        return


class EventLoop:
  """An event loop in a thread of its own, started when first needed.

  It is kept from batch to batch, since clients of services hold on to their loop; and it does not
  mind a loop that is already running, as in a notebook.
  """

  def __init__(self) -> None:
    self._loop: asyncio.AbstractEventLoop | None = None
    self._stop: asyncio.Event | None = None
    self._thread: threading.Thread | None = None

  def submit(self, coroutine: Coroutine) -> Any:
    """Runs a coroutine; returns its concurrent future."""
    if self._loop is None:
      self._start()
    assert self._loop is not None
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

  def renew_if_blocked(self) -> bool:
    """Gives up the loop if it does not answer; it ends once it is free. Whether it was given up."""
    if self._loop is None:
      return False
    answered = threading.Event()
    self._loop.call_soon_threadsafe(answered.set)
    if answered.wait(_BLOCKED_S):
      return False
    self._end()
    return True

  def close(self) -> None:
    """Ends the loop, and cancels what still runs in it."""
    if self._loop is not None:
      self._end()
      assert self._thread is not None
      self._thread.join(_BLOCKED_S)

  def _end(self) -> None:
    assert self._loop is not None and self._stop is not None
    self._loop.call_soon_threadsafe(self._stop.set)
    self._loop = None

  def _start(self) -> None:
    started = threading.Event()

    async def serve() -> None:
      self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
      started.set()
      await self._stop.wait()
    self._thread = threading.Thread(
        target=asyncio.run, args=(serve(),), daemon=True, name='rewards in tasks')
    self._thread.start()
    started.wait()
