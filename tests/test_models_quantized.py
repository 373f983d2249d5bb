"""Eight-bit weights: how far rounding moves them, and products that equal those of rounded ones."""
import dataclasses
import math

from decoding_caches import decoding_cache
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models_families import CONFIGS

from r1jax.models import build, experts, quantized, transformer
from r1jax.models.quantized import Quantized, dequantize, quantize
from r1jax.plan import hlo
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampler

ORDINARY = dict(tiny=None) | CONFIGS


def is_quantized(x):
  return isinstance(x, Quantized)


def columns():
  """Columns of very different sizes: zero, subnormal, near the largest float, one outlier."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, 9)) * 10.0 ** np.array([-44, -38, -30, -3, 0, 3, 30, 37, 0])
  x[:, 4], x[:, 8] = 0, rng.normal(size=64) * 1e-3
  x[5, 8] = 100
  return jnp.asarray(x, jnp.float32)


def subnormal(x):
  """Where numbers are so small that a device may read them as 0."""
  return np.abs(x) < np.finfo(np.float32).tiny


def test_int8_is_within_half_a_scale():
  x = columns()
  found = quantize(x, (0,))
  assert found.values.dtype == jnp.int8 and found.scales.shape == (1, 9)
  error = np.abs(np.float64(x) - np.float64(found.values) * np.float64(found.scales))
  assert np.all((error <= np.float64(found.scales) * 0.5 * (1 + 1e-4)) | subnormal(x))
  used = np.max(np.abs(np.int32(found.values)), 0)
  assert list(used[[0, 4]]) == [0, 0] and np.all(used[[2, 3, 5, 6, 7, 8]] == 127)
  np.testing.assert_array_equal(quantize(dequantize(found), (0,)).values, found.values)


def test_fp8_is_within_a_sixteenth_or_half_its_smallest_step():
  x = columns()
  found = quantize(x, (0,), 'float8_e4m3fn')
  assert found.values.dtype == jnp.float8_e4m3fn
  error = np.abs(np.float64(x) - np.float64(found.values) * np.float64(found.scales))
  bound = np.maximum(np.abs(np.float64(x)) / 16, np.float64(found.scales) * 2.0 ** -10)
  assert np.all((error <= bound * (1 + 1e-4)) | subnormal(x))
  assert np.isfinite(np.float64(found.values)).all()


@pytest.mark.parametrize('form, x, matrix, axes', [
    ('na,ab->nb', (3, 5), (5, 7), (0,)),
    ('ntd,dgf->ntgf', (2, 3, 5), (5, 2, 4), (0,)),
    ('nd,edf->nef', (3, 5), (4, 5, 6), (1,)),
    ('new,ewd->end', (3, 4, 5), (4, 5, 6), (1,)),
    ('nthd,ehd->nthe', (2, 1, 3, 4), (6, 3, 4), (0,)),       # summed over an axis with scales
    ('nthe,ehv->nthv', (2, 1, 3, 6), (6, 3, 4), (0,)),
])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_products_equal_those_of_the_rounded_matrix(form, x, matrix, axes, dtype, strict_ranks):
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=x), dtype)
  matrix = jnp.asarray(rng.normal(size=matrix) * rng.lognormal(0, 2, matrix[-1]), jnp.float32)
  found = quantize(matrix, axes)
  got = quantized.einsum(form, x, found)
  want = jnp.einsum(form, x.astype(jnp.float32), dequantize(found))
  assert got.dtype == dtype
  tolerance = 1e-5 if dtype == 'float32' else 0.02
  np.testing.assert_allclose(
      got.astype(jnp.float32), want, rtol=tolerance, atol=tolerance * float(jnp.max(jnp.abs(want))))


@pytest.mark.parametrize('name', ORDINARY)
def test_every_family_computes_with_the_rounded_matrices(name, tiny, prompts, random_params):
  """Whole prompts and a decoded token; the parameters that are not matrices are as given."""
  model = tiny.model if name == 'tiny' else build(CONFIGS[name])
  params = random_params(model)
  int8 = transformer.for_decoding(params, 'float32', model.logical_axes, weight_dtype='int8')
  names = {path[-1].key for path, x in jax.tree_util.tree_leaves_with_path(
      int8, is_leaf=is_quantized) if is_quantized(x)}
  stacked = jax.tree_util.tree_leaves_with_path(model.logical_axes, is_leaf=is_tuple)
  assert names == {path[-1].key for path, axes in stacked if path[-1].key not in
                   ('embedding', 'unembedding', 'scale', 'router', 'balancing_bias')}

  @jax.jit
  def run(params):
    positions, segments = transformer.prompt_segments(prompts.tokens, prompts.lengths)
    hidden, new_kv, _ = model.apply(
        params, prompts.tokens, positions=positions, segment_ids=segments)
    cache = decoding_cache(model.config, new_kv, prompts.lengths, group_size=1, size=3)
    tokens = prompts.tokens[:, :1]
    decoded, _, _ = model.apply(params, tokens, positions=prompts.lengths[:, None],
                                segment_ids=jnp.ones_like(tokens), cache=cache)
    real = hidden * (segments != 0)[..., None]
    return model.unembed(params, jnp.concatenate([real, decoded], 1))

  def rounded(path, x):
    axes = quantized.SUMMED_AXES.get(path[-1].key)
    return x if axes is None else dequantize(quantize(x, axes))
  want = run(jax.tree_util.tree_map_with_path(rounded, params))
  np.testing.assert_allclose(run(int8), want, atol=2e-5 * float(jnp.max(jnp.abs(want))))


def is_tuple(x):
  return isinstance(x, tuple)


@pytest.mark.parametrize('form', ['by expert', 'in blocks', 'all experts'])
def test_experts_in_all_their_forms(form, monkeypatch):
  """Experts 2 to 4 of 8, as with their rounded matrices."""
  rng = np.random.default_rng(7)
  x, gate_up, down = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                      for shape in ((4, 10, 6), (3, 6, 2, 5), (3, 5, 6)))
  weights = jnp.asarray(rng.random((4, 10, 2)), jnp.float32)
  chosen = rng.integers(0, 8, (4, 10, 2))
  if form == 'in blocks':
    monkeypatch.setattr(experts, 'MIN_BLOCK', 24)
  if form == 'all experts':
    monkeypatch.setattr(experts.sharding, 'platform', lambda: 'tpu')
  matrices = quantize(gate_up, (-3,)), quantize(down, (-2,))

  @jax.jit
  def run(matrices):
    return experts.run_experts(x, chosen, weights, *matrices, 'silu', first=2, share=8)
  np.testing.assert_allclose(
      run(matrices), run([dequantize(one) for one in matrices]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name, rollout_sharding', [('tiny', 'train'), ('deepseek_v3', 'tensor')])
def test_a_mesh_rounds_as_one_device_does(
    name, rollout_sharding, tiny, prompts, random_params):
  """The same eight-bit numbers, split over the devices, and rollouts equal up to rounding."""
  model = tiny.model if name == 'tiny' else build(CONFIGS[name])
  params = random_params(model)

  def sample(params, prompts):
    sampler = Sampler(model, weight_dtype='int8', cache_dtype='int8', group_size=2, chunk=4,
                      max_new_tokens=4, stop_ids=(3, 8), rollout_sharding=rollout_sharding)
    return sampler.programs.reshard(params), sampler(params, prompts, 0)
  alone = sample(params, prompts)
  mesh = sharding.make_mesh(2, 2, jax.devices()[:8], expert=2)
  with sharding.use(mesh):
    placed = sharding.put(params, sharding.shardings(mesh, model.logical_axes, params))
    split = sample(placed, sharding.place(prompts, mesh, batch=True))
  down = split[0]['stacks']['stack_0']['mlp']['down']
  assert not down.values.sharding.is_fully_replicated
  for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(alone[0]),
                                jax.tree.leaves(split[0])):
    if one.dtype == jnp.int8 and 'gate_up' not in path[-2].key:   # these are laid out by device
      np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(split[1].tokens * split[1].mask, alone[1].tokens * alone[1].mask)
  np.testing.assert_allclose(split[1].behaviour_logprobs * split[1].mask,
                             alone[1].behaviour_logprobs * alone[1].mask, atol=1e-4)


def test_an_unknown_weight_dtype_is_refused(tiny):
  with pytest.raises(ValueError, match="weight_dtype='int4' is unknown: .*int8"):
    Sampler(tiny.model, group_size=1, max_new_tokens=1, stop_ids=(1,), weight_dtype='int4')


@pytest.mark.parametrize('repeats', [1, 3])
def test_no_loop_over_tokens_begins_with_a_wide_copy_of_the_matrices(repeats, tiny):
  """Not even of the only layer of a run, which is no loop to XLA."""
  config = dataclasses.replace(tiny.model.config, num_layers=repeats, mlp_width=29,
                               layers=((('dense',), repeats),))
  model = build(config)
  params = jax.jit(model.init)(jax.random.key(0))
  int8 = transformer.for_decoding(params, 'float32', model.logical_axes, weight_dtype='int8')
  segments = jnp.ones((2, 1), jnp.int32)

  @jax.jit
  def run(params, tokens):
    def step(_, tokens):
      hidden, _, _ = model.apply(params, tokens, positions=segments, segment_ids=segments)
      return jnp.argmax(model.unembed(params, hidden), -1).astype(jnp.int32)
    return jax.lax.fori_loop(0, 5, step, tokens)
  module = hlo.parse(run.lower(int8, segments).compile().as_text())
  sizes = {x.size for x in jax.tree.leaves(int8) if x.dtype == jnp.int8}
  before = [one for one in module.computations[module.entry].values()
            for shape in one.shapes if shape.dtype == 'f32' and math.prod(shape.dims) in sizes]
  assert not before
