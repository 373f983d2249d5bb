"""Supervised losses of tokens, and chunks that keep whole logits out of memory."""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax import checks
from r1jax.masked import masked_sum, select


def supervised_loss(
    logprobs: jax.Array, weights: jax.Array, *, normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted cross-entropy −Σ w·log π / Σ w, for pre-training and SFT.

  Args:
    logprobs: [N, T] log-probabilities of the tokens to learn, in nats.
    weights: [N, T], not negative; 0 on prompts and padding. Carry no gradient.
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats per token, {}), float32. The gradient flows through `logprobs` alone.

  Raises:
    ValueError: if the shapes differ or `logprobs` is not floating-point.
  """
  checks.floats(logprobs=logprobs)
  checks.shapes(logprobs.shape, weights=weights)
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  normalizer = weight_sum(weights) if normalizer is None else normalizer
  return -masked_sum(logprobs.astype(jnp.float32) * weights, weights) / normalizer, {}


def weight_sum(weights: jax.Array) -> jax.Array:
  """Σ w, the normalizer of supervised losses: a float32 scalar.

  It is at least 1e-8, so that the loss of an empty batch is 0.
  """
  return jnp.maximum(jnp.sum(weights.astype(jnp.float32)), 1e-8)


def cross_entropy_loss(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, *, z_coefficient: float = 0.0,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Σ w·(−log softmax(z)_y + c·log²Z) / Σ w, Z = Σ_v exp z_v (z-loss: PaLM, arXiv:2204.02311, §5).

  For packed rows, set the weight to 0 for a token whose target belongs to another document.

  Args:
    logits: [N, T, V].
    targets: [N, T] int, the token that each position should predict; any id where the weight is 0.
    weights: [N, T], not negative; 0 on prompts and padding. Carry no gradient.
    z_coefficient: c (1e-4 in PaLM), which keeps log Z near 0.
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats per token, metrics), float32; `cross_entropy` is the loss without its z term. The
    gradient flows through `logits` alone.

  Raises:
    ValueError: for a wrong shape or dtype, or c below 0.
  """
  checks.rank('[N, T, V]', logits=logits)
  checks.shapes(logits.shape[:2], targets=targets, weights=weights)
  checks.floats(logits=logits)
  checks.at_least(0, z_coefficient=z_coefficient)
  if not jnp.issubdtype(targets.dtype, jnp.integer):
    raise ValueError(f'targets must have an integer dtype, got {targets.dtype}')
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  normalizer = weight_sum(weights) if normalizer is None else normalizer
  logits = select(logits.astype(jnp.float32), weights[..., None])
  targets = select(targets, weights)
  log_z = jax.nn.logsumexp(logits, -1)
  losses = log_z - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  value = jnp.sum(losses * weights) / normalizer
  metrics = {'cross_entropy': jax.lax.stop_gradient(value)}
  if z_coefficient:
    value = value + z_coefficient * (jnp.sum(jnp.square(log_z) * weights) / normalizer)
  return value, metrics


def chunked_cross_entropy_loss(
    hidden: jax.Array, unembed: Callable[[jax.Array], jax.Array], targets: jax.Array,
    weights: jax.Array, *, chunk_size: int, z_coefficient: float = 0.0,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`cross_entropy_loss` of unembed(hidden), with the logits of `chunk_size` positions at a time.

  Args:
    hidden: [N, T, D] hidden states.
    unembed: from [N, t, D] to logits [N, t, V]; it may close over parameters, which get their
      gradient.
    targets: [N, T] int, the token that each position should predict; any id where the weight is 0.
    weights: [N, T], not negative; 0 on prompts and padding. Carry no gradient.
    chunk_size: positions of each row whose logits are in memory at once, forward and backward.
    z_coefficient: c, the weight of log²Z.
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats per token, metrics), float32; `cross_entropy` is the loss without its z term. The
    gradient flows through `hidden` and what `unembed` closes over.

  Raises:
    ValueError: for a wrong shape or dtype, or a chunk_size below 1.
  """
  checks.rank('[N, T, D]', hidden=hidden)
  checks.shapes(hidden.shape[:2], targets=targets, weights=weights)
  normalizer = weight_sum(weights) if normalizer is None else normalizer

  def loss_of_chunk(hidden, targets, weights):
    return cross_entropy_loss(unembed(select(hidden, weights[..., None])), targets, weights,
                              z_coefficient=z_coefficient, normalizer=normalizer)

  return in_chunks(loss_of_chunk, hidden, targets, weights, chunk_size=chunk_size)


def in_chunks(
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]], *arrays: jax.Array,
    chunk_size: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The sum of loss(*chunks) over chunks of the arrays' second axis, recomputed backward.

  What `loss` makes of a chunk (logits, say) is in memory for one chunk at a time. It must divide by
  the normalizer of the whole, and be 0 where its mask or weights are 0: the last chunk is padded
  with zeros.

  Args:
    loss: (*chunks) -> (loss, metrics), scalars. Metrics are added up; for names that end in '/max'
      the largest is taken. It may close over parameters, which get their gradient.
    *arrays: each [N, T, ...].
    chunk_size: the largest number of positions in a chunk.

  Returns:
    (loss, metrics) of the whole. The gradient flows through all that it flows through in `loss`.

  Raises:
    ValueError: if the arrays differ in N or T, or chunk_size is below 1.
  """
  checks.at_least(1, chunk_size=chunk_size)
  rows, length = arrays[0].shape[:2]
  for array in arrays:
    if array.shape[:2] != (rows, length):
      raise ValueError(f'the first two axes of all arrays must be [{rows}, {length}] as in the '
                       f'first one, got {list(array.shape)}')
  chunks = -(-length // chunk_size)
  size = -(-length // chunks)

  def split(x):
    x = jnp.pad(x, ((0, 0), (0, chunks * size - length), *((0, 0) for _ in x.shape[2:])))
    return jnp.moveaxis(x.reshape(rows, chunks, size, *x.shape[2:]), 1, 0)

  if chunks == 1:
    return loss(*arrays)
  values, metrics = jax.lax.map(jax.checkpoint(lambda chunk: loss(*chunk)),
                                tuple(split(array) for array in arrays))
  return jnp.sum(values), {name: jnp.max(x) if name.endswith('/max') else jnp.sum(x)
                           for name, x in metrics.items()}
