"""Packing prompts and their completions into rows of fixed length, for RL."""
import numpy as np

from r1jax.records import Packing


def pack_groups(
    prompt_lengths: np.ndarray, completion_lengths: np.ndarray, *, row_length: int, num_rows: int,
    longest: int,
) -> Packing:
  """Packs prompts and their completions, each completion into the row that it fills best.

  Best fit decreasing: groups from the largest on, and their completions from the longest on, go
  into the fullest row that has room for them (and for a copy of their prompt, if they are its
  first of that row), the oldest of equals, or open a row. The result depends on the arguments
  alone; K on N, `longest`, `row_length` and `num_rows` only, and M is 8, 32, 128, ...: so a program
  that takes packings is compiled for few shapes.

  Args:
    prompt_lengths: [B], each at least 1.
    completion_lengths: [N], N a multiple of B, those of a group together; 0 is a length, too.
    row_length: T.
    num_rows: R, of a micro-batch.
    longest: what a prompt and a completion of it may have together, at most T.

  Returns:
    The packing, of numpy arrays.

  Raises:
    ValueError: lengths are not those of groups, or exceed `longest`, or `longest` exceeds a row.
  """
  prompts, completions = np.asarray(prompt_lengths), np.asarray(completion_lengths)
  if prompts.ndim != 1 or not prompts.size or completions.ndim != 1 or (
      completions.size % prompts.size or not completions.size):
    raise ValueError(f'pack_groups: prompt_lengths {prompts.shape} and completion_lengths '
                     f'{completions.shape} do not fit: give [B] and [N], N a multiple of B')
  if prompts.min() < 1 or completions.min() < 0:
    raise ValueError('pack_groups: a prompt has no token, or a completion fewer than none: give '
                     'lengths from 1 and from 0 on')
  size = completions.size // prompts.size
  found = int((np.repeat(prompts, size) + completions).max())
  if not found <= longest <= row_length:
    raise ValueError(f'pack_groups: a prompt and its completion have {found} tokens, of at most '
                     f'longest={longest}, in rows of row_length={row_length}: raise the lower')
  rows = _best_rows(prompts, completions.reshape(-1, size), row_length)
  most = max(sum(map(len, row.values())) for row in rows)
  slots = 8
  while slots < most:
    slots *= 4
  # Of two rows one is more than half full, else they had been one.
  capacity = min(completions.size, 2 * completions.size * longest // row_length + 1)
  count = -(-capacity // num_rows)
  packing = Packing(
      segment_ids=np.zeros((count, num_rows, row_length), np.int32),
      positions=np.zeros((count, num_rows, row_length), np.int32),
      completions=np.full((count, num_rows, slots), completions.size, np.int32),
      starts=np.zeros((count, num_rows, slots), np.int32),
      prompt_ends=np.zeros((count, num_rows, slots), np.int32),
      num_micro_batches=np.int32(-(-len(rows) // num_rows)))
  for number, row in enumerate(rows):
    _lay_out(packing, divmod(number, num_rows), row, prompts, completions)
  return packing


def _best_rows(prompts, completions, row_length) -> list[dict[int, list[int]]]:
  """For each row the completions by their prompt; completions [B, G]."""
  room = np.zeros(completions.size, np.int64)
  rows = []
  for b in np.argsort(-(prompts + completions.sum(1)), kind='stable').tolist():
    copy = np.full(completions.size, prompts[b])     # what b's prompt still takes of each row
    for g in np.argsort(-completions[b], kind='stable').tolist():
      left = room[:len(rows)] - copy[:len(rows)] - completions[b, g]
      fits = left >= 0
      if fits.any():
        row = int(np.where(fits, left, row_length).argmin())
      else:
        row = len(rows)
        rows.append({})
        room[row] = row_length
      room[row] -= copy[row] + completions[b, g]
      copy[row] = 0
      rows[row].setdefault(b, []).append(b * completions.shape[1] + g)
  return rows


def _lay_out(packing: Packing, place, row, prompts, completions) -> None:
  """Writes a row into the packing, at its [K, R] place."""
  segment_ids, positions = packing.segment_ids[place], packing.positions[place]
  end = slot = 0

  def append(segment, length, position):
    nonlocal end
    segment_ids[end:end + length] = segment
    positions[end:end + length] = np.arange(position, position + length)
    end += length

  for b, members in row.items():
    append(1 + b, prompts[b], 0)
    prompt_end = end - 1
    for n in members:
      packing.completions[place][slot] = n
      packing.starts[place][slot] = end
      packing.prompt_ends[place][slot] = prompt_end
      append(1 + len(prompts) + n, completions[n], prompts[b])
      slot += 1
