"""Assertions split into the arguments of a call, and what is expected of its value.

    assert f(1, [2]) == 3    →    f, (1, [2]), Expectation(operator='==', value=3)

The arguments go into the sandbox. The expectation stays outside, and judges the value that comes
back. What cannot be split so is refused: a loop, a call within another one's arguments, an argument
that is not a constant.
"""
import ast
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import math
import operator
from typing import Any, NamedTuple

from r1jax.errors import UserError
from r1jax.rewards.code import compare
from r1jax.rewards.code.constants import (
  FUNCTIONS,
  Environment,
  NotConstant,
  constant,
  plain,
  shown,
)

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    '<': operator.lt, '<=': operator.le, '>': operator.gt, '>=': operator.ge}
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Eq: '==', ast.NotEq: '!=', ast.Is: 'is', ast.IsNot: 'is not', ast.In: 'in', ast.Lt: '<',
    ast.LtE: '<=', ast.Gt: '>', ast.GtE: '>='}
_MIRRORED = {'==': '==', '!=': '!=', 'is': 'is', 'is not': 'is not', '<': '>', '<=': '>=',
             '>': '<', '>=': '<='}
_MAX_EQUAL_HASHES = 32


def _make_set(values: Iterable) -> set:
  """The set of values that a program chose, perhaps so that they share a hash."""
  distinct = {repr(value): value for value in values}
  if max(Counter(map(hash, distinct.values())).values(), default=0) > _MAX_EQUAL_HASHES:
    raise ValueError('a set of them would take quadratic time')
  return set(distinct.values())


# What may be done with the value of the call before it is compared; the value comes first.
_STEPS: dict[str, Callable] = {
    **{name: FUNCTIONS[name] for name in (
        'list', 'tuple', 'sorted', 'len', 'sum', 'min', 'max', 'abs', 'round', 'bool',
        'math.fabs')},
    'set': _make_set, 'frozenset': _make_set,
    '[]': operator.getitem, '-': operator.sub}
_OF_NUMBERS = ('abs', 'round', 'math.fabs', '-')    # but not of booleans
_CLOSE = ('math.isclose', 'isclose')


class Step(NamedTuple):
  """Something that is done with a value: a name in `_STEPS`, and further arguments."""
  name: str
  arguments: tuple


@dataclasses.dataclass(frozen=True)
class Expectation:
  """What an assertion expects of the value that a call returned.

  Attributes:
    operator: `'truth'`, `'not'`, `'close'`, or one of Python's comparisons: the value stands on its
      left.
    value: on its right; for `'close'` its arguments by name.
    steps: what is done with the value first, such as `sorted`.
    json: as of `compare.same_value`.
    or_only_item: whether the only item of the value, a list, will do as well.
  """
  operator: str
  value: Any = None
  steps: tuple[Step, ...] = ()
  json: bool = False
  or_only_item: bool = False

  def met(self, value: Any) -> bool:
    """Whether a value, plain data, is as expected."""
    try:
      for step in self.steps:
        if step.name in _OF_NUMBERS and isinstance(value, bool):
          return False
        value = _STEPS[step.name](value, *step.arguments)
      return self._holds(value)
    except (TypeError, ValueError, ArithmeticError, LookupError):    # as Python's would raise
      return False

  def _holds(self, value: Any) -> bool:
    match self.operator:
      case 'truth' | 'not':
        return bool(value) is (self.operator == 'truth')
      case 'close':
        given = dict(self.value)
        return not isinstance(value, bool) and math.isclose(value, given.pop('b'), **given)
      case '==' | 'is':
        return self._equals(value, self.value) or (
            self.or_only_item and self._equals(value, self.value[0]))
      case '!=' | 'is not':
        return not self._equals(value, self.value)
      case 'in':
        return any(self._equals(value, item) for item in self.value)
    return not isinstance(value, bool) and _ORDER[self.operator](value, self.value)

  def _equals(self, value: Any, expected: Any) -> bool:
    return compare.same_value(value, expected, json=self.json)


class Call(NamedTuple):
  """A call of a test: its function's name, its arguments, and what is expected of its value."""
  function: str
  arguments: tuple
  named: dict[str, Any]
  expectation: Expectation


def split_asserts(text: str, function: str | None = None) -> list[Call]:
  """The calls of a text with assertions.

  Args:
    text: Python statements: assertions, imports, and assignments of constants.
    function: the name of the function that is tested; found in each assertion by default.

  Raises:
    UserError: a statement is something else, or an assertion cannot be split.
  """
  return _split(parse(text).body, {}, function)


def split_check(text: str, entry_point: str) -> list[Call]:
  """The calls of a test like HumanEval's, of assertions in `def check(candidate)`.

  Args:
    text: the module that defines `check`; it may call it. Other functions are not used.
    entry_point: the name of the function that is tested.

  Raises:
    UserError: there is no `check` of one argument, or it has other statements than those of
      `split_asserts`.
  """
  check: ast.FunctionDef | None = None
  names: dict[str, Any] = {}
  for statement in parse(text).body:
    if isinstance(statement, ast.FunctionDef) and statement.name == 'check':
      check = statement
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
      try:
        names |= _assigned(statement, names)
      except NotConstant:    # it matters only if it is used
        continue
  if check is None or len(check.args.args) != 1:
    raise UserError('has no function check(candidate)')
  candidate = check.args.args[0].arg
  calls = _split(check.body, names, candidate)
  return [call._replace(function=entry_point) for call in calls]


def parse(text: str) -> ast.Module:
  """The syntax tree of a user's own tests.

  Raises:
    UserError: it is no Python.
  """
  try:
    return ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise UserError(f'is not Python ({error})') from None


def _split(body: list[ast.stmt], names: Environment, function: str | None) -> list[Call]:
  names, calls = dict(names), []
  for statement in body:
    match statement:
      case ast.Assert(test=ast.Constant(value=value)) if value:
        continue    # it says nothing of the program
      case ast.Assert():
        for test in _conjuncts(statement.test):
          try:
            calls.append(_split_test(test, names, function))
          except UserError as error:
            raise UserError(f'has {shown(statement)}: {error}') from None
      case ast.Assign() | ast.AnnAssign():
        names |= _assigned(statement, names)
      case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(
          value=ast.Constant() | ast.Name()):
        continue
      case _:
        raise UserError(f'has {shown(statement)}, which is not an assertion')
  if not calls:
    raise UserError('has no assertion that calls the function')
  return calls


def _assigned(statement: ast.Assign | ast.AnnAssign, names: Environment) -> dict[str, Any]:
  targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
  if not all(isinstance(target, ast.Name) for target in targets) or statement.value is None:
    raise NotConstant(f'{shown(statement)} is not the assignment of a constant')
  value = constant(statement.value, names)
  return {target.id: value for target in targets if isinstance(target, ast.Name)}


def _conjuncts(test: ast.expr) -> Iterator[ast.expr]:
  if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
    for value in test.values:
      yield from _conjuncts(value)
  else:
    yield test


def _split_test(test: ast.expr, names: Environment, function: str | None) -> Call:
  """The call that the expression of an assertion makes."""
  operator_, value = 'truth', None
  match test:
    case ast.UnaryOp(op=ast.Not(), operand=left):
      operator_ = 'not'
    case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
      operator_ = _OPERATORS[type(op)]
      if not _calls(left, function, names) and operator_ in _MIRRORED:
        left, right, operator_ = right, left, _MIRRORED[operator_]
      value = _expected(operator_, right, names)
    case ast.Call(func=called, args=[left, right], keywords=keywords) if (
        ast.unparse(called) in _CLOSE):
      if not _calls(left, function, names):
        left, right = right, left
      operator_, value = 'close', {'b': _number(right, names)} | {
          str(keyword.arg): _number(keyword.value, names) for keyword in keywords}
      if not value.keys() <= {'b', 'rel_tol', 'abs_tol'} or min(
          value.get('rel_tol', 0), value.get('abs_tol', 0)) < 0:
        raise UserError('its tolerances must be rel_tol and abs_tol, at least 0')
    case _:
      left = test
  called, steps = _peel(left, names, function)
  arguments = tuple(plain(constant(item, names)) for item in called.args)
  named = {str(one.arg): plain(constant(one.value, names)) for one in called.keywords}
  return Call(_function_name(called.func), arguments, named, Expectation(operator_, value, steps))


def _expected(operator_: str, node: ast.expr, names: Environment) -> Any:
  value = constant(node, names)
  if operator_ in _ORDER:
    return _number(node, names)
  if operator_ in ('is', 'is not') and not (value is None or isinstance(value, bool)):
    raise UserError(f'{shown(node)} is compared by identity, use ==')
  if operator_ == 'in' and not isinstance(value, (list, tuple, set, frozenset)):
    raise UserError(f'{shown(node)} after `in` must be a list')
  return plain(value)


def _number(node: ast.expr, names: Environment) -> int | float:
  value = constant(node, names)
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise UserError(f'{shown(node)} must be a number')
  return value


def _calls(node: ast.expr, function: str | None, names: Environment) -> bool:
  """Whether an expression calls the tested function, or is at least not a constant."""
  if function is not None:
    return any(isinstance(inner, ast.Call)
               and ast.unparse(inner.func).replace('()', '') == function
               for inner in ast.walk(node))
  if isinstance(node, ast.Call):
    return True
  try:
    constant(node, names)
  except NotConstant:
    return True
  return False


def _peel(
    node: ast.expr, names: Environment, function: str | None) -> tuple[ast.Call, tuple[Step, ...]]:
  """The call of the function within an expression, and what is done with its value."""
  steps: list[Step] = []
  while True:
    match node:
      case ast.Call(func=func, args=[inner, *more], keywords=[]) if (
          (name := ast.unparse(func)) in _STEPS and name != function
          and _calls_within(inner, function, names)):
        steps.append(Step(name, tuple(constant(item, names) for item in more)))
      case ast.Subscript(value=inner, slice=index):
        steps.append(Step('[]', (constant(index, names),)))
      case ast.BinOp(left=inner, op=ast.Sub(), right=right):
        if _calls(inner, function, names):
          steps.append(Step('-', (_number(right, names),)))
        else:    # only its size can matter
          inner = _subtracted_from(steps, inner, right, names)
      case ast.Call(func=ast.Name() | ast.Attribute()) if all(one.arg for one in node.keywords):
        if function not in (None, _function_name(node.func)):
          raise UserError(f'{shown(node)} does not call {function}')
        return node, tuple(reversed(steps))
      case _:
        raise UserError(f'{shown(node)} is not a call of a function with constants')
    node = inner


def _function_name(node: ast.expr) -> str:
  """`f`, or `Solution.f` for a method of an object that is made without arguments."""
  match node:
    case ast.Name(id=name):
      return name
    case ast.Attribute(value=ast.Call(func=ast.Name(id=owner), args=[], keywords=[]), attr=name):
      return f'{owner}.{name}'
  raise UserError(f'{shown(node)} is not the name of a function')


def _calls_within(node: ast.expr, function: str | None, names: Environment) -> bool:
  """Whether the tested function is called within an argument, so that its call is a step."""
  if function is not None:
    return _calls(node, function, names)
  try:
    constant(node, names)
  except NotConstant:
    return True
  return False


def _subtracted_from(
    steps: list[Step], left: ast.expr, right: ast.expr, names: Environment) -> ast.expr:
  """`right` of `abs(number - f(x))`, after the step `- number`."""
  if not steps or steps[-1].name not in ('abs', 'math.fabs'):
    raise UserError(f'{shown(right)} is subtracted from a number, write it the other way round')
  steps.append(Step('-', (_number(left, names),)))
  return right
