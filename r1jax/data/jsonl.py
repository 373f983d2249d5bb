"""A user's own data in JSONL: questions and answers, reasoning, preferences or safety labels."""

import codecs
from collections.abc import Callable, Iterator, Sequence
import json
import math
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards.extract import TAGS
from r1jax.runtime import storage


def jsonl_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """The examples of a JSONL file, as {'question', 'answer', ...} in the file's order.

  Each line is an object with the texts `prompt` (returned as 'question') and `answer`. A number is
  converted to text, other fields are kept as they are, and blank lines are skipped.

  Args:
    path: the file's path or URL.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object (the message names file and line), or the file is
      empty.
  """
  return list(_read_examples(path, ('prompt', 'answer')))


def reasoning_source(path: storage.Path | str) -> list[dict[str, Any]]:
  r"""Worked questions of a JSONL file, as {'question', 'reasoning', 'summary', ...}, in its order.

  Each line is an object with the texts `prompt` (returned as 'question'), `reasoning` and
  `summary`, the last two without tags. For a question with a single answer the summary should
  contain it in `\boxed{}`, where the accuracy rewards look for it. Numbers, other fields and blank
  lines are treated as in `jsonl_source`.

  Args:
    path: the file's path or URL.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object, or a text contains a tag.
  """
  return list(_read_examples(path, ('prompt', 'reasoning', 'summary'), _check_no_tags))


def preference_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """Pairs of a JSONL file, as {'question', 'chosen', 'rejected', 'margin', ...}, in its order.

  Each line is an object with the texts `prompt` (returned as 'question'), `chosen` and `rejected`,
  and optionally a number `margin` of at least 0, which says by how much the chosen text is better
  (1 by default). Numbers, other fields and blank lines are treated as in `jsonl_source`.

  Args:
    path: the file's path or URL.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object, or its two texts are equal.
  """
  return list(_read_examples(path, ('prompt', 'chosen', 'rejected'), _check_preference))


def safety_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """Labelled completions of a JSONL file, as {'question', 'completion', 'safe', ...}, in its order.

  Each line is an object with the texts `prompt` (returned as 'question') and `completion`, and
  `safe`, true or false. Numbers, other fields and blank lines are treated as in `jsonl_source`.

  Args:
    path: the file's path or URL.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object.
  """
  return list(_read_examples(path, ('prompt', 'completion'), _check_safety))


def _check_no_tags(row: dict[str, Any]) -> None:
  for field in ('reasoning', 'summary'):
    for tag in TAGS:
      if tag in row[field]:
        raise UserError(f'the field "{field}" contains {tag}, leave tags out: they are added')


def _check_preference(row: dict[str, Any]) -> None:
  if row['chosen'].strip() == row['rejected'].strip():
    raise UserError('"chosen" and "rejected" are equal, which is not a preference: remove the '
                     'pair')
  margin = row.setdefault('margin', 1.0)
  if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not (
      0 <= margin < math.inf):
    raise UserError(f'the field "margin" is {margin!r}, write a number of at least 0')


def _check_safety(row: dict[str, Any]) -> None:
  if not isinstance(row.get('safe'), bool):
    raise UserError(f'the field "safe" is {row.get("safe")!r}, write true or false')


def _read_examples(
    path: storage.Path | str, fields: Sequence[str],
    check: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[dict[str, Any]]:
  """Yields the examples of a file.

  Args:
    path: the file's path or URL.
    fields: the text fields that each line must have; 'prompt' is renamed to 'question'.
    check: raises UserError for an example with other faults; may set defaults.
  """
  form = '{' + ', '.join(f'"{field}": ...' for field in fields) + '}'
  file = storage.Path(path)
  if not file.exists():
    raise FileNotFoundError(f'There is no file {path}: name a JSONL file of {form}.')
  content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
  empty = True
  for number, line in enumerate(content.split(b'\n'), start=1):
    if line.strip():
      empty = False
      try:
        row = _parse_object(line, form)
        for field in fields:
          _check_text(row, field)
        if check is not None:
          check(row)
      except ValueError as error:
        raise UserError(f'{path}, line {number}: {error}.') from None
      yield {'question': row.pop('prompt'), **row}
  if empty:
    raise UserError(f'{path} is empty: write one {form} per line.')


def _parse_object(line: bytes, form: str) -> dict[str, Any]:
  """The JSON object on a line; raises UserError if it is anything else."""
  try:
    row = json.loads(line.decode('utf-8'))
  except UnicodeDecodeError as error:
    raise UserError(f'byte {error.start + 1} is not UTF-8, save the file as UTF-8') from None
  except json.JSONDecodeError as error:
    raise UserError(f'this is not valid JSON (column {error.colno}: {error.msg}), write one '
                     'object per line') from None
  except (ValueError, RecursionError) as error:
    raise UserError(f'this is not valid JSON ({error}), write one object per line') from None
  if not isinstance(row, dict):
    raise UserError(f'this is a JSON {type(row).__name__}, write an object {form}')
  return row


def _check_text(row: dict[str, Any], field: str) -> None:
  """Raises UserError unless a field is a text that is not blank; converts a number to text."""
  if field not in row:
    raise UserError(f'the field "{field}" is missing (there are: {", ".join(row)}), add it')
  if isinstance(row[field], (int, float)) and not isinstance(row[field], bool):
    row[field] = json.dumps(row[field])
  if not isinstance(row[field], str) or not row[field].strip():
    raise UserError(f'the field "{field}" is {row[field]!r}, write a text that is not blank')
  try:
    row[field].encode()
  except UnicodeEncodeError:
    raise UserError(f'the field "{field}" has half of a surrogate pair, fix its text') from None
