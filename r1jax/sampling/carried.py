"""Partial rollouts: an iteration ends before all rows that it began are drawn.

An iteration draws a batch of groups from a larger pool (`sampling.pool`). What it has drawn of the
others is carried: tokens, recorded log-probabilities, and the iteration that drew each token. In
the next iteration the cache of these rows is computed by its parameters, from prompt and tokens in
one pass, and they go on with their own random keys, which are folded from the iteration in which
the row began. So a row's tokens may be of several versions of the policy, and each recorded
log-probability is that of the version that drew the token, given all tokens before it.
"""
from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.records import Prompts, Rollout, pytree_dataclass
from r1jax.runtime import sharding
from r1jax.runtime.compiling import Threads
from r1jax.sampling.drawing import Interrupted, SlotDrawing, SlotPrograms
from r1jax.sampling.pool import Group, Pool
from r1jax.sampling.schedule import NONE, Layout, row_buckets

_PREFILLS = 4    # passes that prefill as many prompts as fill all slots


@pytree_dataclass
class Carried:
  """The groups that are carried into an iteration, at most B, in order; arrays of the host."""
  prompts: np.ndarray           # [B, P] int32, padded on the right
  prompt_lengths: np.ndarray    # [B] int32
  example_ids: np.ndarray       # [B] int32; NONE where there is no group
  begun: np.ndarray             # [B] int32, the iteration that took the group from the data
  tokens: np.ndarray            # [B, G, C] int32
  logprobs: np.ndarray          # [B, G, C] float32, of the full distribution
  truncated: np.ndarray         # [B, G, C] float32, of the truncated distribution
  versions: np.ndarray          # [B, G, C] int32, the iteration that drew the token
  lengths: np.ndarray           # [B, G] int32
  finished: np.ndarray          # [B, G] bool: a stop token was drawn

  @classmethod
  def none(cls, prompts: int, prompt_length: int, group_size: int, size: int) -> 'Carried':
    """No groups; B, P, G and C."""
    rows, tokens = (prompts, group_size), (prompts, group_size, size)
    ints, floats = np.zeros(tokens, np.int32), np.zeros(tokens, np.float32)
    return cls(np.zeros((prompts, prompt_length), np.int32), np.ones(prompts, np.int32),
               np.full(prompts, NONE, np.int32), np.zeros(prompts, np.int32), ints, floats,
               floats.copy(), ints.copy(), np.zeros(rows, np.int32), np.zeros(rows, bool))

  def groups(self) -> list[Group]:
    """The groups, as copies."""
    found = []
    for i in np.flatnonzero(self.example_ids != NONE):
      fields: Any = [np.array(x[i]) if x.ndim > 1 else int(x[i]) for x in self._fields()]
      found.append(Group(*fields))
    return found

  def holding(self, groups: Sequence[Group]) -> 'Carried':
    """These groups, instead of those that are held."""
    copies = [np.array(x) for x in self._fields()]
    copies[2][:] = NONE
    for i, group in enumerate(groups):
      for table, name in zip(copies, _GROUP_FIELDS):
        table[i] = getattr(group, name)
    return Carried(*copies)

  @property
  def state(self) -> dict[str, np.ndarray]:
    """The fields by name, for a checkpoint."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def _fields(self) -> list[np.ndarray]:
    return list(self.state.values())


_GROUP_FIELDS = [field.name for field in dataclasses.fields(Group)][
    :len(dataclasses.fields(Carried))]


def as_rollout(groups: Sequence[Group]) -> Rollout:
  """The rollout of groups that are complete, on the host."""
  def rows(name: str) -> Any:
    return np.concatenate([getattr(group, name) for group in groups])
  mask = np.arange(groups[0].tokens.shape[1]) < rows('lengths')[:, None]
  numbers: Any = (np.asarray([getattr(group, name) for group in groups], np.int32)
                  for name in ('prompt_length', 'example_id'))
  prompts: Any = np.stack([group.prompt for group in groups])
  return Rollout(Prompts(prompts, *numbers), rows('tokens'), mask.astype(np.float32),
                 rows('logprobs'), rows('truncated'), rows('finished'))


class Drawn(NamedTuple):
  """What an iteration has drawn.

  Attributes:
    batch: the groups that are complete, in the order in which they were taken from the data.
    rest: those that are carried on.
  """
  batch: list[Group]
  rest: list[Group]


class PoolDrawing(SlotDrawing):
  """An iteration's groups, being drawn; the first chunk is dispatched."""
  _schedule: Pool

  def __init__(
      self, programs: SlotPrograms, params: Any, carried: Sequence[Group],
      new_groups: Iterator[Group], iteration: int, *, layout: Layout, max_staleness: int,
      chunk: int, should_stop: Callable[[], bool], threads: Threads | None = None,
      meanwhile: Callable[[], None] = lambda: None):
    """Begins with the groups that are carried; waits for nothing.

    Args:
      programs: of the sampler.
      params: of the model.
      carried: groups of earlier iterations, at most a batch; they are changed.
      new_groups: of this iteration, taken as slots become empty; at least so many that a batch can
        be completed.
      iteration: the version of the parameters.
      layout: of two batches.
      max_staleness: iterations between a token's version and the batch that has it, at most.
      chunk: as for `Drawing`.
      should_stop: likewise.
      threads: where programs for fewer rows are compiled ahead; None: when they are needed.
      meanwhile: called once the first chunk is dispatched; with threads only.
    """
    self._programs, self._iteration, self._new = programs, np.int32(iteration), new_groups
    self._chunk, self._should_stop = chunk, should_stop
    self._params = programs.reshard(params)
    prefilled = -(-layout.prefilled // _PREFILLS)
    self._layout = dataclasses.replace(
        layout, prefilled=prefilled, prompt_slots=min(
            layout.prompts * layout.batches, layout.slots + prefilled))
    self._schedule = Pool(self._layout, carried, due=iteration - max_staleness)
    self._buckets = row_buckets(self._layout.slots)
    self._active: jax.Array | None = None
    self._schedule.fill(self._new)
    like = as_rollout(self._schedule.groups[:1]).prompts
    self._slots = programs.empty_slots(self._params, like, layout=self._layout)
    self._dispatch()
    if threads is not None:
      meanwhile()
      for size in self._buckets[1:]:
        programs.decode_chunk.prepare(
            threads, self._params, self._slots, np.int32(0), np.int32(0), num_rows=size)

  def finish(self) -> Drawn:
    """The groups, when a batch of them is complete.

    Raises:
      Interrupted: `should_stop` returned True; no program runs any more. What was drawn since the
        start is lost.
    """
    while self._active is not None:
      if self._should_stop():
        self.cancel()
        raise Interrupted('the rollout was interrupted between two chunks')
      self._schedule.finish(sharding.to_host(self._active))
      self._dispatch()
    self._read()
    return Drawn(*self._schedule.split())

  def _dispatch(self) -> None:
    """Fills the slots and dispatches the next chunk, unless the iteration is over."""
    pool = self._schedule
    if pool.is_complete:
      self._active = None
      return
    pool.fill(self._new)
    while (found := pool.read()) is not None:
      prompts, places = found
      self._slots = self._programs.prefill(
          self._params, self._slots, prompts,
          np.broadcast_to(np.arange(places.shape[1], dtype=np.int32), places.shape), places)
    entering, resumed = pool.enter()
    if entering is not None:
      self._slots = self._programs.admit(
          self._slots, entering, self._iteration, layout=self._layout)
    for rows in resumed:
      self._slots = self._programs.resume(self._params, self._slots, rows)
    self._decode(refills=pool.waits)

  def _read(self) -> None:
    """Gives the groups what was drawn of them."""
    drawn = sharding.to_host(self._slots.completions)
    for group, shard in zip(self._schedule.groups, self._schedule.shard_of):
      for sample in range(len(group.lengths)):
        row = group.place * len(group.lengths) + sample
        before, after = group.lengths[sample], drawn.lengths[shard, row]
        if after > before:
          new = slice(before, after)
          for name in ('tokens', 'logprobs', 'truncated'):
            getattr(group, name)[sample, new] = getattr(drawn, name)[shard, row, new]
          group.versions[sample, new] = self._iteration
          group.lengths[sample], group.finished[sample] = after, drawn.finished[shard, row]
