"""How often the body of a loop runs, read from its condition, its start and its step.

XLA writes the trip count beside most loops. Where it does not, a loop of jax is one whose condition
compares a counter, an element of the loop's tuple, with a constant or with another element.
"""
import dataclasses
import math
import re

from r1jax.plan.hlo import Computation, Instruction, Module, root_of

_COPIES = ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start')
_MIRRORED = {'LT': 'GT', 'GT': 'LT', 'LE': 'GE', 'GE': 'LE'}


@dataclasses.dataclass(frozen=True)
class _Constant:
  value: int


@dataclasses.dataclass(frozen=True)
class _Element:
  """An element of the loop's tuple."""
  index: int


_Value = _Constant | _Element | None      # None: anything else


@dataclasses.dataclass(frozen=True)
class _Comparison:
  left: _Value
  right: _Value
  direction: str       # LT, LE, GT, GE, EQ or NE


def trip_count(loop: Instruction, around: Computation, module: Module) -> int | None:
  """How often a loop's body runs; None where that depends on the data.

  Args:
    loop: a 'while' instruction.
    around: the computation that it stands in.
    module: the whole program.
  """
  if found := re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.attributes):
    return int(found[1])
  condition = module.computations[loop.computation_of('condition')]
  body = module.computations[loop.computation_of('body')]
  compared = _comparison(condition, module)
  if compared is None or not isinstance(compared.left, _Element):
    return None
  counter, limit = compared.left, compared.right
  initial = around.get(loop.operands[0])
  start = _initial_value(initial, counter, around)
  end = limit.value if isinstance(limit, _Constant) else _initial_value(initial, limit, around)
  step = _step(body, counter)
  if end is None or not step:
    return None
  inclusive = compared.direction in ('LE', 'GE')
  return max(0, math.ceil((end - (start or 0) + inclusive * math.copysign(1, step)) / step))


def _comparison(condition: Computation, module: Module) -> _Comparison | None:
  """What a loop's condition compares, the counter on the left; None for other conditions."""
  root = root_of(condition)
  operands = [_value(condition, name) for name in root.operands]
  if root.opcode == 'fusion':
    fused = module.computations[root.called[0]]
    root, outer = root_of(fused), operands
    operands = [_fused_value(fused, name, outer) for name in root.operands]
  direction = re.search(r'direction=(\w+)', root.attributes)
  if root.opcode != 'compare' or not direction or None in operands:
    return None
  left, right = operands
  if isinstance(left, _Constant):
    return _Comparison(right, left, _MIRRORED.get(direction[1], direction[1]))
  return _Comparison(left, right, direction[1])


def _behind_copies(scope: Computation, name: str) -> Instruction | None:
  """The instruction that makes a value, behind its copies and conversions."""
  one = scope.get(name)
  while one is not None and one.opcode in _COPIES:
    one = scope.get(one.operands[0])
  return one


def _value(scope: Computation, name: str) -> _Value:
  """What the value of this name is, in a loop's condition or body."""
  one = _behind_copies(scope, name)
  if one is None:
    return None
  if one.opcode == 'constant' and re.fullmatch(r'-?\d+', one.literal):
    return _Constant(int(one.literal))
  index = re.search(r'index=(\d+)', one.attributes)
  if one.opcode == 'get-tuple-element' and index:
    return _Element(int(index[1]))
  return None


def _fused_value(fused: Computation, name: str, operands: list[_Value]) -> _Value:
  """What a value inside a fusion with these operands is."""
  one = _behind_copies(fused, name)
  if one is not None and one.opcode == 'parameter':
    return operands[int(one.literal)]
  return _value(fused, name)


def _initial_value(
    initial: Instruction | None, element: _Value, around: Computation,
) -> int | None:
  """The constant with which an element of a loop's tuple starts."""
  if initial is None or initial.opcode != 'tuple' or not isinstance(element, _Element):
    return None
  value = _value(around, initial.operands[element.index])
  return value.value if isinstance(value, _Constant) else None


def _step(body: Computation, counter: _Element) -> int | None:
  """By how much one trip changes the counter."""
  root = root_of(body)
  if root.opcode != 'tuple':
    return None
  one = _behind_copies(body, root.operands[counter.index])
  if one is None:
    return None
  if one.opcode == 'add':
    values = [_value(body, name) for name in one.operands]
    steps = [value.value for value in values if isinstance(value, _Constant)]
    return steps[0] if steps else 1
  return 1    # a fusion: all of jax's loops count by one
