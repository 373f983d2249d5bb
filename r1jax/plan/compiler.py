"""Compiles a program for a topology and reads what it takes: memory, operations, communication."""
from collections.abc import Iterable
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import re
import tempfile
from typing import Any, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.plan import collectives, costs
from r1jax.plan.collectives import Collective
from r1jax.plan.costs import InstructionCost
from r1jax.plan.topology import Topology
from r1jax.runtime import sharding
from r1jax.runtime.hardware import Chip
from r1jax.runtime.storage import Path
from r1jax.stages import program_shapes

_CACHE_VERSION = 6     # of what the cache keeps
_Specs = list | None   # the PartitionSpec of each output, as JSON has it


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives that are alike, on one device.

  Attributes:
    kind: as 'all-gather'.
    axes: the mesh axes along which they communicate: 'fsdp', 'fsdp+tensor'.
    shape: of the operand.
    loops: how many loops are around them; 0: they run once.
    times: how often they run in all.
    moved: bytes that a device sends in all.
    seconds: that they take in all.
    where: their `op_name`, the place in the traced program that they came from.
  """
  kind: str
  axes: str
  shape: str
  loops: int
  times: float
  moved: float
  seconds: float
  where: str


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes that a program takes on a device, without its machine code.

  `aliased` are the outputs that are written over donated arguments.
  """
  arguments: float
  outputs: float
  aliased: float
  temporaries: float

  @property
  def total(self) -> float:
    """Bytes in use while it runs."""
    return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Figures(Memory):
  """What one run of a program takes on one device.

  Attributes:
    name: the program's.
    flops: floating-point operations.
    bytes: between main memory and chip.
    core_seconds: sum over instructions of the longer of their arithmetic and their bytes.
    traffic: its collectives, the longest first.
    longest: the instructions that take the longest.
    unknown_loops: how many loops have a trip count that depends on the data.
    too_large: the compiler refused it because it does not fit; the other figures are then unknown.
  """
  name: str = ''
  flops: float = 0.0
  bytes: float = 0.0
  core_seconds: float = 0.0
  traffic: tuple[Traffic, ...] = ()
  longest: tuple[InstructionCost, ...] = ()
  unknown_loops: int = 0
  too_large: bool = False


def compile_program(
    program: program_shapes.ProgramShapes, mesh: jax.sharding.Mesh, topology: Topology,
    cache: str | pathlib.Path = '',
) -> tuple[Figures, Any]:
  """Compiles a program, or reads its figures from the cache.

  Args:
    program: what to compile.
    mesh: of the topology's devices.
    topology: what to compile for.
    cache: a folder that keeps figures; '' for none.

  Returns:
    (figures, output shapes with their shardings). The shapes are None where no other program takes
    them (`program.followed` is false), or where the program is too large.

  Raises:
    UserError: the compiler refuses the program for another reason than its size.
  """
  function = cast(jax.stages.Wrapped, program.function)
  with sharding.use(mesh):
    lowered = function.lower(*program.arguments, **program.keywords)
  file = None
  if cache and not topology.local:
    file = pathlib.Path(cache) / f'{_cache_key(program, lowered, mesh, topology)}.json'
  kept = _read_cached(file, program.name) if file else None
  if kept:
    figures, specs = kept
  else:
    figures, specs = _compile(program, lowered, mesh, topology)
    if file:
      file.parent.mkdir(parents=True, exist_ok=True)
      Path(file).write_text(json.dumps({'figures': dataclasses.asdict(figures), 'specs': specs}))
  return figures, _output_shapes(lowered, specs, mesh)


def _cache_key(program: program_shapes.ProgramShapes, lowered, mesh, topology: Topology) -> str:
  """A hash of everything that the figures depend on."""
  beside = program_shapes.bytes_on_a_device(program.beside)
  return hashlib.sha256('\n'.join((
      str(_CACHE_VERSION), jax.__version__, _compiler_version(topology), topology.name,
      str(mesh.shape_tuple), repr(topology.chip),
      str((program.unknown_trips, program.columns, program.followed, beside)), lowered.as_text(),
  )).encode()).hexdigest()[:32]


def _compiler_version(topology: Topology) -> str:
  return '' if topology.local else importlib.metadata.version('libtpu')


def _read_cached(file: pathlib.Path, name: str) -> tuple[Figures, _Specs] | None:
  """What a file of the cache holds; None if there is none, or it is damaged."""
  try:
    content = json.loads(file.read_text())
    kept, specs = content['figures'], content['specs']
    return Figures(**kept | {
        'name': name, 'traffic': tuple(Traffic(**one) for one in kept['traffic']),
        'longest': tuple(InstructionCost(**one) for one in kept['longest'])}), specs
  except (OSError, ValueError, LookupError, TypeError):
    return None


def _compile(program, lowered, mesh, topology: Topology) -> tuple[Figures, _Specs]:
  """(figures, specs of the outputs or None where the compilation stopped before they are known)."""
  found, specs = None, None
  try:
    if topology.tpu and not program.followed:
      beside = program_shapes.bytes_on_a_device(program.beside)
      found = _compile_without_code(lowered, topology.chip, beside)
    if found is None:
      found, specs = _compile_fully(lowered, topology)
  except jax.errors.JaxRuntimeError as error:
    return _too_large_figures(program.name, str(error)), None
  text, memory = found
  cost = costs.cost(text, flops_per_second=topology.chip.flops,
                    bytes_per_second=topology.chip.bandwidth, unknown_trips=program.unknown_trips,
                    columns=program.columns)
  return Figures(
      **dataclasses.asdict(memory), name=program.name, flops=cost.flops, bytes=cost.bytes,
      core_seconds=cost.core_seconds, traffic=_traffic(cost.collectives, mesh, topology),
      longest=cost.longest, unknown_loops=cost.unknown_loops), specs


def _compile_fully(lowered, topology: Topology) -> tuple[tuple[str, Memory], list]:
  """((optimised HLO, memory), PartitionSpecs of the outputs) of a complete compilation."""
  with tempfile.TemporaryDirectory() as folder:
    options = _dump_options(folder) if topology.tpu else {}
    compiled = lowered.compile(compiler_options=options)
    # jaxlib cannot always read back the HLO of another version's libtpu: use the text it dumped.
    text = _dumped(folder, 'after_optimizations') if topology.tpu else compiled.as_text()
  memory = compiled.memory_analysis()
  specs = [_spec_to_json(placed) for placed in jax.tree.leaves(compiled.output_shardings)]
  return (text, Memory(memory.argument_size_in_bytes, memory.output_size_in_bytes,
                       memory.alias_size_in_bytes, memory.temp_size_in_bytes)), specs


# Compiling for a TPU without generating machine code.

_SMALL_PROGRAM = 2 ** 24      # bytes; a program that takes less is compiled completely
_MEMORY_LIMIT = 95     # % of a chip's memory that rematerialisation and scheduling fill by default


def _compile_without_code(lowered, chip: Chip, beside: float) -> tuple[str, Memory] | None:
  """(optimised HLO, memory) of a program; None where it must be compiled completely.

  Generating machine code takes most of the compilation, and libtpu has no option to stop before it.
  But just before it, libtpu refuses a program that exceeds the chip's memory. So libtpu is told
  that the chip has less memory than the program needs: first next to none, to find out what it
  needs, and then two thirds of that.

  libtpu packs the temporaries of a refused program in another way, sometimes more tightly,
  sometimes less. Where that could decide whether the program fits, or where the program is small,
  it is compiled completely.
  """
  def is_scarce(memory: Memory) -> bool:
    return memory.total + memory.temporaries + beside > chip.memory
  found = _stop_at_memory_check(lowered, chip, int(chip.memory / _SMALL_PROGRAM))
  if found and not is_scarce(found[1]):
    found = _stop_at_memory_check(lowered, chip, int(1.5 * chip.memory / found[1].total) + 1)
  return None if found and is_scarce(found[1]) else found


def _stop_at_memory_check(lowered, chip: Chip, divisor: int) -> tuple[str, Memory] | None:
  """(optimised HLO, memory) of a program that exceeds memory / divisor of a chip, else None.

  Rematerialisation and scheduling keep below a percentage of the memory. It is multiplied by the
  divisor, so that their limits, and so the program, are those of a chip with all its memory.
  """
  with tempfile.TemporaryDirectory() as folder:
    limits = dict(xla_tpu_max_hbm_size_mib=int(chip.memory / divisor / 2 ** 20),
                  xla_jf_rematerialization_percent_shared_memory_limit=_MEMORY_LIMIT * divisor,
                  xla_tpu_scheduler_percent_shared_memory_limit=_MEMORY_LIMIT * divisor)
    try:
      lowered.compile(compiler_options=_dump_options(folder) | limits)
      return None
    except jax.errors.JaxRuntimeError as error:
      _too_large_figures('', str(error))     # raises if it was refused for another reason
    return (_dumped(folder, 'after_optimizations'),
            _read_memory(_dumped(folder, 'after_optimizations-buffer-assignment')))


def _dump_options(folder: str) -> dict[str, Any]:
  """Options for libtpu: write the HLO to a folder, and do not schedule the machine code.

  The code is never run; without scheduling it takes a third of the time to generate.
  """
  return {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True, 'xla_jf_vliw_fuel': 0}


def _dumped(folder: str, what: str) -> str:
  return max(pathlib.Path(folder).glob(f'*{what}.txt')).read_text()


# A line of libtpu's buffer assignment: an allocation with its size, kind of memory and use.
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+)(?:, color (\d+))?, page \d+, (.*)$', re.M)


def _read_memory(assignment: str) -> Memory:
  """The main memory of a chip that libtpu's buffer assignment gives to a program."""
  sizes = dict.fromkeys(('arguments', 'outputs', 'aliased', 'temporaries'), 0.0)
  for size, color, use in _ALLOCATION.findall(assignment):
    if color not in ('', '0'):      # the chip's small memories, or the host's
      continue
    argument, returned = 'parameter' in use, 'maybe-live-out' in use
    for name, holds in (('arguments', argument), ('outputs', returned),
                        ('aliased', argument and returned),
                        ('temporaries', not argument and not returned)):
      sizes[name] += holds * float(size)
  return Memory(**sizes)


_UNITS = {'': 1, 'B': 1, 'K': 2 ** 10, 'M': 2 ** 20, 'G': 2 ** 30, 'T': 2 ** 40}


def _too_large_figures(name: str, message: str) -> Figures:
  """What the compiler's error message says of a program that does not fit.

  Raises:
    UserError: the program was refused for another reason.
  """
  used = (re.search(r'Used ([\d.]+)([KMGT]?)B? of [\d.]+[KMGT]?B? hbm', message) or
          re.search(r'required for .*? \(([\d.]+)([KMGT]?)B?\) exceeds available HBM', message))
  if used is None:
    raise UserError(f'the compiler refuses {name!r}: {" ".join(message.split())[:300]}')
  arguments = re.search(r'arguments +([\d.]+)([KMGT]?)', message)
  total = float(used[1]) * _UNITS[used[2]]
  known = float(arguments[1]) * _UNITS[arguments[2]] if arguments else 0.0
  return Figures(known, 0.0, 0.0, total - known, name=name, too_large=True)


def _traffic(
    found: Iterable[Collective], mesh: jax.sharding.Mesh, topology: Topology,
) -> tuple[Traffic, ...]:
  """The collectives of a program, those that are alike together, the longest first."""
  together: dict[tuple, Traffic] = {}
  for one in found:
    axes = collectives.mesh_axes(one, mesh.shape_tuple)
    key = one.kind, axes, one.shape, one.loops, one.where
    before = together.get(key) or Traffic(
        one.kind, axes, one.shape, one.loops, 0.0, 0.0, 0.0, one.where)
    together[key] = dataclasses.replace(
        before, times=before.times + one.times, moved=before.moved + one.moved * one.times,
        seconds=before.seconds + one.times * collectives.network_seconds(one, topology))
  return tuple(sorted(together.values(), key=_longest_first))


def _longest_first(traffic: Traffic) -> tuple[float, float]:
  return -traffic.seconds, -traffic.moved


def _spec_to_json(placed) -> list:
  """A NamedSharding's PartitionSpec as JSON has it; of any other sharding, []."""
  if not isinstance(placed, NamedSharding):
    return []
  return [list(axis) if isinstance(axis, tuple) else axis for axis in placed.spec]


def _output_shapes(lowered, specs: _Specs, mesh: jax.sharding.Mesh):
  """The shapes of a program's outputs with their shardings; None where these are unknown."""
  if specs is None:
    return None
  leaves, structure = jax.tree.flatten(lowered.out_info)
  placed = [NamedSharding(mesh, PartitionSpec(*(
      tuple(axis) if isinstance(axis, list) else axis for axis in spec))) for spec in specs]
  return jax.tree.unflatten(structure, [
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)
      for leaf, one in zip(leaves, placed, strict=True)])
