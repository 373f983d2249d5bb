"""The picture of a chain's report."""
from collections.abc import Mapping, Sequence
import io
import math
from typing import Any, NamedTuple

from r1jax.models.compute import Compute
from r1jax.report.data import (
  REASONING,
  Interval,
  ScoreTable,
  Trajectory,
  Votes,
  accuracy_metric,
  curve,
  rewards_and_truth,
)
from r1jax.runtime import extras

# Paul Tol's muted colours, which colour-blind people can tell apart. Markers and line styles differ
# too, for chains of many stages and for grey prints.
_COLOURS = ('#332288', '#CC6677', '#DDCC77', '#44AA99', '#882255', '#999933', '#88CCEE', '#117733',
            '#AA4499')
_MARKERS = 'osD^vPX<>*ph'
_LINES = ('-', '--', ':', '-.')
_MAX_COLUMNS = 3
_MANY_POINTS = 12    # curves with more points have fewer markers


class _Panel(NamedTuple):
  """A panel that compares stages.

  Attributes:
    title: its title.
    label: the label of the x axis.
    scale: of the x axis: 'linear', 'log' or 'log2'.
    curves: (x, y) points by stage.
    points: a single (x, mean, low, high) by stage.
    marked: whether the points of curves have the marker of their stage.
  """
  title: str
  label: str
  scale: str
  curves: Mapping[str, Sequence[tuple[float, float]]]
  points: Mapping[str, tuple[float, float, float, float]] = {}
  marked: bool = True


def draw(
    table: ScoreTable, votes: Mapping[str, Votes], trajectories: Mapping[str, Trajectory],
    computed: Mapping[str, Compute],
) -> bytes | None:
  """Draws the panels for which there are data.

  Args:
    table: what `evaluation_scores` returns.
    votes: votes and budgets by stage.
    trajectories: the course of training by RL stage.
    computed: the compute of the chain up to and including each stage, for all stages in order.

  Returns:
    A PNG, or None if there are no data or no matplotlib.
  """
  if not extras.can_draw():
    return None
  from matplotlib.figure import Figure
  styles = _styles([name for name in computed if name in table or name in trajectories])
  panels = [panel for panel in _panels(table, votes, trajectories, computed)
            if panel.points or any(panel.curves.values())]
  reward_models = {stage: found for stage, trajectory in trajectories.items()
                   if (found := rewards_and_truth(trajectory))}
  count = len(panels) + len(reward_models)
  if not count:
    return None
  num_columns = min(_MAX_COLUMNS, count)
  num_rows = -(-count // num_columns)
  figure = Figure(figsize=(max(6.0, 4.6 * num_columns), 3.3 * num_rows + 0.5), layout='constrained')
  axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
  for axis, panel in zip(axes, panels):
    _draw_panel(axis, panel, styles)
  for axis, (stage, found) in zip(axes[len(panels):], reward_models.items()):
    _draw_reward_models(axis, stage, found)
  for axis in axes[count:]:
    axis.remove()
  _draw_legend(figure, axes[:len(panels)], styles, num_columns)
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=120)
  return image.getvalue()


def _styles(stages: Sequence[str]) -> dict[str, dict[str, Any]]:
  """The colour, marker and line style of each stage, which are the same in every panel."""
  return {name: dict(color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
                     linestyle=_LINES[i // len(_COLOURS) % len(_LINES)])
          for i, name in enumerate(stages)}


def _draw_legend(figure, axes, styles: Mapping[str, Any], num_columns: int) -> None:
  """One legend for all panels, below them."""
  from matplotlib.lines import Line2D
  used = {name for axis in axes for name in axis.get_legend_handles_labels()[1]}
  shown = [name for name in styles if name in used]
  if shown:
    handles = [Line2D([], [], markersize=6, linewidth=1.5, **styles[name]) for name in shown]
    figure.legend(handles, shown, loc='outside lower center',
                  ncols=min(len(shown), 3 * num_columns), frameon=False, fontsize=9)


def _panels(
    table: ScoreTable, votes: Mapping[str, Votes], trajectories: Mapping[str, Trajectory],
    computed: Mapping[str, Compute],
) -> list[_Panel]:
  """The panels that compare stages, with or without data."""
  by_votes = {stage: [(found.tokens[k], value[0]) for k, value in found.by_votes.items()]
              for stage, found in votes.items()}
  by_budget = {stage: [(budget, value[0]) for budget, value in found.by_budget.items()]
               for stage, found in votes.items()}
  return [
      _compute_panel(table, trajectories, computed),
      _Panel('accuracy of a majority vote', 'completion tokens per problem', 'log2', by_votes),
      _Panel('accuracy within a token budget', 'completion tokens', 'log2', by_budget),
      _step_panel('mean length in training (tokens)', 'completions/mean_length', trajectories),
      _step_panel('language mixing in training', 'language_mixing', trajectories)]


def _compute_panel(
    table: ScoreTable, trajectories: Mapping[str, Trajectory], computed: Mapping[str, Compute],
) -> _Panel:
  """Accuracy by the compute of the chain: evaluations as points, training as lines."""
  training = {}
  for stage, trajectory in trajectories.items():
    name = accuracy_metric(trajectory)
    if curve(trajectory, name):
      training[stage] = [(x, row.get(name, math.nan))
                         for x, row in zip(trajectory.computed, trajectory.rows)]
  scores = {stage: found[REASONING]['pass@1'] for stage, found in table.items()
            if 'pass@1' in found.get(REASONING, {})}
  spent = [x for x in (*(computed[stage].total for stage in scores),
                       *(x for line in training.values() for x, _ in line)) if x > 0]
  points = {}
  if spent:    # else there is no axis to draw points on
    # A logarithmic axis has no 0: stages without compute are drawn at its left edge.
    points = {stage: (computed[stage].total or min(spent) / 3, *score)
              for stage, score in scores.items()}
  return _Panel(f'{REASONING} pass@1, and accuracy in training (lines)',
                'floating-point operations of the chain (given models: left edge)', 'log', training,
                points, marked=False)


def _step_panel(title: str, name: str, trajectories: Mapping[str, Trajectory]) -> _Panel:
  """A metric by step."""
  curves = {stage: points for stage, trajectory in trajectories.items()
            if (points := curve(trajectory, name))}
  return _Panel(title, 'step', 'linear', curves, marked=False)


def _draw_panel(axis, panel: _Panel, styles: Mapping[str, Any]) -> None:
  for name, points in panel.curves.items():
    style = styles[name]
    if panel.marked:
      style = style | dict(markevery=max(1, len(points) // _MANY_POINTS), markersize=6,
                           fillstyle='none')
    elif len(points) > _MANY_POINTS:
      style = style | dict(marker='')
    else:
      style = style | dict(marker='.', markersize=5)
    axis.plot(*zip(*points), label=name, linewidth=1.3, **style)
  for name, (x, mean, low, high) in panel.points.items():
    axis.errorbar([x], [mean], [[max(0, mean - low)], [max(0, high - mean)]], label=name,
                  elinewidth=0.8, markersize=8, markeredgecolor='white',
                  markeredgewidth=0.6, zorder=3, **styles[name])
  _finish_panel(axis, panel.title, panel.label, panel.scale)


def _draw_reward_models(axis, stage: str, found: Mapping[str, Sequence[Interval]]) -> None:
  """The rewards that the reward models of a stage gave, and the truth on the same tasks."""
  for i, (model, points) in enumerate(found.items()):
    steps, rewards, truths = zip(*points)
    style = dict(color=_COLOURS[i % len(_COLOURS)], linewidth=1.3,
                 marker='.' if len(points) <= _MANY_POINTS else '')
    axis.plot(steps, rewards, label=f'{model}: its reward', **style)
    axis.plot(steps, truths, label=f'{model}: the truth', linestyle='--', **style)
  axis.set_ylim(-0.03, 1.03)
  axis.legend(fontsize=7)
  _finish_panel(axis, f'{stage}: reward models and truth', 'step', 'linear')


def _finish_panel(axis, title: str, label: str, scale: str) -> None:
  """Sets title, label and scale; shared by all panels."""
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
