"""Messages between hosts: plain data as JSON, signed with the run's secret; nothing is unpickled.

A message is read only after its signature was checked. What it may hold is listed in `encode`.
Classes are never imported for a message: it can name only data classes and named tuples of r1jax
that are loaded, and exceptions of Python and r1jax, whose arguments are plain data.
"""
import base64
from collections.abc import Callable, Collection
import dataclasses
import hashlib
import hmac
import json
import sys
from typing import Any

import numpy as np

from r1jax.errors import UserError

MAC_BYTES = hashlib.sha256().digest_size
_TAG = '$'
_ERRORS_OF = 'builtins', 'r1jax', 'jax', 'jaxlib'
_KINDS = 'biufc'    # of arrays: numbers and truth values


class MessageError(UserError):
  """A message is not one of this run's hosts: its signature or its form is wrong."""


def sign(secret: bytes, *parts: bytes) -> bytes:
  """HMAC-SHA256 of parts, none of which can be mistaken for another."""
  framed = b''.join(len(part).to_bytes(8, 'big') + part for part in parts)
  return hmac.digest(secret, framed, 'sha256')


def encode(value: Any) -> bytes:
  """A value as JSON.

  Args:
    value: None, a truth value, number, text, bytes, list, tuple, dict, array of numbers, data class
      or named tuple of r1jax, or an exception, at any depth.

  Raises:
    TypeError: anything else.
  """
  return json.dumps(_to_plain(value)).encode()


def decode(content: bytes) -> Any:
  """The value that `encode` turned into `content`.

  Raises:
    MessageError: `content` is something else.
  """
  try:
    return _from_plain(json.loads(content))
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError, MemoryError) as error:
    raise MessageError('a host sent a message that is not one of r1jax '
                       f'({type(error).__name__}): start the same command on all hosts') from None


def _to_plain(value: Any) -> Any:
  if value is None or type(value) in (bool, int, float, str):
    return value
  if type(value) is list:
    return [_to_plain(item) for item in value]
  if isinstance(value, BaseException):
    return _tagged('error', _name(type(value)), _to_plain(_arguments(value)), str(value),
                   list(getattr(value, '__notes__', ())))
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return _tagged('record', _name(type(value)), {
        field.name: _to_plain(getattr(value, field.name))
        for field in dataclasses.fields(value) if field.init})
  names = getattr(value, '_fields', None)
  if isinstance(value, tuple) and names is not None:
    return _tagged('record', _name(type(value)), {
        name: _to_plain(item) for name, item in zip(names, value)})
  if type(value) is tuple:
    return _tagged('tuple', [_to_plain(item) for item in value])
  if isinstance(value, dict):
    return _tagged('dict', [[_to_plain(key), _to_plain(item)] for key, item in value.items()])
  if isinstance(value, bytes):
    return _tagged('bytes', base64.b64encode(value).decode())
  if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in _KINDS:
    array = np.asarray(value)
    return _tagged('array', array.dtype.str, list(array.shape),
                   base64.b64encode(array.tobytes()).decode(),
                   isinstance(value, np.generic))
  raise TypeError(f'{type(value).__name__} cannot be sent to other hosts: send plain data')


def _tagged(*content: Any) -> dict[str, Any]:
  return {_TAG: list(content)}


def _name(cls: type) -> str:
  return f'{cls.__module__}:{cls.__qualname__}'


def _arguments(error: BaseException) -> tuple:
  """What an error is made from, as text where it is not plain."""
  arguments = error.args
  if isinstance(error, OSError) and error.filename is not None:
    arguments = error.errno, error.strerror, error.filename
  return tuple(item if item is None or type(item) in (bool, int, float, str) else str(item)
               for item in arguments)


def _from_plain(value: Any) -> Any:
  if isinstance(value, list):
    return [_from_plain(item) for item in value]
  if not isinstance(value, dict):
    return value
  kind, *parts = value[_TAG]
  readers: dict[str, Callable] = {
      'tuple': _read_tuple, 'dict': _read_dict, 'bytes': _read_bytes, 'array': _read_array,
      'record': _read_record, 'error': _read_error}
  return readers[kind](*parts)


def _read_tuple(items: list) -> tuple:
  return tuple(_from_plain(item) for item in items)


def _read_dict(items: list) -> dict:
  return {_from_plain(key): _from_plain(item) for key, item in items}


def _read_bytes(text: str) -> bytes:
  return base64.b64decode(text, validate=True)


def _read_array(dtype: str, shape: list, text: str, scalar: bool) -> np.ndarray | np.generic:
  kind = np.dtype(str(dtype))
  if kind.kind not in _KINDS:
    raise ValueError(f'arrays of {kind}')
  array = np.frombuffer(_read_bytes(text), kind).reshape([int(size) for size in shape]).copy()
  return array[()] if scalar else array


def _read_record(name: str, fields: dict) -> Any:
  cls = _loaded(name)
  if not (dataclasses.is_dataclass(cls) or issubclass(cls, tuple) and hasattr(cls, '_fields')):
    raise TypeError(f'{name} is neither a data class nor a named tuple')
  return cls(**{field: _from_plain(item) for field, item in fields.items()})


def _read_error(name: str, arguments: Any, said: str, notes: list) -> Exception:
  """The error, or a RuntimeError that says what it said, if its class is another library's."""
  plain = _from_plain(arguments)
  qualified = name.partition(':')[2]
  try:
    cls = _loaded(name, _ERRORS_OF)
    if not issubclass(cls, Exception):
      raise TypeError(name)
    error = cls(*plain)
  except Exception:    # the constructor of an error may ask for anything
    error = RuntimeError(f'{qualified}: {said}')
  for note in notes:
    error.add_note(str(note))
  return error


def _loaded(name: str, packages: Collection[str] = ('r1jax',)) -> type:
  """A class by 'module:Name', from a module of these packages that is loaded."""
  module, _, qualified = name.partition(':')
  if module.split('.')[0] not in packages or not qualified.isidentifier():
    raise TypeError(f'{name} is not a class of {", ".join(packages)}')
  cls = vars(sys.modules[module])[qualified]
  if not isinstance(cls, type):
    raise TypeError(f'{name} is not a class')
  return cls
