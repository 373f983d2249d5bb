"""The frame of a training loop: resuming, saving, logging and stopping.

Reinforcement learning, fine-tuning, pre-training and reward models share it; each stage brings its
own step.
"""
from collections.abc import Callable, Collection, Mapping
import contextlib
import functools
import operator
from typing import Any, NamedTuple, NoReturn

import jax

from r1jax import checkpoint, metrics
from r1jax.errors import UserError
from r1jax.metrics.terminal import warn
from r1jax.records import TrainState
from r1jax.runtime import hosts, ownership, sharding
from r1jax.runtime.device_time import IdleMeter
from r1jax.stages.stage import StageRun
from r1jax.training import finite


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

  def __init__(self, run: StageRun, keep: int = 0):
    """Opens the checkpoints in the stage's folder, and changes nothing there.

    Args:
      run: of the stage.
      keep: checkpoints that are kept; 0: as many as the config says.
    """
    self.watch = metrics.Stopwatch()
    self._run = run
    self._exit = contextlib.ExitStack()
    self._checkpoints = self._exit.enter_context(checkpoint.Checkpointer(
        run.workdir / 'checkpoints', keep=keep or run.config['keep_checkpoints']))

  def __enter__(self) -> 'TrainingLoop':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Closes all writers, and waits for the checkpoint that is being written."""
    self._exit.close()

  def restore(
      self, templates: Callable[[Mapping[str, Any]], Mapping[str, Any]],
      fields: Collection[str] = (),
  ) -> Saved | None:
    """The latest checkpoint; None where there is none.

    Args:
      templates: from the checkpoint's meta to what `Checkpointer.restore` takes: by name, a tree
        of arrays or placed shapes.
      fields: what the meta holds.

    Raises:
      UserError: the checkpoint cannot be read, or does not fit.
    """
    step = hosts.from_first(self._checkpoints.latest_step)
    if step is None:
      return None
    meta = self._checkpoints.read_meta(step)
    if meta.keys() != {'identity', *fields}:
      raise UserError(f'{self._run.workdir / "checkpoints" / step} was saved by another version of '
                      f'r1jax, as it holds {", ".join(sorted(meta))}: go on with that version, or '
                      'use another workdir')
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
    self._idle = self._exit.enter_context(IdleMeter())

  def pop_times(self) -> dict[str, float]:
    """The seconds of `watch` and 'device_idle', the share of the time since the last call."""
    return self.watch.pop() | {'device_idle': self._idle.pop()}

  def log(self, step: int, measured: Mapping[str, float], *, done: int | None = None) -> None:
    """Writes the metrics of a step, and shows them; `done` is for the progress line if not step."""
    self._writer.write(step, measured)
    self.progress.update(step if done is None else done, measured)

  def save(
      self, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any] | None = None,
      constants: Mapping[str, tuple[int, Any]] | None = None,
  ) -> None:
    """Saves a checkpoint, unless this step has one; arguments as for `Checkpointer.save`."""
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

  def stop_if_dead(self, step: int, total: int, save: Callable[[], None],
                   states: Mapping[str, TrainState]) -> None:
    """Ends a run that no longer learns: its last updates were all skipped.

    How many is `max_skipped_updates`, or half of all updates if that is less: a short run must not
    end as if it had learnt. Fewer that end a run are worth a warning.

    Args:
      step: the number of updates that are done.
      total: of the whole run.
      save: saves the state after this step.
      states: by the path of their optimizer in the config.

    Raises:
      UserError: the run is dead; its state is saved.
    """
    setting = self._run.config['max_skipped_updates']
    limit = min(setting, max(1, total // 2))
    for path, state in states.items():
      skipped = int(sharding.to_host(state.skipped_in_a_row))
      if skipped >= limit:
        save()
        self.wait()
        more = '' if limit < setting else (
            f'; to go on nevertheless, raise {self._run.where}.max_skipped_updates={setting}')
        raise UserError(
            f'stage {self._run.name!r} stopped after step {step}: its last updates ({skipped}) '
            f'were not finite and were skipped. {self._why(path, state)}. The state is saved in '
            f'{self._run.workdir}{more}')
      if skipped and step == total:
        warn(f'stage {self._run.name!r}: its last updates ({skipped}) were not finite and were '
             f'skipped. {self._why(path, state)}')

  def _why(self, path: str, state: TrainState) -> str:
    """The likely cause of updates that are not finite."""
    if broken := finite.not_finite(state.params):
      return (f'The parameters {", ".join(broken[:3])} hold NaN or infinity: begin with another '
              'model')
    rate = functools.reduce(operator.getitem, path.split('.'), self._run.config)['learning_rate']
    return (f'The likely cause is a learning rate that is too high ({self._run.where}.{path}.'
            f'learning_rate={rate:g}), then damaged weights or data')
