"""The rollout engine: each prompt is prefilled once, its G completions are decoded in a loop.

The prompt's cache is shared by its group. A loop on the host runs a donated chunk program, which
stops as soon as every row has finished; before a chunk that needs more room, the cache of the
completions grows to the next bucket. Each bucket is compiled once and reused by every later
iteration.

One random key per row and token, folded from (seed, iteration, example id, sample index, token
index): a row's tokens depend on nothing but its own key and prompt, wherever it is in the batch.
"""
from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checks
from r1jax.models import kv_cache, transformer
from r1jax.models.transformer import Model
from r1jax.records import Prompts, Rollout, pytree_dataclass
from r1jax.runtime import sharding
from r1jax.sampling.draw import Sampling, draw, row_keys


class Interrupted(Exception):
  """A rollout was stopped because the run is to stop; nothing of it is kept."""


@pytree_dataclass
class _Decoding:
  """The state of a rollout between chunks."""
  cache: kv_cache.Cache
  logits: jax.Array        # [N, V] of the next token
  index: jax.Array         # int32: completion tokens drawn so far
  finished: jax.Array      # [N] bool
  lengths: jax.Array       # [N] int32: completion tokens that count
  keys: jax.Array          # [N]
  starts: jax.Array        # [N] int32: prompt lengths
  tokens: jax.Array        # [N, C] int32
  logprobs: jax.Array      # [N, C] float32, of the full distribution
  truncated: jax.Array     # [N, C] float32, of the truncated distribution


class Sampler:
  """sample(params, prompts, iteration) -> Rollout of N = B·group_size rows.

  Args:
    model: a `models.Model`.
    group_size: G, completions per prompt.
    max_new_tokens: C; a row without a stop token by then is cut.
    stop_ids: tokens that end a completion; the one drawn is part of it and of its mask.
    sampling: how tokens are drawn; None: at temperature 1, without truncation.
    compute_dtype: parameters are cast to it, and resharded, once per rollout.
    seed: of the run; with the iteration, example id, sample and token index it makes the keys.
    chunk: tokens that a device program draws before the host looks again; cache buckets are
      multiples of it.
    rollout_sharding: how this copy of the parameters lies on the ambient mesh. 'train': as in
      training; a layer's weights are gathered at every token. 'tensor': whole except for tensor and
      expert axes, as in `sharding.ROLLOUT_RULES`; rows are also split along the context axis.
    should_stop: called between chunks; if it returns True, `Interrupted` is raised.

  Attributes:
    reshard: params -> params, cast and placed for decoding; a jitted program, like the next three.
    prefill: (resharded params, Prompts, iteration) -> state.
    room: makes an array of the cache larger, as `kv_cache.suffix_room`.
    decode_chunk: (resharded params, donated state, end) -> (state, whether all have finished).

  Raises:
    ValueError: for a group, length or chunk below 1, no stop id, or an unknown rollout_sharding.
  """

  def __init__(
      self, model: Model, *, group_size: int, max_new_tokens: int, stop_ids: tuple[int, ...],
      sampling: Sampling | None = None, compute_dtype: str = 'float32', seed: int = 0,
      chunk: int = 32, rollout_sharding: str = 'train',
      should_stop: Callable[[], bool] = lambda: False):
    checks.at_least(1, group_size=group_size, max_new_tokens=max_new_tokens, chunk=chunk)
    if not stop_ids:
      raise ValueError('stop_ids must have at least 1 token, got none')
    checks.word(sharding.ROLLOUT_SHARDINGS, rollout_sharding=rollout_sharding)
    self._model, self._sampling, self._seed = model, sampling or Sampling(), seed
    self._group_size, self._max_new_tokens, self._chunk = group_size, max_new_tokens, chunk
    self._stop_tokens = np.asarray(stop_ids, np.int32)   # on the host: to compile reads constants
    self._compute_dtype, self._rollout_sharding = compute_dtype, rollout_sharding
    self._should_stop = should_stop
    self.reshard = self._program(self._reshard)
    self.prefill = self._program(self._prefill)
    self.room = self._program(
        kv_cache.suffix_room, static_argnames=('field', 'num_rows', 'size'))
    self.decode_chunk = self._program(self._decode_chunk, donate_argnames='state')
    self._finish = jax.jit(self._to_rollout)

  def __call__(self, params, prompts: Prompts, iteration: int) -> Rollout:
    """Samples a rollout with these parameters, which are not changed.

    Raises:
      Interrupted: `should_stop` returned True.
    """
    params = self.reshard(params)
    state = self.prefill(params, prompts, jnp.int32(iteration))
    for begin in range(0, self._max_new_tokens, self._chunk):
      if self._should_stop():
        raise Interrupted('the rollout was interrupted between two chunks')
      end = min(begin + self._chunk, self._max_new_tokens)
      cache = kv_cache.with_suffix(state.cache, state.finished.shape[0], end, self._grow)
      state = dataclasses.replace(state, cache=cache)
      state, done = self.decode_chunk(params, state, jnp.int32(end))
      if end < self._max_new_tokens and sharding.to_host(done):
        break
    return self._finish(prompts, state)

  def _program(self, function: Callable, **options):
    """The function jitted; it is traced under the rules of this rollout's sharding."""
    @functools.wraps(function)
    def traced(*args, **keywords):
      with sharding.rules(sharding.ROLLOUT_SHARDINGS[self._rollout_sharding]):
        return function(*args, **keywords)
    return jax.jit(traced, **options)

  def _grow(self, old: jax.Array | None, prefix: jax.Array, **shape) -> jax.Array:
    """As `room`; deletes the old array before the next one grows: never two whole caches."""
    new = self.room(old, prefix, **shape)
    if old is not None:
      old.delete()
    return new

  def _reshard(self, params):
    return transformer.for_decoding(params, self._compute_dtype, self._model.logical_axes)

  def _prefill(self, params, prompts: Prompts, iteration) -> _Decoding:
    prompts = sharding.constrain_rows(prompts)
    positions, segments = transformer.prompt_segments(prompts.tokens, prompts.lengths)
    hidden, new_kv, _ = self._model.apply(
        params, prompts.tokens, positions=positions, segment_ids=segments)
    last = jnp.take_along_axis(hidden, prompts.lengths[:, None, None] - 1, 1)[:, 0]
    logits = jnp.repeat(self._model.unembed(params, last), self._group_size, 0)
    n = logits.shape[0]
    shape = n, self._max_new_tokens
    return _Decoding(
        cache=kv_cache.as_prefix(new_kv, prompts.lengths),
        logits=sharding.constrain(logits, 'batch', None), index=jnp.int32(0),
        finished=jnp.zeros(n, bool), lengths=jnp.zeros(n, jnp.int32),
        keys=row_keys(self._seed, iteration, prompts.example_ids, self._group_size),
        starts=jnp.repeat(prompts.lengths, self._group_size), tokens=jnp.zeros(shape, jnp.int32),
        logprobs=jnp.zeros(shape, jnp.float32), truncated=jnp.zeros(shape, jnp.float32))

  def _decode_chunk(self, params, state: _Decoding, end) -> tuple[_Decoding, jax.Array]:
    def is_decoding(state: _Decoding):
      return (state.index < end) & ~jnp.all(state.finished)

    state = jax.lax.while_loop(is_decoding, functools.partial(self._step, params), state)
    return state, jnp.all(state.finished)

  def _step(self, params, state: _Decoding) -> _Decoding:
    """Draws one token per row and computes the logits of the next one."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.index)
    tokens, full, truncated = draw(keys, state.logits, self._sampling)
    hidden, new_kv, _ = self._model.apply(
        params, tokens[:, None], positions=(state.starts + state.index)[:, None],
        segment_ids=jnp.ones_like(tokens)[:, None], cache=state.cache)

    def write(table, column):
      return jax.lax.dynamic_update_slice_in_dim(table, column[:, None], state.index, 1)

    return dataclasses.replace(
        state, cache=kv_cache.append(state.cache, new_kv),
        logits=sharding.constrain(self._model.unembed(params, hidden[:, 0]), 'batch', None),
        index=state.index + 1,
        finished=state.finished | jnp.isin(tokens, self._stop_tokens),
        lengths=state.lengths + jnp.where(state.finished, 0, 1),
        tokens=write(state.tokens, tokens), logprobs=write(state.logprobs, full),
        truncated=write(state.truncated, truncated))

  def _to_rollout(self, prompts: Prompts, state: _Decoding) -> Rollout:
    mask = jnp.arange(self._max_new_tokens) < state.lengths[:, None]
    return Rollout(prompts, state.tokens, mask.astype(jnp.float32), state.logprobs,
                   state.truncated, state.finished)
