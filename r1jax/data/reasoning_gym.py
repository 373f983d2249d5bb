"""Generated tasks of the package `reasoning-gym`: its generators, never its scorers.

Some of its scorers evaluate the answer as code, hang on it, or give full marks to junk, and some of
its tasks do not accept their own reference answers. `TASKS` are those whose answers can be judged
by exact comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import importlib.util
import math
from typing import Any

from r1jax import checks
from r1jax.errors import UserError
from r1jax.runtime import extras

TASKS = (
    'base_conversion',
    'basic_arithmetic',
    'chain_sum',
    'gcd',
    'lcm',
    'leg_counting',
    'letter_counting',
    'number_sorting',
    'products',
    'simple_equations',
    'spell_backward',
)

_SEED_STRIDE = 2**32


def reasoning_gym_source(
    task: str, size: int, seed: int, settings: Mapping[str, Any] | None = None,
) -> ReasoningGymSource:
  """A random-access source of {'question', 'answer', 'task'}; examples are generated on access.

  Sources of different seeds share no generator seed. (The package generates example i of seed s
  from the random seed s + i, so its seeds 0 and 1 give the same examples, shifted by one.)

  Args:
    task: one of `TASKS`.
    size: number of examples, from 1 to 2**32 - 1.
    seed: any integer from 0.
    settings: the task's own, such as {'min_terms': 2}.

  Raises:
    ModuleNotFoundError: the package is not installed.
    UserError: the task is not in `TASKS` or rejects a setting, or an argument is out of range.
  """
  if task not in TASKS:
    raise UserError(f'{task!r} is not one of the supported reasoning-gym tasks: '
                     f'{checks.did_you_mean(task, TASKS)}.')
  if not 0 < size < _SEED_STRIDE or seed < 0:
    raise UserError(
        f'reasoning-gym task {task!r} cannot have size={size} and seed={seed}: use a size from 1 '
        'to 2**32 - 1 and a seed of at least 0.')
  reasoning_gym = extras.require(
      'reasoning_gym', extra='reasoning-gym', purpose=f'The task {task!r}')
  for fault in setting_faults(task, settings or {}):
    raise UserError(f'reasoning-gym task {task!r}: {fault}.')
  return ReasoningGymSource(task, reasoning_gym.create_dataset(
      task, size=size, seed=seed * _SEED_STRIDE, **(settings or {})))


def setting_faults(task: str, config: Mapping[str, Any]) -> Iterator[str]:
  """What is wrong with a task's own settings, as sentences; nothing without the package.

  Each setting must have the type of its default. `size` and `seed` are not among them.
  """
  if not config or importlib.util.find_spec('reasoning_gym') is None:
    return
  from reasoning_gym.factory import DATASETS
  settings_class = DATASETS[task][1]
  known = {field.name: field.default if field.default_factory is dataclasses.MISSING
           else field.default_factory() for field in dataclasses.fields(settings_class)
           if field.name not in ('size', 'seed')}
  found = []
  for name, value in config.items():
    if name not in known:
      found.append(f'settings.{name} is not a setting of the task {task!r}: '
                   f'{checks.did_you_mean(name, known)}')
    elif not _has_type_of(known[name], value):
      found.append(f'settings.{name} must be of the type of its default, {known[name]!r}, got '
                   f'{value!r}')
  yield from found
  if not found:
    try:
      settings_class(**config, size=1, seed=0).validate()
    except Exception as error:    # Its checks are asserts, and raise whatever a wrong value causes.
      yield f'settings={dict(config)!r} is refused by the task {task!r} ({error})'


def _has_type_of(default: Any, value: Any) -> bool:
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(value, float) and not math.isfinite(value):
    return False
  for kinds in ((int,), (int, float), (list, tuple)):
    if isinstance(default, kinds):
      return isinstance(value, kinds)
  return default is None or isinstance(value, type(default))


class ReasoningGymSource:
  """The examples of one reasoning-gym task, as {'question', 'answer', 'task'}."""

  def __init__(self, task: str, dataset: Any):
    self._task = task
    self._dataset = dataset

  def __len__(self) -> int:
    return len(self._dataset)

  def __getitem__(self, index: int) -> dict[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(f'example {index} of {len(self)} examples')
    row = self._dataset[index]
    return {'question': row['question'], 'answer': str(row['answer']), 'task': self._task}
