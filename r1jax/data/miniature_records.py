"""The miniature's calculations as a TFDS dataset on disk, which is generated only once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import hashlib
import json
from typing import Any

from r1jax.data import array_records, miniature
from r1jax.errors import UserError
from r1jax.runtime import storage

_NUM_PROBES = 16    # examples that the dataset's name depends on


def calculations_source(
    split: str, size: int, *, data_dir: storage.Path | str, **settings: int) -> CalculationsSource:
  """The examples of `miniature.calculations(split, size, **settings)`, read from `data_dir`.

  The dataset's name ends in a digest of the arguments and of the first calculations that they give
  now, so that a dataset is never read with other settings or after the generator has changed.

  Args:
    split: 'train' or 'test'.
    size: how many, at least 1.
    data_dir: the folder of the prepared dataset, which is written if missing; on a local disk.
    **settings: further arguments of `miniature.calculations`.

  Raises:
    UserError: `size` is less than 1, `data_dir` is not on a local disk, or
      `miniature.calculations` rejects the arguments.
  """
  if size < 1:
    raise UserError(f"size={size} of the miniature's calculations is too small: use at least 1")
  first = miniature.calculations(split, min(size, _NUM_PROBES), **settings)
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
  """A random-access source of examples, decoded from rows of text.

  Args:
    rows: the rows.
    texts: the fields that are text; the others hold JSON.
  """

  def __init__(self, rows: array_records.TextSource, texts: set[str]):
    self._rows = rows
    self._texts = texts

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {field: value if field in self._texts else json.loads(value)
            for field, value in self._rows[index].items()}
