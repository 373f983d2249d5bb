"""Compares the planned memory of an update with what it takes when it runs on this machine.

    python -m r1jax.experiments.benchmarks.plan_memory

On a GPU the allocator reports the peak in use. On a CPU it is the growth of the process while the
update ran, plus the arguments that it held before.
"""
import dataclasses
import functools
import pathlib

import jax
import numpy as np

from r1jax.experiments import r1_zero
from r1jax.pipeline import KINDS
from r1jax.plan import compiler, estimate
from r1jax.plan.topology import open_topology
from r1jax.runtime import sharding
from r1jax.stages import loading
from r1jax.stages.config import plain
from r1jax.training import optimizers, train_step

MIB = 2 ** 20


def status(field: str) -> int:
  """Bytes of a field of this process's status (Linux)."""
  line, = (line for line in pathlib.Path('/proc/self/status').read_text().splitlines()
           if line.startswith(field))
  return int(line.split()[1]) * 1024


def planned_update(config, topology):
  """(the planned update program, its figures)."""
  mesh = sharding.make_mesh(**config['mesh'], devices=topology.devices)
  stage = config['stages']['zero']
  programs, answer = KINDS['rl'].shapes(
      stage, mesh, estimate.shape_finder(config['stages'], 'config.stages.zero')), None
  while (program := programs.send(answer)).name != 'update':
    _, answer = compiler.compile_program(program, mesh, topology)
  return program, compiler.compile_program(program, mesh, topology)[0]


def real_bytes(program, stage, mesh) -> float:
  """The peak memory of the update, its arguments included."""
  state_like, batch_like, normalizers_like = program.arguments

  def fill(x):
    return jax.device_put(np.ones(x.shape, x.dtype), x.sharding)

  with sharding.use(mesh):
    loaded = loading.load_model(inputs={}, mesh=mesh, **stage['model'])
    optimizer = optimizers.make_optimizer(**stage['optimizer'])
    placed = jax.tree.map(lambda x: x.sharding, state_like)
    state = jax.jit(functools.partial(train_step.init_state, optimizer=optimizer),
                    out_shardings=placed)(loaded.params)
    del loaded
    batch, normalizers = jax.tree.map(fill, (batch_like, normalizers_like))
    update = program.function.lower(state, batch, normalizers).compile()
    jax.block_until_ready((state, batch))
    held = sum(shard.data.nbytes for x in jax.tree.leaves((state, batch, normalizers))
               for shard in x.addressable_shards)
    on_cpu = jax.default_backend() == 'cpu'
    if on_cpu:
      before = status('VmRSS')
      pathlib.Path('/proc/self/clear_refs').write_text('5')   # resets the peak
    jax.block_until_ready(update(state, batch, normalizers))
    if on_cpu:
      return held + status('VmHWM') - before
    return jax.devices()[0].memory_stats()['peak_bytes_in_use']


def main():
  topology = dataclasses.replace(open_topology('local'), devices=tuple(jax.devices()[:1]))
  config = plain(r1_zero.get_config('tiny'))
  stage = config['stages']['zero']
  stage['prompts_per_batch'], stage['micro_batches'] = 64, 1
  program, figures = planned_update(config, topology)
  real = real_bytes(program, stage, sharding.make_mesh(1, 1, topology.devices))
  print(f'update of {stage["prompts_per_batch"]} x {stage["group_size"]} completions on '
        f'{topology.devices[0].device_kind}: planned {figures.total / MIB:.1f} MiB '
        f'(arguments {figures.arguments / MIB:.1f}, temporaries {figures.temporaries / MIB:.1f}), '
        f'in use {real / MIB:.1f} MiB, {real / figures.total - 1:+.1%}')


if __name__ == '__main__':
  main()
