"""The devices that a plan compiles for: a slice of TPU chips that need not be here, or local ones.

A slice is named as libtpu names it, `v5p:8x8x16`; `local` stands for the devices of this machine.
jax is imported only where it is used, so that `prepare_environment` can run before it.
"""
import dataclasses
import math
import os
import re
import sys
import time
from typing import Any

from r1jax.errors import UserError
from r1jax.runtime import hardware
from r1jax.runtime.hardware import Chip

# By chip: how TPU_ACCELERATOR_TYPE names a slice, and how many cores that name counts per chip.
_ACCELERATORS = {'v5e': ('v5litepod', 1), 'v6e': ('v6e', 1), 'v5p': ('v5p', 2)}


@dataclasses.dataclass(frozen=True)
class Topology:
  """The devices that programs are compiled for."""
  name: str
  chip: Chip
  devices: tuple[Any, ...]

  @property
  def local(self) -> bool:
    """Whether these are the devices of this machine."""
    return self.name.startswith('local')

  @property
  def tpu(self) -> bool:
    """Whether these are TPU chips."""
    return self.devices[0].platform == 'tpu'


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the sizes of a slice such as `v5p:8x8x16`.

  Raises:
    UserError: the chip is unknown, or the slice has the wrong number of dimensions.
  """
  found = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  if not found or found[1] not in hardware.TPUS:
    raise UserError(f'topology={name!r} is unknown: use one of {", ".join(hardware.TPUS)} and the '
                     "sizes of the slice, such as 'v5e:4x4' or 'v5p:8x8x16', or 'local'")
  chip, sizes = hardware.TPUS[found[1]], tuple(map(int, found[2].split('x')))
  if len(sizes) != chip.dims:
    raise UserError(f'topology={name!r} has {len(sizes)} sizes, but slices of {chip.name} have '
                     f"{chip.dims}: write it as '{chip.name}:{'x'.join(['4'] * chip.dims)}'")
  return chip, sizes


def prepare_environment(name: str) -> None:
  """Sets the environment variables that jax and libtpu need; call it before jax starts a backend.

  `local:8` stands for eight virtual devices of this machine's CPU.

  Raises:
    UserError: the topology is unknown.
  """
  kind, _, count = name.partition(':')
  if kind != 'local':
    chip, sizes = parse(name)
    accelerator, cores = _ACCELERATORS[chip.name]
    os.environ.update(
        JAX_PLATFORMS='cpu', TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1',
        TPU_WORKER_HOSTNAMES='localhost',
        TPU_ACCELERATOR_TYPE=f'{accelerator}-{math.prod(sizes) * cores}')
  elif count:
    if not count.isdigit():
      raise UserError(f"topology={name!r} is unknown: write 'local', or 'local:8' for eight "
                       "virtual devices of this machine's CPU")
    os.environ['XLA_FLAGS'] = ' '.join((
        os.environ.get('XLA_FLAGS', ''), f'--xla_force_host_platform_device_count={count}'))
    os.environ['JAX_PLATFORMS'] = 'cpu'


def open_topology(name: str) -> Topology:
  """The devices of a topology, after `prepare_environment`.

  Raises:
    UserError: it is unknown, or libtpu has no such slice.
    ModuleNotFoundError: libtpu is not installed.
  """
  import jax
  if name.partition(':')[0] == 'local':
    return Topology(name, _local_chip(), tuple(jax.devices()))
  chip, _ = parse(name)
  try:
    import libtpu  # noqa: F401
  except ModuleNotFoundError:
    raise ModuleNotFoundError(
        f'topology={name!r} needs libtpu, the TPU compiler, which needs no TPU: install it with '
        "pip install 'r1jax[plan]', preferably in an environment of its own") from None
  from jax.experimental import topologies
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=name)
  except Exception as error:   # the type depends on the version of libtpu
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f'topology={name!r} is not a slice that libtpu knows ({message[:160]}): use '
                     'the sizes of one that is sold') from None
  return Topology(name, chip, tuple(found.devices))


def _local_chip() -> Chip:
  """One device of this machine; virtual devices share its memory and its speed."""
  import jax
  device, count = jax.devices()[0], jax.device_count()
  stats = device.memory_stats() or {}
  memory = stats.get('bytes_limit') or (
      os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / count
      if sys.platform != 'win32' else 0)
  known = hardware.DEVICE_KINDS.get(device.device_kind)
  if known is not None:
    return dataclasses.replace(known, name='local', memory=memory, network=0.0)
  return Chip('local', {'bfloat16': _measured_flops() / count}, memory,
              _measured_bandwidth() / count)


def _measured_flops() -> float:
  """Operations per second of a float32 matrix product on this machine."""
  import jax
  import jax.numpy as jnp
  square = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul)
  product(square, square).block_until_ready()
  start = time.perf_counter()
  for _ in range(3):
    result = product(square, square)
  result.block_until_ready()
  return 3 * 2 * 1024 ** 3 / (time.perf_counter() - start)


def _measured_bandwidth() -> float:
  """Bytes per second that a large addition reads and writes on this machine."""
  import jax
  import jax.numpy as jnp
  array = jnp.ones(2 ** 24)
  add = jax.jit(lambda x: x + 1)
  add(array).block_until_ready()
  start = time.perf_counter()
  for _ in range(3):
    array = add(array)
  array.block_until_ready()
  return 3 * 2 * array.nbytes / (time.perf_counter() - start)
