"""The device programs of the other stages, by shapes alone: updates on rows, rollouts to judge."""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from r1jax import compute, reward_model, sharding, train_step
from r1jax.sampler import Sampler
from r1jax.stages import abstract, common, supervised
from r1jax.stages.abstract import Program, Work, table


def packed_update(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, loss: Callable,
    after: Callable | None,
) -> abstract.Programs:
  """The update of a stage that trains on packed rows, all of them full."""
  rows, length = config['rows'], config['row_length']
  ints = table(mesh, rows, length, dtype='int32')
  yield _update(config, mesh, abstract.params_of(model, mesh), model.logical_axes, loss, after,
                (ints, ints, ints, table(mesh, rows, length)), compute.training_rows(
                    model.config, np.ones((rows, length), int), remat=False).trained)
  return Work(rows * length, 1, config['last_step'])


def reward_update(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, loss: Callable, encoded: type,
) -> abstract.Programs:
  """The update of a reward model on the longest examples, an eighth of which is the prompt."""
  rows, size = config['rows'], 2 if config['objective'] == 'helpfulness' else 1
  prompt = config['max_tokens'] // 8
  length = config['max_tokens'] - prompt
  ints = lambda *shape: table(mesh, *shape, dtype='int32')
  batch = (encoded(ints(rows, prompt), ints(rows), ints(rows, size, length),
                   table(mesh, rows, size, length)), table(mesh, rows), table(mesh, rows))
  axes, params = reward_model.scalar_axes(model), abstract.params_of(model, mesh)
  params = jax.eval_shape(lambda params: reward_model.init_scalar(model, params), params)
  params = abstract.place(params, sharding.shardings(mesh, axes, params))
  useful = compute.training(model.config, [prompt] * rows, [[length] * size] * rows, remat=False)
  yield _update(config, mesh, params, axes, loss, None, batch, useful.trained)
  return Work(rows * (prompt + size * length), 1, 0)


def _update(config, mesh, params, logical_axes, loss, after, batch, useful) -> Program:
  optimizer = train_step.make_optimizer(**config['optimizer'])
  state = abstract.state_of(params, optimizer, logical_axes, mesh)
  normalizer = sharding.abstract(abstract.scalar(), mesh)
  return Program('update', supervised.make_update(config, loss, optimizer, after),
                 (state, batch, normalizer), useful=useful)


def drawing(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, model, sample: Sampler, mean_length: float,
) -> abstract.Programs:
  """The rollout by which a stage draws `samples` completions of its problems."""
  prompts, settings = common.prompts_at_a_time(config, mesh), config['sampling']
  mean_length = mean_length or settings['max_new_tokens']
  yield from abstract.sampling(
      sample, model, abstract.params_of(model, mesh), mesh, prompts=prompts,
      prompt_length=config['max_prompt_length'], group_size=config['samples'],
      max_new_tokens=settings['max_new_tokens'], chunk=settings['chunk'], mean_length=mean_length)
  return Work(prompts * config['samples'] * mean_length, 0, -(-config['problems'] // prompts))


def changed(change: Callable[[Program], Program], programs: abstract.Programs) -> abstract.Programs:
  """The same programs, each as `change` makes it."""
  answer = None
  while True:
    try:
      program = programs.send(answer)
    except StopIteration as end:
      return end.value
    answer = yield change(program)
