"""What rewards a rollout: rules, reward models and judges; general prompts have their own.

A departure from the reports: a reward model's score counts as σ(score), from 0 to 1 like a rule. A
bounded reward leaves less to gain by hacking. Training centres the scores of pairs around 0.
"""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import advantages
from r1jax import rollout as rollouts
from r1jax.models.compute import Compute
from r1jax.prompting.templates import Question, asked, opens_think
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import THINK_CLOSING, THINK_OPENING
from r1jax.rewards.judging.outside import OutsideJudges
from r1jax.rewards.suite import (
  PendingRewards,
  RewardFunction,
  Rewards,
  RewardSuite,
  named_rewards,
)
from r1jax.runtime.storage import Path
from r1jax.stages import judge_rewards
from r1jax.stages.artifact import Artifact
from r1jax.stages.fields import prompt_format, reward_suite
from r1jax.stages.judge_rewards import JudgeReward
from r1jax.stages.reward_model.model import (
  RewardModel,
  Scored,
  ScoringFunction,
  load_reward_model,
  make_rewards,
)
from r1jax.tokenization import Tokenizer

_TRUTH = 'skill'    # the rule that knows which general tasks are done


class ScoringModel(NamedTuple):
  """A reward model as a reward.

  Attributes:
    weight: of its reward in the total.
    objective: its own; examples that name another objective are not judged.
    rewards: as `reward_model.make_rewards` returns it.
  """
  weight: float
  objective: str
  rewards: ScoringFunction


class RewardSource(NamedTuple):
  """What judges the completions of one kind of prompts.

  Attributes:
    rules: computed in the background.
    models: reward models by name.
    judges: judges on the mesh by name.
    outside: judges on servers, asked in the background.
    prompt_opens_think: whether the policy's prompts end with `<think>`.
  """
  rules: RewardSuite | None
  models: Mapping[str, ScoringModel]
  judges: Mapping[str, JudgeReward] = {}
  outside: OutsideJudges | None = None
  prompt_opens_think: bool = False

  @property
  def in_background(self) -> list[RewardSuite | OutsideJudges]:
    """What is computed in the background."""
    return [suite for suite in (self.rules, self.outside) if suite is not None]

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each component."""
    weights = _weights(self.models) | {
        judge_rewards.component(name): judge.weight for name, judge in self.judges.items()}
    for suite in self.in_background[::-1]:
      weights = suite.weights | weights
    return weights


class RewardSources:
  """The rewards of reasoning prompts, and of general prompts where there are any."""

  def __init__(self, reasoning: RewardSource, general: RewardSource | None = None):
    self._reasoning, self._general = reasoning, general

  def begin(
      self, examples: Sequence[Mapping], num_general: int, owners: np.ndarray, group_size: int,
  ) -> 'BegunRewards':
    """The rewards of a rollout that is being drawn; its `end` must be called.

    Args:
      examples: the B examples that are answered; the last `num_general` are general prompts.
      num_general: how many.
      owners: [B] as for `text.read_rollout`.
      group_size: G.
    """
    split = len(examples) - (num_general if self._general is not None else 0)
    parts = [_Part(self._reasoning, 0, examples[:split], owners[:split], group_size)]
    if self._general is not None and num_general:
      parts.append(_Part(self._general, split, examples[split:], owners[split:], group_size))
    return BegunRewards(parts)

  def close(self) -> None:
    """Ends processes and threads; what they have not computed is abandoned."""
    for source in (self._reasoning, self._general):
      for suite in () if source is None else source.in_background:
        suite.close(wait=False)


class BegunRewards:
  """The rewards of a rollout that is being drawn, made by `RewardSources.begin`."""

  def __init__(self, parts: 'Sequence[_Part]'):
    """The parts are those of one kind of prompts each."""
    self._parts = parts

  def add(self, completions: Mapping[int, Completion]) -> None:
    """Has rules and judges on servers judge completions, by their numbers of N, at once."""
    for part in self._parts:
      part.add(completions)

  def end(self, completions: Sequence[Completion]) -> tuple[PendingRewards, Compute]:
    """(the rewards of all N completions being computed, what models computed for them).

    Reward models and judges on the mesh have judged when this returns; rules and judges on servers
    go on in the background. Each host has these judge the groups that it owns, and all hosts
    compute the models' scores and replies together.
    The rewards of general prompts have NaN in components of reasoning prompts, and vice versa.

    Raises:
      Interrupted: a judge on the mesh was asked to stop.
    """
    ended = [part.end(completions) for part in self._parts]
    pending, taken = [rewards for rewards, _ in ended], sum(
        (computed for _, computed in ended), Compute())
    if len(pending) == 1:
      return pending[0], taken
    return PendingRewards(
        lambda: Rewards.concatenate([rewards.collect() for rewards in pending])), taken


class _Part:
  """The prompts of one kind in a rollout, and the rewards of their completions."""

  def __init__(
      self, source: RewardSource, first: int, examples: Sequence[Mapping], owners: np.ndarray,
      group_size: int):
    self._source, self._examples, self._group_size = source, examples, group_size
    self._rows = range(first * group_size, (first + len(examples)) * group_size)
    self._begun = [rollouts.RolloutRewards(suite, examples, owners, group_size)
                   for suite in source.in_background]

  def add(self, completions: Mapping[int, Completion]) -> None:
    own = {n - self._rows.start: completion for n, completion in completions.items()
           if n in self._rows}
    for begun in self._begun:
      begun.add(own)

  def end(self, completions: Sequence[Completion]) -> tuple[PendingRewards, Compute]:
    """`BegunRewards.end` for prompts of one kind; `completions` are all N."""
    own = completions[self._rows.start:self._rows.stop]
    pending = [begun.end(own) for begun in self._begun]
    components, counters, taken = _score_on_devices(self._source, own, self._examples)
    if len(pending) == 1 and not components:
      return pending[0], taken

    def collect() -> Rewards:
      found: dict[str, np.ndarray] = {}
      counted: dict[str, int] = {}
      for rewards in [one.collect() for one in pending]:
        found, counted = found | rewards.components, counted | rewards.counters
      return Rewards.weigh(found | components, self._source.weights, counted | counters,
                           group_size=self._group_size)
    return PendingRewards(collect), taken


def _score_on_devices(
    source: RewardSource, completions: Sequence[Completion], examples: Sequence[Mapping],
) -> tuple[dict[str, np.ndarray], dict[str, int], Compute]:
  """(components, counters, what they took) of reward models and of judges on the mesh."""
  components: dict[str, np.ndarray] = {}
  counters: dict[str, int] = {}
  taken = Compute()
  if source.models:
    scored, taken = score(source.models, completions, examples)
    components, counters = scored.components, scored.counters
  if source.judges:
    judged, counted, took = judge_rewards.score(
        source.judges, completions, examples, prompt_opens_think=source.prompt_opens_think)
    components, counters, taken = components | judged, counters | counted, taken + took
  return components, counters, taken


def score(
    models: Mapping[str, ScoringModel], completions: Sequence[Completion],
    examples: Sequence[Mapping],
) -> tuple[Rewards, Compute]:
  """(the rewards of R·G completions by reward models alone, what these computed).

  A model judges the examples that name its objective or none. In its component
  `reward_model/<name>` the others are NaN.

  Args:
    models: by name, at least one.
    completions: R·G, by group.
    examples: the R examples that they answer.
  """
  group_size = len(completions) // len(examples)
  components, counters, taken = {}, {}, Compute()
  for name, model in models.items():
    component = np.full((len(examples), group_size), np.nan)
    judged = [place for place, example in enumerate(examples)
              if example.get('objective') in (None, model.objective)]
    if judged:
      scores, took = model.rewards(
          [asked(examples[place]) for place in judged],
          [[completion.text for completion in
            completions[place * group_size:(place + 1) * group_size]] for place in judged])
      component[judged], taken = _sigmoid(scores), taken + took
    components[_component(name)] = component.reshape(-1)
    counters[f'unjudged/{_component(name)}'] = int(np.isnan(component).sum())
  return Rewards.weigh(components, _weights(models), counters, group_size=group_size), taken


def _weights(models: Mapping[str, ScoringModel]) -> dict[str, float]:
  return {_component(name): model.weight for name, model in models.items()}


def _component(model: str) -> str:
  """The name of a reward model's component."""
  return f'reward_model/{model}'


def penalise_overlong(
    rewards: Rewards, completions: Sequence[Completion], *, max_length: int, buffer: int,
) -> Rewards:
  """Rewards with DAPO's penalty for the last `buffer` tokens added, as the component 'overlong'."""
  lengths: Any = np.asarray([completion.num_tokens for completion in completions])
  penalty: Any = advantages.overlong_penalty(
      lengths, max_length=max_length, buffer=buffer).astype(float)
  return dataclasses.replace(rewards, total=rewards.total + penalty,
                             components=rewards.components | {'overlong': penalty})


def truths(rewards: Rewards) -> dict[str, float]:
  """{'rewards/reward_model/<name>/truth': share}, to compare with its mean reward; also of judges.

  The share of completions that the rule `skill` finds right, among those that both have judged.
  Without such completions it is absent.
  """
  found = {}
  for name, values in rewards.components.items():
    if name.startswith(('reward_model/', 'judge/')) and _TRUTH in rewards.components:
      both = ~np.isnan(values + rewards.components[_TRUTH])
      if both.any():
        found[f'rewards/{name}/truth'] = float(rewards.components[_TRUTH][both].mean())
  return found


def totals_by_part(
    rewards: Rewards, rounds: int, num_general: int, *, group_size: int,
) -> dict[str, float]:
  """The mean totals of reasoning prompts and of general ones, absent where nothing was judged.

  Args:
    rewards: of all rounds.
    rounds: how many.
    num_general: general prompts of a round, its last ones.
    group_size: completions of a prompt.
  """
  by_prompt = rewards.total.reshape(rounds, -1, group_size)
  split = by_prompt.shape[1] - num_general
  parts = {'reward/reasoning': by_prompt[:, :split], 'reward/general': by_prompt[:, split:]}
  return {name: float(np.nanmean(part)) for name, part in parts.items()
          if not np.isnan(part).all()}


def _sigmoid(scores: np.ndarray) -> np.ndarray:
  return 0.5 + 0.5 * np.tanh(scores.astype(np.float64) / 2)


def reframe(text: str, *, prompt_opens_think: bool, new_prompt_opens_think: bool) -> str:
  """A completion written after a prompt of one template, as it would be after one of another.

  Args:
    text: the completion.
    prompt_opens_think: whether the prompt that it was written after ended with `<think>`.
    new_prompt_opens_think: whether the other one does. If only that one does, an opening tag is
      dropped; a completion without a chain of thought closes it at once.
  """
  if prompt_opens_think == new_prompt_opens_think:
    return text
  if prompt_opens_think:
    return THINK_OPENING + text
  begun = text.lstrip()
  if begun.startswith(THINK_OPENING):
    return begun[len(THINK_OPENING):]
  return text if THINK_CLOSING in text else THINK_CLOSING + text


def make_reward_sources(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer, *,
    mesh: jax.sharding.Mesh, reward_functions: Mapping[str, tuple[RewardFunction, float]] | None,
    workdir: Path, should_stop: Callable[[], bool] = lambda: False,
) -> RewardSources:
  """The rewards of a run by fields of `rl.DEFAULT`; a model that is named twice is loaded once.

  Args:
    config: the stage's.
    inputs: Artifacts of earlier stages by name, which a reward model's source may name.
    tokenizer: the policy's.
    mesh: where the reward models are.
    reward_functions: {name: (function, weight)} instead of `config.rewards`.
    workdir: the stage's folder.
    should_stop: called while judges on the mesh reply.

  Raises:
    FileNotFoundError, UserError: as `load_reward_model` and `judge_rewards`.
  """
  prompt_opens_think = opens_think(prompt_format(config), tokenizer)
  rows = config['prompts_per_batch'] // (config['mini_batches'] * config['micro_batches'])

  @functools.cache
  def load(source: str) -> RewardModel:
    settings = config['model'] | {'source': source, 'preset': ''}
    return load_reward_model(inputs=inputs, mesh=mesh, **settings)
  load_judge = judge_rewards.loader(config, inputs, mesh)

  def scoring_model(settings: Mapping[str, Any]) -> ScoringModel:
    model = load(settings['source'])
    return ScoringModel(settings.get('weight', 1.0), model.objective, _reframed(
        make_rewards(model, rows=rows, mesh=mesh), prompt_opens_think=prompt_opens_think,
        new_prompt_opens_think=opens_think(model.template, model.tokenizer)))

  def source(part: Mapping[str, Any], functions: Mapping | None = None) -> RewardSource:
    models = {name: scoring_model(settings) for name, settings in part['reward_models'].items()}
    functions = functions or named_rewards(
        part['rewards'], settings=part['reward_settings'], prompt_opens_think=prompt_opens_think)
    rules = reward_suite(functions, config) if functions else None
    judges = judge_rewards.make_judges(
        config, part, mesh=mesh, should_stop=should_stop, load=load_judge)
    outside = judge_rewards.make_outside(
        config, part, workdir=workdir, prompt_opens_think=prompt_opens_think)
    return RewardSource(rules, models, judges, outside, prompt_opens_think)

  general = config['general_prompts']
  return RewardSources(source(config, reward_functions),
                       source(general) if general['prompts_per_batch'] else None)


def _reframed(rewards: ScoringFunction, **framing: bool) -> ScoringFunction:
  """Scores completions that were written after another template's prompts; see `reframe`."""
  def of_policy(
      questions: Sequence[Question], completions: Sequence[Sequence[str]]) -> Scored:
    return rewards(questions, [[reframe(text, **framing) for text in group]
                               for group in completions])
  return of_policy
