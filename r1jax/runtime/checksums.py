"""Checksums of files: whether what is read is what was written.

A checksum is the CRC-32 of a file's content, beside its size. It finds every flipped bit and every
torn file; it is no protection from somebody who changes both. Files are read in parallel, a few
megabytes at a time, and on several hosts each reads its share.
"""
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import json
import re
from typing import Any, NamedTuple
import zlib

import numpy as np

from r1jax.runtime import hosts
from r1jax.runtime.storage import Path, Ranges, to_json

FILE = 'r1jax_checksums.json'    # in a folder that carries its own sums
_THREADS = 8
_BUFFER_BYTES = 16 * 1024 ** 2   # that each of them reads at once


class Sum(NamedTuple):
  """What is known of a file's content."""
  size: int     # in bytes
  crc32: int


# Sums by name, as JSON holds them.
Sums = Mapping[str, Any]


class Summed:
  """The parts of a file while it is written, and their sum once all are.

  Attributes:
    sum: of the parts that have been taken.
  """

  def __init__(self, parts: Iterable[bytes | memoryview]):
    self._parts = parts
    self.sum = Sum(0, 0)

  def __iter__(self) -> Iterator[bytes | memoryview]:
    for part in self._parts:
      self.sum = Sum(self.sum.size + len(part), zlib.crc32(part, self.sum.crc32))
      yield part


def of_bytes(content: bytes) -> Sum:
  """The sum of a file with this content."""
  return Sum(len(content), zlib.crc32(content))


def of_files(folder: Path, names: Iterable[str]) -> dict[str, Sum]:
  """The sums of files by their names, which are relative to `folder`, in the order of the names.

  Raises:
    OSError: a file cannot be read.
  """
  names = sorted(names)
  with ThreadPoolExecutor(_THREADS, 'checksums') as pool:
    return dict(zip(names, pool.map(lambda name: _sum(folder / name), names)))


def gathered(folder: Path, names: Iterable[str]) -> dict[str, Sum]:
  """As `of_files`, for all hosts together: each reads its share, and all get all sums."""
  parts = hosts.together(lambda: of_files(folder, share(names)))
  return {name: Sum(*found) for part in parts for name, found in part.items()}


def write(folder: Path, sums: Sums) -> Sum:
  """Writes the sums of a folder's files into it, and returns that of what it has written."""
  content = seal(to_json({'files': sums})).encode()
  (folder / FILE).write_bytes(content)
  return of_bytes(content)


def folder_fault(folder: Path) -> str:
  """As `fault`, by the sums that the folder carries; '' if it carries none."""
  if not (folder / FILE).exists():
    return ''
  try:
    sums = read_sums(unseal((folder / FILE).read_bytes()).get('files'))
  except ValueError as error:
    return f'{FILE} {error}'
  return fault(folder, sums)


def read_sums(value: Any) -> dict[str, Sum]:
  """Sums as JSON holds them; raises ValueError if `value` is anything else."""
  if not isinstance(value, dict) or not all(
      isinstance(found, list) and [type(part) for part in found] == [int, int]
      for found in value.values()):
    raise ValueError('has no checksums of files')
  return {name: Sum(*found) for name, found in value.items()}


def share(names: Iterable[str]) -> list[str]:
  """The files that this host reads, where all hosts read some."""
  return sorted(names)[hosts.index()::hosts.count()]


def size_fault(folder: Path, expected: Sums) -> str:
  """The first of the expected files that is missing or has another size, in words; '' if none."""
  sizes = folder.file_sizes() if expected else {}
  for name, (size, _) in sorted(expected.items()):
    if name not in sizes:
      return f'{name} is missing'
    if sizes[name] != size:
      return f'{name} has {sizes[name]} of its {size} bytes'
  return ''


def fault(folder: Path, expected: Sums) -> str:
  """The first of the expected files that is not as it was written, in words; '' if there is none.

  All hosts call this together: each reads its share, and all get the same answer.

  Raises:
    OSError: a file cannot be read.
  """
  def find() -> str:
    found = size_fault(folder, expected)
    return found or _content_fault(folder, {name: expected[name] for name in share(expected)})
  return next(filter(None, hosts.together(find)), '')


def _content_fault(folder: Path, expected: Sums) -> str:
  found = of_files(folder, expected)
  return next((f'{name} has other content than was written' for name, wanted in expected.items()
               if found[name] != Sum(*wanted)), '')


def _sum(path: Path) -> Sum:
  source, crc, size = Ranges(path), 0, 0
  try:
    buffer = np.empty(min(_BUFFER_BYTES, source.size), np.uint8)
    while count := source.fill(buffer, size):
      crc, size = zlib.crc32(buffer.data[:count], crc), size + count
  except OSError as error:
    raise OSError(error.errno, error.strerror or str(error), str(path)) from error
  finally:
    source.close()
  return Sum(size, crc)


# JSON that carries its own checksum.

_SEAL = re.compile(rb'\{"crc32": "([0-9a-f]{8})", (.*?)\n?', re.DOTALL)


def seal(text: str) -> str:
  """The text of a JSON object, with a first field that is the checksum of the others."""
  return f'{{"crc32": "{_text_crc(text):08x}", {text[1:]}'


def unseal(content: bytes) -> dict[str, Any]:
  """The object that was sealed.

  Raises:
    ValueError: it is not as it was written.
  """
  sealed = _SEAL.fullmatch(content)
  if not sealed or zlib.crc32(b'{' + sealed[2]) != int(sealed[1], 16):
    raise ValueError('is not as it was written')
  return json.loads(b'{' + sealed[2])


def _text_crc(text: str) -> int:
  return zlib.crc32(text.encode('utf-8', 'backslashreplace'))   # as `Path.write_text` encodes it
