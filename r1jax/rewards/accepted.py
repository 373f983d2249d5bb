"""Examples that have several accepted answers."""
from collections.abc import Callable, Mapping
import functools
from typing import TypeVar, cast

from r1jax.rewards.completion import Completion

Reward = TypeVar('Reward', bound=Callable)


def any_accepted(reward: Reward) -> Reward:
  """A reward function that gives the best of its rewards over an example's accepted answers.

  `example['answers']` has them all, where there are several; `reward` sees each as
  `example['answer']`. Answers with which it cannot judge (None) do not count, unless it can judge
  with none of them. Without any answer it gives None.
  """
  @functools.wraps(reward)
  def best(completion: Completion, example: Mapping, **settings) -> float | None:
    if not example.get('answers'):
      return reward(completion, example, **settings) if 'answer' in example else None
    found = None
    for answer in example['answers']:
      value = reward(completion, {**example, 'answer': answer}, **settings)
      if value is not None and (found is None or value > found):
        found = value
      if found is not None and found >= 1:
        break
    return found
  return cast(Reward, best)
