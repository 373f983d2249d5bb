"""Rewards as weighted sums of functions, computed in the background.

    suite = RewardSuite(named_rewards({'format': 1.0, 'number': 1.0}))
    pending = suite.submit(completions, examples)   # returns at once
    ...
    rewards = pending.collect()

A reward function is `(completion: Completion, example: Mapping) -> float | None`; None means that
it cannot judge the completion. Functions run in a background thread of this process, one after
another in the order given, so a function written in a notebook may be a closure. Those of
`_WAITING` run in several threads, because they wait for worker processes.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import functools
import math
import numbers

import numpy as np

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards import accuracy, workers
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward
from r1jax.rewards.language import LANGUAGES, language_reward
from r1jax.rewards.skills import skill_reward

RewardFunction = Callable[[Completion, Mapping], float | None]

REWARDS: dict[str, RewardFunction] = {
    'format': format_reward,
    'number': accuracy.number_reward,
    'gsm8k': accuracy.gsm8k_reward,
    'choice': accuracy.choice_reward,
    'exact_match': accuracy.exact_match_reward,
    'skill': skill_reward,
    'language': language_reward,    # the question's own language; `language_zh` is always Chinese
    **{f'language_{name}': functools.partial(language_reward, target=name) for name in LANGUAGES},
}
_WAITING = (accuracy.number_reward,)
LARGEST = 1e18    # of a reward: devices compute in float32, where squares overflow from 2e19 on


def named_rewards(
    weights: Mapping[str, float], *, prompt_opens_think: bool = False,
) -> dict[str, tuple[RewardFunction, float]]:
  """The functions of `REWARDS` that a config names, with their weights, for `RewardSuite`.

  Args:
    weights: weight of each reward, by name.
    prompt_opens_think: whether the prompt ends with `<think>` (see `format_reward`,
      `skill_reward`).

  Raises:
    UserError: an unknown name.
  """
  functions = {}
  for name, weight in weights.items():
    if name not in REWARDS:
      raise UserError(f'There is no reward named {name!r}: {checks.did_you_mean(name, REWARDS)}.')
    function = REWARDS[name]
    if function in (format_reward, skill_reward):
      function = functools.partial(function, prompt_opens_think=prompt_opens_think)
    functions[name] = (function, weight)
  return functions


@dataclasses.dataclass(frozen=True)
class Rewards:
  """The rewards of N completions, in their order.

  Attributes:
    total: [N] float64, the weighted sum of the components, NaN where `weigh` finds none.
    components: by reward name, [N] float64 before weighting, NaN for None.
    counters: `unjudged/<name>`, the number of None, and `unjudged/reward`, that of the totals;
      `timeouts` and `crashes` of workers, each of which scored 0.
  """
  total: np.ndarray
  components: dict[str, np.ndarray]
  counters: dict[str, int]

  @classmethod
  def weigh(
      cls, components: dict[str, np.ndarray], weights: Mapping[str, float],
      counters: Mapping[str, int], *, group_size: int,
  ) -> 'Rewards':
    """Rewards whose total is Σ weight × component, over the rewards that can judge a group.

    A reward that judges no completion of a group says nothing of it and is left out of the group's
    totals: its gold cannot be read, or its rule is for other tasks. A completion that a reward
    could not judge, while it judged another one of the group, cannot be compared with that one: its
    total is NaN. So is the total of what no reward judged. Rewards of weight 0 are only logged.

    Args:
      components: by reward name, [N] float64, a group's together, NaN for None.
      weights: by the same names.
      counters: as of the class.
      group_size: G, a divisor of N.

    Raises:
      UserError: a total is too large for the float32 of a device.
    """
    total = np.zeros(len(next(iter(components.values()))))
    for name, weight in weights.items():
      total += weight * np.nan_to_num(components[name])
    _check_totals(total, components, weights)
    weighted = [name for name, weight in weights.items() if weight] or list(weights)
    judged = ~np.isnan([components[name] for name in weighted]).reshape(
        len(weighted), -1, group_size)
    left_out = ~judged.any(2, keepdims=True)
    comparable = (judged | left_out).all(0) & judged.any(0)
    total[~comparable.reshape(-1)] = np.nan
    return cls(total, components, {**counters, 'unjudged/reward': int((~comparable).sum())})

  @classmethod
  def concatenate(cls, parts: Sequence['Rewards']) -> 'Rewards':
    """The rewards of the completions of all parts, one part after the other; counters are added.

    Parts may have been judged by different rewards: a component that a part lacks is NaN there.
    """
    names = dict.fromkeys(name for part in parts for name in part.components)
    counted = dict.fromkeys(name for part in parts for name in part.counters)
    return cls(
        np.concatenate([part.total for part in parts]),
        {name: np.concatenate([part.components.get(name, np.full(len(part.total), np.nan))
                               for part in parts]) for name in names},
        {name: sum(part.counters.get(name, 0) for part in parts) for name in counted})

  def split(self, count: int) -> list['Rewards']:
    """The rewards of `count` equally large parts of the completions, without counters."""
    components = {name: np.split(values, count) for name, values in self.components.items()}
    return [Rewards(total, {name: parts[i] for name, parts in components.items()}, {})
            for i, total in enumerate(np.split(self.total, count))]

  def scatter(self, owners: np.ndarray) -> 'Rewards':
    """Rewards concatenated by host, put into the order of the completions.

    Args:
      owners: [N], the host that judged each completion. Each host's rewards are in the order of
        the completions that it judged.
    """
    places = np.argsort(np.argsort(owners, kind='stable'))
    return Rewards(
        self.total[places], {name: values[places] for name, values in self.components.items()},
        self.counters)


class PendingRewards:
  """Rewards that are being computed."""

  def __init__(self, wait: Callable[[], Rewards]):
    """Wraps `wait`, which returns the rewards once they are computed."""
    self._wait = functools.cache(wait)

  def collect(self) -> Rewards:
    """Waits for the rewards; further calls return the same ones.

    Raises:
      UserError: a reward function raised an exception, or returned something that is neither a
        finite number nor None.
    """
    return self._wait()


class RewardSuite:
  """Reward functions with weights, and the worker processes that some of them use."""

  def __init__(
      self,
      functions: Mapping[str, tuple[RewardFunction, float]],
      *,
      num_workers: int = 2,
      timeout_s: float = 5.0,
  ):
    """Starts no process; workers are started when they are first needed.

    Args:
      functions: (reward function, weight) by the name under which the component is logged.
      num_workers: the greatest number of worker processes.
      timeout_s: seconds that a worker may take for one answer.

    Raises:
      UserError: no functions, or a weight that is not a finite number.
    """
    if not functions:
      raise UserError('functions is empty: a reward suite needs at least one reward function.')
    for name, (_, weight) in functions.items():
      if not isinstance(weight, numbers.Real) or not math.isfinite(weight):
        raise UserError(f'The weight of reward {name!r} is {weight!r}: give a finite number.')
    self._functions = dict(functions)
    self._pool = workers.WorkerPool(num_workers, timeout_s)
    threads = functools.partial(
        ThreadPoolExecutor, initializer=workers.use_pool, initargs=(self._pool,))
    self._background = threads(max_workers=1)
    self._waiting = threads(max_workers=num_workers)

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each reward, by name."""
    return {name: weight for name, (_, weight) in self._functions.items()}

  def submit(
      self, completions: Sequence[Completion], examples: Sequence[Mapping], *, group_size: int = 1,
  ) -> PendingRewards:
    """Starts computing the rewards of N completions and returns at once.

    Args:
      completions: N completions, a group's together.
      examples: the N examples they answer; a group repeats its example.
      group_size: the completions that are compared with each other, see `Rewards.weigh`.

    Raises:
      UserError: the numbers of completions and examples differ, or group_size does not divide them.
    """
    if len(completions) != len(examples):
      raise UserError(
          f'There are {len(completions)} completions for {len(examples)} examples: '
          'give one example for each completion.')
    if group_size < 1 or len(completions) % group_size:
      raise UserError(f'group_size must divide the {len(completions)} completions, got '
                      f'{group_size}.')
    future = self._background.submit(
        self._compute, tuple(completions), tuple(examples), group_size)
    return PendingRewards(future.result)

  def close(self) -> None:
    """Ends threads and workers after they have computed what was submitted."""
    self._background.shutdown()
    self._waiting.shutdown()
    self._pool.close()

  def __enter__(self) -> 'RewardSuite':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _compute(
      self, completions: Sequence[Completion], examples: Sequence[Mapping], group_size: int,
  ) -> Rewards:
    timeouts, crashes = self._pool.timeouts, self._pool.crashes
    components, counters = {}, {}
    for name, (function, _) in self._functions.items():
      apply = self._waiting.map if function in _WAITING else map
      component = np.fromiter(
          apply(functools.partial(_checked_reward, name, function), range(len(completions)),
                completions, examples),
          np.float64, count=len(completions))
      components[name] = component
      counters[f'unjudged/{name}'] = int(np.isnan(component).sum())
    counters['timeouts'] = self._pool.timeouts - timeouts
    counters['crashes'] = self._pool.crashes - crashes
    return Rewards.weigh(components, self.weights, counters, group_size=group_size)


def _check_totals(
    total: np.ndarray, components: Mapping[str, np.ndarray], weights: Mapping[str, float],
) -> None:
  if np.all(np.abs(total) <= LARGEST):
    return
  n = int(np.argmax(~(np.abs(total) <= LARGEST)))
  values = {name: components[name][n] for name in weights}
  name = max(values, key=lambda name: np.nan_to_num(abs(weights[name] * values[name])))
  raise UserError(
      f'Reward {name!r} of completion {n} is {values[name]}, times its weight {weights[name]}, '
      f'which makes a total beyond {LARGEST:g}: lower the weight.')


def _checked_reward(
    name: str, function: RewardFunction, index: int, completion: Completion, example: Mapping,
) -> float:
  """The reward, NaN for None.

  Raises:
    UserError: the function raised an exception, or returned something else.
  """
  try:
    value = function(completion, example)
  except Exception as error:
    raise UserError(
        f'Reward function {name!r} raised {error!r} on completion {index}: '
        'fix it, or let it return None for what it cannot judge.') from error
  if value is None:
    return math.nan
  try:
    reward = float(value) if isinstance(value, (numbers.Real, np.bool_)) else math.nan
  except OverflowError:
    reward = math.inf
  if not math.isfinite(reward):
    raise UserError(
        f'Reward function {name!r} returned {value!r} for completion {index}: '
        'let it return a finite number, or None for what it cannot judge.')
  return reward
