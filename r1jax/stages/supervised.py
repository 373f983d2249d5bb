"""Training on fixed rows in epochs, resumable at any step: SFT, pre-training, reward models."""
from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import numpy as np

from r1jax import checkpoint, metrics
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.stages.config import check_mesh
from r1jax.stages.stage import Artifact, StopRequested
from r1jax.training import train_step


def check_batches(config: Mapping[str, Any], where: str) -> None:
  """Refuses batches that leave nothing to do, or that micro-batches cannot split."""
  for name in ('row_length', 'rows', 'micro_batches', 'epochs', 'checkpoint_every', 'log_every'):
    if config.get(name, 1) < 1:
      raise ValueError(
          f'{where}.{name}={config[name]} leaves nothing to do: set it to at least 1')
  if config['rows'] % config['micro_batches']:
    raise ValueError(f'{where}.rows={config["rows"]} is not a multiple of micro_batches='
                     f'{config["micro_batches"]}: make it one')
  if config.get('last_step', 0) < 0:
    raise ValueError(f'{where}.last_step={config["last_step"]} is no step: use 0 to train for all '
                     'epochs, or the step to stop after')


def check_sample_stages(config: Mapping[str, Any], where: str, *others: str) -> None:
  """Refuses `sample_stages` of no input stage, and that neither they nor the fields `others` are set."""
  for name in config['sample_stages']:
    if name not in config['inputs']:
      raise ValueError(f'{where}.sample_stages={name!r} is none of its inputs {list(config["inputs"])}: '
                       'name the stages that drew the samples')
  if not any(config[field] for field in ('sample_stages', *others)):
    raise ValueError(f'{where} has nothing to learn: set at least one of '
                     f'{", ".join(("sample_stages", *others[:-1]))} and {others[-1]}')


def read_drawn(
    inputs: Mapping[str, Artifact], name: str, part: str = 'samples',
) -> list[dict[str, Any]]:
  """The lines of what an input stage of kind 'reject' left: 'samples' or 'refused'.

  Raises:
    ValueError: it is of another kind.
  """
  artifact = inputs[name]
  if artifact.manifest.kind != 'reject':
    raise ValueError(f'sample_stages={name!r} is a stage of kind {artifact.manifest.kind!r}: name one of '
                     "kind 'reject'")
  return list(metrics.read_jsonl(artifact.folder / part))


def _order(config: Mapping[str, Any], epoch: int, num_rows: int) -> np.ndarray:
  """The rows of an epoch in their order, those included that do not fill a batch."""
  seed = (config['seed'], epoch) if epoch else config['seed']
  return np.random.default_rng(seed).permutation(num_rows)


def times_trained(
    config: Mapping[str, Any], num_rows: int, last_step: int | None = None,
) -> np.ndarray:
  """[num_rows]: how often a whole run of `train` with these settings trains on each row."""
  times = np.zeros(num_rows, int)
  per_epoch = num_rows // config['rows']
  steps = per_epoch * config['epochs']
  steps = min(steps, last_step or steps)
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
    config: Mapping[str, Any], params: Any, arrays: tuple[np.ndarray, ...], workdir: Path, *,
    loss: Callable, normalizer: Callable[[tuple], float], logical_axes: Any, stage: str,
    mesh: jax.sharding.Mesh, should_stop: Callable[[], bool], console=None,
    last_step: int | None = None, after: Callable | None = None,
) -> Any:
  """Trains on rows, resuming from `workdir`, and returns the parameters.

  Each epoch is a new permutation of the rows; the rows that do not fill a batch at its end are
  left out of that epoch. Steps a run: epochs × (rows of the data // config['rows']); the learning
  rate follows its cosine over all of them, also where `last_step` ends the run before.

  Args:
    config: the stage's; of it seed, rows, epochs, micro_batches, optimizer, checkpoint_every,
      keep_checkpoints and log_every are read here.
    params: those before the first update; they are donated.
    arrays: a tuple whose leaves have the rows of the data along their first axis.
    workdir: the stage's folder.
    loss, normalizer, after: as `train_step.make_update` takes them; normalizer(batch) on the host.
    logical_axes: of the parameters.

  Raises:
    ValueError: fewer rows than a batch has.
    StopRequested: asked to stop; the state is saved.
  """
  check_mesh(config, mesh, f'config.stages.{stage}')
  num_rows = len(jax.tree.leaves(arrays)[0])
  per_epoch = num_rows // config['rows']
  if not per_epoch:
    raise ValueError(f'the data fill {num_rows} rows and a batch has rows={config["rows"]}: lower '
                     'rows, or give more data')
  steps = per_epoch * config['epochs']
  optimizer = train_step.make_optimizer(decay_steps=steps, **config['optimizer'])
  steps = min(steps, last_step or steps)
  abstract = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  placed = train_step.state_shardings(mesh, logical_axes, abstract)
  state = jax.jit(lambda params: train_step.init_state(params, optimizer), donate_argnums=0,
                  out_shardings=placed)(params)
  update = make_update(config, loss, optimizer, after)
  config_hash = checkpoint.config_hash(config)
  with checkpoint.Checkpointer(workdir / 'checkpoints',
                               keep=config['keep_checkpoints']) as checkpoints:
    step = hosts.from_first(checkpoints.latest_step) or 0
    if step:
      if checkpoints.read_meta(step)['config_hash'] != config_hash:
        raise ValueError(f'{workdir} holds a run with another config: use the config it was begun '
                         'with, or another workdir')
      state = checkpoints.restore(step, {'state': state})['state']
    writer = metrics.MetricWriter(workdir, resume_step=step + 1)
    order = functools.lru_cache(maxsize=1)(lambda epoch: _order(config, epoch, num_rows))
    save = lambda: checkpoints.save(step, {'state': state}, {'config_hash': config_hash})
    with metrics.Progress(steps, done=step, console=console) as progress:
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
        if step % config['checkpoint_every'] == 0 or step == steps or should_stop():
          save()
          if should_stop() and step < steps:
            hosts.together(checkpoints.wait)   # the first seals it: till then nobody leaves
            writer.close()
            raise StopRequested(
                f'stage {stage!r} was asked to stop: its state after step {step} is saved in '
                f'{workdir}; run the same command to go on')
    writer.close()
  return state.params
