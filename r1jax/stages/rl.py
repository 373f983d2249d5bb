"""Reinforcement learning with GRPO: the walk of DESIGN.md, resumable at any moment.

Departures from the report: mini-batches are split by whole groups, since a group shares its prompt
in the update; a rollout with a single update needs no old log-probabilities (they are the
policy's own).
"""
from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, losses, metrics, sharding, train_step
from r1jax import rollout as rollouts
from r1jax.logprobs import completion_logprobs
from r1jax.masked import masked_max, masked_sum
from r1jax.models import Model, flops_per_token
from r1jax.records import Batch, TrainState
from r1jax.rewards.suite import RewardSuite, named_rewards
from r1jax.sampler import Interrupted, Sampling, make_sampler
from r1jax.stages import common, evaluate
from r1jax.storage import Path
from r1jax.tokenization import opens_think, stop_ids

DEFAULT = dict(
    kind='rl', inputs=(), seed=0,
    steps=100,                  # optimiser updates in all
    model=dict(source='miniature', compute_dtype='float32', remat=False),
    data={},                    # name, and the fields of `stages.common.DATASETS`
    template='miniature', max_prompt_length=64, overlong='skip',
    prompts=32, group_size=16,  # a rollout: prompts × group_size completions
    epochs=1, mini_batches=1,   # updates of a rollout: epochs × mini_batches
    micro_batches=1,            # accumulated in one update
    sampling=dict(max_new_tokens=128, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, chunk=32),
    rewards={}, reward_workers=2, reward_timeout_s=5.0,
    advantage_scale='std', clip_epsilon_low=0.2, clip_epsilon_high=0.2,
    aggregation='sequence_mean', kl_coefficient=0.0, kl_estimator='k3',
    reference_refresh=0,        # steps between replacements of the reference by the policy; 0: never
    optimizer=dict(learning_rate=3e-6, warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
                   beta1=0.9, beta2=0.95),
    checkpoint_every=20, keep_checkpoints=2,   # iterations, checkpoints
    samples_every=10,           # iterations between two printed samples
    evaluations={},             # name -> fields of `stages.evaluate.DEFAULT`, run when trained
)


class Programs(NamedTuple):
  """The device programs of the stage."""
  sample: Callable      # (params, Prompts, iteration) -> Rollout
  score: Callable       # (params, Batch without old log-probabilities) -> [N, C]
  take: Callable        # (Batch, group ids) -> Batch of these groups
  update: Callable      # (TrainState, Batch, normalizers) -> (TrainState, metrics)


def make_loss(model: Model, settings: Mapping[str, Any]) -> Callable:
  """loss(params, batch, normalizers) for `train_step.make_update`, of these settings of DEFAULT."""
  def loss(params, batch: Batch, normalizers):
    normalizer, token_count = normalizers
    logprobs, entropies = completion_logprobs(
        model, params, batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens,
        batch.completion_mask, temperature=settings['sampling']['temperature'])
    value, measured = losses.grpo_loss(
        logprobs, batch.old_logprobs, batch.advantages, batch.completion_mask,
        clip_epsilon_low=settings['clip_epsilon_low'],
        clip_epsilon_high=settings['clip_epsilon_high'], aggregation=settings['aggregation'],
        normalizer=normalizer, token_count=token_count,
        reference_logprobs=batch.reference_logprobs, kl_coefficient=settings['kl_coefficient'],
        kl_estimator=settings['kl_estimator'])
    trainer = logprobs if batch.old_logprobs is None else batch.old_logprobs
    difference = jnp.abs(trainer - batch.behaviour_logprobs)
    measured |= {
        'entropy': masked_sum(entropies, batch.completion_mask) / token_count,
        'sampling/logprob_difference/mean':
            masked_sum(difference, batch.completion_mask) / token_count,
        'sampling/logprob_difference/max': masked_max(difference, batch.completion_mask)}
    return value, jax.lax.stop_gradient(measured)
  return loss


def make_programs(
    model: Model, optimizer, settings: Mapping[str, Any], stops: tuple[int, ...], seed: int,
    should_stop: Callable[[], bool],
) -> Programs:
  """The jitted programs of a run with these settings (fields of DEFAULT)."""
  sampling = dict(settings['sampling'])
  temperature = sampling['temperature']
  sample = make_sampler(
      model, group_size=settings['group_size'], max_new_tokens=sampling.pop('max_new_tokens'),
      chunk=sampling.pop('chunk'), sampling=Sampling(**sampling), stop_ids=stops, seed=seed,
      compute_dtype=settings['model']['compute_dtype'], should_stop=should_stop)

  def split(batch, pieces):
    return jax.tree.map(lambda x: x.reshape(pieces, x.shape[0] // pieces, *x.shape[1:]), batch)

  @jax.jit
  def score(params, batch: Batch):
    def one(piece: Batch):
      return completion_logprobs(
          model, params, piece.prompt_tokens, piece.prompt_lengths, piece.completion_tokens,
          piece.completion_mask, temperature=temperature)[0]
    pieces = settings['micro_batches'] * settings['mini_batches']
    logprobs = jax.lax.map(one, split(batch, pieces))
    return logprobs.reshape(-1, logprobs.shape[-1])

  @jax.jit
  def take(batch: Batch, groups):
    of_groups = lambda x: x.reshape(settings['prompts'], -1, *x.shape[1:])[groups].reshape(
        -1, *x.shape[1:])
    return jax.tree.map(of_groups, batch)

  update = jax.jit(
      train_step.make_update(make_loss(model, settings), optimizer,
                             num_micro_batches=settings['micro_batches']),
      donate_argnums=0)
  return Programs(sample, score, take, update)


def check(config: Mapping[str, Any], where: str, *, own_rewards: bool = False) -> None:
  """Refuses impossible combinations before anything is loaded or compiled.

  Raises:
    ValueError: naming the field; `config.rewards` is passed over where `own_rewards` replace it.
  """
  common.check_config(config, DEFAULT, where)
  common.check_data(config['data'], f'{where}.data')
  common.check_sampling(config['sampling'], f'{where}.sampling')
  for name in ('steps', 'prompts', 'group_size', 'epochs', 'mini_batches', 'micro_batches',
               'checkpoint_every', 'samples_every'):
    if config[name] < 1:
      raise ValueError(
          f'{where}.{name}={config[name]} leaves nothing to do: set it to at least 1')
  if config['group_size'] == 1 and config['advantage_scale'] == 'std':
    raise ValueError(f"{where}.group_size=1 has no standard deviation for advantage_scale='std': use at "
                     "least 2 completions a prompt, or advantage_scale='none'")
  pieces = config['mini_batches'] * config['micro_batches']
  if config['prompts'] % pieces:
    raise ValueError(f'{where}.prompts={config["prompts"]} cannot be split into mini_batches × '
                     f'micro_batches = {pieces} parts of whole groups: use a multiple of {pieces}')
  if config['reference_refresh'] and not config['kl_coefficient']:
    raise ValueError(f'{where}.reference_refresh={config["reference_refresh"]} without a reference: set '
                     'kl_coefficient above 0, or reference_refresh to 0')
  if not own_rewards:
    if not config['rewards']:
      raise ValueError(
          f"{where}.rewards is empty: name at least one, as {{'number': 1.0, 'format': 1.0}}")
    named_rewards(config['rewards'])
  for name, evaluation in config['evaluations'].items():
    evaluate.check(evaluation, f'{where}.evaluations.{name}')


def run(
    config: Mapping[str, Any], inputs: Mapping[str, common.Artifact], workdir: str | Path, *,
    stage: str = 'rl', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, reward_functions=None, console=None,
) -> common.Artifact:
  """Trains by GRPO, resuming from `workdir` if something is there, and leaves an Artifact.

  Args:
    config: the fields of DEFAULT, as a dict or a ConfigDict.
    inputs: Artifacts of earlier stages by name; `config.model.source` may name one.
    workdir: the stage's folder, local or remote.
    stage: its name, for the manifest.
    mesh: by default one device.
    should_stop: asked between chunks and updates; when it says True the stage saves its state,
      the rollout under way included if its updates have begun, and raises StopRequested.
    reward_functions: {name: (function, weight)} instead of `config.rewards`, from a notebook.
    console: a rich console; None is standard output.

  Raises:
    ValueError, FileNotFoundError: what is wrong with config, data or model, in one sentence.
    StopRequested: see `should_stop`.
  """
  config = common.plain(config)
  check(config, f'config.stages.{stage}', own_rewards=reward_functions is not None)
  mesh = mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    trainer = _Trainer(config, inputs, Path(workdir), stage, mesh, should_stop, reward_functions,
                       console)
    try:
      return trainer.run()
    finally:
      trainer.close()


@dataclasses.dataclass
class _Place:
  """Where the run is: what is saved beside the arrays."""
  iteration: int = 0
  update: int = 0            # updates of this iteration that are done
  counter: int = 0           # the data's global example counter
  measured: list = dataclasses.field(default_factory=list)   # metrics of this iteration so far


class _Trainer:

  def __init__(self, config, inputs, workdir, stage, mesh, should_stop, reward_functions, console):
    self.config, self.inputs, self.workdir, self.stage = config, inputs, workdir, stage
    self.mesh, self.should_stop, self.console = mesh, should_stop, console
    loaded = common.load_model(mesh=mesh, inputs=inputs, **config['model'])
    self.model, self.tokenizer = loaded.model, loaded.tokenizer
    self.stop_ids = stop_ids(config['template'], self.tokenizer)
    self.updates = config['epochs'] * config['mini_batches']
    self.iterations = -(-config['steps'] // self.updates)
    self.stream = common.prompt_stream(config, self.tokenizer, 'train')
    evaluate.check_sources(config['evaluations'], inputs, self.tokenizer)
    functions = reward_functions or named_rewards(
        config['rewards'], opened=opens_think(config['template'], self.tokenizer))
    self.rewards = RewardSuite(functions, num_workers=config['reward_workers'],
                               timeout_s=config['reward_timeout_s'])
    optimizer = train_step.make_optimizer(**config['optimizer'])
    self.programs = make_programs(self.model, optimizer, config, self.stop_ids, config['seed'],
                                  should_stop)
    abstract = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer),
                              loaded.params)
    placed = train_step.state_shardings(mesh, self.model.logical_axes, abstract)
    self.state: TrainState = jax.jit(
        lambda params: train_step.init_state(jax.tree.map(jnp.copy, params), optimizer),
        out_shardings=placed)(loaded.params)
    self.reference = None
    if config['kl_coefficient']:
      self.reference = jax.tree.map(jnp.copy, loaded.params)
    self.place, self.batch = _Place(), None
    self.hash = checkpoint.config_hash(config)
    self.checkpoints = checkpoint.Checkpointer(workdir / 'checkpoints',
                                               keep=config['keep_checkpoints'])
    self._restore()
    self.writer = metrics.MetricWriter(workdir, resume_step=self._steps_done() + 1)
    self.rollout_writer = metrics.RolloutWriter(
        workdir, resume_iteration=self.place.iteration + bool(self.place.update))
    self.peak_flops = common.peak_flops()

  def close(self):
    self.rewards.close()
    self.checkpoints.close()
    self.writer.close()

  # The walk.

  def run(self) -> common.Artifact:
    config, watch = self.config, metrics.Stopwatch()
    progress = metrics.Progress(self.iterations, done=self.place.iteration, console=self.console)
    with progress:
      while self.place.iteration < self.iterations:
        with watch('step'):
          if self.batch is None:
            self._roll_out(watch, progress)
          self._update(watch)
        self._finish_iteration(watch, progress)
        self._stop_if_asked()
    return self._finish()

  def _roll_out(self, watch, progress):
    """Prompts → rollout → rewards → batch."""
    config, iteration = self.config, self.place.iteration
    prompts = self.stream.batch(self.place.counter)
    device_prompts = sharding.place(rollouts.device_prompts(prompts), self.mesh, batch=True)
    try:
      with watch('rollout'):
        rollout = self.programs.sample(self.state.params, device_prompts, iteration)
        host = sharding.to_host((rollout.tokens, rollout.mask, rollout.finished))
    except Interrupted:
      self._stop()
    completions = rollouts.read_completions(*host, self.tokenizer, self.stop_ids)
    examples = rollouts.repeat_examples(prompts.examples, config['group_size'])
    pending = self.rewards.submit(completions, examples)
    lengths = np.asarray([c.num_tokens for c in completions])
    length = rollouts.length_bucket(lengths, config['sampling']['max_new_tokens'])
    make = functools.partial(
        rollouts.make_batch, rollout, group_size=config['group_size'],
        advantage_scale=config['advantage_scale'], length=length)
    with watch('score'):
      old = reference = None
      unscored = make(np.zeros(len(completions)))
      if self.updates > 1:
        old = self.programs.score(self.state.params, unscored)
      if self.reference is not None:
        reference = self.programs.score(self.reference, unscored)
    with watch('rewards'):
      try:
        rewards = pending.collect()
      except Exception as error:
        self._save()
        error.add_note(f'The state after step {self._steps_done()} is saved in {self.workdir}: '
                       'the same call goes on from there.')
        raise
    self.batch = sharding.place(
        dataclasses.replace(make(rewards.total), old_logprobs=old, reference_logprobs=reference),
        self.mesh, batch=True)
    measured = rollouts.rollout_metrics(completions, rewards, group_size=config['group_size'])
    measured |= {'num_tokens': float(lengths.sum()), 'prompts/skipped': float(prompts.num_skipped)}
    self.place.counter = prompts.next_counter
    self.place.measured = [measured]
    texts = [self.tokenizer.decode(tokens[:size], skip_special=False)
             for tokens, size in zip(prompts.prompt_tokens, prompts.prompt_lengths)]
    samples = rollouts.sample_records(prompts, texts, completions, rewards,
                                      group_size=config['group_size'])
    self.rollout_writer.write(iteration, samples)
    if iteration % config['samples_every'] == 0:
      progress.show_samples(samples[:1] + samples[-1:])

  def _update(self, watch):
    """The updates of this rollout that are still to do."""
    config = self.config
    with watch('update'):
      for update in range(self.place.update, self.updates):
        epoch, part = divmod(update, config['mini_batches'])
        batch = self.batch
        if config['mini_batches'] > 1:
          key = np.random.default_rng((config['seed'], self.place.iteration, epoch))
          groups = np.split(key.permutation(config['prompts']), config['mini_batches'])[part]
          batch = self.programs.take(self.batch, sharding.place(groups, self.mesh))
        normalizers = batch_normalizers(batch.completion_mask, config['aggregation'],
                                   config['sampling']['max_new_tokens'])
        self.state, measured = self.programs.update(self.state, batch, normalizers)
        self.place.update = update + 1
        self.place.measured.append(
            {name: float(value) for name, value in sharding.to_host(measured).items()})
        if update + 1 < self.updates:
          self._stop_if_asked()

  def _finish_iteration(self, watch, progress):
    config, place = self.config, self.place
    rollout, *updates = place.measured
    record = dict(rollout)
    for name in updates[0]:
      values = [update[name] for update in updates]
      record[name] = max(values) if name.endswith('/max') else float(np.mean(values))
    record['refused_updates'] = updates[-1]['refused_updates']
    seconds = watch.pop()
    context = config['max_prompt_length'] / 2 + rollout['completions/mean_length'] / 2
    token_flops = flops_per_token(self.model.config, context)
    forward = 1 + (self.updates > 1) + (self.reference is not None)
    work = rollout['num_tokens'] * token_flops * (forward + 3 * config['epochs'])
    record |= seconds | {
        'tokens_per_second': rollout['num_tokens'] / seconds['timing_s/step'],
        'model_flops_utilisation': work / seconds['timing_s/step'] / self.peak_flops}
    if 'timing_s/rollout' in seconds:
      record['timing_s/rollout_per_token'] = seconds['timing_s/rollout'] / rollout['num_tokens']
    place.iteration, place.update, place.measured, self.batch = place.iteration + 1, 0, [], None
    step = self._steps_done()
    self.writer.write(step, record)
    progress.update(place.iteration, record)
    refresh = config['reference_refresh']
    if refresh and step // refresh > (step - self.updates) // refresh:
      self.reference = jax.tree.map(jnp.copy, self.state.params)
    if place.iteration % config['checkpoint_every'] == 0 or place.iteration == self.iterations:
      self._save()

  def _finish(self) -> common.Artifact:
    self.checkpoints.wait()
    table = evaluate.run_all(
        self.config['evaluations'], self.inputs, self.workdir,
        trained=common.LoadedModel(self.model, self.state.params, self.tokenizer),
        mesh=self.mesh, should_stop=self.should_stop, console=self.console)
    records = metrics.read_metrics(self.workdir)
    metrics.plot_curves(records, self.workdir / 'curves.png')
    return common.leave_artifact(
        self.workdir, kind='rl', stage=self.stage, config_hash=self.hash, inputs=self.inputs,
        model=self.model.config, params=self.state.params, tokenizer=self.tokenizer,
        template=self.config['template'], scores=table)

  # Saving and resuming.

  def _steps_done(self) -> int:
    return self.place.iteration * self.updates + self.place.update

  def _save(self):
    """Saves everything that the rest of the run depends on; once a place."""
    step = self._steps_done()
    self.checkpoints.wait()   # the save under way may be of this very step
    if self.checkpoints.latest_step() == step:
      return
    rest = {name: getattr(self.state, name) for name in ('optimizer', 'step', 'refused')}
    items = {'params': self.state.params, 'rest': rest}
    if self.reference is not None:
      items['reference'] = self.reference
    if self.batch is not None:
      items['batch'] = self.batch
    self.writer.flush()
    length = None if self.batch is None else self.batch.completion_mask.shape[1]
    self.checkpoints.save(step, items, dataclasses.asdict(self.place) | {
        'config_hash': self.hash, 'batch_length': length})

  def _restore(self):
    step = self.checkpoints.latest_step()
    if step is None:
      return
    meta = self.checkpoints.read_meta(step)
    if meta.pop('config_hash') != self.hash:
      raise ValueError(f'{self.workdir} holds a run with another config: use the config it was '
                       'begun with, or another workdir')
    length = meta.pop('batch_length')
    rest = {name: getattr(self.state, name) for name in ('optimizer', 'step', 'refused')}
    templates = {'params': self.state.params, 'rest': rest}
    if self.reference is not None:
      templates['reference'] = self.reference
    if length is not None:
      templates['batch'] = self._batch_template(length)
    items = self.checkpoints.restore(step, templates)
    self.state = TrainState(items['params'], **items['rest'])
    self.reference = items.get('reference')
    self.batch = items.get('batch')
    measured = [{name: float(value) for name, value in record.items()}
                for record in meta.pop('measured')]
    self.place = _Place(**meta, measured=measured)

  def _batch_template(self, length: int) -> Batch:
    config = self.config
    prompts, rows = config['prompts'], config['prompts'] * config['group_size']
    table = np.zeros((rows, length), np.float32)
    template = Batch(
        prompt_tokens=np.zeros((prompts, config['max_prompt_length']), np.int32),
        prompt_lengths=np.zeros(prompts, np.int32), completion_tokens=table.astype(np.int32),
        completion_mask=table, advantages=table[:, 0], behaviour_logprobs=table,
        old_logprobs=table if self.updates > 1 else None,
        reference_logprobs=table if self.reference is not None else None)
    return sharding.place(template, self.mesh, batch=True)

  def _stop_if_asked(self):
    if self.should_stop():
      self._stop()

  def _stop(self):
    self._save()
    self.checkpoints.wait()
    raise common.StopRequested(
        f'stage {self.stage!r} was asked to stop: its state after step {self._steps_done()} is '
        f'saved in {self.workdir}; run the same command to go on')


@functools.partial(jax.jit, static_argnames=('aggregation', 'max_length'))
def batch_normalizers(mask, aggregation, max_length):
  """(the loss's divisor, the number of tokens) of a whole batch, for its micro-batches."""
  return (losses.loss_normalizer(mask, aggregation, max_length),
          jnp.maximum(jnp.sum(mask), 1))
