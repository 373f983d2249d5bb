"""Reinforcement learning: the walk of DESIGN.md, resumable at any moment.

GRPO and its kin score a completion against its group; with `advantage='gae'` a critic values every
token and the same walk is PPO, in RLHF's form where the KL is inside the reward. Departures from
the reports: mini-batches are split by whole groups, since a group shares its prompt in the update;
a rollout with a single update needs no old log-probabilities (they are the policy's own); where
dynamic sampling ends before the batch is full, groups of equal rewards fill it, and are counted;
a reward model's reward is σ(score) (`rl_rewards`).
All-scenario RL mixes general prompts into the batch (`rl_prompts`), judged by their own rewards.
"""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import advantages, checkpoint, metrics
from r1jax import rollout as rollouts
from r1jax.data.prompts import PromptBatch
from r1jax.models import compute
from r1jax.records import Batch, PackedBatch, Rollout, TrainState
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import PendingRewards, Rewards
from r1jax.runtime import hardware, hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.sampling.sampler import Interrupted
from r1jax.stages import auxiliary, evaluate, loading
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import plain
from r1jax.stages.reward_model.train import load_reward_model
from r1jax.stages.rl import metrics as rl_metrics
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl import rewards as rl_rewards
from r1jax.stages.rl.prompts import Counters, PromptMixture
from r1jax.stages.rl.settings import OWN_REWARDS, SETTINGS
from r1jax.stages.stage import StageRun, begin, draw_curves, leave_artifact
from r1jax.tokenization import Tokenizer, stop_ids
from r1jax.training import scalar_head as reward_model
from r1jax.training import train_step


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads the prompts; errors as of `PromptMixture`."""
  PromptMixture(config, tokenizer)


def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'rl', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, reward_functions=None, console=None,
) -> Artifact:
  """Trains by reinforcement, resuming from `workdir` if something is there, and leaves an Artifact.

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
  config = plain(config)
  run = begin('rl', SETTINGS if reward_functions is None else OWN_REWARDS, config, inputs, workdir,
              stage=stage, mesh=mesh, should_stop=should_stop, console=console)
  if config['in_host_memory']:
    sharding.check_host_memory(
        run.mesh, f'{run.where}.in_host_memory={list(config["in_host_memory"])}')
  with sharding.use(run.mesh):
    if run.finished:
      return evaluate.complete(run)
    trainer = _Trainer(run, reward_functions)
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
  general_counter: int = 0   # that of the general data
  kl_coefficient: float = 0.0
  measured: list = dataclasses.field(default_factory=list)   # metrics of this iteration so far

  @property
  def counters(self) -> Counters:
    return Counters(self.counter, self.general_counter)


class _Round(NamedTuple):
  """One sampling pass and what the host made of it."""
  prompts: PromptBatch
  next_counters: Counters
  rollout: Rollout
  completions: list[Completion]
  pending: PendingRewards
  judging: compute.Compute   # what the reward models computed


class _Trainer:

  def __init__(self, stage_run: StageRun, reward_functions):
    self.stage_run = stage_run
    config, inputs, workdir, mesh = (
        stage_run.config, stage_run.inputs, stage_run.workdir, stage_run.mesh)
    self.config, self.inputs, self.workdir, self.mesh = config, inputs, workdir, mesh
    self.should_stop, self.console = stage_run.should_stop, stage_run.console
    loaded = loading.load_model(mesh=mesh, inputs=inputs, **config['model'])
    self.model, self.tokenizer = loaded.model, loaded.tokenizer
    auxiliary.check_model(config, self.model.config, stage_run.where)
    self.stop_ids = stop_ids(config['template'], self.tokenizer)
    self.updates = config['epochs'] * config['mini_batches']
    self.iterations = -(-config['steps'] // self.updates)
    self.mixture = PromptMixture(config, self.tokenizer)
    evaluate.check_sources(stage_run, self.tokenizer)
    self.reward_sources = rl_rewards.make_reward_sources(
        config, inputs, self.tokenizer, mesh=mesh, reward_functions=reward_functions)
    optimizer = train_step.make_optimizer(**config['optimizer'])
    critic_optimizer = train_step.make_optimizer(**config['critic']['optimizer'])
    self.programs = rl_programs.make_programs(self.model, optimizer, critic_optimizer, config,
                                              self.stop_ids, self.should_stop)
    self.state = self._begin(loaded.params, optimizer, self.model.logical_axes)
    self.reference = self.critic = None
    if config['kl_coefficient']:
      self.reference = jax.tree.map(jnp.copy, loaded.params)
    if config['advantage'] == 'gae':
      critic = reward_model.init_scalar(self.model, loaded.params)
      if config['critic']['source']:
        critic = self._load_critic(config['model'] | {'source': config['critic']['source']})
      self.critic = self._begin(critic, critic_optimizer, reward_model.scalar_axes(self.model))
    self.place, self.batch = _Place(kl_coefficient=float(np.float32(
        config['loss']['old_kl_coefficient'] or config['kl_coefficient']))), None
    self.checkpoints = checkpoint.Checkpointer(workdir / 'checkpoints',
                                               keep=config['keep_checkpoints'])
    self._restore()
    self.reference = self._put_away('reference', self.reference)
    self._move_optimizers(self._put_away)
    self.writer = metrics.MetricWriter(workdir, resume_step=self._steps_done() + 1)
    self.rollout_writer = metrics.RolloutWriter(
        workdir, resume_iteration=self.place.iteration + bool(self.place.update))
    self.peak_flops = hardware.peak_flops(config['model']['compute_dtype'])
    if self.peak_flops is None and hosts.is_first():
      print(hardware.no_peak_message(), flush=True)

  def _load_critic(self, settings):
    """The parameters of a reward model, head included, or a new head on those of another model."""
    source = settings['source']
    artifact = self.inputs.get(source)
    if artifact is not None and artifact.manifest.kind == 'reward_model':
      loaded = load_reward_model(inputs=self.inputs, mesh=self.mesh, **settings)
      critic = loaded.params
    else:
      loaded = loading.load_model(inputs=self.inputs, mesh=self.mesh, **settings)
      critic = reward_model.init_scalar(self.model, loaded.params)
    if loaded.model.config != self.model.config:
      raise ValueError(f'critic.source={source!r} has not the shape of the policy: name a model of '
                       'the same shape')
    return critic

  def _begin(self, params, optimizer, logical_axes) -> TrainState:
    """The state before the first update, on copies of the parameters."""
    init = lambda params: train_step.init_state(jax.tree.map(jnp.copy, params), optimizer)
    placed = train_step.state_shardings(self.mesh, logical_axes, jax.eval_shape(init, params))
    return jax.jit(init, out_shardings=placed)(params)

  def _put_away(self, name, tree):
    return sharding.in_host_memory(tree) if name in self.config['in_host_memory'] else tree

  def _fetch(self, name, tree):
    return sharding.in_device_memory(tree) if name in self.config['in_host_memory'] else tree

  def _move_optimizers(self, move):
    """`_put_away` or `_fetch` of the policy's and the critic's moments."""
    moved = lambda state: dataclasses.replace(
        state, optimizer=move('optimizer', state.optimizer))
    self.state = moved(self.state)
    self.critic = None if self.critic is None else moved(self.critic)

  def close(self):
    self.reward_sources.close()
    self.checkpoints.close()
    self.writer.close()

  # The walk.

  def run(self) -> Artifact:
    watch = metrics.Stopwatch()
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
    config = self.config
    rounds = [self._draw(watch, self.place.counters)]
    while len(rounds) <= config['dynamic_sampling_rounds'] and self._num_unequal(rounds) < config['prompts_per_batch']:
      rounds.append(self._draw(watch, rounds[-1].next_counters))
    batch, groups, measured = self._join(rounds)
    with watch('score'):
      batch = self._score(batch)
    with watch('rewards'):
      rewards = Rewards.concatenate([self._collect(drawn) for drawn in rounds])
    self.place.counter, self.place.general_counter = rounds[-1].next_counters
    completions = [completion for drawn in rounds for completion in drawn.completions]
    if config['overlong_buffer']:
      rewards = self._penalise_overlong(rewards, completions)
    total = rewards.total.reshape(-1, config['group_size'])[groups].reshape(-1)
    batch, credited = self.programs.compute_advantages(
        batch, sharding.place(total.astype(np.float32), self.mesh, batch=True),
        self.place.kl_coefficient)
    self.batch = sharding.place(batch, self.mesh, batch=True)
    measured |= rollouts.rollout_metrics(completions, rewards, group_size=config['group_size'])
    measured |= rl_rewards.truths(rewards)
    if self._num_general():
      measured |= rl_rewards.totals_by_part(rewards, len(rounds), self._num_general(),
                                            group_size=config['group_size'])
    measured |= {name: float(value) for name, value in sharding.to_host(credited).items()}
    measured |= self._computed(rounds, groups).to_metrics()
    self.place.measured = [measured]
    samples = []
    for drawn, part in zip(rounds, rewards.split(len(rounds))):
      texts = [self.tokenizer.decode(tokens[:size], skip_special=False) for tokens, size in zip(
          drawn.prompts.prompt_tokens, drawn.prompts.prompt_lengths)]
      samples += rollouts.sample_records(drawn.prompts, texts, drawn.completions, part,
                                         group_size=config['group_size'])
    self.rollout_writer.write(self.place.iteration, samples)
    if self.place.iteration % config['print_samples_every'] == 0:
      progress.show_samples(samples[:1] + samples[-1:])

  def _num_general(self) -> int:
    """How many prompts of this iteration's rollout are general ones."""
    general = self.config['general_prompts']
    begun = self.place.iteration * self.updates >= general['from_step']
    return general['prompts_per_batch'] if begun else 0

  def _draw(self, watch, counters: Counters) -> _Round:
    """One sampling pass; its rewards are being computed when this returns."""
    prompts, next_counters = self.mixture.batch(counters, self._num_general())
    device_prompts = sharding.place(rollouts.device_prompts(prompts), self.mesh, batch=True)
    owners = sharding.owners(self.mesh, len(prompts.examples))
    try:
      with watch('rollout'):
        rollout = self.programs.sample(self.state.params, device_prompts, self.place.iteration)
        completions = rollouts.read_rollout(
            rollout, owners, self.tokenizer, self.stop_ids, self.mesh)
    except Interrupted:
      self._stop()
    with watch('rewards'):
      pending, judging = self.reward_sources.submit(
          completions, prompts.examples, self._num_general(), owners)
    return _Round(prompts, next_counters, rollout, completions, pending, judging)

  def _collect(self, drawn: _Round) -> Rewards:
    try:
      return drawn.pending.collect()
    except Exception as error:
      self._save()
      error.add_note(f'The state after step {self._steps_done()} is saved in {self.workdir}: '
                     'the same call goes on from there.')
      raise

  def _unequal(self, drawn: _Round) -> np.ndarray:
    """[B] bool: the groups whose rewards are not all the same."""
    grouped = self._collect(drawn).total.reshape(-1, self.config['group_size'])
    return (grouped != grouped[:, :1]).any(1)

  def _num_unequal(self, rounds: list[_Round]) -> int:
    return sum(int(self._unequal(drawn).sum()) for drawn in rounds)

  def _join(self, rounds: list[_Round]) -> tuple[Batch, np.ndarray, dict[str, float]]:
    """(the unscored batch, the groups of all rounds that it holds, counts)."""
    config = self.config
    lengths = np.asarray([c.num_tokens for drawn in rounds for c in drawn.completions])
    measured = {'num_tokens': float(lengths.sum()),
                'prompts/skipped': float(sum(drawn.prompts.num_skipped for drawn in rounds))}
    groups = np.arange(config['prompts_per_batch'])
    if config['dynamic_sampling_rounds']:
      unequal = np.concatenate([self._unequal(drawn) for drawn in rounds])
      groups = np.sort(np.argsort(~unequal, kind='stable')[:config['prompts_per_batch']])
      measured |= {'dynamic_sampling/rounds': float(len(rounds)),
                   'dynamic_sampling/equal_kept': float((~unequal[groups]).sum()),
                   'dynamic_sampling/equal_dropped': float(
                       (~unequal).sum() - (~unequal[groups]).sum()),
                   'dynamic_sampling/surplus': float(unequal.sum() - unequal[groups].sum())}
    lengths = lengths.reshape(-1, config['group_size'])[groups]
    measured['num_trained_tokens'] = float(lengths.sum())
    length = rollouts.length_bucket(lengths, config['sampling']['max_new_tokens'])
    batches = [rollouts.make_batch(drawn.rollout, length) for drawn in rounds]
    if not config['dynamic_sampling_rounds']:
      return batches[0], groups, measured
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *batches)
    return self.programs.take(whole, sharding.place(groups, self.mesh)), groups, measured

  def _score(self, batch: Batch) -> Batch:
    """The batch with the log-probabilities and values that this config needs."""
    if self.updates == 1 and self.reference is None and self.critic is None:
      return batch
    scored, packed = {}, self._packed(batch)
    if self.updates > 1:
      scored['old_logprobs'] = self.programs.score(self.state.params, packed)
    if self.reference is not None:
      scored['reference_logprobs'] = self.programs.score(
          self._fetch('reference', self.reference), packed)
    if self.critic is not None:
      scored['old_values'] = self.programs.value(self.critic.params, packed)
    return dataclasses.replace(batch, **scored)

  def _packed(self, batch: Batch) -> Batch | PackedBatch:
    """The batch as the programs take it."""
    packs = self.config['packing']['row_length']
    return rl_programs.pack(batch, self.config, self.mesh) if packs else batch

  def _penalise_overlong(self, rewards, completions):
    penalty = sharding.to_host(advantages.overlong_penalty(
        np.asarray([c.num_tokens for c in completions]),
        max_length=self.config['sampling']['max_new_tokens'],
        buffer=self.config['overlong_buffer'])).astype(float)
    return dataclasses.replace(rewards, total=rewards.total + penalty,
                               components=rewards.components | {'overlong': penalty})

  def _update(self, watch):
    """The updates of this rollout that are still to do."""
    config = self.config
    with watch('update'):
      self._move_optimizers(self._fetch)
      for update in range(self.place.update, self.updates):
        epoch, part = divmod(update, config['mini_batches'])
        batch = self.batch
        if config['mini_batches'] > 1:
          key = np.random.default_rng((config['seed'], self.place.iteration, epoch))
          groups = np.split(key.permutation(config['prompts_per_batch']), config['mini_batches'])[part]
          batch = self.programs.take(self.batch, sharding.place(groups, self.mesh))
        mask, batch = batch.completion_mask, self._packed(batch)
        normalizers = rl_programs.batch_normalizers(
            mask, self.place.kl_coefficient, rl_programs.num_rows(batch),
            aggregation=config['loss']['aggregation'],
            max_length=config['sampling']['max_new_tokens'])
        self.state, measured = self.programs.update(self.state, batch, normalizers)
        if self.critic is not None:
          self.critic, of_critic = self.programs.update_critic(self.critic, batch, normalizers)
          measured |= {f'critic/{name}': value for name, value in of_critic.items()}
        if isinstance(batch, PackedBatch):
          measured['packing/fill'] = rl_programs.packing_fill(batch.packing)
        self.place.update = update + 1
        self.place.measured.append(
            {name: float(value) for name, value in sharding.to_host(measured).items()})
        if update + 1 < self.updates:
          self._stop_if_asked()
      self._move_optimizers(self._put_away)

  def _finish_iteration(self, watch, progress):
    config, place = self.config, self.place
    record = rl_metrics.iteration_record(
        place.measured, watch.pop(), remat=config['model']['remat'], peak_flops=self.peak_flops)
    if config['kl_coefficient'] or config['loss']['old_kl_coefficient']:
      record['kl_coefficient'] = place.kl_coefficient
      place.kl_coefficient = rl_metrics.next_kl_coefficient(config, place.kl_coefficient, record)
    place.iteration, place.update, place.measured, self.batch = place.iteration + 1, 0, [], None
    step = self._steps_done()
    self.writer.write(step, record)
    progress.update(place.iteration, record)
    refresh = config['reference_refresh']
    if refresh and step // refresh > (step - self.updates) // refresh:
      self.reference = self._put_away(
          'reference', jax.tree.map(jnp.copy, self.state.params))
    if place.iteration % config['checkpoint_every'] == 0 or place.iteration == self.iterations:
      self._save()

  def _computed(self, rounds: list[_Round], groups: np.ndarray) -> compute.Compute:
    """What an iteration takes: all completions are drawn and judged, of which reward models take
    their part; those of `groups` are scored by models of the policy's shape, and trained on."""
    shape, models = self.model.config, 1 + (self.critic is not None)
    prompts = np.concatenate([drawn.prompts.prompt_lengths for drawn in rounds])
    lengths = np.asarray([c.num_tokens for drawn in rounds for c in drawn.completions]).reshape(
        len(prompts), -1)
    kept = prompts[groups], lengths[groups]
    scored = (self.updates > 1) + (self.reference is not None) + (self.critic is not None)
    return (compute.sampling(shape, prompts, lengths)
            + compute.scoring(shape, *kept, passes=scored)
            + compute.training(shape, *kept, remat=self.config['model']['remat'],
                               times=self.config['epochs'] * models)
            + sum((drawn.judging for drawn in rounds), compute.Compute()))

  def _finish(self) -> Artifact:
    hosts.together(self.checkpoints.wait)
    table = evaluate.run_all(
        self.stage_run, loading.LoadedModel(self.model, self.state.params, self.tokenizer))
    draw_curves(self.workdir)
    records = hosts.from_first(lambda: metrics.read_metrics(self.workdir))
    return leave_artifact(
        self.stage_run, model=self.model.config, params=self.state.params, tokenizer=self.tokenizer,
        template=self.config['template'], scores=table,
        compute=compute.from_metrics(records) + evaluate.computed(table, self.workdir))

  # Saving and resuming.

  def _steps_done(self) -> int:
    return self.place.iteration * self.updates + self.place.update

  def _items(self) -> dict[str, Any]:
    """The arrays that the rest of the run depends on, but for a batch under way."""
    items = {'params': self.state.params, 'rest': _rest(self.state)}
    if self.reference is not None:
      items['reference'] = self.reference
    if self.critic is not None:
      items |= {'critic': self.critic.params, 'critic_rest': _rest(self.critic)}
    return items

  def _save(self):
    """Saves everything that the rest of the run depends on; once a place."""
    step = self._steps_done()
    hosts.together(self.checkpoints.wait)   # the save under way may be of this very step
    if hosts.from_first(self.checkpoints.latest_step) == step:
      return
    items = self._items()
    if self.batch is not None:
      items['batch'] = self.batch
    self.writer.flush()
    length = None if self.batch is None else self.batch.completion_mask.shape[1]
    self.checkpoints.save(step, items, dataclasses.asdict(self.place) | {
        'identity': self.stage_run.resume_identity, 'batch_length': length})

  def _restore(self):
    step = hosts.from_first(self.checkpoints.latest_step)
    if step is None:
      return
    meta = self.checkpoints.read_meta(step)
    meta.pop('identity')
    length = meta.pop('batch_length')
    templates = self._items()
    if length is not None:
      templates['batch'] = self._batch_template(length)
    items = self.checkpoints.restore(step, templates)
    self.state = TrainState(items['params'], **items['rest'])
    self.reference = items.get('reference')
    if self.critic is not None:
      self.critic = TrainState(items['critic'], **items['critic_rest'])
    self.batch = items.get('batch')
    measured = [{name: float(value) for name, value in record.items()}
                for record in meta.pop('measured')]
    self.place = _Place(**meta, measured=measured)

  def _batch_template(self, length: int) -> Batch:
    config = self.config
    prompts, rows = config['prompts_per_batch'], config['prompts_per_batch'] * config['group_size']
    table = np.zeros((rows, length), np.float32)
    template = Batch(
        prompt_tokens=np.zeros((prompts, config['max_prompt_length']), np.int32),
        prompt_lengths=np.zeros(prompts, np.int32), completion_tokens=table.astype(np.int32),
        completion_mask=table, behaviour_logprobs=table,
        advantages=(table[:, 0] if config['advantage'] in rl_programs.SEQUENCE_ADVANTAGES
                    else table),
        old_logprobs=table if self.updates > 1 else None,
        reference_logprobs=table if self.reference is not None else None,
        old_values=table if self.critic is not None else None,
        returns=table if self.critic is not None else None)
    return sharding.place(template, self.mesh, batch=True)

  def _stop_if_asked(self):
    if self.should_stop():
      self._stop()

  def _stop(self):
    self._save()
    hosts.together(self.checkpoints.wait)   # the first seals it: till then nobody takes leave
    self.stage_run.stop(self._steps_done())


def _rest(state: TrainState) -> dict[str, Any]:
  return {name: getattr(state, name) for name in ('optimizer', 'step', 'skipped_updates')}
