"""What the `shapes` of a stage are made of: device programs with the shapes of their arguments.

Nothing is loaded or run here. `r1jax.plan` compiles the programs for devices that need not be
attached to this machine.
"""
from collections.abc import Callable, Generator, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.models import PRESETS, Model, ModelConfig, build, compute
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling import rehearsal, sampler
from r1jax.sampling.schedule import MOVED
from r1jax.stages import loading
from r1jax.training import scalar_head, train_step

STOP_IDS = (0,)   # any ids: no shape depends on which tokens end a completion
_REHEARSED = 8    # rollouts of a stream, at most; the others go as these


@dataclasses.dataclass(frozen=True)
class Columns:
  """Cached tokens that a row reads at a step, on average: of its own and of its prompt."""
  own: float
  prompt: float


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
    columns: what attention to a cache reads, where that depends on the data.
    beside: placed shapes of what else is in device memory while it runs.
    followed: whether later programs take what it returns.
  """
  name: str
  function: Callable
  arguments: tuple
  times: float = 1.0
  useful: float = 0.0
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  unknown_trips: float = 1
  columns: Columns | None = None
  beside: Any = ()
  followed: bool = False


@dataclasses.dataclass(frozen=True)
class IterationWork:
  """What an iteration of a stage amounts to.

  Attributes:
    tokens: completion tokens sampled, or tokens of the rows trained on.
    updates: of the optimiser.
    iterations: of the whole stage; 0 where its data decide that.
    useful_row_steps: of the tokens that decoding computes, the share that belongs to completions;
      None where nothing is drawn.
  """
  tokens: float
  updates: int
  iterations: int
  useful_row_steps: float | None = None


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
    prompt_length: int, group_size: int, max_new_tokens: int, mean_length: float, streamed: int = 1,
    beside=(),
) -> Generator[ProgramShapes, Any, float]:
  """The programs of rollouts of `prompts` × `group_size` completions.

  How often each runs is that of a rehearsal with completions as `rehearsal.lognormal_lengths` has
  them. Decoding is compiled for the most rows at a time and for the fewest. What it takes in
  between is nearly linear in the rows, so each of the two stands for a share of the steps.

  Args:
    run: the stage's own sampler, made with the settings that follow.
    model: of the policy.
    params: placed shapes.
    mesh: of the devices to compile for.
    prompts: the number of prompts of a rollout.
    prompt_length: the tokens that each may have.
    group_size: completions of a prompt.
    max_new_tokens: the greatest length of a completion.
    mean_length: of the completions; the greatest length: all have that.
    streamed: rollouts that follow one another through the same slots; `times` are those of one.
    beside: placed shapes of what else is in memory besides `params`.

  Returns:
    The share of the tokens that decoding computes which belongs to completions.
  """
  rehearsed = min(streamed, _REHEARSED)
  lengths = rehearsal.lognormal_lengths(
      rehearsed * prompts * group_size, max_new_tokens, mean_length).reshape(
          rehearsed, prompts, group_size)
  with sharding.use(mesh):
    plan = rehearsal.rehearse(run, lengths)
  times, layout, programs = 1 / rehearsed, plan.layout, run.programs
  of_prompts, whole = (times * compute.sampling(
      model.config, [prompt_length] * rehearsed * prompts, drawn).sampled
      for drawn in (np.zeros((rehearsed * prompts, 1), int), lengths.reshape(-1, group_size)))
  ints = functools.partial(table, mesh, dtype='int32')
  given = Prompts(ints(prompts, prompt_length), ints(prompts), ints(prompts))
  cast = yield ProgramShapes('reshard', programs.reshard, (params,), beside=beside, followed=True)
  if cast is None:
    return plan.useful
  slots = yield ProgramShapes(
      'slots', programs.empty_slots, (cast, given), keywords=dict(layout=layout),
      beside=(params, beside), followed=True)
  if slots is None:
    return plan.useful
  at = ints(layout.shards, layout.prefilled)
  yield ProgramShapes(
      'prefill', programs.prefill, (cast, slots, given, at, at), times=times * plan.prefills,
      useful=of_prompts, beside=(params, beside))
  entering = jax.ShapeDtypeStruct((4, layout.shards, layout.slots), jnp.int32)
  yield ProgramShapes(
      'enter', programs.admit, (slots, entering, scalar('int32')), times=times * plan.admits,
      keywords=dict(layout=layout), beside=(cast, params, beside))
  if plan.moves:
    moves = jax.ShapeDtypeStruct((2, layout.shards, MOVED), jnp.int32)
    yield ProgramShapes('move', programs.move, (slots, moves), times=times * plan.moves,
                        beside=(cast, params, beside))
  for rows, shares in _most_and_fewest(plan.chunks):
    calls, steps, drawn, columns = np.sum([
        np.multiply(share, (one.calls, one.steps, one.drawn, one.steps * one.columns))
        for one, share in zip(plan.chunks, shares)], 0)
    yield ProgramShapes(
        f'decode {rows * layout.shards} rows', programs.decode_chunk,
        (cast, slots, scalar('int32'), scalar('int32')), keywords=dict(num_rows=rows),
        times=times * calls, useful=(whole - of_prompts) * drawn / np.sum(lengths),
        unknown_trips=steps / calls, columns=Columns(columns / steps, prompt_length),
        beside=(params, beside))
  return plan.useful


def _most_and_fewest(chunks: Sequence[rehearsal.Chunks]) -> list[tuple[int, list[float]]]:
  """[(rows, by element of `chunks` the share of its chunks that this number of rows stands for)].

  The rows are the most and the fewest, and the shares those with which the rows are right on
  average.
  """
  most, fewest = chunks[0].rows, chunks[-1].rows
  if most == fewest:
    return [(most, [1.0])]
  shares = [(one.rows - fewest) / (most - fewest) for one in chunks]
  return [(most, shares), (fewest, [1 - share for share in shares])]


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
