"""The progress line and the samples that are shown."""
import io

import pytest
import rich.console

from r1jax.metrics import Progress, progress


def test_pitfall_23_progress_shows_the_reward_first(monkeypatch):
  clock = iter([0.0, 100.0, 110.0, 130.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  out = io.StringIO()
  with Progress(100, done=10, console=rich.console.Console(file=out, width=20)) as line:
    shown = {'loss': 0.0, 'kl': 1.2e-5, 'reward': 0.5, 'completions/mean_length': 1234.5, 'odd': 1}
    line.update(11, shown)
    line.update(12, shown)
    line.update(14, {'loss': 2.0})
  assert out.getvalue().splitlines() == [
      'reward 0.500  loss 0.000  length 1,234  kl 1.2e-05  step 11/100  2:28:20 left',
      'reward 0.500  loss 0.000  length 1,234  kl 1.2e-05  step 12/100  0:14:40 left',
      'loss 2.000  step 14/100  0:14:20 left']  # 10 s a step without the first, which compiled


def test_live_progress_on_a_terminal():
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=True, width=100)
  with Progress(3, console=console) as line:
    line.update(1, {'reward': 0.25})
    line.show_samples([])
  assert 'reward 0.250  step 1/3' in out.getvalue() and '\x1b[' in out.getvalue()


@pytest.mark.parametrize('terminal', [True, False])
def test_pitfall_19_samples_are_shown_as_plain_text_whatever_a_model_wrote(terminal):
  hostile = '[b]x[/] [/no] :smile: \x1b[2J\x1b]0;t\x07 \r over \u202e \x9b \ud800 中 | {a}'
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=terminal, color_system=None, width=30)
  Progress(1, console=console).show_samples([{
      'example_id': 4, 'prompt': 'p' * 5000, 'completion': hostile,
      'rewards': {'accuracy': 1.0, 'format': None}}])
  text = out.getvalue()
  assert ('[b]x[/] [/no] :smile: \\x1b[2J\\x1b]0;t\\x07 \\r over \\u202e \\x9b \\ud800 中 | {a}\n'
          ) in text
  assert 'example 4: accuracy 1.000, format not judged' in text
  assert '[... 3000 characters ...]' in text
  ascii_only = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  Progress(1, console=rich.console.Console(file=ascii_only)).show_samples([
      {'example_id': 4, 'prompt': '', 'completion': hostile, 'rewards': {}}])
  ascii_only.seek(0)
  assert '\\ud800 \\u4e2d' in ascii_only.read()
