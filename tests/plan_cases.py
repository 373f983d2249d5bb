"""What the tests of plans share: a test chip, and R1-Zero's stage with its programs traced."""
import functools

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.experiments import r1_zero
from r1jax.pipeline import KINDS
from r1jax.plan import estimate
from r1jax.plan.topology import Topology
from r1jax.runtime import sharding
from r1jax.runtime.hardware import Chip
from r1jax.stages.config import plain

CHIP = Chip('test', {'bfloat16': 1e12}, 1e9, 1e11)


def like(*shape, dtype='float32', sharding=None):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def devices(count):
  return Topology('local', CHIP, tuple(jax.devices()[:count]))


def zero(**overrides):
  config = plain(r1_zero.get_config('tiny,debug'))
  config['stages']['zero'] |= overrides
  return config


def traced(stage, mesh, shape_of):
  """The programs of a stage, traced and not compiled, and its IterationWork."""
  programs, found, answer = KINDS[stage['kind']].shapes(stage, mesh, shape_of), [], None
  while True:
    try:
      found.append(programs.send(answer))
    except StopIteration as end:
      return found, end.value
    with sharding.use(mesh):
      answer = jax.eval_shape(
          functools.partial(found[-1].function, **found[-1].keywords), *found[-1].arguments)
    answer = jax.tree.map(
        lambda x: like(*x.shape, dtype=x.dtype, sharding=NamedSharding(mesh, P())), answer)


def traced_zero(config, count=1):
  mesh = sharding.make_mesh(count, 1, jax.devices()[:count])
  found, _ = traced(config['stages']['zero'], mesh, estimate.shape_finder(config['stages'], 'zero'))
  return mesh, {program.name: program for program in found}
