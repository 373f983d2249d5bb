"""Packing prompts and their completions into rows of fixed length, for RL."""
from typing import Any

import numpy as np

from r1jax.records import Packing


def pack_groups(
    prompt_lengths: np.ndarray, completion_lengths: np.ndarray, *, row_length: int, num_rows: int,
    longest: int,
) -> Packing:
  """Packs prompts and their completions, each completion into the row that it fills best.

  This is best fit decreasing. Groups are placed from the largest to the smallest, and the
  completions of a group from the longest to the shortest. Each goes into the fullest row that has
  room for it, and for a copy of its prompt if it is the first of its group in that row; among
  equally full rows the oldest is taken; if none has room, a new row is started. A row takes at most
  M completions, 16 · ⌈T / longest⌉ or all N.

  The result depends only on the arguments. The shapes do not depend on the lengths, so that a
  program that takes packings is compiled once: K and M depend on N, `longest`, `row_length` and
  `num_rows`.

  Args:
    prompt_lengths: [B], each at least 1.
    completion_lengths: [N], N = B·G, the completions of a group together; 0 is allowed.
    row_length: T.
    num_rows: R, the rows of a micro-batch.
    longest: the largest allowed length of a prompt and a completion together, at most T.

  Returns:
    The packing, of numpy arrays.

  Raises:
    ValueError: the lengths are not those of groups or exceed `longest`, or `longest` exceeds T.
  """
  prompts, completions = np.asarray(prompt_lengths), np.asarray(completion_lengths)
  _check_lengths(prompts, completions, row_length, longest)
  num_slots = min(completions.size, 16 * -(-row_length // longest))    # M
  rows = _best_fit_rows(prompts, completions.reshape(prompts.size, -1), row_length, num_slots)
  # Of the rows with fewer than M completions, any two have more than T tokens together, or they
  # would be one row.
  most_rows = min(completions.size, 2 * completions.size * longest // row_length + 1
                  + completions.size // num_slots)
  num_micro_batches = -(-most_rows // num_rows)
  by_place = num_micro_batches, num_rows, row_length
  by_slot = num_micro_batches, num_rows, num_slots
  packing: dict[str, Any] = dict(
      segment_ids=np.zeros(by_place, np.int32),
      positions=np.zeros(by_place, np.int32),
      completions=np.full(by_slot, completions.size, np.int32),
      starts=np.zeros(by_slot, np.int32),
      prompt_ends=np.zeros(by_slot, np.int32))
  for number, row in enumerate(rows):
    place = divmod(number, num_rows)
    _write_row({name: array[place] for name, array in packing.items()}, row, prompts, completions)
  packing['num_micro_batches'] = np.int32(-(-len(rows) // num_rows))
  return Packing(**packing)


def _check_lengths(
    prompts: np.ndarray, completions: np.ndarray, row_length: int, longest: int) -> None:
  if prompts.ndim != 1 or not prompts.size or completions.ndim != 1 or (
      completions.size % prompts.size or not completions.size):
    raise ValueError(f'pack_groups: prompt_lengths {prompts.shape} and completion_lengths '
                     f'{completions.shape} do not fit: give [B] and [N], N a multiple of B')
  if prompts.min() < 1 or completions.min() < 0:
    raise ValueError('pack_groups: prompt_lengths must be at least 1 and completion_lengths at '
                     f'least 0, got minima of {prompts.min()} and {completions.min()}')
  longest_pair = int((np.repeat(prompts, completions.size // prompts.size) + completions).max())
  if longest_pair > longest:
    raise ValueError(f'pack_groups: a prompt and its completion have {longest_pair} tokens, more '
                     f'than longest={longest}: raise longest')
  if longest > row_length:
    raise ValueError(f'pack_groups: longest={longest} exceeds row_length={row_length}: raise '
                     'row_length')


def _best_fit_rows(
    prompts: np.ndarray, completions: np.ndarray, row_length: int, num_slots: int,
) -> list[dict[int, list[int]]]:
  """The completion numbers of each row by their prompt's number.

  Args:
    prompts: [B] lengths.
    completions: [B, G] lengths.
    row_length: T.
    num_slots: M.
  """
  room = np.zeros(completions.size, np.int64)    # of each row
  slots = np.zeros(completions.size, np.int64)   # likewise
  rows: list[dict[int, list[int]]] = []
  for b in np.argsort(-(prompts + completions.sum(1)), kind='stable').tolist():
    copy = np.full(completions.size, prompts[b])    # what prompt b would still take of each row
    for g in np.argsort(-completions[b], kind='stable').tolist():
      left = room[:len(rows)] - copy[:len(rows)] - completions[b, g]
      fits = (left >= 0) & (slots[:len(rows)] > 0)
      if fits.any():
        row = int(np.where(fits, left, row_length).argmin())
      else:
        row = len(rows)
        rows.append({})
        room[row], slots[row] = row_length, num_slots
      room[row] -= copy[row] + completions[b, g]
      slots[row] -= 1
      copy[row] = 0
      rows[row].setdefault(b, []).append(b * completions.shape[1] + g)
  return rows


def _write_row(
    arrays: dict[str, np.ndarray], row: dict[int, list[int]], prompts: np.ndarray,
    completions: np.ndarray,
) -> None:
  """Writes one row of the packing.

  Args:
    arrays: the fields of `Packing` for this row, [T] or [M], written in place.
    row: the numbers of its completions by their prompt's number.
    prompts: [B] lengths.
    completions: [N] lengths.
  """
  end = slot = 0
  for b, members in row.items():
    end = _write_segment(arrays, end, 1 + b, prompts[b], 0)
    prompt_end = end - 1
    for n in members:
      arrays['completions'][slot] = n
      arrays['starts'][slot] = end
      arrays['prompt_ends'][slot] = prompt_end
      slot += 1
      end = _write_segment(arrays, end, 1 + len(prompts) + n, completions[n], prompts[b])


def _write_segment(
    arrays: dict[str, np.ndarray], start: int, segment: int, length: int, first_position: int,
) -> int:
  """Writes the ids and positions of one prompt or completion, and returns where it ends."""
  end = start + int(length)
  arrays['segment_ids'][start:end] = segment
  arrays['positions'][start:end] = np.arange(first_position, first_position + length)
  return end
