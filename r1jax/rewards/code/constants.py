"""The values of constant Python expressions, read from their syntax trees.

They are those of a user's own tests. Nothing is evaluated by Python: literals and containers, a few
operators, and a few functions of constants have their values worked out here, within limits.
"""
import ast
from collections.abc import Callable, Mapping, Sized
import math
import operator
from typing import Any

from r1jax.errors import UserError

Environment = Mapping[str, Any]

MAX_DEPTH = 60        # what enters the sandbox and leaves it has such limits, too
MAX_BITS = 14_000     # of an integer
_MAX_LENGTH = 1_000_000    # of a container or text

_UNARY: dict[type, Callable] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
    ast.Invert: operator.invert}
_BINARY: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
_MATH = {f'math.{name}': getattr(math, name) for name in ('pi', 'e', 'tau', 'inf', 'nan')}


def _sequence(make: Callable) -> Callable:
  return lambda values=(): make(values)


# What may be called with constants.
FUNCTIONS: dict[str, Callable] = {
    'set': _sequence(set), 'frozenset': _sequence(set), 'list': _sequence(list),
    'tuple': _sequence(tuple), 'dict': _sequence(dict), 'sorted': sorted, 'len': len,
    'range': lambda *limits: range(*limits)[:_MAX_LENGTH + 1], 'sum': sum, 'min': min, 'max': max,
    'abs': abs, 'round': round, 'bool': bool, 'int': int, 'float': float, 'str': str,
    'math.sqrt': math.sqrt, 'math.fabs': math.fabs}


class NotConstant(UserError):
  """An expression is not constant, or not one of those that are understood."""


def constant(node: ast.expr, names: Environment | None = None, depth: int = 0) -> Any:
  """The value of a constant expression: None, numbers, texts, and containers of them.

  Args:
    node: its syntax tree.
    names: the values of names that it may use.
    depth: of the expression within another one.

  Raises:
    NotConstant: saying which part of it is not, or has no value.
  """
  if depth > MAX_DEPTH:
    raise NotConstant(f'is nested more than {MAX_DEPTH} deep')

  try:
    found = _value(node, names or {}, depth)
  except (TypeError, ValueError, ArithmeticError) as error:
    if isinstance(error, NotConstant):
      raise
    raise NotConstant(f'{shown(node)} has no value ({error})') from None
  if isinstance(found, Sized) and len(found) > _MAX_LENGTH:
    raise NotConstant(f'{shown(node)} has more than {_MAX_LENGTH} items')
  return found


def _value(node: ast.expr, names: Environment, depth: int) -> Any:
  def value(inner: ast.expr) -> Any:
    return constant(inner, names, depth + 1)

  match node:
    case ast.Constant(value=None | bool() | int() | float() | str()):
      return node.value
    case ast.List():
      return [value(item) for item in node.elts]
    case ast.Tuple():
      return tuple(value(item) for item in node.elts)
    case ast.Set():
      return {value(item) for item in node.elts}
    case ast.Dict() if None not in node.keys:
      return {value(key): value(item) for key, item in zip(node.keys, node.values) if key}
    case ast.UnaryOp(op=op):
      return _UNARY[type(op)](value(node.operand))
    case ast.BinOp(op=op) if type(op) in _BINARY:
      return _binary(op, value(node.left), value(node.right))
    case ast.Name(id=name) if name in names:
      return names[name]
    case ast.Attribute() if ast.unparse(node) in _MATH:
      return _MATH[ast.unparse(node)]
    case ast.Call(keywords=[]) if (called := ast.unparse(node.func)) in FUNCTIONS:
      return FUNCTIONS[called](*map(value, node.args))
  raise NotConstant(f'{shown(node)} is not a constant')


def plain(value: Any, depth: int = 0) -> Any:
  """`value`, if it is plain data that a program can take or return.

  Raises:
    UserError: it is something else, is nested too deeply, has too large an integer, or half of a
      surrogate pair.
  """
  if depth > MAX_DEPTH:
    raise UserError(f'has a value that is nested more than {MAX_DEPTH} deep')
  match value:
    case str():
      try:
        value.encode()
      except UnicodeEncodeError:
        raise UserError('has a text with half of a surrogate pair') from None
    case int() if value.bit_length() > MAX_BITS:
      raise UserError(f'has an integer of more than {MAX_BITS} bits')
    case None | bool() | int() | float():
      pass
    case list() | tuple() | set():
      for item in value:
        plain(item, depth + 1)
    case dict():
      for pair in value.items():
        plain(pair, depth)
    case _:
      raise UserError(f'has a value of type {type(value).__name__}, which is not plain data')
  return value


def shown(node: ast.AST) -> str:
  """An expression as a short text, for a message."""
  text = ast.unparse(node)
  return repr(text if len(text) <= 80 else f'{text[:80]}...')


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
  """The value of a binary operation that cannot become too large."""
  if isinstance(op, ast.Mult):
    for sequence, count in ((left, right), (right, left)):
      if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
        if len(sequence) * count > _MAX_LENGTH:
          raise NotConstant(f'a repetition has more than {_MAX_LENGTH} items')
  if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
    if left.bit_length() * right > 2 * MAX_BITS:
      raise NotConstant(f'a power has more than {2 * MAX_BITS} bits')
  if isinstance(op, ast.Mod) and isinstance(left, str):
    raise NotConstant('texts are not formatted')
  return _BINARY[type(op)](left, right)
