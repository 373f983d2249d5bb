"""What a call of a reward function came to, in plain values that a worker process can send.

An outcome is a number, None, `calls.TIMED_OUT`, `CRASHED`, `Asks`, `Raised` or `Odd`.
"""
from collections.abc import Callable, Mapping
import dataclasses
import decimal
import math
import numbers
import traceback
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards import calls, workers
from r1jax.rewards.completion import Completion

LARGEST = 1e15    # of a reward: devices sum squares in float32, which overflows at 3e38
Question = tuple[str, str]    # gold, answer: whether two formulas are equivalent


class _Crashed:
  """The type of `CRASHED`."""


CRASHED = _Crashed()    # the outcome of a call that ended its process twice


@dataclasses.dataclass(frozen=True)
class Asks:
  """A call that cannot be answered before these questions are."""
  questions: tuple[Question, ...]


@dataclasses.dataclass(frozen=True)
class Raised:
  """An exception that a call raised.

  Attributes:
    shown: its repr.
    line: where, ' (file, line number)'; empty if unknown.
    cause: it, or in its place one with its traceback as text, if another process raised it.
  """
  shown: str
  line: str
  cause: BaseException

  @classmethod
  def of(cls, error: BaseException) -> 'Raised':
    """The exception as this process saw it."""
    return cls(shown(error), _line(error), error)


class _Known:
  """Stands in for a pool of workers: knows some answers, and notes what else is asked."""

  def __init__(self, answers: Mapping[Question, bool | None]):
    self._answers = answers
    self.missing: dict[Question, None] = {}    # in their order

  def equivalent(self, gold: str, answer: str) -> bool | None:
    if (gold, answer) in self._answers:
      return self._answers[gold, answer]
    self.missing[gold, answer] = None
    return False    # the call goes on, to ask all that it has to


class WorkerError(Exception):
  """An exception in a worker process, with its traceback as text."""

  def __str__(self) -> str:
    return f'in a worker process:\n{self.args[0]}'


@dataclasses.dataclass(frozen=True)
class Odd:
  """A call returned something that is neither a finite number nor None.

  Attributes:
    shown: its repr.
  """
  shown: str


def of_call(
    function: Callable, completion: Completion, example: Mapping,
    answers: Mapping[Question, bool | None],
) -> Any:
  """The outcome of a reward function that compares formulas only by answers that are known."""
  known = _Known(answers)
  workers.use_pool(known)
  outcome: Any
  try:
    outcome = of_value(function(completion, example))
  except BaseException as error:    # of a user's function, for whoever waits for it
    outcome = Raised.of(error)
  return Asks(tuple(known.missing)) if known.missing else outcome


def of_local(found: Any) -> Any:
  """The outcome of a call by `calls.Caller`."""
  if isinstance(found, calls.Failed):
    late = isinstance(found.error, workers.Late)
    return calls.TIMED_OUT if late else Raised.of(found.error)
  return found if found is calls.TIMED_OUT else of_value(found)


def of_value(value: Any) -> float | None | Odd:
  """The outcome of a call that returned a value."""
  if value is None:
    return None
  number = as_float(value)
  return number if math.isfinite(number) else Odd(shown(value))


def is_failure(outcome: Any) -> bool:
  """Whether an outcome ends the run."""
  return isinstance(outcome, (Raised, Odd))


def to_plain(outcome: Any) -> Any:
  """A number, None, `Asks`, `Raised` or `Odd` as what JSON can hold."""
  if isinstance(outcome, Asks):
    return {'asks': outcome.questions}
  if isinstance(outcome, Odd):
    return {'odd': outcome.shown}
  if isinstance(outcome, Raised):
    return {'raised': [outcome.shown, outcome.line,
                       ''.join(traceback.format_exception(outcome.cause))]}
  return outcome


def from_plain(plain: Any) -> Any:
  """The outcome that `to_plain` has made plain."""
  if not isinstance(plain, Mapping):
    return plain
  if 'asks' in plain:
    return Asks(tuple((gold, answer) for gold, answer in plain['asks']))
  if 'odd' in plain:
    return Odd(plain['odd'])
  error, line, text = plain['raised']
  return Raised(error, line, WorkerError(text))


def read(name: str, outcome: Any, index: int) -> float:
  """The reward of a call; NaN for None, and for a call that took too long or ended its process.

  Args:
    name: of the reward, for messages.
    outcome: of the call.
    index: of the completion, for messages.

  Raises:
    UserError: the call raised an exception, or returned something else.
  """
  if isinstance(outcome, Raised):
    raise UserError(
        f'Reward function {name!r} raised {outcome.shown} on completion {index}: '
        'fix it, or let it return None for what it cannot judge'
        f'{outcome.line}.') from outcome.cause
  if outcome is None or outcome is calls.TIMED_OUT or outcome is CRASHED:
    return math.nan
  if isinstance(outcome, Odd):
    raise UserError(
        f'Reward function {name!r} returned {outcome.shown} for completion {index}: '
        'let it return a finite number, or None for what it cannot judge.')
  if abs(outcome) > LARGEST:
    raise UserError(
        f'Reward function {name!r} returned {outcome} for completion {index}, which is too '
        f'large for the float32 of devices: let it return numbers from {-LARGEST:g} to '
        f'{LARGEST:g}.')
  return outcome


def as_float(value: Any) -> float:
  """A number, or an array of no dimensions (of numpy, jax or torch), as a float; NaN for others."""
  if not isinstance(value, (numbers.Real, decimal.Decimal)) and getattr(value, 'shape', None) == ():
    value = value.item()
  if not isinstance(value, (numbers.Real, decimal.Decimal)):
    return math.nan
  try:
    return float(value)
  except (OverflowError, ValueError):    # too large, or a signalling NaN
    return math.nan


def shown(value: Any, limit: int = 100) -> str:
  """A value in messages, briefly."""
  try:
    text = repr(value)
  except Exception as error:
    text = f'something whose repr raises {error!r}'
  return text if len(text) <= limit else f'{text[:limit]}...'


def _line(error: BaseException) -> str:
  """Where a function raised an error: the last of its own lines, in parentheses."""
  frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)
            if not _calls(frame.filename)]
  own = [frame for frame in frames if frame[0] == frames[0][0]]
  return f' ({own[-1][0]}, line {own[-1][1]})' if own else ''


def _calls(file: str) -> bool:
  """Whether a frame is one of those that only call a reward function."""
  return file in (calls.__file__, __file__) or '/asyncio/' in file
