"""Training on fixed rows in epochs, resumable at any step: SFT, pre-training, reward models."""
from collections.abc import Callable, Iterator, Mapping
import functools
import operator
from typing import Any

import jax
import numpy as np
import optax

from r1jax import metrics
from r1jax.errors import UserError
from r1jax.records import TrainState
from r1jax.runtime import sharding
from r1jax.stages import program_shapes
from r1jax.stages.artifact import Artifact
from r1jax.stages.loop import TrainingLoop, as_floats, is_due
from r1jax.stages.program_shapes import ProgramShapes
from r1jax.stages.stage import StageRun
from r1jax.training import optimizers, train_step


def read_drawn(
    inputs: Mapping[str, Artifact], name: str, part: str = 'samples',
) -> list[dict[str, Any]]:
  """The rows that an input stage of kind 'reject' left; all hosts call this together.

  Args:
    inputs: earlier stages' Artifacts by name.
    name: of the stage.
    part: 'samples' or 'refused'.

  Raises:
    UserError: the stage is of another kind, or the rows are not as it has written them.
  """
  artifact = inputs[name]
  if artifact.manifest.kind != 'reject':
    raise UserError(f'sample_stages={name!r} is a stage of kind {artifact.manifest.kind!r}: name '
                     "one of kind 'reject'")
  artifact.check(part)
  return list(metrics.read_jsonl(artifact.folder / part))


def _order(config: Mapping[str, Any], epoch: int, num_rows: int) -> np.ndarray:
  """All rows in the order of an epoch, with those that do not fill a batch at its end."""
  seed = (config['seed'], epoch) if epoch else config['seed']
  return np.random.default_rng(seed).permutation(num_rows)


def times_trained(config: Mapping[str, Any], num_rows: int) -> np.ndarray:
  """[num_rows]: how often a whole run of `train` with this config trains on each row."""
  times = np.zeros(num_rows, int)
  per_epoch = num_rows // config['rows']
  steps = per_epoch * config['epochs']
  steps = min(steps, config.get('last_step') or steps)
  for epoch in range(config['epochs']):
    taken = min(per_epoch, steps - epoch * per_epoch)
    times[_order(config, epoch, num_rows)[:max(0, taken) * config['rows']]] += 1
  return times


def make_update(
    config: Mapping[str, Any], loss: Callable, optimizer: optax.GradientTransformation,
    after: Callable | None = None,
) -> Callable:
  """The jitted update of `train`; `loss` and `after` as for `train_step.make_update`."""
  return jax.jit(train_step.make_update(loss, optimizer, after=after,
                                        num_micro_batches=config['micro_batches']),
                 donate_argnums=0)


def update_shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, params: Any, logical_axes: Any,
    batch: Any, *, loss: Callable, useful: float, after: Callable | None = None,
) -> ProgramShapes:
  """The update of `train` with the shapes of its arguments.

  Args:
    config: the stage's.
    mesh: of the devices to compile for.
    params: the placed shapes of the parameters.
    logical_axes: of the parameters.
    batch: the placed shapes of a batch.
    loss: as for `train`.
    useful: the floating-point operations that one update needs.
    after: as for `train`.
  """
  optimizer = optimizers.make_optimizer(**config['optimizer'])
  state = program_shapes.state_of(params, optimizer, logical_axes, mesh)
  normalizer = sharding.shapes_on(program_shapes.scalar(), mesh)
  return ProgramShapes('update', make_update(config, loss, optimizer, after),
                       (state, batch, normalizer), useful=useful)


def train(
    run: StageRun, params: Any, arrays: tuple[Any, ...], *, loss: Callable,
    normalizer: Callable[[tuple], float], logical_axes: Any, after: Callable | None = None,
) -> Any:
  """Trains on rows, resuming from the stage's folder, and returns the parameters.

  Each epoch is another permutation of the rows; the rows at its end that do not fill a batch are
  left out of that epoch. A run has epochs × (rows of the data // config['rows']) steps, and the
  learning rate follows its cosine over all of them, even if `last_step` ends the run before.

  Args:
    run: of the stage. Its config has seed, rows, epochs, micro_batches, optimizer,
      checkpoint_every, keep_checkpoints, log_every and perhaps last_step.
    params: the parameters before the first update; they are donated.
    arrays: a tuple whose leaves have the rows of the data along their first axis.
    loss: as for `train_step.make_update`.
    normalizer: from a batch on the host to what its loss is divided by.
    logical_axes: of the parameters.
    after: as for `train_step.make_update`.

  Raises:
    UserError: there are fewer rows than in a batch; or as `TrainingLoop.stop_if_dead`.
    StopRequested: `run.should_stop` said so; the state is saved.
  """
  config, mesh = run.config, run.mesh
  num_rows = len(jax.tree.leaves(arrays)[0])
  steps = _steps_per_epoch(config, num_rows) * config['epochs']
  optimizer = optimizers.make_optimizer(decay_steps=steps, **config['optimizer'])
  steps = min(steps, config.get('last_step') or steps)
  state = _init_state(params, optimizer, logical_axes, mesh)
  update = make_update(config, loss, optimizer, after)
  with TrainingLoop(run) as loop:
    saved = loop.restore(lambda _: {'state': state})
    step, state = (saved.step, saved.arrays['state']) if saved else (0, state)
    loop.start(steps, done=step, next_step=step + 1)
    if step == steps:
      _stop_if_dead(loop, state, step, steps)
    for batch, epoch in _batches(config, arrays, step, steps):
      with loop.watch('step'):
        state, measured = update(state, sharding.place(batch, mesh, batch=True),
                                 sharding.place(np.float32(normalizer(batch)), mesh))
        step += 1
        logged = as_floats(measured) if is_due(step, config['log_every'], steps) else None
      if logged is not None:
        loop.log(step, logged | loop.watch.pop() | {'epoch': epoch})
        _stop_if_dead(loop, state, step, steps)
      stopping = run.should_stop()
      if stopping or is_due(step, config['checkpoint_every'], steps):
        loop.save(step, {'state': state})
      if stopping and step < steps:
        loop.stop(step)
  return state.params


def _stop_if_dead(loop: TrainingLoop, state: TrainState, step: int, steps: int) -> None:
  save = functools.partial(loop.save, step, {'state': state})
  loop.stop_if_dead(step, steps, save, {'optimizer': state})


def _steps_per_epoch(config: Mapping[str, Any], num_rows: int) -> int:
  if num_rows < config['rows']:
    raise UserError(f'the data fill {num_rows} rows and a batch has rows={config["rows"]}: lower '
                     'rows, or give more data')
  return num_rows // config['rows']


def _init_state(
    params: Any, optimizer: optax.GradientTransformation, logical_axes: Any,
    mesh: jax.sharding.Mesh,
) -> TrainState:
  """The state before the first update; the parameters are donated."""
  init = functools.partial(train_step.init_state, optimizer=optimizer)
  placed = train_step.state_shardings(mesh, logical_axes, jax.eval_shape(init, params))
  return jax.jit(init, donate_argnums=0, out_shardings=placed)(params)


def _batches(
    config: Mapping[str, Any], arrays: tuple[Any, ...], done: int, steps: int,
) -> Iterator[tuple[Any, float]]:
  """(a batch of rows on the host, the epochs done after it) of each step after the first `done`."""
  num_rows, size = len(jax.tree.leaves(arrays)[0]), config['rows']
  per_epoch, order = num_rows // size, np.empty(0, int)
  for step in range(done, steps):
    epoch, place = divmod(step, per_epoch)
    if place == 0 or step == done:
      order = _order(config, epoch, num_rows)
    chosen = order[place * size:(place + 1) * size]
    yield jax.tree.map(operator.itemgetter(chosen), arrays), (step + 1) / per_epoch
