"""Reinforcement learning: the walk of a batch, resumable at any moment.

GRPO and its relatives compare a completion with its group. With `advantage='gae'` a critic values
every token and the same walk is PPO, in RLHF's form if the KL is inside the reward. Departures from
the reports:

- mini-batches are split by whole groups, since a group shares its prompt in the update;
- a rollout with a single update needs no old log-probabilities: they are the policy's own;
- where dynamic sampling ends before the batch is full, groups of equal rewards fill it, and are
  counted;
- a reward model's reward is σ(score), see `rl.rewards`.

All-scenario RL mixes general prompts into the batch (`rl.prompts`), judged by their own rewards.
"""
from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from r1jax import metrics
from r1jax import rollout as rollouts
from r1jax.data.prompts import Order
from r1jax.metrics.terminal import warn
from r1jax.models import compute
from r1jax.prompting.templates import stop_ids
from r1jax.records import Batch, PackedBatch
from r1jax.rewards.suite import Rewards, checked_functions
from r1jax.runtime import compiling, hardware, hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.sampling import text as rollout_text
from r1jax.sampling.drawing import Interrupted
from r1jax.stages import auxiliary, difficulty, evaluate, loading
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import plain
from r1jax.stages.fields import prompt_format
from r1jax.stages.function_identity import function_identity
from r1jax.stages.loop import TrainingLoop, as_floats, is_due
from r1jax.stages.rl import carry, checkpoints, dynamic_sampling, health
from r1jax.stages.rl import metrics as rl_metrics
from r1jax.stages.rl import plan as rl_plan
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl import rewards as rl_rewards
from r1jax.stages.rl import state as rl_state
from r1jax.stages.rl.batch import BatchSpec, updates_per_rollout
from r1jax.stages.rl.carry import BegunCarriedRound
from r1jax.stages.rl.dynamic_sampling import BegunRound, Round
from r1jax.stages.rl.prompts import Counters, PromptMixture
from r1jax.stages.rl.settings import OWN_REWARDS, SETTINGS
from r1jax.stages.stage import StageRun, begin, draw_curves, leave_artifact, owns_folder
from r1jax.tokenization import Tokenizer
from r1jax.training import optimizers


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads the prompts; raises as `PromptMixture` and `difficulty.choose` do."""
  chosen = difficulty.choose(config, 'train', None)
  difficulty.make_curriculum(config, chosen, None)
  PromptMixture(config, tokenizer, chosen.problems)


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'rl', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, reward_functions=None, console=None,
) -> Artifact:
  """Trains a policy by reinforcement, resuming from `workdir`, and leaves an Artifact there.

  Args:
    config: the fields of DEFAULT, as a dict or a ConfigDict.
    inputs: Artifacts of earlier stages by name; `config.model.source` may name one.
    workdir: the stage's folder, local or remote.
    stage: its name, for the manifest.
    mesh: by default one device.
    should_stop: called between chunks of sampling and between updates. When it returns True the
      stage saves its state (with the batch, if some of its updates are done) and raises
      StopRequested.
    reward_functions: {name: (function, weight)} instead of `config.rewards`, from a notebook. What
      decides their results is part of this one's identity, see `stages.function_identity`.
    console: a rich console; None is standard output.

  Raises:
    UserError, FileNotFoundError: config, data or model are wrong; the message says how.
    StopRequested: see `should_stop`.
  """
  config = plain(config)
  if reward_functions:
    reward_functions = checked_functions(reward_functions)
  run = begin('rl', SETTINGS if reward_functions is None else OWN_REWARDS, config, inputs, workdir,
              stage=stage, mesh=mesh, should_stop=should_stop, console=console, functions={
                  name: function_identity(function, weight)
                  for name, (function, weight) in (reward_functions or {}).items()})
  if config['in_host_memory']:
    sharding.check_host_memory(
        run.mesh, f'{run.where}.in_host_memory={list(config["in_host_memory"])}')
  carry.check_hosts(config, run.where)
  with sharding.use(run.mesh):
    if run.finished:
      return evaluate.complete(run)
    with compiling.Threads() as threads:
      trainer = _Trainer(run, reward_functions, threads)
      try:
        trainer.train()
      finally:
        trainer.close()
    return _finish(run, trainer.trained(), trainer.chosen.scores())


@functools.cache
def _print_once(text: str) -> None:
  """Prints a text, once however many stages a chain has."""
  print(text, flush=True)


def _finish(
    run: StageRun, trained: loading.LoadedModel, scores: dict[str, Any]) -> Artifact:
  """Evaluates the trained policy and leaves it as an Artifact, with more scores."""
  table = evaluate.run_all(run, trained)
  draw_curves(run.workdir)
  logged = hosts.from_first(lambda: metrics.read_metrics(run.workdir))
  return leave_artifact(
      run, model=trained.model.config, params=trained.params, tokenizer=trained.tokenizer,
      dtype=trained.dtype,
      template=run.config['template'], scores=table | scores,
      compute=compute.from_metrics(logged) + evaluate.computed(table, run.workdir))


_Result = TypeVar('_Result')


class _Trainer:
  """One run: what it has loaded, and the walk of a batch."""

  def __init__(self, run: StageRun, reward_functions, threads: compiling.Threads):
    self.run, self.config, self.mesh, self.threads = run, run.config, run.mesh, threads
    config, inputs, mesh = run.config, run.inputs, run.mesh
    self.passing_reward = difficulty.passing_reward(config, reward_functions or config['rewards'])
    self.chosen = difficulty.choose(config, 'train', inputs)
    self.chosen.announce(run.name, run.console)
    policy = loading.load_model(mesh=mesh, inputs=inputs, **config['model'])
    self.model, self.tokenizer = policy.model, policy.tokenizer
    self.untrained = dataclasses.replace(policy, params=None)
    auxiliary.check_model(config, self.model.config, run.where)
    self.stop_ids = stop_ids(prompt_format(config), self.tokenizer)
    self.spec, self.updates = BatchSpec.of(config), updates_per_rollout(config)
    self.iterations = -(-config['steps'] // self.updates)
    self.prompts = PromptMixture(config, self.tokenizer, self.chosen.problems)
    self.carried_sampling = carry.carried_sampling(config, self.tokenizer, self.chosen.problems)
    evaluate.check_sources(run, self.tokenizer)
    self.reward_sources = rl_rewards.make_reward_sources(
        config, inputs, self.tokenizer, mesh=mesh, reward_functions=reward_functions,
        workdir=run.workdir, should_stop=run.should_stop)
    optimizer = optimizers.make_optimizer(**config['optimizer'])
    critic_optimizer = optimizers.make_optimizer(**config['critic']['optimizer'])
    self.programs = rl_programs.make_programs(self.model, optimizer, critic_optimizer, config,
                                              self.stop_ids, run.should_stop)
    state = rl_state.begin(config, policy, inputs, mesh, optimizer, critic_optimizer)
    state.curriculum = difficulty.make_curriculum(config, self.chosen, inputs)
    self.loop = TrainingLoop(run)
    self.state = checkpoints.restore(self.loop, state, config, mesh)
    if self.state.position.iteration < self.iterations:
      rl_plan.prepare(
          threads, config, mesh, self.model, self.programs, optimizer, critic_optimizer,
          at_once=self.state.batch is not None)
    self.state.offload_reference()
    self.state.offload_optimizers()
    position = self.state.position
    self.first_update = position.update      # of this process, in this iteration
    # The first sampling pass of the next iteration.
    self.begun: BegunRound | BegunCarriedRound | None = None
    self.unlogged: Callable[[], None] | None = None    # logs the rollout, once an update runs
    self.lengths: list[np.ndarray] | None = None       # of prompts and completions, by group
    self.loop.start(self.iterations, done=position.iteration, next_step=self._steps_done() + 1)
    self.rollout_writer = metrics.RolloutWriter(
        run.workdir, resume_iteration=position.iteration + bool(position.update))
    self.peak_flops = hardware.peak_flops(config['model']['compute_dtype'])
    if self.peak_flops is None and hosts.is_first():
      _print_once(hardware.no_peak_message())

  def trained(self) -> loading.LoadedModel:
    """The policy as it is exported; its parameters are taken from the state."""
    return self.untrained.trained(self.state.policy.params, self.config['export_dtype'])

  def close(self) -> None:
    """Ends processes, and waits for what is being written."""
    self.reward_sources.close()
    self.loop.close()

  # The walk. Programs that are dispatched run while the host goes on. So it logs, writes and reads
  # results once the next program is dispatched: an update runs while the rollout before it is
  # logged, the first tokens of a rollout are drawn while the iteration before it is.

  def train(self) -> None:
    """The iterations that are still to do."""
    state, watch = self.state, self.loop.watch
    if state.position.iteration == self.iterations:
      self._stop_if_dead()
    while state.position.iteration < self.iterations:
      with watch('step'):
        if state.batch is None:
          state.batch = self._make_batch()
        with watch('update'):
          self._make_updates(state.batch)
          measured = self._advance()
      self._end_iteration(measured)
      self._stop_if_asked()
    self.loop.wait()

  def _make_batch(self) -> Batch:
    """A rollout becomes a batch: it is sampled, scored and rewarded, and gets its advantages."""
    config, watch, position = self.config, self.loop.watch, self.state.position
    rounds = dynamic_sampling.sample_rounds(
        self._sample_round, self._collect, position.counters, config, self._num_general())
    groups, unequal = self._choose_groups(rounds)
    self.lengths = [np.concatenate([drawn.prompts.prompt_lengths for drawn in rounds])[groups],
                    dynamic_sampling.lengths_of(rounds, config['group_size'])[groups]]
    batch = dynamic_sampling.join_rounds(
        rounds, groups, config, cut=self.programs.cut, exchange=self._exchange)
    with watch('score'):
      scored = self._score(batch)
    with watch('rewards'):
      rewards = self._collect(rounds)
    position.counter, position.general_counter = rounds[-1].next_counters
    if (carried := rounds[-1].carry) is not None:
      self.state.carried = carried.carried
    self._follow(rounds, rewards)
    batch, measured = self._compute_advantages(scored, rewards, groups)
    self.unlogged = functools.partial(
        self._log_rollout, rounds, rewards, groups, unequal, measured)
    return batch

  def _begin_round(self, counters: Counters) -> BegunRound | BegunCarriedRound:
    """A sampling pass that has begun on the devices."""
    if self.carried_sampling is not None:
      assert self.state.carried is not None
      return self.carried_sampling.begin(
          self.programs.sample, self.state.policy.params, self.state.carried,
          self.state.position.iteration, counters, self._order())
    prompts, next_counters = self.prompts.batch(counters, self._num_general(), self._order())
    on_device = sharding.place(rollout_text.device_prompts(prompts), self.mesh, batch=True)
    drawing = self.programs.sample.begin(
        self.state.policy.params, on_device, self.state.position.iteration)
    return BegunRound(prompts, next_counters, drawing)

  def _sample_round(self, counters: Counters) -> Round:
    """One sampling pass; its rewards are being computed when this returns."""
    with self.loop.watch('rollout'):
      begun, self.begun = self.begun or self._begin_round(counters), None
    if isinstance(begun, BegunCarriedRound):
      return self._sample_carried(begun)
    with self.loop.watch('rollout'):
      owners = sharding.owners(self.mesh, len(begun.prompts.examples))
      rewards = self.reward_sources.begin(
          begun.prompts.examples, self._num_general(), owners, self.config['group_size'])
      early = rollout_text.EarlyReader(self.tokenizer, self.stop_ids, rewards.add)
      rollout = sharding.place(
          self._unless_interrupted(begun.drawing.finish, early), self.mesh, batch=True)
      completions = rollout_text.read_rollout(
          rollout, owners, self.tokenizer, self.stop_ids, self.mesh, early.known)
    with self.loop.watch('rewards'):
      pending, judging = self._unless_interrupted(rewards.end, completions)
    return Round(begun.prompts, begun.next_counters, rollout, completions, pending, judging)

  def _sample_carried(self, begun: BegunCarriedRound) -> Round:
    """As `_sample_round`; which groups are complete, and may be judged, is known at the end."""
    with self.loop.watch('rollout'):
      prompts, next_counters, rollout, carried = self._unless_interrupted(begun.finish)
      rollout = sharding.place(rollout, self.mesh, batch=True)
      owners = sharding.owners(self.mesh, len(prompts.examples))
      completions = rollout_text.read_rollout(
          rollout, owners, self.tokenizer, self.stop_ids, self.mesh)
    with self.loop.watch('rewards'):
      rewards = self.reward_sources.begin(
          prompts.examples, self._num_general(), owners, self.config['group_size'])
      pending, judging = self._unless_interrupted(rewards.end, completions)
    return Round(prompts, next_counters, rollout, completions, pending, judging, carried)

  def _exchange(self, batch: Batch, other: Batch, *chosen: np.ndarray) -> Batch:
    return self.programs.exchange(batch, other, *sharding.place(chosen, self.mesh))

  def _score(self, batch: Batch) -> Batch:
    """The batch with the log-probabilities and values that this config needs."""
    spec, state, scored = self.spec, self.state, {}
    if not spec.num_scorings:
      return batch
    packed = self._packed(batch)
    if spec.old_logprobs:
      scored['old_logprobs'] = self.programs.score(state.policy.params, packed)
    if spec.reference_logprobs:
      scored['reference_logprobs'] = self.programs.score(state.reference_on_device(), packed)
    if state.critic is not None:
      scored['old_values'] = self.programs.value(state.critic.params, packed)
    return sharding.place(dataclasses.replace(batch, **scored), self.mesh, batch=True)

  def _compute_advantages(
      self, scored: Batch, rewards: Rewards, groups: np.ndarray,
  ) -> tuple[Batch, dict[str, jax.Array]]:
    """(the batch of these groups, ready for updates; metrics)."""
    total = rewards.total.reshape(-1, self.config['group_size'])[groups].reshape(-1)
    batch, measured = self.programs.compute_advantages(
        scored, sharding.place(total.astype(np.float32), self.mesh, batch=True),
        self.state.position.kl_coefficient)
    return sharding.place(batch, self.mesh, batch=True), measured

  def _make_updates(self, batch: Batch) -> None:
    """The updates of a batch that are still to do; the last one still runs."""
    state, position = self.state, self.state.position
    state.onload_optimizers()
    for update in range(position.update, self.updates):
      measured = self._update(self._mini_batch(batch, update))
      if self.unlogged is not None:
        self.unlogged()
        self.unlogged = None
      position.update += 1
      position.measured = [*map(as_floats, position.measured), measured]
      if position.update < self.updates:
        self._stop_if_asked()
    state.offload_optimizers()

  def _advance(self) -> list[dict[str, float]]:
    """Moves on to the next iteration, whose rollout begins; returns what this one measured."""
    state, position = self.state, self.state.position
    measured, position.measured = position.measured, []
    position.iteration, position.update, state.batch = position.iteration + 1, 0, None
    if position.iteration < self.iterations:
      with contextlib.suppress(Exception):    # it is raised where the rollout is needed
        self.begun = self._begin_round(position.counters)
    return list(map(as_floats, measured))

  def _mini_batch(self, batch: Batch, update: int) -> Batch | PackedBatch:
    """The groups for one update, as it takes them; each epoch has them in another order."""
    config, count = self.config, self.config['mini_batches']
    if count == 1:
      return self._packed(batch)
    epoch, part = divmod(update, count)
    rng = np.random.default_rng((config['seed'], self.state.position.iteration, epoch))
    groups = np.split(rng.permutation(config['prompts_per_batch']), count)[part]
    part = self.programs.take(batch, sharding.place(groups.astype(np.int32), self.mesh))
    return self._packed(part, groups)

  def _update(self, given: Batch | PackedBatch) -> dict[str, jax.Array]:
    """The metrics of one update of the policy, and of the critic if there is one."""
    state, position = self.state, self.state.position
    normalizers = self.programs.normalizers(given, position.kl_coefficient)
    state.policy, measured = self.programs.update(state.policy, given, normalizers)
    if state.critic is not None:
      state.critic, of_critic = self.programs.update_critic(state.critic, given, normalizers)
      measured |= {f'critic/{name}': value for name, value in of_critic.items()}
    if isinstance(given, PackedBatch):
      measured['packing/fill'] = rl_programs.packing_fill(given.packing)
    return measured

  # Around the walk.

  def _order(self) -> Order | None:
    """That of this iteration's reasoning prompts by the curriculum; None without one."""
    if self.state.curriculum is None:
      return None
    position = self.state.position
    return self.state.curriculum.order(position.iteration, position.counter)

  def _follow(self, rounds: Sequence[Round], rewards: Rewards) -> None:
    """Lets the curriculum, if there is one, follow the rewards of an iteration."""
    if self.state.curriculum is not None:
      self.state.curriculum = dynamic_sampling.follow(
          self.state.curriculum, rounds, rewards, reward=self.passing_reward,
          group_size=self.config['group_size'], num_general=self._num_general())

  def _num_general(self) -> int:
    """How many prompts of this iteration's sampling passes are general ones."""
    general = self.config['general_prompts']
    begun = self.state.position.iteration * self.updates >= general['from_step']
    return general['prompts_per_batch'] if begun else 0

  def _choose_groups(self, rounds: Sequence[Round]) -> tuple[np.ndarray, np.ndarray | None]:
    """(the groups to train on; which of all are unequal, None without dynamic sampling)."""
    if not self.config['dynamic_sampling_rounds']:
      return np.arange(self.config['prompts_per_batch']), None
    unequal = rollouts.unequal_groups(self._collect(rounds), self.config['group_size'])
    return dynamic_sampling.choose_groups(
        unequal, self.config['prompts_per_batch'], self._num_general()), unequal

  def _collect(self, rounds: Sequence[Round]) -> Rewards:
    """The rewards of all rounds, with the length penalty.

    If a reward function failed, the state is saved first.
    """
    config = self.config
    try:
      rewards = Rewards.concatenate([drawn.pending.collect() for drawn in rounds])
    except Exception as error:
      self._save()
      error.add_note(f'The state after step {self._steps_done()} is saved in {self.run.workdir}: '
                     'the same call continues from there.')
      raise
    if config['overlong_buffer']:
      rewards = rl_rewards.penalise_overlong(
          rewards, dynamic_sampling.completions_of(rounds), buffer=config['overlong_buffer'],
          max_length=config['sampling']['max_new_tokens'])
    return rewards

  def _packed(
      self, batch: Batch, groups: np.ndarray | slice = slice(None)) -> Batch | PackedBatch:
    """These groups of the whole batch, as the programs take them."""
    if not self.config['packing']['row_length']:
      return batch
    lengths = self.lengths and [array[groups].reshape(-1) for array in self.lengths]
    return rl_programs.pack(batch, self.config, self.mesh, lengths)

  def _log_rollout(
      self, rounds: Sequence[Round], rewards: Rewards, groups: np.ndarray,
      unequal: np.ndarray | None, of_batch: dict[str, jax.Array],
  ) -> None:
    """Keeps the metrics of a rollout, and writes its completions."""
    config, position = self.config, self.state.position
    completions, group_size = dynamic_sampling.completions_of(rounds), config['group_size']
    measured = dynamic_sampling.sampling_metrics(rounds, groups, unequal, group_size)
    measured |= as_floats(of_batch)
    measured |= rollouts.rollout_metrics(completions, rewards, group_size=group_size)
    measured |= rl_rewards.truths(rewards)
    measured |= rounds[-1].carry.measured if rounds[-1].carry else {}
    measured |= self.state.curriculum.metrics() if self.state.curriculum else {}
    if self._num_general():
      measured |= rl_rewards.totals_by_part(
          rewards, len(rounds), self._num_general(), group_size=group_size)
    measured |= rl_metrics.computed(rounds, groups, self.model.config, config).to_metrics()
    position.measured = [measured]
    samples = []
    for drawn, part in zip(rounds, rewards.split(len(rounds))):
      samples += rl_metrics.sample_rows(drawn, part, self.tokenizer, group_size)
    self.rollout_writer.write(position.iteration, samples)
    if position.iteration % config['print_samples_every'] == 0:
      self.loop.progress.show_samples(samples[:1] + samples[-1:])

  def _end_iteration(self, of_parts: Sequence[Mapping[str, float]]) -> None:
    """Logs an iteration by what its parts measured, and saves the state if that is due."""
    config, state, position = self.config, self.state, self.state.position
    measured = rl_metrics.iteration_metrics(
        of_parts, self.loop.pop_times(), updates_done=self.updates - self.first_update,
        remat=config['model']['remat'], peak_flops=self.peak_flops)
    self.first_update = 0
    if config['kl_coefficient'] or config['loss']['old_kl_coefficient']:
      measured['kl_coefficient'] = position.kl_coefficient
      position.kl_coefficient = rl_metrics.next_kl_coefficient(
          config, position.kl_coefficient, measured)
    step = self._steps_done()
    self.loop.log(step, measured, done=position.iteration)
    position.symptoms, warnings = health.warnings(position.symptoms, measured, config)
    for warning in warnings:
      warn(f'stage {self.run.name!r}: {warning}')
    refresh = config['reference_refresh']
    if refresh and step // refresh > (step - self.updates) // refresh:
      state.replace_reference(step, self.programs.copy)
    if is_due(position.iteration, config['checkpoint_every'], self.iterations):
      self._save()
    self._stop_if_dead()
    self.threads.wait()    # after the first iteration nothing is compiled

  def _steps_done(self) -> int:
    return self.state.position.iteration * self.updates + self.state.position.update

  def _save(self) -> None:
    position = self.state.position
    position.measured = list(map(as_floats, position.measured))
    checkpoints.save(self.loop, self.state, self._steps_done())

  def _stop_if_dead(self) -> None:
    states = {'optimizer': self.state.policy, 'critic.optimizer': self.state.critic}
    self.loop.stop_if_dead(self._steps_done(), self.iterations * self.updates, self._save,
                           {path: state for path, state in states.items() if state is not None})

  def _stop_if_asked(self) -> None:
    if self.run.should_stop():
      self._stop()

  def _unless_interrupted(self, call: Callable[..., _Result], *arguments: Any) -> _Result:
    """The result of a call, in which the run may be asked to stop."""
    try:
      return call(*arguments)
    except Interrupted:
      self._stop()

  def _stop(self) -> NoReturn:
    self._save()
    if self.begun is not None:
      self.begun.drawing.cancel()
    self.loop.stop(self._steps_done())
