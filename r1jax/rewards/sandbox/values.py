"""Plain values as text: how arguments enter the sandbox and returned values leave it.

A plain value is None, a bool, int, float or str, or a list, tuple, dict or set of plain values,
each of exactly that type. Their text is JSON, with an object of one key for what JSON lacks:
`{"tuple": [...]}`, `{"set": [...]}`, `{"dict": [[key, value], ...]}`, `{"int": "0x..."}` for
integers of more than 63 bits and `{"float": "nan"}`, `"inf"`, `"-inf"`.

`decode` reads what a hostile program wrote: it makes nothing but plain values, whatever the text
is, in time linear in its length.
"""
import collections
import json
import math
from typing import NoReturn

MAX_DEPTH = 64    # of containers in containers
_MAX_BRACKETS = 3 * MAX_DEPTH + 8
_MAX_BITS = 14_000    # such an int can still be printed: Python stops at 4,300 digits
_MAX_EQUAL_HASHES = 32
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}'))

# Types of the standard library that equal the plain value they are turned into.
_CONVERTED = {
    collections.Counter: dict, collections.defaultdict: dict, collections.OrderedDict: dict,
    frozenset: set,
}


class NotPlain(ValueError):
  """A value that is not plain, or a text that is not that of a plain value."""


class TooLarge(ValueError):
  """A value whose text would be longer than allowed."""


def encode(value: object, max_bytes: int | None = None) -> bytes:
  """The text of a plain value.

  Raises:
    NotPlain: the value, or something in it, is not plain, or it is nested too deeply.
    TooLarge: the text is longer than `max_bytes`, or an int is too long to be printed.
  """
  left = math.inf if max_bytes is None else max_bytes

  def build(value, depth):
    nonlocal left
    left -= len(value) if type(value) is str else 1
    if left < 0:
      raise TooLarge('the value is too large')
    kind = _CONVERTED.get(type(value), type(value))
    if value is None or kind is bool or kind is str:
      return value
    if kind is int:
      if value.bit_length() > _MAX_BITS:
        raise TooLarge(f'an int of {value.bit_length()} bits')
      return value if value.bit_length() < 64 else {'int': hex(value)}
    if kind is float:
      return value if math.isfinite(value) else {'float': repr(value)}
    if depth == MAX_DEPTH:
      raise NotPlain(f'a value of more than {MAX_DEPTH} levels')
    if kind is list:
      return [build(item, depth + 1) for item in value]
    if kind is tuple or kind is set:
      return {kind.__name__: [build(item, depth + 1) for item in value]}
    if kind is dict:
      return {'dict': [[build(key, depth + 1), build(item, depth + 1)]
                       for key, item in value.items()]}
    raise NotPlain(f'a value of type {type(value).__name__}')

  text = json.dumps(build(value, 0), ensure_ascii=False, separators=(',', ':'))
  encoded = text.encode('utf-8', 'surrogatepass')
  if max_bytes is not None and len(encoded) > max_bytes:
    raise TooLarge('the value is too large')
  return encoded


def decode(text: bytes) -> object:
  """The plain value that `text` stands for.

  Raises:
    NotPlain: it stands for none, whatever it is.
  """
  _check_depth(text)
  try:
    parsed = json.loads(
        text.decode('utf-8', 'surrogatepass'), object_pairs_hook=_only_pair,
        parse_int=_short_int, parse_constant=_refuse)
    return _plain(parsed)
  except NotPlain:
    raise
  except (ValueError, TypeError, RecursionError) as error:
    raise NotPlain('this is not the text of a plain value') from error


def _check_depth(text: bytes) -> None:
  """Bounds the recursion of the parser, which a thread's stack might not bear."""
  outside_strings = b''.join(
      text.replace(b'\\\\', b'').replace(b'\\"', b'').split(b'"')[::2])
  depth = 0
  for bracket in outside_strings.translate(None, _NO_BRACKETS):
    depth += 1 if bracket in b'[{' else -1
    if depth > _MAX_BRACKETS:
      raise NotPlain('a text of too many levels')


class _Pair(tuple):
  """The only pair of a JSON object."""


def _only_pair(pairs: list) -> _Pair:
  if len(pairs) != 1:
    raise NotPlain('an object of other than one key')
  return _Pair(pairs[0])


def _short_int(digits: str) -> int:
  if len(digits) > 20:
    raise NotPlain('an int of too many digits')
  return int(digits)


def _refuse(name: str) -> NoReturn:
  raise NotPlain(name)


def _plain(parsed) -> object:
  if type(parsed) is list:
    return [_plain(item) for item in parsed]
  if type(parsed) is not _Pair:
    return parsed
  kind, content = parsed
  if kind == 'int' and type(content) is str and len(content) <= _MAX_BITS // 4 + 4:
    return int(content, 16)
  if kind == 'float' and content in ('nan', 'inf', '-inf'):
    return float(content)
  if type(content) is not list:
    raise NotPlain('an unknown form')
  if kind == 'tuple':
    return tuple(_plain(item) for item in content)
  if kind == 'set':
    items = [_plain(item) for item in content]
    return set(_hashable(items))
  if kind == 'dict' and all(type(pair) is list and len(pair) == 2 for pair in content):
    keys = [_plain(key) for key, _ in content]
    return dict(zip(_hashable(keys), (_plain(item) for _, item in content)))
  raise NotPlain('an unknown form')


def _hashable(keys: list) -> list:
  """`keys`, unless so many share a hash that a dict of them would take quadratic time."""
  equal = collections.Counter(map(hash, keys)).most_common(1)
  if equal and equal[0][1] > _MAX_EQUAL_HASHES:
    raise NotPlain('too many keys of one hash')
  return keys
