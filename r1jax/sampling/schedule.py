"""Which row decodes in which slot: the host's side of the rollout engine, without any array.

Rows wait in the order of their prompts. Each shard of the mesh has prompts, slots and a queue of
its own, so that nothing of a cache moves between devices; all shards take the same programs. Where
there are more shards than prompts, several have the same prompt and a part of its completions.
"""
from collections import deque
from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

NONE = -1    # no row, no prompt
MOVED = 8    # rows that one program moves


def row_buckets(slots: int) -> list[int]:
  """How many rows a program may decode: `slots`, 3/4, 1/2, 3/8, 1/4, 1/8 and 1/16 of it.

  The latter are multiples of 4, or of 8 where there are few slots: each is another program.
  """
  sizes, unit = [slots], 4 if slots >= 64 else 8
  for share in (3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16):
    size = -int(-slots * share // unit) * unit
    if size < sizes[-1]:
      sizes.append(size)
  return sizes


@dataclasses.dataclass(frozen=True)
class Layout:
  """The sizes of a rollout's arrays; each is that of one shard.

  Attributes:
    shards: into how many parts rows are split.
    copies: neighbouring shards that have the same prompts, and each a part of their completions.
    prompts: of a batch.
    group_size: completions of a prompt.
    slots: rows in flight.
    prefilled: prompts that one program prefills.
    prompt_slots: prompts whose keys and values are kept.
    batches: whose completions are kept at a time.
  """
  shards: int
  copies: int
  prompts: int
  group_size: int
  slots: int
  prefilled: int
  prompt_slots: int
  batches: int

  @property
  def rows(self) -> int:
    """Completions of a batch."""
    return self.prompts * self.group_size

  @classmethod
  def of(cls, *, shards: int, prompts: int, group_size: int, slots: int,
         batches: int) -> 'Layout':
    """The layout of batches of `prompts` × `group_size` rows in `slots` slots, of all shards.

    Args:
      shards: `splits` them.
      prompts: of a batch.
      group_size: completions of a prompt.
      slots: rows in flight, rounded up to whole shards; 0, or more than a batch has: as many.
      batches: 1, or how many may be under way at a time.
    """
    copies = max(1, shards // prompts)
    own, group_size = prompts * copies // shards, group_size // copies
    in_flight = min(-(-slots // shards) or own * group_size, own * group_size)
    prefilled = min(own, -(-in_flight // group_size))
    kept = prefilled + min(in_flight, prefilled + 8)
    return cls(shards, copies, own, group_size, in_flight, prefilled, min(own * batches, kept),
               batches)


def splits(shards: int, prompts: int, group_size: int) -> bool:
  """Whether so many shards can have equal parts of the prompts, or of each prompt's completions."""
  return not prompts % shards or not (shards % prompts or group_size % (shards // prompts))


@dataclasses.dataclass
class _Prompt:
  """A prompt some of whose rows wait or decode."""
  batch: int
  number: int      # in its shard's part of the batch
  slot: int        # among the prompts kept
  left: int        # rows that have not finished


class _Shard:
  """The queue and the slots of one shard."""

  def __init__(self, layout: Layout):
    self.layout = layout
    self.unread: deque[tuple[int, int]] = deque()                # (batch, prompt): not prefilled
    self.waiting: deque[tuple[_Prompt, int]] = deque()           # (prompt, sample): prefilled
    self.rows: list[_Prompt | None] = [None] * layout.slots      # the prompt of each row in flight
    self.free_prompts = list(range(layout.prompt_slots))[::-1]

  @property
  def alive(self) -> int:
    return sum(row is not None for row in self.rows)

  @property
  def wants_prefill(self) -> bool:
    """Whether slots would stay empty without more prompts, and there is room for these."""
    free = self.layout.slots - self.alive
    take = min(len(self.unread), self.layout.prefilled)
    return 0 < take <= len(self.free_prompts) and free > len(self.waiting)


class _OfShard(Protocol):
  """What one shard's part of the slots holds."""
  rows: list[Any]      # of each slot: its row, or None

  @property
  def alive(self) -> int: ...


class SlotRows:
  """The rows in the slots of all shards.

  Attributes:
    layout: the sizes.
  """
  layout: Layout
  _shards: Sequence[_OfShard]

  @property
  def alive(self) -> int:
    """Rows in flight of the shard that has most of them."""
    return max(shard.alive for shard in self._shards)

  def move(self, size: int) -> list[np.ndarray]:
    """Moves after which all rows are in the first `size` slots, at most MOVED of a shard at a time.

    Each is [2, shards, MOVED]: sources and targets; a target of `slots` means that nothing moves.
    Rows in flight must be `size` or fewer.
    """
    moves: list[list[tuple[int, int]]] = []
    for shard in self._shards:
      empty = [slot for slot in range(size) if shard.rows[slot] is None]
      late = [slot for slot in range(size, self.layout.slots) if shard.rows[slot] is not None]
      moves.append(list(zip(late, empty)))
      for source, target in moves[-1]:
        shard.rows[target], shard.rows[source] = shard.rows[source], None
    return [self._padded([of_shard[start:start + MOVED] for of_shard in moves])
            for start in range(0, max(map(len, moves)), MOVED)]

  def _padded(self, moves: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
    found = np.zeros((2, len(moves), MOVED), np.int32)
    found[1] = self.layout.slots
    for s, pairs in enumerate(moves):
      for i, pair in enumerate(pairs):
        found[:, s, i] = pair
    return found


class Schedule(SlotRows):
  """Who decodes where; every method answers for all shards, as arrays [shards, ·].

  Attributes:
    layout: the sizes.
  """

  def __init__(self, layout: Layout):
    self.layout = layout
    self._shards: list[_Shard] = [_Shard(layout) for _ in range(layout.shards)]
    self._left: dict[int, int] = {}      # batch -> rows that have not finished
    self._batches = 0

  def add_batch(self) -> None:
    """One more batch waits."""
    for shard in self._shards:
      shard.unread.extend((self._batches, number) for number in range(self.layout.prompts))
    self._left[self._batches] = self.layout.rows * self.layout.shards
    self._batches += 1

  @property
  def has_room(self) -> bool:
    """Whether the completions of one more batch can be kept."""
    return len(self._left) < self.layout.batches

  def pop_completed(self) -> int | None:
    """The oldest batch, if all of its rows have finished; it is then forgotten."""
    oldest = min(self._left, default=None)
    if oldest is None or self._left[oldest]:
      return None
    del self._left[oldest]
    return oldest

  @property
  def waits(self) -> bool:
    """Whether a row does not decode yet."""
    return any(shard.unread or shard.waiting for shard in self._shards)

  @property
  def wants_rows(self) -> bool:
    """Whether slots are empty that no waiting row will fill."""
    return any(shard.layout.slots - shard.alive > len(shard.waiting) + self.layout.group_size * len(
        shard.unread) for shard in self._shards)

  def finish(self, active: np.ndarray) -> int:
    """Takes out the rows that are no longer active, and counts them; `active` [shards, slots]."""
    count = 0
    for shard, flags in zip(self._shards, active):
      for slot, prompt in enumerate(shard.rows):
        if prompt is not None and not flags[slot]:
          shard.rows[slot] = None
          count += 1
          prompt.left -= 1
          self._left[prompt.batch] -= 1
          if not prompt.left:
            shard.free_prompts.append(prompt.slot)
    return count

  def prefill(self) -> tuple[int, np.ndarray, np.ndarray] | None:
    """(batch, the prompts of it to prefill, the places that they are kept at), or None.

    Both are [shards, prefilled]; a place of `prompt_slots` means that the prompt is left out.
    """
    if not any(shard.wants_prefill for shard in self._shards):
      return None
    batch = min(shard.unread[0][0] for shard in self._shards if shard.wants_prefill)
    shape = len(self._shards), self.layout.prefilled
    numbers, places = np.zeros(shape, np.int32), np.full(shape, self.layout.prompt_slots, np.int32)
    for s, shard in enumerate(self._shards):
      for i in range(self.layout.prefilled):
        if not shard.unread or shard.unread[0][0] != batch or not shard.free_prompts:
          break
        _, number = shard.unread.popleft()
        prompt = _Prompt(batch, number, shard.free_prompts.pop(), self.layout.group_size)
        shard.waiting.extend((prompt, sample) for sample in range(self.layout.group_size))
        numbers[s, i], places[s, i] = number, prompt.slot
    return batch, numbers, places

  def admit(self) -> np.ndarray | None:
    """[4, shards, slots] of what enters each slot: prompt slot, sample, row, batch; or None.

    The prompt slot is NONE where nothing enters. Rows are counted within the shard's batch.
    """
    entering = np.full((4, len(self._shards), self.layout.slots), NONE, np.int32)
    for s, shard in enumerate(self._shards):
      for slot, row in enumerate(shard.rows):
        if row is None and shard.waiting:
          prompt, sample = shard.waiting.popleft()
          shard.rows[slot] = prompt
          row_number = prompt.number * self.layout.group_size + sample
          sample += s % self.layout.copies * self.layout.group_size
          entering[:, s, slot] = prompt.slot, sample, row_number, prompt.batch
    return entering if np.any(entering[0] != NONE) else None
