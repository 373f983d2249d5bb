"""Mixtures of experts: routing, grouped products, and what balances their load.

Exact: every token passes through all experts that it was routed to, however uneven the load. Rows
are sorted by expert and multiplied group by group (`grouped_product`); on a mesh each device does
so with its own rows and its slice of every expert, or where there is an expert axis with its own
experts and the rows of that axis (`_exchange`).

Routing (Qwen3-MoE; DeepSeek-V3, arXiv:2412.19437) is computed in float32, in the sampler too, since
a router's near-ties would else be decided otherwise than in training.
"""
import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp

from r1jax.models.config import Experts, ModelConfig
from r1jax.models.layers import ACTIVATIONS, Mlp, normal, out_deviation
from r1jax.records import pytree_dataclass
from r1jax.runtime import sharding

# Logical axes of the experts' weights, [E, D, 2, W] and [E, W, D].
GATE_UP_AXES = ('expert', 'embed', None, 'mlp')
DOWN_AXES = ('expert', 'mlp', 'embed')
FLOAT32_PARAMETERS = ('router', 'balancing_bias')   # whatever the compute type


@pytree_dataclass
class Routing:
  """How the tokens of each row were routed, over its real tokens (`segment_ids` not 0).

  L layers with experts (in order), N rows, E experts. `counts` and `tokens` carry no gradient.
  """
  counts: jax.Array          # [L, N, E] float32: tokens routed to each expert
  probabilities: jax.Array   # [L, N, E] float32: summed scores, each token's divided by their sum
  tokens: jax.Array          # [L, N] float32: real tokens


def balance_loss(routing: Routing, per_token: int) -> jax.Array:
  """E·Σ_e f_e·P_e, mean over layers; 1 where the load is even (arXiv:2101.03961, eq. 4).

  f_e is the share of all choices that fell on expert e (no gradient), P_e its mean probability,
  both over the batch. transformers' coefficient expects `per_token` times as much.

  Args:
    routing: `aux['routing']` of `apply`.
    per_token: experts that a token is routed to.
  """
  tokens = jnp.maximum(jnp.sum(routing.tokens, -1), 1)[:, None]
  shares = jnp.sum(routing.counts, 1) / (per_token * tokens)
  means = jnp.sum(routing.probabilities, 1) / tokens
  return jnp.mean(shares.shape[-1] * jnp.sum(shares * means, -1))


def row_balance_loss(
    routing: Routing, per_token: int, num_rows: float | None = None) -> jax.Array:
  """As `balance_loss` within each row, mean over rows: DeepSeek-V3's sequence-wise loss (eq. 17).

  A row counts as one sequence, even if several are packed into it; empty rows do not count. With
  `num_rows` the sum over layers and rows is divided by layers · num_rows instead: micro-batches
  that are given the rows of the whole batch then add up.
  """
  tokens = jnp.maximum(routing.tokens, 1)[..., None]
  by_row = routing.counts.shape[-1] * jnp.sum(
      routing.counts / (per_token * tokens) * routing.probabilities / tokens, -1)
  real = routing.tokens > 0
  count = jnp.sum(real) if num_rows is None else real.shape[0] * num_rows
  return jnp.sum(by_row * real) / jnp.maximum(count, 1)


def update_balance(config: ModelConfig, params: dict, counts: jax.Array, rate: float) -> dict:
  """Parameters whose balancing biases moved by rate·sign(mean load − load) (arXiv:2408.15664).

  Args:
    config, params: of the model; its routing must be 'sigmoid'.
    counts: [L, E] the load since the last update: `Routing.counts` summed over rows and batches;
      or [L + 1, E], whose last row is that of the prediction head.
    rate: γ; 0.001 in DeepSeek-V3.

  Raises:
    ValueError: the model has no balancing bias, or the counts are not of its shape.
  """
  if config.experts is None or config.experts.routing != 'sigmoid':
    raise ValueError(f'{config.family}: there is no balancing bias, which belongs to '
                     'routing=\'sigmoid\': use a balance loss')
  layers, count = config.kinds.count('experts'), config.experts.count
  with_head = layers + (config.prediction_head and config.kinds[-1] == 'experts')
  if counts.shape not in ((layers, count), (with_head, count)):
    raise ValueError(f'counts {counts.shape} do not fit the model: give {(layers, count)}, layers '
                     'with experts and experts')
  change = rate * jnp.sign(jnp.mean(counts, -1, keepdims=True) - counts)

  def moved(block, by):
    bias = block['mlp']['balancing_bias']
    return block | {'mlp': block['mlp'] | {'balancing_bias': bias + by.astype(bias.dtype)}}

  stacks = {name: moved(params['stacks'][name], change[jnp.asarray(places)])
            for name, places in expert_places(config).items()}
  params = params | {'stacks': params['stacks'] | stacks}
  if counts.shape[0] > layers:
    head = params['prediction']
    params |= {'prediction': head | {'block': moved(head['block'], change[-1])}}
  return params


def expert_places(config: ModelConfig) -> dict[str, list[int]]:
  """Stack with experts -> the place of each of its layers among all layers with experts."""
  result, stack, first = {}, 0, 0
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
    self.router = normal(rngs, (width, e.count))
    self.balancing_bias = (
        nnx.Param(jnp.zeros(e.count)) if e.routing == 'sigmoid' else None)
    self.experts_gate_up = normal(rngs, (e.count, width, 2, e.width))
    self.experts_down = normal(rngs, (e.count, e.width, width), out_deviation(config))
    self.shared = Mlp(config, rngs, e.shared * e.width) if e.shared else None
    self.config = e
    self.activation = config.activation

  def __call__(self, x: jax.Array, real: jax.Array) -> tuple[jax.Array, Routing]:
    """x [N, T, width], real [N, T] bool -> the same shape, and [N, E] of one layer's Routing."""
    logits = jnp.matmul(x.astype(jnp.float32), self.router[...].astype(jnp.float32),
                        precision=jax.lax.Precision.HIGHEST)
    bias = None if self.balancing_bias is None else self.balancing_bias[...]
    chosen, weights, scores = route(self.config, logits, bias)
    out = _apply_experts(x, chosen, weights.astype(x.dtype), self.experts_gate_up[...],
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
  """The experts of each token.

  Args:
    config: of the experts.
    logits: [..., E] float32.
    bias: [E], added where experts are chosen and nowhere else; carries no gradient.

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


def _apply_experts(x, chosen, weights, gate_up, down, activation):
  """Σ over a token's experts of weight · expert(token): x [N, T, D], chosen, weights [N, T, k].

  On a mesh the weights of experts come as they lie, and their gradients go so. `gate_up` may be
  `joined`.
  """
  run = functools.partial(_run_experts, activation=activation)
  if not sharding.is_multi_device():
    return run(x, chosen, weights, gate_up, down)
  mesh = jax.sharding.get_abstract_mesh()
  tokens = sharding.spec_that_divides(mesh, x.shape[:2], ('batch', 'sequence'))
  of_gate_up = _place_of(mesh, gate_up)
  of_down = sharding.spec_that_divides(mesh, down.shape, DOWN_AXES)
  axis, embed, split = of_gate_up[0], of_gate_up[1], of_gate_up[-1]

  def local(x, chosen, weights, gate_up, down):
    if embed is not None:
      gate_up = _whole(gate_up, embed, GATE_UP_AXES.index('embed'))
      down = _whole(down, embed, DOWN_AXES.index('embed'))
    operands = x, chosen, weights, gate_up, down
    if axis is None:
      out = run(*operands)
    else:
      out = _exchange(run, *operands, axis=axis, peers=mesh.shape[axis],
                      split_rows=axis in sharding.axes_of(tokens[0]))
    return out if split is None else jax.lax.psum(out, split)
  return jax.shard_map(
      local, mesh=mesh, check_vma=False, out_specs=tokens,
      in_specs=(tokens, tokens, tokens, of_gate_up, of_down))(x, chosen, weights, gate_up, down)


def joined(gate_up: jax.Array) -> jax.Array:
  """Experts' weights [.., E, D, 2, W] as [.., E, D, 2·W]: so products read them as they lie.

  For TPUs, which lay out the last two axes in tiles, the two are not the same in memory. Where W is
  split over devices, each has its gates and then its ups, so that no weight moves between them.
  """
  *leading, width, _, wide = gate_up.shape
  parts = sharding.num_shards('mlp', wide)
  columns = gate_up.reshape(*leading, width, 2, parts, wide // parts)
  return sharding.constrain(
      jnp.swapaxes(columns, -3, -2).reshape(*leading, width, 2 * wide),
      *[None] * (len(leading) - 1), 'expert', 'embed', 'mlp' if parts > 1 else None)


def _place_of(mesh, gate_up):
  if gate_up.ndim == len(GATE_UP_AXES):
    return sharding.spec_that_divides(mesh, gate_up.shape, GATE_UP_AXES)
  count, width, both = gate_up.shape
  return sharding.spec_that_divides(mesh, (count, width, both // 2), ('expert', 'embed', 'mlp'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _whole(weight, names, at):
  """A weight whose axis `at` is gathered from all devices of the mesh axes `names`.

  Its gradient is summed and scattered over them, never whole and summed. (By all-gather's own
  transpose libtpu sums it on each device, and then cuts, but for some shapes: it needs the parts to
  come first.)
  """
  return jax.lax.all_gather(weight, names, axis=at, tiled=True)


def _scattered(names, at, _, slope):
  count = jax.lax.axis_size(names)
  parts = slope.reshape(*slope.shape[:at], count, -1, *slope.shape[at + 1:])
  return (jax.lax.psum_scatter(jnp.moveaxis(parts, at, 0), names),)


_whole.defvjp(lambda weight, names, at: (_whole(weight, names, at), None), _scattered)


# So many tokens of an expert axis may be gathered at once, whatever a device has of its own.
GATHERED_TOKENS = 4096


def _exchange(run, x, chosen, weights, gate_up, down, *, axis, peers, split_rows):
  """On each device of an expert axis, its own experts for the tokens of all X devices.

  Exact, and no token is dropped. Tokens are gathered over the axis, and the experts' outputs summed
  and scattered back: a device receives and sends X − 1 times its own tokens, whatever the routing
  (an exchange by expert would send each token per_token times, less where X is larger, and leave
  the room that a device needs to chance). More than GATHERED_TOKENS go in X chunks, each as many as
  a device has itself (in fewer where X does not divide these), computed again in the backward pass;
  of their per_token rows each a device takes those of its experts, by blocks. Where rows are not
  split over the axis, nothing is gathered.
  """
  first = jax.lax.axis_index(axis) * gate_up.shape[0]

  def together(x, chosen, weights):
    if not split_rows:
      own = run(x, chosen, weights, gate_up, down, first=first, share=peers)
      return jax.lax.psum(own, axis)
    x, chosen, weights = (
        jax.lax.all_gather(y, axis, tiled=True) for y in (x, chosen, weights))
    out = run(x, chosen, weights, gate_up, down, first=first, share=peers)
    return jax.lax.psum_scatter(out, axis, scatter_dimension=0, tiled=True)

  operands = [y.reshape(-1, y.shape[-1]) for y in (x, chosen, weights)]
  count = operands[0].shape[0]
  chunks = math.gcd(count, peers) if split_rows and count * peers > GATHERED_TOKENS else 1
  if chunks == 1:
    return together(*operands).reshape(x.shape)
  pieces = [y.reshape(chunks, -1, y.shape[-1]) for y in operands]
  return jax.lax.map(jax.checkpoint(lambda piece: together(*piece)), pieces).reshape(x.shape)


def _run_experts(x, chosen, weights, gate_up, down, activation, first=None, share=1):
  """x [.., D]; the experts at hand are all, or those from `first` on: others add nothing.

  They are one of `share` equal parts of all experts. Then few of the tokens' choices are theirs,
  and rows that are not are left out, a block of MIN_BLOCK rows or more at a time.
  """
  count, width = gate_up.shape[:2]
  k = chosen.shape[-1]
  tokens, flat = x.reshape(-1, width), chosen.reshape(-1)
  if first is not None:
    flat = flat - first
  if tokens.shape[0] <= FEW_TOKENS and sharding.platform() == 'tpu':
    return _through_all(tokens, flat.reshape(-1, k), weights.reshape(-1, k), gate_up, down,
                        activation).astype(x.dtype).reshape(x.shape)
  if first is not None:
    flat = jnp.where((flat >= 0) & (flat < count), flat, count)   # behind the others, not counted
  order = jnp.argsort(flat, stable=True)
  sizes = jnp.zeros(count, jnp.int32).at[flat].add(1)
  gate_up = gate_up.reshape(count, width, -1).astype(x.dtype)
  down = down.astype(x.dtype)
  block = max(MIN_BLOCK, -(-2 * flat.size // share))
  if first is not None and block < flat.size:
    mixed = _mixed_by_blocks(
        tokens, weights.reshape(-1)[order], gate_up, down, order // k, sizes, activation, block)
    return mixed.astype(x.dtype).reshape(x.shape)
  place = jnp.zeros_like(order).at[order].set(jnp.arange(flat.size, dtype=order.dtype))
  at_hand = None if first is None else jnp.arange(flat.size) < jnp.sum(sizes)
  out = _experts(tokens[order // k], gate_up, down, sizes, at_hand, activation)
  back = out[place].reshape(-1, k, width)
  mixed = jnp.einsum('mkd,mk->md', back, weights.reshape(-1, k),
                     preferred_element_type=jnp.float32)
  return mixed.astype(x.dtype).reshape(x.shape)


# Up to so many tokens a TPU multiplies with all experts in about the time of reading these.
FEW_TOKENS = 256


def _through_all(tokens, chosen, weights, gate_up, down, activation):
  """As `_run_experts`, of few tokens [n, D]: each passes through all experts at hand.

  Plain products read a layer's experts within the stack that is scanned; those of groups have
  them copied out of it first, and so read them three times.
  """
  count, width = gate_up.shape[:2]
  share = jnp.sum(jax.nn.one_hot(chosen, count, dtype=jnp.float32)
                  * weights.astype(jnp.float32)[..., None], 1)
  both = jnp.einsum('nd,edf->nef', tokens, gate_up.reshape(count, width, -1).astype(tokens.dtype))
  gate, up = jnp.split(both, 2, -1)
  # Of experts that a token was not routed to not even an overflow counts.
  hidden = jnp.where(share[..., None] != 0, ACTIVATIONS[activation](gate) * up, 0)
  each = jnp.einsum('new,ewd->end', hidden, down.astype(tokens.dtype))
  return jnp.einsum('end,ne->nd', each, share, preferred_element_type=jnp.float32)


def _experts(rows, gate_up, down, sizes, at_hand, activation):
  """rows [M, D], sorted by expert, each through its own; 0 where `at_hand` (None: all) is not."""
  kept = lambda y: y if at_hand is None else jnp.where(at_hand[:, None], y, 0)
  gate, up = jnp.split(grouped_product(kept(rows), gate_up, sizes), 2, -1)
  return kept(grouped_product(ACTIVATIONS[activation](gate) * up, down, sizes))


MIN_BLOCK = 2048


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _mixed_by_blocks(tokens, weights, gate_up, down, source, sizes, activation, block):
  """Σ of weight · expert(token) over the rows of the experts at hand: [n, D] float32.

  As many blocks of rows run as there are rows; one, where the load is at most twice the even one.

  Args:
    tokens: [n, D].
    weights: [M], sorted as the rows are: those of the experts at hand first, by expert.
    gate_up, down: [E, D, 2W] and [E, W, D].
    source: [M], the token of each row.
    sizes: [E], rows of each expert.
    activation, block: static; rows of a block.
  """
  add = lambda i, out: out + _block_of(source, sizes, activation, block, i)(
      tokens, weights, gate_up, down)
  return jax.lax.fori_loop(0, _num_blocks(sizes, block), add,
                           jnp.zeros(tokens.shape, jnp.float32))


def _num_blocks(sizes, block):
  return -(-jnp.sum(sizes) // block)


def _block_of(source, sizes, activation, block, i):
  """f(tokens, weights, gate_up, down) -> what block i adds to the mixed outputs."""
  ends = jnp.cumsum(sizes)
  within = lambda at: jnp.clip(at - i * block, 0, block)
  own = within(ends) - within(ends - sizes)
  places = i * block + jnp.arange(block)
  at_hand = places < ends[-1]
  places = jnp.minimum(places, source.size - 1)

  def run(tokens, weights, gate_up, down):
    out = _experts(tokens[source[places]], gate_up, down, own, at_hand, activation)
    weighted = out.astype(jnp.float32) * weights[places].astype(jnp.float32)[:, None]
    return jnp.zeros(tokens.shape, jnp.float32).at[source[places]].add(weighted)
  return run


def _mixed_forward(tokens, weights, gate_up, down, source, sizes, activation, block):
  out = _mixed_by_blocks(tokens, weights, gate_up, down, source, sizes, activation, block)
  return out, (tokens, weights, gate_up, down, source, sizes)


def _mixed_backward(activation, block, saved, slope):
  *operands, source, sizes = saved

  def add(i, slopes):
    run = _block_of(source, sizes, activation, block, i)
    found = jax.vjp(run, *operands)[1](slope)
    return jax.tree.map(lambda total, new: total + new.astype(jnp.float32), slopes, found)
  slopes = jax.lax.fori_loop(0, _num_blocks(sizes, block), add,
                             tuple(jnp.zeros(y.shape, jnp.float32) for y in operands))
  return *(slope.astype(y.dtype) for slope, y in zip(slopes, operands)), None, None


_mixed_by_blocks.defvjp(_mixed_forward, _mixed_backward)


@jax.custom_vjp
def grouped_product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
  """rows [M, A], sorted into E groups of `sizes` rows, each times its matrix [E, A, B]: [M, B].

  On TPU `jax.lax.ragged_dot`. Elsewhere that multiplies every row with every matrix, so there a
  loop takes blocks of rows of one group at a time: as many operations as the rows need, and at
  most a block more a group. Rows behind the groups (`sizes` add up to M or less) are arbitrary.
  """
  return jax.lax.platform_dependent(
      rows, matrices, sizes, tpu=jax.lax.ragged_dot, default=_blocked_product)


def _grouped_forward(rows, matrices, sizes):
  return grouped_product(rows, matrices, sizes), (rows, matrices, sizes)


def _grouped_backward(saved, slope):
  rows, matrices, sizes = saved
  d_rows = grouped_product(slope, jnp.swapaxes(matrices, 1, 2), sizes)
  d_matrices = jax.lax.platform_dependent(
      rows, slope, sizes, tpu=_ragged_outer, default=_blocked_outer)
  return d_rows, d_matrices.astype(matrices.dtype), None


grouped_product.defvjp(_grouped_forward, _grouped_backward)


def _ragged_outer(rows, slope, sizes):
  dimensions = jax.lax.RaggedDotDimensionNumbers(
      dot_dimension_numbers=(([0], [0]), ([], [])), lhs_ragged_dimensions=[0],
      rhs_group_dimensions=[])
  return jax.lax.ragged_dot_general(
      rows, slope, sizes, dimensions, preferred_element_type=jnp.float32)


def block_rows(num_rows: int, num_groups: int) -> int:
  """Rows of a block: about an even group, so that most groups are one block or two."""
  even = -(-num_rows // num_groups)
  return min(max(8, 1 << (even - 1).bit_length()), 512)


def _blocks(num_rows, sizes):
  """(number of blocks, their size, f(block) -> (group, first row, rows that are the group's))."""
  size = block_rows(num_rows, sizes.shape[0])
  blocks = -(-sizes // size)
  last = jnp.cumsum(blocks)
  starts = jnp.cumsum(sizes) - sizes

  def place(block):
    group = jnp.sum(last <= block)
    within = (block - (last[group] - blocks[group])) * size
    return group, starts[group] + within, sizes[group] - within
  return last[-1], size, place


def _blocked_product(rows, matrices, sizes):
  count, size, place = _blocks(rows.shape[0], sizes)
  padded = jnp.pad(rows, ((0, size), (0, 0)))

  def step(block, out):
    # A block may reach into the next group's rows; that group's own block comes later and wins.
    group, start, _ = place(block)
    taken = jax.lax.dynamic_slice_in_dim(padded, start, size)
    matrix = jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False)
    value = jnp.matmul(taken, matrix, preferred_element_type=jnp.float32)
    return jax.lax.dynamic_update_slice_in_dim(out, value.astype(out.dtype), start, 0)

  out = jnp.zeros((rows.shape[0] + size, matrices.shape[2]), rows.dtype)
  return jax.lax.fori_loop(0, count, step, out)[:rows.shape[0]]


def _blocked_outer(rows, slope, sizes):
  """Σ over each group's rows of rowᵀ·slope: [E, A, B] float32."""
  count, size, place = _blocks(rows.shape[0], sizes)
  pad = lambda x: jnp.pad(x, ((0, size), (0, 0)))
  rows, slope = pad(rows), pad(slope)

  def step(block, out):
    group, start, left = place(block)
    taken = jax.lax.dynamic_slice_in_dim(rows, start, size)
    taken = jnp.where(jnp.arange(size)[:, None] < left, taken, 0)
    value = jnp.matmul(taken.T, jax.lax.dynamic_slice_in_dim(slope, start, size),
                       preferred_element_type=jnp.float32)
    return out.at[group].add(value)

  out = jnp.zeros((sizes.shape[0], rows.shape[1], slope.shape[1]), jnp.float32)
  return jax.lax.fori_loop(0, count, step, out)
