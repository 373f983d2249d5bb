"""Paths that may be local or in a bucket: `Path('/tmp/run')`, `Path('gs://bucket/run')`.

One class over fsspec, which supports local disks, `gs://` (with gcsfs installed), `memory://` and
many more. Buckets cannot append and have no folders, so a file is always written as a whole and
atomically: a reader finds its old content or its new one, even after a kill or a power cut.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
import copy
import errno
import io
import json
import math
import os
import posixpath
from typing import Any
import unicodedata

import fsspec
from fsspec.implementations.local import LocalFileSystem
import numpy as np

from r1jax.errors import UserError

_NO_SYNC = errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EISDIR    # of folders, on some disks
_REQUEST_BYTES = 1024 ** 2   # of one request to a bucket, which answers many at a time


class Path:
  """A local path or a URL, with the part of pathlib's interface that r1jax needs.

  Args:
    location: a local path (made absolute, `~` expanded), a URL, or another `Path`.

  Raises:
    UserError: it is empty, begins with a `~` that names no user, has control characters, chains
      URLs by `::`, or the URL's scheme is unknown.
    ModuleNotFoundError: the package for the scheme (gcsfs for `gs://`) is not installed.
  """

  def __init__(self, location: str | os.PathLike | Path):
    if not isinstance(location, Path):
      _check_location(os.fspath(location))
    try:
      self.fs, self._root = fsspec.core.url_to_fs(str(location), use_listings_cache=False)
    except ImportError as error:
      raise ModuleNotFoundError(f'{location} cannot be opened: {error}', name='fsspec') from error
    except ValueError as error:
      raise UserError(f'{location} cannot be opened ({error}): give a local folder or the URL of a '
                      'bucket') from error
    self.is_local = isinstance(self.fs, LocalFileSystem)
    self._location = self._root if self.is_local else str(location).rstrip('/')

  def __truediv__(self, name: str | int) -> Path:
    child = copy.copy(self)    # a file that is found in a folder may have any name
    child._root, child._location = (
        f'{path.rstrip("/")}/{name}'.rstrip('/') for path in (self._root, self._location))
    return child

  def __str__(self) -> str:
    return self._location

  def __repr__(self) -> str:
    return f'Path({self._location!r})'

  def __fspath__(self) -> str:
    if not self.is_local:
      raise UserError(f'{self} is not on a local disk: copy it to a local folder first')
    return self._location

  @property
  def name(self) -> str:
    """The last component of the path."""
    return posixpath.basename(self._location)

  @property
  def parent(self) -> Path:
    """The folder that this is in; the top of a file system is in itself."""
    above = posixpath.dirname(self._location)
    return self if above.endswith((':', ':/')) or not above else Path(above)

  def exists(self) -> bool:
    """Whether there is such a file or folder."""
    return self.fs.exists(self._root)

  def is_file(self) -> bool:
    """Whether there is such a file."""
    return self.fs.isfile(self._root)

  def info(self) -> dict[str, Any]:
    """What the file system knows of this file: its size, times or versions.

    Raises:
      FileNotFoundError: there is no such file.
    """
    return self.fs.info(self._root)

  def iterdir(self) -> Iterator[Path]:
    """The files and folders in this folder, sorted; none if it does not exist."""
    if self.exists():
      found = self.fs.ls(self._root, detail=False)
      yield from (self / posixpath.basename(name.rstrip('/')) for name in sorted(found))

  def file_sizes(self) -> dict[str, int]:
    """The size in bytes of every file at any depth, by its path relative to this folder."""
    found = self.fs.find(self._root, detail=True)
    return {posixpath.relpath(name, self._root): info['size'] for name, info in found.items()}

  def read_bytes(self) -> bytes:
    """The content of this file."""
    return self.fs.cat_file(self._root)

  def read_text(self) -> str:
    """The content of this file, decoded as UTF-8."""
    return self.read_bytes().decode()

  def write_bytes(self, content: bytes) -> None:
    """Writes the whole file atomically and durably, and creates its parent folders.

    Raises:
      OSError: it cannot be written, for example because the disk is full; an older file is kept.
    """
    self.write_parts([content])

  def write_parts(self, parts: Iterable[bytes | memoryview]) -> None:
    """Writes content that comes in parts; otherwise as `write_bytes`.

    On a disk only one part is in memory at a time; for a bucket all parts are gathered first.
    """
    if not self.is_local:
      content = io.BytesIO()
      for part in parts:
        content.write(part)
      self.fs.pipe_file(self._root, content.getvalue())
      return
    partial = f'{self._root}.partial'
    try:
      make_folder(posixpath.dirname(self._root))
      with open(partial, 'wb') as file:
        for part in parts:
          file.write(part)
        file.flush()
        os.fsync(file.fileno())
      rename(partial, self._root)
    except BaseException as error:
      Path(partial).remove()
      if not isinstance(error, OSError):
        raise
      raise OSError(error.errno, f'{error.strerror}; fix that or choose another workdir',
                    self._root) from error

  def write_text(self, text: str) -> None:
    r"""Writes the whole file in UTF-8; a lone surrogate becomes `\udxxx`, as JSON escapes it."""
    self.write_bytes(text.encode('utf-8', 'backslashreplace'))

  def create(self, content: bytes) -> None:
    """Writes a new file, not atomically; raises FileExistsError if it is there already."""
    self.fs.pipe_file(self._root, content, mode='create')

  def remove(self) -> None:
    """Removes this file, or this folder with all its content, if it exists."""
    if self.exists():
      self.fs.rm(self._root, recursive=True)

  def move_to(self, target: Path) -> None:
    """Moves this folder to `target` on the same file system, which must not exist.

    On a disk this is one step. A bucket's files are copied and then removed, those directly in the
    folder last and by name, so that a kill in between loses none.
    """
    if self.is_local:
      rename(self._root, target._root)
      return
    names = sorted(self.file_sizes())
    self.fs.copy([(self / name)._root for name in names], [(target / name)._root for name in names])
    for name in sorted(names, key=lambda name: '/' not in name):
      (self / name).remove()
    self.remove()

  def sync(self) -> None:
    """Returns once this folder and all that is in it would survive a power cut.

    For files that a library has written; those of `write_bytes` are durable. A bucket's always are.
    """
    if self.is_local:
      for folder, _, files in os.walk(self._root, topdown=False):
        for name in files:
          _sync(os.path.join(folder, name))
        _sync(folder)
      _sync(posixpath.dirname(self._root))

  def copy_to(self, target: Path) -> None:
    """Copies this folder's files into the folder `target`; one of the two must be local."""
    for name in self.file_sizes():
      source, copy = self / name, target / name
      if target.is_local:
        self.fs.get_file(source._root, copy._root)
      else:
        target.fs.put_file(source._root, copy._root)


def rename(source: str, target: str) -> None:
  """Renames a local file or folder, whose content is durable; when it returns, the name is, too."""
  os.replace(source, target)
  for folder in {posixpath.dirname(source), posixpath.dirname(target)}:
    _sync(folder)


def make_folder(path: str) -> None:
  """Makes a local folder that survives a power cut, and those above it, where there are none."""
  missing = []
  while not os.path.isdir(path):
    missing.append(path)
    path = posixpath.dirname(path)
  for folder in reversed(missing):
    os.makedirs(folder, exist_ok=True)
    _sync(posixpath.dirname(folder))


def _sync(path: str) -> None:
  """Writes a file, or the names in a folder, through to the disk."""
  opened = os.open(path, os.O_RDONLY)
  try:
    os.fsync(opened)
  except OSError as error:
    if error.errno not in _NO_SYNC:
      raise
  finally:
    os.close(opened)


def _check_location(location: str) -> None:
  """Refuses what fsspec would take for another place than a person does."""
  shown = repr(location)[:300]
  if not location.strip():
    raise UserError(f'a path must not be empty, got {shown}: name a folder, a file or a URL')
  if any(unicodedata.category(char) in ('Cc', 'Cf', 'Zl', 'Zp') for char in location):
    raise UserError(f'the path {shown} has control characters: rename it')
  if '::' in location:
    raise UserError(f"the path {shown} has '::', which chains URLs: name one folder, file or URL")
  if location.startswith('~') and os.path.expanduser(location) == location:
    raise UserError(f'the path {shown} begins with a ~ that names no user of this machine: write '
                    f'the whole path, or ./{location} for a folder of that name')


class Ranges:
  """An open file, on a disk or in a bucket, that is read in ranges of bytes.

  A disk is read with `pread`: memory-mapped pages would count as the process's memory, and a file
  that shrinks would kill it.

  Attributes:
    size: of the file in bytes.
    is_local: whether it is on a disk.
  """

  def __init__(self, path: Path):
    self._path, self.is_local = path, path.is_local
    self._file = open(path, 'rb', buffering=0) if path.is_local else None
    self.size: int = path.fs.size(path._root) if self._file is None else os.fstat(
        self._file.fileno()).st_size

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()

  def fill(self, out: np.ndarray, offset: int) -> int:
    """Reads bytes from `offset` on into `out` [uint8]; returns how many, fewer at the end."""
    if self._file is None:
      return self._fetch(out, offset)
    done, buffer = 0, memoryview(out.data)
    while done < len(out) and (count := os.preadv(
        self._file.fileno(), [buffer[done:]], offset + done)):
      done += count
    return done

  def _fetch(self, out: np.ndarray, offset: int) -> int:
    end = max(offset, min(offset + len(out), self.size))
    starts = range(offset, end, _REQUEST_BYTES)
    parts = self._path.fs.cat_ranges(
        [self._path._root] * len(starts), list(starts),
        [min(start + _REQUEST_BYTES, end) for start in starts], on_error='return')
    done = 0
    for start, part in zip(starts, parts):
      if isinstance(part, Exception):    # not every file system raises it itself
        raise part
      if start != offset + done:    # the previous part was cut short
        break
      out[done:done + len(part)] = np.frombuffer(part, np.uint8)
      done += len(part)
    return done


def to_json(value: object) -> str:
  """`value` as one line of JSON.

  Arrays become lists. JSON has no NaN or infinity: these become the strings 'NaN', 'Infinity' and
  '-Infinity', which `float` reads back.
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
