"""The device programs of the other stages, by shapes alone: updates on rows, rollouts to judge."""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from r1jax.models import compute
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import datasets, program_shapes, supervised
from r1jax.stages.program_shapes import IterationWork, ProgramShapes, table
from r1jax.training import scalar_head as reward_model
from r1jax.training import train_step


def packed_update(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, loss: Callable,
    after: Callable | None,
) -> program_shapes.StageShapes:
  """The update of a stage that trains on packed rows, all of them full."""
  rows, length = config['rows'], config['row_length']
  ints = table(mesh, rows, length, dtype='int32')
  yield _update(config, mesh, program_shapes.params_of(model, mesh), model.logical_axes, loss, after,
                (ints, ints, ints, table(mesh, rows, length)), compute.training_rows(
                    model.config, np.ones((rows, length), int), remat=False).trained)
  return IterationWork(rows * length, 1, config['last_step'])


def reward_update(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, loss: Callable, encoded: type,
) -> program_shapes.StageShapes:
  """The update of a reward model on the longest examples, an eighth of which is the prompt."""
  rows, size = config['rows'], 2 if config['objective'] == 'helpfulness' else 1
  prompt = config['max_tokens'] // 8
  length = config['max_tokens'] - prompt
  ints = lambda *shape: table(mesh, *shape, dtype='int32')
  batch = (encoded(ints(rows, prompt), ints(rows), ints(rows, size, length),
                   table(mesh, rows, size, length)), table(mesh, rows), table(mesh, rows))
  axes, params = reward_model.scalar_axes(model), program_shapes.params_of(model, mesh)
  params = jax.eval_shape(lambda params: reward_model.init_scalar(model, params), params)
  params = program_shapes.place(params, sharding.shardings(mesh, axes, params))
  useful = compute.training(model.config, [prompt] * rows, [[length] * size] * rows, remat=False)
  yield _update(config, mesh, params, axes, loss, None, batch, useful.trained)
  return IterationWork(rows * (prompt + size * length), 1, 0)


def _update(config, mesh, params, logical_axes, loss, after, batch, useful) -> ProgramShapes:
  optimizer = train_step.make_optimizer(**config['optimizer'])
  state = program_shapes.state_of(params, optimizer, logical_axes, mesh)
  normalizer = sharding.shapes_on(program_shapes.scalar(), mesh)
  return ProgramShapes('update', supervised.make_update(config, loss, optimizer, after),
                 (state, batch, normalizer), useful=useful)


def drawing(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, sample: Sampler, mean_length: float,
) -> program_shapes.StageShapes:
  """The rollout by which a stage draws `completions_per_problem` completions of its problems."""
  prompts, settings = datasets.prompts_at_a_time(config, mesh), config['sampling']
  mean_length = mean_length or settings['max_new_tokens']
  yield from program_shapes.sampling(
      sample, model, program_shapes.params_of(model, mesh), mesh, prompts=prompts,
      prompt_length=config['max_prompt_length'], group_size=config['completions_per_problem'],
      max_new_tokens=settings['max_new_tokens'], chunk=settings['chunk'], mean_length=mean_length)
  return IterationWork(prompts * config['completions_per_problem'] * mean_length, 0, -(-config['problems'] // prompts))


def changed(change: Callable[[ProgramShapes], ProgramShapes], programs: program_shapes.StageShapes) -> program_shapes.StageShapes:
  """The same programs, each as `change` makes it."""
  answer = None
  while True:
    try:
      program = programs.send(answer)
    except StopIteration as end:
      return end.value
    answer = yield change(program)
