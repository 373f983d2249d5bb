"""Attention by blocks: both forms against one softmax over a mask that is written down by hand."""
import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_attention_ids import visible

from r1jax.kernels import blockwise, flash, flash_tpu
from r1jax.kernels.attention_ids import AttentionIds
from r1jax.kernels.flash import flash_attention

FORMS = pytest.mark.parametrize('form', ['plain', 'kernel'])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Several blocks even of short rows; the kernel's smallest is 128."""
  monkeypatch.setitem(flash._BLOCKS, 'cpu', 16)
  monkeypatch.setattr(flash_tpu, '_LARGEST', 128)


def attention_of(form):
  """`flash_attention`, whose kernel runs interpreted where the form is 'kernel'."""
  if form == 'plain':
    return flash_attention

  @functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
  def attention(*operands):
    return run(*operands)[0]

  def run(queries, keys, values, query_ids, key_ids, window):
    operands = queries, keys, values, query_ids, key_ids
    results = flash_tpu.forward(*operands, window=window, interpret=True)
    return results, (*operands, *results)

  def back(window, saved, gradients):
    *operands, out, log_sum_exp = saved
    with pytest.MonkeyPatch.context() as patch:
      kernel = functools.partial(flash_tpu.backward, interpret=True, window=window)
      patch.setattr(flash, '_forms', lambda *_: dict(default=kernel))
      return flash._backward(window, (*operands, out, log_sum_exp), gradients)

  attention.defvjp(run, back)
  return attention


def softmax_over(queries, keys, values, seen):
  """The definition; a query that sees nothing gives 0 and −1e30."""
  some = jnp.any(seen, -1)[:, None, None]
  seen = seen[:, None, None]
  scores = jnp.where(seen, jnp.einsum('ntkrd,nskd->nkrts', queries, keys), -1e9)
  total = jax.nn.logsumexp(scores, -1)
  weights = jnp.where(seen, jnp.exp(scores - total[..., None]), 0)
  out = jnp.einsum('nkrts,nske->ntkre', weights, values)
  return out, jnp.moveaxis(jnp.where(some, total, blockwise.MASKED_SCORE), 3, 1)


class Case(NamedTuple):
  tokens: int
  keys: int | None = None       # None: the tokens' own
  heads: tuple = (2, 3)
  widths: tuple = (8, 8)        # D, E
  segments: tuple = (1,)        # each as long as the others, in order
  parents: tuple | None = None
  window: int | None = None
  causal: bool = True


CASES = {
    'one head a key, widths that differ, an odd length': Case(139, heads=(4, 1), widths=(12, 6)),
    'packed completions and their prompts': Case(
        300, segments=(1, 2, 3, 4, 5, 0), parents=(0, 1, 1, 0, 4, 0)),
    'whole blocks, packed, a window': Case(256, heads=(1, 2), segments=(1, 2, 0), window=37),
    'a prefix, of one row nothing real': Case(40, keys=150, causal=False),
    'a prefix and a window': Case(140, keys=140, causal=False, window=50),
}


def made(case, dtype=jnp.float32):
  """(queries, keys, values, query ids, key ids) of two rows that differ."""
  rng = np.random.default_rng(len(str(case)))
  def draw(*shape):
    return jnp.asarray(rng.normal(0, 1.5, shape), dtype)
  t, (k, r), (d, e) = case.tokens, case.heads, case.widths
  s = case.keys or t
  queries, keys, values = draw(2, t, k, r, d) / d ** 0.5, draw(2, s, k, d), draw(2, s, k, e)
  at = np.arange(t) * len(case.segments) // t
  def rows(x):
    return jnp.asarray(np.broadcast_to(x, (2, np.shape(x)[-1])), jnp.int32)
  def each(ids):
    return rows(np.stack([np.asarray(ids)[at], np.roll(np.asarray(ids)[at], 5)]))
  positions = rows(np.arange(t)) + (0 if case.keys is None else s // 2)
  ids = AttentionIds(abs(each(case.segments)), case.parents and each(case.parents),
                rows(np.arange(t)) if case.causal else None,
                None if case.window is None else positions)
  if case.keys is None:
    return queries, keys, values, ids, ids._replace(parent_ids=None)
  real = jnp.asarray(np.arange(s) < [[s - 3], [0]], jnp.int32)
  key_ids = AttentionIds(real, positions=None if case.window is None else rows(np.arange(s)))
  return queries, keys, values, ids, key_ids


@FORMS
@pytest.mark.parametrize('name', CASES)
def test_values_and_gradients_are_those_of_one_softmax(name, form):
  case = CASES[name]
  *arrays, query_ids, key_ids = made(case)
  attention, seen = attention_of(form), visible(query_ids, key_ids, case.window)
  rng = np.random.default_rng(0)
  out_weights = rng.normal(size=(*arrays[0].shape[:-1], case.widths[1])).astype(np.float32)
  total_weights = rng.normal(size=arrays[0].shape[:-1]).astype(np.float32)

  def both(attend):
    def loss(arrays):
      out, log_sum_exp = attend(*arrays)
      return jnp.sum(out * out_weights) + jnp.sum(
          jnp.where(log_sum_exp > blockwise.LOWEST_SCORE, log_sum_exp, 0) * total_weights), (
              out, log_sum_exp)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)

  got = both(lambda *x: attention(*x, query_ids, key_ids, case.window))
  want = both(lambda *x: softmax_over(*x, seen))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@FORMS
def test_bfloat16_is_summed_in_float32(form):
  """Forward and backward; what is rounded are operands and results."""
  *arrays, query_ids, key_ids = made(Case(300), jnp.bfloat16)
  gradient = jnp.asarray(np.random.default_rng(0).normal(1, 1, arrays[0].shape), jnp.bfloat16)

  @functools.partial(jax.jit, static_argnums=0)
  def both(attend, arrays, gradient, *ids):
    (out, log_sum_exp), back = jax.vjp(lambda *x: attend(*x, *ids), *arrays)
    return out, *back((gradient, jnp.zeros_like(log_sum_exp))), log_sum_exp
  *got, log_sum_exp = both(attention_of(form), arrays, gradient, query_ids, key_ids, None)
  assert {x.dtype for x in got} == {jnp.dtype('bfloat16')} and log_sum_exp.dtype == jnp.float32
  *want, exact_total = both(softmax_over, *jax.tree.map(jnp.float32, (arrays, gradient)),
                            visible(query_ids, key_ids, None))
  np.testing.assert_allclose(log_sum_exp, exact_total, atol=1e-4)
  np.testing.assert_allclose(got[0].astype(jnp.float32), want[0], atol=0.02)
  # A sum of bfloat16 blocks has more than 0.004, gradients of queries more than 0.005.
  for a, b, limit in zip(got, want, (0.0025, 0.0045, 0.0025, 0.0025)):
    assert np.linalg.norm(jnp.ravel(a - b)) < limit * np.linalg.norm(jnp.ravel(b))


def test_sets_of_keys_merge_exactly_by_their_log_sum_exps():
  """Value and gradient: the keys cut in two anywhere, and a set that no query sees."""
  *arrays, query_ids, key_ids = made(Case(70, segments=(1, 2, 3, 0)))
  slices = slice(0, 31), slice(31, None), slice(0, 20)

  def columns(at):
    return jax.tree.map(lambda x: x[:, at], key_ids)
  ids = [columns(at) for at in slices]
  ids[2] = ids[2]._replace(segment_ids=ids[2].segment_ids + 9)

  def merged(queries, keys, values):
    outs, log_sum_exps = zip(*(flash_attention(
        queries, keys[:, at], values[:, at], query_ids, m, None) for at, m in zip(slices, ids)))
    log_sum_exps = jnp.stack(log_sum_exps)
    weights = jnp.exp(log_sum_exps - jax.nn.logsumexp(log_sum_exps, 0))[..., None]
    return sum(w * out for w, out in zip(weights, outs))

  def whole(*x):
    return flash_attention(*x, query_ids, key_ids, None)[0]
  gradients = np.random.default_rng(1).normal(size=arrays[0].shape).astype(np.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def both(f, arrays):
    out, back = jax.vjp(f, *arrays)
    return out, *back(gradients)
  for a, b in zip(both(merged, arrays), both(whole, arrays)):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), rtol=1e-5)


@FORMS
def test_blocks_that_no_query_sees_are_not_computed(form, monkeypatch):
  """What stands there is not a number, and a number it would become if it were touched."""
  computed = []
  module = dict(plain=blockwise, kernel=flash_tpu)[form]
  scores = module._scores

  def counted(*operands):
    jax.debug.callback(computed.append, 0)
    return scores(*operands)
  monkeypatch.setattr(module, '_scores', counted)
  monkeypatch.setitem(flash._BLOCKS, 'cpu', 128)
  queries, keys, values, query_ids, key_ids = made(Case(384, heads=(1, 1)))
  late = np.arange(384)[None, :, None, None] >= 256
  values = jnp.where(late, jnp.nan, values)
  gradient = jnp.where(late[..., None], 0.0, jnp.ones((2, 384, 1, 1, 8)))
  attention = attention_of(form)
  (out, _), back = jax.vjp(
      lambda q, k, v: attention(q, k, v, query_ids, key_ids, None), queries, keys, values)
  assert np.all(np.isfinite(out[:, :256])) and not np.any(np.isfinite(out[:, 256:]))
  d_queries, _, _ = back((gradient, jnp.zeros(gradient.shape[:-1])))
  assert np.all(np.isfinite(d_queries[:, :256]))
  jax.effects_barrier()
  # Six of nine blocks in each pass; the kernels take each row alone, and two go backward.
  assert len(computed) == dict(plain=2 * 6, kernel=2 * 3 * 6)[form]


def test_blocks_that_no_query_sees_are_not_fetched(monkeypatch):
  """Of the arrays that move along the kernels' innermost axis, as their index maps say."""
  pallas_call, fetched = pl.pallas_call, []

  def watched(kernel, *, grid_spec, **options):
    def run(first, end, *operands):
      def blocks(spec):
        return {
                (*place[:-1], *map(int, spec.index_map(*place, first, end)))
                for place in np.ndindex(*grid_spec.grid)}
      fetched.append([len(blocks(spec)) for spec in grid_spec.in_specs])
      return pallas_call(kernel, grid_spec=grid_spec, **options)(first, end, *operands)
    return run
  monkeypatch.setattr(flash_tpu.pl, 'pallas_call', watched)
  operands = made(Case(384, heads=(1, 1)))
  out, log_sum_exp = flash_tpu.forward(*operands, window=None, interpret=True)
  flash_tpu.backward(*operands, log_sum_exp, out, log_sum_exp, window=None, interpret=True)
  stay, move = 2 * 3, 2 * 6     # of two rows: all blocks, the pairs that are seen
  queries_move = [move, stay, stay, move, stay, move, move, move]
  keys_move = [stay, move, move, stay, move, stay, stay, stay]
  assert fetched == [keys_move[:5], keys_move, queries_move]


def temporary_bytes(length):
  def like(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)
  ids = like(1, length, dtype=jnp.int32)

  def loss(arrays, ids):
    ids = AttentionIds(ids, None, ids)
    return jnp.sum(flash_attention(*arrays, ids, ids)[0])
  shapes = like(1, length, 1, 2, 16), like(1, length, 1, 16), like(1, length, 1, 16)
  return jax.jit(jax.grad(loss)).lower(shapes, ids).compile().memory_analysis().temp_size_in_bytes


def test_temporary_memory_grows_with_length_and_not_with_its_square(monkeypatch):
  monkeypatch.setitem(flash._BLOCKS, 'cpu', 128)
  short, middle, long = map(temporary_bytes, (2048, 4096, 8192))
  assert middle < 2.5 * short and long < 2.5 * middle
  assert long < 8192 ** 2      # a quarter of one head's scores


def test_on_tpu_it_is_the_kernel_and_elsewhere_not():
  *arrays, query_ids, key_ids = made(Case(200))
  def loss(x):
    return jnp.sum(flash_attention(*x, query_ids, key_ids)[0])
  traced = jax.jit(jax.grad(loss)).trace(arrays)
  def calls(platform):
    return traced.lower(
        lowering_platforms=(platform,)).as_text().count('tpu_custom_call')
  assert calls('tpu') == 3      # forward, gradients of queries, gradients of keys and values
  assert calls('cpu') == calls('cuda') == 0


@pytest.mark.parametrize('change, message', [
    (dict(keys=jnp.ones((2, 20, 2, 9))), r'keys \(2, 20, 2, 9\) and values'),
    (dict(values=jnp.ones((2, 19, 2, 8))), r'values \(2, 19, 2, 8\) do not match'),
    (dict(query_ids=AttentionIds(jnp.ones((2, 20)))),
     'query segment_ids must be int32.*got float32'),
    (dict(key_ids=AttentionIds(jnp.ones((2, 20), jnp.int32))), 'order is given for one side only'),
    (dict(window=4), 'window=4 needs positions of both'),
])
def test_what_does_not_fit_is_refused(change, message):
  names = 'queries', 'keys', 'values', 'query_ids', 'key_ids'
  arguments = dict(zip(names, made(Case(20)))) | dict(window=None) | change
  with pytest.raises(ValueError, match=message):
    flash_attention(*arguments.values())
