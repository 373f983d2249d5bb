"""`flash.flash_attention` in plain JAX: a loop over blocks of queries, inside it one over keys."""
import functools

import jax
import jax.numpy as jnp

from r1jax.kernels.attention_ids import block_may_attend, block_range, may_attend, pad

MASKED_SCORE = -1e30   # also the log-sum-exp of a query that sees no key
LOWEST_SCORE = -1e29   # below every real score; exp(MASKED_SCORE − LOWEST_SCORE) is 0


def forward(queries, keys, values, query_ids, key_ids, *, window, block):
  """Computes `flash.flash_attention`.

  Args:
    queries: [N, T, K, R, D], already scaled.
    keys: [N, S, K, D].
    values: [N, S, K, E].
    query_ids: AttentionIds [N, T].
    key_ids: AttentionIds [N, S].
    window: number of positions that a query sees, including its own; None for all.
    block: tokens of a block of queries and of keys.

  Returns:
    (out [N, T, K, R, E] in the queries' dtype, log_sum_exp [N, T, K, R] float32).
  """
  t = queries.shape[1]
  ids, key_ids, ranges = _prepare(query_ids, key_ids, window, block)
  keys, values = _to_blocks(keys, block, 'nskd->nksd'), _to_blocks(values, block, 'nskd->nksd')

  def of_queries(operands):
    queries, ids, (first, end) = operands

    def step(j, state):
      largest, total, out = state
      scores = _scores(queries, keys[j], ids, key_ids, j, window)
      larger = jnp.maximum(largest, jnp.max(scores, -1))
      weights = jnp.exp(scores - larger[..., None])
      shrink = jnp.exp(largest - larger)
      total = total * shrink + jnp.sum(weights, -1)
      out = out * shrink[..., None] + _product(
          'nkrts,nkse->nkrte', weights.astype(values.dtype), values[j])
      return larger, total, out

    rows = jnp.zeros(queries.shape[:-1], jnp.float32)
    out = jnp.zeros((*rows.shape, values.shape[-1]), jnp.float32)
    largest, total, out = jax.lax.fori_loop(first, end, step, (rows + LOWEST_SCORE, rows, out))
    any_key = total > 0
    safe = jnp.where(any_key, total, 1)
    return ((out / safe[..., None]).astype(queries.dtype),
            jnp.where(any_key, largest + jnp.log(safe), MASKED_SCORE))

  out, log_sum_exp = jax.lax.map(
      of_queries, (_to_blocks(queries, block, 'ntkrd->nkrtd'), ids, ranges))
  return (_from_blocks(out, t, 'nkrte->ntkre'), _from_blocks(log_sum_exp, t, 'nkrt->ntkr'))


def backward(
    queries, keys, values, query_ids, key_ids, log_sum_exp, d_out, delta, *, window, block):
  """Computes the gradients of queries, keys and values.

  Args:
    queries: [N, T, K, R, D], already scaled.
    keys: [N, S, K, D].
    values: [N, S, K, E].
    query_ids: AttentionIds [N, T].
    key_ids: AttentionIds [N, S].
    log_sum_exp: [N, T, K, R] float32, 0 for a query that sees no key.
    d_out: [N, T, K, R, E], the gradient of `out`.
    delta: [N, T, K, R] float32: Σ_e d_out·out, minus the gradient of log_sum_exp.
    window: number of positions that a query sees, including its own; None for all.
    block: tokens of a block of queries and of keys.

  Returns:
    Gradients of queries, keys and values, each of its array's shape and dtype.
  """
  t, s = queries.shape[1], keys.shape[1]
  ids, key_ids, ranges = _prepare(query_ids, key_ids, window, block)
  operands = (
      _to_blocks(queries, block, 'ntkrd->nkrtd'),
      _to_blocks(d_out.astype(queries.dtype), block, 'ntkre->nkrte'),
      _to_blocks(log_sum_exp, block, 'ntkr->nkrt'), _to_blocks(delta, block, 'ntkr->nkrt'), ids,
      ranges)
  keys, values = _to_blocks(keys, block, 'nskd->nksd'), _to_blocks(values, block, 'nskd->nksd')
  zeros = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32)
  (d_keys, d_values), d_queries = jax.lax.scan(
      functools.partial(_backward_of_queries, keys, values, key_ids, window), zeros, operands)
  return (_from_blocks(d_queries, t, 'nkrtd->ntkrd'),
          _from_blocks(d_keys, s, 'nksd->nskd').astype(keys.dtype),
          _from_blocks(d_values, s, 'nksd->nskd').astype(values.dtype))


def _backward_of_queries(keys, values, key_ids, window, gradients, operands):
  """Adds one block of queries' part to (d_keys, d_values), and returns its d_queries too."""
  queries, d_out, log_sum_exp, delta, ids, (first, end) = operands
  dtype = queries.dtype

  def step(j, gradients):
    d_queries, d_keys, d_values = gradients
    scores = _scores(queries, keys[j], ids, key_ids, j, window)
    weights = jnp.exp(scores - log_sum_exp[..., None])
    d_weights = _product('nkrte,nkse->nkrts', d_out, values[j])
    d_scores = (weights * (d_weights - delta[..., None])).astype(dtype)
    d_queries += _product('nkrts,nksd->nkrtd', d_scores, keys[j])
    d_keys = d_keys.at[j].add(_product('nkrts,nkrtd->nksd', d_scores, queries))
    d_values = d_values.at[j].add(
        _product('nkrts,nkrte->nkse', weights.astype(dtype), d_out))
    return d_queries, d_keys, d_values

  zeros = jnp.zeros(queries.shape, jnp.float32)
  d_queries, *gradients = jax.lax.fori_loop(first, end, step, (zeros, *gradients))
  return tuple(gradients), d_queries.astype(dtype)


def _product(form, *operands):
  return jnp.einsum(form, *operands, preferred_element_type=jnp.float32)


def _scores(queries, keys, ids, key_ids, j, window):
  """[N, K, R, T, S] of one block of queries and block j of keys."""
  of_key = jax.tree.map(lambda x: x[j][:, None, :], key_ids)
  of_query = jax.tree.map(lambda x: x[:, :, None], ids)
  visible = may_attend(of_query, of_key, window)[:, None, None]
  return jnp.where(visible, _product('nkrtd,nksd->nkrts', queries, keys), MASKED_SCORE)


def _prepare(query_ids, key_ids, window, block):
  """(ids of queries, ids of keys: both [blocks, N, block]; each query block's key block range)."""
  queries = _ids_in_blocks(query_ids, block, queries=True)
  keys = _ids_in_blocks(key_ids, block, queries=False)
  ranges = block_range(jnp.any(block_may_attend(queries, keys, window), 0))

  def blocks_first(ids):
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), ids)
  return blocks_first(queries), blocks_first(keys), ranges


def _ids_in_blocks(ids, block, *, queries):
  """[N, T] -> [N, blocks, block]."""
  ids = pad(ids, -ids.segment_ids.shape[1] % block, queries=queries)
  return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, block), ids)


def _to_blocks(x, block, form):
  """[N, T, ...] -> [blocks, ...], the axes of each block ordered as `form` says."""
  n, t = x.shape[:2]
  x = jnp.pad(x, ((0, 0), (0, -t % block)) + ((0, 0),) * (x.ndim - 2))
  x = x.reshape(n, -1, block, *x.shape[2:])
  before, after = form.split('->')
  return jnp.einsum(f'{before[0]}z{before[1:]}->z{after}', x)


def _from_blocks(x, length, form):
  """[blocks, ...] -> [N, `length`, ...], the axes of each block ordered as `form` says."""
  before, after = form.split('->')
  x = jnp.einsum(f'z{before}->{after[0]}z{after[1:]}', x)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
