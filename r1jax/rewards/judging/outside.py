"""Judges on outside servers, whose rewards are computed in the background."""
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import time
from typing import NamedTuple
import warnings

import numpy as np

from r1jax.errors import UserError
from r1jax.rewards import calls
from r1jax.rewards.completion import Completion
from r1jax.rewards.judging import judge as judging
from r1jax.rewards.judging.cache import ReplyCache
from r1jax.rewards.judging.judge import Case, Judge, Reply
from r1jax.rewards.judging.question import JudgeQuestion
from r1jax.rewards.judging.server import Fault, Server
from r1jax.rewards.suite import Arriving, PendingRewards, Rewards

_Judged = tuple[dict[str, np.ndarray], dict[str, int]]


class OutsideJudge(NamedTuple):
  """A judge on a server as a reward.

  Attributes:
    weight: of its reward in the total.
    judge: how it judges.
    server: who replies.
    cache: keeps the replies.
    votes: replies to each question.
    at_once: requests at a time.
    deadline_s: seconds that all requests of a batch may take.
  """
  weight: float
  judge: Judge
  server: Server
  cache: ReplyCache
  votes: int = 1
  at_once: int = 16
  deadline_s: float = 600.0


class OutsideBatch(Arriving):
  """A batch of judges on servers, made by `OutsideJudges.begin`.

  Attributes:
    judged: what each judge will have found.
  """

  def __init__(self, weights: Mapping[str, float], group_size: int):
    super().__init__()
    self.judged: list[Future[_Judged]] = []
    self._weights, self._group_size = weights, group_size

  def end(self) -> PendingRewards:
    """The rewards of all completions, in the order of their places; none may be missing."""
    self.feed.end()
    return PendingRewards(self._collect)

  def _collect(self) -> Rewards:
    components: dict[str, np.ndarray] = {}
    counters: dict[str, int] = {}
    for future in self.judged:
      component, counted = future.result()
      components, counters = components | component, counters | counted
    return Rewards.weigh(components, self._weights, counters, group_size=self._group_size)


class OutsideJudges:
  """The rewards of judges on servers, all asked at the same time."""

  def __init__(self, judges: Mapping[str, OutsideJudge], *, prompt_opens_think: bool = False):
    """Asks nothing yet.

    Args:
      judges: by the names of their components.
      prompt_opens_think: whether the policy's prompts end with `<think>`.
    """
    self._judges, self._prompt_opens_think = dict(judges), prompt_opens_think
    self._background = {name: ThreadPoolExecutor(max_workers=1) for name in judges}
    self._callers = {name: calls.Caller() for name in judges}
    self._told: set[str] = set()
    self._open: OutsideBatch | None = None    # the last one that has begun

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each component."""
    return {name: judge.weight for name, judge in self._judges.items()}

  def submit(
      self, completions: Sequence[Completion], examples: Sequence[Mapping], *, group_size: int = 1,
  ) -> PendingRewards:
    """Starts asking about N completions and returns at once; arguments as of `RewardSuite.submit`.

    Collecting raises UserError where a server refuses every request of a batch.
    """
    batch = self.begin(group_size=group_size)
    batch.add(range(len(completions)), completions, examples)
    return batch.end()

  def begin(self, *, group_size: int = 1) -> 'OutsideBatch':
    """A batch whose completions come a few at a time, as `RewardSuite.begin`."""
    batch = self._open = OutsideBatch(self.weights, group_size)
    for name, background in self._background.items():
      batch.judged.append(background.submit(self._compute, name, batch))
    return batch

  def close(self, *, wait: bool = True) -> None:
    """Ends the threads.

    Args:
      wait: until what was submitted is computed; otherwise it is abandoned.
    """
    if self._open is not None:
      self._open.feed.end()    # its completions will not come
    for name, judge in self._judges.items():
      if not wait:
        judge.server.stopped.set()
        self._callers[name].stop()
      self._background[name].shutdown()
      self._callers[name].close()

  def _compute(self, name: str, batch: 'OutsideBatch') -> _Judged:
    """({component: [N]}, counters) of a judge."""
    judge, asked = self._judges[name].judge, calls.Feed()
    with ThreadPoolExecutor(max_workers=1) as beside:
      making = beside.submit(self._make_cases, name, batch, asked)
      replies, counters = self._ask(name, asked)
    cases = making.result()
    scores = judging.rewards(judge, cases, replies)
    return {name: scores}, counters | judging.counters(name, judge, scores, replies)

  def _make_cases(self, name: str, batch: 'OutsideBatch', asked: calls.Feed) -> list[Case]:
    """The cases of completions as they come, in their order; feeds each question once a vote."""
    judge, cases, known = self._judges[name], list[Case](), set[JudgeQuestion]()
    try:
      for wave in batch.feed.waves():
        new = [judge.judge.case(completion, example, prompt_opens_think=self._prompt_opens_think)
               for completion, example in wave]
        questions = [question for question in judging.distinct(new) if question not in known]
        asked.add((question, vote) for question in questions for vote in range(judge.votes))
        known.update(questions)
        cases += new
    finally:
      asked.end(time.monotonic() + judge.deadline_s)
    return [case for case in batch.in_order(cases) if case is not None]

  def _ask(
      self, name: str, asked: calls.Feed,
  ) -> tuple[dict[JudgeQuestion, list[Reply]], dict[str, int]]:
    """(the votes of each question that came in time, counters); `asked` has questions and votes."""
    _, judge, server, cache, _, at_once, deadline_s = self._judges[name]

    def ask(question: JudgeQuestion, vote: int) -> Reply | Fault:
      request = server.request(question.text(judge.max_characters), vote)
      key = cache.key(server.url, request, vote)
      kept = cache.get(key)
      if kept is not None:
        return kept
      try:
        reply = server.reply(request, min(asked.deadline, time.monotonic() + deadline_s))
      except Fault as fault:
        return fault
      cache.put(key, reply)
      return reply

    outcomes = self._callers[name].call_all(ask, asked, calls.Limits(at_once, deadline_s))
    replies: dict[JudgeQuestion, list[Reply]] = {question: [] for question, _ in asked.arguments}
    faults: list[Fault] = []
    for (question, _), outcome in zip(asked.arguments, outcomes):
      if isinstance(outcome, calls.Failed):
        raise outcome.error
      if isinstance(outcome, Reply):
        replies[question].append(outcome)
      else:
        faults.append(outcome if isinstance(outcome, Fault) else Fault('it took too long'))
    self._tell(name, faults, len(outcomes))
    return replies, {f'faults/{name}': len(faults)}

  def _tell(self, name: str, faults: Sequence[Fault], count: int) -> None:
    """Warns of faults, once for each judge.

    Raises:
      UserError: the server has refused all requests, as it will the next ones.
    """
    judge = self._judges[name]
    if faults and len(faults) == count and all(
        fault.status and not fault.passing for fault in faults):
      raise UserError(f'{name}: the server {judge.server.url!r} refuses every request '
                      f'({faults[0]}): correct the settings of the judge')
    if faults and name not in self._told:
      self._told.add(name)
      warnings.warn(
          f'{name}: of {count} requests {judge.server.url!r} did not answer {len(faults)}, the '
          f'first because of {faults[0]}. Their completions are not judged. Such requests are '
          f'counted as rewards/faults/{name}.', stacklevel=2)
    if judge.cache.fault is not None and f'{name} cache' not in self._told:
      self._told.add(f'{name} cache')
      warnings.warn(f'{name}: replies cannot be kept ({judge.cache.fault}); a resumed run will ask '
                    'again.', stacklevel=2)
