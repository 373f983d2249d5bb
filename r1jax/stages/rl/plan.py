"""The device programs of an iteration of RL, as shapes: for `r1jax.plan`, and to prepare them."""
from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from r1jax.models import Model, ModelConfig, compute
from r1jax.records import Batch, PackedBatch
from r1jax.rollout import batch_widths
from r1jax.runtime import compiling, sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import evaluate, judge_model, judges, program_shapes
from r1jax.stages.program_shapes import IterationWork, ProgramShapes
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl.batch import (
    BatchSpec,
    as_sampled,
    batch_shapes,
    rollout_shapes,
    updates_per_rollout,
)
from r1jax.training import optimizers, scalar_head


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh,
    shape_of: Callable[[Mapping], ModelConfig], *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout of one sampling pass, its scoring and its updates, and the largest evaluation.

  Judges on the mesh reply to a question for each completion and criterion of the config. What takes
  next to no time is left out: advantages, taking groups, the passes of reward models.

  Args:
    config: the stage's.
    mesh: of the devices to compile for.
    shape_of: from the `model` part of a stage to its ModelConfig.
    mean_length: of the completions; 0: all have the greatest length. Packed rows are planned for
      completions that all have the mean length.
  """
  mean_length = mean_length or config['sampling']['max_new_tokens']
  model = program_shapes.model_of(config['model'], shape_of(config['model']))
  optimizer = optimizers.make_optimizer(**config['optimizer'])
  critic_optimizer = optimizers.make_optimizer(**config['critic']['optimizer'])
  programs = rl_programs.make_programs(
      model, optimizer, critic_optimizer, config, program_shapes.STOP_IDS, lambda: False)
  models = _Models(config, mesh, model, programs, optimizer, critic_optimizer)
  judging = _Judges(config, mesh, shape_of)
  work = yield from program_shapes.changed(
      judging.beside, _own_shapes(config, mesh, shape_of, models, mean_length))
  yield from judging.shapes(beside=(
      models.params, models.moments, models.waiting_reference, models.critic_params))
  return work


def prepare(
    threads: compiling.Threads, config: Mapping[str, Any], mesh: jax.sharding.Mesh, model: Model,
    programs: rl_programs.DevicePrograms, optimizer, critic_optimizer, *, at_once: bool,
) -> None:
  """Has all that a run needs compiled, whatever the lengths of its completions.

  XLA generates code in the order in which it is asked for: first what a rollout begins with, then
  what is done with it, small programs first, and the rollout's smaller programs at last.

  Args:
    threads: where to compile.
    config: the stage's.
    mesh: of the run's devices.
    model: the policy's.
    programs: the run's own.
    optimizer: as for `rl_programs.make_programs`.
    critic_optimizer: likewise.
    at_once: a batch of the run is there, and waits for updates. Otherwise the next rollout begins
      to compile.
  """
  def after_rollout():
    _prepare_learning(threads, config, mesh, _Models(
        config, mesh, model, programs, optimizer, critic_optimizer))
  sampler = programs.sample if isinstance(programs.sample, Sampler) else None    # not replaced
  if at_once or sampler is None:
    after_rollout()
  if sampler is not None:
    sampler.compile_in(threads, (lambda: None) if at_once else after_rollout)


def _prepare_learning(threads, config, mesh, models: '_Models') -> None:
  """`prepare` without a rollout's own programs."""
  programs = models.programs
  longest = config['sampling']['max_new_tokens']
  lengths = (longest,) if config['packing']['row_length'] else batch_widths(longest)
  by_length = (functools.partial(_around, config, mesh, programs),
               functools.partial(_scoring, config, mesh, models, longest),
               functools.partial(_updates, config, mesh, models, longest))
  wanted = [program for shapes in by_length for length in lengths for program in shapes(length)]
  if config['reference_refresh'] and models.reference is not None:
    wanted.insert(0, ProgramShapes('copy', programs.copy, (models.params,)))
  for program in wanted:
    if isinstance(program.function, compiling.Program):
      program.function.prepare(threads, *program.arguments, **program.keywords)


def _own_shapes(config, mesh, shape_of, models: '_Models', mean_length: float):
  """`shapes` without judges."""
  longest = config['sampling']['max_new_tokens']
  useful_row_steps = yield from program_shapes.sampling(
      models.programs.sample, models.model, models.params, mesh,
      prompts=config['prompts_per_batch'], group_size=config['group_size'],
      prompt_length=config['max_prompt_length'], max_new_tokens=longest,
      mean_length=mean_length,
      beside=(models.moments, models.waiting_reference, models.critic_params))
  yield from _scoring(config, mesh, models, mean_length)
  yield from _updates(config, mesh, models, mean_length)
  yield from evaluate.largest_shapes(
      config, mesh, shape_of, models.params,
      beside=(models.state.optimizer, models.reference, models.critic))
  updates = updates_per_rollout(config)
  return IterationWork(config['prompts_per_batch'] * config['group_size'] * mean_length, updates,
                       -(-config['steps'] // updates), useful_row_steps)


class _Models:
  """The programs of a run, and placed shapes of what they train and read.

  Attributes:
    state, reference, critic: as in `state.RunState`.
    moments, waiting_reference, critic_params: what is in device memory during a rollout besides
      the parameters of the policy.
  """

  def __init__(self, config, mesh, model, programs, optimizer, critic_optimizer):
    self.model, self.programs = model, programs
    self.params = program_shapes.params_of(self.model, mesh)
    self.state = program_shapes.state_of(
        self.params, optimizer, self.model.logical_axes, mesh)
    spec = BatchSpec.of(config)
    self.reference = self.params if spec.reference_logprobs else None
    self.critic = program_shapes.state_of(
        program_shapes.scalar_params_of(self.model, self.params, mesh), critic_optimizer,
        scalar_head.scalar_axes(self.model), mesh) if spec.values else None
    offloaded = config['in_host_memory']
    self.moments = () if 'optimizer' in offloaded else (
        self.state.optimizer, self.critic and self.critic.optimizer)
    self.waiting_reference = () if 'reference' in offloaded else self.reference
    self.critic_params = self.critic and self.critic.params


class _Judges:
  """The judges on the mesh by name, and the placed shapes of their models."""

  def __init__(self, config, mesh, shape_of):
    self._config, self._mesh = config, mesh
    self._settings: dict[str, tuple[dict[str, Any], int]] = {}
    self._models: dict[tuple[str, str], tuple[Any, Any]] = {}
    general = config['general_prompts']
    parts = {'judge': (config, config['prompts_per_batch'] - general['prompts_per_batch']),
             'general judge': (general, general['prompts_per_batch'])}
    for kind, (part, prompts) in parts.items():
      for name, given in part['judges'].items():
        settings = judges.filled(given)
        if settings['source'] and prompts:
          self._settings[f'{kind} {name!r}'] = settings, prompts
          key = settings['source'], settings['preset']
          if key not in self._models:
            shape = shape_of({'source': judge_model.model_path(key[0]), 'preset': key[1]})
            model = program_shapes.model_of(config['model'], shape)
            self._models[key] = model, program_shapes.params_of(model, mesh)

  def _params(self, without: tuple[str, str] | None = None):
    return [params for key, (_, params) in self._models.items() if key != without]

  def beside(self, program: ProgramShapes) -> ProgramShapes:
    """A program of the stage, with the judges' models in memory beside it."""
    if not self._models:
      return program
    return dataclasses.replace(program, beside=(program.beside, self._params()))

  def shapes(self, beside):
    """The rollouts of all judges; `beside` is what the stage holds meanwhile."""
    for name, (settings, prompts) in self._settings.items():
      key = settings['source'], settings['preset']
      model, params = self._models[key]
      rows = judge_model.rows_at_a_time(settings, self._mesh)
      questions = prompts * self._config['group_size'] * max(1, len(settings['rubric']))
      batches = -(-questions // rows)

      def named(program: ProgramShapes, name=name, batches=batches) -> ProgramShapes:
        return dataclasses.replace(program, name=f'{name}: {program.name}',
                                   times=batches * program.times, useful=batches * program.useful)
      chunk = self._config['sampling']['chunk']
      sampler = judge_model.make_sampler(
          model, settings, program_shapes.STOP_IDS, chunk=chunk,
          compute_dtype=self._config['model']['compute_dtype'],
          rollout_sharding=self._config['sampling']['rollout_sharding'])
      yield from program_shapes.changed(named, program_shapes.sampling(
          sampler, model, params, self._mesh, prompts=rows,
          prompt_length=settings['max_prompt_length'], group_size=settings['votes'],
          max_new_tokens=settings['max_new_tokens'],
          mean_length=settings['max_new_tokens'], beside=(beside, self._params(without=key))))


def _scoring(config, mesh, models: _Models, mean_length: float, length: int = 0):
  """The programs that score a batch, of the greatest length or of this one, before its updates."""
  spec, programs = BatchSpec.of(config), models.programs
  useful = compute.scoring(models.model.config, *_lengths(config, mean_length)).scored
  batch, trips = _packed(config, mesh, as_sampled(_batch(config, mesh, length)), mean_length)
  times = spec.old_logprobs + spec.reference_logprobs
  if times:
    yield ProgramShapes(
        'score', programs.score, (models.params, batch), times=times, useful=times * useful,
        unknown_trips=trips, beside=(models.moments, models.reference, models.critic_params))
  if spec.values:
    yield ProgramShapes(
        'value', programs.value, (models.critic_params, batch), useful=useful,
        unknown_trips=trips,
        beside=(models.state.params, models.moments, models.waiting_reference))


def _updates(config, mesh, models: _Models, mean_length: float, length: int = 0):
  """The updates of the policy and of the critic; arguments as for `_scoring`."""
  programs, critic, updates = models.programs, models.critic, updates_per_rollout(config)
  batch, trips = _packed(
      config, mesh, _batch(config, mesh, length, config['mini_batches']), mean_length)
  normalizers = rl_programs.Normalizers(*sharding.shapes_on(
      [program_shapes.scalar()] * len(rl_programs.Normalizers._fields), mesh))
  useful = compute.training(models.model.config, *_lengths(config, mean_length), remat=False,
                            times=config['epochs']).trained
  whole = () if config['mini_batches'] == 1 else _batch(config, mesh, length)
  yield ProgramShapes(
      'update', programs.update, (models.state, batch, normalizers), times=updates,
      useful=useful, unknown_trips=trips, beside=(models.waiting_reference, critic, whole))
  if critic is not None:
    yield ProgramShapes(
        'update of the critic', programs.update_critic, (critic, batch, normalizers),
        times=updates, useful=useful, unknown_trips=trips,
        beside=(models.state, models.waiting_reference, whole))


def _lengths(config, mean_length: float) -> tuple[list[int], list[list[int]]]:
  """The tokens of all prompts and completions of a rollout."""
  prompts = config['prompts_per_batch']
  return ([config['max_prompt_length']] * prompts,
          [[int(mean_length)] * config['group_size']] * prompts)


def _around(config, mesh, programs: rl_programs.DevicePrograms, length: int):
  """The programs between a rollout and its updates that take next to no time, but are compiled."""
  count, mini_batches = config['prompts_per_batch'], config['mini_batches']
  ready = _batch(config, mesh, length)
  sampled = as_sampled(ready)
  groups, chosen = sharding.shapes_on(
      [jax.ShapeDtypeStruct((count,), dtype) for dtype in ('int32', 'bool')], mesh)
  coefficient = jax.ShapeDtypeStruct((), 'float32', weak_type=True)
  rows = program_shapes.table(mesh, count * config['group_size'])
  yield ProgramShapes(
      'cut', programs.cut, (rollout_shapes(config, mesh),), keywords=dict(length=length))
  if config['dynamic_sampling_rounds']:
    yield ProgramShapes('exchange', programs.exchange, (sampled, sampled, groups, chosen))
  scored = dataclasses.replace(ready, advantages=None, returns=None)
  yield ProgramShapes('advantages', programs.compute_advantages, (scored, rows, coefficient))
  if mini_batches > 1:
    part = jax.ShapeDtypeStruct((count // mini_batches,), 'int32')
    yield ProgramShapes('take', programs.take, (ready, sharding.shapes_on(part, mesh)))
  batch, _ = _packed(config, mesh, _batch(config, mesh, length, mini_batches), length)
  yield ProgramShapes('normalizers', programs.normalizers, (batch, coefficient))


def _batch(config, mesh, length: int = 0, mini_batches: int = 1) -> Batch:
  """The placed shapes of one of so many mini-batches; 0: its completions have the limit."""
  return batch_shapes(config, mesh, prompts=config['prompts_per_batch'] // mini_batches,
                      length=length or config['sampling']['max_new_tokens'])


def _packed(config, mesh, batch: Batch, mean_length: float) -> tuple[Batch | PackedBatch, int]:
  """(a batch as the programs take it, the number of its packed micro-batches, or 1)."""
  if not config['packing']['row_length']:
    return batch, 1
  prompts, longest = batch.prompt_tokens.shape
  rows, length = batch.completion_tokens.shape
  packing = rl_programs.pack_lengths(
      np.full(prompts, longest), np.full(rows, int(mean_length)), longest + length, config, mesh)
  return PackedBatch(batch, sharding.shapes_on(packing, mesh)), int(packing.num_micro_batches)
