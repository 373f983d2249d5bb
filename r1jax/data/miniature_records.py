"""The miniature's calculations as a TFDS dataset in array_record: made once, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import json
from typing import Any

from r1jax.data import array_records, miniature
from r1jax.runtime import storage

_PROBE = 16


def calculations_source(
    split: str, size: int, *, data_dir: storage.Path | str, **settings: int) -> CalculationsSource:
  """What `miniature.calculations(split, size, **settings)` gives, random access from `data_dir`.

  The dataset's name ends in a digest of the arguments and of the first calculations that they give
  today: other settings, or a generator that has changed, never read what was prepared before.

  Args:
    split: 'train' or 'test'.
    size: how many, at least 1.
    data_dir: where the prepared dataset is, or will be written; on a local disk.
    **settings: of `miniature.calculations`.

  Raises:
    ValueError: as `miniature.calculations`, or there is nothing to prepare, or `data_dir` is not on
      a local disk.
  """
  if size < 1:
    raise ValueError(f"size={size} of the miniature's calculations leaves none: use at least 1")
  first = miniature.calculations(split, min(size, _PROBE), **settings)
  identity = json.dumps([split, size, settings, first], sort_keys=True)
  digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
  folder = array_records.prepare_array_record(
      f'miniature_{split}_{size}_{digest}', {split: _rows(split, size, settings)},
      tuple(first[0]), data_dir)
  texts = {field for field, value in first[0].items() if isinstance(value, str)}
  return CalculationsSource(array_records.read_array_record(folder, split), texts)


def _rows(split: str, size: int, settings: Mapping[str, int]) -> Iterator[dict[str, str]]:
  for example in miniature.calculations(split, size, **settings):
    yield {field: value if isinstance(value, str) else json.dumps(value)
           for field, value in example.items()}


class CalculationsSource:
  """A random-access source of examples, of which `texts` are text and the other fields JSON."""

  def __init__(self, rows: Sequence[Mapping[str, str]], texts: set[str]):
    self._rows = rows
    self._texts = texts

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {field: value if field in self._texts else json.loads(value)
            for field, value in self._rows[index].items()}
