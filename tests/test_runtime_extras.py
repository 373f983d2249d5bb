"""Each optional package's absence ends in one sentence that names its extra."""
import re
import sys

import pytest

from r1jax.data.reasoning_gym import reasoning_gym_source
from r1jax.metrics import plot_curves
from r1jax.models import gguf
from r1jax.report import figures
from r1jax.runtime import extras


@pytest.fixture(autouse=True)
def nothing_said():
  extras.available.cache_clear()
  yield
  extras.available.cache_clear()


@pytest.mark.parametrize('package, extra, use', [
    ('gguf', 'gguf', lambda: gguf.load_gguf('model.gguf')),
    ('reasoning_gym', 'reasoning-gym', lambda: reasoning_gym_source('gcd', 10, 0)),
])
def test_what_needs_an_absent_package_names_its_extra(monkeypatch, package, extra, use):
  monkeypatch.setitem(sys.modules, package, None)
  words = rf"needs the package {package}, which is not installed: .* pip install '\.\[{extra}\]'\.$"
  with pytest.raises(ModuleNotFoundError, match=words):
    use()


def test_without_matplotlib_nothing_is_drawn_and_it_is_said_once(monkeypatch, capsys, tmp_path):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  plot_curves([{'step': 0, 'reward': 1.0}], tmp_path / 'curves.png')
  assert figures.draw({}, {}, {}, {}) is None
  plot_curves([{'step': 0, 'reward': 1.0}], tmp_path / 'curves.png')
  assert list(tmp_path.iterdir()) == []
  said = capsys.readouterr().out
  assert re.fullmatch("matplotlib is not installed, so .* drawn: .* 'plots' to have them.\n", said)


def test_a_package_that_lacks_one_itself_is_not_called_absent(tmp_path, monkeypatch):
  (tmp_path / 'half_installed.py').write_text('import not_there_either')
  monkeypatch.syspath_prepend(tmp_path)
  for use in (lambda: extras.require('half_installed', extra='x', purpose='This'),
              lambda: extras.available('half_installed', extra='x', otherwise='nothing works')):
    with pytest.raises(ModuleNotFoundError, match="'not_there_either'"):
      use()
