"""The device's side of the rollout engine: what slots hold, and how rows enter, move and leave.

Arrays that are not caches have a leading axis of shards: the parts into which a mesh splits prompts
and rows. No function here moves anything between them.
"""
from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.models import kv_cache
from r1jax.records import Prompts, Rollout, pytree_dataclass
from r1jax.runtime import sharding
from r1jax.sampling.schedule import NONE, Layout


@pytree_dataclass
class Completions:
  """What the rows of the batches under way have drawn."""
  tokens: jax.Array        # [shards, kept rows, C] int32
  logprobs: jax.Array      # [shards, kept rows, C] float32, of the full distribution
  truncated: jax.Array     # [shards, kept rows, C] float32, of the truncated distribution
  lengths: jax.Array       # [shards, kept rows] int32
  finished: jax.Array      # [shards, kept rows] bool: a stop token was drawn
  drafts: jax.Array | None     # [shards, kept rows, 2] int32, as in `Drafting`


@pytree_dataclass
class Drafting:
  """What rows need for drafts; where there are none, slots have None in its place."""
  texts: jax.Array          # [shards, slots, P + C] int32: a prompt, then what its row drew
  counts: jax.Array         # [shards, slots, 2] int32: tokens drafted and kept
  prompt_texts: jax.Array   # [shards, prompt slots, P] int32


@pytree_dataclass
class Slots:
  """The rows in flight, the prompts that they share, and all completions."""
  cache: kv_cache.Cache
  hidden: jax.Array          # [shards, slots, width] from which a row's next token is drawn
  active: jax.Array          # [shards, slots] bool: a row is here, and goes on
  keys: jax.Array            # [shards, slots] of the rows
  rows: jax.Array            # [shards, slots] int32, the row's place among the completions
  prompt_hidden: jax.Array   # [shards, prompt slots, width] from which first tokens are drawn
  example_ids: jax.Array     # [shards, prompt slots] int32
  completions: Completions
  drafting: Drafting | None


@pytree_dataclass
class Resumed:
  """Rows of earlier iterations that go on, r of each shard."""
  tokens: jax.Array       # [shards, r, C] int32, padded on the right
  lengths: jax.Array      # [shards, r] int32, at least 1
  slots: jax.Array        # [shards, r] int32; one beyond the last leaves the row out
  rows: jax.Array         # [shards, r] int32, the row's place among the completions
  prompts: jax.Array      # [shards, r] int32, the prompt slot
  samples: jax.Array      # [shards, r] int32
  iterations: jax.Array   # [shards, r] int32, in which the row began


@pytree_dataclass
class Drawn:
  """The tokens that n rows of each shard drew in one chunk, at most T, in their order."""
  tokens: jax.Array      # [shards, n, T] int32
  logprobs: jax.Array    # [shards, n, T] float32
  truncated: jax.Array   # [shards, n, T] float32


def empty(cache: kv_cache.Cache, hidden: jax.ShapeDtypeStruct, layout: Layout, size: int,
          text_size: int) -> Slots:
  """Slots without rows.

  Args:
    cache: from `kv_cache.empty`.
    hidden: has the width and dtype of hidden states.
    layout: the other sizes.
    size: C.
    text_size: P; 0: no drafts.
  """
  shards, slots, kept = layout.shards, layout.slots, layout.rows * layout.batches

  def zeros(*shape, dtype: Any = jnp.int32):
    return sharding.constrain(jnp.zeros((shards, *shape), dtype), 'batch')
  floats = zeros(kept, size, dtype=jnp.float32)
  return Slots(
      cache=cache, hidden=zeros(slots, hidden.shape[-1], dtype=hidden.dtype),
      active=zeros(slots, dtype=bool), rows=zeros(slots),
      keys=jnp.broadcast_to(jax.random.key(0), (shards, slots)),
      prompt_hidden=zeros(layout.prompt_slots, hidden.shape[-1], dtype=hidden.dtype),
      example_ids=zeros(layout.prompt_slots),
      completions=Completions(zeros(kept, size), floats, floats, zeros(kept),
                              zeros(kept, dtype=bool), zeros(kept, 2) if text_size else None),
      drafting=Drafting(zeros(slots, text_size + size), zeros(slots, 2),
                        zeros(layout.prompt_slots, text_size)) if text_size else None)


def by_shard(function: Callable, *operands: Any) -> Any:
  """The function of each shard's own part of the operands, whose leaves are [shards, ...]."""
  function = jax.vmap(function)
  if not sharding.is_multi_device():
    return function(*operands)
  shards = jax.tree.leaves(operands)[0].shape[0]
  (rows,) = sharding.spec_that_divides(jax.sharding.get_abstract_mesh(), (shards,), ('batch',))
  return jax.shard_map(function, mesh=jax.sharding.get_abstract_mesh(), check_vma=False,
                       in_specs=P(rows), out_specs=P(rows))(*operands)


def choose_prompts(prompts: Prompts, numbers: jax.Array) -> Prompts:
  """The prompts of these numbers [shards, q], counted within their shards: q·shards prompts.

  With more shards than prompts, neighbouring shards have the same prompt.
  """
  shards, count = numbers.shape[0], prompts.lengths.shape[0]
  if shards > count:
    prompts = jax.tree.map(lambda x: jnp.repeat(x, shards // count, 0), prompts)
  own = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), prompts)
  chosen = by_shard(lambda x, at: jax.tree.map(lambda leaf: leaf[at], x), own, numbers)
  return sharding.constrain_rows(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chosen))


def put_prompts(
    slots: Slots, new_kv: Any, hidden: jax.Array, prompts: Prompts, places: jax.Array) -> Slots:
  """The slots with prompts that were prefilled.

  Args:
    slots: those before.
    new_kv: their keys and values.
    hidden: [q·shards, width], of their last tokens.
    prompts: what was prefilled.
    places: [shards, q] as for `kv_cache.put_prompts`.
  """
  def put(old, at, new):
    return old.at[at].set(new, mode='drop')
  shape, drafting = places.shape, slots.drafting
  if drafting is not None:
    texts = by_shard(put, drafting.prompt_texts, places, prompts.tokens.reshape(*shape, -1))
    drafting = dataclasses.replace(drafting, prompt_texts=texts)
  return dataclasses.replace(
      slots, drafting=drafting,
      cache=kv_cache.put_prompts(slots.cache, new_kv, prompts.lengths, places),
      prompt_hidden=by_shard(put, slots.prompt_hidden, places, hidden.reshape(*shape, -1)),
      example_ids=by_shard(put, slots.example_ids, places, prompts.example_ids.reshape(shape)))


def admit(slots: Slots, entering: jax.Array, key: jax.Array, layout: Layout) -> Slots:
  """The slots after rows have entered.

  Args:
    slots: those before.
    entering: [4, shards, slots] int32, as `Schedule.admit` returns it.
    key: of the rollout; a row's is folded from it, its example id and its sample.
    layout: the sizes.
  """
  def enter(entering, prompt_hidden, example_ids, hidden, active, keys, rows, prompts, lengths):
    prompt, sample, row, batch = entering
    enters = prompt != NONE
    ids = example_ids[prompt]
    new_keys = jax.vmap(lambda i, s: jax.random.fold_in(jax.random.fold_in(key, i), s))(ids, sample)
    new_rows = batch % layout.batches * layout.rows + row
    return (jnp.where(enters[:, None], prompt_hidden[prompt], hidden), active | enters,
            jnp.where(enters, new_keys, keys), jnp.where(enters, new_rows, rows),
            jnp.where(enters, prompt, prompts), jnp.where(enters, 0, lengths))
  hidden, active, keys, rows, prompts, lengths = by_shard(
      enter, jnp.swapaxes(entering, 0, 1), slots.prompt_hidden, slots.example_ids, slots.hidden,
      slots.active, slots.keys, slots.rows, slots.cache.prompts, slots.cache.lengths)
  return dataclasses.replace(
      slots, hidden=hidden, active=active, keys=keys, rows=rows,
      cache=dataclasses.replace(slots.cache, prompts=prompts, lengths=lengths),
      drafting=None if slots.drafting is None else _enter_texts(slots.drafting, entering[0]))


def _enter_texts(drafting: Drafting, prompts: jax.Array) -> Drafting:
  def enter(prompt, drafting: Drafting):
    enters, size = (prompt != NONE)[:, None], drafting.prompt_texts.shape[1]
    first = jnp.where(enters, drafting.prompt_texts[prompt], drafting.texts[:, :size])
    return dataclasses.replace(drafting, texts=drafting.texts.at[:, :size].set(first),
                               counts=jnp.where(enters, 0, drafting.counts))
  return by_shard(enter, prompts, drafting)


def resume(
    slots: Slots, new_kv: Any, hidden: jax.Array, resumed: Resumed, key: jax.Array) -> Slots:
  """The slots after rows of earlier iterations have entered.

  Args:
    slots: those before.
    new_kv: the keys and values of the rows' tokens, under the parameters that decode.
    hidden: [shards · r, width], of their last tokens.
    resumed: the rows.
    key: of the run; a row's is folded from it, its iteration, example id and sample.
  """
  def fold(*data):
    return functools.reduce(jax.random.fold_in, data, key)

  def enter(resumed: Resumed, example_ids, *tables):
    keys = jax.vmap(fold)(resumed.iterations, example_ids[resumed.prompts], resumed.samples)
    new = (keys, resumed.rows, resumed.prompts, resumed.lengths, jnp.ones_like(resumed.rows, bool))
    return tuple(table.at[resumed.slots].set(x, mode='drop') for table, x in zip(tables, new))
  cache = slots.cache
  keys, rows, prompts, lengths, active = by_shard(
      enter, resumed, slots.example_ids, slots.keys, slots.rows, cache.prompts, cache.lengths,
      slots.active)
  put_hidden = by_shard(lambda old, at, new: old.at[at].set(new, mode='drop'), slots.hidden,
                        resumed.slots, hidden.reshape(*resumed.slots.shape, -1))
  cache = kv_cache.put_rows(cache, new_kv, resumed.lengths, resumed.slots)
  return dataclasses.replace(
      slots, hidden=put_hidden, active=active, keys=keys, rows=rows,
      cache=dataclasses.replace(cache, prompts=prompts, lengths=lengths))


def move(slots: Slots, moves: jax.Array) -> Slots:
  """The slots after rows have moved; `moves` [2, shards, m] as `Schedule.move` returns it."""
  sources, targets = moves
  cache = kv_cache.move_rows(slots.cache, sources, targets)
  drafting = slots.drafting
  state = (slots.hidden, slots.active, slots.keys, slots.rows, cache.prompts, cache.lengths,
           () if drafting is None else (drafting.texts, drafting.counts))

  def move_own(state, source, target):
    return jax.tree.map(lambda x: x.at[target].set(x[source], mode='drop'), state)
  hidden, active, keys, rows, prompts, lengths, texts = by_shard(move_own, state, sources, targets)
  active = by_shard(
      lambda active, source, target: active.at[
          jnp.where(target < active.shape[0], source, active.shape[0])].set(False, mode='drop'),
      active, sources, targets)
  if drafting is not None:
    drafting = dataclasses.replace(drafting, texts=texts[0], counts=texts[1])
  return dataclasses.replace(
      slots, hidden=hidden, active=active, keys=keys, rows=rows, drafting=drafting,
      cache=dataclasses.replace(cache, prompts=prompts, lengths=lengths))


def keep(completions: Completions, rows: jax.Array, before: jax.Array, lengths: jax.Array,
         finished: jax.Array, drawn: Drawn, drafts: jax.Array | None) -> Completions:
  """The completions with a chunk's tokens.

  Args:
    completions: those before.
    rows: [shards, n] int32, the place of each row that was decoded.
    before: [shards, n] int32, its tokens before the chunk.
    lengths: [shards, n] int32, its tokens after it; a row without new ones is left alone.
    finished: [shards, n] bool: a stop token was drawn in the chunk.
    drawn: the tokens.
    drafts: [shards, n, 2] int32, tokens that were drafted and kept so far; or None.
  """
  def put(kept: Completions, rows, before, lengths, finished, drawn: Drawn, drafts) -> Completions:
    count, size = kept.tokens.shape
    steps = jnp.arange(drawn.tokens.shape[1])
    new = steps < (lengths - before)[:, None]
    columns = jnp.where(new, before[:, None] + steps, size)
    rows = jnp.where(lengths > before, rows, count)
    tables = {name: getattr(kept, name).at[rows[:, None], columns].set(
        getattr(drawn, name), mode='drop') for name in ('tokens', 'logprobs', 'truncated')}
    return Completions(**tables, lengths=kept.lengths.at[rows].set(lengths, mode='drop'),
                       finished=kept.finished.at[rows].set(finished, mode='drop'),
                       drafts=None if kept.drafts is None else kept.drafts.at[rows].set(
                           drafts, mode='drop'))
  return by_shard(put, completions, rows, before, lengths, finished, drawn, drafts)


def to_rollout(
    completions: Completions, prompts: Prompts, batch: jax.Array, layout: Layout) -> Rollout:
  """The rollout of a batch: of all batches, the one with this number."""
  first = batch % layout.batches * layout.rows

  def of_batch(x):
    own = jax.lax.dynamic_slice_in_dim(x, first, layout.rows, 1)
    return sharding.constrain_rows(own.reshape(-1, *x.shape[2:]))
  kept = jax.tree.map(of_batch, completions)
  mask = jnp.arange(kept.tokens.shape[1]) < kept.lengths[:, None]
  return Rollout(prompts, kept.tokens, mask.astype(jnp.float32), jnp.where(mask, kept.logprobs, 0),
                 jnp.where(mask, kept.truncated, 0), kept.finished, kept.drafts)
