"""How a token is drawn: temperature, top-k, top-p, min-p, and the random keys of rows."""
import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn.

  Attributes:
    temperature: divides the logits; 0 is greedy, with the log-probabilities of temperature 1.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the likeliest tokens until their probabilities add up to top_p (at least one token;
      nucleus sampling, arXiv:1904.09751); 1 keeps all.
    min_p: keep tokens at least min_p times as likely as the likeliest (arXiv:2407.01082); 0 keeps
      all.

  Raises:
    ValueError: if a value is out of range.
  """
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0

  def __post_init__(self):
    for name, value, low, high in (('temperature', self.temperature, 0, float('inf')),
                                   ('top_k', self.top_k, 0, float('inf')),
                                   ('top_p', self.top_p, 0, 1), ('min_p', self.min_p, 0, 1)):
      if not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f'sampling: {name} must be between {low} and {high}, got {value!r}')
    if self.top_p == 0:
      raise ValueError('sampling: top_p must be greater than 0, got 0: use 1 for no truncation')

  @property
  def truncates(self) -> bool:
    """Whether any filter can leave out a token."""
    return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def truncate(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Sets logits to -inf where top-k, top-p or min-p leave a token out.

  The filters apply in this order, each to what the one before it kept, as in transformers. Tokens
  that tie with the last one kept by top-k are kept too.

  Args:
    logits: [..., V] float32, divided by the temperature.
    sampling: which filters to apply.

  Returns:
    [..., V] float32.
  """
  if sampling.top_k > 0:
    k = min(sampling.top_k, logits.shape[-1])
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.top_p < 1:
    descending = -jnp.sort(-logits, -1)
    probabilities = jax.nn.softmax(descending, -1)
    before = jnp.cumsum(probabilities, -1) - probabilities      # the mass of likelier tokens
    least = jnp.min(jnp.where(before < sampling.top_p, descending, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if sampling.min_p > 0:
    least = jnp.max(logits, -1, keepdims=True) + jnp.log(sampling.min_p)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits


def draw(
    keys: jax.Array, logits: jax.Array, sampling: Sampling,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws one token per row.

  Args:
    keys: [N] typed random keys.
    logits: [N, V] float32, before the temperature.
    sampling: how to draw; static.

  Returns:
    (tokens [N] int32, their log-probabilities [N] under the full distribution at the temperature,
    and [N] under the truncated one), float32 in nats.
  """
  logits = logits / (sampling.temperature or 1.0)
  normalizer = jax.nn.logsumexp(logits, -1)
  kept = truncate(logits, sampling) if sampling.truncates else logits
  if sampling.temperature == 0:
    tokens = jnp.argmax(kept, -1)
  else:
    tokens = _inverse_cdf(keys, kept)
  full = _pick(logits, tokens) - normalizer
  truncated = _pick(kept, tokens) - jax.nn.logsumexp(kept, -1) if sampling.truncates else full
  return tokens.astype(jnp.int32), full, truncated


def _pick(table, tokens):
  """table[n, tokens[n]], [N] of [N, V]."""
  return jnp.take_along_axis(table, tokens[:, None], -1)[:, 0]


def _inverse_cdf(keys, logits, block=128):
  """The token at which the cumulative mass passes a uniform number: one random number per row.

  Mass is summed in blocks first, so that float32 sums stay short for large vocabularies.
  """
  n, vocab = logits.shape
  mass = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
  mass = jnp.pad(mass, ((0, 0), (0, -vocab % block))).reshape(n, -1, block)
  by_block = jnp.sum(mass, -1)
  cumulative = jnp.cumsum(by_block, -1)
  uniform = jax.vmap(lambda key: jax.random.uniform(key))(keys)
  wanted = uniform * cumulative[:, -1]
  chosen = _first_passing(by_block, cumulative, wanted)
  before = jnp.take_along_axis(cumulative - by_block, chosen[:, None], -1)[:, 0]
  inside = jnp.take_along_axis(mass, chosen[:, None, None], 1)[:, 0]
  return chosen * block + _first_passing(inside, jnp.cumsum(inside, -1), wanted - before)


def _first_passing(mass, cumulative, wanted):
  """The first place of [N, places] that has mass and where `cumulative` exceeds `wanted` [N].

  Cumulative sums are rounded and may even decrease: a place without mass is never chosen, and if
  none passes, the last place with mass is.
  """
  passed = (cumulative > wanted[:, None]) & (mass > 0)
  last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, -1)
  return jnp.where(jnp.any(passed, -1), jnp.argmax(passed, -1), last)


def row_keys(seed: int, iteration: jax.Array, example_ids: jax.Array, group_size: int) -> jax.Array:
  """Random keys folded from (seed, iteration, example id, sample index).

  Args:
    seed: of the run.
    iteration: int32 scalar.
    example_ids: [B] int32.
    group_size: G.

  Returns:
    [B·G] typed keys, a group's together.
  """
  key = jax.random.fold_in(jax.random.key(seed), iteration)
  by_example = jax.vmap(jax.random.fold_in, (None, 0))(key, example_ids)
  by_sample = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  return by_sample(by_example, jnp.arange(group_size)).reshape(-1)
