"""What a function from a notebook is known by: its source, and that of all it depends on.

That is what it closes over, its defaults and attributes, and the functions, classes and values of
the user's own modules that it names, at any depth. Functions of libraries are known by their names.
What the function itself changes, such as a cache or a list of what it has seen, does not count. An
object of a library is known by what pickle would keep of it. Any object may say by itself what it
is known by, in a text `identity`.
"""
import ast
from collections.abc import Callable, Iterator, Mapping
import contextlib
import copyreg
import dis
import functools
import hashlib
import io
import json
import linecache
import logging
import operator
import os
import site
import sys
import sysconfig
import textwrap
import threading
import types
from typing import Any

import numpy as np

from r1jax.errors import UserError
from r1jax.rewards import calls

_LIBRARIES = tuple({os.path.realpath(path) + os.sep for path in (
    *(sysconfig.get_path(name) for name in ('stdlib', 'platstdlib', 'purelib', 'platlib')),
    *site.getsitepackages(), site.getusersitepackages(),
    os.path.dirname(os.path.dirname(__file__)))})
_CHANGING = frozenset((
    'add append appendleft clear discard extend extendleft insert pop popitem popleft put remove '
    'reverse setdefault sort update write writelines').split())
# Of a class, what its source does not say, or what Python adds.
_ADDED = frozenset((
    '__abstractmethods__ __annotations__ __annotations_cache__ __dataclass_fields__ '
    '__dataclass_params__ __dict__ __doc__ __firstlineno__ __hash__ __match_args__ __module__ '
    '__static_attributes__ __weakref__ _abc_impl').split())
_WITHOUT_CONTENT = (
    type(threading.Lock()), type(threading.RLock()), threading.local, logging.Logger)
_MANY = 1_000_000    # objects that are looked at


def function_identity(function: Callable, *more: Any) -> str:
  """What a function is known by.

  Args:
    function: a function, a method, a `functools.partial`, or an object that can be called.
    more: what else decides its result, such as a weight.

  Raises:
    UserError: it is a built-in function, or depends on what cannot be known.
  """
  inner = function
  while isinstance(inner, functools.partial):
    inner = inner.func
  if isinstance(inner, types.BuiltinFunctionType):
    raise UserError(f'{function!r} has no source by which its results could be known: wrap it in a '
                    'function')
  name = getattr(inner, '__qualname__', type(inner).__qualname__)
  described = _Description(name).of([function, *more], name)
  return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


class _Description:
  """Describes values as lists that JSON can hold; equal lists, equal results."""

  def __init__(self, name: str):
    self._name = name
    self._seen: dict[int, tuple[int, Any]] = {}    # values by their ids, and kept alive

  def of(self, value: Any, path: str) -> Any:
    """The description of a value that is reached by `path`, for messages."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)) or (
        value is Ellipsis):
      return [type(value).__name__, repr(value)]
    if id(value) in self._seen:
      return ['seen', self._seen[id(value)][0]]
    self._seen[id(value)] = len(self._seen), value
    if not isinstance(value, type) and isinstance(said := _get(value, 'identity'), str):
      return ['identity', said]
    if len(self._seen) > _MANY:
      raise self._unknown(value, path)
    try:
      return self._of_code(value, path) or self._of_data(value, path)
    except RecursionError:
      raise self._unknown(value, path) from None

  def _unknown(self, value: Any, path: str) -> UserError:
    kind = f'{type(value).__module__}.{type(value).__qualname__}'
    return UserError(
        f'function {self._name!r} depends on {path}, of type {kind}, and what that holds cannot be '
        f'known: set {self._name}.identity to a text, and change it whenever the results change')

  # Functions, classes and modules.

  def _of_code(self, value: Any, path: str) -> list | None:
    if isinstance(value, types.FunctionType):
      return self._of_function(value, path)
    if isinstance(value, functools.partial):
      return ['partial', self.of([value.func, value.args, value.keywords], path)]
    if isinstance(value, types.MethodType):
      return ['method', self.of([value.__func__, value.__self__], path)]
    if not isinstance(value, type) and callable(_get(value, '__wrapped__')):
      return [type(value).__name__, self.of(value.__wrapped__, path)]
    if isinstance(value, property):
      return ['property', self.of([value.fget, value.fset], path)]
    if isinstance(value, functools.cached_property):
      return ['property', self.of(value.func, path)]
    if isinstance(value, type):
      return self._of_class(value, path)
    if isinstance(value, types.ModuleType):
      return ['module', value.__name__]
    if isinstance(value, types.BuiltinMethodType):
      owner = value.__self__
      return ['built in', value.__qualname__, None if isinstance(
          owner, (types.ModuleType, type)) else self.of(owner, path)]
    if isinstance(value, types.CodeType):
      return ['code', value.co_code.hex(), [self.of(one, path) for one in value.co_consts],
              list(value.co_names)]
    return None

  def _of_function(self, function: types.FunctionType, path: str) -> list:
    code = function.__code__
    if _is_library(code.co_filename):
      wrapped = _get(function, '__wrapped__')
      return ['library', function.__module__, function.__qualname__, self.of(wrapped, path)
              if wrapped else self._closure(function, frozenset(), path)]
    sources, changed = _source_of(code)
    arguments = code.co_varnames[:code.co_argcount]
    defaults = dict(zip(reversed(arguments), reversed(function.__defaults__ or ())))
    named = _named_globals(function)
    return ['function', sources or self.of(code, path),
            self._closure(function, changed, path),
            self._each(defaults | (function.__kwdefaults__ or {}), changed, path),
            self._each(named, changed, path),
            self._each({name: value for name, value in vars(function).items()
                        if name not in ('__wrapped__', calls.ATTRIBUTE)}, changed, path)]

  def _closure(self, function: types.FunctionType, changed: frozenset[str], path: str) -> list:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
      try:
        found[name] = cell.cell_contents
      except ValueError:    # not assigned yet
        found[name] = None
    return self._each(found, changed, path)

  def _each(self, values: Mapping[str, Any], changed: frozenset[str], path: str) -> list:
    """Descriptions of values by name, but for those that the function changes."""
    return [[name, self.of(value, name)] for name, value in sorted(values.items())
            if name not in changed or callable(value)]

  def _of_class(self, cls: type, path: str) -> list:
    module = getattr(cls, '__module__', '')
    if not _is_own(cls):
      return ['library', module, cls.__qualname__]
    members = {name: value for name, value in vars(cls).items() if name not in _ADDED}
    return ['class', cls.__qualname__, [self.of(base, path) for base in cls.__bases__],
            self._each(members, frozenset(), path)]

  # Values.

  def _of_data(self, value: Any, path: str) -> list:
    kind = type(value).__qualname__
    if isinstance(value, _WITHOUT_CONTENT):
      return [kind]
    if isinstance(value, io.IOBase):
      return [kind, str(getattr(value, 'name', ''))]
    if callable(_get(value, '__array__')):
      with contextlib.suppress(Exception):    # not all can become a NumPy array
        array = np.asarray(value)
        if not array.dtype.hasobject:
          return [kind, str(array.dtype), list(array.shape),
                  hashlib.sha256(array.tobytes()).hexdigest()]
    if _is_own(type(value)):
      return ['object', self.of(type(value), path), self._state(value, path)]
    if type(value) in (list, tuple):
      return [kind, [self.of(one, path) for one in value]]
    if type(value) in (set, frozenset):
      ordered = sorted(value, key=lambda one: json.dumps(_Description(self._name).of(one, path)))
      return [kind, [self.of(one, path) for one in ordered]]
    if type(value) in (dict, types.MappingProxyType):
      return [kind, [[self.of(key, path), self.of(one, f'{path}[{key!r}]')]
                     for key, one in value.items()]]
    cls = type(value)
    if cls.__itemsize__ and cls.__reduce__ is object.__reduce__ and (
        cls not in copyreg.dispatch_table):    # its content would be left out
      raise self._unknown(value, path)
    try:
      reduced = copyreg.dispatch_table.get(cls, operator.methodcaller('__reduce_ex__', 4))(value)
    except Exception:
      raise self._unknown(value, path) from None
    parts = reduced if isinstance(reduced, str) else [
        list(part) if isinstance(part, Iterator) else part for part in reduced]
    return [kind, self.of(parts, path)]

  def _state(self, value: Any, path: str) -> list:
    """What an object of the user's own class holds, but for what its methods change."""
    cls = type(value)
    changed = frozenset().union(*(
        _source_of(member.__code__, of_self=True)[1] for one in cls.__mro__
        for name, member in vars(one).items() if isinstance(member, types.FunctionType)
        and not name.startswith(('__init', '__post_init', '__set')) and _is_own(one)))
    slots = {name: getattr(value, name) for one in cls.__mro__
             for name in getattr(one, '__slots__', ()) if hasattr(value, name)}
    held = {name: one for name, one in ({**slots, **getattr(value, '__dict__', {})}).items()
            if name not in ('__dict__', '__weakref__', calls.ATTRIBUTE)}
    found = self._each(held, changed, path)
    for builtin in (dict, list, tuple, set):
      if isinstance(value, builtin):
        found.append(self.of(builtin(value), path))
    return found


def _is_library(file: str) -> bool:
  return file.startswith('<frozen') or os.path.realpath(file).startswith(_LIBRARIES)


def _is_own(cls: type) -> bool:
  """Whether a class is of the user's own modules."""
  module = sys.modules.get(cls.__module__)
  if module is None or cls.__module__ == '__main__':
    return True
  file = getattr(module, '__file__', None)
  return file is not None and not _is_library(file)


def _get(value: Any, name: str) -> Any:
  """An attribute, None where there is none, whatever the object does when it is asked."""
  try:
    return getattr(value, name, None)
  except Exception:
    return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
  """A function's code, and those of the functions within it."""
  yield code
  for one in code.co_consts:
    if isinstance(one, types.CodeType):
      yield from _codes(one)


def _named_globals(function: types.FunctionType) -> dict[str, Any]:
  """The globals that a function names, and of the user's own modules what it may name there."""
  found, attributes = {}, set()
  for code in _codes(function.__code__):
    attributes |= set(code.co_names)
    for instruction in dis.get_instructions(code):
      if instruction.opname in ('LOAD_GLOBAL', 'LOAD_NAME'):
        name = instruction.argval
        if name in function.__globals__:
          found[name] = function.__globals__[name]
  modules = [(name, value) for name, value in found.items() if isinstance(value, types.ModuleType)]
  done = set()
  while modules:
    name, module = modules.pop()
    file = getattr(module, '__file__', None)
    if id(module) in done or file is None or _is_library(file):
      continue
    done.add(id(module))
    for attribute in attributes & vars(module).keys():
      value = found[f'{name}.{attribute}'] = vars(module)[attribute]
      if isinstance(value, types.ModuleType):
        modules.append((f'{name}.{attribute}', value))
  return found


# Sources.


def _source_of(code: types.CodeType, *, of_self: bool = False) -> tuple[list[str], frozenset[str]]:
  """(the source of a function, what it changes); ([], ...) where its file has changed since.

  Args:
    code: of the function.
    of_self: whether the attributes are meant that a method changes of its object, or else names.
  """
  text = ''.join(linecache.getlines(code.co_filename))
  nodes = [node for line, node in _functions(text) if line == code.co_firstlineno]
  if code.co_name != '<lambda>':
    nodes = [node for node in nodes if getattr(node, 'name', '') == code.co_name]
  else:
    nodes = [node for node in nodes if isinstance(node, ast.Lambda)]
  changed = frozenset().union(*(_changed_by(node, of_self) for node in nodes))
  if not _is_current(text, code):
    return [], changed
  return [textwrap.dedent(ast.get_source_segment(text, node, padded=True) or '')
          for node in nodes], changed


@functools.lru_cache(maxsize=64)
def _functions(text: str) -> list[tuple[int, Any]]:
  """(first line, node) of all functions in a text."""
  try:
    tree = ast.parse(text)
  except (SyntaxError, ValueError):
    return []
  return [(min([node.lineno, *(one.lineno for one in getattr(node, 'decorator_list', ()))]), node)
          for node in ast.walk(tree)
          if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]


def _is_current(text: str, code: types.CodeType) -> bool:
  """Whether a function was compiled from what its file holds now."""
  return _key(code) in _compiled(text, code.co_filename)


def _key(code: types.CodeType) -> tuple:
  return (code.co_name, code.co_code, code.co_names, code.co_varnames, tuple(
      _key(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts))


@functools.lru_cache(maxsize=64)
def _compiled(text: str, file: str) -> frozenset:
  try:
    module = compile(text, file, 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
  except (SyntaxError, ValueError):
    return frozenset()
  return frozenset(map(_key, _codes(module)))


def _changed_by(function: Any, of_self: bool) -> set[str]:
  """The names that a function changes, or the attributes of its first argument."""
  first = function.args.args[0].arg if function.args.args else ''
  found: set[str] = set()

  def note(node: Any) -> None:
    chain: list[str] = []
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
      chain.append(node.attr if isinstance(node, ast.Attribute) else '')
      node = node.value
    if isinstance(node, ast.Name) and of_self and node.id == first and chain:
      found.add(chain[-1])
    elif isinstance(node, ast.Name) and not of_self and chain:
      found.add(node.id)

  for node in ast.walk(function):
    if isinstance(node, (ast.Global, ast.Nonlocal)) and not of_self:
      found |= set(node.names)
    elif isinstance(node, (ast.Assign, ast.Delete)):
      for target in node.targets:
        note(target)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
      note(node.target)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      if node.func.attr in _CHANGING:
        note(node.func)
    elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'next' and node.args:
      note(ast.Attribute(node.args[0], ''))
  return found
