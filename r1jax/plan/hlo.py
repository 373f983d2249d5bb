"""What a compiled program costs, read from the text of its optimised HLO.

XLA's own analysis counts the body of a loop once. Here a computation costs what its instructions
cost, a loop its body times its trips. Counted are matrix products (dots and convolutions, also
inside fusions; kernels by the estimate that they carry), bytes between a chip's memory and its
instructions, and collectives. Elementwise arithmetic is not: it hides behind the bytes it reads.
"""
from collections.abc import Mapping
import dataclasses
import functools
import math
import re

import numpy as np

_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_ASSIGNED = re.compile(r'^\s*(ROOT )?%?([\w.\-]+) = ')
_CALLED = re.compile(r'\b(?:calls|to_apply)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'\b(?:branch_computations|called_computations)=\{([^}]*)\}')
_EITHER = re.compile(r'\b(?:true|false)_computation=%?([\w.\-]+)')

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
               'collective-permute', 'collective-broadcast')
# Opcodes that move nothing between memory and chip: names for what is there already.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all',
         'partition-id', 'replica-id', 'opt-barrier', 'domain', 'while', 'conditional', 'call'}


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array of a result."""
  dtype: str
  dims: tuple[int, ...]
  space: int = 0      # memory space; 0 is the chip's main memory

  @property
  def bytes(self) -> float:
    bits = _BITS.get(self.dtype) if self.dtype in _BITS else int(
        re.search(r'\d+', self.dtype)[0])
    return math.prod(self.dims) * bits / 8

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  literal: str        # what stands between the parentheses
  attributes: str
  root: bool

  def dims_of(self, attribute: str) -> tuple[int, ...]:
    """The numbers of `attribute={1,2}`."""
    found = re.search(rf'\b{attribute}=\{{([\d,]*)\}}', self.attributes)
    return tuple(int(n) for n in found[1].split(',') if n) if found else ()


_LONGEST = 8    # instructions that are named

Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives that are alike, and how often they run."""
  kind: str
  shape: str                 # of the operand, of the first where there are several
  bytes: float               # of the operands on one device
  groups: tuple[tuple[int, ...], ...]   # partitions that talk to each other; of a permute: pairs
  loops: int                 # loops around it
  where: str                 # the program's own name for it
  times: float = 1.0

  @property
  def group_size(self) -> int:
    return len(self.groups[0]) if self.groups else 1

  @property
  def moved(self) -> float:
    """Bytes that a device sends, by the best algorithm on a ring, each time."""
    k = self.group_size
    return self.bytes * {
        'all-gather': k - 1, 'all-reduce': 2 * (k - 1) / k, 'collective-permute': 1,
        'collective-broadcast': 1}.get(self.kind, (k - 1) / k)


@dataclasses.dataclass(frozen=True)
class Part:
  """An instruction, and what all its runs take."""
  opcode: str
  shape: str       # of the result
  loops: int
  where: str       # the program's own name for it
  times: float
  flops: float
  bytes: float
  seconds: float   # for the longer of its arithmetic and its bytes


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one run on one device."""
  flops: float = 0.0
  bytes: float = 0.0
  core_seconds: float = 0.0    # each instruction as long as its arithmetic or its bytes take
  collectives: tuple[Collective, ...] = ()
  unknown_loops: int = 0       # whose trips are nowhere in the program
  longest: tuple[Part, ...] = ()   # the instructions that take longest

  def __add__(self, other: 'Cost') -> 'Cost':
    *sums, longest = (a + b for a, b in zip(_fields(self), _fields(other), strict=True))
    return Cost(*sums, tuple(sorted(longest, key=lambda part: -part.seconds)[:_LONGEST]))

  def repeated(self, times: float, loops: int = 1) -> 'Cost':
    more = lambda part, *fields: dataclasses.replace(
        part, loops=part.loops + loops, **{
            field: getattr(part, field) * times for field in ('times', *fields)})
    return Cost(
        self.flops * times, self.bytes * times, self.core_seconds * times,
        tuple(more(one) for one in self.collectives), self.unknown_loops,
        tuple(more(one, 'flops', 'bytes', 'seconds') for one in self.longest))


def _fields(record) -> list:
  return [getattr(record, field.name) for field in dataclasses.fields(record)]


# Reading.


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
  """(instructions by name, of each computation by name; the name of the entry)."""
  computations, current, entry = {}, None, ''
  for line in text.splitlines():
    if current is None:
      if header := _HEADER.match(line):
        current = computations.setdefault(header[2], {})
        entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      current = None
    elif assigned := _ASSIGNED.match(line):
      instruction = _instruction(assigned, line[assigned.end():])
      current[instruction.name] = instruction
  if not entry:
    raise ValueError('the compiled program has no entry: its text is not that of an HLO module')
  return computations, entry


def _instruction(assigned: re.Match, rest: str) -> Instruction:
  end = _closing(rest, 0) if rest.startswith('(') else rest.index(' ')
  shapes, rest = _shapes(rest[:end]), rest[end:].lstrip()
  opening = rest.index('(')
  closing = _closing(rest, opening)
  literal = rest[opening + 1:closing - 1]
  return Instruction(assigned[2], rest[:opening], shapes, tuple(re.findall(
      r'%([\w.\-]+)', literal)), literal, rest[closing:], bool(assigned[1]))


def _closing(text: str, opening: int) -> int:
  """The place behind the parenthesis that closes the one at `opening`."""
  depth = 0
  for match in re.finditer(r'[()]', text[opening:]):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return opening + match.end()
  raise ValueError(f'a parenthesis of {text[:80]!r} is never closed')


def _shapes(text: str) -> tuple[Shape, ...]:
  found = []
  for dtype, dims, layout in _SHAPE.findall(text):
    space = re.search(r'S\((\d+)\)', layout)
    sizes = tuple(int(dim.removeprefix('<=')) for dim in dims.split(',') if dim)
    found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
  return tuple(found)


def groups_of(attributes: str, num_partitions: int) -> tuple[tuple[int, ...], ...]:
  """Which partitions a collective joins, in any of the forms that XLA writes."""
  if pairs := re.search(r'source_target_pairs=\{\{(.*?)\}\}', attributes):
    return _tuples(pairs[1])
  if found := re.search(r'replica_groups=\{\{(.*?)\}\}', attributes):
    return _tuples(found[1])
  if found := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?',
                        attributes):
    dims = [int(n) for n in found[3].split(',')]
    order = [int(n) for n in found[4].split(',')] if found[4] else range(len(dims))
    ids = np.arange(math.prod(dims)).reshape(dims).transpose(order)
    return _rows(ids.reshape(int(found[1]), int(found[2])))
  if found := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", attributes):
    return _mesh_groups(found[1], found[2])
  return (tuple(range(num_partitions)),)


def _tuples(text: str) -> tuple[tuple[int, ...], ...]:
  return tuple(tuple(int(n) for n in group.split(',')) for group in text.split('},{'))


def _rows(ids: np.ndarray) -> tuple[tuple[int, ...], ...]:
  return tuple(map(tuple, ids.tolist()))


def _mesh_groups(axes: str, joined: str) -> tuple[tuple[int, ...], ...]:
  """Groups over the axes `'b', 'c:(2)4'` (a part of c, behind one of 2) of `'a'=2,'b'=3,'c'=8`."""
  names, sizes = zip(*re.findall(r"'([^']+)'=(\d+)", axes))
  dims, places = [], {}
  split = {name: (int(before), int(size)) for name, before, size in re.findall(
      r"'([^':]+)'?:\((\d+)\)(\d+)'?", joined)}
  for name, size in zip(names, map(int, sizes)):
    before, part = split.get(name, (1, size))
    places[name] = len(dims) + 1
    dims += [before, part, size // (before * part)]
  chosen = [places[name] for name in names if re.search(rf"'{re.escape(name)}['\":]", joined)]
  ids = np.arange(math.prod(dims)).reshape(dims)
  ids = np.moveaxis(ids, chosen, range(-len(chosen), 0))
  return _rows(ids.reshape(-1, math.prod(dims[place] for place in chosen)))


# Counting.


def cost(text: str, *, flops_per_second: float, bytes_per_second: float,
         unknown_trips: int = 1) -> Cost:
  """Of one run of a program on one device.

  Args:
    text: of its optimised HLO.
    flops_per_second, bytes_per_second: of the device, for `core_seconds`.
    unknown_trips: of loops whose trips depend on the data; in one of them, others run once.
  """
  computations, entry = parse(text)
  partitions = re.search(r'num_partitions=(\d+)', text)
  num_partitions = int(partitions[1]) if partitions else 1

  @functools.cache
  def of_computation(name: str, unknown: int) -> Cost:
    found = Cost()
    for instruction in computations[name].values():
      found += of_instruction(instruction, computations[name], unknown)
    return found

  def of_instruction(one: Instruction, around: Computation, unknown: int) -> Cost:
    called = [name for name in _called(one) if name in computations]
    if one.opcode == 'while':
      body = re.search(r'\bbody=%?([\w.\-]+)', one.attributes)[1]
      trips = trip_count(one, around, computations)
      if trips is None:
        return of_computation(body, 1).repeated(unknown) + Cost(unknown_loops=1)
      return of_computation(body, unknown).repeated(trips)
    if one.opcode == 'conditional':
      return max((of_computation(name, unknown) for name in called), key=lambda c: (c.flops, c.bytes))
    if one.opcode in ('call', 'async-start', 'call-start'):
      return sum((of_computation(name, unknown) for name in called), Cost())
    if one.opcode.endswith(('-done', '-update')) or one.opcode in _FREE:
      return Cost()
    size, collectives = traffic(one, around, computations), ()
    if one.opcode == 'fusion':
      inner = of_computation(called[0], unknown)
      flops, collectives = inner.flops, inner.collectives
      if called[0].startswith('all-reduce-scatter'):    # libtpu's reduce-scatter
        collectives = tuple(dataclasses.replace(one, kind='reduce-scatter') for one in collectives)
    else:
      flops = _flops(one, around)
    kind, named = one.opcode.removesuffix('-start'), re.search(r'op_name="([^"]*)"', one.attributes)
    where = named[1] if named else one.name
    if kind in COLLECTIVES:
      arrays = [shape for name in one.operands for shape in around[name].shapes]
      collectives = (Collective(
          kind, str(arrays[0]), sum(shape.bytes for shape in arrays),
          groups_of(one.attributes, num_partitions), 0, where),)
    seconds = max(flops / flops_per_second, size / bytes_per_second)
    return Cost(flops, size, seconds, collectives, 0, (Part(
        one.opcode, str(one.shapes[0]), 0, where, 1.0, flops, size, seconds),))

  return of_computation(entry, unknown_trips)


def _called(one: Instruction) -> list[str]:
  names = _CALLED.findall(one.attributes) + _EITHER.findall(one.attributes)
  for branches in _BRANCHES.findall(one.attributes):
    names += re.findall(r'[\w.\-]+', branches)
  return names


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
  """2 · products of numbers that are really there, so that a batched dot costs what it does."""
  left, kernel = (around[name].shapes[0].dims for name in one.operands[:2])
  in_labels, kernel_labels, out_labels = re.search(
      r'dim_labels=(\w+)_(\w+)->(\w+)', one.attributes).groups()
  window = dict(re.findall(r'(\w+)=([\d_x\-]+)', (
      re.search(r'window=\{([^}]*)\}', one.attributes) or ['', ''])[1]))
  spatial = sum(label.isdigit() for label in in_labels)
  numbers = lambda field, default: [
      int(n) for n in window.get(field, 'x'.join([default] * spatial)).split('x') if n != '']
  pads = [pad.split('_') for pad in window.get('pad', 'x'.join(['0_0'] * spatial)).split('x')]
  pairs = 1
  for i in range(spatial):
    label = str(i)
    size, taps = left[in_labels.index(label)], kernel[kernel_labels.index(label)]
    outs = one.shapes[0].dims[out_labels.index(label)]
    stride, dilation, spread = (
        numbers(field, '1')[i] for field in ('stride', 'rhs_dilate', 'lhs_dilate'))
    places = (np.arange(outs)[:, None] * stride - int(pads[i][0])
              + np.arange(taps)[None] * dilation)
    pairs *= int(np.sum((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)))
  groups = re.search(r'batch_group_count=(\d+)', one.attributes)
  batch = left[in_labels.index('b')] // (int(groups[1]) if groups else 1)
  return 2.0 * batch * pairs * math.prod(
      kernel[kernel_labels.index(label)] for label in 'io')


def traffic(one: Instruction, around: Computation, computations) -> float:
  """Bytes that an instruction reads from main memory and writes to it.

  Of an array of which only a slice is read, or only a slice is written in place, the slice counts.
  """
  read = lambda i: _main(around[one.operands[i]].shapes)
  if one.opcode in ('dynamic-slice', 'slice', 'gather'):
    return 2 * _main(one.shapes)
  if one.opcode == 'dynamic-update-slice':
    return 2 * read(1)
  if one.opcode == 'copy-start':
    return _main(one.shapes[:1]) + read(0)
  if one.opcode.endswith('-start'):    # (operands, results, ...)
    return 2 * sum(read(i) for i in range(len(one.operands)))
  if one.opcode != 'fusion':
    return _main(one.shapes) + sum(read(i) for i in range(len(one.operands)))
  inside = computations[_called(one)[0]]
  total = 0.0
  for place, name in enumerate(_parameters(inside)[:len(one.operands)]):
    whole = read(place)
    total += min(whole, _read_of(name, inside, computations)) if whole else 0.0
  return total + _written(one, inside, computations)


def _main(shapes) -> float:
  return sum(shape.bytes for shape in shapes if shape.space == 0)


def _parameters(inside: Computation) -> list[str]:
  """The names of a computation's parameters, in their order."""
  found = [one for one in inside.values() if one.opcode == 'parameter']
  return [one.name for one in sorted(found, key=lambda one: int(one.literal))]


def _read_of(name: str, inside: Computation, computations) -> float:
  """Bytes that the instructions of a fusion look at of one of its values; ∞: all of it."""
  total = 0.0
  for user in inside.values():
    if name not in user.operands:
      continue
    if user.opcode in ('dynamic-slice', 'slice', 'gather') and user.operands[0] == name:
      total += sum(shape.bytes for shape in user.shapes)
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == name:
      continue    # written in place
    elif user.opcode == 'bitcast':
      total += _read_of(user.name, inside, computations)
    elif user.opcode == 'fusion':
      within = computations[_called(user)[0]]
      total += sum(_read_of(parameter, within, computations)
                   for parameter, operand in zip(_parameters(within), user.operands)
                   if operand == name)
    else:
      return math.inf
  return total


def _written(one: Instruction, inside: Computation, computations) -> float:
  """Bytes that a fusion writes: of what it updates in place, the update."""
  root = next(instruction for instruction in inside.values() if instruction.root)
  roots = [inside[name] for name in root.operands] if root.opcode == 'tuple' else [root]
  total = 0.0
  for result, shape in zip(roots, one.shapes):
    while result.opcode == 'bitcast':
      result = inside[result.operands[0]]
    if shape.space != 0:
      continue
    if result.opcode == 'fusion' and len(one.shapes) == 1:
      total += _written(one, computations[_called(result)[0]], computations)
    elif result.opcode == 'dynamic-update-slice':
      total += inside[result.operands[1]].shapes[0].bytes
    else:
      total += shape.bytes
  return total


# Trips of a loop.


def trip_count(loop: Instruction, around: Computation, computations) -> int | None:
  """How often a loop's body runs; None where that depends on the data."""
  if found := re.search(r'"known_trip_count":\{"n":"?(\d+)', loop.attributes):
    return int(found[1])
  name = lambda attribute: re.search(rf'\b{attribute}=%?([\w.\-]+)', loop.attributes)[1]
  condition, body = computations[name('condition')], computations[name('body')]
  compared = _comparison(condition, computations)
  if compared is None:
    return None
  (kind, counter), limit, direction = compared
  if kind != 'element':
    return None
  begun = around.get(loop.operands[0])
  first = _element(begun, counter, around)
  limit = _element(begun, limit[1], around) if limit[0] == 'element' else limit[1]
  step = _step(body, counter)
  if limit is None or not step:
    return None
  first = 0 if first is None else first
  trips = (limit - first + (direction in ('LE', 'GE')) * math.copysign(1, step)) / step
  return max(0, math.ceil(trips))


def _comparison(condition: Computation, computations):
  """(what is compared, with what, direction) of a loop's condition; None of any other."""
  root = next(one for one in condition.values() if one.root)
  values = lambda names: [_value(condition, name) for name in names]
  operands, compare, scope = values(root.operands), root, None
  if root.opcode == 'fusion':
    scope = computations[_called(root)[0]]
    compare = next(one for one in scope.values() if one.root)
    operands = [_outer(scope, name, operands) for name in compare.operands]
  direction = re.search(r'direction=(\w+)', compare.attributes)
  if compare.opcode != 'compare' or not direction or None in operands:
    return None
  left, right, direction = *operands, direction[1]
  if left[0] == 'constant':
    left, right, direction = right, left, {'LT': 'GT', 'GT': 'LT', 'LE': 'GE', 'GE': 'LE'}.get(
        direction, direction)
  return left, right, direction


def _through(scope: Computation, name: str) -> Instruction | None:
  one = scope.get(name)
  while one is not None and one.opcode in ('copy', 'bitcast', 'convert', 'copy-done', 'copy-start'):
    one = scope.get(one.operands[0])
  return one


def _value(scope: Computation, name: str):
  """('constant', n) or ('element', place in the loop's tuple); None of anything else."""
  one = _through(scope, name)
  if one is None:
    return None
  if one.opcode == 'constant' and re.fullmatch(r'-?\d+', one.literal):
    return 'constant', int(one.literal)
  if one.opcode == 'get-tuple-element':
    return 'element', int(re.search(r'index=(\d+)', one.attributes)[1])
  return None


def _outer(scope: Computation, name: str, operands):
  """As `_value`, of a value inside a fusion with these operands."""
  one = _through(scope, name)
  if one is not None and one.opcode == 'parameter':
    return operands[int(one.literal)]
  return _value(scope, name)


def _element(begun: Instruction | None, place: int, around: Computation) -> int | None:
  """The constant with which a place of a loop's tuple begins."""
  if begun is None or begun.opcode != 'tuple':
    return None
  value = _value(around, begun.operands[place])
  return value[1] if value and value[0] == 'constant' else None


def _step(body: Computation, place: int) -> int | None:
  """By how much a trip moves the counter at a place of the loop's tuple."""
  root = next(one for one in body.values() if one.root)
  if root.opcode != 'tuple':
    return None
  one = _through(body, root.operands[place])
  if one is None:
    return None
  if one.opcode == 'add':
    steps = [value[1] for value in (_value(body, name) for name in one.operands)
             if value and value[0] == 'constant']
    return steps[0] if steps else 1
  return 1    # a fusion: all of jax's loops count by one
