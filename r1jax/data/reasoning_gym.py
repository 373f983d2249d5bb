"""Generated tasks of the package `reasoning-gym`: its generators, never its scorers.

Some of its scorers evaluate the answer as code, hang on it, or give full marks to junk, and some of
its tasks do not accept their own reference answers. `TASKS` are those whose answers can be judged
by exact comparison.
"""

from __future__ import annotations

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


def reasoning_gym_source(task: str, size: int, seed: int, **config: Any) -> ReasoningGymSource:
  """A random-access source of {'question', 'answer', 'task'}; examples are generated on access.

  Sources of different seeds share no generator seed. (The package generates example i of seed s
  from the random seed s + i, so its seeds 0 and 1 give the same examples, shifted by one.)

  Args:
    task: one of `TASKS`.
    size: number of examples, from 1 to 2**32 - 1.
    seed: any integer from 0.
    **config: the task's own settings, such as `min_terms`.

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
  try:
    dataset = reasoning_gym.create_dataset(
        task, size=size, seed=seed * _SEED_STRIDE, **config)
  except (AssertionError, TypeError, ValueError) as error:
    raise UserError(
        f'reasoning-gym task {task!r} rejects the settings {config}: {error}.') from None
  return ReasoningGymSource(task, dataset)


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
