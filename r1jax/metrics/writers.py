"""Writers of what a run measures and samples, and the reader of its metrics."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import os
import tempfile
import time
from typing import Any

from r1jax.metrics.jsonl import JsonlWriter, read_jsonl
from r1jax.runtime import extras, hosts
from r1jax.runtime.storage import Path, make_folder


class MetricWriter:
  """Writes metrics to `<workdir>/metrics` as JSONL and to `<workdir>/tensorboard`.

  The TensorBoard files are regenerated from the JSONL at the start, so that both are cut back when
  a run resumes. In a bucket they are copied at `flush`. Without tensorboardX there are none, which
  is said once.

  Args:
    workdir: the run's folder, local or remote.
    resume_step: the first step to come; metrics of this and later steps are removed.
  """

  def __init__(self, workdir: str | Path, *, resume_step: int):
    self._workdir = Path(workdir)
    self._jsonl = JsonlWriter(self._workdir / 'metrics', key='step', resume=resume_step)
    self._target = self._workdir / 'tensorboard'
    self._events: Any = None    # tensorboardX's EventsWriter
    self._stage: tempfile.TemporaryDirectory | None = None
    if hosts.is_first():
      self._open_events()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes scalars; several calls for one step are allowed, and `read_metrics` joins them."""
    metrics = {name: float(value) for name, value in metrics.items()}
    self._jsonl.append(step, [metrics])
    self._add_events(step, metrics)

  def flush(self) -> None:
    """Brings the TensorBoard files up to date; the JSONL always is."""
    if self._events is not None:
      with self._naming_events():
        self._events.flush()
      self._copy_events()

  def close(self) -> None:
    """Writes the last events and closes the TensorBoard files."""
    if self._events is not None:
      with self._naming_events():
        self._events.close()
      self._copy_events()
    if self._stage is not None:
      self._stage.cleanup()

  def _open_events(self) -> None:
    self._target.remove()
    self._stage = None if self._target.is_local else tempfile.TemporaryDirectory()
    if not extras.available('tensorboardX', extra='tensorboard',
                            otherwise='files for TensorBoard are not written'):
      return
    # Its SummaryWriter writes in a thread, which ends on a full disk; then callers wait forever.
    from tensorboardX.event_file_writer import EventsWriter
    folder = self._stage.name if self._stage else os.fspath(self._target)
    with self._naming_events():
      make_folder(folder)
      self._events = EventsWriter(os.path.join(folder, 'events'))
    for row in read_metrics(self._workdir):
      self._add_events(int(row.pop('step')), row)

  def _copy_events(self) -> None:
    if self._stage is not None:
      Path(self._stage.name).copy_to(self._target)

  def _add_events(self, step: int, metrics: Mapping[str, float]) -> None:
    if self._events is None:
      return
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar
    with self._naming_events():
      for name, value in metrics.items():
        self._events.write_event(
            Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

  @contextlib.contextmanager
  def _naming_events(self) -> Iterator[None]:
    """Lets an OSError of the TensorBoard files name their folder."""
    try:
      yield
    except OSError as error:
      raise OSError(error.errno, f'{error.strerror}; fix that or choose another workdir',
                    str(self._target)) from error


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
  """One dictionary for each step, with 'step' and all its metrics; NaN and infinities restored.

  Raises:
    UserError: a line has no step, or what is not a number; the message names file and line.
  """
  steps: dict[int, dict] = {}
  for row in read_jsonl(Path(workdir) / 'metrics', key='step', numbers=True):
    steps.setdefault(row['step'], {}).update(row)
  return list(steps.values())


class RolloutWriter:
  """Writes completions to `<workdir>/rollouts`, one row each; `read_jsonl` reads them.

  Args:
    workdir: the run's folder, local or remote.
    resume_iteration: the first iteration to come; rows of this and later iterations are removed.
  """

  def __init__(self, workdir: str | Path, *, resume_iteration: int):
    self._jsonl = JsonlWriter(Path(workdir) / 'rollouts', key='iteration', resume=resume_iteration)

  def write(self, iteration: int, samples: Iterable[Mapping[str, object]]) -> None:
    """Writes the samples of an iteration.

    Args:
      iteration: at least that of the call before.
      samples: each has 'example_id', 'prompt', 'completion', 'truncated', 'rewards'
        ({name: float | None}), and any other field worth keeping.
    """
    self._jsonl.append(iteration, samples)
