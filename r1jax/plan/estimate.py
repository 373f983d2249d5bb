"""What a stage takes on a topology: the memory, operations and time of all its programs."""
from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

from r1jax.models import PRESETS, ModelConfig
from r1jax.pipeline import KINDS
from r1jax.plan.compiler import Figures, compile_program
from r1jax.plan.topology import Topology
from r1jax.runtime import sharding
from r1jax.runtime.hardware import Chip
from r1jax.stages import loading, program_shapes
from r1jax.stages.config import check_mesh


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A program of a stage: its figures, and its share of an iteration of the stage.

  Attributes:
    figures: of one run.
    times: runs per iteration.
    useful: the model's operations per iteration on all devices, by `models.compute`.
    beside: bytes on a device of arrays that are in memory but not arguments.
    chip: the data sheet of a device.
    num_chips: how many devices there are.
  """
  figures: Figures
  times: float
  useful: float
  beside: float
  chip: Chip
  num_chips: int

  @property
  def resident(self) -> float:
    """Bytes in use on a device while the program runs."""
    return self.figures.total + self.beside

  @property
  def fits(self) -> bool:
    """Whether it fits into the memory of a chip."""
    return not self.figures.too_large and self.resident <= self.chip.memory

  @property
  def compute_seconds(self) -> float:
    """Seconds of arithmetic per iteration, at the chip's peak."""
    return self.times * self.figures.flops / self.chip.flops

  @property
  def memory_seconds(self) -> float:
    """Seconds per iteration that its bytes take at the memory's bandwidth."""
    return self.times * self.figures.bytes / self.chip.bandwidth

  @property
  def network_seconds(self) -> float:
    """Seconds of collectives per iteration."""
    return self.times * sum(one.seconds for one in self.figures.traffic)

  @property
  def overlapped(self) -> float:
    """Seconds per iteration if arithmetic, memory and network overlap: the longest of the three."""
    return max(self.compute_seconds, self.memory_seconds, self.network_seconds)

  @property
  def in_turn(self) -> float:
    """Seconds per iteration if instructions, and then collectives, run one after the other."""
    return self.times * self.figures.core_seconds + self.network_seconds

  @property
  def serial(self) -> float:
    """Seconds per iteration if nothing overlaps, not even reading and multiplying."""
    return self.compute_seconds + self.memory_seconds + self.network_seconds

  def utilisation(self, seconds: float) -> float:
    """Useful operations over what the chips could do in this time."""
    return self.useful / (seconds * self.num_chips * self.chip.flops) if seconds else 0.0


@dataclasses.dataclass(frozen=True)
class StagePlan:
  """The plan of one stage.

  Attributes:
    name: the stage's.
    kind: the stage's.
    mesh: its axes and their sizes.
    estimates: of its programs.
    work: of an iteration; None where a program that others depend on does not fit.
  """
  name: str
  kind: str
  mesh: Mapping[str, int]
  estimates: tuple[Estimate, ...]
  work: program_shapes.IterationWork | None

  @property
  def fits(self) -> bool:
    """Whether all programs fit."""
    return self.work is not None and all(one.fits for one in self.estimates)

  def seconds(self, bound: str) -> float:
    """Seconds per iteration; `bound` is 'overlapped', 'in_turn' or 'serial'."""
    return sum(getattr(one, bound) for one in self.estimates)

  def utilisation(self, bound: str) -> float:
    """Useful operations over what the chips could do in the time of an iteration."""
    seconds, first = self.seconds(bound), self.estimates[0]
    useful = sum(one.useful for one in self.estimates)
    return useful / (seconds * first.num_chips * first.chip.flops) if seconds else 0.0


def shape_finder(stages: Mapping[str, Mapping], where: str) -> Callable[[Mapping], ModelConfig]:
  """A function from the `model` part of a stage to its ModelConfig.

  It follows `source` through stages that start from the model of another stage.

  Args:
    stages: the `stages` part of the config.
    where: the path of the stage in the config, for error messages.
  """
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
  """Compiles the programs of a stage and adds up what they take.

  Args:
    config: the whole config, a dict that `pipeline.check` has accepted.
    name: the stage's name.
    topology: what to compile for.
    mean_length: mean tokens of a completion; 0: all have the greatest length.
    cache: a folder that keeps figures; '' for none.
    progress: is called with the name of each program before it is compiled.
    until_too_large: stop at the first program that does not fit.

  Raises:
    UserError: the mesh does not fit the topology, or a model's shape is unknown.
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
