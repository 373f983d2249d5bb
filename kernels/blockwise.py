"""`flash_attention` in plain JAX: a loop over blocks of queries, and in it one over those of keys."""
import jax
import jax.numpy as jnp

from r1jax.kernels.marks import blocks_seen, padded, seen_range, sees

NEVER = -1e30    # a masked score, and the log-sum-exp of a query that sees nothing
LOWEST = -1e29   # below every score, and exp(NEVER − LOWEST) is 0


def forward(queries, keys, values, query_marks, key_marks, *, window, block):
  """As `flash_attention`, in blocks of `block` queries and keys."""
  n, t, k, r, _ = queries.shape
  marks, key_blocks, ranges = _prepare(query_marks, key_marks, window, block)
  keys, values = _blocks(keys, block, 'nskd->nksd'), _blocks(values, block, 'nskd->nksd')

  def of_queries(operands):
    queries, marks, (first, end) = operands

    def step(j, state):
      largest, total, out = state
      scores = _scores(queries, keys[j], marks, key_blocks, j, window)
      larger = jnp.maximum(largest, jnp.max(scores, -1))
      weights = jnp.exp(scores - larger[..., None])
      shrink = jnp.exp(largest - larger)
      total = total * shrink + jnp.sum(weights, -1)
      out = out * shrink[..., None] + _product(
          'nkrts,nkse->nkrte', weights.astype(values.dtype), values[j])
      return larger, total, out

    rows = jnp.zeros(queries.shape[:-1], jnp.float32)
    out = jnp.zeros((*rows.shape, values.shape[-1]), jnp.float32)
    largest, total, out = jax.lax.fori_loop(first, end, step, (rows + LOWEST, rows, out))
    some = total > 0
    safe = jnp.where(some, total, 1)
    return ((out / safe[..., None]).astype(queries.dtype),
            jnp.where(some, largest + jnp.log(safe), NEVER))

  out, log_total = jax.lax.map(
      of_queries, (_blocks(queries, block, 'ntkrd->nkrtd'), marks, ranges))
  return _whole(out, t, 'nkrte->ntkre'), _whole(log_total, t, 'nkrt->ntkr')


def backward(
    queries, keys, values, query_marks, key_marks, log_total, out_slope, drop, *, window, block):
  """The slopes of queries, keys and values; log_total and drop [N, T, K, R] as `flash` has them."""
  t, s = queries.shape[1], keys.shape[1]
  marks, key_blocks, ranges = _prepare(query_marks, key_marks, window, block)
  dtype = queries.dtype
  operands = (
      _blocks(queries, block, 'ntkrd->nkrtd'),
      _blocks(out_slope.astype(dtype), block, 'ntkre->nkrte'),
      _blocks(log_total, block, 'ntkr->nkrt'), _blocks(drop, block, 'ntkr->nkrt'), marks, ranges)
  keys, values = _blocks(keys, block, 'nskd->nksd'), _blocks(values, block, 'nskd->nksd')

  def of_queries(slopes, operands):
    queries, out_slope, log_total, drop, marks, (first, end) = operands

    def step(j, slopes):
      d_queries, d_keys, d_values = slopes
      scores = _scores(queries, keys[j], marks, key_blocks, j, window)
      weights = jnp.exp(scores - log_total[..., None])
      d_weights = _product('nkrte,nkse->nkrts', out_slope, values[j])
      d_scores = (weights * (d_weights - drop[..., None])).astype(dtype)
      d_queries += _product('nkrts,nksd->nkrtd', d_scores, keys[j])
      d_keys = d_keys.at[j].add(_product('nkrts,nkrtd->nksd', d_scores, queries))
      d_values = d_values.at[j].add(
          _product('nkrts,nkrte->nkse', weights.astype(dtype), out_slope))
      return d_queries, d_keys, d_values

    zeros = jnp.zeros(queries.shape, jnp.float32)
    d_queries, *slopes = jax.lax.fori_loop(first, end, step, (zeros, *slopes))
    return tuple(slopes), d_queries.astype(dtype)

  empty = lambda x: jnp.zeros(x.shape, jnp.float32)
  (d_keys, d_values), d_queries = jax.lax.scan(of_queries, (empty(keys), empty(values)), operands)
  return (_whole(d_queries, t, 'nkrtd->ntkrd'),
          _whole(d_keys, s, 'nksd->nskd').astype(keys.dtype),
          _whole(d_values, s, 'nksd->nskd').astype(values.dtype))


def _product(form, *operands):
  return jnp.einsum(form, *operands, preferred_element_type=jnp.float32)


def _scores(queries, keys, marks, key_marks, j, window):
  """[N, K, R, T, S] of one block of queries and block j of keys."""
  of_key = jax.tree.map(lambda x: x[j][:, None, :], key_marks)
  of_query = jax.tree.map(lambda x: x[:, :, None], marks)
  seen = sees(of_query, of_key, window)[:, None, None]
  return jnp.where(seen, _product('nkrtd,nksd->nkrts', queries, keys), NEVER)


def _prepare(query_marks, key_marks, window, block):
  """Both sides' marks in blocks, and each query block's range of key blocks."""
  def in_blocks(marks, queries):
    marks = padded(marks, -marks.segments.shape[1] % block, queries=queries)
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, block), marks)

  queries, keys = in_blocks(query_marks, True), in_blocks(key_marks, False)
  ranges = seen_range(jnp.any(blocks_seen(queries, keys, window), 0))
  first = lambda marks: jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), marks)
  return first(queries), first(keys), ranges


def _blocks(x, block, form):
  """[N, T, ...] -> [blocks, ...], the axes of each block ordered as `form` says."""
  n, t = x.shape[:2]
  x = jnp.pad(x, ((0, 0), (0, -t % block)) + ((0, 0),) * (x.ndim - 2))
  x = x.reshape(n, -1, block, *x.shape[2:])
  before, after = form.split('->')
  return jnp.einsum(f'{before[0]}z{before[1:]}->z{after}', x)


def _whole(x, length, form):
  """[blocks, ...] -> [N, `length`, ...], the axes of each block ordered as `form` says."""
  before, after = form.split('->')
  x = jnp.einsum(f'z{before}->{after[0]}z{after[1:]}', x)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
