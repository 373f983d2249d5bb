"""Slices of TPU chips that need not be at hand, and what their makers say of them.

A topology is named as libtpu names it, `v5p:8x8x16`; `local` is the devices of this machine.
"""
from collections.abc import Sequence
import dataclasses
import math
import os
import re
import sys
from typing import Any

import numpy as np

from r1jax.plan.hlo import Collective

GIB = 2 ** 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Of one chip, by its data sheet."""
  name: str
  flops: float             # bfloat16 operations a second
  memory: float            # bytes that a program may use
  bandwidth: float         # bytes a second between memory and chip
  network: float           # bytes a second that leave the chip by all links; 0: free
  dims: int = 2            # of the torus that the links make
  accelerator: str = ''    # as libtpu names a slice, without its size
  cores: int = 1           # which that size counts, a chip
  whole: int = 1           # a dimension that is a multiple of it is closed to a ring

# Data sheets: cloud.google.com/tpu/docs/{v5e,v5p,v6e}. Memory is what the compiler leaves of it.
CHIPS = {
    'v5e': Chip('v5e', 197e12, 15.75 * GIB, 819e9, 1600e9 / 8, 2, 'v5litepod', 1, 16),
    'v6e': Chip('v6e', 918e12, 31.25 * GIB, 1640e9, 3584e9 / 8, 2, 'v6e', 1, 16),
    'v5p': Chip('v5p', 459e12, 95.74 * GIB, 2765e9, 4800e9 / 8, 3, 'v5p', 2, 4),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """The devices that programs are compiled for."""
  name: str
  chip: Chip
  devices: tuple[Any, ...]

  @property
  def local(self) -> bool:
    return self.name.startswith('local')

  @property
  def tpu(self) -> bool:
    return self.devices[0].platform == 'tpu'


def read(name: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the sizes of `v5p:8x8x16`.

  Raises:
    ValueError: there is no such chip, or it has no such slices.
  """
  found = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  if not found or found[1] not in CHIPS:
    raise ValueError(f'topology={name!r} is unknown: name a chip of {", ".join(CHIPS)} and the '
                     "sizes of the slice, as 'v5e:4x4' or 'v5p:8x8x16', or 'local'")
  chip, sizes = CHIPS[found[1]], tuple(map(int, found[2].split('x')))
  if len(sizes) != chip.dims:
    raise ValueError(f'topology={name!r} has {len(sizes)} sizes, and slices of {chip.name} have '
                     f"{chip.dims}: write it as '{chip.name}:{'x'.join(['4'] * chip.dims)}'")
  return chip, sizes


def prepare(name: str) -> None:
  """Sets in the environment what jax and libtpu need for this topology; before jax starts.

  `local:8` stands for eight virtual devices of this machine's CPU.

  Raises:
    ValueError: it is unknown.
  """
  if name.partition(':')[0] == 'local':
    count = name.partition(':')[2]
    if count:
      if not count.isdigit():
        raise ValueError(f"topology={name!r} is unknown: write 'local', or 'local:8' for eight "
                         "virtual devices of this machine's CPU")
      os.environ['XLA_FLAGS'] = ' '.join((
          os.environ.get('XLA_FLAGS', ''), f'--xla_force_host_platform_device_count={count}'))
      os.environ['JAX_PLATFORMS'] = 'cpu'
    return
  chip, sizes = read(name)
  os.environ.update(
      JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1',
      TPU_WORKER_HOSTNAMES='localhost',
      TPU_ACCELERATOR_TYPE=f'{chip.accelerator}-{math.prod(sizes) * chip.cores}')


def open_topology(name: str) -> Topology:
  """The devices of a topology; see `prepare`.

  Raises:
    ValueError: it is unknown, or libtpu has no such slice.
    ModuleNotFoundError: libtpu is not installed.
  """
  import jax
  if name.partition(':')[0] == 'local':
    return Topology(name, _local_chip(), tuple(jax.devices()))
  chip, _ = read(name)
  try:
    import libtpu as _  # noqa: F401
  except ModuleNotFoundError:
    raise ModuleNotFoundError(
        f'topology={name!r} needs libtpu, the compiler for TPUs, which runs without any: install '
        "it with pip install 'r1jax[plan]', best in an environment of its own") from None
  from jax.experimental import topologies
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=name)
  except Exception as error:   # of several kinds, by the version of libtpu
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(f'topology={name!r} is no slice that libtpu knows ({said[:160]}): take the '
                     'sizes of one that is sold') from None
  return Topology(name, chip, tuple(found.devices))


def _local_chip() -> Chip:
  """This machine's devices, of which several virtual ones share the memory."""
  import jax

  from r1jax.runtime import hardware
  device, count = jax.devices()[0], jax.device_count()
  stats = device.memory_stats() or {}
  memory = stats.get('bytes_limit') or (
      os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / count
      if sys.platform != 'win32' else 0)
  return Chip('local', hardware.peak_flops() / count, memory, _copied_a_second() / count, 0.0)


def _copied_a_second() -> float:
  """Bytes a second that a large addition reads and writes here."""
  import time

  import jax
  import jax.numpy as jnp
  table = jnp.ones(2 ** 24)
  add = jax.jit(lambda x: x + 1)
  add(table).block_until_ready()
  start = time.perf_counter()
  for _ in range(3):
    table = add(table)
  table.block_until_ready()
  return 3 * 2 * table.nbytes / (time.perf_counter() - start)


def axes_of(collective: Collective, mesh_shape: Sequence[tuple[str, int]]) -> str:
  """The mesh axes along which a collective's devices differ: 'fsdp', or 'fsdp+tensor'."""
  names, sizes = [name for name, _ in mesh_shape], [size for _, size in mesh_shape]
  groups = [group for group in collective.groups if len(group) > 1]
  if not groups:
    return ''
  places = np.stack(np.unravel_index(np.asarray(groups), sizes), -1)      # [groups, members, axes]
  varies = (places != places[:, :1]).any((0, 1))
  return '+'.join(name for name, moves in zip(names, varies) if moves)


def network_seconds(collective: Collective, topology: Topology) -> float:
  """Of one run of a collective: what a device sends, by the links that its group can use.

  A group whose chips lie along some dimensions of the torus uses the links of these; along a
  dimension that is not closed to a ring only half of them.
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
  links = sum((1.0 if size % chip.whole == 0 else 0.5)
              for size, moves in zip(sizes, used) if moves)
  return collective.moved / (chip.network * links / chip.dims)
