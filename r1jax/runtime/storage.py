"""Paths that may be local or in a bucket: `Path('/tmp/run')`, `Path('gs://bucket/run')`.

One class over fsspec, which speaks to local disks, `gs://` (with gcsfs installed), `memory://` and
many more. Buckets cannot append and have no folders, so a file is written whole, all or nothing:
who reads it, even after a kill, finds its old content or its new one.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
import io
import json
import math
import os
import posixpath

import fsspec
from fsspec.implementations.local import LocalFileSystem
import numpy as np

_AT_ONCE = 1024 ** 2   # bytes that one request asks a bucket for; it answers many at a time


class Path:
  """A local path or a URL, with the part of pathlib's interface that r1jax needs.

  Args:
    location: a local path (made absolute, `~` expanded), a URL, or another `Path`.

  Raises ValueError where a URL's scheme is unknown, ImportError where the package that speaks it
  (gcsfs for `gs://`) is not installed.
  """

  def __init__(self, location: str | os.PathLike | Path):
    self.fs, self._root = fsspec.core.url_to_fs(str(location), use_listings_cache=False)
    self.is_local = isinstance(self.fs, LocalFileSystem)
    self._location = self._root if self.is_local else str(location).rstrip('/')

  def __truediv__(self, name: str | int) -> Path:
    return Path(f'{self._location}/{name}')

  def __str__(self) -> str:
    return self._location

  def __repr__(self) -> str:
    return f'Path({self._location!r})'

  def __fspath__(self) -> str:
    if not self.is_local:
      raise ValueError(f'{self} is not on a local disk: copy it to a local folder first')
    return self._location

  @property
  def name(self) -> str:
    return posixpath.basename(self._location)

  def exists(self) -> bool:
    return self.fs.exists(self._root)

  def iterdir(self) -> Iterator[Path]:
    """The files and folders in this folder, sorted; none where there is no such folder."""
    if self.exists():
      found = self.fs.ls(self._root, detail=False)
      yield from (self / posixpath.basename(name.rstrip('/')) for name in sorted(found))

  def file_sizes(self) -> dict[str, int]:
    """Bytes of every file at any depth, by its path relative to this folder."""
    found = self.fs.find(self._root, detail=True)
    return {posixpath.relpath(name, self._root): info['size'] for name, info in found.items()}

  def read_bytes(self) -> bytes:
    return self.fs.cat_file(self._root)

  def read_text(self) -> str:
    return self.read_bytes().decode()

  def write_bytes(self, content: bytes) -> None:
    """Writes the whole file, all or nothing; folders on the way are created.

    Raises OSError where it cannot be written (a full disk, say); an older file is then as it was.
    """
    self.write_parts([content])

  def write_parts(self, parts: Iterable[bytes | memoryview]) -> None:
    """As `write_bytes`, of content that comes in parts.

    On a disk one part is in memory at a time; for a bucket they are gathered first.
    """
    if not self.is_local:
      content = io.BytesIO()
      for part in parts:
        content.write(part)
      self.fs.pipe_file(self._root, content.getvalue())
      return
    partial = f'{self._root}.partial'
    try:
      os.makedirs(posixpath.dirname(self._root), exist_ok=True)
      with open(partial, 'wb') as file:
        for part in parts:
          file.write(part)
      os.replace(partial, self._root)
    except BaseException as error:
      Path(partial).remove()
      if not isinstance(error, OSError):
        raise
      raise OSError(error.errno, f'{error.strerror}; mend that or choose another workdir',
                    self._root) from error

  def write_text(self, text: str) -> None:
    """Writes the whole file in UTF-8; a lone surrogate becomes `\\udxxx`, as JSON escapes it."""
    self.write_bytes(text.encode('utf-8', 'backslashreplace'))

  def remove(self) -> None:
    """Removes this file, or this folder and all that is in it, if there is one."""
    if self.exists():
      self.fs.rm(self._root, recursive=True)

  def move_to(self, target: Path) -> None:
    """Moves this folder to `target` of the same file system, where nothing is yet.

    On a disk that is one step. A bucket's files are copied and then removed, those of the folder
    itself last and by name: a kill on the way loses none.
    """
    if self.is_local:
      os.rename(self._root, target._root)
      return
    names = sorted(self.file_sizes())
    self.fs.copy([(self / name)._root for name in names], [(target / name)._root for name in names])
    for name in sorted(names, key=lambda name: '/' not in name):
      (self / name).remove()
    self.remove()

  def copy_to(self, target: Path) -> None:
    """Copies this folder's files into the folder `target`; one of the two is local."""
    for name in self.file_sizes():
      source, copy = self / name, target / name
      if target.is_local:
        self.fs.get_file(source._root, copy._root)
      else:
        target.fs.put_file(source._root, copy._root)


class Ranges:
  """An open file that is read by ranges: `size` bytes, on a disk (`is_local`) or in a bucket.

  From a disk bytes come by `pread`: mapped pages would count as the process' memory, and a file
  that shrinks would kill it.
  """

  def __init__(self, path: Path):
    self._path, self.is_local = path, path.is_local
    self._file = open(path, 'rb', buffering=0) if path.is_local else None
    self.size = os.fstat(self._file.fileno()).st_size if path.is_local else path.fs.size(path._root)

  def close(self) -> None:
    if self._file is not None:
      self._file.close()

  def fill(self, out: np.ndarray, offset: int) -> int:
    """Reads bytes from `offset` on into `out` [uint8]; how many, fewer where the file ends."""
    if self._file is None:
      return self._fetch(out, offset)
    done = 0
    while done < len(out) and (count := os.preadv(
        self._file.fileno(), [memoryview(out)[done:]], offset + done)):
      done += count
    return done

  def _fetch(self, out: np.ndarray, offset: int) -> int:
    end = max(offset, min(offset + len(out), self.size))
    starts = range(offset, end, _AT_ONCE)
    parts = self._path.fs.cat_ranges(
        [self._path._root] * len(starts), list(starts),
        [min(start + _AT_ONCE, end) for start in starts], on_error='return')
    done = 0
    for start, part in zip(starts, parts):
      if isinstance(part, Exception):    # not every file system would raise it
        raise part
      if start != offset + done:    # the part before was cut short
        break
      out[done:done + len(part)] = np.frombuffer(part, np.uint8)
      done += len(part)
    return done


def to_json(value: object) -> str:
  """`value` as one line of JSON.

  Arrays become lists. JSON has no NaN and no infinity: they become the strings 'NaN', 'Infinity'
  and '-Infinity', which `float` reads back.
  """
  return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
  if hasattr(value, 'tolist'):  # an array or a scalar of NumPy or JAX
    value = value.tolist()
  if isinstance(value, dict):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return 'NaN' if math.isnan(value) else ('Infinity' if value > 0 else '-Infinity')
  return value
