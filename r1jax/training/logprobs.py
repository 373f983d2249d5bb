"""Per-token log-probabilities and entropies from hidden states, without whole logits.

The unembedding is applied to a few positions of every row at a time, forward and backward: at most
`max_logits` logits are in memory at once (or one position of every row, if that is more). On a mesh
each device does so with its own rows and places; the gradients of the unembedding are summed over
devices once, after the last chunk. The backward pass is written by hand: it recomputes a chunk's
logits instead of storing them.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checks
from r1jax.models import attention, kv_cache, transformer
from r1jax.models.moe import Routing
from r1jax.runtime import sharding

# In float32 4 MB, which fits in a CPU's caches (1.2 times as fast at V = 8,192), and 512 MB: each
# chunk reads and writes the unembedding's whole gradient, so it needs some hundreds of positions.
MAX_LOGITS = {'cpu': 2 ** 20, 'accelerator': 2 ** 27}


@functools.partial(jax.jit, static_argnames=('max_logits',))
def token_logprobs(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, *,
    temperature: float | jax.Array = 1.0, max_logits: int | None = None,
    token_mask: np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Log π(target) and the entropy of π, π = softmax(hidden·unembeddingᵀ / temperature).

  With a mask, tokens that are false in it have probability 0: the log-probabilities of the others
  are greater by −log of the share that these would have had.

  Args:
    hidden: [N, T, D] hidden states, float32 or bfloat16; the products run in this dtype and
      accumulate in float32.
    unembedding: [V, D].
    targets: [N, T] int, the token that each hidden state predicts.
    temperature: divides the logits (not the log-probabilities). Carries no gradient.
    max_logits: the most logits that a device may have in memory; by default `MAX_LOGITS` of the
      backend.
    token_mask: [V] bool, false for ids that no token has, as `Model.token_mask`; None: all have
      one.

  Returns:
    (log-probabilities [N, T], entropies [N, T]) float32, in nats. Both carry gradients to `hidden`
    and `unembedding`.

  Raises:
    ValueError: for a wrong shape.
  """
  checks.rank('[N, T, D]', hidden=hidden)
  checks.shapes(hidden.shape[:2], targets=targets)
  checks.rank('[V, D]', unembedding=unembedding)
  checks.shapes((unembedding.shape[0], hidden.shape[2]), unembedding=unembedding)
  if token_mask is not None:
    checks.shapes(unembedding.shape[:1], token_mask=token_mask)
  if max_logits is None:
    max_logits = MAX_LOGITS['cpu' if sharding.platform() == 'cpu' else 'accelerator']
  shape = targets.shape
  hidden, targets = _by_device(hidden), _by_device(targets)     # [b, s, N / b, T / s, ...]
  t_axis = targets.ndim - 1
  n, t = targets.shape[-2:]
  chunks, size = _chunk_size(n, t, unembedding.shape[0], max_logits)
  inverse_temperature = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
  logprobs, entropy = _chunked(
      _cut(hidden, t_axis, chunks, size), unembedding, _cut(targets, t_axis, chunks, size),
      inverse_temperature, token_mask)
  return _join(logprobs, t, shape), _join(entropy, t, shape)


def _chunk_size(n: int, t: int, vocab: int, max_logits: int) -> tuple[int, int]:
  """(How many chunks, their size in positions), for n rows of t positions on a device."""
  at_once = max(1, max_logits * sharding.num_shards('vocab', vocab) // (n * vocab))
  multiple = 8 if at_once >= 8 else 1     # tiles of memory have 8 rows
  at_once -= at_once % multiple
  chunks = -(-t // at_once)
  return chunks, -(-t // (chunks * multiple)) * multiple


def _cut(x, axis: int, chunks: int, size: int):
  """Pads an axis and cuts it into chunks, on a new first axis."""
  padding = [(0, chunks * size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
  x = jnp.pad(x, padding).reshape(*x.shape[:axis], chunks, size, *x.shape[axis + 1:])
  return jnp.moveaxis(x, axis, 0)


def _join(x, t: int, shape: tuple[int, ...]):
  """Chunks of [N, T] (or of [b, s, N / b, T / s]), each t positions in all, as [N, T] = `shape`."""
  x = jnp.moveaxis(x, 0, -2)
  x = x.reshape(*x.shape[:-2], -1)[..., :t]
  if x.ndim == 2:
    return x
  return jnp.swapaxes(x, 1, 2).reshape(shape[0], -1)[:, :shape[1]]


def _by_device(x):
  """[N, T, ...] as [b, s, N / b, T / s, ...]: rows over b devices of the mesh, places over s."""
  if not sharding.is_multi_device():
    return x
  n, t = x.shape[:2]
  b, s = sharding.num_shards('batch', n), sharding.num_shards('sequence')
  x = jnp.pad(x, ((0, 0), (0, -t % s), *((0, 0),) * (x.ndim - 2)))
  x = jnp.swapaxes(x.reshape(b, n // b, s, -1, *x.shape[2:]), 1, 2)
  return sharding.constrain(x, 'batch', 'sequence')


def _whole(unembedding, dtype):
  return sharding.gathered(unembedding.astype(dtype), 'vocab', 'embed')


def _logits(hidden, unembedding, inverse_temperature, token_mask):
  logits = jnp.einsum('...td,vd->...tv', hidden, unembedding, preferred_element_type=jnp.float32)
  return transformer.mask_logits(logits * inverse_temperature, token_mask)


def _over_chunks(body, carry, chunked):
  """lax.scan, but straight-line code for a single chunk."""
  if jax.tree.leaves(chunked)[0].shape[0] == 1:
    carry, out = body(carry, jax.tree.map(lambda x: x[0], chunked))
    return carry, jax.tree.map(lambda x: x[None], out)
  return jax.lax.scan(body, carry, chunked)


@jax.custom_vjp
def _chunked(hidden, unembedding, targets, inverse_temperature, token_mask):
  return _forward(hidden, unembedding, targets, inverse_temperature, token_mask)[0]


def _forward(hidden, unembedding, targets, inverse_temperature, token_mask):
  weights = _whole(unembedding, hidden.dtype)

  def one(_, chunk):
    hidden, targets = chunk
    logits = _logits(hidden, weights, inverse_temperature, token_mask)
    normalizer = jax.nn.logsumexp(logits, -1)
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    # A logit of -inf has probability 0 and adds nothing to the entropy.
    log_p = logits - normalizer[..., None]
    entropy = -jnp.sum(jnp.where(jnp.isfinite(log_p), log_p, 0) * jnp.exp(log_p), -1)
    return None, (picked - normalizer, entropy, normalizer)

  _, (logprobs, entropy, normalizer) = _over_chunks(one, None, (hidden, targets))
  residuals = hidden, unembedding, targets, inverse_temperature, token_mask, normalizer, entropy
  return (logprobs, entropy), residuals


def _backward(residuals, cotangents):
  """With p = softmax(z): ∂log p_y/∂z = 1_y − p, ∂H/∂z = −p·(log p + H)."""
  hidden, unembedding, targets, inverse_temperature, token_mask, normalizer, entropy = residuals
  weights, lead = _whole(unembedding, hidden.dtype), hidden.shape[1:-3]

  def one(gradient, chunk):
    hidden, targets, normalizer, entropy, d_logprobs, d_entropy = chunk
    log_p = _logits(hidden, weights, inverse_temperature, token_mask) - normalizer[..., None]
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
  d_temperature = jnp.zeros_like(inverse_temperature)
  return d_hidden, gradient.astype(unembedding.dtype), None, d_temperature, None


_chunked.defvjp(_forward, _backward)


def completion_hidden(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> tuple[jax.Array, list[Routing]]:
  """Hidden states from which each completion token is predicted, computed with shared prompts.

  Each prompt runs once; all of its completions use its keys and values, in the forward pass and,
  through their summed gradients, in the backward pass. The result is exactly the unshared one.

  Args:
    model: a `models.Model`.
    params: its parameters.
    prompt_tokens: [B, P] int, padded on the right.
    prompt_lengths: [B] int, at least 1.
    completion_tokens: [N, C] int, N a multiple of B, a group's rows together.
    completion_mask: [N, C], 1 up to each completion's last token.

  Returns:
    (hidden states [N, C, D], routings). Place t has the state *before* token t: for t = 0 that of
    the prompt's last token. Routings are those of the passes over prompts and over completions, for
    a model with experts, else none.
  """
  group_size = completion_tokens.shape[0] // prompt_tokens.shape[0]
  positions, segments = transformer.prompt_segments(prompt_tokens, prompt_lengths)
  prompt_hidden, new_kv, aux = model.apply(
      params, prompt_tokens, positions=positions, segment_ids=segments)
  routings = routing_of(aux)
  last = jnp.take_along_axis(prompt_hidden, prompt_lengths[:, None, None] - 1, 1)    # [B, 1, D]
  hidden = jnp.repeat(last, group_size, 0)
  # The token at position i is predicted by the state before it, so the last token need not run. It
  # does run where a mesh splits places, so that it divides their number, and in long rows, so that
  # tiles of memory divide it.
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
  """The routing in the third result of `Model.apply`: a list of one, or empty without experts."""
  return [aux['routing']] if aux else []


def completion_logprobs(
    model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array, *, temperature: float,
) -> tuple[jax.Array, jax.Array, list[Routing]]:
  """Log π(completion | prompt) per token, and entropies, computed with shared prompts.

  Args:
    model: a `models.Model`.
    params: its parameters.
    prompt_tokens: [B, P] int, padded on the right.
    prompt_lengths: [B] int, at least 1.
    completion_tokens: [N, C] int, N a multiple of B, a group's rows together.
    completion_mask: [N, C], 1 up to each completion's last token.
    temperature: divides the logits; 0 (greedy) counts as 1.

  Returns:
    (log-probabilities [N, C], entropies [N, C], routings): float32 in nats, arbitrary where the
    mask is 0; routings for a model with experts, else none.
  """
  hidden, routings = completion_hidden(model, params, prompt_tokens, prompt_lengths,
                                       completion_tokens, completion_mask)
  return *token_logprobs(hidden, model.unembedding(params), completion_tokens,
                         temperature=temperature or 1.0, token_mask=model.token_mask), routings
