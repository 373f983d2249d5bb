"""Reads the text of a compiled program's optimised HLO."""
from collections.abc import Mapping
import dataclasses
import math
import re

# Bits of dtypes whose name does not say them.
_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_END = re.compile(r'\}(?!\})')
_ASSIGNED = re.compile(r'^\s*(ROOT )?%?([\w.\-]+) = ')
_CALLED = re.compile(r'\b(?:calls|to_apply)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'\b(?:branch_computations|called_computations)=\{([^}]*)\}')
_EITHER = re.compile(r'\b(?:true|false)_computation=%?([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of an array; `space` is its memory space, where 0 is the chip's main memory."""
  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def bytes(self) -> float:
    """Bytes of the array, without padding."""
    if self.dtype in _BITS:
      bits = _BITS[self.dtype]
    else:
      bits = int(_search(r'\d+', self.dtype)[0])
    return math.prod(self.dims) * bits / 8

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: without its '%'.
    opcode: 'dot', 'fusion', ...
    shapes: of its results; several for a tuple.
    operands: names of the instructions whose results it takes.
    literal: the text between its parentheses: a constant's value, a parameter's number.
    attributes: the text behind the parentheses.
    root: whether its result is that of its computation.
  """
  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  literal: str
  attributes: str
  root: bool

  @property
  def op_name(self) -> str:
    """The place in the traced program that it came from, else its own name."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else self.name

  @property
  def called(self) -> list[str]:
    """The names of the computations that it calls; not those of a loop."""
    names = _CALLED.findall(self.attributes) + _EITHER.findall(self.attributes)
    for branches in _BRANCHES.findall(self.attributes):
      names += re.findall(r'[\w.\-]+', branches)
    return names

  def dims_of(self, attribute: str) -> tuple[int, ...]:
    """The numbers of an attribute such as `lhs_contracting_dims={1,2}`."""
    found = re.search(rf'\b{attribute}=\{{([\d,]*)\}}', self.attributes)
    return tuple(int(n) for n in found[1].split(',') if n) if found else ()

  def computation_of(self, attribute: str) -> str:
    """The name of the computation in an attribute such as `body=%name`."""
    return _search(rf'\b{attribute}=%?([\w.\-]+)', self.attributes)[1]


Computation = Mapping[str, Instruction]    # instructions by name, in the order of the text


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program: its computations by name, and which of them is the entry."""
  computations: Mapping[str, Computation]
  entry: str
  num_partitions: int


def parse(text: str) -> Module:
  """Reads the text of an HLO module.

  Raises:
    ValueError: it has no entry computation.
  """
  computations: dict[str, list[str]] = {}
  current, entry = None, ''
  for line in text.splitlines():
    if current is None:
      if header := _HEADER.match(line):
        current = computations.setdefault(header[2], [])
        entry = header[2] if header[1] else entry
    elif _END.match(line):
      current = None
    elif _ASSIGNED.match(line):
      current.append(line)
    elif current:
      current[-1] += line    # what a kernel says of itself has lines of its own
  if not entry:
    raise ValueError('the compiled program has no entry computation: its text is not an HLO module')
  partitions = re.search(r'num_partitions=(\d+)', text)
  return Module({name: _computation(lines) for name, lines in computations.items()}, entry,
                int(partitions[1]) if partitions else 1)


def _computation(lines: list[str]) -> Computation:
  """The instructions of these lines, each of which has one."""
  found = {}
  for line in lines:
    assigned = _ASSIGNED.match(line)
    assert assigned is not None
    instruction = _instruction(assigned, line[assigned.end():])
    found[instruction.name] = instruction
  return found


def root_of(computation: Computation) -> Instruction:
  """The instruction whose result is that of the computation."""
  return next(one for one in computation.values() if one.root)


def parameters_of(computation: Computation) -> list[str]:
  """The names of a computation's parameters, in their order."""
  found = [one for one in computation.values() if one.opcode == 'parameter']
  return [one.name for one in sorted(found, key=_parameter_number)]


def _parameter_number(parameter: Instruction) -> int:
  return int(parameter.literal)


def _instruction(assigned: re.Match, rest: str) -> Instruction:
  """The instruction `name = rest`: shapes, opcode, (operands), attributes."""
  end = _closing(rest, 0) if rest.startswith('(') else rest.index(' ')
  shapes, rest = _shapes(rest[:end]), rest[end:].lstrip()
  opening = rest.index('(')
  closing = _closing(rest, opening)
  literal = rest[opening + 1:closing - 1]
  return Instruction(assigned[2], rest[:opening], shapes, tuple(re.findall(
      r'%([\w.\-]+)', literal)), literal, rest[closing:], bool(assigned[1]))


def _closing(text: str, opening: int) -> int:
  """The index behind the parenthesis that closes the one at `opening`."""
  depth = 0
  for match in re.finditer(r'[()]', text[opening:]):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return opening + match.end()
  raise ValueError(f'the compiled program has an unclosed parenthesis: {text[:80]!r}')


def _shapes(text: str) -> tuple[Shape, ...]:
  found = []
  for dtype, dims, layout in _SHAPE.findall(text):
    space = re.search(r'S\((\d+)\)', layout)
    sizes = tuple(int(dim.removeprefix('<=')) for dim in dims.split(',') if dim)
    found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
  return tuple(found)


def _search(pattern: str, text: str) -> re.Match:
  """`re.search` where the text of every HLO module has a match."""
  found = re.search(pattern, text)
  if found is None:
    raise ValueError(f'the compiled program has {text[:80]!r}, which does not match {pattern!r}')
  return found
