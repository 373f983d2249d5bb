"""GSM8K (Cobbe et al., 2021, arXiv:2110.14168) from its two published JSONL files."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import hashlib
import json
import pathlib
import re

from r1jax.data import array_records
from r1jax.errors import UserError
from r1jax.runtime import storage

SIZES = {'train': 7473, 'test': 1319}
_FIRST = {  # the beginning of each split's first question
    'train': 'Natalia sold clips to 48 of her friends in April',
    'test': 'Janet\N{RIGHT SINGLE QUOTATION MARK}s ducks lay 16 eggs per day',
}


def load_gsm8k(
    folder: str, split: str, data_dir: storage.Path | str = '') -> SolutionSource:
  """A random-access source of question, answer, solution and reasoning, in the files' order.

  `answer` is the text after `####`, `solution` the whole worked answer as published, and
  `reasoning` the part of it before the answer, without the calculator annotations `<<...>>`. The
  dataset is prepared once and from then on read from `data_dir`; the files are no longer needed.

  Args:
    folder: the folder with `train.jsonl` and `test.jsonl`.
    split: 'train', 'test' or a TFDS slice such as 'train[:100]'.
    data_dir: the folder of the prepared dataset, which is written if missing; on a local disk. ''
      is the user's cache.

  Raises:
    FileNotFoundError: a file is missing.
    UserError: a file is not GSM8K's, or there is no such split.
  """
  place = pathlib.Path(storage.Path(folder))
  rows = functools.partial(_rows, place)
  prepared = storage.Path(data_dir or array_records.user_cache())
  directory = array_records.prepare_array_record(
      _name(place, prepared), {name: rows(name) for name in SIZES},
      ('question', 'answer', 'solution'), prepared)
  return SolutionSource(array_records.read_array_record(directory, split))


def _name(folder: pathlib.Path, prepared: storage.Path) -> str:
  """The dataset's name, which depends on the files' content; without files, what is prepared.

  Raises:
    UserError: there are no files, and several datasets are prepared.
  """
  files = [folder / f'{split}.jsonl' for split in SIZES]
  if all(file.is_file() for file in files):
    digest = hashlib.sha256(b'\0'.join(file.read_bytes() for file in files))
    return f'gsm8k_{digest.hexdigest()[:12]}'
  found = [path.name for path in prepared.iterdir()
           if re.fullmatch('gsm8k_[0-9a-f]{12}', path.name) and any(
               not part.name.startswith('.') for part in path.iterdir())]
  if len(found) > 1:
    raise UserError(f'{folder} lacks train.jsonl or test.jsonl, and {prepared} holds what several '
                    f'versions of them gave ({", ".join(found)}): give the folder of the files, or '
                    'remove all but one')
  return found[0] if found else 'gsm8k'


class SolutionSource:
  """A source that adds `reasoning` to its examples, taken from their `solution`."""

  def __init__(self, rows: array_records.TextSource):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, str]:
    row = self._rows[index]
    steps = row['solution'].rpartition('####')[0]
    return row | {'reasoning': re.sub(r'<<[^<>]*>>', '', steps).strip()}


def _rows(folder: pathlib.Path, split: str) -> Iterator[dict[str, str]]:
  """Yields the rows of a split's file, after checking that it is GSM8K's."""
  path = folder / f'{split}.jsonl'
  if not path.is_file():
    raise FileNotFoundError(
        f"{path} does not exist: give the folder with GSM8K's train.jsonl and test.jsonl.")
  lines = path.read_bytes().splitlines()
  try:
    rows = [json.loads(line) for line in lines]
    answers = [row['answer'].split('####')[1].strip() for row in rows]
    genuine = len(rows) == SIZES[split] and rows[0]['question'].startswith(_FIRST[split]) and all(
        row['question'].strip() for row in rows)
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
    genuine = False
  if not genuine:
    raise UserError(
        f"{path} ({len(lines)} lines) is not GSM8K's {split} file of {SIZES[split]} lines: use "
        'the published one.')
  for row, answer in zip(rows, answers, strict=True):
    yield {'question': row['question'], 'answer': answer, 'solution': row['answer']}
