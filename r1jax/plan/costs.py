"""What one run of a compiled program costs on one device, counted from its optimised HLO.

XLA's own analysis counts the body of a loop once. Here a computation costs the sum of its
instructions, and a loop costs its body times its trips. Counted are matrix products (dots and
convolutions, also inside fusions; kernels by the estimate that they carry), bytes between chip and
main memory, and collectives. Elementwise arithmetic is not counted: it takes less time than the
bytes it reads.
"""
import dataclasses
import json
import math
import re
from typing import TypeVar

import numpy as np

from r1jax.kernels.decode import BLOCK
from r1jax.kernels.decode_cost import DecodeCost
from r1jax.plan import collectives as collectives_lib
from r1jax.plan import hlo
from r1jax.plan.collectives import Collective
from r1jax.plan.hlo import Computation, Instruction, Module
from r1jax.plan.memory_traffic import bytes_accessed
from r1jax.plan.trip_counts import trip_count
from r1jax.stages.program_shapes import Columns

# Opcodes that move nothing between memory and chip: names for what is there already.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all',
         'partition-id', 'replica-id', 'opt-barrier', 'domain', 'while', 'conditional', 'call'}
_LONGEST = 8    # instructions that are listed by name
_DECODE_COST = re.compile(r'"decode_attention":("(?:[^"\\]|\\.)*")')


@dataclasses.dataclass(frozen=True)
class InstructionCost:
  """An instruction, and what all its runs take.

  Attributes:
    opcode: 'dot', 'fusion', ...
    shape: of the result.
    loops: how many loops are around it.
    where: its `op_name`, the place in the traced program that it came from.
    times: how often it runs.
    flops: floating-point operations.
    bytes: between main memory and chip.
    seconds: the longer of its arithmetic and its bytes.
  """
  opcode: str
  shape: str
  loops: int
  where: str
  times: float
  flops: float
  bytes: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one run of a program, or of a part of it, on one device.

  Attributes:
    flops: floating-point operations of matrix products and kernels.
    bytes: between main memory and chip.
    core_seconds: sum over instructions of the longer of their arithmetic and their bytes.
    collectives: all of them.
    unknown_loops: how many loops have a trip count that depends on the data.
    longest: the instructions that take the longest.
  """
  flops: float = 0.0
  bytes: float = 0.0
  core_seconds: float = 0.0
  collectives: tuple[Collective, ...] = ()
  unknown_loops: int = 0
  longest: tuple[InstructionCost, ...] = ()

  def __add__(self, other: 'Cost') -> 'Cost':
    longest = sorted(self.longest + other.longest, key=_minus_seconds)[:_LONGEST]
    return Cost(
        self.flops + other.flops, self.bytes + other.bytes, self.core_seconds + other.core_seconds,
        self.collectives + other.collectives, self.unknown_loops + other.unknown_loops,
        tuple(longest))

  def repeated(self, times: float) -> 'Cost':
    """The cost of a loop that runs this so many times."""
    return Cost(
        self.flops * times, self.bytes * times, self.core_seconds * times,
        tuple(_repeated(one, times) for one in self.collectives), self.unknown_loops,
        tuple(_repeated(one, times, 'flops', 'bytes', 'seconds') for one in self.longest))


def _minus_seconds(cost: InstructionCost) -> float:
  return -cost.seconds


_Repeated = TypeVar('_Repeated', Collective, InstructionCost)


def _repeated(one: _Repeated, times: float, *fields: str) -> _Repeated:
  """The same inside one more loop; `fields` are totals of all its runs."""
  totals = {field: getattr(one, field) * times for field in ('times', *fields)}
  return dataclasses.replace(one, loops=one.loops + 1, **totals)


def cost(text: str, *, flops_per_second: float, bytes_per_second: float,
         unknown_trips: float = 1, columns: Columns | None = None) -> Cost:
  """The cost of one run of a program on one device.

  Args:
    text: the program's optimised HLO.
    flops_per_second: peak arithmetic of the device.
    bytes_per_second: memory bandwidth of the device; both are for `core_seconds`.
    unknown_trips: trips of a loop whose trip count depends on the data; such a loop inside another
      is taken to go over the columns of a cache, or to run once where `columns` is None.
    columns: that a row reads of a cache while it decodes; None: all.
  """
  module = hlo.parse(text)
  counter = _Counter(module, flops_per_second, bytes_per_second, columns)
  return counter.computation(module.entry, unknown_trips)


class _Counter:
  """Adds up the costs of a module's computations, each of which is counted once."""

  def __init__(self, module: Module, flops_per_second: float, bytes_per_second: float,
               columns: Columns | None):
    self._module, self._columns = module, columns
    self._flops_per_second, self._bytes_per_second = flops_per_second, bytes_per_second
    self._known: dict[tuple[str, float], Cost] = {}

  def computation(self, name: str, unknown_trips: float) -> Cost:
    """The cost of one run of a computation."""
    key = name, unknown_trips
    if key not in self._known:
      computation, total = self._module.computations[name], Cost()
      for instruction in computation.values():
        total += self._instruction(instruction, computation, unknown_trips)
      self._known[key] = total
    return self._known[key]

  @property
  def _blocks(self) -> float:
    """Blocks of columns that a row reads of a cache, on average of its two."""
    if self._columns is None:
      return 1
    return (math.ceil(self._columns.own / BLOCK) + math.ceil(self._columns.prompt / BLOCK)) / 2

  def _instruction(self, one: Instruction, around: Computation, unknown_trips: float) -> Cost:
    if one.opcode == 'while':
      return self._loop(one, around, unknown_trips)
    if one.opcode == 'conditional':
      return max(self._called(one, unknown_trips), key=_flops_and_bytes)
    if one.opcode in ('call', 'async-start', 'call-start'):
      return sum(self._called(one, unknown_trips), Cost())
    if one.opcode.endswith(('-done', '-update')) or one.opcode in _FREE:
      return Cost()
    collectives: tuple[Collective, ...]
    if one.opcode == 'fusion':
      fused = self._called(one, unknown_trips)[0]
      flops, collectives = fused.flops, _fused_collectives(one, fused)
    else:
      flops = _flops(one, around)
      collective = collectives_lib.from_instruction(one, around, self._module.num_partitions)
      collectives = (collective,) if collective else ()
    size = bytes_accessed(one, around, self._module)
    if self._columns and (kernel := _DECODE_COST.search(one.attributes)):
      kernel_cost = DecodeCost.from_json(json.loads(json.loads(kernel[1])))
      flops, size = kernel_cost.total(self._columns.own, self._columns.prompt)
    seconds = max(flops / self._flops_per_second, size / self._bytes_per_second)
    return Cost(flops, size, seconds, collectives, 0, (InstructionCost(
        one.opcode, str(one.shapes[0]), 0, one.op_name, 1.0, flops, size, seconds),))

  def _called(self, one: Instruction, unknown_trips: float) -> list[Cost]:
    """The costs of the computations that an instruction calls."""
    return [self.computation(name, unknown_trips)
            for name in one.called if name in self._module.computations]

  def _loop(self, loop: Instruction, around: Computation, unknown_trips: float) -> Cost:
    body = loop.computation_of('body')
    trips = trip_count(loop, around, self._module)
    if trips is None:
      inner = self.computation(body, self._blocks)
      return inner.repeated(unknown_trips) + Cost(unknown_loops=1)
    return self.computation(body, unknown_trips).repeated(trips)


def _flops_and_bytes(cost: Cost) -> tuple[float, float]:
  return cost.flops, cost.bytes


def _fused_collectives(fusion: Instruction, fused: Cost) -> tuple[Collective, ...]:
  """Those inside a fusion; libtpu writes a reduce-scatter as a fused all-reduce and slice."""
  if fusion.called[0].startswith('all-reduce-scatter'):
    return tuple(dataclasses.replace(one, kind='reduce-scatter') for one in fused.collectives)
  return fused.collectives


# Floating-point operations.


def _flops(one: Instruction, around: Computation) -> float:
  if one.opcode == 'dot':
    left = around[one.operands[0]].shapes[0].dims
    contracted = math.prod(left[dim] for dim in one.dims_of('lhs_contracting_dims'))
    return 2.0 * math.prod(one.shapes[0].dims) * contracted
  if one.opcode == 'convolution':
    return _convolution_flops(one, around)
  if one.opcode.startswith('custom-call'):
    found = re.search(r'"flops":\s*"?(\d+)', one.attributes)
    return float(found[1]) if found else 0.0
  return 0.0


def _convolution_flops(one: Instruction, around: Computation) -> float:
  """2 · the multiplications with values that exist, not with padding or dilation.

  So a batched dot, which libtpu writes as a dilated convolution, costs what it does as a dot.
  """
  left, kernel = (around[name].shapes[0].dims for name in one.operands[:2])
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', one.attributes)
  if labels is None:
    raise ValueError(f'the compiled program has a convolution without dim_labels: {one.name}')
  in_labels, kernel_labels, out_labels = labels.groups()
  window = re.search(r'window=\{([^}]*)\}', one.attributes)
  fields = dict(re.findall(r'(\w+)=([\d_x\-]+)', window[1] if window else ''))
  pairs = 1
  for i in range(sum(label.isdigit() for label in in_labels)):
    pairs *= _pairs_along(
        fields, i, size=left[in_labels.index(str(i))], taps=kernel[kernel_labels.index(str(i))],
        outs=one.shapes[0].dims[out_labels.index(str(i))])
  groups = re.search(r'batch_group_count=(\d+)', one.attributes)
  batch = left[in_labels.index('b')] // (int(groups[1]) if groups else 1)
  return 2.0 * batch * pairs * math.prod(
      kernel[kernel_labels.index(label)] for label in 'io')


def _pairs_along(window: dict[str, str], dim: int, *, size: int, taps: int, outs: int) -> int:
  """How many pairs (output, tap) of a convolution meet an input value along a spatial dimension.

  Args:
    window: the fields of the window, such as {'stride': '7x1', 'pad': '0_0x1_1'}.
    dim: the spatial dimension.
    size: of the input along it.
    taps: size of the kernel along it.
    outs: size of the output along it.
  """
  def number(field: str) -> int:
    return int(window[field].split('x')[dim]) if field in window else 1
  pad = int(window['pad'].split('x')[dim].split('_')[0]) if 'pad' in window else 0
  dilated = number('lhs_dilate')
  index = (np.arange(outs)[:, None] * number('stride') - pad
           + np.arange(taps)[None] * number('rhs_dilate'))
  return int(np.sum((index >= 0) & (index <= (size - 1) * dilated) & (index % dilated == 0)))
