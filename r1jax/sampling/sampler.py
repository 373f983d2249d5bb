"""The rollout engine: rows decode in slots, and a row that has finished costs nothing more.

Each prompt is prefilled once, and its completions share its keys and values. A loop on the host
runs a donated chunk program, which decodes one token of all rows in flight at a time. Between two
chunks finished rows leave, waiting rows take their slots, and when nobody waits, the rows that are
left move together and a smaller program goes on. Each size of program is compiled once and serves
every later iteration.

One random key per row and token, folded from (seed, iteration, example id, sample index, token
index): a row's tokens depend on nothing but its own key and prompt, wherever and whenever they are
drawn.

Departure: rows in flight write their keys and values each at a place of its own, not at a common
one. So the sums of a row's attention have the same order whenever it begins: the chunk and the
order of prompts change no bit of it. Products of another number of rows may be rounded differently.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checks
from r1jax.models import kv_cache, quantized, transformer
from r1jax.models.transformer import Model
from r1jax.records import Prompts, Rollout, pytree_dataclass
from r1jax.runtime import compiling, sharding
from r1jax.sampling import slots as slot_state
from r1jax.sampling.carried import PoolDrawing
from r1jax.sampling.drafts import count_kept, look_up, put_tokens
from r1jax.sampling.draw import Sampling, draw
from r1jax.sampling.drawing import Drawing, SlotPrograms
from r1jax.sampling.pool import Group
from r1jax.sampling.schedule import Layout, splits
from r1jax.sampling.slots import Drawn, Resumed, Slots

_BATCHES = 4    # of `stream` that may be under way at a time


@pytree_dataclass
class _Chunk:
  """What changes while a chunk is decoded; n rows of each shard."""
  suffix: tuple          # of the cache, of all slots
  lengths: jax.Array     # [shards, n] int32
  hidden: jax.Array      # [shards, n, width]
  active: jax.Array      # [shards, n] bool
  finished: jax.Array    # [shards, n] bool: a stop token was drawn in this chunk
  drawn: Drawn
  texts: jax.Array | None     # [shards, n, P + C] int32, as in `slots.Drafting`
  drafts: jax.Array | None    # [shards, n, 2] int32: tokens drafted and kept
  step: jax.Array        # int32


class Sampler:
  """sample(params, prompts, iteration) -> Rollout of N = B·group_size rows.

  Args:
    model: a `models.Model`.
    group_size: G, completions per prompt.
    max_new_tokens: C; a row without a stop token by then is cut.
    stop_ids: tokens that end a completion; the one drawn is part of it and of its mask.
    sampling: how tokens are drawn; None: at temperature 1, without truncation.
    compute_dtype: parameters are cast to it, and resharded, once per rollout.
    weight_dtype: of the layers' matrices while sampling, one of `quantized.WEIGHT_DTYPES`; '' for
      the compute dtype.
    cache_dtype: of cached keys and values, one of `quantized.CACHE_DTYPES`; '' for the compute
      dtype.
    seed: of the run; with the iteration, example id, sample and token index it makes the keys.
    chunk: steps that a device program takes, at most, before the host looks again.
    slots: rows in flight at a time, on all devices together; 0: all rows of a batch.
    drafts: tokens that are looked up and checked in a step besides the one that is drawn.
    rollout_sharding: how this copy of the parameters lies on the ambient mesh. 'train': as in
      training; a layer's weights are gathered at every token. 'tensor': whole except for tensor and
      expert axes, as in `sharding.ROLLOUT_RULES`; rows are also split along the context axis.
    should_stop: called between chunks; if it returns True, `Interrupted` is raised.

  Attributes:
    programs: the jitted programs.

  Raises:
    ValueError: for a group, length or chunk below 1, negative slots or drafts, no stop id, or an
      unknown rollout_sharding, weight_dtype or cache_dtype.
  """

  def __init__(
      self, model: Model, *, group_size: int, max_new_tokens: int, stop_ids: tuple[int, ...],
      sampling: Sampling | None = None, compute_dtype: str = 'float32', weight_dtype: str = '',
      cache_dtype: str = '', seed: int = 0, chunk: int = 32, slots: int = 0, drafts: int = 0,
      rollout_sharding: str = 'train', should_stop: Callable[[], bool] = lambda: False):
    checks.at_least(1, group_size=group_size, max_new_tokens=max_new_tokens, chunk=chunk)
    checks.at_least(0, slots=slots, drafts=drafts)
    if not stop_ids:
      raise ValueError('stop_ids must have at least 1 token, got none')
    checks.word(sharding.ROLLOUT_SHARDINGS, rollout_sharding=rollout_sharding)
    checks.word(('', *quantized.WEIGHT_DTYPES), weight_dtype=weight_dtype)
    checks.word(('', *quantized.CACHE_DTYPES), cache_dtype=cache_dtype)
    self._model, self._sampling, self._seed = model, sampling or Sampling(), seed
    self._group_size, self._max_new_tokens = group_size, max_new_tokens
    self._chunk, self._slots, self._drafts = min(chunk, max_new_tokens), slots, drafts
    self._stop_tokens = np.asarray(stop_ids, np.int32)   # on the host: to compile reads constants
    self._compute_dtype, self._rollout_sharding = compute_dtype, rollout_sharding
    self._weight_dtype, self._cache_dtype = weight_dtype, cache_dtype
    self._should_stop = should_stop
    self._compiling: dict[str, Any] = {}    # how the next rollout compiles
    donated = dict(donate_argnames='slots')
    self.programs = SlotPrograms(
        reshard=self._program(self._reshard),
        empty_slots=self._program(self._empty_slots, static_argnames='layout'),
        prefill=self._program(self._prefill, **donated),
        admit=self._program(self._admit, **donated, static_argnames='layout'),
        resume=self._program(self._resume, **donated),
        move=self._program(slot_state.move, **donated),
        decode_chunk=self._program(self._decode_chunk, **donated, static_argnames='num_rows'),
        to_rollout=self._program(slot_state.to_rollout, static_argnames='layout'))

  def __call__(self, params, prompts: Prompts, iteration: int) -> Rollout:
    """Samples a rollout with these parameters, which are not changed.

    Raises:
      Interrupted: `should_stop` returned True.
    """
    return self.begin(params, prompts, iteration).finish()

  def begin(self, params, prompts: Prompts, iteration: int) -> Drawing:
    """Dispatches the first chunk of a rollout, and waits for nothing."""
    return self._draw(params, iter([prompts]), iteration, batches_at_a_time=1)

  def stream(self, params, batches: Iterable[Prompts], iteration: int) -> Iterator[Rollout]:
    """Samples a rollout of each batch of prompts, in their order; all batches have one size.

    Rows of later batches take the slots of rows that have finished, so that no batch waits for the
    slowest row of the one before it. Batches are asked for one ahead of their first row.

    Raises:
      Interrupted: `should_stop` returned True.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
      return iter(())
    return self._draw(params, itertools.chain([first], batches), iteration,
                      batches_at_a_time=_BATCHES).rollouts()

  def begin_carried(
      self, params, carried: Sequence[Group], new_groups: Iterator[Group], iteration: int, *,
      num_prompts: int, max_staleness: int) -> PoolDrawing:
    """Dispatches the first chunk of an iteration that goes on with groups of earlier ones.

    Arguments as for `PoolDrawing`; `num_prompts` is B.
    """
    ahead, self._compiling = self._compiling, {}
    return PoolDrawing(
        self.programs, params, carried, new_groups, iteration,
        layout=self.layout(num_prompts, 2, whole_groups=True), max_staleness=max_staleness,
        chunk=self._chunk, should_stop=self._should_stop, **ahead)

  def compile_in(self, threads: compiling.Threads,
                 meanwhile: Callable[[], None] = lambda: None) -> None:
    """Lets the next rollout have its programs compiled in these threads.

    Args:
      threads: where to compile.
      meanwhile: called while those of its first chunk are compiled; what it has compiled precedes
        the programs for fewer rows.
    """
    self._compiling = dict(threads=threads, meanwhile=meanwhile)

  def _draw(self, params, batches: Iterator[Prompts], iteration: int, *,
            batches_at_a_time: int) -> Drawing:
    ahead, self._compiling = self._compiling, {}
    return Drawing(
        self.programs, params, batches, iteration, chunk=self._chunk,
        layout=functools.partial(self.layout, batches=batches_at_a_time),
        should_stop=self._should_stop, **ahead)

  def layout(self, num_prompts: int, batches: int = 1, *, whole_groups: bool = False) -> Layout:
    """The sizes of the arrays for batches of so many prompts, on the ambient mesh.

    With `whole_groups`, all completions of a prompt are in one shard.
    """
    with self._rules():
      shards = sharding.num_shards('batch', num_prompts * self._group_size)
      if whole_groups or not splits(shards, num_prompts, self._group_size):
        shards = sharding.num_shards('batch', num_prompts)
    return Layout.of(shards=shards, prompts=num_prompts, group_size=self._group_size,
                     slots=self._slots, batches=batches)

  def _rules(self):
    return sharding.rules(sharding.ROLLOUT_SHARDINGS[self._rollout_sharding])

  def _program(self, function: Callable, **options: Any) -> compiling.Program:
    """The function jitted; it is traced under the rules of this rollout's sharding."""
    @functools.wraps(function)
    def traced(*args, **keywords):
      with self._rules():
        return function(*args, **keywords)
    return compiling.Program(traced, **options)

  def _reshard(self, params):
    return transformer.for_decoding(params, self._compute_dtype, self._model.logical_axes,
                                    weight_dtype=self._weight_dtype)

  def _empty_slots(self, params, prompts: Prompts, *, layout: Layout) -> Slots:
    shape = layout.shards * layout.prefilled, prompts.tokens.shape[1]
    hidden, new_kv = jax.eval_shape(self._run_prompts, params, jax.ShapeDtypeStruct(
        shape, jnp.int32), jax.ShapeDtypeStruct(shape[:1], jnp.int32))
    cache = kv_cache.empty(
        self._model.config, new_kv, num_prompts=layout.shards * layout.prompt_slots,
        num_rows=layout.shards * layout.slots, size=self._max_new_tokens, shards=layout.shards,
        cache_dtype=self._cache_dtype, ahead=self._drafts)
    return slot_state.empty(cache, hidden, layout, self._max_new_tokens,
                            text_size=shape[1] if self._drafts else 0)

  def _run_prompts(self, params, tokens, lengths):
    """(the hidden states of the prompts' last tokens, all keys and values)."""
    positions, segments = transformer.prompt_segments(tokens, lengths)
    hidden, new_kv, _ = self._model.apply(
        params, tokens, positions=positions, segment_ids=segments)
    return jnp.take_along_axis(hidden, lengths[:, None, None] - 1, 1)[:, 0], new_kv

  def _prefill(self, params, slots: Slots, prompts: Prompts, numbers, places) -> Slots:
    chosen = slot_state.choose_prompts(prompts, numbers)
    hidden, new_kv = self._run_prompts(params, chosen.tokens, chosen.lengths)
    return slot_state.put_prompts(slots, new_kv, hidden, chosen, places)

  def _admit(self, slots: Slots, entering, iteration, *, layout: Layout) -> Slots:
    key = jax.random.fold_in(jax.random.key(self._seed), iteration)
    return slot_state.admit(slots, entering, key, layout)

  def _resume(self, params, slots: Slots, resumed: Resumed) -> Slots:
    prefix = kv_cache.of_rows(slots.cache, resumed.prompts, self._compute_dtype)
    tokens, lengths = (x.reshape(-1, *x.shape[2:]) for x in (resumed.tokens, resumed.lengths))
    positions, segments = transformer.prompt_segments(tokens, lengths)
    hidden, new_kv, _ = self._model.apply(
        params, tokens, positions=prefix.prefix_lengths[:, None] + positions,
        segment_ids=segments, cache=prefix)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, 1)[:, 0]
    return slot_state.resume(slots, new_kv, last, resumed, jax.random.key(self._seed))

  def _decode_chunk(
      self, params, slots: Slots, steps, least, *, num_rows: int) -> tuple[Slots, jax.Array]:
    """At most `steps` steps of the first `num_rows` rows of each shard.

    It ends early where no shard has more than `least` rows that go on.
    """
    def first_rows(x):
      return None if x is None else x[:, :num_rows]
    cache, drafting = slots.cache, slots.drafting
    assert cache.suffix is not None and cache.lengths is not None
    before = first_rows(cache.lengths)
    shape = *before.shape, self._chunk * (1 + self._drafts)
    floats = jnp.zeros(shape, jnp.float32)
    chunk = _Chunk(cache.suffix, before, first_rows(slots.hidden), first_rows(slots.active),
                   jnp.zeros_like(before, bool),
                   Drawn(jnp.zeros(shape, jnp.int32), floats, floats),
                   first_rows(drafting.texts if drafting else None),
                   first_rows(drafting.counts if drafting else None), jnp.int32(0))

    def goes_on(chunk: _Chunk):
      return (chunk.step < steps) & (jnp.max(jnp.sum(chunk.active, 1)) > least)
    keys, prompts = first_rows(slots.keys), first_rows(cache.prompts)
    chunk = jax.lax.while_loop(
        goes_on, functools.partial(self._step, params, cache, keys, prompts, before), chunk)

    def put(old, new):
      return old.at[:, :num_rows].set(new)
    active = put(slots.active, chunk.active)
    if drafting is not None:
      drafting = dataclasses.replace(drafting, texts=put(drafting.texts, chunk.texts),
                                     counts=put(drafting.counts, chunk.drafts))
    slots = dataclasses.replace(
        slots, hidden=put(slots.hidden, chunk.hidden), active=active, drafting=drafting,
        cache=dataclasses.replace(cache, suffix=chunk.suffix,
                                  lengths=put(cache.lengths, chunk.lengths)),
        completions=slot_state.keep(slots.completions, first_rows(slots.rows), before,
                                    chunk.lengths, chunk.finished, chunk.drawn, chunk.drafts))
    return slots, active

  def _step(self, params, cache: kv_cache.Cache, keys, prompts, before, chunk: _Chunk) -> _Chunk:
    """Draws a token per row, and computes the hidden state that the next one is drawn from.

    With drafts, it draws as many more tokens as are drafted rightly.
    """
    def by_row(x):
      return sharding.constrain_rows(x.reshape(-1, *x.shape[2:]))

    def by_shard(x):
      return x.reshape(*chunk.lengths.shape, *x.shape[1:])
    at_hand = dataclasses.replace(
        cache, suffix=chunk.suffix, prompts=prompts,
        lengths=jnp.where(chunk.active, chunk.lengths, 0))
    in_prompt = by_row(
        jax.vmap(jnp.take)(cache.prefix_lengths.reshape(prompts.shape[0], -1), prompts))
    keys, lengths, texts = by_row(keys), by_row(chunk.lengths), chunk.texts
    drawn = self._draw_tokens(params, keys, lengths[:, None], by_row(chunk.hidden)[:, None])
    tokens = drawn.tokens
    if self._drafts:
      texts = put_tokens(by_row(texts), tokens, in_prompt + lengths)
      drafted, found = look_up(texts, in_prompt + lengths + 1, self._drafts)
      tokens = jnp.concatenate([tokens, drafted], 1)
      texts = by_shard(put_tokens(texts, tokens, in_prompt + lengths))
    places = jnp.arange(tokens.shape[1])
    hidden, new_kv, _ = self._model.apply(
        params, tokens, positions=(in_prompt + lengths)[:, None] + places,
        segment_ids=jnp.ones_like(tokens), cache=at_hand)
    stops, kept, counts = self._is_stop(tokens), jnp.zeros_like(lengths), chunk.drafts
    if self._drafts:
      indices = lengths[:, None] + places[1:]
      more = self._draw_tokens(params, keys, indices, hidden[:, :-1])
      drawn = jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), drawn, more)
      kept = count_kept(
          drafted, more.tokens,
          found[:, None] & ~stops[:, :-1] & (indices < self._max_new_tokens))
      counts += by_shard(jnp.stack([found * self._drafts, kept], 1)) * chunk.active[..., None]
    stopped = chunk.active & by_shard(jnp.any(stops & (places <= kept[:, None]), 1))
    lengths = chunk.lengths + chunk.active * (1 + by_shard(kept))
    written = kv_cache.append(at_hand, new_kv).suffix
    assert written is not None
    columns = by_row(chunk.lengths - before)
    return _Chunk(
        suffix=written, lengths=lengths, finished=chunk.finished | stopped,
        hidden=by_shard(jnp.take_along_axis(hidden, kept[:, None, None], 1)[:, 0]),
        active=chunk.active & ~stopped & (lengths < self._max_new_tokens),
        drawn=jax.tree.map(lambda table, new: by_shard(put_tokens(by_row(table), new, columns)),
                           chunk.drawn, drawn),
        texts=texts, drafts=counts, step=chunk.step + 1)

  def _draw_tokens(self, params, keys, indices, hidden) -> Drawn:
    """The tokens [N, T] with these indices [N, T] of rows, drawn from hidden [N, T, width]."""
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys, indices).reshape(-1)
    logits = sharding.constrain(
        self._model.unembed(params, hidden.reshape(-1, hidden.shape[-1])), 'batch', None)
    return Drawn(*(x.reshape(indices.shape) for x in draw(keys, logits, self._sampling)))

  def _is_stop(self, tokens):
    return jnp.isin(tokens, self._stop_tokens)
