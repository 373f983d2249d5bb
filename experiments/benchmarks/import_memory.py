"""Measures the host memory, beyond the parameters, of importing a checkpoint onto four devices.

    python -m r1jax.experiments.benchmarks.import_memory [--megabytes=2048] [--dtype=bfloat16]

Writes a random checkpoint with Llama's architecture to a temporary folder and imports it in a fresh
process with a mesh of fsdp=2 and tensor=2. The four virtual devices live in the host's memory, so
the parameters' own bytes are subtracted: the rise is the process's peak resident memory, minus what
it had before the import, minus the bytes of the arrays on the devices. It includes buffers, the
compiler, and what the allocator keeps. Prints one JSON line.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time


def shape(megabytes: int, dtype: str):
  """(config, number of parameters) of a Llama of about this size in `dtype`."""
  from r1jax.models import ModelConfig, num_params
  width, layers, count = 1024, 0, 0
  while count * (4 if dtype == 'float32' else 2) < megabytes * 2**20:
    layers += 1
    config = ModelConfig(
        family='llama', vocab_size=32_768, width=width, num_layers=layers, num_heads=16,
        num_kv_heads=8, head_dim=64, mlp_width=3584, tied_embedding=False)
    count = num_params(config)
  return config, count


def make(arguments) -> None:
  import jax
  import numpy as np

  from r1jax.models import build, huggingface
  config, count = shape(arguments.megabytes, arguments.dtype)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32),
                        jax.eval_shape(build(config).init, jax.random.key(0)))
  size = count * (4 if arguments.dtype == 'float32' else 2)
  huggingface.export(arguments.folder, config, params, dtype=arguments.dtype,
                     max_shard_bytes=int(1.02 * size / arguments.shards))


def measure(arguments) -> None:
  import jax

  from r1jax.models import huggingface
  from r1jax.runtime import sharding
  config = huggingface.read_config(arguments.folder)
  mesh = sharding.make_mesh(fsdp=2, tensor=2)
  before = int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()
  start = time.perf_counter()
  params = jax.block_until_ready(huggingface.load_params(arguments.folder, config, mesh=mesh))
  seconds = time.perf_counter() - start
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  on_devices = sum(shard.data.nbytes for leaf in jax.tree.leaves(params)
                   for shard in leaf.addressable_shards)
  largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
  weights = pathlib.Path(arguments.folder).glob('*.safetensors')
  files = sorted(path.stat().st_size for path in weights)
  rise = peak - before - on_devices
  print(json.dumps(dict(
      checkpoint_mb=sum(files) >> 20, shards=len(files), shard_mb=files[-1] >> 20,
      parameters_mb=on_devices >> 20, largest_parameter_mb=largest >> 20, before_mb=before >> 20,
      peak_mb=peak >> 20, rise_mb=rise >> 20, rise_in_shards=round(rise / files[-1], 2),
      seconds=round(seconds, 1))))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--megabytes', type=int, default=2048)
  parser.add_argument('--shards', type=int, default=8)
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
  parser.add_argument('--folder', default='')
  parser.add_argument('--part', choices=('', 'make', 'measure'), default='')
  arguments = parser.parse_args()
  if arguments.part:
    {'make': make, 'measure': measure}[arguments.part](arguments)
    return
  environment = os.environ | {
      'JAX_PLATFORMS': 'cpu', 'PJRT_NPROC': '32',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  with tempfile.TemporaryDirectory() as folder:
    for part in ('make', 'measure'):
      subprocess.run(
          [sys.executable, '-m', 'r1jax.experiments.benchmarks.import_memory', *sys.argv[1:],
           f'--folder={folder}', f'--part={part}'], env=environment, check=True)


if __name__ == '__main__':
  main()
