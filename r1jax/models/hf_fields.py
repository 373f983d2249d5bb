"""Reads JSON files of strangers, and single fields of them."""
import json
from typing import Any, NoReturn

from r1jax.errors import UserError
from r1jax.runtime import storage

_LARGEST_FILE = 200_000_000   # the index of a very large model has some ten million bytes
_SHOWN = 200   # characters of a value in a message


def read_json(path: storage.Path) -> dict:
  """Reads a JSON file; raises UserError unless it holds an object without repeated keys."""
  try:
    size = path.fs.size(str(path))
    if size is not None and size > _LARGEST_FILE:
      raise ValueError(f'it has {size:,} bytes')
    value = json.loads(path.read_text(), object_pairs_hook=_without_repeats)
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path} is not valid JSON ({_shown(error)}): download it again.'
                    ) from None
  if not isinstance(value, dict):
    raise UserError(
        f'{path} is not valid JSON (it holds no object): download it again.')
  return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) < len(pairs):
    names = [name for name, _ in pairs]
    raise UserError(f'the key {next(n for n in names if names.count(n) > 1)!r} is repeated')
  return result


def refuse(path: object, field: str, value: object, fix: str) -> NoReturn:
  """Raises the UserError for a field whose value is not supported."""
  raise UserError(f'{path} has {field}={_shown(repr(value))}, which is not supported: {fix}.')


def number(path: object, raw: dict, field: str, kind: type, default: Any = None) -> Any:
  """A number above 0, within 30 decimal orders of 1, of the type `kind`, int or float.

  Args:
    path: of the file, for messages.
    raw: its content.
    field: of `raw`.
    kind: int, or float, where an integer is converted.
    default: the value where the field is absent or null; None: it must be there.
  """
  value = default if raw.get(field) is None else raw[field]
  if value is None:
    raise UserError(f'{path} has no {field}: add it, or use another copy of the file.')
  wanted = int if kind is int else (int, float)
  if not isinstance(value, wanted) or isinstance(value, bool) or not 1e-30 < value < 1e30:
    raise UserError(
        f'{path} has {field}={_shown(repr(value))}: it must be '
        f'{"an integer" if kind is int else "a number"} above 0.')
  return kind(value)


def _shown(value: object) -> str:
  text = str(value)
  return text if len(text) <= _SHOWN else text[:_SHOWN] + '...'
