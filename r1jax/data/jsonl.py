"""A user's own data: JSONL of questions and answers, of reasoning, of preferences or of safety."""

import codecs
from collections.abc import Callable, Iterator, Sequence
import json
import math
from typing import Any

from r1jax.rewards import extract
from r1jax.runtime import storage

_TAGS = (
    extract.THINK_OPENING, extract.THINK_CLOSING, extract.ANSWER_OPENING, extract.ANSWER_CLOSING)


def jsonl_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """The examples of a JSONL file, as {'question', 'answer', ...} in the file's order.

  Each line is an object with the texts `prompt` (returned as 'question') and `answer` (a number is
  taken as its text); other fields are kept. Blank lines are passed over.

  Args:
    path: the file's path or URL.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not such an object (named by file and line), or there is none.
  """
  return list(_rows(path, ('prompt', 'answer')))


def reasoning_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """Worked questions of a JSONL file, as {'question', 'reasoning', 'summary', ...} in its order.

  Each line is an object with the texts `prompt` (returned as 'question'), `reasoning` and
  `summary`, these two without tags; else as `jsonl_source`. For questions with one answer the
  summary has it in `\\boxed{}`, where the accuracy rewards look for it.

  Raises:
    FileNotFoundError, ValueError: as `jsonl_source`; a tag within a text.
  """
  return list(_rows(path, ('prompt', 'reasoning', 'summary')))


def preference_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """Pairs of a JSONL file, as {'question', 'chosen', 'rejected', 'margin', ...} in its order.

  Each line is an object with the texts `prompt` (returned as 'question'), `chosen` and `rejected`,
  and perhaps a number `margin` from 0, by how much the one is better (1 where there is none); else
  as `jsonl_source`.

  Raises:
    FileNotFoundError, ValueError: as `jsonl_source`; the two sides are equal.
  """
  def check(row):
    if row['chosen'].strip() == row['rejected'].strip():
      raise ValueError('"chosen" and "rejected" are equal, which prefers nothing: remove the pair')
    margin = row.setdefault('margin', 1.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not (
        0 <= margin < math.inf):
      raise ValueError(f'the field "margin" is {margin!r}, write a number from 0')
  return list(_rows(path, ('prompt', 'chosen', 'rejected'), check))


def safety_source(path: storage.Path | str) -> list[dict[str, Any]]:
  """Judged completions of a JSONL file, as {'question', 'completion', 'safe', ...} in its order.

  Each line is an object with the texts `prompt` (returned as 'question') and `completion`, and
  `safe`, true or false; else as `jsonl_source`.

  Raises:
    FileNotFoundError, ValueError: as `jsonl_source`.
  """
  def check(row):
    if not isinstance(row.get('safe'), bool):
      raise ValueError(f'the field "safe" is {row.get("safe")!r}, write true or false')
  return list(_rows(path, ('prompt', 'completion'), check))


def _rows(
    path: storage.Path | str, fields: Sequence[str], check: Callable = lambda row: None,
) -> Iterator[dict[str, Any]]:
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
        row = _example(line, fields, form)
        check(row)
      except ValueError as error:
        raise ValueError(f'{path}, line {number}: {error}.') from None
      yield row
  if empty:
    raise ValueError(f'{path} is empty: write one {form} a line.')


def _example(line: bytes, fields: Sequence[str], form: str) -> dict[str, Any]:
  try:
    row = json.loads(line.decode('utf-8'))
  except UnicodeDecodeError as error:
    raise ValueError(f'byte {error.start + 1} is not UTF-8, save the file as UTF-8') from None
  except json.JSONDecodeError as error:
    raise ValueError(
        f'this is no JSON (column {error.colno}: {error.msg}), write one object a line') from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f'this is no JSON ({error}), write one object a line') from None
  if not isinstance(row, dict):
    raise ValueError(
        f'this is a JSON {type(row).__name__}, write an object {form}')
  for field in fields:
    if field not in row:
      raise ValueError(f'the field "{field}" is missing (there are: {", ".join(row)}), add it')
    if isinstance(row[field], (int, float)) and not isinstance(row[field], bool):
      row[field] = json.dumps(row[field])
    if not isinstance(row[field], str) or not row[field].strip():
      raise ValueError(f'the field "{field}" is {row[field]!r}, write a text that is not blank')
    try:
      row[field].encode()
    except UnicodeEncodeError:
      raise ValueError(f'the field "{field}" has half a surrogate pair, mend its text') from None
    if field in ('reasoning', 'summary'):
      for tag in _TAGS:
        if tag in row[field]:
          raise ValueError(f'the field "{field}" holds {tag}, leave tags out: they are added')
  return {'question': row.pop('prompt'), **row}
