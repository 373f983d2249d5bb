"""Reward functions called in worker processes, so that none holds the trainer's interpreter.

These are r1jax's own, and those that `addresses.load` has loaded from a file: another process can
load them, too. A worker gets the texts and examples of a few dozen completions at a time as plain
data, and answers call by call (see `rule_worker`). A call that ends its process is made once more.
Where functions compare formulas, a worker returns its questions; they are put to the pool of
`workers`, each once, and the call is repeated with the answers.
"""
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import json
import marshal
import sys
import threading
import time
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards import addresses, calls, outcomes, processes, rule_worker, workers
from r1jax.rewards.completion import Completion

_COMMAND = (sys.executable, '-P', '-m', 'r1jax.rewards.rule_worker')
_START_SECONDS = 120.0
_GRACE_SECONDS = 1.0      # for the kernel's timer to end a worker; a stopped one outlives it
_CHARACTERS = 200_000     # of the texts that a worker gets at a time, more or less
_CALLS = 256              # that a worker makes at a time
_GATHER_SECONDS = 0.005   # lines of a worker are read so often

Call = tuple[int, int]    # the places of a completion and of a function


@dataclasses.dataclass(frozen=True)
class Rule:
  """A function that a worker can call.

  Attributes:
    name: of the reward.
    function: as this process calls it.
    described: as a worker finds it.
    limits: of its calls.
  """
  name: str
  function: Callable
  described: tuple
  limits: calls.Limits


def rule_of(name: str, function: Callable) -> Rule | None:
  """The rule that a function is; None if only this process can call it, or many calls at once.

  Settings in a `functools.partial` must be plain data.
  """
  limits, described = calls.limits_of(function), _describe(function)
  if described is None or limits.at_once > 1 or calls.is_async(function):
    return None
  return Rule(name, function, described, limits)


def _describe(function: Callable) -> tuple | None:
  """(address, plain keywords, keywords that are functions); None if a worker cannot load it."""
  plain: dict[str, Any] = {}
  while isinstance(function, functools.partial) and not function.args:
    plain = function.keywords | plain
    function = function.func
  address = addresses.address_of(function)
  functions = {name: _describe(value) for name, value in plain.items() if callable(value)}
  plain = {name: value for name, value in plain.items() if name not in functions}
  if not address or None in functions.values() or not _is_plain(plain):
    return None
  return address, plain, functions


def _is_plain(value: Any) -> bool:
  """Whether a value is built of numbers, texts, tuples, lists, sets and dicts alone."""
  try:
    marshal.dumps(value)
  except ValueError:
    return False
  return True


class Rules:
  """Rules, and the worker processes that call them.

  Attributes:
    crashes: number of calls that ended two processes.
    retries: number of calls that were made once more, because their process ended.
  """

  def __init__(self, rules: Sequence[Rule], num_workers: int, caller: calls.Caller):
    """Starts no process.

    Args:
      rules: the functions.
      num_workers: the largest number of processes.
      caller: calls rules in threads of this process where examples are no plain data.
    """
    self.crashes = self.retries = 0
    self._rules = rules
    self._num_workers, self._caller = num_workers, caller
    self._lock = threading.Lock()
    self._idle: list[processes.Process] = []
    self._busy: set[processes.Process] = set()
    self._stopped = False

  def judge(
      self, completions: Sequence[Completion], examples: Sequence[Mapping],
      asked: workers.AskedOnce, deadline: float,
  ) -> dict[str, list[Any]]:
    """The outcomes of all rules, by name, in the order of the completions.

    After a failure no further calls begin: only that of the first completion is kept.

    Args:
      completions: N completions.
      examples: the N examples that they answer.
      asked: compares formulas.
      deadline: the time, by `time.monotonic`, when what has not been judged is `TIMED_OUT`.

    Raises:
      RuntimeError: `stop` was called.
      UserError: no worker starts.
    """
    batch = _Batch(self._rules, completions, examples, deadline)
    todo: list[Call] = [
        (place, which) for place in range(len(completions)) for which in range(len(self._rules))]
    in_processes = all(_is_plain(example) for example in {
        id(example): example for example in examples}.values())
    while todo:
      if in_processes:
        self._call_in_processes(batch, todo)
      else:
        self._call_here(batch, todo)
      if batch.failed:
        break
      todo = batch.take_answers(self._ask(batch.questions(), asked))
    return batch.outcomes_by_name()

  def warm(self) -> None:
    """Starts a process, without waiting for it."""
    if self._rules and not (self._idle or self._busy):
      with self._lock:
        self._idle.append(processes.Process(_COMMAND, errors=None))

  def stop(self) -> None:
    """Ends the processes in the midst of their calls: who waits for them gets a RuntimeError."""
    with self._lock:
      self._stopped = True
      for process in self._busy:
        process.stop()

  def close(self) -> None:
    """Ends the processes that are idle."""
    with self._lock:
      while self._idle:
        self._idle.pop().kill()

  def _ask(
      self, questions: Sequence[outcomes.Question], asked: workers.AskedOnce,
  ) -> dict[outcomes.Question, Any]:
    """Verdicts by question: True, False, None, `TIMED_OUT` after the deadline, or `Raised`."""
    found: dict[outcomes.Question, Any] = {}
    failed = threading.Event()

    def ask(question: outcomes.Question) -> None:
      if failed.is_set():
        return
      try:
        found[question] = asked.equivalent(*question)
      except workers.Late:
        found[question] = calls.TIMED_OUT
      except Exception as error:
        found[question] = outcomes.Raised.of(error)
        failed.set()
    unique = dict.fromkeys(questions)
    asked.note_repeats(len(questions) - len(unique))
    if unique:
      with ThreadPoolExecutor(min(len(unique), asked.num_workers)) as threads:
        list(threads.map(ask, unique))
    self.check_stopped()
    return found

  def _call_here(self, batch: '_Batch', todo: Sequence[Call]) -> None:
    for which, rule in enumerate(self._rules):
      own = [call for call in todo if call[1] == which]
      found = self._caller.call_all(
          outcomes.of_call, [(rule.function, *batch.arguments(call)) for call in own],
          rule.limits, batch.deadline)
      for call, outcome in zip(own, found):
        batch.put(call, outcome)

  def _call_in_processes(self, batch: '_Batch', todo: Sequence[Call]) -> None:
    chunks = batch.chunks(todo)
    waiting = iter(chunks)

    def lane() -> None:
      while not batch.failed:
        with self._lock:
          chunk = next(waiting, None)
        if chunk is None:
          return
        _Chunk(self, batch, chunk).run()
    with ThreadPoolExecutor(min(self._num_workers, len(chunks))) as threads:
      for future in [threads.submit(lane) for _ in range(min(self._num_workers, len(chunks)))]:
        future.result()

  def begin(self) -> processes.Process:
    """A process that is idle, or a new one."""
    with self._lock:
      self.check_stopped()
      while self._idle:
        process = self._idle.pop()
        if process.alive:
          break
        process.kill()
      else:
        process = processes.Process(_COMMAND, errors=None)
      self._busy.add(process)
      return process

  def end(self, process: processes.Process, *, healthy: bool) -> None:
    """Takes a process back; one that is not healthy is killed."""
    with self._lock:
      self._busy.remove(process)
      if healthy:
        self._idle.append(process)
      else:
        process.kill()

  def count(self, name: str) -> None:
    """Adds one to an attribute."""
    with self._lock:
      setattr(self, name, getattr(self, name) + 1)

  def check_stopped(self) -> None:
    """Raises RuntimeError if `stop` was called."""
    if self._stopped:
      raise RuntimeError('these calls were abandoned, because their rules were stopped')


class _Batch:
  """The calls of a batch and their outcomes."""

  def __init__(
      self, rules: Sequence[Rule], completions: Sequence[Completion], examples: Sequence[Mapping],
      deadline: float,
  ):
    self.rules, self.deadline = rules, deadline
    self.failed = False
    self._completions, self._examples = completions, examples
    self._outcomes: dict[Call, Any] = {}
    self._answers: dict[Call, dict[outcomes.Question, bool | None]] = {}

  @property
  def late(self) -> bool:
    """Whether the deadline has passed."""
    return time.monotonic() >= self.deadline

  def put(self, call: Call, outcome: Any) -> None:
    """Keeps a call's outcome."""
    self._outcomes[call] = outcome
    if outcomes.is_failure(outcome):
      self.failed = True

  def arguments(self, call: Call) -> tuple:
    """(completion, example, known answers) of a call."""
    return self._completions[call[0]], self._examples[call[0]], self._answers.get(call, {})

  def chunks(self, todo: Sequence[Call]) -> list[list[Call]]:
    """The calls in parts that a worker gets at a time, in their order."""
    found: list[list[Call]] = []
    characters, last = 0, -1
    for call in todo:
      if not found or characters > _CHARACTERS or len(found[-1]) == _CALLS:
        found.append([])
        characters, last = 0, -1
      found[-1].append(call)
      if call[0] != last:
        last = call[0]
        characters += len(self._completions[last].text)
    return found

  def message(self, chunk: Sequence[Call]) -> bytes:
    """A message for `rule_worker`."""
    places = {place: index for index, place in enumerate(dict.fromkeys(
        place for place, _ in chunk))}
    body = marshal.dumps((
        [(rule.described, rule.limits.timeout_s) for rule in self.rules],
        [dataclasses.astuple(self._completions[place]) for place in places],
        [self._examples[place] for place in places],
        [(places[call[0]], call[1], self._answers.get(call, {})) for call in chunk]))
    return len(body).to_bytes(8) + body

  def questions(self) -> list[outcomes.Question]:
    """Those that calls ask, as often as they do."""
    return [question for outcome in self._outcomes.values() if isinstance(outcome, outcomes.Asks)
            for question in outcome.questions]

  def take_answers(self, verdicts: Mapping[outcomes.Question, Any]) -> list[Call]:
    """Gives calls their answers; returns those to be made again."""
    again = []
    for call, outcome in self._outcomes.items():
      if isinstance(outcome, outcomes.Asks):
        found = {question: verdicts[question] for question in outcome.questions
                 if question in verdicts}
        odd = next((verdict for verdict in found.values()
                    if not (verdict is None or isinstance(verdict, bool))), None)
        if odd is not None:
          self.put(call, odd)
        elif len(found) == len(outcome.questions):
          self._answers.setdefault(call, {}).update(found)
          again.append(call)
    return [] if self.failed else sorted(again)

  def outcomes_by_name(self) -> dict[str, list[Any]]:
    """The outcomes in order; of several failures, that of the first completion alone."""
    kept = self._outcomes
    if self.failed:
      first = min(call for call, outcome in kept.items()
                  if outcomes.is_failure(outcome))
      kept = {first: kept[first]}
    return {rule.name: [kept.get((place, which)) for place in range(len(self._completions))]
            for which, rule in enumerate(self.rules)}


class _Chunk:
  """A few calls that a worker process makes in their order."""

  def __init__(self, rules: Rules, batch: _Batch, todo: list[Call]):
    self._rules, self._batch, self._todo = rules, batch, todo
    self._done = 0
    self._failed = False
    self._crashed = -1    # the number of calls that were done when a process crashed
    self._not_begun = 0   # processes that ended before they made a call

  def run(self) -> None:
    """Makes the calls up to the first that fails, in a new process after one that has ended."""
    while self._done < len(self._todo) and not self._failed:
      if self._batch.late:
        self._put(*[calls.TIMED_OUT] * (len(self._todo) - self._done))
        return
      process, healthy = self._rules.begin(), False
      try:
        healthy = self._converse(process)
      except processes.Timeout:
        if not self._batch.late:
          self._put(calls.TIMED_OUT)
      except processes.Crash:
        self._rules.check_stopped()
        self._take_crash()
      finally:
        self._rules.end(process, healthy=healthy)

  def _converse(self, process: processes.Process) -> bool:
    """Reads outcomes until all are there, or a call has failed; False if none was made."""
    batch = self._batch
    try:
      process.send(batch.message(self._todo[self._done:]), self._left(_START_SECONDS))
      lines = process.lines(self._left(_START_SECONDS))
    except (processes.Timeout, processes.Crash) as error:
      self._rules.check_stopped()
      self._take_bad_start(error)
      return False
    if lines[0] != rule_worker.BEGUN:
      self._put(outcomes.from_plain(json.loads(lines[0])))
      return True
    del lines[0]
    while True:
      self._put(*map(outcomes.from_plain, json.loads(b'[%b]' % b','.join(lines))))
      if self._done == len(self._todo) or self._failed:
        return True
      time.sleep(_GATHER_SECONDS)
      limit = batch.rules[self._todo[self._done][1]].limits.timeout_s
      lines = process.lines(self._left(limit + _GRACE_SECONDS))

  def _left(self, seconds: float) -> float:
    return min(seconds, self._batch.deadline - time.monotonic())

  def _put(self, *found: Any) -> None:
    for outcome in found:
      self._batch.put(self._todo[self._done], outcome)
      self._failed |= outcomes.is_failure(outcome)
      self._done += 1

  def _take_bad_start(self, error: Exception) -> None:
    """Lets another process make the calls, unless two have not begun.

    Raises:
      UserError: two have not.
    """
    self._not_begun += 1
    if not self._batch.late and self._not_begun == 2:
      raise UserError('a reward worker did not start: run `python -m r1jax.rewards.rule_worker` to '
                      'see why') from error

  def _take_crash(self) -> None:
    """Lets the call that was being made be made once more, unless it was before."""
    if self._crashed == self._done:
      self._rules.count('crashes')
      self._put(outcomes.CRASHED)
    else:
      self._rules.count('retries')
      self._crashed = self._done
