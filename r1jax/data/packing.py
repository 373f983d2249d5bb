"""Packing documents into rows of fixed length, for pre-training and SFT."""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PackedRows:
  """R rows of T tokens; each document lies whole in one row.

  Attributes:
    tokens: [R, T] int32; padding at the end of a row has the id that `pack` was given.
    segment_ids: [R, T] int32: 1, 2, ... for the documents of a row, 0 for padding.
    positions: [R, T] int32, counted from 0 within each document; 0 in padding.
    weights: [R, T] float32, the loss weight of predicting the token from those before it in its
      document; 0 for a document's first token and for padding.
    num_overlong: documents longer than T that were cut or left out.
  """

  tokens: np.ndarray
  segment_ids: np.ndarray
  positions: np.ndarray
  weights: np.ndarray
  num_overlong: int


def pack(
    documents: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]] | None = None,
    *,
    row_length: int,
    overlong: str,
    pad_id: int = 0,
) -> PackedRows:
  """Packs documents, in their order, each into the row that it fills best.

  Best fit: a document goes into the fullest row that has room for it, the oldest of equals, or
  opens a row. The result depends on the arguments alone.

  Args:
    documents: token ids, each of one token or more.
    weights: parallel loss weights of predicting each token (0 for a prompt's); all 1 by default.
    row_length: T.
    overlong: what befalls a document of more than T tokens: 'cut' keeps the first T, 'skip' leaves
      it out, both counted; 'error' refuses it.
    pad_id: any id.

  Raises:
    ValueError: a document is empty, does not match its weights, or is too long and `overlong` is
      'error'; a setting is unknown.
  """
  if overlong not in ('cut', 'skip', 'error'):
    raise ValueError(f'overlong={overlong!r} is unknown: say \'cut\', \'skip\' or \'error\'.')
  if weights is None:
    weights = [np.ones(len(document), np.float32) for document in documents]
  if len(weights) != len(documents):
    raise ValueError(
        f'There are {len(weights)} lists of weights for {len(documents)} documents: give one each.')

  rows_with_room = [collections.deque() for _ in range(row_length + 1)]
  is_room = np.zeros(row_length + 1, bool)
  rows, num_overlong = [], 0
  for number, (document, document_weights) in enumerate(zip(documents, weights, strict=True)):
    length = len(document)
    if not length or len(document_weights) != length:
      raise ValueError(
          f'Document {number} has {length} tokens and {len(document_weights)} weights: give as '
          'many of both, and at least one.')
    if length > row_length:
      if overlong == 'error':
        raise ValueError(
            f'Document {number} has {length} tokens and a row holds {row_length}: raise row_length '
            'or set overlong to \'cut\' or \'skip\'.')
      num_overlong += 1
      if overlong == 'skip':
        continue
      length = row_length
    room = length + int(is_room[length:].argmax())
    if is_room[room]:
      row = rows_with_room[room].popleft()
      is_room[room] = bool(rows_with_room[room])
    else:
      room, row = row_length, len(rows)
      rows.append([])
    rows[row].append((document[:length], document_weights[:length]))
    rows_with_room[room - length].append(row)
    is_room[room - length] = True

  shape = len(rows), row_length
  packed = PackedRows(
      tokens=np.full(shape, pad_id, np.int32),
      segment_ids=np.zeros(shape, np.int32),
      positions=np.zeros(shape, np.int32),
      weights=np.zeros(shape, np.float32),
      num_overlong=num_overlong)
  for row, pieces in enumerate(rows):
    end = 0
    for segment, (document, document_weights) in enumerate(pieces, start=1):
      start, end = end, end + len(document)
      packed.tokens[row, start:end] = document
      packed.segment_ids[row, start:end] = segment
      packed.positions[row, start:end] = np.arange(end - start)
      packed.weights[row, start:end] = document_weights
      packed.weights[row, start] = 0
  return packed
