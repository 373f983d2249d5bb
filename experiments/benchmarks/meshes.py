"""Compares R1-Zero's rollouts, loss and gradients on every mesh with those of one device.

    python -m r1jax.experiments.benchmarks.meshes [--devices 1,2,4,8] [--models dense,moe,deepseek]

Tiny models draw a rollout with both settings of rollout_sharding, and compute the loss and
gradients of an update on a fixed batch, on every mesh of one or two axes that fits the devices.
Prints the differences as a table (docs/scale.md). Devices are virtual ones of the CPU unless jax
finds others. Fails if tokens differ, or numbers by more than 1e-5.
"""
import argparse
import functools
import itertools
import os
import sys
from typing import Any

TOLERANCE = 1e-5
MODELS: dict[str, dict[str, Any]] = {   # fields of ModelConfig
    'dense': {},
    'moe': dict(family='qwen3_moe', layers=((('dense', 'experts'), 2),),
                experts=dict(count=8, per_token=2, width=8)),
    'deepseek': dict(
        family='deepseek_v3', qk_norm=False, num_kv_heads=8, head_dim=10,
        layers=((('dense',), 1), (('experts',), 3)),
        experts=dict(count=8, per_token=2, width=8, routing='sigmoid', scale=2.5, groups=4,
                     groups_per_token=2, shared=1),
        latent=dict(rank=16, rope_dim=4, value_dim=6, query_rank=16)),
}


def tiny(name: str):
  """(model, parameters), the latter so large that no two tokens are about equally likely."""
  import jax
  import numpy as np

  from r1jax import models
  fields: dict[str, Any] = dict(
      family='qwen3', vocab_size=64, width=16, num_layers=4, num_heads=8, num_kv_heads=8,
      head_dim=8, mlp_width=32, qk_norm=True, tied_embedding=False)
  fields |= MODELS[name]
  for field, kind in (('experts', models.Experts), ('latent', models.Latent)):
    if field in fields:
      fields[field] = kind(**fields[field])
  model, rng = models.build(models.ModelConfig(**fields)), np.random.default_rng(0)

  def draw(path, leaf):
    centre, deviation = (1, 0.1) if path[-1].key == 'scale' else (0, 0.3)
    return np.float32(rng.normal(centre, deviation, leaf.shape))
  return model, jax.tree_util.tree_map_with_path(
      draw, jax.eval_shape(model.init, jax.random.key(0)))


class Programs:
  """The device programs of R1-Zero on a tiny model, and their results on one device."""

  def __init__(self, name: str):
    import jax
    import numpy as np

    from r1jax.records import Batch, Prompts
    from r1jax.sampling.sampler import Sampler
    from r1jax.stages import rl
    from r1jax.stages.rl import programs as rl_programs
    self.model, self.params = tiny(name)
    rng = np.random.default_rng(1)

    def ints(values) -> Any:
      return np.asarray(values, np.int32)

    def floats(values) -> Any:
      return np.asarray(values, np.float32)

    self.prompts = Prompts(
        ints(rng.integers(0, 64, (8, 8))), ints([8, 1, 5, 7, 3, 2, 8, 6]), ints(range(8)))
    self.samplers = {rollout_sharding: Sampler(
        self.model, group_size=2, max_new_tokens=8, chunk=8, stop_ids=(3, 8, 21),
        rollout_sharding=rollout_sharding) for rollout_sharding in ('train', 'tensor')}
    loss = rl_programs.make_loss(self.model, rl.DEFAULT | dict(kl_coefficient=0.2))
    self.gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    mask = floats(np.arange(8) < rng.integers(1, 9, 16)[:, None])
    behaviour, old, reference = floats(rng.normal(-4, 0.5, (3, 16, 8)))
    self.batch = Batch(
        self.prompts.tokens, self.prompts.lengths, ints(rng.integers(0, 64, (16, 8))), mask,
        behaviour, floats(rng.normal(size=16)), old, reference)
    self.normalizers = rl_programs.Normalizers(floats(16), mask.sum(), floats(0.2))

  @functools.cached_property
  def rollout(self):
    """One device's rollout."""
    import jax
    return jax.device_get(self.samplers['train'](self.params, self.prompts, 0))

  @functools.cached_property
  def updated(self):
    """One device's ((loss, metrics), gradients)."""
    import jax
    return jax.device_get(self.gradient(self.params, self.batch, self.normalizers))

  def placed(self, mesh):
    """The parameters, sharded over a mesh."""
    import jax

    from r1jax.runtime import sharding
    return jax.device_put(
        self.params, sharding.shardings(mesh, self.model.logical_axes, self.params))

  def draw(self, mesh, rollout_sharding: str) -> tuple[int, float]:
    """(number of tokens and ends that differ, largest difference of log-probabilities)."""
    import numpy as np

    from r1jax.runtime import sharding
    with sharding.use(mesh):
      got = sharding.to_host(self.samplers[rollout_sharding](
          self.placed(mesh), sharding.place(self.prompts, mesh, batch=True), 0))
    mask = self.rollout.mask
    return (int((got.tokens * mask != self.rollout.tokens * mask).sum() + (got.mask != mask).sum()),
            float(np.abs((got.behaviour_logprobs - self.rollout.behaviour_logprobs) * mask).max()))

  def update(self, mesh) -> tuple[float, float]:
    """Largest differences of (the loss and its metrics, a gradient); relative above 1."""
    import jax
    import numpy as np

    from r1jax.runtime import sharding
    with sharding.use(mesh):
      got = sharding.to_host(self.gradient(
          self.placed(mesh), sharding.place(self.batch, mesh, batch=True),
          sharding.place(self.normalizers, mesh)))

    def difference(want, found) -> float:
      return max(float(np.max(np.abs(a - b) / np.maximum(1, np.abs(a))))
                 for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found)))
    return difference(self.updated[0], got[0]), difference(self.updated[1], got[1])


def sizes(num_devices: int) -> list[dict[str, int]]:
  """Every mesh of one or two axes; the others have size 1."""
  from r1jax.runtime import sharding
  if num_devices == 1:
    return [{}]
  found = [{axis: num_devices} for axis in sharding.AXES]
  for first, second in itertools.combinations(sharding.AXES, 2):
    found += [{first: size, second: num_devices // size} for size in (2, 4)
              if 1 < num_devices // size and num_devices % size == 0]
  return found


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--devices', default='1,2,4,8')
  parser.add_argument('--models', default=','.join(MODELS))
  arguments = parser.parse_args()
  os.environ.setdefault('XLA_FLAGS', ' '.join((    # most of the time is compiling
      '--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0',
      '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',
      '--xla_cpu_parallel_codegen_split_count=1')))
  os.environ.setdefault('PJRT_NPROC', '32')   # otherwise collectives of many devices hang
  import jax

  from r1jax.runtime import sharding
  print('| model | devices | mesh | tokens that differ | log-probabilities | loss | gradients |')
  print('|---|---|---|---|---|---|---|')
  wrong = 0
  for name in arguments.models.split(','):
    programs = Programs(name)
    for count in map(int, arguments.devices.split(',')):
      for size in sizes(count):
        mesh = sharding.make_mesh(**size, devices=jax.devices()[:count])
        drawn = [programs.draw(mesh, rollout_sharding) for rollout_sharding in programs.samplers]
        loss, gradient = programs.update(mesh)
        tokens, logprobs = sum(t for t, _ in drawn), max(x for _, x in drawn)
        wrong += tokens > 0 or max(logprobs, loss, gradient) > TOLERANCE
        axes = ' × '.join(f'{axis} {n}' for axis, n in size.items()) or 'one device'
        print(f'| {name} | {count} | {axes} | {tokens} | {logprobs:.0e} | {loss:.0e} | '
              f'{gradient:.0e} |', flush=True)
        jax.clear_caches()    # a process cannot map hundreds of programs
  sys.exit(f'{wrong} meshes differ from one device' if wrong else 0)


if __name__ == '__main__':
  main()
