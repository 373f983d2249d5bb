"""The page that ends a chain: what each stage reached, what it took, and how it got there.

`write` leaves `results.md`, `results.json` and `results.png`. They follow from the Artifacts alone
and hold neither times nor places, so a chain that was killed and started again ends with the same.
"""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax import metrics
from r1jax.models.compute import Compute
from r1jax.report.data import (
  REASONING,
  Trajectory,
  Votes,
  accuracy_metric,
  beside_truth,
  chain_compute,
  curve,
  intervals,
  own_compute,
  read_votes,
  scores,
  trajectory,
)
from r1jax.report.figures import draw
from r1jax.runtime.storage import Path, to_json
from r1jax.stages.artifact import Artifact

_MEANINGS = {
    'pass@': 'pass@k: the probability that one of k completions is correct, estimated without bias '
             'from all samples of a problem; pass@1 is the mean accuracy',
    'majority@': 'majority@n: the commonest answer of n completions is correct; of tied answers '
                 'the share that is',
    'format': 'format: share of completions with the tags once each, in order, nothing outside',
    'mean_length': 'mean_length: tokens a completion',
    'reflective_words': 'reflective_words: words as "wait" or "check" a completion',
    'language_mixing': 'language_mixing: share of completions in more than one language',
    'language_consistency': 'language_consistency: share of the words of the reasoning that are in '
                            'the language of the question',
    'readable': 'readable: share of completions that a person can read: format, one language, no '
                'repetition, a summary',
    'skills': 'skills: share of general tasks done, by rules that know the truth',
}


def write(
    artifacts: Mapping[str, Artifact], workdir: str | Path, *,
    stages: Mapping[str, Mapping[str, Any]], console=None,
) -> None:
  """Writes the report of a chain to `workdir`, and prints its tables of scores and of compute.

  Args:
    artifacts: the stages' Artifacts by name, each after its inputs.
    workdir: local or remote; gets results.md, results.json ({stage: {column: [mean, low, high]}}
      with columns named '<evaluation> <score>') and results.png.
    stages: their configs by name, of which inputs, seeds and evaluations are told.
    console: a rich console; None is standard output.
  """
  workdir = Path(workdir)
  table = scores(artifacts)
  votes = {name: found for name, artifact in artifacts.items()
           if name in table and (found := read_votes(artifact))}
  before = chain_compute(artifacts, stages)
  paths = {name: trajectory(artifact, before[name])
           for name, artifact in artifacts.items() if artifact.manifest.kind == 'rl'}
  parts = _score_parts(table) + [_compute_part(artifacts, before)]
  for title, rows, _ in parts:
    metrics.print_table(rows, title, console=console)
  parts += [_reward_model_part(artifacts), _reject_part(artifacts), *_vote_parts(votes),
            _gap_part(paths), _growth_part(paths)]
  figure = draw(table, votes, paths, {
      name: before[name] + own_compute(artifact) for name, artifact in artifacts.items()})
  (workdir / 'results.md').write_text(
      _page(artifacts, stages, parts, table, image=figure is not None))
  (workdir / 'results.json').write_text(to_json(_columns(table, votes, artifacts)))
  if figure is not None:
    (workdir / 'results.png').write_bytes(figure)


def _columns(table, votes: Mapping[str, Votes], artifacts) -> dict[str, dict[str, Any]]:
  """{stage: {column: (mean, low, high)}}, for results.json."""
  columns: dict[str, dict[str, Any]] = {
      stage: {f'{evaluation} {score}': value for evaluation, values in found.items()
              for score, value in values.items()} for stage, found in table.items()}
  for stage, found in votes.items():
    columns[stage] |= {f'votes {k}': value for k, value in found.by_votes.items()}
    columns[stage] |= {f'budget {k}': value for k, value in found.by_budget.items()}
  for stage, artifact in artifacts.items():
    if artifact.manifest.kind == 'reward_model':
      held_out = intervals(artifact.manifest.scores.get('after', {}))
      columns[stage] = {f'held-out {score}': value for score, value in held_out.items()}
  return columns


# Parts of the page: (title, rows of a table, what is said above it).

Part = tuple[str, list[dict[str, Any]], str]


def _score_parts(table) -> list[Part]:
  """A table for each evaluation, the stages as its rows."""
  evaluations = dict.fromkeys(name for found in table.values() for name in found)
  return [(f'{evaluation}: mean with 95 % interval over problems',
           [{'stage': stage, **found[evaluation]} for stage, found in table.items()
            if evaluation in found], '') for evaluation in evaluations]


def _compute_part(artifacts, before: Mapping[str, Compute]) -> Part:
  rows = []
  for name, artifact in artifacts.items():
    own = own_compute(artifact)
    row = {'stage': name}
    for field in ('sampled', 'scored', 'trained', 'evaluated'):
      row[field] = _operations(getattr(own, field))
      row[f'{field} tokens'] = getattr(own, f'{field}_tokens')
    rows.append(row | {'total': _operations(own.total),
                       'chain': _operations((before[name] + own).total)})
  return ('Compute, in floating-point operations', rows,
          'Operations are 2N a token sampled or scored and 6N a token trained (8N where activations '
          'are computed again), N the parameters, with attention added exactly; a prompt counts '
          'once for its group. Tokens are those that went through the model, prompts included. '
          '`total` is sampled, scored and trained together; `chain` adds all stages that a stage '
          'depends on, each once, but not the making of a base that was given. Evaluations are no '
          'part of either.')


def _operations(value: float) -> str:
  return f'{value:.3g}' if value else '0'


def _reward_model_part(artifacts) -> Part:
  rows = []
  for name, artifact in artifacts.items():
    if artifact.manifest.kind == 'reward_model':
      found = artifact.manifest.scores
      after = found.get('after', {})
      rows.append({'stage': name, 'accuracy': after.get('accuracy')} | {
          'the longer side': found.get('the longer side', {}).get('accuracy'),
          'calibration_error': after.get('calibration_error'),
          'examples': after.get('examples'), 'trained on': found.get('examples')})
  return ('Reward models on held-out examples', rows,
          'Accuracy with its 95 % interval over questions; `the longer side` is what a model would '
          'reach that had learnt length alone.')


def _reject_part(artifacts) -> Part:
  """Counts as rows, since filters are many; the stages as columns."""
  counts = {name: {count: value for count, value in artifact.manifest.scores.items()
                   if isinstance(value, int)}
            for name, artifact in artifacts.items() if artifact.manifest.kind == 'reject'}
  first = ('drawn', 'correct', 'kept')
  names = dict.fromkeys([*first, *(name for found in counts.values() for name in found)])
  rows = [{'completions': name} | {stage: found.get(name) for stage, found in counts.items()}
          for name in names if counts]
  return ('Rejection sampling', rows,
          'A completion that several filters refuse counts for each of them.')


def _vote_parts(votes: Mapping[str, Votes]) -> list[Part]:
  by_votes = [{'stage': name} | {_plural(k, 'vote'): value for k, value in found.by_votes.items()}
              for name, found in votes.items()]
  costs = [{'stage': name} | {f'{_plural(k, "vote")}: tokens': f'{value:,.1f}'
                              for k, value in found.tokens.items()} | {
      f'{_plural(k, "vote")}: operations': _operations(value)
      for k, value in found.operations.items()} for name, found in votes.items()]
  last = max((budget for found in votes.values() for budget in found.by_budget), default=0)
  budgets = []
  for name, found in votes.items():
    row = {'stage': name}
    for budget in sorted({budget for one in votes.values() for budget in one.by_budget}):
      # Past its longest completion a stage has no more to gain.
      row[f'{budget:,} tokens'] = found.by_budget.get(
          budget, found.by_budget[max(found.by_budget)])
    budgets.append(row)
  return [
      (f'Test-time compute ({REASONING}): accuracy of a majority of votes', by_votes,
       'In disjoint blocks of the samples of a problem, with 95 % intervals over problems; of tied '
       'answers the share that is right. One vote is a completion that gives an answer.'),
      ('What these votes cost: completion tokens and operations a problem', costs, ''),
      ('Accuracy within a budget of completion tokens', budgets,
       f'A completion counts only if it is right and ended within the budget. Budgets end at {last:,}'
       ' tokens, where every completion is whole or was cut.')] if votes else []


def _plural(count: int, word: str) -> str:
  return f'{count} {word}' if count == 1 else f'{count} {word}s'


def _ends(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
  """Means over the first and over the last fifth of a curve."""
  size = max(1, len(points) // 5)
  values = [value for _, value in points]
  return float(np.mean(values[:size])), float(np.mean(values[-size:]))


def _gap_part(paths: Mapping[str, Trajectory]) -> Part:
  rows = []
  for stage, path in paths.items():
    for model, points in beside_truth(path).items():
      first, last = _ends([(step, reward) for step, reward, _ in points])
      was, is_ = _ends([(step, truth) for step, _, truth in points])
      rows.append({'stage': stage, 'reward model': model, 'its reward, first': first,
                   'its reward, last': last, 'truth, first': was, 'truth, last': is_,
                   'gap opened by': (last - first) - (is_ - was)})
  return ('Reward models against the truth, in training', rows,
          'Means over the first and the last fifth of the steps at which the reward model judged. '
          'A reward that rises while the truth (the share done of the tasks that it judged) does not '
          'is a reward model being hacked.')


_GROWTH = {'completions/mean_length': 'length', 'language_mixing': 'language mixing',
           'reflective_words': 'reflective words', 'completions/clipped_ratio': 'cut'}


def _growth_part(paths: Mapping[str, Trajectory]) -> Part:
  rows = []
  for stage, path in paths.items():
    row = {'stage': stage}
    for name, title in ({accuracy_metric(path): 'accuracy'} | _GROWTH).items():
      if points := curve(path, name):
        row[f'{title}, first'], row[f'{title}, last'] = _ends(points)
    rows.append(row)
  return ('Reinforcement learning, over its steps', [row for row in rows if len(row) > 1],
          'Means over the first and the last fifth of the steps, of the completions drawn in '
          'training; length is in tokens.')


def _page(artifacts, stages, parts: Iterable[Part], table, *, image: bool) -> str:
  chain = [{'stage': name, 'kind': artifact.manifest.kind,
            'reads': ', '.join(stages[name]['inputs']) or '-',
            'seed': str(stages[name].get('seed', '-')), 'config': artifact.manifest.identity}
           for name, artifact in artifacts.items()]
  lines = [
      '# What the chain reached\n',
      'Made by `python -m r1jax.main --config=EXPERIMENT --workdir=FOLDER`, which leaves the same '
      'page when it is run again on these configs; `config` is the hash that a stage\'s config '
      'has.\n',
      metrics.format_table(chain, 'The stages'), *_evaluation_lines(stages, table)]
  if image:
    lines += ['![results](results.png)\n']
  for title, rows, words in parts:
    if rows:
      lines += [f'{words}\n'] * bool(words) + [metrics.format_table(rows, title)]
  return '\n'.join(lines)


def _evaluation_lines(stages, table) -> list[str]:
  """What the evaluations are, and what their scores mean."""
  described: dict[str, dict[str, None]] = {}
  for stage, config in stages.items():
    for name, settings in (config.get('evaluations') or {stage: config}).items():
      if stage in table and name in table[stage]:
        if words := _described(settings):
          described.setdefault(name, {})[words] = None
  lines = [f'- {name}: {"; or ".join(found)}' for name, found in described.items()]
  known = {score for found in table.values() for values in found.values() for score in values}
  lines += [f'- {meaning}' for score, meaning in _MEANINGS.items() if any(
      name.startswith(score) if score.endswith('@') else name == score for name in known)]
  return ['The evaluations and their scores:\n', '\n'.join(lines) + '\n'] if lines else []


def _described(settings: Mapping[str, Any]) -> str:
  """An evaluation in words, by those of its fields that it has."""
  sampling = settings.get('sampling', {})
  words = [f'{settings[field]} {word}' for field, word in (
      ('problems', 'problems'), ('completions_per_problem', 'completions of each')) if field in settings]
  words += [f'{word} {sampling[field]}' for field, word in (
      ('temperature', 'temperature'), ('top_p', 'top-p'), ('max_new_tokens', 'at most')) if (
          field in sampling)]
  if 'max_new_tokens' in sampling:
    words[-1] += ' tokens'
  if 'template' in settings:
    words.append(f'template {settings["template"]}')
  return ', '.join(words)
