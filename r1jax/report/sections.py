"""The sections of a chain's report: tables with a title and an explanation."""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.models.compute import Compute
from r1jax.report.data import (
  REASONING,
  ScoreTable,
  Trajectory,
  Votes,
  accuracy_metric,
  curve,
  own_compute,
  rewards_and_truth,
)
from r1jax.stages.artifact import Artifact

_COMPUTE_FIELDS = ('sampled', 'scored', 'trained', 'evaluated')

# Metrics of RL whose development is shown, with their titles.
_TRAINING_METRICS = {
    'completions/mean_length': 'length', 'language_mixing': 'language mixing',
    'reflective_words': 'reflective words', 'completions/clipped_ratio': 'truncated'}


class Section(NamedTuple):
  """A section of the page; without rows it is left out.

  Attributes:
    title: the title of the table.
    rows: {column: cell} of each row, as `metrics.format_table` takes them.
    text: an explanation, or ''.
  """
  title: str
  rows: list[dict[str, Any]]
  text: str = ''


def score_sections(table: ScoreTable) -> list[Section]:
  """A table for each evaluation, with a row for each stage."""
  evaluations = dict.fromkeys(name for found in table.values() for name in found)
  return [Section(f'{evaluation}: mean with 95 % interval over problems',
                  [{'stage': stage, **found[evaluation]} for stage, found in table.items()
                   if evaluation in found])
          for evaluation in evaluations]


def compute_section(
    artifacts: Mapping[str, Artifact], before: Mapping[str, Compute]) -> Section:
  """The compute of each stage, and of the chain up to it.

  Args:
    artifacts: the stages' Artifacts by name.
    before: the compute of everything that each stage depends on.
  """
  rows = []
  for name, artifact in artifacts.items():
    own = own_compute(artifact)
    row: dict[str, Any] = {'stage': name}
    for field in _COMPUTE_FIELDS:
      row[field] = _operations(getattr(own, field))
      row[f'{field} tokens'] = getattr(own, f'{field}_tokens')
    rows.append(row | {'total': _operations(own.total),
                       'chain': _operations((before[name] + own).total)})
  return Section(
      'Compute, in floating-point operations', rows,
      'With N parameters, a token takes 2N operations to sample or score, and 6N to train on (8N '
      'if activations are recomputed), plus attention, which is counted exactly; a prompt counts '
      'once for its group. Tokens are those that went through the model, prompts included. '
      '`total` is sampled, scored and trained together; `chain` adds all stages that a stage '
      'depends on, each once, but not the training of a base model that was given. Evaluations '
      'are not included in either.')


def _operations(value: float) -> str:
  return f'{value:.3g}' if value else '0'


def reward_model_section(artifacts: Mapping[str, Artifact]) -> Section:
  """The accuracy of reward models on held-out examples."""
  rows = []
  for name, artifact in artifacts.items():
    if artifact.manifest.kind == 'reward_model':
      scores = artifact.manifest.scores
      after = scores.get('after', {})
      rows.append({'stage': name, 'accuracy': after.get('accuracy'),
                   'the longer side': scores.get('the longer side', {}).get('accuracy'),
                   'calibration_error': after.get('calibration_error'),
                   'examples': after.get('examples'), 'trained on': scores.get('examples')})
  return Section(
      'Reward models on held-out examples', rows,
      'Accuracy with its 95 % interval over questions. `the longer side` is the accuracy of always '
      'preferring the longer answer.')


def rejection_section(artifacts: Mapping[str, Artifact]) -> Section:
  """What the filters of rejection sampling refused: counts as rows, stages as columns."""
  counts = {name: {count: value for count, value in artifact.manifest.scores.items()
                   if isinstance(value, int) and not count.startswith('problems')}
            for name, artifact in artifacts.items() if artifact.manifest.kind == 'reject'}
  first = ('drawn', 'correct', 'kept')
  names = dict.fromkeys([*first, *(name for found in counts.values() for name in found)])
  rows = [{'completions': name} | {stage: found.get(name) for stage, found in counts.items()}
          for name in names if counts]
  return Section('Rejection sampling', rows,
                 'A completion that several filters refuse counts for each of them.')


def pass_rate_section(artifacts: Mapping[str, Artifact]) -> Section:
  """How hard problems were for a model: counts by pass rate as columns, stages as rows."""
  rows = []
  for name, artifact in artifacts.items():
    if artifact.manifest.kind == 'pass_rate':
      scores = artifact.manifest.scores
      rows.append({'stage': name, 'problems': scores['problems'],
                   'pass rate': scores.get('pass_rate'), **scores.get('histogram', {})})
  return Section(
      'Pass rates', rows,
      'How many problems the model never solved (0), always solved (1), and solved in a share of '
      'its completions in between; the mean pass rate with its 95 % interval over problems.')


def vote_sections(votes: Mapping[str, Votes]) -> list[Section]:
  """Test-time compute: the accuracy of majority votes, their cost, and accuracy by budget."""
  accuracies = [
      {'stage': stage} | {_plural(k, 'vote'): value for k, value in found.by_votes.items()}
      for stage, found in votes.items()]
  costs = [
      {'stage': stage}
      | {f'{_plural(k, "vote")}: tokens': f'{value:,.1f}' for k, value in found.tokens.items()}
      | {f'{_plural(k, "vote")}: operations': _operations(value)
         for k, value in found.operations.items()}
      for stage, found in votes.items()]
  all_budgets = sorted({budget for found in votes.values() for budget in found.by_budget})
  budgets = []
  for stage, found in votes.items():
    # A budget beyond a stage's longest completion changes nothing.
    largest = found.by_budget[max(found.by_budget)]
    budgets.append({'stage': stage} | {
        f'{budget:,} tokens': found.by_budget.get(budget, largest) for budget in all_budgets})
  return [
      Section(f'Test-time compute ({REASONING}): accuracy of a majority vote', accuracies,
              'Majorities are taken in disjoint blocks of the samples of a problem, with 95 % '
              'intervals over problems. Of tied answers, the share that is correct counts. Each '
              'completion with an answer is one vote.'),
      Section('Cost of these votes: completion tokens and operations per problem', costs),
      Section('Accuracy within a budget of completion tokens', budgets,
              'A completion counts only if it is correct and ended within the budget. The largest '
              f'budget is {max(all_budgets, default=0):,} tokens, which no completion exceeds.')]


def _plural(count: int, word: str) -> str:
  return f'{count} {word}' if count == 1 else f'{count} {word}s'


def truth_section(trajectories: Mapping[str, Trajectory]) -> Section:
  """The rewards of reward models in training, against the truth."""
  rows = []
  for stage, trajectory in trajectories.items():
    for model, points in rewards_and_truth(trajectory).items():
      reward_first, reward_last = _ends([reward for _, reward, _ in points])
      truth_first, truth_last = _ends([truth for _, _, truth in points])
      rows.append({
          'stage': stage, 'reward model': model, 'its reward, first': reward_first,
          'its reward, last': reward_last, 'truth, first': truth_first, 'truth, last': truth_last,
          'gap widened by': (reward_last - reward_first) - (truth_last - truth_first)})
  return Section(
      'Reward models against the truth, in training', rows,
      'Means over the first and the last fifth of the steps at which the reward model was used. '
      'The truth is the share of the judged tasks that were done correctly. If the reward rises '
      'and the truth does not, the reward model is being hacked.')


def training_section(trajectories: Mapping[str, Trajectory]) -> Section:
  """How the metrics of RL stages developed."""
  rows = []
  for stage, trajectory in trajectories.items():
    row: dict[str, Any] = {'stage': stage}
    for name, title in ({accuracy_metric(trajectory): 'accuracy'} | _TRAINING_METRICS).items():
      if points := curve(trajectory, name):
        row[f'{title}, first'], row[f'{title}, last'] = _ends([value for _, value in points])
    if len(row) > 1:
      rows.append(row)
  return Section(
      'Reinforcement learning, over its steps', rows,
      'Means over the first and the last fifth of the steps, of the completions drawn in training. '
      'Length is in tokens; truncated is the share of completions cut at the length limit.')


def _ends(values: Sequence[float]) -> tuple[float, float]:
  """Means over the first and over the last fifth of the values."""
  size = max(1, len(values) // 5)
  return float(np.mean(values[:size])), float(np.mean(values[-size:]))
