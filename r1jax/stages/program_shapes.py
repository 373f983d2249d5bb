"""What a stage's `programs` are made of: device programs with the shapes of their arguments.

Nothing is loaded, made or run here; `r1jax.plan` compiles the programs for devices that need not be
at hand.
"""
from collections.abc import Callable, Generator, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models import PRESETS, Model, ModelConfig, attention, build, compute, gguf, kv_cache
from r1jax.models.hf_config import read_config
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.sampling import sampler
from r1jax.stages import loading
from r1jax.training import train_step

STOP_IDS = (0,)   # any will do: which ids end a completion changes no program's shape


@dataclasses.dataclass(frozen=True)
class ProgramShapes:
  """A device program of a stage, as it would be called."""
  name: str
  function: Callable               # jitted
  arguments: tuple                 # placed shapes
  times: float = 1.0               # how often an iteration of the stage runs it
  useful: float = 0.0              # operations of an iteration by `compute`, of all its runs
  keywords: Mapping[str, Any] = dataclasses.field(default_factory=dict)   # static ones
  unknown_trips: int = 1           # of a loop whose trips the data decide
  beside: Any = ()                 # placed shapes of what lies in memory besides its arguments
  followed: bool = False           # by programs that take what it returns


@dataclasses.dataclass(frozen=True)
class IterationWork:
  """What an iteration of a stage comes to."""
  tokens: float                    # completion tokens drawn, or tokens of rows trained on
  updates: int                     # of the optimiser
  iterations: int                  # of the whole stage; 0 where its data decide that


# What a stage's `programs` is: it yields StageShapes, is sent what those that are followed return
# (placed shapes; None where it does not fit), and returns the IterationWork of an iteration.
StageShapes = Generator[ProgramShapes, Any, IterationWork]


@functools.lru_cache
def find_shape(source: str, preset: str, where: str) -> ModelConfig:
  """The shape of the model at `source` if that is at hand, else that of the preset.

  Raises:
    ValueError: there is neither.
  """
  try:
    path = loading.find_model(source, {}) if source != loading.RANDOM else ''
  except FileNotFoundError:
    path = ''
  if not path:
    if not preset:
      raise ValueError(
          f'{where}.source={source!r} is not at hand and {where}.preset is empty: name the preset '
          f'of its shape ({", ".join(PRESETS)}), or a folder that is there') from None
    return PRESETS[preset]
  return gguf.read_config(path) if path.endswith('.gguf') else read_config(Path(path))


def place(shapes, placed):
  """Shapes with where they lie; `placed` is a tree like them."""
  return jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, placed)


def params_of(model: Model, mesh: jax.sharding.Mesh):
  """The placed shapes of a model's parameters."""
  shapes = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)))
  return place(shapes, sharding.shardings(mesh, model.logical_axes, shapes))


def state_of(params, optimizer, logical_axes, mesh: jax.sharding.Mesh):
  """The placed shapes of a TrainState on parameters of these shapes."""
  shapes = jax.eval_shape(functools.partial(train_step.init_state, optimizer=optimizer), params)
  return place(shapes, train_step.state_shardings(mesh, logical_axes, shapes))


def table(mesh: jax.sharding.Mesh, *shape: int, dtype: str = 'float32'):
  """The placed shape of an array of a batch."""
  return sharding.shapes_on(jax.ShapeDtypeStruct(shape, dtype), mesh, batch=True)


def model_of(settings: Mapping[str, Any], shape: ModelConfig) -> Model:
  """The model of this shape, by the `model` part of a stage."""
  return build(shape, compute_dtype=settings['compute_dtype'], remat=settings['remat'])


def sampling(
    run: sampler.Sampler, model: Model, params, mesh: jax.sharding.Mesh, *, prompts: int,
    prompt_length: int, group_size: int, max_new_tokens: int, chunk: int, mean_length: float,
    beside=(),
) -> Generator[ProgramShapes, Any, None]:
  """The programs of one rollout of `prompts` × `group_size` completions of the greatest length.

  Chunks of decoding are compiled with the smallest cache and with the largest; as their time grows
  with the cache, each stands for half of all chunks.

  Args:
    run: the stage's own sampler, with the settings that are repeated here.
    params: placed shapes.
    mean_length: of the completions, for what is useful; the programs run to the greatest length.
    beside: what lies in memory besides `params`.
  """
  rows, chunks = prompts * group_size, -(-max_new_tokens // chunk)
  whole = compute.sampling(model.config, [prompt_length] * prompts,
                           [[int(mean_length)] * group_size] * prompts).sampled
  of_prompts = compute.sampling(model.config, [prompt_length] * prompts, [[0]] * prompts).sampled
  ints = lambda *shape: table(mesh, *shape, dtype='int32')
  cast = yield ProgramShapes('reshard', run.reshard, (params,), beside=beside, followed=True)
  if cast is None:
    return
  state = yield ProgramShapes(
      'prefill', run.prefill, (cast, Prompts(
          ints(prompts, prompt_length), ints(prompts), ints(prompts)), scalar('int32')),
      useful=of_prompts, beside=(params, beside), followed=True)
  if state is None:
    return
  cache = state.cache
  sizes = {'first': min(chunk, max_new_tokens), 'last': max_new_tokens}
  for place_, size in list(sizes.items())[:chunks]:
    if place_ == 'last':   # it takes the place of the cache of all chunks but this one
      room = jax.eval_shape(lambda: kv_cache.with_suffix(
          dataclasses.replace(cache, suffix=None), rows, (chunks - 1) * chunk)).suffix
      cache = dataclasses.replace(cache, suffix=place(
          room, jax.tree.map(lambda x: x.sharding, cache.suffix)))
    cache = yield from _grow(
        run, cache, rows, size, f'cache, {place_} chunk', chunks / min(2, chunks),
        (params, cast, dataclasses.replace(state, cache=()), beside))
    if cache is None:
      return
    yield ProgramShapes(
        f'decode, {place_} chunk', run.decode_chunk,
        (cast, dataclasses.replace(state, cache=cache), scalar('int32')),
        times=chunks / min(2, chunks), useful=(whole - of_prompts) / min(2, chunks),
        unknown_trips=min(chunk, max_new_tokens), beside=(params, beside))


def _grow(
    run: sampler.Sampler, cache, rows: int, size: int, name: str, times: float, beside,
) -> Generator[ProgramShapes, Any, Any]:
  """The programs that make a cache larger, an array after the other, and the cache they make."""
  suffix = cache.suffix or tuple(attention.KeyValue(None, None) for _ in cache.prefix)
  for i, like in enumerate(cache.prefix):
    for field in kv_cache.SUFFIX_AXES:
      old = getattr(suffix[i], field)
      others = (cache.prefix, suffix[:i], suffix[i + 1:],
                dataclasses.replace(suffix[i], **{field: None}))
      of_stack = f' {i}' if len(suffix) > 1 else ''
      new = yield ProgramShapes(
          f'{name}: {field}{of_stack}', run.room, (old, getattr(like, field)), times=times,
          keywords=dict(field=field, num_rows=rows, size=size), beside=(others, beside),
          followed=True)
      if new is None:
        return None
      suffix = (*suffix[:i], dataclasses.replace(suffix[i], **{field: new}), *suffix[i + 1:])
  return dataclasses.replace(cache, suffix=suffix, length=scalar('int32'))


def scalar(dtype: str = 'float32') -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((), dtype)


def bytes_on_a_device(tree) -> float:
  """Of placed shapes, those without a place lying whole on every device."""
  def one(x):
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * (8 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else
                               x.dtype.itemsize)
  return float(sum(map(one, jax.tree.leaves(tree))))
