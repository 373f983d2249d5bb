"""Measures the temporary memory of an update at a large vocabulary, chunked and naive.

    python -m r1jax.experiments.benchmarks.logprob_memory

Vocabulary 151,936, width 256, 4,096 tokens. Nothing is run: the figures are the compiler's
(`memory_analysis().temp_size_in_bytes`). Prints one JSON line.
"""
import argparse
import json
from typing import Any


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--vocabulary', type=int, default=151_936)
  parser.add_argument('--width', type=int, default=256)
  parser.add_argument('--rows', type=int, default=32)
  parser.add_argument('--completion', type=int, default=128)
  arguments = parser.parse_args()

  import jax
  import jax.numpy as jnp

  from r1jax import models
  from r1jax.records import Batch
  from r1jax.stages import rl
  from r1jax.stages.rl import programs as rl_programs
  from r1jax.training import logprobs, optimizers, train_step

  config = models.ModelConfig(
      family='qwen3', vocab_size=arguments.vocabulary, width=arguments.width, num_layers=2,
      num_heads=4, num_kv_heads=2, head_dim=64, mlp_width=4 * arguments.width, qk_norm=True)
  model = models.build(config)
  n, c = arguments.rows, arguments.completion

  def ints(*shape) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)

  def floats(*shape) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  batch = Batch(ints(4, 16), ints(4), ints(n, c), floats(n, c), floats(n, c), floats(n))
  optimizer = optimizers.make_optimizer(learning_rate=1e-5)
  state = jax.eval_shape(
      lambda key: train_step.init_state(model.init(key), optimizer), jax.random.key(0))

  def temporary_bytes():
    update = train_step.make_update(rl_programs.make_loss(model, rl.DEFAULT), optimizer)
    compiled = jax.jit(update, donate_argnums=0).lower(
        state, batch, rl_programs.Normalizers(floats(), floats(), floats())).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def naive(hidden, unembedding, targets, *, temperature, token_mask):
    log_p = jax.nn.log_softmax(
        jnp.einsum('ntd,vd->ntv', hidden, unembedding) / temperature)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0], entropy

  chunked = temporary_bytes()
  logprobs.token_logprobs = naive  # type: ignore[assignment]
  plain = temporary_bytes()
  print(json.dumps(dict(
      vocabulary=arguments.vocabulary, width=arguments.width, tokens=n * c,
      chunked_mb=chunked >> 20, naive_mb=plain >> 20, ratio=round(chunked / plain, 4))))


if __name__ == '__main__':
  main()
