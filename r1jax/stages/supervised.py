"""Training on fixed rows in epochs, resumable at any step: SFT, pre-training, reward models."""
from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import numpy as np

from r1jax import checkpoint, metrics
from r1jax.runtime import hosts, sharding
from r1jax.stages.artifact import Artifact
from r1jax.stages.stage import StageRun
from r1jax.training import train_step


def read_drawn(
    inputs: Mapping[str, Artifact], name: str, part: str = 'samples',
) -> list[dict[str, Any]]:
  """The lines of what an input stage of kind 'reject' left: 'samples' or 'refused'.

  Raises:
    ValueError: it is of another kind.
  """
  artifact = inputs[name]
  if artifact.manifest.kind != 'reject':
    raise ValueError(f'sample_stages={name!r} is a stage of kind {artifact.manifest.kind!r}: name '
                     "one of kind 'reject'")
  return list(metrics.read_jsonl(artifact.folder / part))


def _order(config: Mapping[str, Any], epoch: int, num_rows: int) -> np.ndarray:
  """The rows of an epoch in their order, those included that do not fill a batch."""
  seed = (config['seed'], epoch) if epoch else config['seed']
  return np.random.default_rng(seed).permutation(num_rows)


def times_trained(config: Mapping[str, Any], num_rows: int) -> np.ndarray:
  """[num_rows]: how often a whole run of `train` with these settings trains on each row."""
  times = np.zeros(num_rows, int)
  per_epoch = num_rows // config['rows']
  steps = per_epoch * config['epochs']
  steps = min(steps, config.get('last_step') or steps)
  for epoch in range(config['epochs']):
    taken = min(per_epoch, steps - epoch * per_epoch)
    times[_order(config, epoch, num_rows)[:max(0, taken) * config['rows']]] += 1
  return times


def make_update(config: Mapping[str, Any], loss: Callable, optimizer, after: Callable | None):
  """The jitted update of `train`."""
  return jax.jit(train_step.make_update(loss, optimizer, after=after,
                                        num_micro_batches=config['micro_batches']),
                 donate_argnums=0)


def train(
    run: StageRun, params: Any, arrays: tuple, *, loss: Callable,
    normalizer: Callable[[tuple], float], logical_axes: Any, after: Callable | None = None,
) -> Any:
  """Trains on rows, resuming from the stage's folder, and returns the parameters.

  Each epoch is a new permutation of the rows; the rows that do not fill a batch at its end are
  left out of that epoch. Steps a run: epochs × (rows of the data // config['rows']); the learning
  rate follows its cosine over all of them, also where `last_step` ends the run before.

  Args:
    run: of the stage, whose config has seed, rows, epochs, micro_batches, optimizer,
      checkpoint_every, keep_checkpoints, log_every and perhaps last_step.
    params: those before the first update; they are donated.
    arrays: a tuple whose leaves have the rows of the data along their first axis.
    loss, normalizer, after: as `train_step.make_update` takes them; normalizer(batch) on the host.
    logical_axes: of the parameters.

  Raises:
    ValueError: fewer rows than a batch has.
    StopRequested: asked to stop; the state is saved.
  """
  config, mesh, workdir = run.config, run.mesh, run.workdir
  num_rows = len(jax.tree.leaves(arrays)[0])
  per_epoch = num_rows // config['rows']
  if not per_epoch:
    raise ValueError(f'the data fill {num_rows} rows and a batch has rows={config["rows"]}: lower '
                     'rows, or give more data')
  steps = per_epoch * config['epochs']
  optimizer = train_step.make_optimizer(decay_steps=steps, **config['optimizer'])
  steps = min(steps, config.get('last_step') or steps)
  abstract = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  placed = train_step.state_shardings(mesh, logical_axes, abstract)
  state = jax.jit(lambda params: train_step.init_state(params, optimizer), donate_argnums=0,
                  out_shardings=placed)(params)
  update = make_update(config, loss, optimizer, after)
  with checkpoint.Checkpointer(workdir / 'checkpoints',
                               keep=config['keep_checkpoints']) as checkpoints:
    step = hosts.from_first(checkpoints.latest_step) or 0
    if step:
      state = checkpoints.restore(step, {'state': state})['state']
    writer = metrics.MetricWriter(workdir, resume_step=step + 1)
    order = functools.lru_cache(maxsize=1)(lambda epoch: _order(config, epoch, num_rows))
    save = lambda: checkpoints.save(step, {'state': state}, {'identity': run.resume_identity})
    with metrics.Progress(steps, done=step, console=run.console) as progress:
      watch = metrics.Stopwatch()
      while step < steps:
        epoch, place = divmod(step, per_epoch)
        chosen = order(epoch)[place * config['rows']:(place + 1) * config['rows']]
        batch = jax.tree.map(lambda array: array[chosen], arrays)
        with watch('step'):
          state, measured = update(state, sharding.place(batch, mesh, batch=True),
                                   sharding.place(np.float32(normalizer(batch)), mesh))
        step += 1
        if step % config['log_every'] == 0 or step == steps:
          with watch('step'):
            record = {name: float(value) for name, value in sharding.to_host(measured).items()}
          record |= watch.pop() | {'epoch': step / per_epoch}
          writer.write(step, record)
          progress.update(step, record)
        if step % config['checkpoint_every'] == 0 or step == steps or run.should_stop():
          save()
          if run.should_stop() and step < steps:
            hosts.together(checkpoints.wait)   # the first seals it: till then nobody leaves
            writer.close()
            run.stop(step)
    writer.close()
  return state.params
