"""Writers of what a run measures and samples, and the reader of its metrics."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
import tempfile
from typing import Any

from r1jax.metrics.jsonl import JsonlWriter, read_jsonl
from r1jax.runtime import extras, hosts
from r1jax.runtime.storage import Path


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
    self._events: Any = None    # a tensorboardX SummaryWriter
    self._stage: tempfile.TemporaryDirectory | None = None
    if hosts.is_first():
      self._open_events()

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes scalars; several calls for one step are allowed, and `read_metrics` joins them."""
    metrics = {name: float(value) for name, value in metrics.items()}
    self._jsonl.append(step, [metrics])
    self._add_events(step, metrics)

  def flush(self) -> None:
    """Brings the TensorBoard files up to date; the JSONL always is.

    tensorboardX may hold back a few of the last events until the next `flush` or `close`.
    """
    if self._events is not None:
      self._events.flush()
      self._copy_events()

  def close(self) -> None:
    """Writes the last events and closes the TensorBoard files."""
    if self._events is not None:
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
    from tensorboardX import SummaryWriter
    self._events = SummaryWriter(self._stage.name if self._stage else str(self._target))
    for row in read_metrics(self._workdir):
      self._add_events(int(row.pop('step')), row)

  def _copy_events(self) -> None:
    if self._stage is not None:
      Path(self._stage.name).copy_to(self._target)

  def _add_events(self, step: int, metrics: Mapping[str, float]) -> None:
    if self._events is not None:
      for name, value in metrics.items():
        self._events.add_scalar(name, value, step)


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
