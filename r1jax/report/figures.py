"""The picture of a chain's report."""
from collections.abc import Mapping, Sequence
import io
import math
from typing import Any, NamedTuple

from r1jax.models.compute import Compute
from r1jax.report.data import REASONING, Trajectory, Votes, accuracy_metric, beside_truth, curve

# Paul Tol's muted colours, which the colour-blind tell apart; markers and lines differ too, for
# more stages and for who prints grey.
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
  rewarded = {stage: found for stage, path in paths.items() if (found := beside_truth(path))}
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
  if shown:
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
  training = {stage: list(zip(path.computed, (record.get(accuracy_metric(path), math.nan)
                                              for record in path.records)))
              for stage, path in paths.items() if curve(path, accuracy_metric(path))}
  reached = {stage: (computed[stage].total, *found[REASONING]['pass@1'])
             for stage, found in table.items() if 'pass@1' in found.get(REASONING, {})}
  spent = [x for x in (*(point[0] for point in reached.values()),
                       *(x for curve in training.values() for x, _ in curve)) if x > 0]
  # What cost nothing stands at the left edge of a logarithmic axis.
  reached = {stage: (x or min(spent) / 3, *rest) for stage, (x, *rest) in reached.items()
             } if spent else {}
  by_step = [_Panel(title, 'step', 'linear', {stage: points for stage, path in paths.items()
                                              if (points := curve(path, name))}, marked=False)
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
                  elinewidth=0.8, markersize=8, markeredgecolor='white',
                  markeredgewidth=0.6, zorder=3, **style[name])
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
