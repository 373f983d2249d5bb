"""What the `shapes` of a stage are made of: device programs with the shapes of their arguments.

Nothing is loaded or run here. `r1jax.plan` compiles the programs for devices that need not be
attached to this machine.
"""
from collections.abc import Callable, Generator, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models import PRESETS, Model, ModelConfig, build, compute
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling import sampler
from r1jax.stages import loading
from r1jax.training import scalar_head, train_step

STOP_IDS = (0,)   # any ids: no shape depends on which tokens end a completion


@dataclasses.dataclass(frozen=True)
class ProgramShapes:
  """A device program of a stage, with the shapes of its arguments.

  Attributes:
    name: what the plan calls it.
    function: the jitted function.
    arguments: trees of placed shapes (`jax.ShapeDtypeStruct` with a sharding).
    times: how often an iteration of the stage runs it.
    useful: the floating-point operations of all its runs in an iteration, as in `models.compute`.
    keywords: its static arguments.
    unknown_trips: the number of trips of its loop whose length depends on the data.
    beside: placed shapes of what else is in device memory while it runs.
    followed: whether later programs take what it returns.
  """
  name: str
  function: Callable
  arguments: tuple
  times: float = 1.0
  useful: float = 0.0
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  unknown_trips: int = 1
  beside: Any = ()
  followed: bool = False


@dataclasses.dataclass(frozen=True)
class IterationWork:
  """What an iteration of a stage amounts to.

  Attributes:
    tokens: completion tokens sampled, or tokens of the rows trained on.
    updates: of the optimiser.
    iterations: of the whole stage; 0 where its data decide that.
  """
  tokens: float
  updates: int
  iterations: int


# What `shapes` of a stage returns. It yields programs; after each that is `followed` it is sent
# the placed shapes of what that program returns, or None if the program does not fit into memory.
# It returns what an iteration amounts to.
StageShapes = Generator[ProgramShapes, Any, IterationWork]


def changed(change: Callable[[ProgramShapes], ProgramShapes], shapes: StageShapes) -> StageShapes:
  """The same generator, with each of its programs as `change` returns it."""
  answer = None
  while True:
    try:
      program = shapes.send(answer)
    except StopIteration as end:
      return end.value
    answer = yield change(program)


@functools.lru_cache
def find_shape(source: str, preset: str, where: str) -> ModelConfig:
  """The shape of the model at `source` if it is there, else that of the preset.

  Raises:
    UserError: there is neither.
  """
  try:
    path = loading.find_model(source, {}) if source != loading.RANDOM else ''
  except FileNotFoundError:
    path = ''
  if not path:
    if not preset:
      raise UserError(
          f'{where}.source={source!r} is not on this machine and {where}.preset is empty: set '
          f'preset to the shape of the model ({", ".join(PRESETS)}), or source to a folder that '
          'exists') from None
    return PRESETS[preset]
  return loading.read_config(path)


def place(shapes, placed):
  """Shapes with shardings; `placed` is a tree of shardings of the same structure."""
  return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed)


def params_of(model: Model, mesh: jax.sharding.Mesh):
  """The placed shapes of a model's parameters."""
  shapes = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))
  return place(shapes, sharding.shardings(mesh, model.logical_axes, shapes))


def scalar_params_of(model: Model, params, mesh: jax.sharding.Mesh):
  """The placed shapes of a reward model or critic on a model with these placed shapes."""
  shapes = jax.eval_shape(functools.partial(scalar_head.init_scalar, model), params)
  return place(shapes, sharding.shardings(mesh, scalar_head.scalar_axes(model), shapes))


def state_of(params, optimizer, logical_axes, mesh: jax.sharding.Mesh):
  """The placed shapes of a TrainState on parameters of these shapes."""
  shapes = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  return place(shapes, train_step.state_shardings(mesh, logical_axes, shapes))


def table(mesh: jax.sharding.Mesh, *shape: int, dtype: str = 'float32') -> Any:
  """A `jax.ShapeDtypeStruct` in place of an array of a batch, its rows split over the devices."""
  return sharding.shapes_on(jax.ShapeDtypeStruct(shape, dtype), mesh, batch=True)


def model_of(settings: Mapping[str, Any], shape: ModelConfig) -> Model:
  """A model of this shape, with the settings of the `model` part of a stage."""
  return build(shape, compute_dtype=settings['compute_dtype'], remat=settings['remat'])


def sampling(
    run: sampler.Sampler, model: Model, params, mesh: jax.sharding.Mesh, *, prompts: int,
    prompt_length: int, group_size: int, max_new_tokens: int, chunk: int, mean_length: float,
    beside=(),
) -> Generator[ProgramShapes, Any, None]:
  """The programs of one rollout of `prompts` × `group_size` completions of the greatest length.

  Args:
    run: the stage's own sampler, made with the settings that follow.
    model: of the policy.
    params: placed shapes.
    mesh: of the devices to compile for.
    prompts: the number of prompts.
    prompt_length: the tokens that each may have.
    group_size: completions of a prompt.
    max_new_tokens: the greatest length of a completion.
    chunk: tokens decoded between two looks of the host.
    mean_length: of the completions. It decides how many operations are useful; the programs run
      to the greatest length.
    beside: placed shapes of what else is in memory besides `params`.
  """
  whole = compute.sampling(model.config, [prompt_length] * prompts,
                           [[int(mean_length)] * group_size] * prompts).sampled
  of_prompts = compute.sampling(model.config, [prompt_length] * prompts, [[0]] * prompts).sampled
  ints = functools.partial(table, mesh, dtype='int32')
  programs = run.programs
  cast = yield ProgramShapes('reshard', programs.reshard, (params,), beside=beside, followed=True)
  if cast is None:
    return
  layout, given = run.layout(prompts), Prompts(
      ints(prompts, prompt_length), ints(prompts), ints(prompts))
  slots = yield ProgramShapes(
      'slots', programs.empty_slots, (cast, given), beside=(params, beside),
      keywords=dict(layout=layout), followed=True)
  if slots is None:
    return
  times = -(-layout.prompts // layout.prefilled)
  at = ints(layout.shards, layout.prefilled)
  slots = yield ProgramShapes(
      'prefill', programs.prefill, (cast, slots, given, at, at), times=times, useful=of_prompts,
      beside=(params, beside), followed=True)
  if slots is None:
    return
  chunks = -(-max_new_tokens // chunk) * -(-layout.rows // layout.slots)
  yield ProgramShapes(
      'decode', programs.decode_chunk, (cast, slots, scalar('int32'), scalar('int32')),
      keywords=dict(num_rows=layout.slots), times=chunks, useful=whole - of_prompts,
      unknown_trips=min(chunk, max_new_tokens), beside=(params, beside))


def scalar(dtype: str = 'float32') -> jax.ShapeDtypeStruct:
  """The shape of a scalar."""
  return jax.ShapeDtypeStruct((), dtype)


def bytes_on_a_device(tree) -> float:
  """The bytes of placed shapes on one device; those without a sharding count in full."""
  def one(x):
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * (8 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else
                               x.dtype.itemsize)
  return float(sum(map(one, jax.tree.leaves(tree))))
