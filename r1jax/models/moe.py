"""Mixtures of experts: which experts a token goes to, and what balances their load.

Routing (Qwen3-MoE; DeepSeek-V3, arXiv:2412.19437) is computed in float32, in the sampler too:
otherwise near-ties of the router would be decided differently there than in training. The module
`experts` computes the outputs of the experts.
"""
from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.models.config import Experts, ModelConfig
from r1jax.models.experts import apply_experts
from r1jax.models.layers import Mlp, normal, out_deviation
from r1jax.records import pytree_dataclass

FLOAT32_PARAMETERS = ('router', 'balancing_bias')   # stay float32 in every compute dtype


@pytree_dataclass
class Routing:
  """How the tokens of each row were routed, over its real tokens (`segment_ids` not 0).

  L layers with experts (in order), N rows, E experts. `counts` and `tokens` carry no gradient.
  """
  counts: jax.Array          # [L, N, E] float32: tokens routed to each expert
  probabilities: jax.Array   # [L, N, E] float32: summed scores, each token's divided by their sum
  tokens: jax.Array          # [L, N] float32: real tokens


def row_balance_loss(
    routing: Routing, per_token: int, num_rows: float | jax.Array | None = None) -> jax.Array:
  """Mean over layers and rows of E·Σ_e f_e·P_e within a row (arXiv:2412.19437, equation 17).

  f_e is the share of the row's choices that fell on expert e (no gradient), P_e its mean
  probability in the row. A row counts as one sequence, even if several are packed into it; rows
  without tokens do not count.

  Args:
    routing: `aux['routing']` of `Model.apply`.
    per_token: number of experts that a token is routed to.
    num_rows: if given, the sum is divided by layers · num_rows: the losses of micro-batches that
      are given the number of rows of the whole batch then add up to that of the batch.
  """
  tokens = jnp.maximum(routing.tokens, 1)[..., None]
  by_row = routing.counts.shape[-1] * jnp.sum(
      routing.counts / (per_token * tokens) * routing.probabilities / tokens, -1)
  real = routing.tokens > 0
  count = jnp.sum(real) if num_rows is None else real.shape[0] * num_rows
  return jnp.sum(by_row * real) / jnp.maximum(count, 1)


def update_balance(config: ModelConfig, params: dict, counts: jax.Array, rate: float) -> dict:
  """Moves the balancing biases by rate·sign(mean load − load) (arXiv:2408.15664).

  Args:
    config: the architecture; `experts.routing` must be 'sigmoid'.
    params: the model's parameters.
    counts: [L, E], the load since the last update: `Routing.counts` summed over rows and batches;
      or [L + 1, E], whose last row is the load of the prediction head.
    rate: γ; 0.001 in DeepSeek-V3.

  Returns:
    The parameters with new biases.

  Raises:
    ValueError: the model has no balancing bias, or `counts` has another shape.
  """
  if config.experts is None or config.experts.routing != 'sigmoid':
    raise ValueError(f"{config.family} has no balancing bias: use a balance loss, or experts with "
                     "routing='sigmoid'")
  layers, count = config.kinds.count('experts'), config.experts.count
  with_head = layers + (config.prediction_head and config.kinds[-1] == 'experts')
  if counts.shape not in ((layers, count), (with_head, count)):
    raise ValueError(f'counts must be [layers with experts, experts] = {(layers, count)}, got '
                     f'{counts.shape}')
  change = rate * jnp.sign(jnp.mean(counts, -1, keepdims=True) - counts)
  stacks = {name: _with_moved_bias(params['stacks'][name], change[jnp.asarray(places)])
            for name, places in expert_places(config).items()}
  params = params | {'stacks': params['stacks'] | stacks}
  if counts.shape[0] > layers:
    head = params['prediction']
    block = _with_moved_bias(head['block'], change[-1])
    params |= {'prediction': head | {'block': block}}
  return params


def _with_moved_bias(block: dict, by: jax.Array) -> dict:
  bias = block['mlp']['balancing_bias']
  return block | {'mlp': block['mlp'] | {'balancing_bias': bias + by.astype(bias.dtype)}}


def expert_places(config: ModelConfig) -> dict[str, list[int]]:
  """Name of each stack with experts -> where its layers come among all layers with experts."""
  result: dict[str, list[int]] = {}
  stack, first = 0, 0
  for pattern, repeats in config.runs:
    size = pattern.count('experts')
    for at, kind in enumerate(pattern):
      if kind == 'experts':
        start = first + pattern[:at].count('experts')
        result[f'stack_{stack + at}'] = list(range(start, first + size * repeats, size))
    stack, first = stack + len(pattern), first + size * repeats
  return result


class MixtureOfExperts(nnx.Module):
  """Router, experts and the shared expert of one layer."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    e, width = config.experts, config.width
    assert e is not None
    self.router = normal(rngs, (width, e.count))
    self.balancing_bias = (
        nnx.Param(jnp.zeros(e.count)) if e.routing == 'sigmoid' else None)
    self.experts_gate_up = normal(rngs, (e.count, width, 2, e.width))
    self.experts_down = normal(rngs, (e.count, e.width, width), out_deviation(config))
    self.shared = Mlp(config, rngs, e.shared * e.width) if e.shared else None
    self.config = e
    self.activation = config.activation

  def __call__(self, x: jax.Array, real: jax.Array) -> tuple[jax.Array, Routing]:
    """Applies the layer.

    Args:
      x: [N, T, width].
      real: [N, T] bool, the tokens that Routing counts.

    Returns:
      [N, T, width], and a Routing of this layer alone: fields [N, E], and `tokens` [N].
    """
    logits = jnp.matmul(x.astype(jnp.float32), self.router[...].astype(jnp.float32),
                        precision=jax.lax.Precision.HIGHEST)
    bias = None if self.balancing_bias is None else self.balancing_bias[...]
    chosen, weights, scores = route(self.config, logits, bias)
    out = apply_experts(x, chosen, weights.astype(x.dtype), self.experts_gate_up[...],
                         self.experts_down[...], self.activation)
    if self.shared is not None:
      out = out + self.shared(x)
    mask = real.astype(jnp.float32)[..., None]
    hits = jnp.sum(jax.nn.one_hot(chosen, self.config.count, dtype=jnp.float32), -2)
    probabilities = scores / jnp.sum(scores, -1, keepdims=True)
    return out, Routing(jnp.sum(hits * mask, 1), jnp.sum(probabilities * mask, 1),
                        jnp.sum(mask[..., 0], 1))


def route(
    config: Experts, logits: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Chooses the experts of each token, as `config.Experts` describes.

  Args:
    config: of the mixture.
    logits: [..., E] float32, the router's.
    bias: [E], added to the scores for the choice only, and without a gradient; or None.

  Returns:
    (experts [..., per_token] int, their weights float32, all scores [..., E] float32).
  """
  c = config
  scores = jax.nn.softmax(logits, -1) if c.routing == 'softmax' else jax.nn.sigmoid(logits)
  choice = jax.lax.stop_gradient(scores)
  if bias is not None:
    choice = choice + jax.lax.stop_gradient(bias.astype(jnp.float32))
  if c.groups > 1:
    grouped = choice.reshape(*choice.shape[:-1], c.groups, c.count // c.groups)
    strength = jnp.sum(jax.lax.top_k(grouped, 2)[0], -1)
    best = jax.lax.top_k(strength, c.groups_per_token)[1]
    kept = jnp.any(best[..., None] == jnp.arange(c.groups), -2)
    choice = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(choice.shape)
  chosen = jax.lax.top_k(choice, c.per_token)[1]
  weights = jnp.take_along_axis(scores, chosen, -1)
  if c.normalise:
    total = jnp.sum(weights, -1, keepdims=True)
    weights = weights / (total + 1e-20 if c.routing == 'sigmoid' else total)
  return chosen, weights * c.scale, scores
