"""GGUF files, the format of llama.cpp: metadata, and tensors that are read some rows at a time.

A file has a header (magic, version, how many tensors and fields), the fields, what is said about
each tensor, and the tensors' bytes. Whatever the header claims is checked against the file's size
before memory is taken for it. A large model may be split into parts, which are read as one.
"""
from collections.abc import Mapping, Sequence
import math
import re
import struct
from typing import Any, NamedTuple

import numpy as np

from r1jax.errors import UserError
from r1jax.runtime import foreign_folders, storage

# struct codes of the format's scalar types.
_SCALARS = {
    0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
_STRING, _ARRAY = 8, 9
_MAGIC = b'GGUF'
_LEAST_STRING, _LEAST_FIELD, _LEAST_TENSOR = 8, 13, 24   # bytes that each takes at least
_READ_BYTES = 1024 ** 2
_MAX_AXES = 4   # the format's own limit
_PART = re.compile(r'-(\d{5})-of-(\d{5})\.gguf$')


def is_gguf(path: storage.Path | str) -> bool:
  """Whether a file is GGUF, by its name or its first bytes (some programs name it by its hash)."""
  path = storage.Path(path)
  if path.name.endswith('.gguf'):
    return True
  if not path.is_local or not path.exists() or path.fs.isdir(str(path)):
    return False
  with open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC


class Entry(NamedTuple):
  """What a header says about a tensor."""
  part: int                  # the number of the file that has it
  kind: int                  # `gguf.GGMLQuantizationType` of its values
  shape: tuple[int, ...]     # the last axis is that of rows, in which blocks of values lie
  offset: int                # of its bytes in the file
  limit: int                 # of its bytes: the next tensor, or the end of the file


class GgufFile:
  """An open GGUF file, with all its parts; a context manager.

  Attributes:
    path: where it is.
    metadata: name -> value of each field: a number, a boolean, a text, or a list of these.
    entries: name -> Entry of each tensor.

  Raises:
    FileNotFoundError: there is no such file, or a part of it is missing.
    UserError: it is truncated or not a GGUF file; also while it is read.
  """

  def __init__(self, path: storage.Path | str):
    self.path = storage.Path(path)
    self.entries: dict[str, Entry] = {}
    self.metadata: dict[str, Any] = {}
    self._sources: list[storage.Ranges] = []
    try:
      for number, part in enumerate(_parts(self.path)):
        self._open(number, part)
    except BaseException:
      self.__exit__()
      raise

  def __enter__(self) -> 'GgufFile':
    return self

  def __exit__(self, *_) -> None:
    for source in self._sources:
      source.close()

  def _open(self, number: int, path: storage.Path) -> None:
    if not path.exists():
      raise FileNotFoundError(
          f'GGUF file {path} does not exist: ' + (
              'correct the path.' if path is self.path or str(path) == str(self.path)
              else f'it is a part of {self.path}; copy all parts into one folder.'))
    if path.fs.isdir(str(path)):
      raise UserError(f'{path} is a folder: name the .gguf file in it.')
    if note := foreign_folders.pointer(path):
      raise UserError(note)
    source = storage.Ranges(path)
    self._sources.append(source)
    header = _Header(path, source)
    metadata = header.metadata()
    entries = header.entries(number, metadata)
    if repeated := next((name for name in entries if name in self.entries), None):
      raise header.damaged(f'the tensor {repeated} is in two of its parts')
    self.entries |= entries
    self.metadata = metadata | self.metadata   # the first part's are those of the model

  def rows(self, name: str, begin: int, end: int, row_bytes: int) -> np.ndarray:
    """The bytes of some rows of a tensor, all axes but the last merged: [rows, bytes] uint8.

    Args:
      name: of the tensor.
      begin: the first row.
      end: the row after the last.
      row_bytes: how many bytes a row has, which depends on the tensor's kind.
    """
    entry = self.entries[name]
    if row_bytes * math.prod(entry.shape[:-1]) > entry.limit:
      raise UserError(
          f'{self.path} is truncated or not a GGUF file (the tensor {name} of shape '
          f'{list(entry.shape)} has {entry.limit} bytes): download it again.')
    out = np.empty((end - begin) * row_bytes, np.uint8)
    done = self._sources[entry.part].fill(out, entry.offset + begin * row_bytes)
    if done < len(out):
      raise UserError(f'{self.path} ends within the tensor {name}: download it again.')
    return out.reshape(end - begin, row_bytes)


def _parts(path: storage.Path) -> Sequence[storage.Path]:
  """All parts of a split model, by the name of any of them."""
  match = _PART.search(str(path))
  if match is None:
    return [path]
  stem, count = str(path)[:match.start()], int(match[2])
  return [storage.Path(f'{stem}-{i:05d}-of-{count:05d}.gguf') for i in range(1, count + 1)]


class _Header:
  """Reads the header of one file from its beginning."""

  def __init__(self, path: storage.Path, source: storage.Ranges):
    self._path, self._source = path, source
    self._buffer, self._at, self._read = b'', 0, 0
    if self._take(len(_MAGIC)) != _MAGIC:
      raise self.damaged('it does not begin with GGUF')
    version = self._scalar('I')
    if version not in (2, 3):
      raise self.damaged(f'its version is {version}, and 2 and 3 are read')
    self._num_tensors, self._num_fields = self._scalar('Q'), self._scalar('Q')
    for count, least, of in ((self._num_tensors, _LEAST_TENSOR, 'tensors'),
                             (self._num_fields, _LEAST_FIELD, 'fields')):
      self._check_room(count, least, of)

  def damaged(self, why: str) -> UserError:
    """The error that this file is not what it should be."""
    return UserError(f'{self._path} is truncated or not a GGUF file ({why}): download it '
                     'again.')

  def metadata(self) -> dict[str, Any]:
    """The fields; to be read first."""
    result: dict[str, Any] = {}
    for _ in range(self._num_fields):
      name = self._string()
      if name in result:
        raise self.damaged(f'it has two fields {name!r}')
      result[name] = self._value(self._scalar('I'))
    return result

  def entries(self, part: int, metadata: Mapping[str, Any]) -> dict[str, Entry]:
    """What is said about tensors; to be read after the fields."""
    alignment = metadata.get('general.alignment', 32)
    if type(alignment) is not int or not 0 < alignment <= 2 ** 20:
      raise self.damaged(f'general.alignment={alignment!r}')
    found = []
    for _ in range(self._num_tensors):
      name = self._string()
      axes = self._scalar('I')
      if axes > _MAX_AXES:
        raise self.damaged(f'the tensor {name} has {axes} axes')
      shape = tuple(reversed(self._scalars('Q', axes)))
      kind, offset = self._scalar('I'), self._scalar('Q')
      found.append((offset, name, kind, shape))
    start = -(-self._at_in_file() // alignment) * alignment
    ends = sorted({offset for offset, *_ in found})
    following = dict(zip(ends, [*ends[1:], self._source.size - start]))
    result = {}
    for offset, name, kind, shape in found:
      limit = following[offset]
      if name in result or min(shape, default=0) < 1 or start + limit > self._source.size or (
          math.prod(shape) > 16 * (limit - offset)):   # no kind has as little as half a bit
        raise self.damaged(f'the tensor {name} of shape {list(shape)} at {offset} does not fit, '
                           f'or is there twice; the file has {self._source.size} bytes')
      result[name] = Entry(part, kind, shape, start + offset, limit - offset)
    return result

  def _value(self, kind: int) -> Any:
    if kind == _STRING:
      return self._string()
    if kind == _ARRAY:
      item, count = self._scalar('I'), self._scalar('Q')
      if item in _SCALARS:
        return list(self._scalars(_SCALARS[item], count))
      if item != _STRING:
        raise self.damaged(f'it has an array of the type {item}')
      self._check_room(count, _LEAST_STRING, 'strings')
      return [self._string() for _ in range(count)]
    if kind not in _SCALARS:
      raise self.damaged(f'it has a value of the type {kind}')
    return self._scalar(_SCALARS[kind])

  def _string(self) -> str:
    content = self._take(self._scalar('Q'))
    try:
      return content.decode()
    except UnicodeDecodeError:
      raise self.damaged('it has a text that is not UTF-8') from None

  def _scalar(self, code: str) -> Any:
    return self._scalars(code, 1)[0]

  def _scalars(self, code: str, count: int) -> tuple[Any, ...]:
    size = struct.calcsize(f'<{code}')
    return struct.unpack(f'<{count}{code}', self._take(size * count))

  def _check_room(self, count: int, least: int, of: str) -> None:
    if count * least > self._source.size - self._at_in_file():
      raise self.damaged(f'it is too short for the {count} {of} that it should have')

  def _at_in_file(self) -> int:
    return self._read - len(self._buffer) + self._at

  def _take(self, count: int) -> bytes:
    """The next bytes."""
    if self._at + count > len(self._buffer):
      left = len(self._buffer) - self._at
      if count - left > self._source.size - self._read:
        raise self.damaged(f'it ends after {self._source.size} bytes, within its header')
      size = min(max(count - left, _READ_BYTES), self._source.size - self._read)
      more = np.empty(size, np.uint8)
      if self._source.fill(more, self._read) < size:
        raise self.damaged('it ends within its header')
      self._buffer, self._at = self._buffer[self._at:] + more.tobytes(), 0
      self._read += size
    self._at += count
    return self._buffer[self._at - count:self._at]
