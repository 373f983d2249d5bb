"""Group rollouts: each prompt is prefilled once, its G completions are decoded in a scan loop.

The prompt's cache is shared by its group. A host loop runs a donated chunk program, whose loop
stops as soon as every row has finished; before a chunk that needs more room the completions' cache
grows to the next bucket. Each bucket is compiled once and serves every later iteration.

One random key per row and token, folded from (seed, iteration, example id, sample index, token
index): a row's tokens depend on nothing but its own key and prompt, wherever it stands.
"""
import dataclasses
import functools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import kv_cache, transformer
from r1jax.models.transformer import Model
from r1jax.records import Prompts, Rollout, pytree_dataclass
from r1jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn.

  Attributes:
    temperature: divides the logits; 0 is greedy, whose log-probabilities are those at 1.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens until their mass reaches top_p (at least one); 1 keeps all.
    min_p: keep tokens at least min_p times as likely as the likeliest; 0 keeps all.
  """
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0

  def __post_init__(self):
    for name, value, low, high in (('temperature', self.temperature, 0, float('inf')),
                                   ('top_k', self.top_k, 0, float('inf')),
                                   ('top_p', self.top_p, 0, 1), ('min_p', self.min_p, 0, 1)):
      if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f'sampling: {name}={value!r} is out of range: use {low} to {high}')
    if self.top_p == 0:
      raise ValueError('sampling: top_p=0 keeps no token: use 1 for no truncation')

  @property
  def truncates(self) -> bool:
    return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def truncate(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Logits [..., V] with -inf where top-k, top-p or min-p leave a token out.

  The filters apply in this order, each to what the one before it left, as in transformers. Tokens
  that tie with the last one kept by top-k are kept too.
  """
  if sampling.top_k > 0:
    k = min(sampling.top_k, logits.shape[-1])
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.top_p < 1:
    descending = -jnp.sort(-logits, -1)
    probabilities = jax.nn.softmax(descending, -1)
    before = jnp.cumsum(probabilities, -1) - probabilities      # the mass of likelier tokens
    least = jnp.min(jnp.where(before < sampling.top_p, descending, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.min_p > 0:
    least = jnp.max(logits, -1, keepdims=True) + jnp.log(sampling.min_p)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits


def draw(keys: jax.Array, logits: jax.Array, sampling: Sampling):
  """One token a row.

  Args:
    keys: [N] typed random keys.
    logits: [N, V] float32, before the temperature.
    sampling: static.

  Returns:
    (tokens [N] int32, full log-probabilities [N], truncated log-probabilities [N]).
  """
  logits = logits / (sampling.temperature or 1.0)
  normalizer = jax.nn.logsumexp(logits, -1)
  kept = truncate(logits, sampling) if sampling.truncates else logits
  if sampling.temperature == 0:
    tokens = jnp.argmax(kept, -1)
  else:
    tokens = _inverse_cdf(keys, kept)
  pick = lambda x: jnp.take_along_axis(x, tokens[:, None], -1)[:, 0]
  full = pick(logits) - normalizer
  truncated = pick(kept) - jax.nn.logsumexp(kept, -1) if sampling.truncates else full
  return tokens.astype(jnp.int32), full, truncated


def _inverse_cdf(keys, logits, block=128):
  """The token at which the cumulated mass passes a uniform number: one random number a row.

  Mass is summed in blocks first, so that float32 sums stay short however large the vocabulary.
  """
  n, vocab = logits.shape
  mass = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
  mass = jnp.pad(mass, ((0, 0), (0, -vocab % block))).reshape(n, -1, block)
  by_block = jnp.sum(mass, -1)
  cumulated = jnp.cumsum(by_block, -1)
  uniform = jax.vmap(lambda key: jax.random.uniform(key))(keys)
  wanted = uniform * cumulated[:, -1]
  chosen = _first_passing(by_block, cumulated, wanted)
  before = jnp.take_along_axis(cumulated - by_block, chosen[:, None], -1)[:, 0]
  inside = jnp.take_along_axis(mass, chosen[:, None, None], 1)[:, 0]
  return chosen * block + _first_passing(inside, jnp.cumsum(inside, -1), wanted - before)


def _first_passing(mass, cumulated, wanted):
  """The first place of [N, places] with any mass where `cumulated` is above `wanted` [N].

  Cumulated sums are rounded, and need not even rise: a place without mass is never taken, and
  where none passes it is the last one with mass.
  """
  passed = (cumulated > wanted[:, None]) & (mass > 0)
  last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, -1)
  return jnp.where(jnp.any(passed, -1), jnp.argmax(passed, -1), last)


def row_keys(seed: int, iteration: jax.Array, example_ids: jax.Array, group_size: int) -> jax.Array:
  """Keys [B·G] from (seed, iteration, example id, sample index)."""
  key = jax.random.fold_in(jax.random.key(seed), iteration)
  by_example = jax.vmap(jax.random.fold_in, (None, 0))(key, example_ids)
  by_sample = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  return by_sample(by_example, jnp.arange(group_size)).reshape(-1)


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
  tokens: jax.Array        # [N, C]
  logprobs: jax.Array      # [N, C] full
  truncated: jax.Array     # [N, C] truncated


class Sampler(NamedTuple):
  """sample(params, prompts, iteration) -> Rollout, and the device programs that it runs."""
  sample: Callable
  reshard: Callable        # params -> params, cast and placed for decoding
  prefill: Callable        # (resharded params, Prompts, iteration) -> state
  room: Callable           # an array of the cache, as of `kv_cache.suffix_room`, made larger
  decode_chunk: Callable   # (resharded params, donated state, end) -> (state, all have finished)

  def __call__(self, params, prompts: Prompts, iteration) -> Rollout:
    return self.sample(params, prompts, iteration)


def make_sampler(
    model: Model, *, group_size: int, max_new_tokens: int, stop_ids: tuple[int, ...],
    sampling: Sampling = Sampling(), compute_dtype: str = 'float32', seed: int = 0,
    chunk: int = 32, rollout_sharding: str = 'train', should_stop: Callable[[], bool] = lambda: False,
) -> Sampler:
  """sample(params, prompts, iteration) -> Rollout of N = B·group_size rows.

  Args:
    model: a `models.Model`.
    group_size: G, completions a prompt.
    max_new_tokens: C; a row that has drawn no stop token by then is cut.
    stop_ids: tokens that end a completion; the one drawn is part of it and of its mask.
    sampling: how tokens are drawn.
    compute_dtype: parameters are cast to it once a rollout, and placed.
    rollout_sharding: how this copy of the parameters lies on the ambient mesh. 'train': as they lie; a
      layer's weights are gathered at every token. 'tensor': whole but for tensor and expert axes,
      as `sharding.ROLLOUT_RULES` say; rows also lie along the context axis.
    seed: of the run; with the iteration, example id, sample and token index it makes the keys.
    chunk: tokens a device program draws before the host looks again; cache buckets are multiples.
    should_stop: asked between chunks; True raises `Interrupted`.

  Raises:
    ValueError: for a group, length or chunk under 1, no stop id, or another rollout_sharding.
  """
  for name, value in (('group_size', group_size), ('max_new_tokens', max_new_tokens),
                      ('chunk', chunk), ('the number of stop_ids', len(stop_ids))):
    if value < 1:
      raise ValueError(f'sampler: {name} is {value}: use at least 1')
  if rollout_sharding not in sharding.ROLLOUT_SHARDINGS:
    raise ValueError(f'sampler: rollout_sharding={rollout_sharding!r} is unknown: use one of '
                     f'{", ".join(sharding.ROLLOUT_SHARDINGS)}')

  def by_placement(program):
    """The program, traced by the rollout_sharding's table."""
    @functools.wraps(program)
    def traced(*args, **keywords):
      with sharding.rules(sharding.ROLLOUT_SHARDINGS[rollout_sharding]):
        return program(*args, **keywords)
    return traced

  stop_tokens = np.asarray(stop_ids, np.int32)   # of the host: to compile reads constants

  @jax.jit
  @by_placement
  def reshard(params):
    """The copy for this rollout; the parameters themselves are still to be trained."""
    return transformer.for_decoding(params, compute_dtype, model.logical_axes)

  @jax.jit
  @by_placement
  def prefill(params, prompts: Prompts, iteration) -> _Decoding:
    prompts = sharding.constrain_rows(prompts)
    positions, segments = transformer.prompt_segments(prompts.tokens, prompts.lengths)
    hidden, new_kv, _ = model.apply(
        params, prompts.tokens, positions=positions, segment_ids=segments)
    last = jnp.take_along_axis(hidden, prompts.lengths[:, None, None] - 1, 1)[:, 0]
    logits = jnp.repeat(model.unembed(params, last), group_size, 0)
    n = logits.shape[0]
    record_of = lambda dtype: jnp.zeros((n, max_new_tokens), dtype)
    return _Decoding(
        cache=kv_cache.as_prefix(new_kv, prompts.lengths),
        logits=sharding.constrain(logits, 'batch', None), index=jnp.int32(0),
        finished=jnp.zeros(n, bool), lengths=jnp.zeros(n, jnp.int32),
        keys=row_keys(seed, iteration, prompts.example_ids, group_size),
        starts=jnp.repeat(prompts.lengths, group_size), tokens=record_of(jnp.int32),
        logprobs=record_of(jnp.float32), truncated=record_of(jnp.float32))

  room = jax.jit(by_placement(kv_cache.suffix_room),
                 static_argnames=('field', 'num_rows', 'size'))

  def grow(old: jax.Array | None, prefix: jax.Array, **shape) -> jax.Array:
    """As `room`; the old array goes before the next one is made, so never two whole caches."""
    new = room(old, prefix, **shape)
    if old is not None:
      old.delete()
    return new

  def step(params, state: _Decoding) -> _Decoding:
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.index)
    tokens, full, truncated = draw(keys, state.logits, sampling)
    hidden, new_kv, _ = model.apply(
        params, tokens[:, None], positions=(state.starts + state.index)[:, None],
        segment_ids=jnp.ones_like(tokens)[:, None], cache=state.cache)
    note = lambda table, column: jax.lax.dynamic_update_slice_in_dim(
        table, column[:, None], state.index, 1)
    return dataclasses.replace(
        state, cache=kv_cache.append(state.cache, new_kv),
        logits=sharding.constrain(model.unembed(params, hidden[:, 0]), 'batch', None),
        index=state.index + 1,
        finished=state.finished | jnp.isin(tokens, stop_tokens),
        lengths=state.lengths + jnp.where(state.finished, 0, 1),
        tokens=note(state.tokens, tokens), logprobs=note(state.logprobs, full),
        truncated=note(state.truncated, truncated))

  @functools.partial(jax.jit, donate_argnames='state')
  @by_placement
  def decode_chunk(params, state: _Decoding, end) -> tuple[_Decoding, jax.Array]:
    going_on = lambda state: (state.index < end) & ~jnp.all(state.finished)
    state = jax.lax.while_loop(going_on, functools.partial(step, params), state)
    return state, jnp.all(state.finished)

  @jax.jit
  def finish(prompts: Prompts, state: _Decoding) -> Rollout:
    mask = jnp.arange(max_new_tokens) < state.lengths[:, None]
    return Rollout(prompts, state.tokens, mask.astype(jnp.float32), state.logprobs,
                   state.truncated, state.finished)

  def sample(params, prompts: Prompts, iteration) -> Rollout:
    params = reshard(params)
    state = prefill(params, prompts, jnp.int32(iteration))
    for end in range(chunk, max_new_tokens + chunk, chunk):
      if should_stop():
        raise Interrupted('the rollout was interrupted between two chunks')
      cache = kv_cache.with_suffix(
          state.cache, state.finished.shape[0], min(end, max_new_tokens), grow)
      state = dataclasses.replace(state, cache=cache)
      state, done = decode_chunk(params, state, jnp.int32(min(end, max_new_tokens)))
      if end < max_new_tokens and sharding.to_host(done):
        break
    return finish(prompts, state)

  return Sampler(sample, reshard, prefill, room, decode_chunk)


class Interrupted(Exception):
  """A rollout was given up because the run is to stop; nothing of it is kept."""
