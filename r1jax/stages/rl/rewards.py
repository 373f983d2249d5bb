"""What rewards a rollout: rules and reward models, those of general prompts apart from the others.

A departure from the reports: a reward model's score counts as σ(score), from 0 to 1 like a rule. A
bounded reward leaves less to gain by hacking; training centres the scores of pairs around 0.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import rollout as rollouts
from r1jax.models.compute import Compute
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import THINK_CLOSING, THINK_OPENING
from r1jax.rewards.suite import RewardFunction, Rewards, RewardSuite, named_rewards
from r1jax.stages.artifact import Artifact
from r1jax.stages.reward_model.train import RewardModel, load_reward_model, make_rewards
from r1jax.tokenization import Tokenizer, opens_think

_TRUTH = 'skill'    # the rule that knows which general tasks are done


class ScoringModel(NamedTuple):
  """A reward model as a reward."""
  weight: float
  objective: str         # an example that names another objective is not judged
  rewards: Callable      # (questions, completions, G texts of each) -> reward_model.Scored


class Judge:
  """The rules and reward models of one part of the prompts."""

  def __init__(self, suite: RewardSuite | None, models: Mapping[str, ScoringModel]):
    self._suite, self._models = suite, models

  def submit(
      self, completions: Sequence[Completion], examples: Sequence[Mapping], owners: np.ndarray,
  ) -> 'PendingParts':
    """The reward models' scores of R·G completions of R examples; the rules are being computed.

    Each host computes the rules of the groups that `owners` gives it, and all the models' scores
    together.
    """
    pending = None if self._suite is None else rollouts.SharedRewards(
        self._suite, completions, examples, owners)
    return PendingParts(pending, *score(self._models, completions, examples))

  def close(self) -> None:
    if self._suite is not None:
      self._suite.close()


class PendingParts:
  """The rewards of one part: those of reward models, and of rules under way.

  `compute` is what the reward models took.
  """

  def __init__(self, rules: rollouts.SharedRewards | None, scored: Rewards, compute: Compute):
    self._rules, self._scored, self.compute = rules, scored, compute

  def collect(self) -> Rewards:
    """As `PendingRewards.collect`."""
    if self._rules is None:
      return self._scored
    rules, scored = self._rules.collect(), self._scored
    return Rewards(rules.total + scored.total, rules.components | scored.components,
                   rules.counters | scored.counters)


class PendingMixture:
  """The rewards of a batch whose last prompts are general ones; `compute` as of its parts."""

  def __init__(self, parts: Sequence[PendingParts]):
    self._parts = parts
    self.compute = sum((part.compute for part in parts), Compute())

  def collect(self) -> Rewards:
    """As `PendingRewards.collect`; a part's components are NaN in the other."""
    return rollouts.unite_rewards([part.collect() for part in self._parts])


class Judges:
  """The judge of reasoning prompts and that of general ones, if there are any."""

  def __init__(self, reasoning: Judge, general: Judge | None):
    self._reasoning, self._general = reasoning, general

  def submit(
      self, completions: Sequence[Completion], examples: Sequence[Mapping], num_general: int,
      owners: np.ndarray,
  ) -> PendingMixture:
    """As `Judge.submit`; the last `num_general` examples are general ones."""
    if not num_general:
      return PendingMixture([self._reasoning.submit(completions, examples, owners)])
    split = len(examples) - num_general
    row = split * (len(completions) // len(examples))
    return PendingMixture([
        self._reasoning.submit(completions[:row], examples[:split], owners[:split]),
        self._general.submit(completions[row:], examples[split:], owners[split:])])

  def close(self) -> None:
    for judge in (self._reasoning, self._general):
      if judge is not None:
        judge.close()


def score(
    models: Mapping[str, ScoringModel], completions: Sequence[Completion],
    examples: Sequence[Mapping],
) -> tuple[Rewards, Compute]:
  """The rewards of R·G completions by reward models alone, and what these took.

  A model judges the examples that name its objective or none, and gives NaN for the others, in the
  component `reward_model/<name>`.
  """
  group_size = len(completions) // len(examples)
  total, components, counters, taken = np.zeros(len(completions)), {}, {}, Compute()
  for name, model in models.items():
    component = np.full((len(examples), group_size), np.nan)
    judged = [place for place, example in enumerate(examples)
              if example.get('objective') in (None, model.objective)]
    if judged:
      scores, took = model.rewards(
          [examples[place]['question'] for place in judged],
          [[completion.text for completion in
            completions[place * group_size:(place + 1) * group_size]] for place in judged])
      component[judged], taken = _sigmoid(scores), taken + took
    component = component.reshape(-1)
    total += model.weight * np.nan_to_num(component)
    components[f'reward_model/{name}'] = component
    counters[f'unjudged/reward_model/{name}'] = int(np.isnan(component).sum())
  return Rewards(total, components, counters), taken


def truths(rewards: Rewards) -> dict[str, float]:
  """{'rewards/reward_model/<name>/truth': share}, beside the mean of each reward model's rewards.

  The share of tasks done by the rule `skill`, over the completions that both judged; without such
  completions it is absent.
  """
  found = {}
  for name, values in rewards.components.items():
    if name.startswith('reward_model/') and _TRUTH in rewards.components:
      both = ~np.isnan(values + rewards.components[_TRUTH])
      if both.any():
        found[f'rewards/{name}/truth'] = float(rewards.components[_TRUTH][both].mean())
  return found


def totals_by_part(
    rewards: Rewards, rounds: int, num_general: int, *, group_size: int,
) -> dict[str, float]:
  """The mean totals of reasoning and of general prompts, the last ones of each round."""
  by_prompt = rewards.total.reshape(rounds, -1, group_size)
  split = by_prompt.shape[1] - num_general
  return {'reward/reasoning': float(by_prompt[:, :split].mean()),
          'reward/general': float(by_prompt[:, split:].mean())}


def _sigmoid(scores: np.ndarray) -> np.ndarray:
  return 0.5 + 0.5 * np.tanh(scores.astype(np.float64) / 2)


def reframe(text: str, *, opened: bool, reopened: bool) -> str:
  """A completion written after one template's prompt, as it would stand after another's.

  Args:
    text: the completion.
    opened: whether the prompt that it was written after ended with `<think>`.
    reopened: whether the other one does: then an opening tag is dropped, or a completion without a
      chain of thought closes it at once.
  """
  if opened == reopened:
    return text
  if opened:
    return THINK_OPENING + text
  begun = text.lstrip()
  if begun.startswith(THINK_OPENING):
    return begun[len(THINK_OPENING):]
  return text if THINK_CLOSING in text else THINK_CLOSING + text


def make_judges(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer, *,
    mesh: jax.sharding.Mesh, reward_functions: Mapping[str, tuple[RewardFunction, float]] | None,
) -> Judges:
  """The judges of a run by fields of `rl.DEFAULT`; a reward model named twice is loaded once.

  Args:
    config: the stage's.
    inputs: Artifacts of earlier stages by name, which a reward model's source may name.
    tokenizer: the policy's.
    mesh: where reward models live.
    reward_functions: instead of `config.rewards`.

  Raises:
    FileNotFoundError, ValueError: as `load_reward_model`.
  """
  general = config['general_prompts']
  opened, loaded = opens_think(config['template'], tokenizer), {}

  def load(source: str) -> RewardModel:
    if source not in loaded:
      settings = config['model'] | {'source': source, 'preset': ''}
      loaded[source] = load_reward_model(inputs=inputs, mesh=mesh, **settings)
    return loaded[source]

  rows = config['prompts_per_batch'] // (config['mini_batches'] * config['micro_batches'])

  def judge(part, functions) -> Judge:
    models = {}
    for name, settings in part['reward_models'].items():
      model = load(settings['source'])
      models[name] = ScoringModel(settings.get('weight', 1.0), model.objective, _reframed(
          make_rewards(model, rows=rows, mesh=mesh), opened=opened,
          reopened=opens_think(model.template, model.tokenizer)))
    suite = RewardSuite(functions, num_workers=config['reward_workers'],
                        timeout_s=config['reward_timeout_s']) if functions else None
    return Judge(suite, models)

  named = lambda part: named_rewards(part['rewards'], prompt_opens_think=opened)
  return Judges(judge(config, reward_functions or named(config)),
                judge(general, named(general)) if general['prompts_per_batch'] else None)


def _reframed(rewards: Callable, **framing: bool) -> Callable:
  """Rewards of completions written after another template's prompts; see `reframe`."""
  def of_policy(questions, completions):
    return rewards(questions, [[reframe(text, **framing) for text in group]
                               for group in completions])
  return of_policy
