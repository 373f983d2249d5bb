"""Times rollouts and whole GRPO steps at the shapes at which others were timed.

    python -m r1jax.experiments.benchmarks.grpo --shape=tunix

docs/benchmarks.md has the comparison. Random weights, float32, AdamW, no KL, one update per
rollout, completions of a fixed length (the stop token cannot be drawn), a trivial reward on the
host. Prints one JSON line: medians over the steps after the first two, seconds of the first step
(including compilation) and the process's peak memory.
"""
import argparse
import json
import resource
import statistics
import time
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    # 4 prompts × 8, prompt + completion tokens; the model of bench_tunix_*.py (4.07M).
    'tunix': dict(prompt=64, new=128, model=dict(
        family='qwen3', vocab_size=512, width=256, num_layers=4, num_heads=8, num_kv_heads=4,
        head_dim=32, mlp_width=1024, qk_norm=True)),
    # The models of bench_trl_grpo.py (1.05M and 2.03M).
    'trl512': dict(prompt=32, new=64, model=dict(
        family='qwen2', vocab_size=512, width=128, num_layers=4, num_heads=4, num_kv_heads=2,
        head_dim=32, mlp_width=512, qkv_bias=True)),
    'trl8192': dict(prompt=32, new=64, model=dict(
        family='qwen2', vocab_size=8192, width=128, num_layers=4, num_heads=4, num_kv_heads=2,
        head_dim=32, mlp_width=512, qkv_bias=True)),
}
PROMPTS, GROUP = 4, 8


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--shape', choices=SHAPES, required=True)
  parser.add_argument('--steps', type=int, default=9)
  parser.add_argument('--chunk', type=int, default=32, help='tokens that one program draws')
  arguments = parser.parse_args()

  import jax
  import numpy as np

  from r1jax import models, rollout
  from r1jax.data.prompts import PromptBatch
  from r1jax.runtime import sharding
  from r1jax.sampling import text
  from r1jax.stages import rl
  from r1jax.stages.rl import programs as rl_programs
  from r1jax.training import optimizers, train_step

  shape = SHAPES[arguments.shape]
  config = models.ModelConfig(**shape['model'])
  model = models.build(config)
  settings = rl.DEFAULT | dict(
      prompts_per_batch=PROMPTS, group_size=GROUP,
      sampling=rl.DEFAULT['sampling'] | dict(max_new_tokens=shape['new'], chunk=arguments.chunk))
  optimizer = optimizers.make_optimizer(learning_rate=1e-5)
  never = config.vocab_size
  programs = rl_programs.make_programs(
      model, optimizer, optimizer, settings, (never,), lambda: False)
  state = train_step.init_state(model.init(jax.random.key(0)), optimizer)
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  rng = np.random.default_rng(0)
  seconds: dict[str, list[float]] = {'rollout': [], 'step': []}
  with sharding.use(mesh):
    for step in range(arguments.steps):
      prompts = text.device_prompts(PromptBatch(
          rng.integers(4, config.vocab_size, (PROMPTS, shape['prompt'])).astype(np.int32),
          np.full(PROMPTS, shape['prompt'], np.int32), np.arange(PROMPTS, dtype=np.int32),
          [], 0, 0))
      start = time.perf_counter()
      sampled = programs.sample(state.params, sharding.place(prompts, mesh, batch=True), step)
      tokens = sharding.to_host(sampled.tokens)
      seconds['rollout'].append(time.perf_counter() - start)
      rewards = (tokens % 2 == 0).mean(1)
      batch, _ = programs.compute_advantages(
          rollout.make_batch(sampled), sharding.place(rewards.astype(np.float32), mesh), 0.0)
      normalizers = rl_programs.batch_normalizers(
          batch.completion_mask, 0.0, aggregation='sequence_mean', max_length=shape['new'])
      state, measured = programs.update(state, batch, normalizers)
      sharding.to_host(measured)
      seconds['step'].append(time.perf_counter() - start)
  print(json.dumps(dict(
      system='r1jax', shape=arguments.shape, params=models.num_params(config),
      rollout_s=round(statistics.median(seconds['rollout'][2:]), 4),
      step_s=round(statistics.median(seconds['step'][2:]), 4),
      first_step_s=round(seconds['step'][0], 2), steps=arguments.steps,
      peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


if __name__ == '__main__':
  from r1jax.command import restart_with_allocator
  restart_with_allocator()
  main()
