"""Packing documents into rows of fixed length, for pre-training and SFT."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np

from r1jax import checks
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PackedRows:
  """R rows of T tokens; each document lies completely in one row.

  Attributes:
    tokens: [R, T] int32; rows are padded at their end with the id that `pack` was given.
    segment_ids: [R, T] int32: 1, 2, ... for the documents of a row, 0 for padding.
    positions: [R, T] int32, counted from 0 within each document; 0 in padding.
    weights: [R, T] float32, the loss weight of predicting the token from those before it in its
      document; 0 for a document's first token and for padding.
    num_overlong: number of documents longer than T that were cut or skipped.
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
  """Packs documents, in order, each into the row that it fills best.

  This is best fit: a document goes into the fullest row that has room for it (the oldest of equally
  full ones), or starts a new row. The result depends only on the arguments.

  Args:
    documents: token ids, at least one per document.
    weights: the loss weight of predicting each token (0 for those of a prompt), in the same shape
      as the documents; all 1 by default.
    row_length: T.
    overlong: what happens to a document of more than T tokens: 'cut' keeps the first T and counts
      it, 'skip' leaves it out and counts it, 'error' raises.
    pad_id: the token id to pad with.

  Raises:
    UserError: a document is too long and `overlong` is 'error'.
    ValueError: a document is empty, or does not match its weights; or `overlong` is unknown.
  """
  checks.word(('cut', 'skip', 'error'), overlong=overlong)
  lengths = _check_documents(documents, weights, row_length, overlong)
  kept = row_length if overlong == 'cut' else 0    # tokens of a document that is too long
  rows = _best_fit_rows(
      [length if length <= row_length else kept for length in lengths], row_length)
  shape = len(rows), row_length
  packed = PackedRows(
      tokens=np.full(shape, pad_id, np.int32),
      segment_ids=np.zeros(shape, np.int32),
      positions=np.zeros(shape, np.int32),
      weights=np.zeros(shape, np.float32),
      num_overlong=sum(length > row_length for length in lengths))
  for row, members in enumerate(rows):
    end = 0
    for segment, number in enumerate(members, start=1):
      start, end = end, end + min(lengths[number], row_length)
      packed.tokens[row, start:end] = documents[number][:end - start]
      packed.segment_ids[row, start:end] = segment
      packed.positions[row, start:end] = np.arange(end - start)
      packed.weights[row, start:end] = 1 if weights is None else weights[number][:end - start]
      packed.weights[row, start] = 0
  return packed


def _check_documents(
    documents: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None, row_length: int,
    overlong: str,
) -> list[int]:
  """The documents' lengths; raises if a document cannot be packed."""
  if weights is not None and len(weights) != len(documents):
    raise ValueError(f'There are {len(weights)} lists of weights for {len(documents)} documents: '
                     'give one list for each document.')
  lengths = [len(document) for document in documents]
  for number, length in enumerate(lengths):
    num_weights = length if weights is None else len(weights[number])
    if not length or num_weights != length:
      raise ValueError(f'Document {number} has {length} tokens and {num_weights} weights: give at '
                       'least one token, and one weight for each token.')
    if length > row_length and overlong == 'error':
      raise UserError(f'Document {number} has {length} tokens and a row holds {row_length}: raise '
                      "row_length or set overlong to 'cut' or 'skip'.")
  return lengths


def _best_fit_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
  """The document numbers of each row, by best fit; documents of length 0 are left out."""
  rows: list[list[int]] = []
  rows_by_room: list[collections.deque[int]] = [
      collections.deque() for _ in range(row_length + 1)]
  has_rows = np.zeros(row_length + 1, bool)    # whether rows_by_room has any, by room
  for number, length in enumerate(lengths):
    if not length:
      continue
    room = length + int(has_rows[length:].argmax())
    if has_rows[room]:
      row = rows_by_room[room].popleft()
      has_rows[room] = bool(rows_by_room[room])
    else:
      room, row = row_length, len(rows)
      rows.append([])
    rows[row].append(number)
    rows_by_room[room - length].append(row)
    has_rows[room - length] = True
  return rows
