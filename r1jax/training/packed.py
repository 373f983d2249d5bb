"""Log-probabilities of packed micro-batches: rows that hold prompts and their completions.

`data.group_packing` decides which rows; a completion sees its own prompt by `parent_ids`.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1jax.models.moe import Routing
from r1jax.records import Batch, PackedBatch, Rows
from r1jax.runtime import sharding
from r1jax.training.logprobs import routing_of, token_logprobs


def micro_batch(packed: PackedBatch, index: jax.Array) -> tuple[Rows, Batch]:
  """The rows of a micro-batch, and its completions with all that a loss is computed from.

  Args:
    packed: a batch whose mask is 1 from each completion's first token to its last.
    index: int, below `num_micro_batches`.

  Returns:
    (the rows as a model takes them; a batch of R·M completions). Completion r·M + m of that batch
    is slot m of row r, all zeros if the slot is empty. Its prompts are those of the whole batch.
  """
  batch, packing = packed.batch, packed.packing

  def take(x):
    return sharding.constrain(x[index], 'batch', None)

  rows = _rows(batch, take(packing.segment_ids), take(packing.positions), take(packing.starts),
               take(packing.prompt_ends))
  return rows, _pick_completions(batch, take(packing.completions).reshape(-1))


def _rows(batch: Batch, segment_ids, positions, starts, prompt_ends) -> Rows:
  """Rows [R, T] with the tokens of a batch, where its segments and positions say."""
  num_prompts = batch.prompt_lengths.shape[0]
  group_size = batch.completion_tokens.shape[0] // num_prompts
  completion = segment_ids - 1 - num_prompts     # which of N; negative in prompts and padding
  in_completion = completion >= 0
  completion = jnp.maximum(completion, 0)
  prompt = jnp.where(in_completion, completion // group_size, jnp.maximum(segment_ids - 1, 0))
  place = jnp.maximum(positions - batch.prompt_lengths[prompt], 0)     # in the completion
  tokens = jnp.where(in_completion, batch.completion_tokens[completion, place],
                     batch.prompt_tokens[prompt, positions])
  parent_ids = jnp.where(in_completion, prompt + 1, 0)
  return Rows(tokens, segment_ids, parent_ids, positions, starts, prompt_ends)


def _pick_completions(batch: Batch, chosen) -> Batch:
  """The batch with the rows `chosen` of its fields [N, ...]; a number of N gives zeros."""
  def pick(x):
    x = x.at[chosen].get(mode='fill', fill_value=0)
    return sharding.constrain(x, 'batch', *[None] * (x.ndim - 1))

  of_completions = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)
                    if field.name not in ('prompt_tokens', 'prompt_lengths')}
  return dataclasses.replace(batch, **jax.tree.map(pick, of_completions))


def packed_hidden(model, params, rows: Rows) -> tuple[jax.Array, list[Routing]]:
  """Hidden states of packed rows, in which completions see their prompt.

  Args:
    model: a `models.Model`.
    params: its parameters.
    rows: R rows of T places.

  Returns:
    (hidden states [R, T, D], routings for a model with experts, else none).
  """
  hidden, _, aux = model.apply(params, rows.tokens, positions=rows.positions,
                               segment_ids=rows.segment_ids, parent_ids=rows.parent_ids)
  return hidden, routing_of(aux)


def completion_table(first: jax.Array, following: jax.Array, rows: Rows, length: int) -> jax.Array:
  """Collects from packed rows what belongs to completion tokens.

  Args:
    first: [R, M], what belongs to the first token of each completion.
    following: [R, T], what belongs to the token after each place.
    rows: R rows with M completions each.
    length: C.

  Returns:
    [R·M, C], arbitrary behind the end of each completion.
  """
  padded = jnp.pad(following, ((0, 0), (0, length)))

  def cut(row, start):
    return jax.lax.dynamic_slice_in_dim(row, start, length - 1)

  rest = jax.vmap(jax.vmap(cut, (None, 0)))(padded, rows.starts)
  return jnp.concatenate([first[..., None], rest], 2).reshape(-1, length)


def packed_logprobs(
    model, params, rows: Rows, completion_tokens: jax.Array, *, temperature: float,
) -> tuple[jax.Array, jax.Array, list[Routing]]:
  """Log π(completion | prompt) per token, and entropies, of a packed micro-batch.

  Values and gradients are those of `logprobs.completion_logprobs`. A hidden state predicts the
  token after it; only the first tokens of completions, of which several may follow the same prompt,
  are predicted separately. No logits are computed for padding of tables.

  Args:
    model: a `models.Model`.
    params: its parameters.
    rows: R rows with M completions each, from `micro_batch`.
    completion_tokens: [R·M, C] int, from `micro_batch`.
    temperature: divides the logits; 0 (greedy) counts as 1.

  Returns:
    (log-probabilities [R·M, C], entropies [R·M, C], routings): float32 in nats, arbitrary where the
    mask is 0; routings for a model with experts, else none.
  """
  hidden, routings = packed_hidden(model, params, rows)
  length = completion_tokens.shape[1]
  score = functools.partial(
      token_logprobs, temperature=temperature or 1.0, token_mask=model.token_mask)
  unembedding = model.unembedding(params)
  following = score(hidden, unembedding, jnp.roll(rows.tokens, -1, 1))
  ends = jnp.take_along_axis(hidden, rows.prompt_ends[..., None], 1)
  first = score(ends, unembedding, completion_tokens[:, 0].reshape(rows.starts.shape))
  logprobs, entropies = (completion_table(*both, rows, length) for both in zip(first, following))
  return logprobs, entropies, routings
