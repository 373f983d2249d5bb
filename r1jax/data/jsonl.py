"""A user's own questions: JSONL of `{"prompt": ..., "answer": ...}`."""

import codecs
import json
from typing import Any

from r1jax import storage


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
  file = storage.Path(path)
  if not file.exists():
    raise FileNotFoundError(f'There is no file {path}: name a JSONL file of prompts and answers.')
  examples = []
  content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
  for number, line in enumerate(content.split(b'\n'), start=1):
    if line.strip():
      try:
        examples.append(_example(line))
      except ValueError as error:
        raise ValueError(f'{path}, line {number}: {error}.') from None
  if not examples:
    raise ValueError(f'{path} is empty: write one {{"prompt": ..., "answer": ...}} a line.')
  return examples


def _example(line: bytes) -> dict[str, Any]:
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
        f'this is a JSON {type(row).__name__}, write an object {{"prompt": ..., "answer": ...}}')
  for field in ('prompt', 'answer'):
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
  return {'question': row.pop('prompt'), **row}
