"""The host's side of the engine, against a simulation of rows that end at random."""
import numpy as np
import pytest

from r1jax.sampling.schedule import NONE, Layout, Schedule, row_buckets, splits


@pytest.mark.parametrize('slots', [1, 7, 8, 20, 64, 100, 512])
def test_buckets_descend_from_all_slots_to_about_an_eighth(slots):
  sizes = row_buckets(slots)
  assert sizes[0] == slots and sizes == sorted(set(sizes), reverse=True) and len(sizes) <= 7
  assert all(size % (4 if slots >= 64 else 8) == 0 for size in sizes[1:])
  assert sizes[-1] <= max(8, slots / 16 + 4)


def test_shards_split_prompts_or_the_completions_of_each():
  assert [splits(shards, 4, 6) for shards in (1, 2, 3, 4, 8, 12, 16, 24)] == [
      True, True, False, True, True, True, False, True]
  layout = Layout.of(shards=8, prompts=4, group_size=6, slots=0, batches=1)
  assert (layout.copies, layout.prompts, layout.group_size, layout.rows) == (2, 1, 3, 3)


def test_prompts_that_are_kept_are_bounded_by_the_slots():
  layout = Layout.of(shards=2, prompts=256, group_size=16, slots=64, batches=1)
  assert (layout.slots, layout.prompts, layout.rows) == (32, 128, 2048)
  assert layout.prefilled == 2 and layout.prompt_slots <= 12
  assert Layout.of(shards=1, prompts=4, group_size=8, slots=0, batches=1) == Layout(
      shards=1, copies=1, prompts=4, group_size=8, slots=32, prefilled=4, prompt_slots=4, batches=1)
  assert Layout.of(shards=2, prompts=4, group_size=8, slots=1000, batches=1).slots == 16


class Device:
  """What the device programs would do, with checks of what the schedule may ask for."""

  def __init__(self, layout, lengths):
    self.layout, self.lengths = layout, lengths        # [batch, shard, row]
    shape = layout.shards, layout.slots
    self.rows = np.full((*shape, 2), NONE)              # (batch, row) of each slot
    self.left = np.zeros(shape, int)
    self.prompts = np.full((layout.shards, layout.prompt_slots, 2), NONE)
    self.begun = []

  def prefill(self, batch, numbers, places):
    for s, i in np.ndindex(numbers.shape):
      if places[s, i] < self.layout.prompt_slots:
        self.prompts[s, places[s, i]] = batch, numbers[s, i]

  def admit(self, entering):
    for s, slot in np.ndindex(self.left.shape):
      prompt, sample, row, batch = entering[:, s, slot]
      if prompt != NONE:
        assert self.left[s, slot] == 0
        assert (self.prompts[s, prompt] == (batch, row // self.layout.group_size)).all()
        first = s % self.layout.copies * self.layout.group_size    # sample of this shard
        assert row % self.layout.group_size + first == sample
        self.rows[s, slot], self.left[s, slot] = (batch, row), self.lengths[batch, s, row]
        self.begun.append((batch, s, row))

  def move(self, moves):
    for (s, i), source in np.ndenumerate(moves[0]):
      target = moves[1, s, i]
      if target < self.layout.slots:
        assert self.left[s, source] and not self.left[s, target]
        self.rows[s, target], self.left[s, target] = self.rows[s, source], self.left[s, source]
        self.left[s, source] = 0

  def decode(self, steps, size):
    assert not self.left[:, size:].any()
    self.left = np.maximum(self.left - steps, 0)
    return self.left > 0


@pytest.mark.parametrize('shards, prompts, group_size, slots, batches', [
    (1, 4, 3, 0, 1), (1, 12, 3, 5, 1), (2, 8, 4, 16, 1), (2, 6, 1, 4, 5), (1, 3, 16, 20, 7),
    (4, 4, 2, 1, 3), (8, 2, 12, 16, 3)])
def test_each_row_is_drawn_once_in_the_order_of_the_prompts(
    shards, prompts, group_size, slots, batches):
  layout = Layout.of(shards=shards, prompts=prompts, group_size=group_size, slots=slots,
                     batches=min(batches, 3))
  rng = np.random.default_rng(0)
  device = Device(layout, rng.geometric(0.1, (batches, shards, layout.rows)))
  schedule, given, completed, buckets = Schedule(layout), 0, [], row_buckets(layout.slots)
  while True:
    while given < batches and schedule.has_room and schedule.wants_rows:
      schedule.add_batch()
      given += 1
    while (found := schedule.prefill()) is not None:
      device.prefill(*found)
    if (entering := schedule.admit()) is not None:
      device.admit(entering)
    if not schedule.alive:
      break
    if not schedule.waits and given == batches:
      buckets = [size for size in buckets if size >= schedule.alive]
      for moves in schedule.move(buckets[-1]):
        device.move(moves)
      schedule.finish(device.decode(4, buckets[-1]))
    else:
      schedule.finish(device.decode(4, layout.slots))
    while (batch := schedule.pop_completed()) is not None:
      completed.append(batch)
  assert completed == list(range(batches))
  for s in range(shards):
    assert [(batch, row) for batch, shard, row in device.begun if shard == s] == [
        (batch, row) for batch in range(batches) for row in range(layout.rows)]


def test_slots_are_full_while_rows_wait():
  layout = Layout.of(shards=1, prompts=64, group_size=4, slots=32, batches=1)
  device = Device(layout, np.random.default_rng(0).geometric(0.05, (1, 1, layout.rows)))
  schedule = Schedule(layout)
  schedule.add_batch()
  full = []
  while schedule.waits:
    while (found := schedule.prefill()) is not None:
      device.prefill(*found)
    if (entering := schedule.admit()) is not None:
      device.admit(entering)
    if schedule.waits:
      full.append(schedule.alive == layout.slots)
    schedule.finish(device.decode(1, layout.slots))
  assert np.mean(full) > 0.95
