"""What a stage takes on a topology: the memory, work and time of its programs together."""
from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

from r1jax.models import PRESETS, ModelConfig
from r1jax.pipeline import KINDS
from r1jax.plan import chips
from r1jax.plan.chips import Topology
from r1jax.plan.compiler import Figures, compile_program
from r1jax.runtime import sharding
from r1jax.stages import loading, program_shapes
from r1jax.stages.config import check_mesh


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
  work: program_shapes.IterationWork | None

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
      return program_shapes.find_shape(model['source'], model['preset'], f'{where}.model')
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
  check_mesh(stage, mesh, f'config.stages.{name}')
  shape_of = shape_finder(config['stages'], f'config.stages.{name}')
  if 'model' in stage:
    loading.check_model_fits(shape_of(stage['model']), mesh)
  programs = KINDS[stage['kind']].shapes(stage, mesh, shape_of, mean_length=mean_length)
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
        figures, program.times, program.useful, program_shapes.bytes_on_a_device(program.beside),
        topology.chip, mesh.size))
    if until_too_large and not estimates[-1].fits:
      break
  return StagePlan(name, stage['kind'], dict(mesh.shape), tuple(estimates), work)
