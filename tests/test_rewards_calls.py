"""Functions called on a batch: order, how many at once, and what takes too long."""
import asyncio
from concurrent.futures import ThreadPoolExecutor
import contextvars
import functools
import threading
import time

import pytest

from r1jax.rewards import calls

FOREVER = 600.0


@pytest.fixture
def caller():
  found = calls.Caller()
  yield found
  found.close()


def outcomes_of(function, count, caller, at_once=4, timeout_s=FOREVER):
  return caller.call_all(
      function, [(i,) for i in range(count)], calls.Limits(at_once, timeout_s))


def plain(function):
  return function


def coroutine(function):
  async def call(i):
    await asyncio.sleep(0)
    return function(i)
  return call


def hidden_coroutine(function):
  """A plain function that returns a coroutine, but for the first call."""
  return lambda i: coroutine(function)(i) if i else function(i)


KINDS = pytest.mark.parametrize('kind', [plain, coroutine, hidden_coroutine])


@KINDS
@pytest.mark.parametrize('count', [0, 1, 50])
def test_outcomes_are_in_order(caller, kind, count):
  assert outcomes_of(kind(lambda i: -i), count, caller) == [-i for i in range(count)]


@KINDS
def test_calls_begin_while_more_are_to_come(caller, kind):
  feed, called, running, most = calls.Feed(), threading.Event(), [0], [0]

  def count(i):
    running[0] += 1
    most[0] = max(most[0], running[0])
    called.set()
    running[0] -= 1
    return -i
  with ThreadPoolExecutor(1) as beside:
    found = beside.submit(caller.call_all, kind(count), feed, calls.Limits(2, FOREVER))
    for wave in (range(3), range(3, 4), range(4, 20)):
      called.clear()
      feed.add((i,) for i in wave)
      assert called.wait(FOREVER)
    assert not found.done()
    feed.end()
    assert found.result() == [-i for i in range(20)]
  assert most[0] <= 2


def test_a_feed_that_ends_late_has_its_deadline_then(caller):
  feed, ended = calls.Feed(), threading.Event()
  feed.add([(0,), (1,)])
  with ThreadPoolExecutor(1) as beside:
    found = beside.submit(
        caller.call_all, lambda i: ended.wait(FOREVER), feed, calls.Limits(1, FOREVER))
    feed.end(deadline=time.monotonic())
    assert found.result() == [calls.TIMED_OUT] * 2
  ended.set()


@KINDS
def test_the_first_failure_ends_the_calls_and_those_before_it_are_complete(caller, kind):
  begun = []

  def failing(i):
    begun.append(i)
    return {0: 0, 1: 1, 2: 2}[i]

  outcomes = outcomes_of(kind(failing), 1000, caller)
  assert outcomes[:3] == [0, 1, 2] and len(begun) < 100
  assert isinstance(outcomes[3].error, KeyError)
  stopped = outcomes_of(kind(lambda i: exec('raise SystemExit')), 3, caller)
  assert isinstance(stopped[0].error, SystemExit)


def test_so_many_calls_run_at_once_and_no_more(caller):
  """Each waits for three others; one more at once would be seen."""
  barrier, running, most = threading.Barrier(4), [], []

  def in_thread(i):
    running.append(i)
    barrier.wait(FOREVER)
    most.append(len(running))
    barrier.wait(FOREVER)
    running.remove(i)
    return i
  assert outcomes_of(in_thread, 12, caller) == list(range(12))
  assert max(most) == 4
  present, most = set(), []

  async def in_task(i):
    present.add(i)
    while len(present) < 4 and i < 9:
      await asyncio.sleep(0)
    most.append(len(present))
    await asyncio.sleep(0)
    present.discard(i)
    return i
  assert outcomes_of(in_task, 12, caller) == list(range(12))
  assert max(most) == 4


def hang(event):
  """A call that hangs for i = 1 and 4 until an event: (in a thread, in a task, blocking a task)."""
  def in_thread(i):
    if i in (1, 4):
      event.wait(FOREVER)
    return i

  async def in_task(i):
    return await asyncio.sleep(FOREVER if i in (1, 4) else 0, i)

  async def stubborn(i):
    while i in (1, 4) and not event.is_set():
      try:
        await asyncio.sleep(0.01)
      except asyncio.CancelledError:
        continue
    return i

  async def blocking(i):
    return in_thread(i)
  return in_thread, in_task, stubborn, blocking


@pytest.mark.parametrize('which', range(4))
@pytest.mark.parametrize('at_once', [1, 3])
def test_a_call_that_hangs_costs_only_itself(caller, monkeypatch, which, at_once):
  monkeypatch.setattr(calls, '_BLOCKED_S', 0.5)
  event = threading.Event()
  function = hang(event)[which]
  outcomes = outcomes_of(function, 20, caller, at_once, timeout_s=1.0)
  late = calls.TIMED_OUT
  if which == 3 and at_once > 1:    # those that wait for the blocked loop may be late, too
    assert outcomes[1] is late and outcomes[4] is late
    assert sum(outcome is late for outcome in outcomes) <= 4
  else:
    assert outcomes == [late if i in (1, 4) else i for i in range(20)]
  event.set()
  assert outcomes_of(function, 1, caller) == [0]
  for thread in threading.enumerate():    # nothing is left behind
    if thread.name.startswith('reward') and thread != caller._loop._thread:
      thread.join(FOREVER)


def test_calls_see_the_context_and_may_live_beside_a_running_loop(caller):
  variable = contextvars.ContextVar('variable', default='none')

  async def notebook():
    variable.set('mine')
    return [outcomes_of(function, 2, caller) for function in (
        lambda i: variable.get(), coroutine(lambda i: variable.get()))]
  assert asyncio.run(notebook()) == [['mine'] * 2] * 2


def test_clients_keep_their_loop_from_batch_to_batch(caller):
  async def which(i):
    return asyncio.get_running_loop()
  assert len({*outcomes_of(which, 3, caller), *outcomes_of(which, 3, caller)}) == 1


def test_a_closed_loop_leaves_no_thread(caller):
  outcomes_of(coroutine(lambda i: i), 1, caller)
  thread = caller._loop._thread
  caller.close()
  assert not thread.is_alive()
  assert outcomes_of(coroutine(lambda i: i), 1, caller) == [0]    # a new one


@KINDS
def test_a_caller_that_is_stopped_abandons_what_runs_and_begins_no_more(caller, kind):
  """A call that never ends is not waited for, though it has all the time in the world."""
  begun, never = threading.Event(), threading.Event()

  def hanging(i):
    begun.set()
    never.wait(FOREVER)

  def stop():
    begun.wait(FOREVER)
    caller.stop()
  thread = threading.Thread(target=stop)
  thread.start()
  for _ in range(2):
    with pytest.raises(RuntimeError, match='abandoned, because their caller was stopped'):
      outcomes_of(kind(hanging), 1000, caller)
  thread.join()
  never.set()


def test_limits_are_declared_once_for_every_form_of_a_function():
  @calls.limits(at_once=3, timeout_s=2)
  def declared(i):
    return i

  @calls.limits(timeout_s=5.0)
  class Judge:
    async def __call__(self, i):
      return i

  assert calls.limits_of(declared) == calls.Limits(3, 2.0)
  assert calls.limits_of(functools.partial(functools.partial(declared), i=0)) == calls.Limits(3, 2)
  assert calls.limits_of(functools.wraps(declared)(lambda i: i)) == calls.Limits(3, 2)
  assert calls.limits_of(calls.limits(at_once=2)(functools.partial(declared))).at_once == 2
  assert calls.limits_of(Judge()) == calls.Limits(64, 5.0)
  assert calls.limits_of(calls.limits(timeout_s=5)(coroutine(abs))) == calls.Limits(64, 5.0)
  assert calls.limits_of(time.sleep) == calls.Limits(1, calls.TIMEOUT_S)
  assert calls.limits_of(functools.partial(coroutine(abs))).at_once == 64


def test_what_cannot_carry_limits_is_told_how():
  with pytest.raises(ValueError, match='cannot carry limits: decorate the function where'):
    calls.limits(at_once=2)([].append)


@pytest.mark.parametrize('given, message', [
    (dict(at_once=0), 'at_once must be a whole number of at least 1, got 0'),
    (dict(at_once=True), 'at_once .* got True'), (dict(at_once=1.5), 'at_once .* got 1.5'),
    (dict(timeout_s=0), 'timeout_s must be a positive number of seconds, got 0'),
    (dict(timeout_s=float('inf')), 'timeout_s .* got inf'),
    (dict(timeout_s=float('nan')), 'timeout_s .* got nan'),
    (dict(timeout_s='5'), "timeout_s .* got '5'")])
def test_impossible_limits_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    calls.limits(**given)
