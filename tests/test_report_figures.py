"""The picture of a report: which panels there are, and how stages look."""
import chains
import matplotlib.figure
import numpy as np

from r1jax.models import compute
from r1jax.report import data, figures


def test_no_two_stages_look_the_same():
  styles = figures._styles([str(i) for i in range(36)])
  assert len({tuple(style.values()) for style in styles.values()}) == 36
  assert len({(style['color'], style['linestyle']) for style in styles.values()}) == 36
  assert len({style['color'] for style in list(styles.values())[:9]}) == 9


def drawn(monkeypatch, *arguments):
  """The figure of `figures.draw`."""
  drawn_figures, save = [], matplotlib.figure.Figure.savefig
  monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', lambda figure, *args, **more: (
      drawn_figures.append(figure), save(figure, *args, **more))[1])
  assert figures.draw(*arguments)[:4] == b'\x89PNG'
  return drawn_figures[0]


def test_every_stage_is_told_apart_and_keeps_its_look_in_every_panel(monkeypatch):
  names = [f'stage {i}' for i in range(9)]
  table = {name: {'reasoning': {'pass@1': (i / 10, i / 10 - 0.02, i / 10 + 0.05)}}
           for i, name in enumerate(names)}
  votes = {name: data.votes_of(chains.samples(i, 0.5, 4, 5)) for i, name in enumerate(names)}
  computed = {name: compute.Compute(trained=1e9 * i) for i, name in enumerate(names)}
  figure = drawn(monkeypatch, table, votes, {}, computed)
  legend, = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == names
  colours = {name: line.get_color() for name, line in zip(names, legend.get_lines())}
  assert len(set(colours.values())) == 9 and len(figure.axes) == 3
  for axis in figure.axes:
    assert axis.get_legend() is None
    handles, labels = axis.get_legend_handles_labels()
    assert labels == names
    for name, handle in zip(labels, handles):
      line = handle if hasattr(handle, 'get_color') else handle.lines[0]
      assert line.get_color() == colours[name]
  points = [handle.lines[0].get_xydata()[0] for handle in
            figure.axes[0].get_legend_handles_labels()[0]]
  np.testing.assert_allclose([y for _, y in points], np.arange(9) / 10)
  np.testing.assert_allclose([x for x, _ in points][1:], 1e9 * np.arange(1, 9))
  assert 0 < points[0][0] < 1e9    # what cost nothing, on the left


def test_reward_models_share_an_axis_from_0_to_1_with_the_truth(monkeypatch):
  rows = [{'step': step, **{f'rewards/reward_model/{name}/{what}': step / 10 for name in 'ab'
                               for what in ('mean', 'truth')}} for step in range(1, 4)]
  figure = drawn(monkeypatch, {}, {}, {'r1': data.Trajectory(rows, [1.0] * 3)},
                 {'r1': compute.Compute()})
  axis, = figure.axes
  looks = {(line.get_color(), line.get_linestyle()) for line in axis.get_lines()}
  assert len(looks) == 4 and axis.get_ylim()[0] <= 0 < 1 <= axis.get_ylim()[1]
  assert len(axis.get_legend().get_texts()) == 4
