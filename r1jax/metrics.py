"""What a person sees of a run: metrics and rollouts on disk, a progress line, curves, a table.

Metrics and rollouts are lines of JSON, in parts, since buckets cannot append:
`metrics/part-<first step>.jsonl`, `rollouts/part-<first iteration>.jsonl`. A resumed run first cuts
away what it will write again, so that an interrupted run leaves the lines of an uninterrupted one.

Of several hosts the first alone writes and prints; what is given to the writers of others is gone.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import io
import json
import tempfile
import time
import unicodedata
import warnings

from r1jax.runtime import hosts
from r1jax.runtime.storage import Path, to_json


class JsonlParts:
  """Appends records to `<folder>/part-<first>.jsonl`; each `append` is on disk when it returns.

  The part being written is rewritten whole at every call, and closed once it has grown large, so
  that a call costs no more late in a run than early.

  Args:
    folder: local or remote; its parts are cut back at once.
    key: the field that orders the records: 'step' or 'iteration'.
    resume: its first value to come: records at or after it are removed; 0 removes all.
    part_bytes: a part of this size is closed.
  """

  def __init__(self, folder: str | Path, *, key: str, resume: int, part_bytes: int = 1 << 18):
    self._folder = Path(folder)
    self._key = key
    self._part_bytes = part_bytes
    self._last = resume - 1
    self._part: Path | None = None
    self._lines: list[str] = []
    for part in reversed(_parts(self._folder) if hosts.is_first() else []):
      records = list(_read_part(part))
      kept = [record for record in records if record[key] < resume]
      if not kept:
        part.remove()
      elif len(kept) < len(records):
        part.write_text(''.join(to_json(record) + '\n' for record in kept))
      else:
        break

  def append(self, place: int, records: Iterable[Mapping[str, object]]) -> None:
    """Writes records of one step or iteration, which is not before the last one.

    NaN and infinities become strings, as `storage.to_json` says; lone surrogates are kept.
    """
    if place < self._last:
      raise ValueError(f'{self._key} {place} comes after {self._last} in {self._folder}: '
                       'write records in order, or resume from a checkpoint')
    if not hosts.is_first():
      return
    full = sum(map(len, self._lines)) >= self._part_bytes
    if self._part is None or (full and place > self._last):
      self._part, self._lines = self._folder / f'part-{place:010d}.jsonl', []
    self._last = place
    self._lines += [to_json({self._key: place, **record}) + '\n' for record in records]
    self._part.write_text(''.join(self._lines))


def read_jsonl(folder: str | Path) -> Iterator[dict]:
  """The records of all parts in `folder`, in order.

  Raises ValueError where a line is no JSON object, naming file and line.
  """
  for part in _parts(Path(folder)):
    yield from _read_part(part)


def _parts(folder: Path) -> list[Path]:
  return [path for path in folder.iterdir()
          if path.name.startswith('part-') and path.name.endswith('.jsonl')]


def _read_part(part: Path) -> Iterator[dict]:
  # Not splitlines: text may hold U+2028, which JSON leaves as it is.
  for number, line in enumerate(part.read_text().split('\n'), start=1):
    if not line:
      continue
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if not isinstance(record, dict):
      raise ValueError(f'{part}, line {number}, is no JSON object: remove that line')
    yield record


class MetricWriter:
  """Writes metrics to `<workdir>/metrics` and, for TensorBoard, to `<workdir>/tensorboard`.

  TensorBoard's files are made anew from the JSONL, so that both are cut back on resume. In a bucket
  they are copied at `flush`; without tensorboardX there are none, which a warning says.

  Args:
    workdir: the run's folder, local or remote.
    resume_step: the first step to come; what was written at or after it is removed.
  """

  def __init__(self, workdir: str | Path, *, resume_step: int):
    self._workdir = Path(workdir)
    self._jsonl = JsonlParts(self._workdir / 'metrics', key='step', resume=resume_step)
    self._target = self._workdir / 'tensorboard'
    self._events = self._stage = None
    if not hosts.is_first():
      return
    self._target.remove()
    self._stage = None if self._target.is_local else tempfile.TemporaryDirectory()
    try:
      from tensorboardX import SummaryWriter
    except ImportError:
      warnings.warn('tensorboardX is not installed: metrics are written to JSONL only')
      return
    self._events = SummaryWriter(self._stage.name if self._stage else str(self._target))
    for record in read_metrics(self._workdir):
      self._add_events(record.pop('step'), record)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes scalars; a step may be written in several calls, which `read_metrics` joins."""
    metrics = {name: float(value) for name, value in metrics.items()}
    self._jsonl.append(step, [metrics])
    self._add_events(step, metrics)

  def flush(self) -> None:
    """Brings TensorBoard's files up to date, but for a few of the last events, which wait for the
    next `flush` or `close`; the JSONL always is."""
    if self._events is not None:
      self._events.flush()
      self._copy_events()

  def close(self) -> None:
    if self._events is not None:
      self._events.close()
      self._copy_events()
    if self._stage is not None:
      self._stage.cleanup()

  def _copy_events(self) -> None:
    if self._stage is not None:
      Path(self._stage.name).copy_to(self._target)

  def _add_events(self, step: int, metrics: Mapping[str, float]) -> None:
    if self._events is not None:
      for name, value in metrics.items():
        self._events.add_scalar(name, value, step)


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
  """One dict a step, with 'step' and every metric written at it; NaN and infinities restored."""
  steps: dict[int, dict] = {}
  for record in read_jsonl(Path(workdir) / 'metrics'):
    step = record.pop('step')
    metrics = {name: float(value) for name, value in record.items()}
    steps.setdefault(step, {'step': step}).update(metrics)
  return list(steps.values())


class RolloutWriter:
  """Keeps completions in `<workdir>/rollouts`, one line each, for `read_jsonl`.

  `resume_iteration` is the first iteration to come; what was kept at or after it is removed.
  """

  def __init__(self, workdir: str | Path, *, resume_iteration: int):
    self._jsonl = JsonlParts(Path(workdir) / 'rollouts', key='iteration', resume=resume_iteration)

  def write(self, iteration: int, samples: Iterable[Mapping[str, object]]) -> None:
    """A sample has 'example_id', 'prompt', 'completion', 'rewards' ({name: float | None}),
    'truncated', and what else is worth keeping."""
    self._jsonl.append(iteration, samples)


class Stopwatch:
  """Adds up seconds by name: `with stopwatch('rollout'): ...`, then `stopwatch.pop()`.

  Dispatch to a device is asynchronous: time runs until the block ends, so wait for results in it.
  """

  def __init__(self):
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

  def pop(self) -> dict[str, float]:
    """{'timing_s/<name>': seconds} since the last call; the watch starts again at zero."""
    seconds, self._seconds = self._seconds, {}
    return {f'timing_s/{name}': value for name, value in seconds.items()}


# What the progress line shows of the metrics that are there, the most telling first.
_SHOWN = {
    'reward': 'reward', 'loss': 'loss',
    'completions/mean_length': 'length', 'kl': 'kl', 'entropy': 'entropy',
    'tokens_per_second': 'tokens/s',
}


class Progress:
  """A progress line, reward first: live on a terminal, else one printed line an update.

  Args:
    total: steps of the whole run.
    done: steps done when it starts, or resumes.
    console: a `rich.console.Console`; None is standard output.
  """

  def __init__(self, total: int, *, done: int = 0, console=None):
    import rich.progress
    self._total = total
    self._since, self._updated = (done, time.monotonic()), False
    self._console = console or _console()
    self._live = None
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
    """Shows the state after `step` steps."""
    shown = [f'{label} {format_number(metrics[name])}'
             for name, label in (_SHOWN | _reward_titles(metrics)).items() if name in metrics]
    line = '  '.join([*shown, f'step {step}/{self._total}', f'{self._left(step)} left'])
    if self._live is not None:
      self._live.update(self._task, completed=step, description=line)
    else:
      self._print(line)

  def show_samples(self, samples: Sequence[Mapping[str, object]]) -> None:
    """Prints samples as `RolloutWriter` takes them, as plain text: what a model wrote is neither
    markup nor a terminal's command."""
    for sample in samples:
      rewards = ', '.join(f'{name} {"not judged" if value is None else format_number(value)}'
                          for name, value in sample['rewards'].items())
      self._print(f'--- sample of example {sample["example_id"]}: {rewards}')
      self._print(_excerpt(sample['prompt']))
      self._print('--- completion')
      self._print(_excerpt(sample['completion']))
    self._print('---')

  def close(self) -> None:
    if self._live is not None:
      self._live.stop()

  def _left(self, step: int) -> str:
    first, start = self._since
    now = time.monotonic()
    seconds = round((now - start) / max(step - first, 1) * (self._total - step))
    if not self._updated:  # The first step includes compiling: from now on it is left out.
      self._since, self._updated = (step, now), True
    return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'

  def _print(self, text: str) -> None:
    import rich.text
    encoding = self._console.encoding
    text = printable(text).encode(encoding, 'backslashreplace').decode(encoding)
    self._console.print(rich.text.Text(text), soft_wrap=True)


def _console():
  import rich.console
  return rich.console.Console(quiet=not hosts.is_first())


def printable(text: str) -> str:
  """`text` with control, format and surrogate characters written as escapes (`\\x1b`); newlines and
  tabs stay."""
  return ''.join(
      char if char in '\n\t' or unicodedata.category(char)[0] != 'C'
      else char.encode('unicode_escape').decode() for char in text)


def _excerpt(text: str, limit: int = 2000) -> str:
  if len(text) <= limit:
    return text
  half = limit // 2
  return f'{text[:half]}\n[... {len(text) - limit} characters ...]\n{text[-half:]}'


def format_number(value: float) -> str:
  """Three or so significant digits: 0.412, 38.2, 1,234, 1.2e-05; counts are whole."""
  if isinstance(value, int):
    return f'{value:,}'
  size = abs(value)
  if 0 < size < 1e-3:
    return f'{value:.1e}'
  return f'{value:.3f}' if size < 10 else f'{value:.1f}' if size < 1000 else f'{value:,.0f}'


_PANELS = {
    'reward': 'reward', 'completions/mean_length': 'mean length (tokens)',
    'reflective_words': 'reflective words per completion', 'kl': 'KL from the reference (nats)',
    'entropy': 'entropy (nats a token)', 'loss': 'loss',
}


def _reward_titles(metrics: Iterable[str]) -> dict[str, str]:
  """{'rewards/<name>/mean': '<name>'} of the reward components that are there."""
  return {name: name.removeprefix('rewards/').removesuffix('/mean') for name in metrics
          if name.startswith('rewards/') and name.endswith('/mean')}


def plot_curves(records: Sequence[Mapping[str, float]], path: str | Path) -> None:
  """Draws a PNG with a panel for each telling metric that the records (of `read_metrics`) have.

  Raises ValueError where they have none of them.
  """
  from matplotlib.figure import Figure
  names = dict.fromkeys(name for record in records for name in record)
  panels = _PANELS | {name: f'{title} reward' for name, title in _reward_titles(names).items()}
  curves = {title: [(record['step'], record[name]) for record in records if name in record]
            for name, title in panels.items()}
  curves = {title: points for title, points in curves.items() if points}
  if not curves:
    raise ValueError(f'{len(records)} records have none of the metrics {", ".join(_PANELS)}: '
                     'there is nothing to draw')
  columns = min(len(curves), 3)
  rows = -(-len(curves) // columns)
  figure = Figure(figsize=(4 * columns, 2.6 * rows), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).flat
  for (title, points), axis in zip(curves.items(), axes):
    axis.plot(*zip(*points), marker='o' if len(points) < 20 else '', markersize=3, linewidth=1.2)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel('step', fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
  for axis in axes:  # those left over
    axis.remove()
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=120)
  Path(path).write_bytes(image.getvalue())


def format_table(rows: Sequence[Mapping[str, object]], title: str) -> str:
  """A Markdown table under `title`.

  A cell is text, a number, or an estimate with its interval, (value, low, high). Columns are the
  keys in order of appearance; where a row lacks one, a dash.
  """
  columns, cells = _cells(rows)
  lines = [f'**{title}**', '', *(f'| {" | ".join(line)} |' for line in (
      columns, ['---'] + ['---:'] * (len(columns) - 1), *cells))]
  return '\n'.join(lines) + '\n'


def print_table(rows: Sequence[Mapping[str, object]], title: str, *, console=None) -> None:
  """Prints what `format_table` writes, with rich: a table, or row by row where it is too wide."""
  import rich.table
  import rich.text
  columns, cells = _cells(rows)
  table = rich.table.Table(title=rich.text.Text(title))
  for index, column in enumerate(columns):
    table.add_column(rich.text.Text(column), justify='right' if index else 'left')
  for row in cells:
    table.add_row(*map(rich.text.Text, row))
  console = console or _console()
  widths = (max(map(len, column)) for column in zip(columns, *cells))
  if sum(widths) + 3 * len(columns) + 1 <= console.width:
    console.print(table)
    return
  console.print(rich.text.Text(title))
  for first, *others in cells:
    console.print(rich.text.Text(first))
    for column, value in zip(columns[1:], others):
      console.print(rich.text.Text(f'  {column:<{max(map(len, columns))}}  {value}'))


def _cells(rows: Sequence[Mapping[str, object]]) -> tuple[list[str], list[list[str]]]:
  def cell(value) -> str:
    if value is None:
      return '–'
    if isinstance(value, str):
      return value
    if isinstance(value, (tuple, list)):
      estimate, low, high = map(format_number, value)
      return f'{estimate} [{low}, {high}]'
    return format_number(value)

  columns = list(dict.fromkeys(name for row in rows for name in row))
  return columns, [[cell(row.get(name)) for name in columns] for row in rows]
