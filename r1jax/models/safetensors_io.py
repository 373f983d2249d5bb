"""Safetensors files, read by ranges and written tensor by tensor: never whole in memory.

A file has eight bytes with the length of the header, the header in JSON ({name: type, shape,
offsets}), and the bytes of the tensors without gaps.
"""
from collections.abc import Iterable, Iterator, Mapping
import json
import math
from typing import Any, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from r1jax.errors import UserError
from r1jax.runtime import storage

TYPES = {
    'F32': np.dtype(np.float32),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
}
_LONGEST_HEADER = 100_000_000   # the format's own limit, in bytes
# Bytes of a row that are worth a read of their own on a local disk, which reads pages of 4 KiB.
_LEAST_READ = 4096
# Bytes of whole rows that are read at once where only some of their columns are needed.
_ROWS_BYTES = 16 * 1024**2


class Entry(NamedTuple):
  """What a header says about a tensor; `offset` counts from the beginning of the file."""
  dtype: str
  shape: tuple[int, ...]
  offset: int


class File:
  """An open safetensors file; a context manager.

  Attributes:
    path: where it is.
    entries: name -> Entry of each tensor.

  Raises:
    UserError: the file is truncated or not a safetensors file; also while it is read.
  """

  def __init__(self, path: storage.Path | str):
    self.path = storage.Path(path)
    self._source = storage.Ranges(self.path)
    try:
      self.entries = self._header()
    except BaseException:
      self._source.close()
      raise

  def __enter__(self) -> 'File':
    return self

  def __exit__(self, *_) -> None:
    self._source.close()

  def _damaged(self, why: str) -> UserError:
    return UserError(
        f'{self.path} is truncated or not a safetensors file ({why}): download it again.')

  def _header(self) -> dict[str, Entry]:
    size = self._source.size
    length = int.from_bytes(self._bytes(0, 8).tobytes(), 'little') if size >= 8 else _LONGEST_HEADER
    if 8 + length > size or length > _LONGEST_HEADER:
      raise self._damaged(f'it ends after {size} bytes, within its header')
    entries, spans = {}, []
    try:
      header = json.loads(self._bytes(8, length).tobytes(), object_pairs_hook=_without_repeats,
                          parse_constant=_refuse_constant)
      for name, item in header.items():
        if name != '__metadata__':
          begin, end = _integers(name, item, 'data_offsets', 2)
          shape = _integers(name, item, 'shape', None)
          entries[name] = Entry(item['dtype'], shape, 8 + length + begin)
          spans.append((begin, end))
          if item['dtype'] in TYPES and end - begin != math.prod(
              shape) * TYPES[item['dtype']].itemsize:
            raise ValueError(f'{name} of shape {list(shape)} has {end - begin} bytes')
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise self._damaged(f'its header cannot be read: {str(error)[:200]}') from None
    spans.sort()
    if [begin for begin, _ in spans] != [0, *(end for _, end in spans)][:len(spans)]:
      raise self._damaged('its tensors overlap or leave gaps')
    whole = 8 + length + (spans[-1][1] if spans else 0)
    if size != whole:
      raise self._damaged(f'it has {size} bytes, but its header describes {whole}')
    return entries

  def read(self, name: str, rows: tuple[int, int] | None = None,
           columns: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a region [rows, columns] of a tensor, in its own type.

    Args:
      name: of the tensor. Its axes after the first are merged to columns; a tensor with one axis
        has one column.
      rows: (begin, end); None for all.
      columns: (begin, end); None for all.
    """
    entry = self.entries[name]
    dtype = TYPES[entry.dtype]
    width = math.prod(entry.shape[1:])
    (first, last), (left, right) = rows or (0, entry.shape[0]), columns or (0, width)
    stride, wanted = width * dtype.itemsize, (right - left) * dtype.itemsize
    if 2 * wanted > stride:   # whole rows in one read are no slower
      return self._rows(entry, first, last)[:, left:right]
    result = np.empty((last - first, right - left), dtype)
    if self._source.is_local and wanted >= _LEAST_READ:
      for row, out in zip(range(first, last), result.view(np.uint8)):
        self._fill(out, entry.offset + row * stride + left * dtype.itemsize)
      return result
    step = max(1, _ROWS_BYTES // stride)
    for at in range(first, last, step):
      whole = self._rows(entry, at, min(at + step, last))
      result[at - first:at - first + step] = whole[:, left:right]
    return result

  def _rows(self, entry: Entry, first: int, last: int) -> np.ndarray:
    dtype, width = TYPES[entry.dtype], math.prod(entry.shape[1:])
    stride = width * dtype.itemsize
    data = self._bytes(entry.offset + first * stride, (last - first) * stride)
    return data.view(dtype).reshape(last - first, width)

  def _bytes(self, offset: int, count: int) -> np.ndarray:
    out = np.empty(count, np.uint8)
    self._fill(out, offset)
    return out

  def _fill(self, out: np.ndarray, offset: int) -> None:
    done = self._source.fill(out, offset)
    if done < len(out):
      raise self._damaged(f'it ends after {offset + done} bytes')


def _integers(name: str, item: dict, field: str, count: int | None) -> tuple[int, ...]:
  """A field of a header's item: a short list of sizes that a file can have."""
  value = item[field]
  if not isinstance(value, list) or len(value) not in (range(9) if count is None else (count,)) or (
      any(type(size) is not int or not 0 <= size < 2 ** 63 for size in value)):
    raise ValueError(f'{name} has {field}={str(value)[:100]}')
  return tuple(value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) < len(pairs):
    raise ValueError('a key is repeated')
  return result


def _refuse_constant(constant: str) -> NoReturn:
  raise ValueError(f'{constant} is not a number of JSON')


def serialise(
    shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]], arrays: Iterable[np.ndarray]
) -> Iterator[memoryview]:
  """Yields the bytes of a file: first the header, then each tensor.

  Args:
    shapes: name -> (type, shape), sorted as by `aligned_order`.
    arrays: the tensors in the same order; each is requested after the one before was consumed.
  """
  names = {dtype: name for name, dtype in TYPES.items()}
  header: dict[str, dict] = {'__metadata__': {'format': 'pt'}}   # transformers 4 needs this
  end = 0
  for name, (dtype, shape) in shapes.items():
    begin, end = end, end + math.prod(shape) * dtype.itemsize
    header[name] = {'dtype': names[dtype], 'shape': list(shape), 'data_offsets': [begin, end]}
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  yield memoryview(len(text).to_bytes(8, 'little') + text)
  for (dtype, _), array in zip(shapes.values(), arrays):
    yield np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data


def aligned_order(types: Mapping[str, np.dtype]) -> list[str]:
  """The names sorted for a file: widest types first, so that every tensor is aligned."""
  return sorted(types, key=lambda name: -types[name].itemsize)
