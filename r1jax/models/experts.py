"""The outputs of experts for tokens that are already routed, on one device or many.

Exact: every token passes through all experts that it was routed to, however uneven the load.

Which devices compute what (`apply_experts`):

  mesh                      a device computes
  none                      all experts for all tokens
  without an expert axis    all experts, its slice of their width, for its own rows of tokens
  with an expert axis       its own experts, its slice of their width, for the rows of that axis's
                            devices (`_exchange`)

How one device computes its experts (`run_experts`); the first line that applies decides:

  few tokens, on a TPU                  `_all_experts`: every token through every expert at hand
  own experts only, and many rows       `_in_blocks`: tokens sorted by expert, rows of others left
                                        out, a block of rows at a time
  otherwise                             `_at_once`: tokens sorted by expert, all rows together
"""
from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp

from r1jax.models import quantized
from r1jax.models.grouped_product import grouped_product
from r1jax.models.layers import ACTIVATIONS
from r1jax.models.quantized import Matrix, Quantized
from r1jax.runtime import sharding

# Logical axes of the experts' weights, [E, D, 2, W] and [E, W, D].
GATE_UP_AXES = ('expert', 'embed', None, 'mlp')
DOWN_AXES = ('expert', 'mlp', 'embed')

# Up to this many tokens of an expert axis are gathered at once. More are exchanged in chunks, which
# bounds the memory for other devices' tokens.
GATHERED_TOKENS = 4096

# Up to this many tokens, a TPU multiplies them with all experts in about the time of reading these.
FEW_TOKENS = 256

# Rows of a block of `_in_blocks`, at least: no more rows than this are computed at once.
MIN_BLOCK = 2048


def apply_experts(
    x: jax.Array, chosen: jax.Array, weights: jax.Array, gate_up: Matrix, down: Matrix,
    activation: str,
) -> jax.Array:
  """Σ over a token's experts of weight · expert(token).

  On a mesh, the weights of experts come sharded as they are stored, and so do their gradients.

  Args:
    x: [N, T, D] tokens.
    chosen: [N, T, k] int, the experts of each token.
    weights: [N, T, k], the weight of each.
    gate_up: [E, D, 2, W], or [E, D, 2·W] from `layers.join_gate_up`.
    down: [E, W, D].
    activation: a key of `layers.ACTIVATIONS`.

  Returns:
    [N, T, D] in the dtype of `x`.
  """
  run = functools.partial(run_experts, activation=activation)
  if not sharding.is_multi_device():
    return run(x, chosen, weights, gate_up, down)
  mesh = jax.sharding.get_abstract_mesh()
  tokens = sharding.spec_that_divides(mesh, x.shape[:2], ('batch', 'sequence'))
  of_gate_up = _spec_of_gate_up(mesh, gate_up)
  axis, embed, split = of_gate_up[0], of_gate_up[1], of_gate_up[-1]
  specs_of_gate_up = jax.tree.map(functools.partial(_spec_of_gate_up, mesh), gate_up)
  specs_of_down = jax.tree.map(
      lambda x: sharding.spec_that_divides(mesh, x.shape, DOWN_AXES), down)

  def local(x, chosen, weights, gate_up, down):
    if embed is not None:
      gate_up = _gather_split(gate_up, embed, GATE_UP_AXES.index('embed'))
      down = _gather_split(down, embed, DOWN_AXES.index('embed'))
    operands = x, chosen, weights, gate_up, down
    if axis is None:
      out = run(*operands)
    else:
      out = _exchange(run, *operands, axis=axis, peers=mesh.shape[axis],
                      split_rows=axis in sharding.axes_of(tokens[0]))
    return out if split is None else jax.lax.psum(out, split)
  return jax.shard_map(
      local, mesh=mesh, check_vma=False, out_specs=tokens,
      in_specs=(tokens, tokens, tokens, specs_of_gate_up, specs_of_down))(
          x, chosen, weights, gate_up, down)


def _gather_split(weight: Matrix, names, axis: int) -> Matrix:
  """A weight whose `axis` is gathered; a quantised one's scales are whole along it already."""
  if isinstance(weight, Quantized):
    return Quantized(_gather(weight.values, names, axis), weight.scales)
  return _gather(weight, names, axis)


def _spec_of_gate_up(mesh, gate_up):
  if gate_up.ndim == len(GATE_UP_AXES):
    return sharding.spec_that_divides(mesh, gate_up.shape, GATE_UP_AXES)
  count, width, both = gate_up.shape
  return sharding.spec_that_divides(mesh, (count, width, both // 2), ('expert', 'embed', 'mlp'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(weight, names, axis):
  """A weight whose `axis` is gathered from all devices of the mesh axes `names`.

  Its gradient is summed and scattered over these devices, so it is never whole on one. (With the
  transpose that all_gather has by itself, libtpu sums whole gradients on each device before it
  cuts them, except for some shapes: it needs the devices' shares as the first axis.)
  """
  return jax.lax.all_gather(weight, names, axis=axis, tiled=True)


def _gather_forward(weight, names, axis):
  return _gather(weight, names, axis), None


def _gather_backward(names, axis, _, gradient):
  count = jax.lax.axis_size(names)
  shares = gradient.reshape(*gradient.shape[:axis], count, -1, *gradient.shape[axis + 1:])
  return (jax.lax.psum_scatter(jnp.moveaxis(shares, axis, 0), names),)


_gather.defvjp(_gather_forward, _gather_backward)


def _exchange(run: Callable, x, chosen, weights, gate_up, down, *, axis, peers, split_rows):
  """On each device of an expert axis: its own experts, for the tokens of all `peers` devices.

  Tokens are gathered over the axis, and the experts' outputs are summed and scattered back: a
  device receives and sends peers − 1 times its own tokens, whatever the routing. (To send each
  token to its experts would send it per_token times, fewer where there are more devices than that,
  and make the memory a device needs depend on chance.) Where rows are not split over the axis,
  nothing is gathered.

  More than GATHERED_TOKENS are exchanged in `peers` chunks (the greatest common divisor of tokens
  and peers, if that is smaller), recomputed in the backward pass.
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
  num_chunks = math.gcd(count, peers) if split_rows and count * peers > GATHERED_TOKENS else 1
  if num_chunks == 1:
    return together(*operands).reshape(x.shape)
  chunks = [y.reshape(num_chunks, -1, y.shape[-1]) for y in operands]
  return jax.lax.map(jax.checkpoint(lambda chunk: together(*chunk)), chunks).reshape(x.shape)


def run_experts(
    x: jax.Array, chosen: jax.Array, weights: jax.Array, gate_up: Matrix, down: Matrix,
    activation: str, first: jax.Array | int | None = None, share: int = 1,
) -> jax.Array:
  """Σ over a token's experts at hand of weight · expert(token), on one device.

  The module's docstring says which of three forms computes it.

  Args:
    x: [..., D] tokens.
    chosen: [..., k] int, the experts of each token.
    weights: [..., k], the weight of each.
    gate_up: [E, D, 2, W] or [E, D, 2·W].
    down: [E, W, D].
    activation: a key of `layers.ACTIVATIONS`.
    first: the number of the first expert at hand; tokens' other experts add nothing. None: all
      experts are at hand.
    share: the experts at hand are one of so many equal shares of all.

  Returns:
    [..., D] in the dtype of `x`.
  """
  count, width = gate_up.shape[:2]
  k = chosen.shape[-1]
  tokens, flat = x.reshape(-1, width), chosen.reshape(-1)
  if first is not None:
    flat = flat - first
  if tokens.shape[0] <= FEW_TOKENS and sharding.platform() == 'tpu':
    mixed = _all_experts(
        tokens, flat.reshape(-1, k), weights.reshape(-1, k), gate_up, down, activation)
    return mixed.astype(x.dtype).reshape(x.shape)
  if first is not None:
    # Rows of other experts are sorted behind the rest, and counted for no expert.
    flat = jnp.where((flat >= 0) & (flat < count), flat, count)
  order = jnp.argsort(flat, stable=True)
  sizes = jnp.zeros(count, jnp.int32).at[flat].add(1)
  gate_up = quantized.merge_last(gate_up, 2)
  gate_up, down = (y if isinstance(y, Quantized) else y.astype(x.dtype) for y in (gate_up, down))
  block = max(MIN_BLOCK, -(-2 * flat.size // share))   # twice an even load is still one block
  if first is not None and block < flat.size:
    mixed = _in_blocks(
        tokens, weights.reshape(-1)[order], gate_up, down, order // k, sizes, activation, block)
  else:
    mixed = _at_once(tokens, weights, gate_up, down, order, sizes, activation,
                     own_only=first is not None)
  return mixed.astype(x.dtype).reshape(x.shape)


def _all_experts(tokens, chosen, weights, gate_up, down, activation):
  """Every token [n, D] through all experts at hand, whose outputs are then weighted.

  Plain products read a layer's experts where they lie in the scanned stack; grouped products have
  them copied out of it first, and so read them three times.
  """
  count = gate_up.shape[0]
  share = jnp.sum(jax.nn.one_hot(chosen, count, dtype=jnp.float32)
                  * weights.astype(jnp.float32)[..., None], 1)
  both = quantized.einsum('nd,edf->nef', tokens, quantized.merge_last(gate_up, 2))
  gate, up = jnp.split(both, 2, -1)
  # An expert that a token was not routed to must add nothing even where it overflows.
  hidden = jnp.where(share[..., None] != 0, ACTIVATIONS[activation](gate) * up, 0)
  each = quantized.einsum('new,ewd->end', hidden, down)
  return jnp.einsum('end,ne->nd', each, share, preferred_element_type=jnp.float32)


def _at_once(tokens, weights, gate_up, down, order, sizes, activation, *, own_only):
  """All rows together: [n, D] float32.

  Args:
    tokens: [n, D].
    weights: [..., k], n·k in all.
    gate_up: [E, D, 2W].
    down: [E, W, D].
    order: [n·k], the (token, choice) pairs sorted by expert; pairs of other experts come last.
    sizes: [E], pairs of each expert.
    activation: a key of `layers.ACTIVATIONS`.
    own_only: some pairs may be of other experts.
  """
  k, width = weights.shape[-1], tokens.shape[-1]
  place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
  at_hand = jnp.arange(order.size) < jnp.sum(sizes) if own_only else None
  out = _through_own(tokens[order // k], gate_up, down, sizes, at_hand, activation)
  by_token = out[place].reshape(-1, k, width)
  return jnp.einsum('mkd,mk->md', by_token, weights.reshape(-1, k),
                    preferred_element_type=jnp.float32)


def _through_own(rows, gate_up, down, sizes, at_hand, activation):
  """Each of the rows [M, D], sorted by expert, through its expert; 0 where `at_hand` is false."""
  def kept(y):
    return y if at_hand is None else jnp.where(at_hand[:, None], y, 0)
  gate, up = jnp.split(grouped_product(kept(rows), gate_up, sizes), 2, -1)
  return kept(grouped_product(ACTIVATIONS[activation](gate) * up, down, sizes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _in_blocks(tokens, weights, gate_up, down, source, sizes, activation, block):
  """Only rows of the experts at hand, a block at a time: [n, D] float32.

  The number of blocks depends on the load: one, where the load is at most twice the even one.

  Args:
    tokens: [n, D].
    weights: [M], sorted as the rows are: those of the experts at hand first, by expert.
    gate_up: [E, D, 2W].
    down: [E, W, D].
    source: [M], the token of each row.
    sizes: [E], rows of each expert.
    activation: a key of `layers.ACTIVATIONS`; static.
    block: rows of a block; static.
  """
  def add(i, out):
    return out + _block_output(source, sizes, activation, block, i)(tokens, weights, gate_up, down)
  return jax.lax.fori_loop(0, _num_blocks(sizes, block), add,
                           jnp.zeros(tokens.shape, jnp.float32))


def _num_blocks(sizes, block):
  return -(-jnp.sum(sizes) // block)


def _block_output(source, sizes, activation, block, i):
  """f(tokens, weights, gate_up, down) -> what block i adds to the outputs, [n, D] float32."""
  ends = jnp.cumsum(sizes)

  def within(row):
    return jnp.clip(row - i * block, 0, block)
  own = within(ends) - within(ends - sizes)   # rows of each expert in this block
  rows = i * block + jnp.arange(block)
  at_hand = rows < ends[-1]
  rows = jnp.minimum(rows, source.size - 1)

  def run(tokens, weights, gate_up, down):
    out = _through_own(tokens[source[rows]], gate_up, down, own, at_hand, activation)
    weighted = out.astype(jnp.float32) * weights[rows].astype(jnp.float32)[:, None]
    return jnp.zeros(tokens.shape, jnp.float32).at[source[rows]].add(weighted)
  return run


def _in_blocks_forward(tokens, weights, gate_up, down, source, sizes, activation, block):
  out = _in_blocks(tokens, weights, gate_up, down, source, sizes, activation, block)
  return out, (tokens, weights, gate_up, down, source, sizes)


def _in_blocks_backward(activation, block, saved, d_out):
  *operands, source, sizes = saved

  def add(i, gradients):
    run = _block_output(source, sizes, activation, block, i)
    of_block = jax.vjp(run, *operands)[1](d_out)
    return jax.tree.map(lambda total, new: total + new.astype(jnp.float32), gradients, of_block)
  gradients = jax.lax.fori_loop(0, _num_blocks(sizes, block), add,
                                tuple(jnp.zeros(y.shape, jnp.float32) for y in operands))
  return *(gradient.astype(y.dtype) for gradient, y in zip(gradients, operands)), None, None


_in_blocks.defvjp(_in_blocks_forward, _in_blocks_backward)
