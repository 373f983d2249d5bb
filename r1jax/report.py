"""The page that ends a chain: what each stage reached, what it took, and how it got there.

`write` leaves `results.md`, `results.json` and `results.png`. They follow from the Artifacts alone
and hold neither times nor places, so a chain that was killed and started again ends with the same.
"""
from collections.abc import Iterable, Mapping, Sequence
import io
import json
import math
from typing import Any, NamedTuple

import numpy as np

from r1jax import compute, evaluate, metrics
from r1jax.compute import Compute
from r1jax.rewards import accuracy
from r1jax.stages.common import Artifact
from r1jax.storage import Path, to_json

REASONING = 'reasoning'    # the evaluation whose samples give majority votes and budgets
_KINDS = ('pretrain', 'sft', 'rl', 'distill', 'evaluate')   # those that evaluate a model they name
_LEAST_BUDGET = 8          # tokens
_MODEL = 'rewards/reward_model/'

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
      name: before[name] + _own(artifact) for name, artifact in artifacts.items()})
  (workdir / 'results.md').write_text(
      _page(artifacts, stages, parts, table, image=figure is not None))
  (workdir / 'results.json').write_text(to_json(_columns(table, votes, artifacts)))
  if figure is not None:
    (workdir / 'results.png').write_bytes(figure)


# What is reported, as numbers.


def scores(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, dict[str, Any]]]:
  """{stage: {evaluation: {score: (mean, low, high)}}} of the stages that evaluated a model."""
  table = {}
  for name, artifact in artifacts.items():
    if artifact.manifest.kind in _KINDS:
      found = {evaluation: _intervals(values)
               for evaluation, values in artifact.manifest.scores.items()
               if isinstance(values, Mapping)}
      found = {evaluation: values for evaluation, values in found.items() if values}
      if found:
        table[name] = found
  return table


def _intervals(values: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
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
  return {name: sum((_own(artifacts[other]) for other in artifacts if other in found), Compute())
          for name, found in ancestors.items()}


def _own(artifact: Artifact) -> Compute:
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


def _curve(path: Trajectory, name: str) -> list[tuple[float, float]]:
  """(step, value) of a metric, where it was logged and is finite."""
  return [(record['step'], record[name]) for record in path.records
          if math.isfinite(record.get(name, math.nan))]


def _ends(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
  """Means over the first and over the last fifth of a curve."""
  size = max(1, len(points) // 5)
  values = [value for _, value in points]
  return float(np.mean(values[:size])), float(np.mean(values[-size:]))


def _beside_truth(path: Trajectory) -> dict[str, list[tuple[float, float, float]]]:
  """{reward model: [(step, its mean reward, the truth)]} of the steps where both were logged.

  The truth is the share done of the tasks that this reward model judged.
  """
  models = dict.fromkeys(name.removeprefix(_MODEL).removesuffix('/truth') for record in path.records
                         for name in record if name.startswith(_MODEL) and name.endswith('/truth'))
  found = {}
  for model in models:
    truth = dict(_curve(path, f'{_MODEL}{model}/truth'))
    found[model] = [(step, reward, truth[step])
                    for step, reward in _curve(path, f'{_MODEL}{model}/mean') if step in truth]
  return {model: points for model, points in found.items() if points}


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
      held_out = _intervals(artifact.manifest.scores.get('after', {}))
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
    own = _own(artifact)
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


def _gap_part(paths: Mapping[str, Trajectory]) -> Part:
  rows = []
  for stage, path in paths.items():
    for model, points in _beside_truth(path).items():
      first, last = _ends([(step, reward) for step, reward, _ in points])
      was, is_ = _ends([(step, truth) for step, _, truth in points])
      rows.append({'stage': stage, 'reward model': model, 'its reward, first': first,
                   'its reward, last': last, 'truth, first': was, 'truth, last': is_,
                   'gap opened by': (last - first) - (is_ - was)})
  return ('Reward models against the truth, in training', rows,
          'Means over the first and the last fifth of the steps at which the reward model judged. A '
          'reward that rises while the truth (the share done of the tasks that it judged) does not '
          'is a reward model being hacked.')


_GROWTH = {'completions/mean_length': 'length', 'language_mixing': 'language mixing',
           'reflective_words': 'reflective words', 'completions/clipped_ratio': 'cut'}


def _growth_part(paths: Mapping[str, Trajectory]) -> Part:
  rows = []
  for stage, path in paths.items():
    row = {'stage': stage}
    for name, title in ({_accuracy_metric(path): 'accuracy'} | _GROWTH).items():
      if points := _curve(path, name):
        row[f'{title}, first'], row[f'{title}, last'] = _ends(points)
    rows.append(row)
  return ('Reinforcement learning, over its steps', [row for row in rows if len(row) > 1],
          'Means over the first and the last fifth of the steps, of the completions drawn in '
          'training; length is in tokens.')


def _accuracy_metric(path: Trajectory) -> str:
  """The metric of the reward that decides what is correct: the first of these that was logged."""
  names = [f'rewards/{name}/mean' for name in ('number', 'gsm8k', 'math', 'exact_match', 'choice')]
  return next((name for name in names if _curve(path, name)), names[0])


def _page(artifacts, stages, parts: Iterable[Part], table, *, image: bool) -> str:
  chain = [{'stage': name, 'kind': artifact.manifest.kind,
            'reads': ', '.join(stages[name]['inputs']) or '-',
            'seed': str(stages[name].get('seed', '-')), 'config': artifact.manifest.config_hash}
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
      ('problems', 'problems'), ('samples', 'samples of each')) if field in settings]
  words += [f'{word} {sampling[field]}' for field, word in (
      ('temperature', 'temperature'), ('top_p', 'top-p'), ('max_new_tokens', 'at most')) if (
          field in sampling)]
  if 'max_new_tokens' in sampling:
    words[-1] += ' tokens'
  if 'template' in settings:
    words.append(f'template {settings["template"]}')
  return ', '.join(words)


# The picture.

# Paul Tol's muted colours, which the colour-blind tell apart; markers and lines differ too, for more
# stages and for who prints grey.
_COLOURS = ('#332288', '#CC6677', '#DDCC77', '#44AA99', '#882255', '#999933', '#88CCEE', '#117733',
            '#AA4499')
_MARKERS = 'osD^vPX<>*ph'
_LINES = ('-', '--', ':', '-.')


class _Panel(NamedTuple):
  """Curves of stages by name; `points` (x, mean, low, high) stand for stages too."""
  title: str
  label: str
  scale: str                                         # 'linear', 'log' or 'log2'
  curves: dict[str, list[tuple[float, float]]]
  points: dict[str, tuple[float, float, float, float]] = {}
  marked: bool = True                                # the points of a curve


def draw(table, votes: Mapping[str, Votes], paths: Mapping[str, Trajectory],
         computed: Mapping[str, Compute]) -> bytes | None:
  """A PNG with the panels that have data; None where none has.

  Args:
    table: of `scores`.
    votes, paths: by stage.
    computed: the compute of the chain up to each stage and with it, of all stages in their order.
  """
  from matplotlib.figure import Figure
  style = _styles([name for name in computed if name in table or name in paths])
  panels = [panel for panel in _panels(table, votes, paths, computed)
            if panel.points or any(panel.curves.values())]
  rewarded = {stage: found for stage, path in paths.items() if (found := _beside_truth(path))}
  count = len(panels) + len(rewarded)
  if not count:
    return None
  columns = min(3, count)
  rows = -(-count // columns)
  figure = Figure(figsize=(max(6.0, 4.6 * columns), 3.3 * rows + 0.5), layout='constrained')
  axes = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axis, panel in zip(axes, panels):
    _draw_panel(axis, panel, style)
  for axis, (stage, found) in zip(axes[len(panels):], rewarded.items()):
    _draw_rewards(axis, stage, found)
  for axis in axes[count:]:
    axis.remove()
  handles = {name: handle for axis in axes[:len(panels)]
             for handle, name in zip(*axis.get_legend_handles_labels())}
  shown = [name for name in style if name in handles]
  figure.legend([_handle(style[name]) for name in shown], shown, loc='outside lower center',
                ncols=min(len(shown), 3 * columns), frameon=False, fontsize=9)
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=120)
  return image.getvalue()


def _styles(stages: Sequence[str]) -> dict[str, dict[str, Any]]:
  """How each stage looks, in every panel."""
  return {name: dict(color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
                     linestyle=_LINES[i // len(_COLOURS) % len(_LINES)])
          for i, name in enumerate(stages)}


def _handle(style: Mapping[str, Any]):
  from matplotlib.lines import Line2D
  return Line2D([], [], markersize=6, linewidth=1.5, **style)


def _panels(table, votes, paths, computed) -> list[_Panel]:
  """Those whose curves are stages."""
  training = {stage: list(zip(path.computed, (record.get(_accuracy_metric(path), math.nan)
                                              for record in path.records)))
              for stage, path in paths.items() if _curve(path, _accuracy_metric(path))}
  reached = {stage: (computed[stage].total, *found[REASONING]['pass@1'])
             for stage, found in table.items() if 'pass@1' in found.get(REASONING, {})}
  spent = [x for x in (*(point[0] for point in reached.values()),
                       *(x for curve in training.values() for x, _ in curve)) if x > 0]
  # What cost nothing stands at the left edge of a logarithmic axis.
  reached = {stage: (x or min(spent) / 3, *rest) for stage, (x, *rest) in reached.items()
             } if spent else {}
  by_step = [_Panel(title, 'step', 'linear', {stage: points for stage, path in paths.items()
                                              if (points := _curve(path, name))}, marked=False)
             for name, title in (('completions/mean_length', 'mean length in training (tokens)'),
                                 ('language_mixing', 'language mixing in training'))]
  return [
      _Panel(f'{REASONING} pass@1, and accuracy in training (lines)',
             'floating-point operations of the chain (given models: left edge)', 'log', training,
             reached, marked=False),
      _Panel('accuracy of a majority of votes', 'completion tokens a problem', 'log2', {
          stage: [(found.tokens[k], value[0]) for k, value in found.by_votes.items()]
          for stage, found in votes.items()}),
      _Panel('accuracy within a budget', 'completion tokens', 'log2', {
          stage: [(budget, value[0]) for budget, value in found.by_budget.items()]
          for stage, found in votes.items()}), *by_step]


def _draw_panel(axis, panel: _Panel, style) -> None:
  for name, points in panel.curves.items():
    look = style[name]
    if panel.marked:
      look = look | dict(markevery=max(1, len(points) // 12), markersize=6, fillstyle='none')
    elif len(points) > 12:
      look = look | dict(marker='')
    else:
      look = look | dict(marker='.', markersize=5)
    axis.plot(*zip(*points), label=name, linewidth=1.3, **look)
  for name, (x, mean, low, high) in panel.points.items():
    axis.errorbar([x], [mean], [[max(0, mean - low)], [max(0, high - mean)]], label=name,
                  elinewidth=0.8, markersize=8, markeredgecolor='white', zorder=3, **style[name])
  _finish_panel(axis, panel.title, panel.label, panel.scale)


def _draw_rewards(axis, stage: str, found: Mapping[str, Sequence[tuple[float, ...]]]) -> None:
  """What the reward models of a stage gave, and the truth on the same questions."""
  for i, (model, points) in enumerate(found.items()):
    steps, rewards, truths = zip(*points)
    look = dict(color=_COLOURS[i % len(_COLOURS)], linewidth=1.3,
                marker='.' if len(points) <= 12 else '')
    axis.plot(steps, rewards, label=f'{model}: its reward', **look)
    axis.plot(steps, truths, label=f'{model}: the truth', linestyle='--', **look)
  axis.set_ylim(-0.03, 1.03)
  axis.legend(fontsize=7)
  _finish_panel(axis, f'{stage}: reward models and truth', 'step', 'linear')


def _finish_panel(axis, title: str, label: str, scale: str) -> None:
  from matplotlib.ticker import MaxNLocator
  axis.set_title(title, fontsize=10)
  axis.set_xlabel(label, fontsize=8)
  if scale == 'log2':
    axis.set_xscale('log', base=2)
    axis.xaxis.set_major_formatter('{x:.0f}')
  elif scale == 'log':
    axis.set_xscale('log')
  else:
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
  axis.tick_params(labelsize=8)
  axis.grid(alpha=0.3)
  axis.spines[['top', 'right']].set_visible(False)
