"""What a chain reached, what it took and how it got there, as numbers, for `report`."""
from collections.abc import Mapping, Sequence
import json
import math
from typing import Any, NamedTuple

import numpy as np

from r1jax import evaluate, metrics
from r1jax.models import compute
from r1jax.models.compute import Compute
from r1jax.rewards import accuracy
from r1jax.stages.artifact import Artifact

REASONING = 'reasoning'    # the evaluation whose samples give majority votes and budgets
_KINDS = ('pretrain', 'sft', 'rl', 'distill', 'evaluate')   # those that evaluate a model they name
_LEAST_BUDGET = 8          # tokens
_MODEL = 'rewards/reward_model/'


class Votes(NamedTuple):
  """How accuracy grows with test-time compute, of one stage's samples."""
  by_votes: dict[int, tuple[float, float, float]]    # k -> accuracy of a majority of k
  tokens: dict[int, float]                           # k -> tokens that k votes cost, a problem
  operations: dict[int, float]                       # k -> floating-point operations; {} unknown
  by_budget: dict[int, tuple[float, float, float]]   # tokens -> accuracy within so many


class Trajectory(NamedTuple):
  """An RL stage's metrics over its steps, and the chain's compute after each."""
  records: list[dict[str, float]]
  computed: list[float]


def scores(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, dict[str, Any]]]:
  """{stage: {evaluation: {score: (mean, low, high)}}} of the stages that evaluated a model."""
  table = {}
  for name, artifact in artifacts.items():
    if artifact.manifest.kind in _KINDS:
      found = {evaluation: intervals(values)
               for evaluation, values in artifact.manifest.scores.items()
               if isinstance(values, Mapping)}
      found = {evaluation: values for evaluation, values in found.items() if values}
      if found:
        table[name] = found
  return table


def intervals(values: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
  return {score: tuple(map(float, value)) for score, value in values.items()
          if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3}


def chain_compute(
    artifacts: Mapping[str, Artifact], stages: Mapping[str, Mapping[str, Any]],
) -> dict[str, Compute]:
  """What all that a stage depends on took, each ancestor once, without the stage itself."""
  ancestors: dict[str, dict[str, None]] = {}
  for name in artifacts:
    ancestors[name] = {}
    for needed in stages[name]['inputs']:
      if needed in artifacts:
        ancestors[name] |= ancestors[needed] | {needed: None}
  return {name: sum((own_compute(artifacts[other]) for other in artifacts if other in found), Compute())
          for name, found in ancestors.items()}


def own_compute(artifact: Artifact) -> Compute:
  return compute.from_dict(artifact.manifest.compute)


def read_votes(artifact: Artifact, evaluation: str = REASONING) -> Votes | None:
  """Votes and budgets from the kept samples of an evaluation; None where there are none."""
  path = artifact.folder / 'evaluations' / f'{evaluation}.jsonl'
  if not path.exists():
    return None
  records = [json.loads(line) for line in path.read_text().split('\n') if line]
  shape = artifact.manifest.model
  return votes_of(records, compute.ModelConfig.from_dict(shape) if shape else None) if (
      records) else None


def votes_of(
    records: Sequence[Mapping[str, Any]], shape: compute.ModelConfig | None = None,
) -> Votes:
  """Accuracy against votes, and within budgets of tokens, each with its interval over problems.

  A majority of k = 1, 2, 4, ... is taken in disjoint blocks of a problem's samples. Within a
  budget a completion counts only if it ended.

  Args:
    records: of `rollout.sample_records`, a problem's samples together, as many of each.
    shape: the model that drew them, for `operations`.
  """
  count = 1 + max(record['sample'] for record in records)
  problems = [records[start:start + count] for start in range(0, len(records), count)]
  right = [[record['rewards']['reward'] >= 1.0 for record in group] for group in problems]
  answers = [[accuracy.canonical_answer(record['completion'], truncated=record['truncated'])
              for record in group] for group in problems]
  by_votes, tokens, operations = {}, {}, {}
  for k in (2 ** i for i in range(count.bit_length())):
    blocks = [slice(start, start + k) for start in range(0, count - k + 1, k)]
    by_votes[k] = evaluate.mean_interval([
        np.mean([evaluate.majority_vote(said[block], verdicts[block]) for block in blocks])
        for said, verdicts in zip(answers, right)])
    voters = [group[block] for group in problems for block in blocks]
    tokens[k] = sum(record['num_tokens'] for block in voters for record in block) / len(voters)
    if shape is not None:
      drawn = [dict(record, sample=place) for block in voters for place, record in enumerate(block)]
      operations[k] = compute.evaluating(shape, drawn).evaluated / len(voters)
  within = lambda budget: evaluate.mean_interval([
      np.mean([ok and not record['truncated'] and record['num_tokens'] <= budget
               for ok, record in zip(verdicts, group)])
      for verdicts, group in zip(right, problems)])
  longest = max(record['num_tokens'] for record in records)
  budgets = [2 ** i for i in range(_LEAST_BUDGET.bit_length() - 1, max(
      _LEAST_BUDGET, longest - 1).bit_length() + 1) if 2 ** i < 2 * max(longest, _LEAST_BUDGET)]
  return Votes(by_votes, tokens, operations, {budget: within(budget) for budget in budgets})


def trajectory(artifact: Artifact, before: Compute) -> Trajectory:
  """A stage's metrics by step, and the chain's training compute up to each of them."""
  records, total, computed = metrics.read_metrics(artifact.folder), before.total, []
  for record in records:
    total += compute.from_metrics([record]).total
    computed.append(total)
  return Trajectory(records, computed)


def curve(path: Trajectory, name: str) -> list[tuple[float, float]]:
  """(step, value) of a metric, where it was logged and is finite."""
  return [(record['step'], record[name]) for record in path.records
          if math.isfinite(record.get(name, math.nan))]


def beside_truth(path: Trajectory) -> dict[str, list[tuple[float, float, float]]]:
  """{reward model: [(step, its mean reward, the truth)]} of the steps where both were logged.

  The truth is the share done of the tasks that this reward model judged.
  """
  models = dict.fromkeys(name.removeprefix(_MODEL).removesuffix('/truth') for record in path.records
                         for name in record if name.startswith(_MODEL) and name.endswith('/truth'))
  found = {}
  for model in models:
    truth = dict(curve(path, f'{_MODEL}{model}/truth'))
    found[model] = [(step, reward, truth[step])
                    for step, reward in curve(path, f'{_MODEL}{model}/mean') if step in truth]
  return {model: points for model, points in found.items() if points}


def accuracy_metric(path: Trajectory) -> str:
  """The metric of the reward that decides what is correct: the first of these that was logged."""
  names = [f'rewards/{name}/mean' for name in ('number', 'gsm8k', 'math', 'exact_match', 'choice')]
  return next((name for name in names if curve(path, name)), names[0])
