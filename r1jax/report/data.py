"""What a chain achieved, how much compute it took and how training went, as numbers."""
from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from r1jax import evaluate, metrics
from r1jax.errors import UserError
from r1jax.models import compute
from r1jax.models.compute import Compute
from r1jax.rewards import accuracy, extract
from r1jax.rewards.suite import WITHOUT_VOTES
from r1jax.runtime import checksums
from r1jax.stages.artifact import Artifact
from r1jax.stages.stage import read_evaluation

Interval = tuple[float, float, float]    # (mean, low, high)
ScoreTable = dict[str, dict[str, dict[str, Interval]]]    # {stage: {evaluation: {score: ...}}}

REASONING = 'reasoning'    # the evaluation whose samples are used for votes and budgets

# The kinds of stages that evaluate the model they leave or name.
_EVALUATING_KINDS = ('pretrain', 'sft', 'rl', 'distill', 'evaluate')
_SMALLEST_BUDGET = 8       # tokens
_REWARD_MODEL = 'rewards/reward_model/'
_ACCURACY_REWARDS = ('number', 'gsm8k', 'math', 'exact_match', 'choice')


class Votes(NamedTuple):
  """How the accuracy of a stage's model grows with test-time compute.

  Attributes:
    by_votes: accuracy of a majority of k votes, by k.
    tokens: completion tokens of k votes on a problem, by k.
    operations: floating-point operations of k votes on a problem, by k; empty if unknown.
    by_budget: accuracy within a number of completion tokens, by that number.
  """
  by_votes: dict[int, Interval]
  tokens: dict[int, float]
  operations: dict[int, float]
  by_budget: dict[int, Interval]


class Trajectory(NamedTuple):
  """The course of an RL stage.

  Attributes:
    rows: its metrics, one dictionary for each step.
    computed: the compute of the chain up to and including each step, in operations.
  """
  rows: list[dict[str, float]]
  computed: list[float]


def evaluation_scores(artifacts: Mapping[str, Artifact]) -> ScoreTable:
  """{stage: {evaluation: {score: (mean, low, high)}}} of the stages that evaluated a model."""
  table = {}
  for name, artifact in artifacts.items():
    if artifact.manifest.kind in _EVALUATING_KINDS:
      found = {evaluation: intervals(values)
               for evaluation, values in artifact.manifest.scores.items()
               if isinstance(values, Mapping)}
      found = {evaluation: values for evaluation, values in found.items() if values}
      if found:
        table[name] = found
  return table


def intervals(values: Mapping[str, Any]) -> dict[str, Interval]:
  """Those of the values that are an estimate with its interval, [mean, low, high]."""
  found = {}
  for name, value in values.items():
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
      mean, low, high = map(float, value)
      found[name] = (mean, low, high)
  return found


def chain_compute(
    artifacts: Mapping[str, Artifact], stages: Mapping[str, Mapping[str, Any]],
) -> dict[str, Compute]:
  """The compute of everything that each stage depends on, without the stage itself.

  Each ancestor counts once, however many stages read it.

  Args:
    artifacts: the stages' Artifacts by name, each after its inputs.
    stages: the stages' configs by name.
  """
  ancestors: dict[str, set[str]] = {}
  for name in artifacts:
    ancestors[name] = set()
    for source in stages[name]['inputs']:
      if source in artifacts:
        ancestors[name] |= ancestors[source] | {source}
  return {name: sum((own_compute(artifacts[other]) for other in artifacts if other in found),
                    Compute())
          for name, found in ancestors.items()}


def own_compute(artifact: Artifact) -> Compute:
  """The compute of a stage itself."""
  return compute.from_dict(artifact.manifest.compute)


def read_votes(artifact: Artifact, evaluation: str = REASONING) -> Votes | None:
  """Votes and budgets of a stage, from the samples of an evaluation; None if there are none.

  None, too, where its reward is one of `suite.WITHOUT_VOTES`. Problems with a completion that
  could not be judged are left out.

  Raises:
    UserError: the samples are not as the evaluation has written them.
  """
  path = artifact.folder / 'evaluations' / f'{evaluation}.jsonl'
  if not path.exists():
    return None
  files = read_evaluation(artifact.folder, evaluation).get('files', {})
  if any(checksums.of_bytes(path.read_bytes()) != tuple(known) for known in files.values()):
    raise UserError(f'{path} has other content than was written: remove it and run the same '
                    'command, which writes it again')
  samples = [*metrics.read_part(path)]
  unjudged = {sample['example_id'] for sample in samples if sample['rewards']['reward'] is None}
  samples = [sample for sample in samples if sample['example_id'] not in unjudged]
  if not samples or WITHOUT_VOTES & samples[0]['rewards'].keys():
    return None
  model = artifact.manifest.model
  return votes_of(samples, compute.ModelConfig.from_dict(model) if model else None)


def votes_of(
    samples: Sequence[Mapping[str, Any]], model: compute.ModelConfig | None = None) -> Votes:
  """Accuracy by number of votes and by token budget, with 95 % intervals over problems.

  Majorities of k = 1, 2, 4, ... are taken in disjoint blocks of the samples of a problem. Within a
  budget, a completion counts only if it ended.

  Args:
    samples: rows of `rollout.sample_rows`, all of them judged, those of a problem together and
      equally many of each.
    model: the configuration of the model that drew them, for `operations`; None if unknown.
  """
  count = 1 + max(sample['sample'] for sample in samples)
  problems = [samples[start:start + count] for start in range(0, len(samples), count)]
  correct = [[sample['rewards']['reward'] >= 1.0 for sample in group] for group in problems]
  answers = [[accuracy.canonical_answer(
      sample['completion'], truncated=sample['truncated'],
      prompt_opens_think=sample['prompt'].rstrip().endswith(extract.THINK_OPENING))
              for sample in group] for group in problems]
  by_votes, tokens, operations = {}, {}, {}
  for k in (2 ** i for i in range(count.bit_length())):
    by_votes[k] = evaluate.mean_interval([
        evaluate.majority_of_blocks(said, verdicts, k) for said, verdicts in zip(answers, correct)])
    blocks = [group[start:start + k] for group in problems
              for start in range(0, count - k + 1, k)]
    tokens[k] = sum(sample['num_tokens'] for block in blocks for sample in block) / len(blocks)
    if model is not None:
      # Numbered within each block: the prompt is computed with sample 0, once per block.
      drawn = [dict(sample, sample=i) for block in blocks for i, sample in enumerate(block)]
      operations[k] = compute.evaluating(model, drawn).evaluated / len(blocks)
  budgets = _budgets(max(sample['num_tokens'] for sample in samples))
  return Votes(by_votes, tokens, operations, {
      budget: _accuracy_within(budget, problems, correct) for budget in budgets})


def _budgets(longest: int) -> list[int]:
  """Powers of two from `_SMALLEST_BUDGET` to the first that is at least `longest`."""
  budgets = [_SMALLEST_BUDGET]
  while budgets[-1] < longest:
    budgets.append(2 * budgets[-1])
  return budgets


def _accuracy_within(
    budget: int, problems: Sequence[Sequence[Mapping[str, Any]]],
    correct: Sequence[Sequence[bool]],
) -> Interval:
  """The share of completions that are correct and ended within `budget` tokens."""
  return evaluate.mean_interval([
      float(np.mean([ok and not sample['truncated'] and sample['num_tokens'] <= budget
                     for ok, sample in zip(verdicts, group)]))
      for verdicts, group in zip(correct, problems)])


def read_trajectory(artifact: Artifact, before: Compute) -> Trajectory:
  """The metrics of a stage by step.

  Args:
    artifact: the stage's Artifact, with its metrics.
    before: the compute of the chain before this stage.
  """
  rows, total, computed = metrics.read_metrics(artifact.folder), before.total, []
  for row in rows:
    total += compute.from_metrics([row]).total
    computed.append(total)
  return Trajectory(rows, computed)


def curve(trajectory: Trajectory, name: str) -> list[tuple[float, float]]:
  """(step, value) of a metric, at the steps where it was logged and is finite."""
  return [(row['step'], row[name]) for row in trajectory.rows
          if math.isfinite(row.get(name, math.nan))]


def rewards_and_truth(trajectory: Trajectory) -> dict[str, list[Interval]]:
  """{reward model: [(step, its mean reward, the truth)]}, at the steps where both were logged.

  The truth is the share of the tasks judged by this reward model that were done correctly.
  """
  suffix = '/truth'
  models = dict.fromkeys(
      name.removeprefix(_REWARD_MODEL).removesuffix(suffix) for row in trajectory.rows
      for name in row if name.startswith(_REWARD_MODEL) and name.endswith(suffix))
  found = {}
  for model in models:
    truth = dict(curve(trajectory, f'{_REWARD_MODEL}{model}{suffix}'))
    points = [(step, reward, truth[step])
              for step, reward in curve(trajectory, f'{_REWARD_MODEL}{model}/mean')
              if step in truth]
    if points:
      found[model] = points
  return found


def accuracy_metric(trajectory: Trajectory) -> str:
  """The name of the metric of the reward that decides what is correct."""
  names = [f'rewards/{name}/mean' for name in _ACCURACY_REWARDS]
  return next((name for name in names if curve(trajectory, name)), names[0])
