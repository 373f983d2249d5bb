"""The curves of a stage."""
import math
import uuid

import matplotlib.figure
import numpy as np
import pytest

from r1jax.metrics import plot_curves
from r1jax.runtime.storage import Path


@pytest.fixture(params=['local', 'memory'])
def workdir(request, tmp_path):
  return str(tmp_path) if request.param == 'local' else f'memory://{uuid.uuid4().hex}'


def test_curves_are_drawn_for_the_metrics_there_are(workdir, monkeypatch):
  figures = []
  class Figure(matplotlib.figure.Figure):
    def savefig(self, *args, **kwargs):
      figures.append(self)
      super().savefig(*args, **kwargs)

  monkeypatch.setattr(matplotlib.figure, 'Figure', Figure)
  records = [{'step': step, 'reward': math.nan if step == 1 else step / 9, 'kl': 0.1, 'odd': 2.0,
              'completions/mean_length': 3.0} for step in range(9)]
  records[4]['entropy'] = 1.0
  plot_curves(records, Path(workdir) / 'curves.png')
  assert (Path(workdir) / 'curves.png').read_bytes().startswith(b'\x89PNG')
  (figure,) = figures
  titles = ['reward', 'mean length (tokens)', 'KL from the reference (nats)',
            'entropy (nats per token)']
  assert [axis.get_title() for axis in figure.axes] == titles
  steps, rewards = figure.axes[0].lines[0].get_data()
  np.testing.assert_array_equal(rewards, [record['reward'] for record in records])
  assert list(steps) == list(range(9)) and list(figure.axes[3].lines[0].get_xdata()) == [4]
  with pytest.raises(ValueError, match='none of the metrics reward'):
    plot_curves([{'step': 1, 'odd': 2.0}], 'unwritten.png')
