"""Whether what a program printed or returned is what a test expects.

Expected values are compared here, outside of the sandbox, with plain data that came out of it: an
object of a program's own, whose `__eq__` says True to everything, never gets here.

Numbers of which the expected one is a float may be off by `TOLERANCE`, absolute or relative,
whichever is more; below 0.001 by a thousandth of the expected one. Everything else is exact.
"""
from collections.abc import Iterable, Mapping
import math
import re
from typing import Any

TOLERANCE = 1e-6
_SMALL = 1e-3

_FLOAT = re.compile(r'[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?')
_NUMBER = re.compile(r'[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?')
_LONGEST_NUMBER = 400    # characters


def same_output(found: str, expected: str) -> bool:
  """Whether a program printed the expected lines.

  White space at the ends of lines and of the whole text is ignored. In a line in which a float is
  expected (a token with a point or an exponent), tokens are compared one by one: such a token with
  a number, within the tolerance, and others exactly.
  """
  found_lines, expected_lines = _lines(found), _lines(expected)
  return len(found_lines) == len(expected_lines) and all(
      map(_same_line, found_lines, expected_lines))


def same_value(found: Any, expected: Any, *, json: bool = False) -> bool:
  """Whether a program returned the expected value.

  Types matter: True is neither 1 nor 1.0, 1 is not '1', a list is not a tuple. But 1 and 1.0 are
  equal, as in Python. Dictionaries and sets have no order, and nan equals nan.

  Args:
    found: plain data of any depth.
    expected: plain data of bounded depth.
    json: whether the expected value comes from JSON, which has neither tuples nor names that are no
      texts: then a tuple equals a list, and the key 1 equals '1'.
  """
  match expected:
    case None | bool() | str():
      return type(found) is type(expected) and found == expected
    case int() | float():
      return same_number(found, expected)
    case list() | tuple():
      kinds = (list, tuple) if json else type(expected)
      return isinstance(found, kinds) and len(found) == len(expected) and all(
          same_value(one, other, json=json) for one, other in zip(found, expected))
    case dict():
      return isinstance(found, dict) and _same_dict(found, expected, json)
    case set():
      return isinstance(found, (set, frozenset)) and _same_set(found, expected)
  raise TypeError(f'{type(expected).__name__} is not expected of a program')


def same_number(found: Any, expected: int | float) -> bool:
  """Whether a value is the expected number: exactly, or closely where that is a float."""
  if isinstance(found, bool) or not isinstance(found, (int, float)):
    return False
  if isinstance(expected, int) or found == expected:
    return found == expected
  if math.isnan(expected) or math.isinf(expected):
    return math.isnan(expected) and isinstance(found, float) and math.isnan(found)
  size = abs(expected)
  allowed = (TOLERANCE * max(1.0, size) if size >= _SMALL or size == 0
             else TOLERANCE / _SMALL * size)
  try:
    return abs(found - expected) <= allowed
  except OverflowError:    # an integer that no float can hold
    return False


def _same_dict(found: Mapping, expected: Mapping, json: bool) -> bool:
  keys = {_key(key, json): key for key in found}
  return len(keys) == len(found) == len(expected) and all(
      _key(key, json) in keys and same_value(found[keys[_key(key, json)]], value, json=json)
      for key, value in expected.items())


def _same_set(found: Iterable, expected: Iterable) -> bool:
  """Whether two sets are equal; floats among the expected ones are paired in order."""
  exact = {_key(item) for item in found} ^ {_key(item) for item in expected}
  left = [[value for value in values if _key(value) in exact] for values in (found, expected)]
  if not all(isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
             for values in left for value in values):
    return False
  return same_value(*map(sorted, left))


def _key(value: Any, json: bool = False) -> Any:
  """A value that is equal for equal keys or members, types included."""
  if json and isinstance(value, int) and not isinstance(value, bool):
    return str, str(value)
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return 'number', 'nan' if value != value else value
  if isinstance(value, tuple):
    return tuple, tuple(_key(item) for item in value)
  return type(value), value


def _lines(text: str) -> list[str]:
  return [line.rstrip() for line in text.rstrip().split('\n')]


def _same_line(found: str, expected: str) -> bool:
  if found == expected:
    return True
  expected_tokens = expected.split()
  if not any(map(_FLOAT.fullmatch, expected_tokens)):
    return False
  found_tokens = found.split()
  return len(found_tokens) == len(expected_tokens) and all(
      map(_same_token, found_tokens, expected_tokens))


def _same_token(found: str, expected: str) -> bool:
  if found == expected:
    return True
  if max(len(found), len(expected)) > _LONGEST_NUMBER:
    return False
  return bool(_FLOAT.fullmatch(expected) and _NUMBER.fullmatch(found)) and same_number(
      float(found), float(expected))
