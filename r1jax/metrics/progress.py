"""The progress line of a run, and samples of what the policy writes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
import time
from typing import Any

from r1jax.errors import printable
from r1jax.metrics.labels import format_number, reward_titles
from r1jax.metrics.terminal import default_console

# Metrics on the progress line, the most informative first. Reward components follow.
_LABELS = {
    'reward': 'reward', 'loss': 'loss', 'pass_rate': 'pass rate',
    'completions/mean_length': 'length', 'kl': 'kl', 'entropy': 'entropy',
    'tokens_per_second': 'tokens/s',
}
_COUNTS = {'skipped_updates': 'skipped', 'critic/skipped_updates': 'critic skipped'}   # if not 0


class Progress:
  """A progress line, reward first: live on a terminal, elsewhere a printed line for each update.

  Args:
    total: number of steps of the whole run.
    done: number of steps already done when the run starts or resumes.
    console: a `rich.console.Console`; standard output if None.
  """

  def __init__(self, total: int, *, done: int = 0, console=None):
    import rich.progress
    self._total = total
    self._since, self._updated = (done, time.monotonic()), False
    self._console = console or default_console()
    self._live: rich.progress.Progress | None = None
    if self._console.is_terminal and not self._console.is_jupyter:
      self._live = rich.progress.Progress(
          rich.progress.TextColumn('{task.description}', markup=False), rich.progress.BarColumn(),
          console=self._console)
      self._task = self._live.add_task('starting', total=total, completed=done)
      self._live.start()

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def update(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows the metrics after `step` steps, and an estimate of the time left."""
    shown = [f'{label} {format_number(metrics[name])}'
             for name, label in (_LABELS | reward_titles(metrics)).items() if name in metrics]
    shown += [f'{label} {int(metrics[name])}' for name, label in _COUNTS.items()
              if metrics.get(name)]
    line = '  '.join([*shown, f'step {step}/{self._total}', f'{self._time_left(step)} left'])
    if self._live is not None:
      self._live.update(self._task, completed=step, description=line)
    else:
      self._print(line)

  def show_samples(self, samples: Sequence[Mapping[str, Any]]) -> None:
    """Prints samples as plain text, without interpreting markup or terminal codes in them.

    Args:
      samples: rows as for `RolloutWriter.write`.
    """
    for sample in samples:
      rewards = ', '.join(f'{name} {"not judged" if value is None else format_number(value)}'
                          for name, value in sample['rewards'].items())
      self._print(f'--- sample of example {sample["example_id"]}: {rewards}')
      self._print(_excerpt(sample['prompt']))
      self._print('--- completion')
      self._print(_excerpt(sample['completion']))
    self._print('---')

  def close(self) -> None:
    """Ends the live line, if there is one."""
    if self._live is not None:
      self._live.stop()

  def _time_left(self, step: int) -> str:
    first, start = self._since
    now = time.monotonic()
    seconds = round((now - start) / max(step - first, 1) * (self._total - step))
    if not self._updated:  # The first step includes compilation: later estimates leave it out.
      self._since, self._updated = (step, now), True
    return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'

  def _print(self, text: str) -> None:
    import rich.text
    encoding = self._console.encoding
    text = printable(text).encode(encoding, 'backslashreplace').decode(encoding)
    self._console.print(rich.text.Text(text), soft_wrap=True)


def _excerpt(text: str, limit: int = 2000) -> str:
  """The beginning and end of a text that is longer than `limit` characters."""
  if len(text) <= limit:
    return text
  half = limit // 2
  return f'{text[:half]}\n[... {len(text) - limit} characters ...]\n{text[-half:]}'
