"""The frame of a training loop: resuming, saving, logging and stopping.

Reinforcement learning, fine-tuning, pre-training and reward models share it; each stage brings its
own step.
"""
from collections.abc import Callable, Mapping
import contextlib
from typing import Any, NamedTuple, NoReturn

import jax

from r1jax import checkpoint, metrics
from r1jax.runtime import hosts, ownership, sharding
from r1jax.stages.stage import StageRun


class Saved(NamedTuple):
  """A checkpoint that was read: its step, its arrays by name, and what JSON holds beside them."""
  step: int
  arrays: dict[str, Any]
  meta: dict[str, Any]


def is_due(done: int, every: int, total: int) -> bool:
  """Whether something that is done every few steps, and after the last one, is due now."""
  return done % every == 0 or done == total


def as_floats(measured: Mapping[str, jax.Array]) -> dict[str, float]:
  """Metrics on the devices as numbers on the host; waits until they are computed."""
  return {name: float(value) for name, value in sharding.to_host(measured).items()}


class TrainingLoop:
  """Checkpoints, metrics, progress and stopping of one run of a training stage.

      with TrainingLoop(run) as loop:
        saved = loop.restore(templates)
        loop.start(total, done=..., next_step=...)
        while ...:
          with loop.watch('step'):
            ...
          loop.log(step, metrics)
          loop.save(step, arrays)

  Attributes:
    watch: measures the seconds of the parts of a step.
    progress: the progress line, once the loop has started.
  """

  def __init__(self, run: StageRun):
    """Opens the checkpoints in the stage's folder, and changes nothing there."""
    self.watch = metrics.Stopwatch()
    self._run = run
    self._exit = contextlib.ExitStack()
    self._checkpoints = self._exit.enter_context(checkpoint.Checkpointer(
        run.workdir / 'checkpoints', keep=run.config['keep_checkpoints']))

  def __enter__(self) -> 'TrainingLoop':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Closes all writers, and waits for the checkpoint that is being written."""
    self._exit.close()

  def restore(self, templates: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Saved | None:
    """The latest checkpoint; None where there is none.

    Args:
      templates: from the checkpoint's meta to what `Checkpointer.restore` takes: by name, a tree
        of arrays or placed shapes.

    Raises:
      UserError: the checkpoint cannot be read, or does not fit.
    """
    step = hosts.from_first(self._checkpoints.latest_step)
    if step is None:
      return None
    meta = self._checkpoints.read_meta(step)
    del meta['identity']   # `stage.begin` has compared it
    return Saved(step, self._checkpoints.restore(step, templates(meta)), meta)

  def start(self, total: int, *, done: int, next_step: int) -> None:
    """Opens the metrics and the progress line.

    Args:
      total: what the progress line counts up to.
      done: how much of it is done.
      next_step: the first step to come; metrics of it and of later steps are removed.
    """
    self._writer = metrics.MetricWriter(self._run.workdir, resume_step=next_step)
    self._exit.callback(self._writer.close)
    self.progress = self._exit.enter_context(
        metrics.Progress(total, done=done, console=self._run.console))

  def log(self, step: int, measured: Mapping[str, float], *, done: int | None = None) -> None:
    """Writes the metrics of a step, and shows them; `done` is for the progress line if not step."""
    self._writer.write(step, measured)
    self.progress.update(step if done is None else done, measured)

  def save(
      self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any] | None = None,
      constants: Mapping[str, tuple[int, Any]] | None = None,
  ) -> None:
    """Saves a checkpoint, unless this step has one already; arguments as of `Checkpointer.save`."""
    ownership.check()
    self.wait()   # the checkpoint being written may be that of this step
    if hosts.from_first(self._checkpoints.latest_step) == step:
      return
    self._writer.flush()
    self._checkpoints.save(
        step, arrays, {'identity': self._run.resume_identity, **(meta or {})}, constants)

  def wait(self) -> None:
    """Waits, on all hosts, until all have finished writing the last checkpoint."""
    hosts.together(self._checkpoints.wait)

  def stop(self, step: int) -> NoReturn:
    """Ends a run that was asked to stop, and whose step is saved.

    Raises:
      StopRequested: always.
    """
    self.wait()   # the first host completes the checkpoint: until then none may leave
    self._run.stop(step)
