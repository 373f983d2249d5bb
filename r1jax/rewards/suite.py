"""Rewards as weighted sums of functions, computed in the background.

    suite = RewardSuite(named_rewards({'format': 1.0, 'number': 1.0}))
    pending = suite.submit(completions, examples)   # returns at once
    ...
    rewards = pending.collect()

A reward function is `(completion: Completion, example: Mapping) -> float | None`; None means that
it cannot judge the completion. r1jax's own functions, and those that `addresses.load` has loaded
from a file, are called in worker processes (see `rules`). All others are called in the background
of this process, one after another in the order given, so a function written in a notebook may be a
closure. A plain function is called once at a time, or in several threads if it says so; one that is
a coroutine function (`async def`) is awaited, many calls at once. Each call has a time limit, and a
batch has one, too. `calls.limits` declares how a function is called:

    @limits(at_once=32, timeout_s=20.0)
    async def judge(completion, example): ...
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import dataclasses
import functools
import math
import time
from typing import Any, TypeVar
import warnings

import numpy as np

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards import accuracy, calls, outcomes, parameters, shaping, workers
from r1jax.rewards.choice import choice_reward
from r1jax.rewards.code.reward import code_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward, think_only_reward
from r1jax.rewards.instructions.reward import instructions_reward
from r1jax.rewards.language import LANGUAGES, language_reward
from r1jax.rewards.rules import Rules, rule_of
from r1jax.rewards.skills import skill_reward

RewardFunction = Callable[[Completion, Mapping], float | None]
_Found = TypeVar('_Found')

REWARDS: dict[str, RewardFunction] = {
    'format': format_reward,
    'think_only': think_only_reward,
    'number': accuracy.number_reward,
    'gsm8k': accuracy.gsm8k_reward,
    'choice': choice_reward,
    'exact_match': accuracy.exact_match_reward,
    'skill': skill_reward,
    'code': code_reward,
    'instructions': instructions_reward,
    'cosine_length': shaping.cosine_length_reward,
    'repetition': shaping.repetition_reward,
    'tag_count': shaping.tag_count_reward,
    'reasoning_steps': shaping.reasoning_steps_reward,
    'language': language_reward,    # the question's own language; `language_zh` is always Chinese
    **{f'language_{name}': functools.partial(language_reward, target=name) for name in LANGUAGES},
}
# Those that judge texts which may all be different and right: no vote can be taken over them.
WITHOUT_VOTES = frozenset({'code', 'instructions'})
# Parts of the names of metrics, and components that come from elsewhere.
_RESERVED = ('reward', 'reward_model', 'overlong', 'unjudged', 'timeouts', 'workers')


def named_rewards(
    weights: Mapping[str, float], *, settings: Mapping[str, Mapping[str, Any]] | None = None,
    prompt_opens_think: bool = False,
) -> dict[str, tuple[RewardFunction, float]]:
  """The functions of `REWARDS` that a config names, with their weights, for `RewardSuite`.

  Args:
    weights: weight of each reward, by name.
    settings: of rewards by name: keywords of their functions, see `parameters`.
    prompt_opens_think: whether the prompt ends with `<think>`, for the rewards that take it.

  Raises:
    UserError: an unknown name.
  """
  functions = {}
  for name, weight in weights.items():
    if name not in REWARDS:
      raise UserError(f'There is no reward named {name!r}: {checks.did_you_mean(name, REWARDS)}.')
    function = parameters.bind(
        REWARDS[name], (settings or {}).get(name, {}), prompt_opens_think=prompt_opens_think)
    functions[name] = (function, weight)
  return functions


@dataclasses.dataclass(frozen=True)
class Rewards:
  """The rewards of N completions, in their order.

  Attributes:
    total: [N] float64, the weighted sum of the components, NaN where `weigh` finds none.
    components: by reward name, [N] float64 before weighting, NaN for None.
    counters: `unjudged/<name>`, the number of None, and `unjudged/reward`, that of the totals;
      `timeouts/<name>`, how many of them took too long; and those of worker processes: `timeouts`
      of comparisons of formulas, which scored 0, `crashes` of these, which scored 0, too, and of
      rules, which are None, `retries` after crashes, and `repeats` of questions, which were asked
      once.
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


class Arriving:
  """The completions of a batch that come a few at a time, and are judged as they come.

  Attributes:
    feed: of (completion, example), in the order in which they come.
  """

  def __init__(self) -> None:
    self.feed = calls.Feed()
    self._places: list[int] = []

  def add(
      self, places: Sequence[int], completions: Sequence[Completion], examples: Sequence[Mapping],
  ) -> None:
    """Adds completions.

    Args:
      places: where they are in the batch.
      completions: as many.
      examples: those that they answer.
    """
    self._places += places
    self.feed.add(zip(completions, examples, strict=True))

  def in_order(self, found: Sequence[_Found]) -> list[_Found | None]:
    """What was found of completions as they came, by their places; None where nothing was."""
    by_place = dict(zip(self._places, found))
    return [by_place.get(place) for place in range(len(self._places))]


class RewardBatch(Arriving):
  """A batch of a suite."""

  def __init__(self, timeout_s: float):
    """Made by `RewardSuite.begin`; all calls may take `timeout_s` after the last one has come."""
    super().__init__()
    self._timeout_s = timeout_s
    self._taken_up = False
    self._rewards: Future[Rewards] = Future()

  def end(self) -> PendingRewards:
    """The rewards of all completions, in the order of their places; none may be missing."""
    with self.feed.changed:
      self.feed.end(time.monotonic() + self._timeout_s if self._taken_up else math.inf)
    return PendingRewards(self._rewards.result)

  def compute(self, judge: Callable[['RewardBatch'], Rewards]) -> None:
    """Judges the completions, in a thread of the suite; returns once all have come."""
    with self.feed.changed:
      self._taken_up = True
      if self.feed.ended:
        self.feed.end(time.monotonic() + self._timeout_s)
    try:
      self._rewards.set_result(judge(self))
    except BaseException as error:    # for whoever collects
      self._rewards.set_exception(error)


class RewardSuite:
  """Reward functions with weights, and the worker processes that some of them use."""

  def __init__(
      self,
      functions: Mapping[str, tuple[RewardFunction, float]],
      *,
      num_workers: int = 2,
      timeout_s: float = 5.0,
      batch_timeout_s: float = 600.0,
  ):
    """Starts no process; workers are started when they are first needed.

    Args:
      functions: (reward function, weight) by the name under which the component is logged.
      num_workers: the greatest number of processes that call rules, and of those that compare
        formulas.
      timeout_s: seconds that a comparison of formulas may take.
      batch_timeout_s: seconds that all calls of a batch may take together. What has not been judged
        by then is None.

    Raises:
      UserError: as `checked_functions`, or a number is out of range.
    """
    self._functions = checked_functions(functions)
    if not batch_timeout_s > 0:
      raise UserError(f'batch_timeout_s must be positive, got {batch_timeout_s}')
    self._pool = workers.WorkerPool(num_workers, timeout_s)
    self._background = ThreadPoolExecutor(max_workers=1)
    self._caller = calls.Caller()
    rules = [rule_of(name, function) for name, (function, _) in self._functions.items()]
    self._rules = Rules([rule for rule in rules if rule], num_workers, self._caller)
    self._in_rules = {rule.name for rule in rules if rule}
    self._batch_timeout_s = batch_timeout_s
    self._told: set[str] = set()    # whose time limit was passed
    self._open: RewardBatch | None = None    # the last one that has begun

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
      ValueError: the numbers of completions and examples differ, or group_size does not fit.
    """
    if len(completions) != len(examples):
      raise ValueError(
          f'There are {len(completions)} completions for {len(examples)} examples: '
          'give one example for each completion.')
    if group_size < 1 or len(completions) % group_size:
      raise ValueError(f'group_size must divide the {len(completions)} completions, got '
                       f'{group_size}.')
    batch = self.begin(group_size=group_size)
    batch.add(range(len(completions)), completions, examples)
    return batch.end()

  def begin(self, *, group_size: int = 1) -> RewardBatch:
    """A batch whose completions come a few at a time; `submit` is this with all at once.

    Its `end` must be called, and before it no other batch is judged.
    """
    batch = RewardBatch(self._batch_timeout_s)
    self._open = batch
    self._background.submit(batch.compute, functools.partial(self._compute, group_size))
    return batch

  def close(self, *, wait: bool = True) -> None:
    """Ends threads and workers.

    Args:
      wait: until what was submitted is computed; otherwise it is abandoned, and collecting it
        raises RuntimeError. A `with` block waits unless an exception ends it.
    """
    if not wait:
      self._caller.stop()
      self._rules.stop()
      self._pool.stop()
    if self._open is not None:
      self._open.feed.end()    # its completions will not come
    self._background.shutdown()
    self._caller.close()
    self._rules.close()
    self._pool.close()

  def warm(self) -> None:
    """Starts a worker process, if any will be needed; does not wait for it."""
    self._rules.warm()

  def __enter__(self) -> 'RewardSuite':
    return self

  def __exit__(self, exception: type[BaseException] | None, *_: Any) -> None:
    self.close(wait=exception is None)

  def _compute(self, group_size: int, batch: RewardBatch) -> Rewards:
    before = self._counters()
    asked = workers.AskedOnce(self._pool, lambda: batch.feed.deadline)
    workers.use_pool(asked)
    found: dict[str, list] = {}
    with ThreadPoolExecutor(max_workers=1) as beside:
      ruled = beside.submit(self._judge_by_rules, batch.feed, asked)
      for name, (function, _) in self._functions.items():
        if name not in self._in_rules:
          found[name] = self._call(function, batch.feed)
          if any(map(outcomes.is_failure, found[name])):
            break
    found |= ruled.result()
    components, counters = {}, {}
    for name, in_turn in found.items():
      outcome = batch.in_order(in_turn)
      components[name] = np.array(
          [outcomes.read(name, one, index) for index, one in enumerate(outcome)], float)
      late = [index for index, one in enumerate(outcome) if one is calls.TIMED_OUT]
      counters[f'unjudged/{name}'] = int(np.isnan(components[name]).sum())
      counters[f'timeouts/{name}'] = len(late)
      if late:
        self._tell(name, late, time.monotonic() >= batch.feed.deadline)
    counters |= {kind: count - before[kind] for kind, count in self._counters().items()}
    counters['repeats'] = asked.repeats
    return Rewards.weigh(
        {name: components[name] for name in self._functions}, self.weights, counters,
        group_size=group_size)

  def _judge_by_rules(self, feed: calls.Feed, asked: workers.AskedOnce) -> dict[str, list]:
    """The outcomes of all rules by name, for the completions in the order in which they come."""
    found: dict[str, list] = {name: [] for name in self._in_rules}
    failed = False
    for wave in feed.waves():
      if failed:
        continue    # until all have come
      deadline = min(feed.deadline, time.monotonic() + self._batch_timeout_s)
      completions, examples = zip(*wave)
      for name, outcome in self._rules.judge(completions, examples, asked, deadline).items():
        found[name] += outcome
        failed = failed or any(map(outcomes.is_failure, outcome))
    return found

  def _call(self, function: RewardFunction, feed: calls.Feed) -> list:
    """The outcomes of a function that only this process can call."""
    found = self._caller.call_all(function, feed, calls.limits_of(function))
    return [outcomes.of_local(one) for one in found]

  def _counters(self) -> dict[str, int]:
    """The counts so far of all worker processes, by name."""
    counted = self._pool.counters()
    return counted | {name: counted[name] + getattr(self._rules, name)
                      for name in ('crashes', 'retries')}

  def _tell(self, name: str, late: Sequence[int], at_deadline: bool) -> None:
    """Warns, once for each reward, that it takes too long."""
    if name in self._told:
      return
    self._told.add(name)
    if at_deadline:
      what = (f'{len(late)} completions were not judged by reward {name!r} within the '
              f'{self._batch_timeout_s:g} s that the rewards of a batch may take together. To give '
              'them more time, raise reward_batch_timeout_s.')
    else:
      seconds = calls.limits_of(self._functions[name][0]).timeout_s
      what = (f'Reward function {name!r} took longer than {seconds:g} s for completion {late[0]}, '
              'which is not judged. To give it more time, decorate it with '
              'r1jax.rewards.calls.limits(timeout_s=...).')
    warnings.warn(f'{what} Such calls are counted as rewards/timeouts/{name}.', stacklevel=2)


def checked_functions(
    functions: Mapping[str, tuple[RewardFunction, Any]],
) -> dict[str, tuple[RewardFunction, float]]:
  """The functions of a `RewardSuite`, their weights as floats.

  Raises:
    UserError: no functions, a name that cannot be one, or a weight that is not a finite number.
  """
  if not isinstance(functions, Mapping) or not functions:
    raise UserError('A reward suite needs at least one reward function, as {name: (function, '
                    f'weight)}}, got {functions!r}.')
  for name, pair in functions.items():
    _check_name(name)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(pair[0]):
      raise UserError(f'Reward {name!r} must be a pair of a function and its weight, got {pair!r}.')
    if not math.isfinite(outcomes.as_float(pair[1])):
      raise UserError(
          f'The weight of reward {name!r} is {outcomes.shown(pair[1])}: give a finite number.')
  return {name: (function, outcomes.as_float(weight))
          for name, (function, weight) in functions.items()}


def _check_name(name: Any) -> None:
  if not isinstance(name, str) or not name.strip() or not name.isprintable() or '/' in name:
    raise UserError(f'The name of a reward must be a text without slashes, got {name!r}.')
  if name in _RESERVED:
    raise UserError(f'A reward must not be named {name!r}, which names something else in metrics '
                    f'and rollouts: name it {"my_" + name!r}, for example.')


def _check_totals(
    total: np.ndarray, components: Mapping[str, np.ndarray], weights: Mapping[str, float],
) -> None:
  if np.all(np.abs(total) <= outcomes.LARGEST):
    return
  n = int(np.argmax(~(np.abs(total) <= outcomes.LARGEST)))
  values = {name: components[name][n] for name in weights}
  name = max(values, key=lambda name: np.nan_to_num(abs(weights[name] * values[name])))
  raise UserError(
      f'Reward {name!r} of completion {n} is {values[name]}, times its weight {weights[name]}, '
      f'which makes a total beyond {outcomes.LARGEST:g}: lower the weight.')
