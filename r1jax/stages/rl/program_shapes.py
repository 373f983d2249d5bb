"""The device programs of an iteration of the RL stage, by shapes alone."""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from r1jax.models import compute
from r1jax.records import Batch, PackedBatch
from r1jax.runtime import sharding
from r1jax.stages import evaluate, program_shapes
from r1jax.stages.program_shapes import IterationWork, ProgramShapes, table
from r1jax.stages.rl import programs as rl_programs
from r1jax.training import scalar_head as reward_model
from r1jax.training import train_step


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], Any], *,
    mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout without extra rounds, what scores it, and its updates; see `program_shapes.StageShapes`.

  And the memory of the stage's largest evaluation. Left out is what takes next to no time:
  crediting, taking groups, the reward models' passes. Packed rows are those of completions that
  all have `mean_length` tokens.

  Args:
    config: the stage's.
    mesh: of the devices to compile for.
    shape_of: from the `model` part of a stage to its ModelConfig.
    mean_length: of the completions; 0: all have the greatest length.
  """
  longest, group = config['sampling']['max_new_tokens'], config['group_size']
  mean_length = mean_length or longest
  model = program_shapes.model_of(config['model'], shape_of(config['model']))
  optimizer = train_step.make_optimizer(**config['optimizer'])
  critic_optimizer = train_step.make_optimizer(**config['critic']['optimizer'])
  run = rl_programs.make_programs(
      model, optimizer, critic_optimizer, config, program_shapes.STOP_IDS, lambda: False)
  params = program_shapes.params_of(model, mesh)
  state = program_shapes.state_of(params, optimizer, model.logical_axes, mesh)
  reference = params if config['kl_coefficient'] else None
  critic = None
  if config['advantage'] == 'gae':
    axes = reward_model.scalar_axes(model)
    scalar = jax.eval_shape(lambda params: reward_model.init_scalar(model, params), params)
    scalar = program_shapes.place(scalar, sharding.shardings(mesh, axes, scalar))
    critic = program_shapes.state_of(scalar, critic_optimizer, axes, mesh)

  hosted = config['in_host_memory']
  moments = () if 'optimizer' in hosted else (state.optimizer, critic and critic.optimizer)
  kept = () if 'reference' in hosted else reference
  critic_params = critic and critic.params
  yield from program_shapes.sampling(
      run.sample, model, params, mesh, prompts=config['prompts_per_batch'], group_size=group,
      prompt_length=config['max_prompt_length'], max_new_tokens=longest,
      chunk=config['sampling']['chunk'], mean_length=mean_length,
      beside=(moments, kept, critic_params))

  updates = config['epochs'] * config['mini_batches']
  lengths = ([config['max_prompt_length']] * config['prompts_per_batch'],
             [[int(mean_length)] * group] * config['prompts_per_batch'])
  scored = (updates > 1) + (reference is not None)
  pass_ = compute.scoring(model.config, *lengths).scored
  whole = _batch(config, mesh, config['prompts_per_batch'], updates > 1, reference, critic)
  bare = Batch(*(getattr(whole, name) for name in (
      'prompt_tokens', 'prompt_lengths', 'completion_tokens', 'completion_mask',
      'behaviour_logprobs')))
  given, trips = _packed(config, mesh, bare, mean_length)
  if scored:
    yield ProgramShapes('score', run.score, (params, given), times=scored, useful=scored * pass_,
                  unknown_trips=trips, beside=(moments, reference, critic_params))
  if critic is not None:
    yield ProgramShapes('value', run.value, (critic.params, given), useful=pass_, unknown_trips=trips,
                  beside=(state.params, moments, kept))
  batch, trips = _packed(config, mesh, _batch(
      config, mesh, config['prompts_per_batch'] // config['mini_batches'], updates > 1, reference, critic),
      mean_length)
  normalizers = rl_programs.Normalizers(
      *sharding.shapes_on([program_shapes.scalar()] * len(rl_programs.Normalizers._fields), mesh))
  trained = compute.training(model.config, *lengths, remat=False, times=config['epochs']).trained
  others = () if config['mini_batches'] == 1 else whole
  yield ProgramShapes('update', run.update, (state, batch, normalizers), times=updates, useful=trained,
                unknown_trips=trips, beside=(kept, critic, others))
  if critic is not None:
    yield ProgramShapes('update of the critic', run.update_critic, (critic, batch, normalizers),
                  times=updates, useful=trained, unknown_trips=trips, beside=(state, kept, others))
  yield from evaluate.largest_programs(
      config, mesh, shape_of, params, beside=(state.optimizer, reference, critic))
  return IterationWork(config['prompts_per_batch'] * group * mean_length, updates, -(-config['steps'] // updates))


def _packed(config, mesh, batch: Batch, mean_length: float) -> tuple[Batch | PackedBatch, int]:
  """(a batch as the programs take it, its micro-batches of packed rows or 1)."""
  if not config['packing']['row_length']:
    return batch, 1
  prompts, longest = batch.prompt_tokens.shape
  rows, length = batch.completion_tokens.shape
  packing = rl_programs.pack_lengths(
      np.full(prompts, longest), np.full(rows, int(mean_length)), longest + length, config, mesh)
  return PackedBatch(batch, sharding.shapes_on(packing, mesh)), int(packing.num_micro_batches)


def _batch(config, mesh, prompts: int, old: bool, reference, critic) -> Batch:
  """The placed shapes of a batch of so many prompts, with the fields that its loss reads."""
  rows, length = prompts * config['group_size'], config['sampling']['max_new_tokens']
  ints = lambda *shape: table(mesh, *shape, dtype='int32')
  tokens = table(mesh, rows, length)
  return Batch(
      prompt_tokens=ints(prompts, config['max_prompt_length']), prompt_lengths=ints(prompts),
      completion_tokens=ints(rows, length), completion_mask=tokens, behaviour_logprobs=tokens,
      advantages=(table(mesh, rows) if config['advantage'] in rl_programs.SEQUENCE_ADVANTAGES
                  else tokens),
      old_logprobs=tokens if old else None,
      reference_logprobs=tokens if reference is not None else None,
      old_values=tokens if critic is not None else None,
      returns=tokens if critic is not None else None)
