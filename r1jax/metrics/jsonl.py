"""Rows of JSON in the part files of a folder: buckets cannot append to a file.

The files are named `part-<first>.jsonl`, where `first` is the step or iteration of the first row. A
resumed run first removes the rows that it will write again, so that an interrupted run ends with
the same rows as an uninterrupted one.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import json

from r1jax.errors import UserError
from r1jax.runtime import hosts, ownership
from r1jax.runtime.storage import Path, to_json


class JsonlWriter:
  """Appends rows to part files; when `append` returns, they are on disk.

  The current part is rewritten as a whole at each call and closed once it is large, so that a call
  late in a run costs no more than an early one.

  Args:
    folder: the folder of the parts, local or remote. Rows to be rewritten are removed at once.
    key: the field that orders the rows: 'step' or 'iteration'.
    resume: the value of `key` at which the run resumes; rows at or after it are removed, and 0
      removes all.
    part_bytes: size in bytes at which a part is closed.
  """

  def __init__(self, folder: str | Path, *, key: str, resume: int, part_bytes: int = 1 << 18):
    self._folder = Path(folder)
    self._key = key
    self._part_bytes = part_bytes
    self._last = resume - 1
    self._part: Path | None = None
    self._lines: list[str] = []
    if hosts.is_first():
      self._remove_rows_from(resume)

  def _remove_rows_from(self, resume: int) -> None:
    for part in reversed(_parts(self._folder)):
      rows = list(_read_part(part))
      kept = [row for row in rows if row[self._key] < resume]
      if not kept:
        part.remove()
      elif len(kept) < len(rows):
        part.write_text(''.join(to_json(row) + '\n' for row in kept))
      else:
        break

  def append(self, place: int, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes the rows of one step or iteration.

    NaN and infinities are written as strings (see `storage.to_json`); lone surrogates are kept.

    Args:
      place: the step or iteration, at least that of the call before.
      rows: what to write, each without the field `key`.

    Raises:
      UserError: `place` is before that of an earlier call.
      OSError: the part cannot be written; rows written earlier are intact.
    """
    if place < self._last:
      raise UserError(f'{self._key} {place} comes after {self._last} in {self._folder}: '
                       'write rows in order, or resume from a checkpoint')
    if not hosts.is_first():
      return
    ownership.check()
    full = sum(map(len, self._lines)) >= self._part_bytes
    if self._part is None or (full and place > self._last):
      self._part, self._lines = self._folder / f'part-{place:010d}.jsonl', []
    self._last = place
    self._lines += [to_json({self._key: place, **row}) + '\n' for row in rows]
    self._part.write_text(''.join(self._lines))


def read_jsonl(folder: str | Path) -> Iterator[dict]:
  """Yields the rows of all parts in `folder`, in order.

  Raises:
    UserError: a line is not a JSON object; the message names file and line.
  """
  for part in _parts(Path(folder)):
    yield from _read_part(part)


def _parts(folder: Path) -> list[Path]:
  return [path for path in folder.iterdir()
          if path.name.startswith('part-') and path.name.endswith('.jsonl')]


def _read_part(part: Path) -> Iterator[dict]:
  # Not splitlines: text may contain U+2028, which JSON does not escape.
  for number, line in enumerate(part.read_text().split('\n'), start=1):
    if not line:
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if not isinstance(row, dict):
      raise UserError(f'{part}, line {number}, is not a JSON object: remove that line')
    yield row
