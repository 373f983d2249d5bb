"""Attention by blocks (arXiv:2205.14135): memory linear in length, forward and backward.

Scores exist for one block of queries and one block of keys at a time, and are recomputed in the
backward pass. Blocks without any visible pair are skipped. On TPU this is a Pallas kernel
(`flash_tpu`); elsewhere it is plain JAX (`blockwise`), which is also the kernel's reference.
"""
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from r1jax.kernels import blockwise
from r1jax.kernels.attention_ids import AttentionIds
from r1jax.kernels.blockwise import LOWEST_SCORE

# Tokens of a block of the plain-JAX form. 128 was chosen by measurements on a CPU; 256 for other
# platforms (GPUs) is not measured.
_BLOCKS = dict(cpu=128, default=256)

SAVED = 'flash_attention'   # checkpoint name of what the backward pass needs besides its inputs


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def flash_attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, query_ids: AttentionIds,
    key_ids: AttentionIds, window: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """softmax(q·k)·v over the keys that `attention_ids.may_attend` allows, and its log-sum-exp.

  Gradients flow through both results, so attention over several sets of keys is exactly
  Σ_i exp(log_sum_exp_i − L)·out_i, where L is the log-sum-exp over i of all log_sum_exp_i.

  Args:
    queries: [N, T, K, R, D], already scaled: R query heads for each of K key/value heads.
    keys: [N, S, K, D].
    values: [N, S, K, E].
    query_ids: of the queries, each field [N, T] int32.
    key_ids: of the keys, each field [N, S] int32.
    window: number of positions that a query sees, including its own; None for all.

  Returns:
    (out [N, T, K, R, E] in the queries' dtype, log_sum_exp [N, T, K, R] float32). They are 0 and
    −1e30 for a query that sees no key.

  Raises:
    ValueError: shapes do not match, ids are not int32, `order` is given for one side only, or
      `window` is given without positions.
  """
  return _forward(queries, keys, values, query_ids, key_ids, window)[0]


def _forward(queries, keys, values, query_ids, key_ids, window):
  operands = queries, keys, values, query_ids, key_ids
  _check(*operands, window)
  out, log_sum_exp = jax.lax.platform_dependent(*operands, **_forms('forward', window))
  out, log_sum_exp = checkpoint_name(out, SAVED), checkpoint_name(log_sum_exp, SAVED)
  return (out, log_sum_exp), (*operands, out, log_sum_exp)


def _backward(window, saved, gradients):
  *operands, out, log_sum_exp = saved
  d_out, d_log_sum_exp = gradients
  # d score = weight · (d weight − delta), where delta covers the normalisation and the second
  # result.
  delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), -1) - d_log_sum_exp
  # With 0, the weights exp(MASKED_SCORE − 0) of a query that sees no key are 0.
  log_sum_exp = jnp.where(log_sum_exp > LOWEST_SCORE, log_sum_exp, 0)
  gradients = jax.lax.platform_dependent(
      *operands, log_sum_exp, d_out, delta, **_forms('backward', window))
  return *gradients, None, None


flash_attention.defvjp(_forward, _backward)


def _forms(name, window):
  """Platform -> the function called `name` that runs there."""
  def kernel(*operands):
    from r1jax.kernels import flash_tpu  # imports Pallas, which only TPUs need
    return getattr(flash_tpu, name)(*operands, window=window)

  plain = functools.partial(getattr(blockwise, name), window=window)
  blocks = {platform: functools.partial(plain, block=size) for platform, size in _BLOCKS.items()}
  return blocks | {'tpu': kernel}


def _check(queries, keys, values, query_ids, key_ids, window):
  n, t, k, _, d = queries.shape
  s = keys.shape[1]
  if keys.shape != (n, s, k, d) or values.shape[:-1] != (n, s, k):
    raise ValueError(f'keys {keys.shape} and values {values.shape} do not match queries '
                     f'{queries.shape}: pass [N, S, K, D] and [N, S, K, E] for [N, T, K, R, D]')
  for side, ids, shape in (('query', query_ids, (n, t)), ('key', key_ids, (n, s))):
    for name, array in ids._asdict().items():
      if array is not None and (array.shape != shape or array.dtype != jnp.int32):
        raise ValueError(f'{side} {name} must be int32{shape}, got {array.dtype}{array.shape}')
  if (query_ids.order is None) != (key_ids.order is None):
    raise ValueError('order is given for one side only: pass it for queries and keys, or neither')
  if window is not None and (query_ids.positions is None or key_ids.positions is None):
    raise ValueError(f'window={window} needs positions of both queries and keys: pass them')
