"""Per-token log-probabilities and entropies from hidden states, without whole logits.

The unembedding is applied to a few positions of every row at a time, forward and backward; at no
time are more than `max_logits` logits in memory (or one position of every row, if that is more).
On a mesh each device does so with its own rows and places, and its gradient of the unembedding is
added to the others' once, behind the last chunk.
The backward pass is written by hand: it computes a chunk's logits again and never stores them.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp

from r1jax.models import attention, kv_cache, transformer
from r1jax.models.moe import Routing
from r1jax.records import Batch, PackedBatch, Rows
from r1jax.runtime import sharding

# In float32 4 MB, which a CPU's caches hold (1.2 times as fast at V = 8,192), and 512 MB: each chunk
# reads and writes the unembedding's whole gradient, which some hundreds of positions must outweigh.
MAX_LOGITS = {'cpu': 2 ** 20, 'accelerator': 2 ** 27}


@functools.partial(jax.jit, static_argnames=('max_logits',))
def token_logprobs(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, *,
    temperature: float | jax.Array = 1.0, max_logits: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """log π(target) and the entropy of π, π = softmax(hidden·unembeddingᵀ / temperature).

  Args:
    hidden: [N, T, D] hidden states, float32 or bfloat16; the products run in this dtype and
      accumulate in float32.
    unembedding: [V, D].
    targets: [N, T] int, the token that each hidden state predicts.
    temperature: divides the logits (not the log-probabilities). Carries no gradient.
    max_logits: how many logits a device may have in memory; by default `MAX_LOGITS` of the backend.

  Returns:
    (log-probabilities [N, T], entropies [N, T]) float32, in nats. Both carry gradients to hidden
    and unembedding.

  Raises:
    ValueError: where the shapes do not fit.
  """
  if hidden.ndim != 3 or targets.shape != hidden.shape[:2]:
    raise ValueError(f'token_logprobs: hidden {hidden.shape} and targets {targets.shape} do not '
                     'fit: give [N, T, D] and [N, T]')
  if unembedding.ndim != 2 or unembedding.shape[1] != hidden.shape[2]:
    raise ValueError(f'token_logprobs: unembedding {unembedding.shape} does not fit hidden '
                     f'{hidden.shape}: give [V, {hidden.shape[2]}]')
  if max_logits is None:
    max_logits = MAX_LOGITS['cpu' if sharding.platform() == 'cpu' else 'accelerator']
  shape = targets.shape
  hidden, targets = _by_device(hidden), _by_device(targets)     # [b, s, N / b, T / s, ..]
  *lead, n, t, _ = hidden.shape
  vocab = unembedding.shape[0]
  at_once = max(1, max_logits * sharding.num_shards('vocab', vocab) // (n * vocab))
  whole = 8 if at_once >= 8 else 1     # rows of a tile of memory
  at_once -= at_once % whole
  chunks = -(-t // at_once)
  size = -(-t // (chunks * whole)) * whole

  def cut(x):
    axis = len(lead) + 1
    widths = [(0, chunks * size - t if i == axis else 0) for i in range(x.ndim)]
    x = jnp.pad(x, widths).reshape(*x.shape[:axis], chunks, size, *x.shape[axis + 1:])
    return jnp.moveaxis(x, axis, 0)

  def join(x):
    x = jnp.moveaxis(x, 0, -2).reshape(*lead, n, chunks * size)[..., :t]
    return jnp.swapaxes(x, 1, 2).reshape(shape[0], -1)[:, :shape[1]] if lead else x

  inverse_temperature = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
  logprobs, entropy = _chunked(cut(hidden), unembedding, cut(targets), inverse_temperature)
  return join(logprobs), join(entropy)


def _by_device(x):
  """[N, T, ..] as [b, s, N / b, T / s, ..], rows over b devices of the mesh and places over s."""
  if not sharding.is_multi_device():
    return x
  n, t = x.shape[:2]
  b, s = sharding.num_shards('batch', n), sharding.num_shards('sequence')
  x = jnp.pad(x, ((0, 0), (0, -t % s), *((0, 0),) * (x.ndim - 2)))
  x = jnp.swapaxes(x.reshape(b, n // b, s, -1, *x.shape[2:]), 1, 2)
  return sharding.constrain(x, 'batch', 'sequence')


def _whole(unembedding, dtype):
  return sharding.gathered(unembedding.astype(dtype), 'vocab', 'embed')


def _logits(hidden, unembedding, inverse_temperature):
  logits = jnp.einsum('...td,vd->...tv', hidden, unembedding, preferred_element_type=jnp.float32)
  return logits * inverse_temperature


def _over_chunks(body, carry, chunked):
  """lax.scan, but straight-line code for a single chunk."""
  if jax.tree.leaves(chunked)[0].shape[0] == 1:
    carry, out = body(carry, jax.tree.map(lambda x: x[0], chunked))
    return carry, jax.tree.map(lambda x: x[None], out)
  return jax.lax.scan(body, carry, chunked)


@jax.custom_vjp
def _chunked(hidden, unembedding, targets, inverse_temperature):
  return _forward(hidden, unembedding, targets, inverse_temperature)[0]


def _forward(hidden, unembedding, targets, inverse_temperature):
  weights = _whole(unembedding, hidden.dtype)

  def one(_, chunk):
    hidden, targets = chunk
    logits = _logits(hidden, weights, inverse_temperature)
    normalizer = jax.nn.logsumexp(logits, -1)
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    # A logit of -inf has probability 0 and adds nothing to the entropy.
    log_p = logits - normalizer[..., None]
    entropy = -jnp.sum(jnp.where(jnp.isfinite(log_p), log_p, 0) * jnp.exp(log_p), -1)
    return None, (picked - normalizer, entropy, normalizer)

  _, (logprobs, entropy, normalizer) = _over_chunks(one, None, (hidden, targets))
  residuals = hidden, unembedding, targets, inverse_temperature, normalizer, entropy
  return (logprobs, entropy), residuals


def _backward(residuals, cotangents):
  """With p = softmax(z): ∂log p_y/∂z = 1_y − p, ∂H/∂z = −p·(log p + H)."""
  hidden, unembedding, targets, inverse_temperature, normalizer, entropy = residuals
  weights, lead = _whole(unembedding, hidden.dtype), hidden.shape[1:-3]

  def one(gradient, chunk):
    hidden, targets, normalizer, entropy, d_logprobs, d_entropy = chunk
    log_p = _logits(hidden, weights, inverse_temperature) - normalizer[..., None]
    slope = d_logprobs[..., None] + d_entropy[..., None] * (
        jnp.where(jnp.isfinite(log_p), log_p, 0) + entropy[..., None])
    d_logits = -jnp.exp(log_p) * slope
    hit = jax.lax.broadcasted_iota(targets.dtype, log_p.shape, log_p.ndim - 1) == targets[..., None]
    d_logits = jnp.where(hit, d_logits + d_logprobs[..., None], d_logits) * inverse_temperature
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum('...tv,vd->...td', d_logits, weights,
                          preferred_element_type=jnp.float32)
    gradient += jnp.einsum('...ntv,...ntd->...vd', d_logits, hidden,
                           preferred_element_type=jnp.float32)
    return gradient, d_hidden.astype(hidden.dtype)

  zeros = jnp.zeros((*lead, *unembedding.shape), jnp.float32)
  gradient, d_hidden = _over_chunks(
      one, sharding.constrain(zeros, *('batch', 'sequence')[:len(lead)], 'vocab'),
      (hidden, targets, normalizer, entropy, *cotangents))
  if lead:
    gradient = sharding.constrain(jnp.sum(gradient, (0, 1)), 'vocab', 'embed')
  return d_hidden, gradient.astype(unembedding.dtype), None, jnp.zeros_like(inverse_temperature)


_chunked.defvjp(_forward, _backward)


def completion_hidden(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> tuple[jax.Array, list[Routing]]:
  """Hidden states [N, C, D] from which each completion token is predicted, the prompt shared.

  And how the passes over prompts and completions were routed, of a model with experts.

  The prompt runs once per prompt; its keys and values serve all G completions, in the forward
  pass and, by their summed gradients, in the backward pass: exactly the unshared result. Place t
  holds the state *before* token t (the prompt's last one for t = 0).

  Args:
    model: a `models.Model`.
    params: its parameters.
    prompt_tokens: [B, P], padded on the right.
    prompt_lengths: [B].
    completion_tokens: [N, C], N a multiple of B, a group's rows together.
    completion_mask: [N, C].
  """
  group_size = completion_tokens.shape[0] // prompt_tokens.shape[0]
  positions, segments = transformer.prompt_segments(prompt_tokens, prompt_lengths)
  prompt_hidden, new_kv, aux = model.apply(
      params, prompt_tokens, positions=positions, segment_ids=segments)
  routings = routing_of(aux)
  last = jnp.take_along_axis(prompt_hidden, prompt_lengths[:, None, None] - 1, 1)    # [B, 1, D]
  hidden = jnp.repeat(last, group_size, 0)
  # The token at position i is predicted by the hidden state before it: the last one needs none. It
  # is run all the same where a mesh splits places, so that they divide, and in long rows, whose
  # lengths tiles of memory then divide.
  length = completion_tokens.shape[1]
  count = length - (sharding.num_shards('sequence') == 1 and length < attention.LONG)
  inputs, needed = completion_tokens[:, :count], jnp.arange(count) < length - 1
  if count:
    starts = jnp.repeat(prompt_lengths, group_size)[:, None]
    rest, _, aux = model.apply(
        params, inputs, positions=starts + jnp.arange(count),
        segment_ids=((completion_mask[:, :count] != 0) & needed).astype(jnp.int32),
        cache=kv_cache.as_prefix(new_kv, prompt_lengths))
    hidden = jnp.concatenate([hidden, rest], 1)[:, :length]
    routings += routing_of(aux)
  return hidden, routings


def routing_of(aux) -> list[Routing]:
  """The routing in what `Model.apply` gives beside hidden states; none without experts."""
  return [aux['routing']] if aux else []


def completion_logprobs(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array, *, temperature: float,
) -> tuple[jax.Array, jax.Array, list[Routing]]:
  """log π(completion | prompt) per token, and entropies; arguments as of `completion_hidden`.

  Args:
    temperature: divides the logits; 0 (greedy) counts as 1.

  Returns:
    (log-probabilities [N, C], entropies [N, C], routings) float32; arbitrary where the mask is 0.
  """
  hidden, routings = completion_hidden(model, params, prompt_tokens, prompt_lengths,
                                       completion_tokens, completion_mask)
  return *token_logprobs(hidden, model.unembedding(params), completion_tokens,
                         temperature=temperature or 1.0), routings


def micro_batch(packed: PackedBatch, index: jax.Array) -> tuple[Rows, Batch]:
  """The rows of a micro-batch, and its completions with all that a loss eats.

  Row r·M + m of the batch is slot m of row r, all zeros where the slot is empty. Its prompts are
  left as they are, of the whole batch.

  Args:
    packed: a batch whose mask is 1 from each completion's first token to its last.
    index: below `num_micro_batches`.
  """
  batch = packed.batch
  of = jax.tree.map(lambda x: sharding.constrain(x[index], 'batch', None),
                    dataclasses.replace(packed.packing, num_micro_batches=None))
  num_prompts, group_size = batch.prompt_lengths.shape[0], (
      batch.completion_tokens.shape[0] // batch.prompt_lengths.shape[0])
  completion = of.segment_ids - 1 - num_prompts
  completed = completion >= 0
  completion = jnp.maximum(completion, 0)
  prompt = jnp.where(completed, completion // group_size, jnp.maximum(of.segment_ids - 1, 0))
  place = jnp.maximum(of.positions - batch.prompt_lengths[prompt], 0)
  tokens = jnp.where(completed, batch.completion_tokens[completion, place],
                     batch.prompt_tokens[prompt, of.positions])
  rows = Rows(tokens, of.segment_ids, jnp.where(completed, prompt + 1, 0), of.positions,
              of.starts, of.prompt_ends)
  chosen = of.completions.reshape(-1)
  pick = lambda x: sharding.constrain(x.at[chosen].get(mode='fill', fill_value=0), 'batch',
                                      *[None] * (x.ndim - 1))
  prompts = dict(prompt_tokens=batch.prompt_tokens, prompt_lengths=batch.prompt_lengths)
  return rows, dataclasses.replace(
      jax.tree.map(pick, dataclasses.replace(batch, **dict.fromkeys(prompts))), **prompts)


def packed_hidden(model, params, rows: Rows) -> tuple[jax.Array, list[Routing]]:
  """Hidden states [R, T, D] of packed rows, in which completions see their prompt; routings."""
  hidden, _, aux = model.apply(params, rows.tokens, positions=rows.positions,
                               segment_ids=rows.segment_ids, parent_ids=rows.parent_ids)
  return hidden, routing_of(aux)


def completion_table(first: jax.Array, following: jax.Array, rows: Rows, length: int) -> jax.Array:
  """What belongs to completion tokens, from packed rows to [R·M, C]; arbitrary behind their ends.

  Args:
    first: [R, M], of the first token of each completion.
    following: [R, T], of the token after each place.
    rows: R rows with M completions each.
    length: C.
  """
  room = jnp.pad(following, ((0, 0), (0, length)))
  cut = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, length - 1)
  rest = jax.vmap(jax.vmap(cut, (None, 0)))(room, rows.starts)
  return jnp.concatenate([first[..., None], rest], 2).reshape(-1, length)


def packed_logprobs(
    model, params, rows: Rows, completion_tokens: jax.Array, *, temperature: float,
) -> tuple[jax.Array, jax.Array, list[Routing]]:
  """As `completion_logprobs`, of a packed micro-batch: the same values and gradients.

  A hidden state predicts the token after it; only a completion's first token, which several
  completions have after the same prompt, is predicted apart. No logits are made for padded tables.

  Args:
    rows, completion_tokens: of `micro_batch`.
    temperature: divides the logits; 0 (greedy) counts as 1.

  Returns:
    (log-probabilities [R·M, C], entropies [R·M, C], routings) float32; arbitrary where the mask is
    0.
  """
  hidden, routings = packed_hidden(model, params, rows)
  length = completion_tokens.shape[1]
  score = functools.partial(token_logprobs, temperature=temperature or 1.0)
  unembedding = model.unembedding(params)
  following = score(hidden, unembedding, jnp.roll(rows.tokens, -1, 1))
  ends = jnp.take_along_axis(hidden, rows.prompt_ends[..., None], 1)
  first = score(ends, unembedding, completion_tokens[:, 0].reshape(rows.starts.shape))
  tables = (completion_table(*both, rows, length) for both in zip(first, following))
  return *tables, routings
