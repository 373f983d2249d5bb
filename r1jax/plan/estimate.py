"""Compiles a stage's programs for a topology, and says what they take: memory, work, time."""
from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
import pathlib
import re
import tempfile
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax import sharding
from r1jax.models import PRESETS, ModelConfig
from r1jax.pipeline import KINDS
from r1jax.plan import chips, hlo
from r1jax.plan.chips import Topology
from r1jax.stages import abstract, common
from r1jax.storage import Path

_FORM = 3     # of what the cache keeps


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
class Figures:
  """Of one run of a program on one device; bytes, seconds."""
  name: str
  arguments: float
  outputs: float
  aliased: float           # outputs that lie where donated arguments were
  temporaries: float
  total: float             # while it runs
  flops: float = 0.0
  bytes: float = 0.0
  core_seconds: float = 0.0        # Σ over instructions of the longer of arithmetic and memory
  traffic: tuple[Traffic, ...] = ()
  longest: tuple[hlo.Part, ...] = ()
  unknown_loops: int = 0
  too_large: bool = False          # the compiler refused: it does not fit, and the rest is unknown
  xla_flops: float = 0.0           # XLA's own count, loops once


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A program of a stage, its figures, and what an iteration of the stage makes of it."""
  figures: Figures
  times: float             # a run of the program, an iteration
  useful: float            # operations on all devices, an iteration
  beside: float            # bytes on a device of what lies in memory besides
  chip: chips.Chip
  num_chips: int

  @property
  def resident(self) -> float:
    """Bytes in use on a device while the program runs."""
    return self.figures.total + self.beside

  @property
  def fits(self) -> bool:
    return not self.figures.too_large and self.resident <= self.chip.memory

  @property
  def compute_seconds(self) -> float:
    return self.times * self.figures.flops / self.chip.flops

  @property
  def memory_seconds(self) -> float:
    return self.times * self.figures.bytes / self.chip.bandwidth

  @property
  def network_seconds(self) -> float:
    return self.times * sum(one.seconds for one in self.figures.traffic)

  @property
  def overlapped(self) -> float:
    """Seconds an iteration, where arithmetic, memory and network all hide behind the longest."""
    return max(self.compute_seconds, self.memory_seconds, self.network_seconds)

  @property
  def in_turn(self) -> float:
    """Seconds an iteration, one instruction after the other, collectives never hidden."""
    return self.times * self.figures.core_seconds + self.network_seconds

  @property
  def serial(self) -> float:
    """Seconds an iteration, where nothing overlaps, not even reading with multiplying."""
    return self.compute_seconds + self.memory_seconds + self.network_seconds

  def utilisation(self, seconds: float) -> float:
    return self.useful / (seconds * self.num_chips * self.chip.flops) if seconds else 0.0


@dataclasses.dataclass(frozen=True)
class StagePlan:
  """Of one stage; `work` is None where a program that others depend on does not fit."""
  name: str
  kind: str
  mesh: Mapping[str, int]
  estimates: tuple[Estimate, ...]
  work: abstract.Work | None

  @property
  def fits(self) -> bool:
    return self.work is not None and all(one.fits for one in self.estimates)

  def seconds(self, bound: str) -> float:
    """Of an iteration, by 'overlapped', 'in_turn' or 'serial'."""
    return sum(getattr(one, bound) for one in self.estimates)

  def utilisation(self, bound: str) -> float:
    seconds, first = self.seconds(bound), self.estimates[0]
    useful = sum(one.useful for one in self.estimates)
    return useful / (seconds * first.num_chips * first.chip.flops) if seconds else 0.0


def shape_finder(stages: Mapping[str, Mapping], where: str) -> Callable[[Mapping], ModelConfig]:
  """shape_of(`model` part) -> ModelConfig, through stages that start from another one's model."""
  def shape_of(model: Mapping[str, Any]) -> ModelConfig:
    stage = stages.get(model['source'])
    if stage is None:
      return abstract.find_shape(model['source'], model['preset'], f'{where}.model')
    if stage['kind'] == 'pretrain':
      return PRESETS[stage['preset']]
    return shape_of(stage['model'])
  return shape_of


def plan_stage(
    config: Mapping[str, Any], name: str, topology: Topology, *, mean_length: float = 0,
    cache: str | pathlib.Path = '', progress: Callable[[str], None] = lambda name: None,
    until_too_large: bool = False,
) -> StagePlan:
  """Compiles the programs of a stage; a dict `config` that `pipeline.check` has passed.

  Args:
    config: the whole config.
    name: the stage's.
    topology: what to compile for.
    mean_length: of completions; 0: all have the greatest length.
    cache: a folder that keeps figures, '' for none.
    progress: is told the name of each program before it is compiled.
    until_too_large: leave out the programs behind the first that does not fit.

  Raises:
    ValueError: the mesh does not fit the topology, or a model's shape is nowhere to be found.
  """
  mesh = sharding.make_mesh(**config['mesh'], devices=topology.devices)
  stage = config['stages'][name]
  common.check_mesh(stage, mesh, f'config.stages.{name}')
  shape_of = shape_finder(config['stages'], f'config.stages.{name}')
  if 'model' in stage:
    common.check_model_fits(shape_of(stage['model']), mesh)
  programs = KINDS[stage['kind']].programs(stage, mesh, shape_of, mean_length=mean_length)
  estimates, answer, work, refused = [], None, None, False
  while True:
    try:
      program = programs.send(answer)
    except StopIteration as end:
      work = None if refused else end.value
      break
    progress(program.name)
    figures, answer = compile_program(program, mesh, topology, cache)
    refused |= figures.too_large
    estimates.append(Estimate(
        figures, program.times, program.useful, abstract.bytes_on_a_device(program.beside),
        topology.chip, mesh.size))
    if until_too_large and not estimates[-1].fits:
      break
  return StagePlan(name, stage['kind'], dict(mesh.shape), tuple(estimates), work)


def compile_program(
    program: abstract.Program, mesh: jax.sharding.Mesh, topology: Topology,
    cache: str | pathlib.Path = '',
) -> tuple[Figures, Any]:
  """(figures, the placed shapes of what it returns; None where it does not fit)."""
  with sharding.use(mesh):
    lowered = program.function.lower(*program.arguments, **program.keywords)
  key = hashlib.sha256('\n'.join((
      str(_FORM), jax.__version__, _compiler_version(topology), topology.name,
      str(mesh.shape_tuple), str(program.unknown_trips), repr(topology.chip),
      lowered.as_text())).encode()).hexdigest()[:32]
  kept = pathlib.Path(cache) / f'{key}.json' if cache and not topology.local else None
  if kept and kept.exists():
    found = json.loads(kept.read_text())
    figures = Figures(**found['figures'] | {
        'name': program.name,
        'traffic': tuple(Traffic(**one) for one in found['figures']['traffic']),
        'longest': tuple(hlo.Part(**one) for one in found['figures']['longest'])})
    return figures, _placed(lowered, found['specs'], mesh)
  figures, specs = _compile(program, lowered, mesh, topology)
  if kept and (specs is not None or figures.too_large):
    kept.parent.mkdir(parents=True, exist_ok=True)
    Path(kept).write_text(json.dumps({'figures': dataclasses.asdict(figures), 'specs': specs}))
  return figures, _placed(lowered, specs, mesh)


def _compile(program, lowered, mesh, topology) -> tuple[Figures, list | None]:
  """(figures, the PartitionSpec of each output as a list; None where it does not fit)."""
  with tempfile.TemporaryDirectory() as folder:
    # libtpu writes HLO that another version of jaxlib cannot always read back: take its own text.
    options = {} if topology.local else {
        'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    if topology.devices[0].platform == 'tpu':
      # Its machine code is never run: in the order in which it is emitted it takes a third of the
      # time, and these figures are the same but for the size of the code.
      options['xla_jf_vliw_fuel'] = 0
    try:
      compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      return _refused(program.name, str(error)), None
    texts = sorted(pathlib.Path(folder).glob('*after_optimizations.txt'))
    text = texts[-1].read_text() if texts else compiled.as_text()
  chip, memory = topology.chip, compiled.memory_analysis()
  found = hlo.cost(text, flops_per_second=chip.flops, bytes_per_second=chip.bandwidth,
                   unknown_trips=program.unknown_trips)
  specs = [_spec(where) for where in jax.tree.leaves(compiled.output_shardings)]
  total = (memory.argument_size_in_bytes + memory.output_size_in_bytes
           - memory.alias_size_in_bytes + memory.temp_size_in_bytes
           + memory.generated_code_size_in_bytes)
  return Figures(
      program.name, memory.argument_size_in_bytes, memory.output_size_in_bytes,
      memory.alias_size_in_bytes, memory.temp_size_in_bytes, total, found.flops, found.bytes,
      found.core_seconds, _traffic(found, mesh, topology), found.longest, found.unknown_loops,
      xla_flops=(compiled.cost_analysis() or {}).get('flops', 0.0)), specs


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
  return Figures(name, size(arguments), 0.0, 0.0, size(used) - size(arguments), size(used),
                 too_large=True)


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
  import importlib.metadata
  return importlib.metadata.version('libtpu')
