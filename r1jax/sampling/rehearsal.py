"""Which programs a rollout runs, and how often, if its completions had given lengths.

The sampler's own loop is run on the host with programs that only count.
"""
import collections
import copy
import dataclasses
import statistics
from typing import Any

import numpy as np

from r1jax.records import Prompts
from r1jax.sampling.drawing import SlotPrograms
from r1jax.sampling.sampler import Sampler
from r1jax.sampling.schedule import NONE, Layout

_DEVIATION = 0.9     # of the logarithm of lengths


@dataclasses.dataclass(frozen=True)
class Chunks:
  """The chunks that decode so many rows.

  Attributes:
    rows: of a shard that the program decodes at each step.
    calls: chunks.
    steps: tokens of a row that they decode, together.
    drawn: tokens that belong to completions, of all shards.
    columns: tokens of its own that a row reads at a step, on average over all rows, also those that
      have finished.
  """
  rows: int
  calls: int
  steps: int
  drawn: int
  columns: float


@dataclasses.dataclass(frozen=True)
class Rehearsal:
  """What a rollout runs.

  Attributes:
    layout: the sizes of its arrays.
    prefills: how often prompts are prefilled.
    admits: how often rows enter.
    moves: how often rows are moved together.
    chunks: by the number of rows, the most first.
  """
  layout: Layout
  prefills: int
  admits: int
  moves: int
  chunks: tuple[Chunks, ...]

  @property
  def row_steps(self) -> int:
    """Tokens that the programs compute, of all shards."""
    return self.layout.shards * sum(one.rows * one.steps for one in self.chunks)

  @property
  def useful(self) -> float:
    """The share of them that belongs to completions."""
    return sum(one.drawn for one in self.chunks) / self.row_steps


def lognormal_lengths(count: int, limit: int, mean: float) -> np.ndarray:
  """[count] lengths of completions, as they are assumed where nothing has been drawn.

  Their logarithm is normal with a deviation of 0.9, they are cut at the limit, and their mean is
  the one given. They are that distribution's quantiles in a fixed random order.

  Args:
    count: how many.
    limit: the greatest length.
    mean: from 1 to the limit. At the limit all have the greatest length.
  """
  normal = statistics.NormalDist()
  deviations = np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
  lengths, low, high = np.full(count, limit), -10.0, 10.0     # of the median's logarithm / limit
  if mean < limit:
    for _ in range(50):
      middle = (low + high) / 2
      exact = limit * np.exp(middle + _DEVIATION * deviations)
      lengths = np.clip(np.ceil(exact), 1, limit).astype(int)
      low, high = (middle, high) if np.mean(lengths) < mean else (low, middle)
  return np.random.default_rng(0).permutation(lengths)


def rehearse(sampler: Sampler, lengths: np.ndarray) -> Rehearsal:
  """What a rollout of completions of these lengths runs, on the ambient mesh.

  Args:
    sampler: with the settings of the rollout; its programs are not run.
    lengths: [batches, B, G] int, tokens of the completions. Several batches are taken as
      `Sampler.stream` takes them.
  """
  num_batches, num_prompts, _ = lengths.shape
  programs, run = _Programs(lengths.reshape(num_batches, -1)), copy.copy(sampler)
  run.programs = programs.as_slot_programs()
  numbers: Any = np.arange(num_prompts, dtype=np.int32)
  prompts = Prompts(numbers[:, None], numbers, numbers)
  if num_batches == 1:
    run(None, prompts, 0)
  else:
    collections.deque(run.stream(None, [prompts] * num_batches, 0), maxlen=0)
  return programs.counted()


def _nothing(*_, **__) -> None:
  """Takes the place of a program that is not counted."""


class _Programs:
  """The programs of a sampler, as they would go for rows that end at given lengths.

  The slots that they hand on are this object.
  """

  def __init__(self, lengths: np.ndarray):
    self._ends = lengths
    self._counts = dict.fromkeys(('prefill', 'admit', 'move'), 0)
    self._chunks: dict[int, np.ndarray] = {}     # rows -> calls, steps, drawn, columns read
    self.completions = None

  def as_slot_programs(self) -> SlotPrograms:
    """These in place of the sampler's."""
    programs: Any = dict(
        reshard=_nothing, empty_slots=self.empty_slots, prefill=self.prefill, admit=self.admit,
        resume=_nothing, move=self.move, decode_chunk=self.decode_chunk, to_rollout=_nothing)
    return SlotPrograms(**programs)

  def empty_slots(self, params, prompts, *, layout: Layout) -> '_Programs':
    self._layout = layout
    shape = layout.shards, layout.slots
    self._lengths, self._left = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    return self

  def prefill(self, *_, **__) -> '_Programs':
    self._counts['prefill'] += 1
    return self

  def admit(self, slots, entering, *_, **__) -> '_Programs':
    self._counts['admit'] += 1
    prompt, _, row, batch = entering
    enters = prompt != NONE
    shards = np.arange(self._layout.shards)[:, None]
    ends = self._ends[np.where(enters, batch, 0), shards * self._layout.rows + row]
    self._left = np.where(enters, ends, self._left)
    self._lengths = np.where(enters, 0, self._lengths)
    return self

  def move(self, slots, moves) -> '_Programs':
    self._counts['move'] += 1
    for shard, (sources, targets) in enumerate(np.swapaxes(moves, 0, 1)):
      for source, target in zip(sources, targets):
        if target < self._layout.slots:
          for table in (self._lengths, self._left):
            table[shard, target] = table[shard, source]
          self._left[shard, source] = 0
    return self

  def decode_chunk(self, params, slots, steps, least, *, num_rows: int):
    left, lengths = self._left[:, :num_rows], self._lengths[:, :num_rows]
    steps, least = int(steps), int(least)
    alive = [np.max(np.sum(left > step, 1)) for step in range(steps)]
    taken = next((step for step, count in enumerate(alive) if count <= least), steps)
    drawn = np.minimum(left, taken)
    columns = np.sum(drawn * lengths + drawn * (drawn - 1) // 2)
    found = self._chunks.setdefault(num_rows, np.zeros(4))
    found += 1, taken, np.sum(drawn), columns
    left -= drawn
    lengths += drawn
    return self, self._left > 0

  def counted(self) -> Rehearsal:
    """What was run."""
    shards = self._layout.shards
    chunks = [Chunks(rows, int(calls), int(steps), int(drawn), columns / (steps * rows * shards))
              for rows, (calls, steps, drawn, columns) in self._chunks.items()]
    counts = self._counts
    return Rehearsal(self._layout, counts['prefill'], counts['admit'], counts['move'], tuple(
        sorted(chunks, key=lambda one: -one.rows)))
