"""A user's own data in JSONL: questions and answers, reasoning, preferences or safety labels.

Each line of a file is an object, and each kind of file has a few fields (`QUESTIONS`, `WORKED`,
`PREFERENCES`, `JUDGEMENTS`). All sources have these rules in common:

  - A field may be in a column of another name: columns={'prompt': 'problem', 'answer': 'solution'}.
    Two columns that hold the same field are refused.
  - `prompt` is returned as 'question'. It may be a chat, as [{'role': 'user', 'content': '...'}]:
    an optional system message and any earlier turns, with a user's message at the end. That last
    message is the 'question', and where there are others the chat is returned as 'messages'. A
    system prompt may also be in the column `system`. Only the template 'chat' can show them.
  - A text must not be blank, and a number is converted to text.
  - Optional texts that are null or blank count as absent.
  - All other fields are kept as they are. Blank lines are skipped.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
import math
from typing import Any

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards.code.problems import read_problem
from r1jax.rewards.extract import TAGS
from r1jax.rewards.instructions.reward import read_instructions
from r1jax.rewards.judging.rubric import read_rubric
from r1jax.rewards.language import target_language
from r1jax.rewards.skills import checks_of
from r1jax.runtime import storage

Columns = Mapping[str, str]

_ROLES = ('system', 'user', 'assistant')
_LONGEST_VALUE = 80    # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Form:
  """The fields of one kind of file.

  Attributes:
    texts: those that each line must have, 'prompt' first.
    optional: texts that it may have.
    others: fields that `check` reads, which are no texts.
    check: raises UserError for a row with other faults; may set defaults.
    instead: fields that may stand in place of the text 'answer'.
  """
  texts: tuple[str, ...]
  optional: tuple[str, ...] = ()
  others: tuple[str, ...] = ()
  check: Callable[[dict[str, Any]], None] = lambda row: None
  instead: tuple[str, ...] = ()

  @property
  def fields(self) -> tuple[str, ...]:
    """The fields that may be in columns of other names."""
    return self.texts + self.optional + self.others + self.instead

  def __str__(self) -> str:
    return '{' + ', '.join(f'"{field}": ...' for field in self.texts) + '}'


def jsonl_source(path: storage.Path | str, columns: Columns | None = None) -> list[dict[str, Any]]:
  """The examples of a JSONL file, as {'question', 'answer', ...} in the file's order.

  Each line has the texts `prompt` and `answer`. `answer` may be a list of several that are accepted
  (or the list may be in a column `answers`): then 'answer' is the first and 'answers' has all. It
  may be left out where there are `tests`, `instructions` or a `rubric`. For `reasoning`,
  `language`, `check`, `objective`, `task`, `bad_answer` and `prefix` see the rewards.

  Args:
    path: the file's path or URL.
    columns: the names of columns by field, where they differ.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object (the message names file and line), or the file is
      empty.
  """
  return list(_read_examples(path, QUESTIONS, columns))


def reasoning_source(
    path: storage.Path | str, columns: Columns | None = None) -> list[dict[str, Any]]:
  r"""Worked questions of a JSONL file, as {'question', 'reasoning', 'summary', ...}, in its order.

  Each line has the texts `prompt`, `reasoning` and `summary`, the last two without tags. For a
  question with a single answer the summary should contain it in `\boxed{}`, where the accuracy
  rewards look for it.

  Args:
    path: the file's path or URL.
    columns: the names of columns by field, where they differ.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object, or a text contains a tag.
  """
  return list(_read_examples(path, WORKED, columns))


def preference_source(
    path: storage.Path | str, columns: Columns | None = None) -> list[dict[str, Any]]:
  """Pairs of a JSONL file, as {'question', 'chosen', 'rejected', 'margin', ...}, in its order.

  Each line has the texts `prompt`, `chosen` and `rejected`, and optionally a number `margin` of at
  least 0, which says by how much the chosen text is better (1 by default).

  Args:
    path: the file's path or URL.
    columns: the names of columns by field, where they differ.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object, or its two texts are equal.
  """
  return list(_read_examples(path, PREFERENCES, columns))


def safety_source(path: storage.Path | str, columns: Columns | None = None) -> list[dict[str, Any]]:
  """Labelled completions of a JSONL file, as {'question', 'completion', 'safe', ...}, in its order.

  Each line has the texts `prompt` and `completion`, and `safe`, true or false.

  Args:
    path: the file's path or URL.
    columns: the names of columns by field, where they differ.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: a line is not such an object.
  """
  return list(_read_examples(path, JUDGEMENTS, columns))


def column_faults(columns: Any, *forms: Form) -> Iterator[str]:
  """What is wrong with the names of columns of files of these forms, as sentences."""
  known = dict.fromkeys(field for form in forms for field in form.fields)
  if not isinstance(columns, Mapping):
    yield f"columns must name columns by field, such as {{'prompt': 'problem'}}, got {columns!r}"
    return
  for field, column in columns.items():
    if field not in known:
      yield f'columns.{field} is not a field: {checks.did_you_mean(field, known)}'
    elif not isinstance(column, str) or not column:
      yield f'columns.{field} must be the name of a column, got {column!r}'
  names = [column for column in columns.values() if isinstance(column, str)]
  for name in sorted({name for name in names if names.count(name) > 1}):
    yield f'columns names {name!r} for several fields: name another for each'


# What each kind of file has besides its texts.


def _check_question(row: dict[str, Any]) -> None:
  if row.get('check') in (None, ''):
    row.pop('check', None)
  else:
    _check_skills(row)
  if 'language' in row:
    try:
      target_language('', row['language'])
    except UserError as error:
      raise UserError(f'the field "language": {error}') from None
  if 'rubric' in row:
    read_rubric(row['rubric'], 'the field "rubric"')
  if 'instructions' in row or 'instruction_id_list' in row:
    read_instructions(row)
  if 'tests' in row:
    try:
      read_problem(row['tests'], row)
    except UserError as error:
      raise UserError(f'the field "tests" {error}') from None


def _check_skills(row: dict[str, Any]) -> None:
  try:
    required = checks_of(row['check'])
  except UserError as error:
    raise UserError(f'the field "check" is {error}') from None
  for fields in required:
    if fields['check'] != 'refuses' and 'answer' not in {**row, **fields}:
      raise UserError(f'the field "check" is {_shown(row["check"])}, which needs an "answer"')


def _check_no_tags(row: dict[str, Any]) -> None:
  for field in ('reasoning', 'summary'):
    for tag in TAGS:
      if tag in row[field]:
        raise UserError(f'the field "{field}" contains {tag}, leave tags out: they are added')


def _check_preference(row: dict[str, Any]) -> None:
  if row['chosen'].strip() == row['rejected'].strip():
    raise UserError('"chosen" and "rejected" are equal, which is not a preference: remove the '
                     'pair')
  if row.get('margin') is None:
    row['margin'] = 1.0
  margin = row['margin']
  if isinstance(margin, bool) or not isinstance(margin, (int, float)) or margin < 0:
    raise UserError(f'the field "margin" is {_shown(margin)}, write a number of at least 0')


def _check_safety(row: dict[str, Any]) -> None:
  if not isinstance(row.get('safe'), bool):
    raise UserError(f'the field "safe" is {_shown(row.get("safe"))}, write true or false')


_SYSTEM = 'system'
QUESTIONS = Form(
    ('prompt', 'answer'),
    (_SYSTEM, 'reasoning', 'language', 'objective', 'task', 'bad_answer', 'prefix'),
    others=('check',), check=_check_question,
    instead=('tests', 'instructions', 'instruction_id_list', 'rubric'))
WORKED = Form(('prompt', 'reasoning', 'summary'), (_SYSTEM,), check=_check_no_tags)
PREFERENCES = Form(('prompt', 'chosen', 'rejected'), (_SYSTEM,), ('margin',), _check_preference)
JUDGEMENTS = Form(('prompt', 'completion'), (_SYSTEM,), ('safe',), _check_safety)


# Reading.


def _read_examples(
    path: storage.Path | str, form: Form, columns: Columns | None,
) -> Iterator[dict[str, Any]]:
  """Yields the examples of a file."""
  file = storage.Path(path)
  if not file.exists():
    raise FileNotFoundError(f'There is no file {path}: name a JSONL file of {form}.')
  content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
  empty = True
  for number, line in enumerate(content.split(b'\n'), start=1):
    if line.strip():
      empty = False
      try:
        example = _to_example(_parse_object(line, form), form, columns or {})
      except UserError as error:
        raise UserError(f'{path}, line {number}: {error}.') from None
      yield example
  if empty:
    raise UserError(f'{path} is empty: write one {form} per line.')


def _parse_object(line: bytes, form: Form) -> dict[str, Any]:
  """The JSON object on a line; raises UserError if it is anything else."""
  try:
    row = json.loads(line.decode('utf-8'), object_pairs_hook=_unique_fields)
  except UserError:
    raise
  except UnicodeDecodeError as error:
    raise UserError(f'byte {error.start + 1} is not UTF-8, save the file as UTF-8') from None
  except json.JSONDecodeError as error:
    raise UserError(f'this is not valid JSON (column {error.colno}: {error.msg}), write one '
                     'object per line') from None
  except (ValueError, RecursionError) as error:
    raise UserError(f'this is not valid JSON ({error}), write one object per line') from None
  if not isinstance(row, dict):
    raise UserError(f'this is a JSON {type(row).__name__}, write an object {form}')
  for field, value in row.items():
    _check_finite(field, value)
  return row


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  fields: dict[str, Any] = {}
  for name, value in pairs:
    if name in fields:
      raise UserError(f'the field "{name}" appears twice, keep one')
    fields[name] = value
  return fields


def _check_finite(field: str, value: Any) -> None:
  """Refuses NaN and infinities at any depth, which are not JSON."""
  waiting = [value]
  while waiting:
    item = waiting.pop()
    if isinstance(item, float) and not math.isfinite(item):
      raise UserError(f'the field "{field}" is {_shown(value)}, write a finite number or a text')
    if isinstance(item, dict):
      waiting += item.values()
    elif isinstance(item, list):
      waiting += item


def _to_example(row: dict[str, Any], form: Form, columns: Columns) -> dict[str, Any]:
  """A line's object as an example."""
  if 'answer' in form.texts and 'answer' not in columns and 'answers' in row:
    if 'answer' in row:
      raise UserError('the fields "answer" and "answers" both hold the answer, remove one')
    columns = {**columns, 'answer': 'answers'}
  example: dict[str, Any] = {}
  there = ', '.join(row)
  for field in form.instead + form.others:
    if row.get(columns.get(field, field)) is None:
      row.pop(columns.get(field, field), None)
  for field in form.texts:
    column = columns.get(field, field)
    if field == 'answer' and row.get(column) in (None, '') and any(
        columns.get(other, other) in row for other in form.instead):
      row.pop(column, None)
      continue
    if column not in row:
      or_else = f' or {", ".join(form.instead)}' if field == 'answer' else ''
      raise UserError(f'the field "{column}" is missing (there are: {there}), add it{or_else}, or '
                      f'name its column in columns.{field}')
    value = row.pop(column)
    if field == 'prompt':
      example |= _read_prompt(value, column)
    elif field == 'answer' and isinstance(value, list):
      example |= _read_answers(value, column)
    else:
      example[field] = _text(value, column)
  for field in form.optional:
    column = columns.get(field, field)
    value = row.pop(column, None)
    if value is not None and value != '':
      example[field] = _text(value, column)
  for field in form.others + form.instead:
    column = columns.get(field, field)
    if column in row:
      example[field] = row.pop(column)
  _put_system_first(example, columns)
  for name in ('question', 'messages', 'answers', *form.fields[1:]):
    if name in row:
      field = {'question': 'prompt', 'messages': 'prompt', 'answers': 'answer'}.get(name, name)
      raise UserError(f'the fields "{columns.get(field, field)}" and "{name}" both hold the '
                      f'{field}, remove one, or rename "{name}" if it is something else')
  example |= row
  form.check(example)
  return example


def _put_system_first(example: dict[str, Any], columns: Columns) -> None:
  """Moves the system prompt of a column of its own into the messages."""
  system = example.pop(_SYSTEM, None)
  if system is None:
    return
  messages = example.get('messages', [{'role': 'user', 'content': example['question']}])
  if messages[0]['role'] == 'system':
    raise UserError(f'the fields "{columns.get("prompt", "prompt")}" and '
                    f'"{columns.get(_SYSTEM, _SYSTEM)}" both hold a system prompt, remove one')
  example['messages'] = [{'role': 'system', 'content': system}, *messages]


def _read_prompt(value: Any, field: str) -> dict[str, Any]:
  """{'question'}, and 'messages' where the prompt is a chat of more than the question."""
  if not isinstance(value, list):
    return {'question': _text(value, field)}
  messages = []
  for place, message in enumerate(value):
    where = f'{field}[{place}]'
    if isinstance(message, dict):
      message = {name: part for name, part in message.items() if part is not None}
    if not isinstance(message, dict) or set(message) != {'role', 'content'}:
      raise UserError(f'the field "{where}" is {_shown(message)}, write a message '
                      '{"role": ..., "content": ...}')
    if message['role'] not in _ROLES or (message['role'] == 'system' and place):
      raise UserError(f'the field "{where}.role" is {_shown(message["role"])}, write "user" or '
                      '"assistant"; only the first may be "system"')
    messages.append({'role': message['role'],
                     'content': _text(message['content'], f'{where}.content')})
  if not messages or messages[-1]['role'] != 'user':
    raise UserError(f'the field "{field}" is {_shown(value)}, end the chat with a message of the '
                    'role "user", which is answered')
  question = {'question': messages[-1]['content']}
  return question if len(messages) == 1 else question | {'messages': messages}


def _read_answers(value: list[Any], field: str) -> dict[str, Any]:
  """{'answer', 'answers'} of a list of accepted answers."""
  if not value:
    raise UserError(f'the field "{field}" is [], write at least one answer')
  answers = [_text(item, f'{field}[{place}]') for place, item in enumerate(value)]
  return {'answer': answers[0]} if len(answers) == 1 else {
      'answer': answers[0], 'answers': answers}


def _text(value: Any, field: str) -> str:
  """A text that is not blank, or a number as text."""
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    value = json.dumps(value)
  if not isinstance(value, str) or not value.strip():
    raise UserError(f'the field "{field}" is {_shown(value)}, write a text that is not blank')
  try:
    value.encode()
  except UnicodeEncodeError:
    raise UserError(f'the field "{field}" has half of a surrogate pair, fix its text') from None
  return value


def _shown(value: Any) -> str:
  """A value for a message, cut if it is long."""
  text = repr(value)
  return text if len(text) <= _LONGEST_VALUE else f'{text[:_LONGEST_VALUE]}...'
