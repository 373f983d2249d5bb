"""Rows of JSON in the part files of a folder: buckets cannot append to a file.

The files are named `part-<first>.jsonl`, where `first` is the step or iteration of the first row. A
resumed run first removes the rows that it will write again, so that an interrupted run ends with
the same rows as an uninterrupted one.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import json
import re

from r1jax.errors import UserError
from r1jax.runtime import hosts, ownership
from r1jax.runtime.storage import Path, to_json


class JsonlWriter:
  """Appends rows to part files; when `append` returns, they are on disk.

  The current part is rewritten as a whole at each call and closed once it is large, so that a call
  late in a run costs no more than an early one.

  Args:
    folder: the folder of the parts, local or remote. Rows to be rewritten are removed at once.
    key: the field that orders the rows, such as 'step' or 'iteration'.
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
    """Removes rows, and the traces of a crash among them; other damage is refused."""
    for part in reversed(_parts(self._folder)):
      number = part.name[len('part-'):-len('.jsonl')]
      lines = [] if number.isdigit() and int(number) >= resume else _lines(part)
      kept, place = [], -1
      for at, line in lines:
        known = _place(line, self._key)
        if known is None and place >= resume - 1:    # torn, and to be written again
          known = resume
        if known is None or known < resume:
          row = _parse(part, at, line, self._key)
          place = row[self._key]
          kept += [to_json(row) + '\n'] if place < resume else []
      if not kept:
        part.remove()
      elif len(kept) < len(lines):
        part.write_text(''.join(kept))
      else:
        break

  def append(self, place: int, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes the rows of one step or iteration.

    NaN and infinities are written as strings (see `storage.to_json`); lone surrogates are kept.

    Args:
      place: the step or iteration, at least that of the call before.
      rows: what to write; a row that has the field `key` has it from `place` on, ascending.

    Raises:
      ValueError: `place` is before that of an earlier call.
      OSError: the part cannot be written; rows written earlier are intact.
    """
    if place < self._last:
      raise ValueError(f'{self._key} {place} comes after {self._last} in {self._folder}: '
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


def read_jsonl(folder: str | Path, *, key: str = '', numbers: bool = False) -> Iterator[dict]:
  """Yields the rows of all parts in `folder`, in order.

  Args:
    folder: of the parts.
    key: a field that each row must have, such as 'step': a number of at least 0.
    numbers: whether all fields must be numbers; they are yielded as floats, but for `key`.

  Raises:
    UserError: a line is not such a JSON object; the message names file and line.
  """
  for part in _parts(Path(folder)):
    yield from read_part(part, key=key, numbers=numbers)


def read_part(part: Path, *, key: str = '', numbers: bool = False) -> Iterator[dict]:
  """Yields the rows of one file; arguments and errors as for `read_jsonl`."""
  for at, line in _lines(part):
    yield _parse(part, at, line, key, numbers)


def _parts(folder: Path) -> list[Path]:
  return [path for path in folder.iterdir()
          if path.name.startswith('part-') and path.name.endswith('.jsonl')]


def _lines(part: Path) -> list[tuple[int, bytes]]:
  """The lines of a part that are not empty, with their numbers."""
  # Not splitlines: text may contain U+2028, which JSON does not escape.
  return [(at, line) for at, line in enumerate(part.read_bytes().split(b'\n'), start=1) if line]


def _place(line: bytes, key: str) -> int | None:
  """The `key` of a line that may be torn; None if it cannot be read."""
  found = re.match(rb'\{"%s": (\d{1,18})[,}]' % key.encode(), line)
  return int(found[1]) if found else None


def _parse(part: Path, at: int, line: bytes, key: str, numbers: bool = False) -> dict:
  """The row on a line; arguments as for `read_jsonl`."""
  def refused(why: str) -> UserError:
    return UserError(f'{part}, line {at}, {why}: remove that line')
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    row = None
  if not isinstance(row, dict):
    raise refused('is not a JSON object')
  if key and (type(row.get(key)) is not int or row[key] < 0):
    raise refused(f'has {key}={row[key]!r}, not a number of at least 0' if key in row else
                  f'has no {key!r}')
  if numbers:
    for name, value in row.items():
      try:
        row[name] = value if name == key else float(value)
      except (TypeError, ValueError, OverflowError):
        raise refused(f'has {name}={value!r}, not a number') from None
  return row
