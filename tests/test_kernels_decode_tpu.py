"""The kernel of decoding attention, interpreted, against one softmax that is written plainly."""
import functools
import importlib.util
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from r1jax.kernels import decode_steps, decode_tpu
from r1jax.kernels.decode import KeySet
from r1jax.kernels.decode_cost import DecodeCost, SetCost


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Several blocks even of short sets; 128 columns are the fewest."""
  monkeypatch.setattr(decode_steps, '_BLOCK_BYTES', 1)


class Case(NamedTuple):
  rows: int
  heads: tuple            # K, R
  widths: tuple           # D, E
  columns: tuple          # of a set that rows share, and of their own
  owners: tuple = (0,)    # repeated for all rows
  latent: bool = False
  dtype: str = 'float32'
  cache: str | None = None


CASES = {
    'several blocks, odd columns, groups of three heads': Case(
        11, (2, 3), (16, 16), (200, 300), (0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2)),
    'one row, one column each': Case(1, (1, 1), (8, 8), (1, 1)),
    'whole registers of values, owners that come again': Case(
        9, (1, 2), (8, 128), (129, 256), (1, 0, 1)),
    'latents: one key for more heads than a shared product has': Case(
        10, (1, 40), (8, 24), (130, 130), (0, 0, 1), latent=True),
    'int8 with scales': Case(9, (3, 1), (8, 8), (130, 257), (0, 1), cache='int8'),
    'fp8 with scales, latent': Case(
        8, (1, 8), (8, 16), (100, 140), latent=True, cache='float8_e4m3fn'),
    'bfloat16': Case(8, (2, 2), (16, 128), (128, 140), (0, 1), dtype='bfloat16'),
}


def made(case, seed=0, layers=2):
  """(arguments of `decode_attention`, its value queries)."""
  rng = np.random.default_rng(seed)
  (k, r), (d, e), n = case.heads, case.widths, case.rows

  def draw(*shape, dtype=case.dtype):
    return jnp.asarray(rng.normal(0, 1.5, shape), dtype)

  def key_set(m, s, owners):
    arrays, scales = [draw(layers, m, k, d, s), draw(layers, m, k, s, e)], []
    if case.cache:
      arrays = [(40 * x).astype(case.cache) for x in arrays]
      scales = [jnp.asarray(rng.uniform(0.01, 0.05, (layers, m, k, s)), 'float32')
                for _ in arrays]
    counts = np.resize([s, 0, s // 2, 1, s - 1, s // 2], n)
    firsts = np.resize([0, 0, s - 1, s - 1, s // 3, s - s // 4], n)
    return KeySet(*arrays, owners, *(jnp.asarray(x, jnp.int32) for x in (firsts, counts)), *scales)
  owners = jnp.asarray(np.resize(case.owners, n), jnp.int32)
  shared, own = case.columns
  sets = [key_set(max(case.owners) + 2, shared, owners), key_set(n + 1, own, None)]
  value_queries = draw(n, k, r, e) / (d + e) ** 0.5 if case.latent else None
  return (draw(n, k, r, d) / (d + e * case.latent) ** 0.5, draw(n, k, d), draw(n, k, e),
          jnp.int32(layers - 1), sets), value_queries


def softmax_of(row, arguments, value_queries):
  """[K, R, E] of one row, in float64."""
  queries, own_keys, own_values, layer, sets = arguments
  keys, values = [own_keys[row][..., None]], [own_values[row][:, None]]
  for one in sets:
    m = row if one.owners is None else one.owners[row]
    columns = (one.firsts[row] + np.arange(one.counts[row])) % one.keys.shape[-1]
    for arrays, array, scales, at in ((keys, one.keys, one.key_scales, (..., columns)),
                                      (values, one.values, one.value_scales, (
                                          slice(None), columns))):
      array = np.asarray(array[layer, m], np.float64)[at]
      if scales is not None:
        scales = np.asarray(scales[layer, m], np.float64)[:, columns]
        array = array * (scales[:, None] if arrays is keys else scales[..., None])
      arrays.append(array)
  keys, values = np.concatenate(keys, -1), np.concatenate(values, 1)
  scores = np.einsum('krd,kds->krs', np.asarray(queries[row], np.float64), keys)
  if value_queries is not None:
    scores += np.einsum('kre,kse->krs', np.asarray(value_queries[row], np.float64), values)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  return np.einsum('krs,kse->kre', weights / weights.sum(-1, keepdims=True), values)


@jax.jit
def attend(arguments, value_queries=None):
  return decode_tpu.decode_attention(*arguments, value_queries=value_queries, interpret=True)


@pytest.mark.parametrize('name', CASES)
def test_it_is_one_softmax_over_the_token_and_what_the_row_reads(name):
  """Counts are 0, 1, some, all but one and all; some wrap around the end of the columns."""
  arguments, value_queries = made(CASES[name])
  got = attend(arguments, value_queries)
  assert got.dtype == CASES[name].dtype
  host = jax.tree.map(np.asarray, (arguments, value_queries))
  want = [softmax_of(row, *host) for row in range(CASES[name].rows)]
  tolerance = 0.02 if got.dtype == jnp.bfloat16 else 2e-6
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance, rtol=tolerance)


def test_without_sets_a_token_sees_itself():
  (queries, keys, values, layer, _), _ = made(CASES['one row, one column each'])
  np.testing.assert_allclose(attend((queries, keys, values, layer, []))[:, :, 0], values, rtol=1e-6)


def changed_for_others(arguments, keep, value):
  """All that rows but those in `keep` are and read, and what these do not read, is `value`."""
  queries, own_keys, own_values, layer, sets = jax.tree.map(np.array, arguments)
  others = [row for row in range(len(queries)) if row not in keep]
  for x in (queries, own_keys, own_values):
    x[others] = value
  for one in sets:
    read = np.zeros((one.keys.shape[1], one.keys.shape[-1]), bool)
    for row in keep:
      m = row if one.owners is None else one.owners[row]
      read[m, (one.firsts[row] + np.arange(one.counts[row])) % read.shape[1]] = True
    np.moveaxis(one.keys, -1, 2)[:, ~read] = value
    np.moveaxis(one.values, -2, 2)[:, ~read] = value
    for x in (one.keys, one.values):
      x[:layer], x[layer + 1:] = value, value
    one.firsts[others], one.counts[others] = 3, 5
    if one.owners is not None:
      one.owners[others] = 0
  return queries, own_keys, own_values, layer, sets


@pytest.mark.parametrize('value', [7, np.nan], ids=str)
def test_a_row_does_not_depend_on_any_other_nor_on_what_it_does_not_read(value):
  """Bit for bit; a token that a row does not read may be no number."""
  case = CASES['several blocks, odd columns, groups of three heads']
  arguments, _ = made(case)
  keep = [0, 2, 8, 9]      # owners 0, 0, 1 and 2; row 1 reads no column, so 0 and 2 share alone
  same = attend(changed_for_others(arguments, keep, value))[np.array(keep)]
  assert np.all(np.isfinite(same))
  np.testing.assert_array_equal(same, attend(arguments)[np.array(keep)])


def test_a_row_does_not_depend_on_its_place_nor_on_the_number_of_rows_and_columns():
  arguments, _ = made(CASES['whole registers of values, owners that come again'])
  order = np.array([4, 3, 8, 0, 1, 2, 7, 6, 5, 4, 3, 2, 1, 0, 8, 7, 6])

  def reordered(one):
    own = one.owners is None
    keys, values = (x[:, order] if own else x for x in (one.keys, one.values))
    if not own:
      keys = jnp.pad(keys, ((0, 0),) * 4 + ((0, 300),))
      values = jnp.pad(values, ((0, 0),) * 3 + ((0, 300), (0, 0)))
    return KeySet(keys, values, None if own else one.owners[order], one.firsts[order],
                  one.counts[order])
  queries, own_keys, own_values, layer, (shared, own) = arguments
  shared = shared._replace(firsts=shared.firsts // 2, counts=shared.counts // 2)
  got = attend((queries[order], own_keys[order], own_values[order], layer,
                [reordered(shared), reordered(own)]))
  want = attend((queries, own_keys, own_values, layer, [shared, own]))
  np.testing.assert_array_equal(got, want[order])


def test_rows_whose_steps_do_not_fit_into_scalar_memory_are_computed_in_parts(monkeypatch):
  arguments, _ = made(CASES['several blocks, odd columns, groups of three heads'])
  want = attend(arguments)
  monkeypatch.setattr(decode_steps, '_MOST_SCALARS', 8 * 24)
  assert [len(part.sets[0].counts) for part in decode_steps.make_steps(11, arguments[-1])] == [8, 3]
  np.testing.assert_array_equal(jax.jit(functools.partial(
      decode_tpu.decode_attention, interpret=True))(*arguments), want)


@pytest.mark.parametrize('seed', range(3))
def test_blocks_are_fetched_by_those_who_read_them_and_once_for_those_who_share(seed):
  """As the index maps of the keys say, along each half of the grid."""
  rng = np.random.default_rng(seed)
  n, owners = 21, np.sort(rng.integers(0, 4, 21))
  shapes = dict(shared=(5, 300), own=(n, 500))
  sets, want = [], []
  for name, (m, s) in shapes.items():
    firsts, counts = rng.integers(0, s, n), rng.choice([0, 0, 1, 130, s], n)
    reads = [((owners[row] if name == 'shared' else row), block)
             for row in range(n)
             for block in set((firsts[row] + np.arange(counts[row])) % s // 128)]
    if name == 'shared':
      reads = {(row // 8, owner, block) for row in range(n)
               for owner, block in reads_of(row, owners[row], firsts, counts, s)}
    want.append(len(reads))
    sets.append(KeySet(
        jnp.zeros((1, m, 1, 8, s)), jnp.zeros((1, m, 1, s, 8)),
        jnp.asarray(owners) if name == 'shared' else None, jnp.asarray(firsts),
        jnp.asarray(counts)))
  steps, = jax.tree.map(np.asarray, decode_steps.make_steps(n, sets))
  fetched = [0, 0]
  for i, one in enumerate(sets):
    shape = decode_steps.SetShape.of(one)
    spec = decode_tpu._of_set(i, shape, *decode_tpu._arrays(one, shape))[0]
    for half, count in enumerate(steps.counts):
      places = [tuple(map(int, spec.index_map(half, step, steps, np.zeros(1, int))))
                for step in range(int(max(steps.counts)))]
      used = [place for step, place in enumerate(places)
              if step < count and steps.kinds[steps.starts[half] + step] == i]
      moves = sum(a != b for a, b in zip(places, places[1:])) + 1
      assert moves <= len(used) + 1     # one more for the place before the first
      fetched[i] += len(used)
  assert fetched == want
  empty = sum(not any(np.any(x.counts[at:at + 8] > 0) for x in sets) for at in range(0, n, 8))
  assert steps.counts.sum() == sum(want) + empty


def reads_of(row, owner, firsts, counts, s):
  return {(owner, block) for block in (firsts[row] + np.arange(counts[row])) % s // 128}


def test_its_cost_is_counted_by_what_rows_read():
  """Halves of blocks that rows do not need are fetched, and counted."""
  own, shared = SetCost(False, 64, 1024, 256, 4096), SetCost(True, 8, 200, 128, 4096)
  cost = DecodeCost(64, 10, 1000, (shared, own))
  assert DecodeCost.from_json(cost.to_json()) == cost
  assert cost.total() == (64 * 1224 * 10, 1000 + 4096 * (64 * 1024 + 8 * 200))
  assert cost.total(own=300, shared=72) == (64 * 372 * 10, 1000 + 4096 * (64 * 428 + 8 * 136))
  assert cost.total(own=9999, shared=0) == (64 * 1024 * 10, 1000 + 4096 * 64 * 1024)


def test_it_lowers_for_tpu_where_there_is_none():
  for case in CASES.values():
    arguments, value_queries = made(case)
    traced = jax.jit(functools.partial(decode_tpu.decode_attention)).trace(
        *arguments, value_queries=value_queries)
    assert traced.lower(lowering_platforms=('tpu',)).as_text().count('tpu_custom_call') == 1


COMPILED = '''
from r1jax.plan.topology import open_topology, prepare_environment
prepare_environment('v5e:1x1')
import jax, jax.numpy as jnp
from r1jax.kernels.cache_write import write_tokens
from r1jax.kernels.decode import KeySet, decode_attention, make_steps
from r1jax.runtime import sharding
mesh = sharding.make_mesh(1, 1, open_topology('v5e:1x1').devices)
at = jax.NamedSharding(mesh, jax.P())
def like(*shape, dtype='int8'):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=at)
def decode(keys, values, scales, counts, x):
  def token(i, cache):
    one = KeySet(*cache[:2], None, 0 * counts, counts + i, scales, scales)
    steps = make_steps([one])
    def layer(x, number):
      out = decode_attention(x, x[:, :, 0], x[:, :, 0], number, [one], steps=steps)
      return out, out[:, :, 0]
    x, new = jax.lax.scan(layer, cache[2], jnp.arange(4))
    return (write_tokens(cache[0], new, counts + i, axis=-1),
            write_tokens(cache[1], new, counts + i, axis=-2), x)
  return jax.lax.fori_loop(0, 32, token, (keys, values, x))
with sharding.use(mesh):
  for width in 128, 64:
    done = jax.jit(decode, donate_argnums=(0, 1)).lower(
        like(4, 256, 3, width, 1024), like(4, 256, 3, 1024, width),
        like(4, 256, 3, 1024, dtype='float32'), like(256, dtype='int32'),
        like(256, 3, 3, width, dtype='bfloat16')).compile().memory_analysis()
    assert done.temp_size_in_bytes < 256 * 3 * width * 1024, done    # a layer's keys
'''


def test_compiled_for_tpu_tokens_are_read_and_written_in_place():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is not installed: the extra `plan` has it')
  done = subprocess.run([sys.executable, '-c', COMPILED], capture_output=True, text=True,
                        cwd=runs.ROOT, check=False)
  assert done.returncode == 0, done.stderr
