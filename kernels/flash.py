"""Attention by blocks (arXiv:2205.14135): memory linear in length, forward and backward.

Scores exist for one block of queries and one of keys at a time, and are computed again in the
backward pass. Blocks in which nobody sees anybody are not computed. On TPU this is a Pallas kernel
(`flash_tpu`), elsewhere plain JAX (`blockwise`), which is the kernel's reference too.
"""
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from r1jax.kernels import blockwise
from r1jax.kernels.blockwise import LOWEST
from r1jax.kernels.marks import Marks

_BLOCKS = dict(cpu=128, default=256)   # of the plain form; measured on a CPU alone

SAVED = 'flash_attention'   # checkpoint name of what the backward pass needs beside its inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def flash_attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, query_marks: Marks, key_marks: Marks,
    window: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """softmax(q·k)·v over the keys that `marks.sees` allows, and the log of its denominator.

  Gradients flow through both results, so that attention over several sets of keys is exactly
  Σ exp(log_total_i − L)·out_i, with L the log-sum-exp of all log_total_i.

  Args:
    queries: [N, T, K, R, D], scaled already: R query heads for each of K key/value heads.
    keys: [N, S, K, D].
    values: [N, S, K, E].
    query_marks: of the queries, [N, T] each.
    key_marks: of the keys, [N, S] each.
    window: how many positions a query sees, its own included; None: all.

  Returns:
    (out [N, T, K, R, E] in the queries' dtype, log_total [N, T, K, R] float32); 0 and −1e30 for a
    query that sees nothing.

  Raises:
    ValueError: shapes do not fit, or marks are not int32 or not of both sides.
  """
  return _forward(queries, keys, values, query_marks, key_marks, window)[0]


def _forward(queries, keys, values, query_marks, key_marks, window):
  operands = queries, keys, values, query_marks, key_marks
  _check(*operands, window)
  out, log_total = jax.lax.platform_dependent(*operands, **_forms('forward', window))
  out, log_total = checkpoint_name(out, SAVED), checkpoint_name(log_total, SAVED)
  return (out, log_total), (*operands, out, log_total)


def _backward(window, saved, slopes):
  *operands, out, log_total = saved
  out_slope, log_total_slope = slopes
  # d score = weight · (d weight − drop): the softmax's own part, and that of its denominator.
  drop = jnp.sum(out_slope.astype(jnp.float32) * out.astype(jnp.float32), -1) - log_total_slope
  # So that a query that sees nothing has weights exp(NEVER − 0).
  log_total = jnp.where(log_total > LOWEST, log_total, 0)
  slopes = jax.lax.platform_dependent(
      *operands, log_total, out_slope, drop, **_forms('backward', window))
  return *slopes, None, None


flash_attention.defvjp(_forward, _backward)


def _forms(name, window):
  """Platform -> the function of this name that runs there."""
  def kernel(*operands):
    from r1jax.kernels import flash_tpu  # Pallas is imported by those who use it
    return getattr(flash_tpu, name)(*operands, window=window)

  plain = functools.partial(getattr(blockwise, name), window=window)
  blocks = {platform: functools.partial(plain, block=size) for platform, size in _BLOCKS.items()}
  return blocks | {'tpu': kernel}


def _check(queries, keys, values, query_marks, key_marks, window):
  n, t, k, _, d = queries.shape
  s = keys.shape[1]
  if keys.shape != (n, s, k, d) or values.shape[:-1] != (n, s, k):
    raise ValueError(f'keys {keys.shape} and values {values.shape} do not fit queries '
                     f'{queries.shape}: give [N, S, K, D] and [N, S, K, E] for [N, T, K, R, D]')
  for side, marks, shape in (('query', query_marks, (n, t)), ('key', key_marks, (n, s))):
    for name, mark in marks._asdict().items():
      if mark is not None and (mark.shape != shape or mark.dtype != jnp.int32):
        raise ValueError(f'{side} {name} are {mark.dtype}{mark.shape}: give int32{shape}')
  if (query_marks.places is None) != (key_marks.places is None):
    raise ValueError('places of one side only: give those of queries and keys, or none')
  if window is not None and (query_marks.positions is None or key_marks.positions is None):
    raise ValueError(f'window={window} needs the positions of queries and keys')
