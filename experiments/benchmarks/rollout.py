"""Times rollouts whose completions end at lengths drawn from a lognormal distribution.

    python -m r1jax.experiments.benchmarks.rollout --mean=0.3

4 prompts of 64 tokens × 32 completions of at most 512 tokens, random weights (4.07M), float32. The
lengths come from the rows' random keys, so that they are the same for whatever draws them; their
logarithm has a deviation of 0.9 and they are cut at the limit. `--mean=0` has completions of the
limit. Prints one JSON line: the median seconds of a rollout after the first two, the share of the
last one's row-steps that drew a token of a completion, and seconds of the first rollout,
compilation included.
"""
import argparse
import json
import math
import statistics
import time
from typing import Any

PROMPTS, GROUP, PROMPT = 4, 32, 64
DEVIATION = 0.9


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--mean', type=float, default=0.3, help='of the lengths, of the limit')
  parser.add_argument('--limit', type=int, default=512, help='tokens of a completion')
  parser.add_argument('--group', type=int, default=GROUP, help='completions of a prompt')
  parser.add_argument('--slots', type=int, default=0)
  parser.add_argument('--chunk', type=int, default=32)
  parser.add_argument('--rollouts', type=int, default=5)
  arguments = parser.parse_args()

  import dataclasses

  import jax
  import jax.numpy as jnp
  import numpy as np

  from r1jax import models
  from r1jax.experiments.benchmarks.grpo import SHAPES
  from r1jax.records import Prompts
  from r1jax.runtime import sharding
  from r1jax.sampling.rehearsal import rehearse
  from r1jax.sampling.sampler import Sampler

  limit, mean = arguments.limit, arguments.mean
  location = math.log(mean) - DEVIATION ** 2 / 2 if mean else 0.0

  def lengths_of(keys):
    if not mean:
      return jnp.full(keys.shape, limit)
    normal = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 2 ** 31 - 1)))(
        keys.reshape(-1)).reshape(keys.shape)
    length = jnp.ceil(limit * jnp.exp(location + DEVIATION * normal))
    return jnp.clip(length, 1, limit).astype(jnp.int32)

  class Timed(Sampler):
    """Ends rows at their lengths, whatever they drew."""

    def _step(self, params, cache, keys, prompts, before, chunk):
      new = super()._step(params, cache, keys, prompts, before, chunk)
      ends = chunk.active & (chunk.lengths + 1 >= lengths_of(keys))
      return dataclasses.replace(new, active=new.active & ~ends, finished=new.finished | ends)

  config = models.ModelConfig(**SHAPES['tunix']['model'])
  model = models.build(config)
  sample = Timed(model, group_size=arguments.group, max_new_tokens=limit, chunk=arguments.chunk,
                 stop_ids=(config.vocab_size,), slots=arguments.slots)
  params = model.init(jax.random.key(0))
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  rng = np.random.default_rng(0)
  seconds = []
  with sharding.use(mesh):
    for iteration in range(arguments.rollouts + 2):
      arrays: Any = (
          rng.integers(4, config.vocab_size, (PROMPTS, PROMPT)).astype(np.int32),
          np.full(PROMPTS, PROMPT, np.int32), np.arange(PROMPTS, dtype=np.int32))
      prompts = sharding.place(Prompts(*arrays), mesh, batch=True)
      start = time.perf_counter()
      rollout = sample(params, prompts, iteration)
      mask = sharding.to_host(rollout.mask)
      seconds.append(time.perf_counter() - start)
    lengths = mask.sum(1).astype(int).reshape(1, PROMPTS, arguments.group)
    useful = rehearse(sample, lengths).useful
  print(json.dumps(dict(
      mean=mean, slots=arguments.slots, chunk=arguments.chunk,
      rollout_s=round(statistics.median(seconds[2:]), 4), useful=round(useful, 3),
      all_s=[round(s, 3) for s in seconds],
      first_s=round(seconds[0], 2), tokens=int(mask.sum()))))


if __name__ == '__main__':
  from r1jax.command import restart_with_allocator
  restart_with_allocator()
  main()
