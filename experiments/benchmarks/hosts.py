"""Compares a run on 1, 2 and 4 processes of CPU devices and on several meshes with one device's.

    python -m r1jax.experiments.benchmarks.hosts

R1-Zero with `,debug`, three updates, dense (the miniature) and with experts (a tiny Qwen3-MoE), on
every mesh of one or two axes of 2 and 4 processes, and on 4 processes with two devices each.
Compared are the rollouts, token by token, losses, gradient norms and weights. Prints the Markdown
table that is in docs/scale.md.
"""
import argparse
from collections.abc import Iterator
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time

from ml_collections import ConfigDict

from r1jax.experiments import r1_zero
from r1jax.experiments.benchmarks import ROOT

# The size of r1_zero.py, and the most devices along an axis.
MODELS = {'dense': ('tiny', dict(data=4, fsdp=8, context=4, tensor=2)),
          'experts': ('qwen3_30b_a3b', dict(data=4, fsdp=8, context=4, expert=4))}


def layouts(most: dict[str, int]) -> Iterator[tuple[int, int, dict[str, int]]]:
  """(processes, devices of each, mesh): on 2 and 4 processes every mesh of one or two axes."""
  yield 1, 1, {}
  for processes, devices in ((1, 2), (2, 1), (1, 4), (2, 2), (4, 1)):
    count = processes * devices
    found = [{axis: count} for axis in most if most[axis] >= count]
    if count == 4:
      found += [{first: 2, second: 2} for first, second in itertools.combinations(most, 2)]
    yield from ((processes, devices, mesh) for mesh in (found if processes > 1 else found[1:2]))
  yield 4, 2, dict(fsdp=8)
  yield 4, 2, {'fsdp': 4, list(most)[-1]: 2}


def get_config(size: str) -> ConfigDict:
  """The config of the runs: this file is their experiment, hosts.py:tiny."""
  config = r1_zero.get_config(f'{size},debug')
  zero = config.stages.zero
  zero.evaluations = {}
  zero.steps, zero.checkpoint_every, zero.kl_coefficient = 3, 3, 0.05
  zero.prompts_per_batch = 16    # two micro-batches, each split over up to 8 devices
  if zero.model.source == 'random':     # its completions are never correct
    zero.rewards = {'language': 1.0}
    zero.optimizer.learning_rate, zero.optimizer.warmup_steps = 1e-3, 0
  return config


def run(size: str, processes: int, devices: int, mesh: dict[str, int], workdir: str) -> float:
  """Runs the experiment and returns the seconds it took; raises SystemExit if a process fails."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    port = found.getsockname()[1]
  environment = os.environ | {
      'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PJRT_NPROC': '32',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} '    # most is compiling
                   '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 '
                   '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters'}
  start = time.perf_counter()
  started: list[subprocess.Popen] = []
  for host in range(processes):
    join = () if processes == 1 else (
        f'--coordinator=127.0.0.1:{port}', f'--num_hosts={processes}', f'--host={host}')
    started.append(subprocess.Popen(
        [sys.executable, '-m', 'r1jax.main', f'--config={__file__}:{size}', f'--workdir={workdir}',
         *join, *(f'--config.mesh.{axis}={count}' for axis, count in mesh.items())],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
  errors = [process.communicate()[1] for process in started]
  for process, error in zip(started, errors):
    if process.returncode:
      raise SystemExit(f'{size} on {processes} × {devices}, {mesh}: {error}')
  return time.perf_counter() - start


def compare(one: str, other: str) -> dict[str, object]:
  """The largest differences between a run and that of one device."""
  import numpy as np
  from safetensors.numpy import load_file

  from r1jax import metrics
  rollouts = [list(metrics.read_jsonl(f'{workdir}/zero/rollouts')) for workdir in (one, other)]
  steps = [metrics.read_metrics(f'{workdir}/zero') for workdir in (one, other)]
  weights = [load_file(f'{workdir}/zero/model/model.safetensors') for workdir in (one, other)]

  def largest_difference(name):
    return max(abs(a[name] - b[name]) for a, b in zip(*steps, strict=True))
  return {'tokens': 'equal' if rollouts[0] == rollouts[1] else 'DIFFER',
          'loss': largest_difference('loss'), 'gradient norm': largest_difference('grad_norm'),
          'weights': max(float(np.abs(weights[0][name] - weights[1][name]).max())
                         for name in weights[0])}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default=','.join(MODELS))
  names = parser.parse_args().models.split(',')
  print('| model | processes × devices | mesh | tokens | loss | gradient norm | weights | s |\n'
        '| --- | --- | --- | --- | ---: | ---: | ---: | ---: |', flush=True)
  with tempfile.TemporaryDirectory() as folder:
    for name in names:
      size, most = MODELS[name]
      for number, (processes, devices, mesh) in enumerate(layouts(most)):
        seconds = run(size, processes, devices, mesh, f'{folder}/{name}{number}')
        found = compare(f'{folder}/{name}0', f'{folder}/{name}{number}')
        axes = ', '.join(f'{axis} {size}' for axis, size in mesh.items()) or 'one device'
        numbers = ' | '.join(f'{found[key]:.1e}' for key in ('loss', 'gradient norm', 'weights'))
        print(f'| {name} | {processes} × {devices} | {axes} | {found["tokens"]} | {numbers} | '
              f'{seconds:.0f} |', flush=True)


if __name__ == '__main__':
  main()
