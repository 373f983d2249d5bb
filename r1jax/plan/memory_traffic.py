"""Bytes that an instruction of a compiled program reads from main memory and writes to it."""
from collections.abc import Iterable
import math
import re

from r1jax.plan.hlo import Computation, Instruction, Module, Shape, parameters_of, root_of

_SLICES = ('dynamic-slice', 'slice', 'gather')
_IN_PLACE = {'dynamic-update-slice': 1, 'scatter': 2}    # opcode -> the operand that is written
_SAME_ELEMENTS = ('bitcast', 'convert', 'copy')    # in a fusion they are made as they are read
_STATED = re.compile(r'"bytes_accessed":\s*"?(\d+)')


def bytes_accessed(one: Instruction, around: Computation, module: Module) -> float:
  """Bytes that one run of an instruction moves between main memory and chip.

  Where only a slice of an array is read, or only a slice is written in place, the slice counts. A
  kernel that states what it moves counts with that.

  Args:
    one: the instruction.
    around: the computation that it stands in.
    module: the whole program.
  """
  operands = [_main_memory_bytes(around[name].shapes) for name in one.operands]
  if one.opcode in _SLICES:
    return 2 * _main_memory_bytes(one.shapes)
  if one.opcode in _IN_PLACE:
    return 2 * operands[_IN_PLACE[one.opcode]]
  if one.opcode == 'custom-call' and (stated := _STATED.search(one.attributes)):
    return float(stated[1])
  if one.opcode == 'copy-start':
    return _main_memory_bytes(one.shapes[:1]) + operands[0]
  if one.opcode.endswith('-start'):    # its result is (operands, results, ...)
    return 2 * sum(operands)
  if one.opcode != 'fusion':
    return _main_memory_bytes(one.shapes) + sum(operands)
  fused, total = module.computations[one.called[0]], 0.0
  for size, parameter in zip(operands, parameters_of(fused)):
    total += min(size, _bytes_read(parameter, fused, module)) if size else 0.0
  return total + _bytes_written(one, fused, module)


def _main_memory_bytes(shapes: Iterable[Shape]) -> float:
  return sum(shape.bytes for shape in shapes if shape.space == 0)


def _bytes_read(name: str, fused: Computation, module: Module) -> float:
  """Bytes of one of its values that the instructions of a fusion read; ∞: all of it."""
  total = 0.0
  for user in fused.values():
    if name not in user.operands:
      continue
    if user.opcode in _SLICES and user.operands[0] == name:
      total += sum(shape.bytes for shape in user.shapes)
    elif user.opcode in _IN_PLACE and user.operands[0] == name:
      continue    # written in place
    elif user.opcode in _SAME_ELEMENTS:
      size, of_user = (fused[one].shapes[0].bytes for one in (name, user.name))
      total += _bytes_read(user.name, fused, module) * (size / of_user if of_user else 1)
    elif user.opcode == 'fusion':
      inner = module.computations[user.called[0]]
      total += sum(_bytes_read(parameter, inner, module)
                   for parameter, operand in zip(parameters_of(inner), user.operands)
                   if operand == name)
    else:
      return math.inf
  return total


def _bytes_written(fusion: Instruction, fused: Computation, module: Module) -> float:
  """Bytes that a fusion writes; of what it updates in place, the update."""
  root = root_of(fused)
  results = [fused[name] for name in root.operands] if root.opcode == 'tuple' else [root]
  total = 0.0
  for result, shape in zip(results, fusion.shapes):
    while result.opcode == 'bitcast':
      result = fused[result.operands[0]]
    if shape.space != 0:
      continue
    if result.opcode == 'fusion' and len(fusion.shapes) == 1:
      total += _bytes_written(fusion, module.computations[result.called[0]], module)
    elif result.opcode in _IN_PLACE:
      total += fused[result.operands[_IN_PLACE[result.opcode]]].shapes[0].bytes
    else:
      total += shape.bytes
  return total
