"""The settings of reward functions: their keyword-only parameters.

    @checked(_faults)
    def code_reward(completion, example, *, score: Literal['all', 'share'] = 'all',
                    timeout_s: float = 10.0) -> float | None: ...

Types are those of the defaults; where a default is None, that of the annotation. `Literal` lists
the values that are allowed, and `checked` declares a function that finds what else is wrong. The
parameter `prompt_opens_think` is no setting: whoever renders the prompts knows it.
"""
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import inspect
import re
import types
import typing
from typing import Any, TypeVar

from r1jax.errors import UserError

OPENS_THINK = 'prompt_opens_think'
_FAULTS = 'r1jax_setting_faults'
_NEEDS = 'r1jax_needs'
_DESCRIBED = re.compile(r'(\w+): (.*)')
_Function = TypeVar('_Function', bound=Callable)
Faults = Callable[[Mapping[str, Any]], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A setting of a reward function.

  Attributes:
    default: its value where nothing is set.
    type: of its values, besides None where that is the default.
    choices: the values that are allowed, if only some are.
    meaning: what the function's docstring says of it under `Args:`.
  """
  default: Any
  type: type
  choices: tuple
  meaning: str


def checked(faults: Faults) -> Callable[[_Function], _Function]:
  """Decorates a reward function with what finds faults in its settings that their types allow.

  Args:
    faults: gets all settings by name, those that were not given as their defaults, and returns
      sentences that begin with a setting's name: 'timeout_s must be above 0, got -1'.
  """
  def declare(function: _Function) -> _Function:
    setattr(function, _FAULTS, faults)
    return function
  return declare


def faults_of(function: Callable) -> Faults:
  """What `checked` declared of a function, or of the one that a `functools.partial` calls."""
  return getattr(_inner(function), _FAULTS, lambda settings: ())


def needs(check: Callable[[Mapping[str, Any]], None]) -> Callable[[_Function], _Function]:
  """Decorates a reward function with a check of what it needs of the machine.

  Args:
    check: gets all settings by name, and raises UserError where something is missing. It is called
      once a run begins, before anything is loaded.
  """
  def declare(function: _Function) -> _Function:
    setattr(function, _NEEDS, check)
    return function
  return declare


def check_needs(function: Callable, settings: Mapping[str, Any]) -> None:
  """Checks what `needs` declared of a function, or of the one that a `functools.partial` calls.

  Args:
    function: the reward function.
    settings: those that are not left at their defaults.

  Raises:
    UserError: something is missing.
  """
  check = getattr(_inner(function), _NEEDS, None)
  if check is not None:
    check({name: one.default for name, one in settings_of(function).items()} | dict(settings))


def settings_of(function: Callable) -> dict[str, Parameter]:
  """The settings of a reward function by name, without those that a `functools.partial` has set.

  Raises:
    UserError: a keyword-only parameter has no default.
  """
  found = {name: parameter for name, parameter in _keyword_only(function).items()
           if name != OPENS_THINK and name not in _set_by_partials(function)}
  meanings = _meanings(inspect.getdoc(_inner(function)) or '')
  for name, parameter in found.items():
    if parameter.default is parameter.empty:
      raise UserError(f'The parameter {name!r} of reward function {function!r} has no default: '
                      'give it one')
  return {name: Parameter(parameter.default, *_allowed(parameter), meanings.get(name, 'a setting'))
          for name, parameter in found.items()}


def bind(function: Callable, settings: Mapping[str, Any], *, prompt_opens_think: bool) -> Callable:
  """A reward function with its settings, and with `prompt_opens_think` if it takes that."""
  given = dict(settings)
  if OPENS_THINK in _keyword_only(function):
    given[OPENS_THINK] = prompt_opens_think
  return functools.partial(function, **given) if given else function


def _inner(function: Callable) -> Callable:
  while isinstance(function, functools.partial):
    function = function.func
  return function


def _set_by_partials(function: Callable) -> set[str]:
  found: set[str] = set()
  while isinstance(function, functools.partial):
    found |= function.keywords.keys()
    function = function.func
  return found


def _keyword_only(function: Callable) -> dict[str, inspect.Parameter]:
  try:
    signature = inspect.signature(_inner(function), eval_str=True)
  except (ValueError, TypeError, NameError):    # built in, or its annotations cannot be read
    try:
      signature = inspect.signature(_inner(function))
    except (ValueError, TypeError):
      return {}
  return {name: parameter for name, parameter in signature.parameters.items()
          if parameter.kind is parameter.KEYWORD_ONLY}


def _allowed(parameter: inspect.Parameter) -> tuple[type, tuple]:
  """(the type of a parameter's values, those that are allowed if only some are)."""
  choices: list = []
  kinds = []
  annotation = parameter.annotation
  for one in (typing.get_args(annotation) if typing.get_origin(annotation) in (
      typing.Union, types.UnionType) else (annotation,)):
    if typing.get_origin(one) is typing.Literal:
      choices += typing.get_args(one)
    elif one is not types.NoneType and isinstance(typing.get_origin(one) or one, type):
      kinds.append(typing.get_origin(one) or one)
  if parameter.default is not None:
    return type(parameter.default), tuple(choices)
  if choices:
    return type(choices[0]), tuple(choices)
  return (kinds[0] if kinds and kinds[0] is not parameter.empty else object), ()


def _meanings(doc: str) -> dict[str, str]:
  """What the part `Args:` of a docstring says of each parameter, up to the first full stop."""
  found: dict[str, str] = {}
  name = ''
  for line in doc.partition('Args:\n')[2].splitlines():
    if line[:1].strip() or not line.strip():
      break
    described = _DESCRIBED.match(line.strip())
    if described and len(line) - len(line.lstrip()) == 2:
      name, text = described.groups()
      found[name] = text
    elif name:
      found[name] += ' ' + line.strip()
  return {name: re.split(r'\.(?: |$)', text)[0] for name, text in found.items()}
