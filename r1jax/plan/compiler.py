"""Compiles a program for a topology, and reads off what it takes: memory, operations, traffic."""
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import re
import tempfile
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.plan import chips, hlo
from r1jax.plan.chips import Topology
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import program_shapes

_FORM = 4     # of what the cache keeps


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Collectives of one kind and place in a program, on one device."""
  kind: str
  axes: str                # of the mesh: 'fsdp', 'fsdp+tensor'
  shape: str               # of the operand
  loops: int               # loops around it; 0: it runs once
  times: float
  moved: float             # bytes that a device sends, in all
  seconds: float           # in all
  where: str               # the program's own name for it


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of a device that a program takes, but for its machine code."""
  arguments: float
  outputs: float
  aliased: float           # outputs that lie where donated arguments were
  temporaries: float

  @property
  def total(self) -> float:
    """While it runs."""
    return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Figures(Memory):
  """Of one run of a program on one device; bytes, seconds."""
  name: str = ''
  flops: float = 0.0
  bytes: float = 0.0
  core_seconds: float = 0.0        # Σ over instructions of the longer of arithmetic and memory
  traffic: tuple[Traffic, ...] = ()
  longest: tuple[hlo.Part, ...] = ()
  unknown_loops: int = 0
  too_large: bool = False          # the compiler refused: it does not fit, and the rest is unknown


def compile_program(
    program: program_shapes.ProgramShapes, mesh: jax.sharding.Mesh, topology: Topology,
    cache: str | pathlib.Path = '',
) -> tuple[Figures, Any]:
  """(figures, the placed shapes of what it returns or None: not `followed`, or too large)."""
  with sharding.use(mesh):
    lowered = program.function.lower(*program.arguments, **program.keywords)
  beside = program_shapes.bytes_on_a_device(program.beside)
  key = hashlib.sha256('\n'.join((
      str(_FORM), jax.__version__, _compiler_version(topology), topology.name,
      str(mesh.shape_tuple), repr(topology.chip),
      str((program.unknown_trips, program.followed, beside)), lowered.as_text(),
  )).encode()).hexdigest()[:32]
  kept = pathlib.Path(cache) / f'{key}.json' if cache and not topology.local else None
  if kept and kept.exists():
    found = json.loads(kept.read_text())
    figures = Figures(**found['figures'] | {
        'name': program.name,
        'traffic': tuple(Traffic(**one) for one in found['figures']['traffic']),
        'longest': tuple(hlo.Part(**one) for one in found['figures']['longest'])})
    return figures, _placed(lowered, found['specs'], mesh)
  figures, specs = _compile(program, lowered, mesh, topology)
  if kept:
    kept.parent.mkdir(parents=True, exist_ok=True)
    Path(kept).write_text(json.dumps({'figures': dataclasses.asdict(figures), 'specs': specs}))
  return figures, _placed(lowered, specs, mesh)


# What libtpu says of its buffers: a line for each, with its size, kind of memory and use.
_ALLOCATION = re.compile(r'^allocation \d+: size (\d+)(?:, color (\d+))?, page \d+, (.*)$', re.M)
_LITTLE = 2 ** 24      # bytes; a program that takes less is compiled to its end
_SHARE = 95            # % of a chip's memory that rematerialisation and scheduling fill by default


def _compile(program, lowered, mesh, topology) -> tuple[Figures, list | None]:
  """(figures, the PartitionSpec of each output as a list; None where these are not to be had)."""
  found = None
  try:
    if topology.tpu and not program.followed:
      beside = program_shapes.bytes_on_a_device(program.beside)
      found, specs = _optimise(lowered, topology.chip, beside), None
    if found is None:
      found, specs = _finish(lowered, topology)
  except jax.errors.JaxRuntimeError as error:
    return _refused(program.name, str(error)), None
  text, memory = found
  chip = topology.chip
  cost = hlo.cost(text, flops_per_second=chip.flops, bytes_per_second=chip.bandwidth,
                  unknown_trips=program.unknown_trips)
  return Figures(
      **dataclasses.asdict(memory), name=program.name, flops=cost.flops, bytes=cost.bytes,
      core_seconds=cost.core_seconds, traffic=_traffic(cost, mesh, topology), longest=cost.longest,
      unknown_loops=cost.unknown_loops), specs


def _finish(lowered, topology: Topology) -> tuple[tuple[str, Memory], list]:
  """((optimised HLO, memory), PartitionSpecs of the outputs) of a program compiled to its end."""
  with tempfile.TemporaryDirectory() as folder:
    options = _options(folder) if topology.tpu else {}
    compiled = lowered.compile(compiler_options=options)
    # libtpu writes HLO that another version of jaxlib cannot always read back: take its own text.
    text = _dumped(folder, 'after_optimizations') if topology.tpu else compiled.as_text()
  memory = compiled.memory_analysis()
  specs = [_spec(where) for where in jax.tree.leaves(compiled.output_shardings)]
  return (text, Memory(memory.argument_size_in_bytes, memory.output_size_in_bytes,
                        memory.alias_size_in_bytes, memory.temp_size_in_bytes)), specs


def _optimise(lowered, chip: chips.Chip, beside: float) -> tuple[str, Memory] | None:
  """(optimised HLO, memory) of a program; None where it is too small for this, or memory is scarce.

  Machine code takes most of compiling, and libtpu has no way to stop before it. But that is where
  it refuses what exceeds a chip's memory. So the chip is said to have a part of its memory, a third
  less than the program takes, which is found first with a chip of next to none. A program that is
  refused has its temporaries packed in another way, some tighter, some looser: where this could
  decide whether it fits, it is compiled to its end.
  """
  scarce = lambda memory: memory.total + memory.temporaries + beside > chip.memory
  found = _stopped(lowered, chip, int(chip.memory / _LITTLE))
  if found and not scarce(found[1]):
    found = _stopped(lowered, chip, int(1.5 * chip.memory / found[1].total) + 1)
  return None if found and scarce(found[1]) else found


def _stopped(lowered, chip: chips.Chip, part: int) -> tuple[str, Memory] | None:
  """(optimised HLO, memory) of a program that exceeds 1/part of a chip's memory, else None.

  Rematerialisation and scheduling, which stay below a share of the memory, are given `part` times
  the share: their limits, and so the program, are those of the whole memory.
  """
  with tempfile.TemporaryDirectory() as folder:
    limits = dict(xla_tpu_max_hbm_size_mib=int(chip.memory / part / 2 ** 20),
                  xla_jf_rematerialization_percent_shared_memory_limit=_SHARE * part,
                  xla_tpu_scheduler_percent_shared_memory_limit=_SHARE * part)
    try:
      lowered.compile(compiler_options=_options(folder) | limits)
      return None
    except jax.errors.JaxRuntimeError as error:
      _refused('', str(error))
    return (_dumped(folder, 'after_optimizations'),
            _read_memory(_dumped(folder, 'after_optimizations-buffer-assignment')))


def _options(folder: str) -> dict[str, Any]:
  """For libtpu: to write what it makes into a folder; and machine code, which is never run, in the
  order in which it is emitted, which takes a third of the time."""
  return {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True, 'xla_jf_vliw_fuel': 0}


def _dumped(folder: str, what: str) -> str:
  return max(pathlib.Path(folder).glob(f'*{what}.txt')).read_text()


def _read_memory(assignment: str) -> Memory:
  """The memory of a chip that libtpu's buffer assignment gives to a program."""
  sizes = dict.fromkeys(('arguments', 'outputs', 'aliased', 'temporaries'), 0.0)
  for size, colour, what in _ALLOCATION.findall(assignment):
    if colour not in ('', '0'):      # of the chip's own small memories, or of the host
      continue
    argument, returned = 'parameter' in what, 'maybe-live-out' in what
    for name, holds in (('arguments', argument), ('outputs', returned),
                        ('aliased', argument and returned),
                        ('temporaries', not argument and not returned)):
      sizes[name] += holds * float(size)
  return Memory(**sizes)


_UNITS = {'': 1, 'B': 1, 'K': 2 ** 10, 'M': 2 ** 20, 'G': 2 ** 30, 'T': 2 ** 40}


def _refused(name: str, said: str) -> Figures:
  """What the compiler says of a program that does not fit.

  Raises:
    ValueError: it refused for another reason.
  """
  used = (re.search(r'Used ([\d.]+)([KMGT]?)B? of [\d.]+[KMGT]?B? hbm', said) or
          re.search(r'required for .*? \(([\d.]+)([KMGT]?)B?\) exceeds available HBM', said))
  if used is None:
    raise ValueError(f'the compiler refuses {name!r}: {" ".join(said.split())[:300]}')
  arguments = re.search(r'arguments +([\d.]+)([KMGT]?)', said)
  size = lambda found: float(found[1]) * _UNITS[found[2]] if found else 0.0
  return Figures(size(arguments), 0.0, 0.0, size(used) - size(arguments), name=name, too_large=True)


def _traffic(found: hlo.Cost, mesh, topology: Topology) -> tuple[Traffic, ...]:
  """The collectives of a program, alike ones together, the longest first."""
  together: dict[tuple, Traffic] = {}
  for one in found.collectives:
    axes = chips.axes_of(one, mesh.shape_tuple)
    key = one.kind, axes, one.shape, one.loops, one.where
    before = together.get(key, Traffic(*key[:4], 0.0, 0.0, 0.0, one.where))
    together[key] = dataclasses.replace(
        before, times=before.times + one.times, moved=before.moved + one.moved * one.times,
        seconds=before.seconds + one.times * chips.network_seconds(one, topology))
  return tuple(sorted(together.values(), key=lambda one: (-one.seconds, -one.moved)))


def _spec(where) -> list:
  """A NamedSharding's PartitionSpec as JSON has it."""
  if not isinstance(where, NamedSharding):
    return []
  return [list(axis) if isinstance(axis, tuple) else axis for axis in where.spec]


def _placed(lowered, specs: list | None, mesh):
  if specs is None:
    return None
  leaves, structure = jax.tree.flatten(lowered.out_info)
  where = [NamedSharding(mesh, PartitionSpec(*(
      tuple(axis) if isinstance(axis, list) else axis for axis in spec))) for spec in specs]
  return jax.tree.unflatten(structure, [
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)
      for leaf, one in zip(leaves, where, strict=True)])


def _compiler_version(topology: Topology) -> str:
  if topology.local:
    return ''
  return importlib.metadata.version('libtpu')
