"""Collectives of a compiled program: which devices communicate, how much, and for how long."""
from collections.abc import Sequence
import dataclasses
import math
import re

import numpy as np

from r1jax.plan.hlo import Computation, Instruction
from r1jax.plan.topology import Topology

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
         'collective-permute', 'collective-broadcast')
Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective, and how often it runs.

  Attributes:
    kind: one of `KINDS`.
    shape: of the operand, or of the first of several.
    bytes: of the operands on one device.
    groups: the partitions that communicate with each other; for a permute, (source, target) pairs.
    loops: how many loops are around it.
    where: its `op_name`, the place in the traced program that it came from.
    times: how often it runs.
  """
  kind: str
  shape: str
  bytes: float
  groups: Groups
  loops: int
  where: str
  times: float = 1.0

  @property
  def group_size(self) -> int:
    """How many devices communicate with each other."""
    return len(self.groups[0]) if self.groups else 1

  @property
  def moved(self) -> float:
    """Bytes that a device sends per run, by the best algorithm on a ring."""
    k = self.group_size
    return self.bytes * {
        'all-gather': k - 1, 'all-reduce': 2 * (k - 1) / k, 'collective-permute': 1,
        'collective-broadcast': 1}.get(self.kind, (k - 1) / k)


def from_instruction(one: Instruction, computation: Computation,
                     num_partitions: int) -> Collective | None:
  """The collective that an instruction of this computation is or starts, else None."""
  kind = one.opcode.removesuffix('-start')
  if kind not in KINDS:
    return None
  operands = [shape for name in one.operands for shape in computation[name].shapes]
  return Collective(kind, str(operands[0]), sum(shape.bytes for shape in operands),
                    device_groups(one.attributes, num_partitions), 0, one.op_name)


def device_groups(attributes: str, num_partitions: int) -> Groups:
  """The partitions that a collective joins, from any of the notations that XLA writes."""
  if pairs := re.search(r'source_target_pairs=\{\{(.*?)\}\}', attributes):
    return _listed_groups(pairs[1])
  if found := re.search(r'replica_groups=\{\{(.*?)\}\}', attributes):
    return _listed_groups(found[1])
  if found := re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?',
                        attributes):
    dims = [int(n) for n in found[3].split(',')]
    order = [int(n) for n in found[4].split(',')] if found[4] else range(len(dims))
    ids = np.arange(math.prod(dims)).reshape(dims).transpose(order)
    return _rows(ids.reshape(int(found[1]), int(found[2])))
  if found := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", attributes):
    return _mesh_groups(found[1], found[2])
  return (tuple(range(num_partitions)),)


def _listed_groups(text: str) -> Groups:
  return tuple(tuple(int(n) for n in group.split(',')) for group in text.split('},{'))


def _rows(ids: np.ndarray) -> Groups:
  return tuple(map(tuple, ids.tolist()))


def _mesh_groups(axes: str, joined: str) -> Groups:
  """The groups along some axes of a mesh.

  Args:
    axes: all axes with their sizes, as `'a'=2,'b'=3,'c'=8`.
    joined: the axes along which devices communicate, as `'b','c':(2)4`: here axis c is seen as
      2 × 4 × the rest, of which devices communicate along the 4.
  """
  names, sizes = zip(*re.findall(r"'([^']+)'=(\d+)", axes))
  dims: list[int] = []
  dim_of: dict[str, int] = {}
  split = {name: (int(before), int(size)) for name, before, size in re.findall(
      r"'([^':]+)'?:\((\d+)\)(\d+)'?", joined)}
  for name, size in zip(names, map(int, sizes)):
    before, within = split.get(name, (1, size))
    dim_of[name] = len(dims) + 1
    dims += [before, within, size // (before * within)]
  chosen = [dim_of[name] for name in names if re.search(rf"'{re.escape(name)}['\":]", joined)]
  ids = np.arange(math.prod(dims)).reshape(dims)
  ids = np.moveaxis(ids, chosen, range(-len(chosen), 0))
  return _rows(ids.reshape(-1, math.prod(dims[dim] for dim in chosen)))


def mesh_axes(collective: Collective, mesh_shape: Sequence[tuple[str, int]]) -> str:
  """The mesh axes along which the communicating devices differ: 'fsdp', or 'fsdp+tensor'."""
  names, sizes = [name for name, _ in mesh_shape], [size for _, size in mesh_shape]
  groups = [group for group in collective.groups if len(group) > 1]
  if not groups:
    return ''
  coords = np.stack(np.unravel_index(np.asarray(groups), sizes), -1)      # [groups, members, axes]
  varies = (coords != coords[:, :1]).any((0, 1))
  return '+'.join(name for name, moves in zip(names, varies) if moves)


def network_seconds(collective: Collective, topology: Topology) -> float:
  """Seconds of one run: the bytes that a device sends, over the links that its group can use.

  A group whose chips differ along some dimensions of the torus uses the links of those dimensions;
  along a dimension that is not closed to a ring, only half of them.
  """
  chip = topology.chip
  if not chip.network or collective.moved == 0:
    return 0.0
  coords = np.asarray([device.coords for device in topology.devices])
  sizes = coords.max(0) + 1
  groups = np.asarray([group for group in collective.groups if len(group) > 1])
  if not groups.size:
    return 0.0
  used = (coords[groups] != coords[groups[:, :1]]).any((0, 1))             # [dims]
  links = sum((1.0 if size % chip.ring_multiple == 0 else 0.5)
              for size, moves in zip(sizes, used) if moves)
  return collective.moved / (chip.network * links / chip.dims)
