"""Generated tasks of the package `reasoning-gym`: its generators, never its scorers.

Several of its scorers evaluate the answer, hang on it, or give full marks to junk; and some of its
tasks fail their own oracle. `TASKS` are those whose answers exact comparison can judge.
"""

from __future__ import annotations

from typing import Any

from r1jax import checks

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
  """A random-access source of {'question', 'answer', 'task'}, each example made when asked for.

  Sources of different seeds share no generator seed. (The package makes example i of seed s from
  the random seed s + i, so that its seeds 0 and 1 give the same examples, moved by one.)

  Args:
    task: one of `TASKS`.
    size: the number of examples, below 2**32.
    seed: any integer from 0.
    **config: the task's own settings, such as `min_terms`.

  Raises:
    ValueError: the task is not in `TASKS`, or refuses a setting.
  """
  if task not in TASKS:
    raise ValueError(f'{task!r} is not among the reasoning-gym tasks in use: '
                     f'{checks.did_you_mean(task, TASKS)}.')
  if not 0 < size < _SEED_STRIDE or seed < 0:
    raise ValueError(
        f'reasoning-gym task {task!r} has size={size} and seed={seed}: take a size from 1 to '
        '2**32 - 1 and a seed from 0.')
  import reasoning_gym

  try:
    dataset = reasoning_gym.create_dataset(
        task, size=size, seed=seed * _SEED_STRIDE, **config)
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(
        f'reasoning-gym task {task!r} refuses the settings {config}: {error}.') from None
  return ReasoningGymSource(task, dataset)


class ReasoningGymSource:
  """The examples of one task; see `reasoning_gym_source`."""

  def __init__(self, task: str, dataset: Any):
    self._task = task
    self._dataset = dataset

  def __len__(self) -> int:
    return len(self._dataset)

  def __getitem__(self, index: int) -> dict[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(f'Example {index} of {len(self)}.')
    row = self._dataset[index]
    return {'question': row['question'], 'answer': str(row['answer']), 'task': self._task}
