"""Rollouts that are being drawn: the loop on the host that keeps the slots full."""
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.records import Prompts, Rollout
from r1jax.runtime import hosts, sharding
from r1jax.runtime.compiling import Program, Threads
from r1jax.sampling.schedule import MOVED, Layout, Schedule, SlotRows, row_buckets
from r1jax.sampling.slots import Slots

_REFILLED = 16    # a chunk ends where this share of the slots is empty and rows wait


OnRows = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


class Interrupted(Exception):
  """A rollout was stopped because the run is to stop; nothing of it is kept."""


class SlotPrograms(NamedTuple):
  """The device programs of a sampler; slots are donated.

  Attributes:
    reshard: params -> params, cast and placed for decoding.
    empty_slots: (resharded params, Prompts, layout) -> `Slots` without rows.
    prefill: (resharded params, slots, Prompts, numbers, places) -> slots.
    admit: (slots, what enters, iteration, layout) -> slots.
    resume: (resharded params, slots, `Resumed`) -> slots.
    move: (slots, moves) -> slots.
    decode_chunk: (resharded params, slots, steps, least, num_rows) -> (slots, active).
    to_rollout: (`Completions`, Prompts, number of the batch, layout) -> Rollout.
  """
  reshard: Program
  empty_slots: Program
  prefill: Program
  admit: Program
  resume: Program
  move: Program
  decode_chunk: Program
  to_rollout: Program


class SlotDrawing:
  """Slots whose rows are being drawn, chunk by chunk."""
  _programs: SlotPrograms
  _params: Any                  # resharded
  _layout: Layout
  _schedule: SlotRows
  _buckets: list[int]           # sizes of programs from the present one on
  _slots: Slots
  _active: jax.Array | None     # of the chunk that runs; None: all rows are drawn
  _chunk: int

  def cancel(self) -> None:
    """Waits for the chunk that runs."""
    jax.block_until_ready(self._active)

  def _decode(self, refills: bool) -> None:
    """Dispatches the next chunk; `refills` says whether rows may enter after it."""
    if refills:
      least = self._layout.slots - max(1, self._layout.slots // _REFILLED)
    else:
      self._shrink()
      least = self._buckets[1] if len(self._buckets) > 1 else 0
    self._slots, self._active = self._programs.decode_chunk(
        self._params, self._slots, np.int32(self._chunk),
        np.int32(min(least, self._schedule.alive - 1)), num_rows=self._buckets[0])

  def _shrink(self) -> None:
    """Goes on with the smallest program that holds all rows."""
    place = max(i for i, size in enumerate(self._buckets) if size >= self._schedule.alive)
    if place:
      for moves in self._schedule.move(self._buckets[place]):
        self._slots = self._programs.move(self._slots, moves)
    self._buckets = self._buckets[place:]


class Drawing(SlotDrawing):
  """Rollouts of batches of prompts, one after another; the first chunk is dispatched."""
  _schedule: Schedule

  def __init__(
      self, programs: SlotPrograms, params: Any, batches: Iterator[Prompts], iteration: int, *,
      layout: Callable[[int], Layout], chunk: int, should_stop: Callable[[], bool],
      threads: Threads | None = None, meanwhile: Callable[[], None] = lambda: None):
    """Begins with the first batch; waits for nothing.

    Args:
      programs: of the sampler.
      params: of the model.
      batches: at least one, all of one size; asked for one ahead of their first row.
      iteration: part of the random keys.
      layout: from the number of prompts of a batch to the sizes of the arrays.
      chunk: steps that a program decodes, at most.
      should_stop: asked before all further chunks.
      threads: where the programs are compiled ahead; None: each when it is needed.
      meanwhile: called while those of the first chunk are compiled; with threads only. What it
        has compiled precedes the programs for fewer rows.
    """
    self._programs, self._iteration, self._batches = programs, np.int32(iteration), batches
    self._chunk, self._should_stop = chunk, should_stop
    self._following: Prompts | None = next(batches)
    self._params = programs.reshard(params)
    self._layout = layout(self._following.lengths.shape[0])
    self._schedule = Schedule(self._layout)
    self._buckets = row_buckets(self._layout.slots)
    self._prompts: list[Prompts] = []
    self._slots = programs.empty_slots(self._params, self._following, layout=self._layout)
    self._on_rows: OnRows | None = None
    self._told: set[int] = set()
    self._active = None
    if threads is not None:
      self._prepare(self._following, threads, meanwhile)
      if not iteration:
        self._buckets = self._buckets[:1]    # the first reward waits for no smaller program
    self._dispatch()

  def rollouts(self) -> Iterator[Rollout]:
    """The rollout of each batch, in their order; the next chunk runs when one is returned.

    Raises:
      Interrupted: `should_stop` returned True; no program of these rollouts runs any more.
    """
    while self._active is not None:
      if self._should_stop():
        self.cancel()
        raise Interrupted('the rollout was interrupted between two chunks')
      left = self._schedule.finish(sharding.to_host(self._active))
      completed = []
      while (batch := self._schedule.pop_completed()) is not None:
        completed.append(self._rollout(batch))
      early = left and not completed and self._on_rows is not None
      so_far = self._rollout(0) if early else None    # a copy, as slots are donated
      self._dispatch()
      if so_far is not None:
        self._tell(so_far)
      yield from completed

  def finish(self, on_rows: OnRows | None = None) -> Rollout:
    """The rollout of a single batch; raises as `rollouts`.

    Args:
      on_rows: called with rows that have finished while others are drawn, each once: their numbers
        [m] of N, ascending, tokens [m, C], lengths [m], and whether a stop token ended them [m].
        The next chunk runs meanwhile. The rows that finish last are not told, and on several hosts
        none is.
    """
    self._on_rows = on_rows if hosts.count() == 1 else None
    (rollout,) = self.rollouts()
    return rollout

  def _rollout(self, batch: int) -> Rollout:
    return self._programs.to_rollout(
        self._slots.completions, self._prompts[batch], np.int32(batch), layout=self._layout)

  def _tell(self, so_far: Rollout) -> None:
    """Tells of the rows that have finished since the last call."""
    assert self._on_rows is not None
    tokens, mask, finished = sharding.to_host((so_far.tokens, so_far.mask, so_far.finished))
    ended = {*np.flatnonzero(finished | (mask[:, -1] > 0)).tolist()}
    new = np.asarray(sorted(ended - self._told), int)
    self._told |= ended
    if new.size:
      self._on_rows(new, tokens[new], mask[new].astype(bool).sum(1), finished[new])

  def _dispatch(self) -> None:
    """Fills the slots and dispatches the next chunk, unless all rows are drawn."""
    schedule = self._schedule
    while self._following is not None and schedule.has_room and schedule.wants_rows:
      self._prompts.append(self._following)
      schedule.add_batch()
      self._following = next(self._batches, None)
    self._fill()
    if not schedule.alive:
      self._active = None
      return
    self._decode(refills=schedule.waits or self._following is not None)

  def _prepare(self, prompts: Prompts, threads: Threads, meanwhile: Callable[[], None]) -> None:
    """Has all programs compiled, in the order in which they are needed."""
    programs, layout, slots = self._programs, self._layout, self._slots

    def ints(*shape: int) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(shape, np.int32)
    of_prompts = ints(layout.shards, layout.prefilled)
    programs.prefill.prepare(threads, self._params, slots, prompts, of_prompts, of_prompts)
    programs.admit.prepare(
        threads, slots, ints(4, layout.shards, layout.slots), ints(), layout=layout)
    for number, size in enumerate(self._buckets):
      programs.decode_chunk.prepare(
          threads, self._params, slots, ints(), ints(), num_rows=size, last=number > 0)
      if not number:
        meanwhile()
        programs.move.prepare(threads, slots, ints(2, layout.shards, MOVED))
        programs.to_rollout.prepare(threads, slots.completions, prompts, ints(), layout=layout)

  def _fill(self) -> None:
    """Prefills what the empty slots need, and lets rows enter."""
    while (found := self._schedule.prefill()) is not None:
      batch, numbers, places = found
      self._slots = self._programs.prefill(
          self._params, self._slots, self._prompts[batch], numbers, places)
    if (entering := self._schedule.admit()) is not None:
      self._slots = self._programs.admit(
          self._slots, entering, self._iteration, layout=self._layout)
