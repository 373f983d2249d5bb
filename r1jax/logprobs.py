"""Per-token log-probabilities and entropies from hidden states, without whole logits.

The unembedding is applied to a few positions of every row at a time, forward and backward; at no
time are more than `max_logits` logits in memory (or one position of every row, if that is more).
The backward pass is written by hand: it computes a chunk's logits again and never stores them.
"""
import functools

import jax
import jax.numpy as jnp

from r1jax import sharding
from r1jax.models import transformer

# In float32 4 MB, which a CPU's caches hold (1.2 times as fast at V = 8,192), and 64 MB.
MAX_LOGITS = {'cpu': 2 ** 20, 'accelerator': 2 ** 24}


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
    max_logits: how many logits may be in memory at a time; by default `MAX_LOGITS` of the backend.

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
  n, t, d = hidden.shape
  at_once = max(1, max_logits // (n * unembedding.shape[0]))
  chunks = -(-t // at_once)
  size = -(-t // chunks)
  padding = chunks * size - t
  hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))).reshape(n, chunks, size, d)
  targets = jnp.pad(targets, ((0, 0), (0, padding))).reshape(n, chunks, size)
  inverse_temperature = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
  logprobs, entropy = _chunked(
      jnp.moveaxis(hidden, 1, 0), unembedding, jnp.moveaxis(targets, 1, 0), inverse_temperature)
  join = lambda x: jnp.moveaxis(x, 0, 1).reshape(n, chunks * size)[:, :t]
  return join(logprobs), join(entropy)


def _logits(hidden, unembedding, inverse_temperature):
  logits = jnp.einsum('ntd,vd->ntv', hidden, unembedding.astype(hidden.dtype),
                      preferred_element_type=jnp.float32)
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
  def one(_, chunk):
    hidden, targets = chunk
    logits = _logits(hidden, unembedding, inverse_temperature)
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

  def one(gradient, chunk):
    hidden, targets, normalizer, entropy, d_logprobs, d_entropy = chunk
    log_p = _logits(hidden, unembedding, inverse_temperature) - normalizer[..., None]
    slope = d_logprobs[..., None] + d_entropy[..., None] * (
        jnp.where(jnp.isfinite(log_p), log_p, 0) + entropy[..., None])
    d_logits = -jnp.exp(log_p) * slope
    hit = jax.lax.broadcasted_iota(targets.dtype, log_p.shape, 2) == targets[..., None]
    d_logits = jnp.where(hit, d_logits + d_logprobs[..., None], d_logits) * inverse_temperature
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = jnp.einsum('ntv,vd->ntd', d_logits, unembedding.astype(hidden.dtype),
                          preferred_element_type=jnp.float32)
    gradient += jnp.einsum('ntv,ntd->vd', d_logits, hidden, preferred_element_type=jnp.float32)
    return gradient, d_hidden.astype(hidden.dtype)

  gradient, d_hidden = _over_chunks(
      one, jnp.zeros(unembedding.shape, jnp.float32),
      (hidden, targets, normalizer, entropy, *cotangents))
  return d_hidden, gradient.astype(unembedding.dtype), None, jnp.zeros_like(inverse_temperature)


_chunked.defvjp(_forward, _backward)


def completion_hidden(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """Hidden states [N, C, D] from which each completion token is predicted, the prompt shared.

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
  prompt_hidden, new_kv, _ = model.apply(
      params, prompt_tokens, positions=positions, segment_ids=segments)
  last = jnp.take_along_axis(prompt_hidden, prompt_lengths[:, None, None] - 1, 1)    # [B, 1, D]
  hidden = jnp.repeat(last, group_size, 0)
  # The token at position i is predicted by the hidden state before it: the last one needs none.
  inputs = completion_tokens[:, :-1]
  if inputs.shape[1]:
    starts = jnp.repeat(prompt_lengths, group_size)[:, None]
    rest, _, _ = model.apply(
        params, inputs, positions=starts + jnp.arange(inputs.shape[1]),
        segment_ids=(completion_mask[:, :-1] != 0).astype(jnp.int32),
        cache=transformer.as_prefix(new_kv, prompt_lengths))
    hidden = jnp.concatenate([hidden, rest], 1)
  return hidden


def completion_logprobs(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array, *, temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """log π(completion | prompt) per token, and entropies; arguments as of `completion_hidden`.

  Args:
    temperature: divides the logits; 0 (greedy) counts as 1.

  Returns:
    (log-probabilities [N, C], entropies [N, C]) float32; arbitrary where the mask is 0.
  """
  hidden = completion_hidden(model, params, prompt_tokens, prompt_lengths, completion_tokens,
                             completion_mask)
  return token_logprobs(hidden, model.unembedding(params), completion_tokens,
                        temperature=temperature or 1.0)
