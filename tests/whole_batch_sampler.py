"""A sampler without slots or a cache of completions: the reference that the engine must equal.

All rows step until the slowest has stopped, and each step computes all tokens of all rows again,
over their prompts' keys and values.
"""
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import kv_cache, transformer
from r1jax.records import Rollout
from r1jax.sampling.draw import draw, row_keys


def sample_whole_batches(
    model, params, prompts, iteration, *, group_size, max_new_tokens, stop_ids, sampling, seed=0,
):
  """The rollout that `Sampler(...)(params, prompts, iteration)` must return."""
  keys = row_keys(seed, iteration, prompts.example_ids, group_size)
  starts = jnp.repeat(prompts.lengths, group_size)[:, None]
  steps = jnp.arange(max_new_tokens)

  @jax.jit
  def prefill(params, tokens, lengths):
    positions, segments = transformer.prompt_segments(tokens, lengths)
    hidden, new_kv, _ = model.apply(params, tokens, positions=positions, segment_ids=segments)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, 1)[:, 0]
    return jnp.repeat(last, group_size, 0), kv_cache.as_prefix(new_kv, lengths)

  @jax.jit
  def step(params, cache, hidden, tokens, index):
    drawn = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, index),
                 model.unembed(params, hidden), sampling)
    tokens = tokens.at[:, index].set(drawn[0])
    rows, _, _ = model.apply(
        params, tokens, positions=starts + steps, cache=cache,
        segment_ids=jnp.broadcast_to(steps <= index, tokens.shape).astype(jnp.int32))
    return rows[:, index], tokens, *drawn

  hidden, cache = prefill(params, prompts.tokens, prompts.lengths)
  tokens = jnp.zeros((keys.shape[0], max_new_tokens), jnp.int32)
  mask, logprobs, truncated = (np.zeros(tokens.shape, np.float32) for _ in range(3))
  alive = np.ones(keys.shape[0], bool)
  for index in range(max_new_tokens):
    hidden, tokens, drawn, full, cut = step(params, cache, hidden, tokens, index)
    mask[:, index] = alive
    logprobs[:, index], truncated[:, index] = np.where(alive, full, 0), np.where(alive, cut, 0)
    alive &= ~np.isin(drawn, stop_ids)
  return Rollout(prompts, np.asarray(tokens), mask, logprobs, truncated, ~alive)
