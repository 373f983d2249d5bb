"""Groups that are drawn over several iterations: which of their rows decodes in which slot.

The pool holds half as many groups more than a batch, at most: the more are carried, the older are
the tokens that are trained on. Rows of groups that earlier iterations began come first; a new group
begins where slots would stay empty. An iteration ends when a batch of groups is complete, and with
them all those that must not be carried further. As at most half a batch is carried, they always fit
in one.
"""
from collections import deque
from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from r1jax.records import Prompts
from r1jax.sampling.schedule import MOVED, NONE, Layout, SlotRows
from r1jax.sampling.slots import Resumed


@dataclasses.dataclass(eq=False)
class Group:
  """A prompt and what is drawn of its G completions, on the host.

  Attributes:
    prompt: [P] int32, padded on the right.
    prompt_length: its tokens.
    example_id: of the prompt.
    begun: the iteration that took it from the data.
    tokens: [G, C] int32.
    logprobs: [G, C] float32, of the full distribution.
    truncated: [G, C] float32, of the truncated distribution.
    versions: [G, C] int32, the iteration that drew each token.
    lengths: [G] int32.
    finished: [G] bool: a stop token was drawn.
    place: among the groups of its shard, in this iteration.
    slot: of its prompt; NONE where it is not prefilled.
    left: rows that are to be drawn further.
  """
  prompt: np.ndarray
  prompt_length: int
  example_id: int
  begun: int
  tokens: np.ndarray
  logprobs: np.ndarray
  truncated: np.ndarray
  versions: np.ndarray
  lengths: np.ndarray
  finished: np.ndarray
  place: int = NONE
  slot: int = NONE
  left: int = 0

  @classmethod
  def new(cls, prompt: np.ndarray, prompt_length: int, example_id: int, begun: int,
          shape: tuple[int, int]) -> 'Group':
    """A group without tokens; `shape` is (G, C)."""
    ints, floats = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    return cls(prompt, prompt_length, example_id, begun, ints, floats, floats.copy(), ints.copy(),
               np.zeros(shape[0], np.int32), np.zeros(shape[0], bool))

  @property
  def undone(self) -> np.ndarray:
    """The samples that are to be drawn further."""
    return np.flatnonzero(~self.finished & (self.lengths < self.tokens.shape[1]))


@dataclasses.dataclass(frozen=True)
class Row:
  """A completion of a group."""
  group: Group
  sample: int


class _Shard:
  """The groups and the slots of one shard."""

  def __init__(self, layout: Layout):
    self.layout = layout
    self.unread: deque[Group] = deque()     # not prefilled
    self.waiting: deque[Row] = deque()     # prefilled
    self.rows: list[Row | None] = [None] * layout.slots
    self.free_prompts = list(range(layout.prompt_slots))[::-1]
    self.num_groups = 0

  @property
  def alive(self) -> int:
    return sum(row is not None for row in self.rows)

  @property
  def has_room(self) -> bool:
    return self.num_groups < self.layout.prompts + max(1, self.layout.prompts // 2)

  @property
  def to_draw(self) -> int:
    """Rows that wait, read or not, and that decode."""
    return self.alive + len(self.waiting) + sum(group.left for group in self.unread)

  @property
  def wants_prefill(self) -> bool:
    free = self.layout.slots - self.alive
    return bool(self.unread and self.free_prompts) and free > len(self.waiting)

  def add(self, group: Group) -> None:
    group.place, group.slot, group.left = self.num_groups, NONE, len(group.undone)
    self.num_groups += 1
    if group.left:
      self.unread.append(group)


class Pool(SlotRows):
  """Who decodes where, of groups that may be carried; arrays are [shards, ·].

  Attributes:
    layout: the sizes; `batches` is 2.
    groups: all of them, in the order in which they were taken from the data.
    shard_of: the shard of each group.
  """

  def __init__(self, layout: Layout, carried: Sequence[Group], *, due: int):
    """Holds the groups that were carried.

    Args:
      layout: the sizes.
      carried: at most a batch, in order.
      due: groups that began in this iteration or before must be completed.
    """
    self.layout, self._due, self._is_closed = layout, due, False
    self._shards: list[_Shard] = [_Shard(layout) for _ in range(layout.shards)]
    self.groups: list[Group] = []
    self.shard_of: list[int] = []
    for group in carried:
      self._add(group)

  def _add(self, group: Group) -> None:
    """Gives a group to the shard that has the fewest rows to draw."""
    shards = [s for s, shard in enumerate(self._shards) if shard.has_room]
    chosen = min(shards, key=lambda s: self._shards[s].to_draw)
    self._shards[chosen].add(group)
    self.groups.append(group)
    self.shard_of.append(chosen)

  def fill(self, new_groups: Iterator[Group]) -> None:
    """Takes new groups while slots would stay empty without them."""
    while any(shard.has_room and shard.to_draw < self.layout.slots for shard in self._shards):
      group = next(new_groups, None)
      if group is None:
        self._is_closed = True
        return
      self._add(group)

  @property
  def batch_size(self) -> int:
    """Groups of a batch."""
    return self.layout.prompts * self.layout.shards

  @property
  def is_complete(self) -> bool:
    """Whether a batch is complete, and with it all groups that must not be carried further."""
    return (sum(not group.left for group in self.groups) >= self.batch_size
            and not any(group.left and group.begun <= self._due for group in self.groups))

  def split(self) -> tuple[list[Group], list[Group]]:
    """(the groups of the batch, the first ones that are complete; the others), in order."""
    done = [group for group in self.groups if not group.left][:self.batch_size]
    return done, [group for group in self.groups if group not in done]

  @property
  def waits(self) -> bool:
    """Whether a row does not decode yet, or a new group could begin."""
    return any(shard.unread or shard.waiting or (shard.has_room and not self._is_closed)
               for shard in self._shards)

  def finish(self, active: np.ndarray) -> None:
    """Takes out the rows that are no longer active; `active` [shards, slots] bool."""
    for shard, flags in zip(self._shards, active):
      for slot, row in enumerate(shard.rows):
        if row is not None and not flags[slot]:
          shard.rows[slot] = None
          row.group.left -= 1
          if not row.group.left:
            shard.free_prompts.append(row.group.slot)

  def read(self) -> tuple[Prompts, np.ndarray] | None:
    """(prompts to prefill, the places [shards, q] that they are kept at), or None.

    A place of `prompt_slots` means that the prompt is left out. Afterwards the rows wait.
    """
    if not any(shard.wants_prefill for shard in self._shards):
      return None
    like = self.groups[0]
    shape = len(self._shards), self.layout.prefilled
    tokens: Any = np.zeros((*shape, like.prompt.size), np.int32)
    lengths: Any = np.ones(shape, np.int32)
    ids: Any = np.zeros(shape, np.int32)
    places = np.full(shape, self.layout.prompt_slots, np.int32)
    for s, shard in enumerate(self._shards):
      for i in range(self.layout.prefilled):
        if not shard.wants_prefill:
          break
        group = shard.unread.popleft()
        group.slot = shard.free_prompts.pop()
        shard.waiting.extend(Row(group, int(sample)) for sample in group.undone)
        tokens[s, i], lengths[s, i], ids[s, i] = (
            group.prompt, group.prompt_length, group.example_id)
        places[s, i] = group.slot
    flat = Prompts(tokens.reshape(-1, like.prompt.size), lengths.reshape(-1), ids.reshape(-1))
    return flat, places

  def enter(self) -> tuple[np.ndarray | None, list[Resumed]]:
    """Lets waiting rows take empty slots: (new rows, as `Schedule.admit`; rows that go on)."""
    entering = np.full((4, len(self._shards), self.layout.slots), NONE, np.int32)
    resumed: list[list[tuple[int, Row]]] = []
    for s, shard in enumerate(self._shards):
      resumed.append([])
      for slot in range(self.layout.slots):
        if shard.rows[slot] is None and shard.waiting:
          row = shard.rows[slot] = shard.waiting.popleft()
          if row.group.lengths[row.sample]:
            resumed[-1].append((slot, row))
          else:
            entering[:, s, slot] = row.group.slot, row.sample, self.number(row), 0
    batches = [self._resumed([rows[start:start + MOVED] for rows in resumed])
               for start in range(0, max(map(len, resumed)), MOVED)]
    return entering if np.any(entering[0] != NONE) else None, batches

  def row(self, shard: int, slot: int) -> Row | None:
    """The row in a slot."""
    return self._shards[shard].rows[slot]

  def number(self, row: Row) -> int:
    """The place of a row among the completions of its shard."""
    return row.group.place * self.layout.group_size + row.sample

  def _resumed(self, rows: Sequence[Sequence[tuple[int, Row]]]) -> Resumed:
    shape = len(self._shards), MOVED
    tokens: Any = np.zeros((*shape, self.groups[0].tokens.shape[1]), np.int32)
    numbers: Any = {name: np.zeros(shape, np.int32)
                    for name in ('rows', 'prompts', 'samples', 'iterations')}
    lengths: Any = np.ones(shape, np.int32)
    slots: Any = np.full(shape, self.layout.slots, np.int32)
    for s, of_shard in enumerate(rows):
      for i, (slot, row) in enumerate(of_shard):
        group, sample = row.group, row.sample
        tokens[s, i], lengths[s, i], slots[s, i] = group.tokens[sample], group.lengths[sample], slot
        for name, number in (('rows', self.number(row)), ('prompts', group.slot),
                             ('samples', sample), ('iterations', group.versions[sample, 0])):
          numbers[name][s, i] = number
    return Resumed(tokens=tokens, lengths=lengths, slots=slots, **numbers)
