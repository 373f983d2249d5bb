"""The learning curves of one stage, as a picture."""
from collections.abc import Mapping, Sequence
import io

from r1jax.errors import UserError
from r1jax.metrics.labels import reward_titles
from r1jax.runtime import extras
from r1jax.runtime.storage import Path

# Metrics that have a panel, with its title. Reward components follow.
_TITLES = {
    'reward': 'reward', 'completions/mean_length': 'mean length (tokens)',
    'reflective_words': 'reflective words per completion', 'kl': 'KL from the reference (nats)',
    'entropy': 'entropy (nats per token)', 'loss': 'loss',
}


def plot_curves(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
  """Draws a PNG with a panel for each informative metric in `rows`.

  Without matplotlib nothing is drawn, which is said once.

  Args:
    rows: one dictionary of metrics for each step, as `read_metrics` returns them.
    path: the file to write, local or remote.

  Raises:
    UserError: the rows have none of these metrics.
  """
  if not extras.can_draw():
    return
  from matplotlib.figure import Figure
  names = dict.fromkeys(name for row in rows for name in row)
  titles = _TITLES | {name: f'{title} reward' for name, title in reward_titles(names).items()}
  curves = {title: [(row['step'], row[name]) for row in rows if name in row]
            for name, title in titles.items()}
  curves = {title: points for title, points in curves.items() if points}
  if not curves:
    raise UserError(f'there is nothing to plot: {len(rows)} rows have none of the metrics '
                     f'{", ".join(_TITLES)}')
  num_columns = min(len(curves), 3)
  num_rows = -(-len(curves) // num_columns)
  figure = Figure(figsize=(4 * num_columns, 2.6 * num_rows), layout='constrained')
  axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
  for (title, points), axis in zip(curves.items(), axes):
    axis.plot(*zip(*points), marker='o' if len(points) < 20 else '', markersize=3, linewidth=1.2)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel('step', fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
  for axis in axes[len(curves):]:
    axis.remove()
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=120)
  Path(path).write_bytes(image.getvalue())
