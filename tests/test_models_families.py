"""What holds for every family: decoding, packing, gradients, files, counts, devices."""
import dataclasses
import functools
import json
import operator
from typing import Any

from decoding_caches import advanced, decoding_cache
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1jax.models import (
  Experts,
  Latent,
  LinearScaling,
  ModelConfig,
  YarnScaling,
  attention,
  build,
  flops_per_token,
  grouped_product,
  hf_config,
  huggingface,
  kv_cache,
  moe,
  num_params,
  transformer,
)
from r1jax.models.config import as_runs
from r1jax.runtime import sharding
from r1jax.training.optimizers import make_optimizer

SIZES: dict[str, Any] = dict(vocab_size=40, width=16, num_heads=4, head_dim=8, mlp_width=24)
CONFIGS = {
    'qwen3_moe': ModelConfig(
        family='qwen3_moe', **SIZES, num_layers=4, num_kv_heads=2, qk_norm=True,
        tied_embedding=False, layers=((('dense', 'experts'), 2),),
        experts=Experts(count=6, per_token=2, width=8)),
    'gemma3': ModelConfig(
        family='gemma3_text', **SIZES, num_layers=5, num_kv_heads=1, qk_norm=True,
        layers=((('local', 'dense'), 2), (('local',), 1)), window=3, local_rope_theta=100.0,
        rope_scaling=LinearScaling(4.0), query_scale=12.0, offset_norms=True, post_norms=True,
        scaled_embedding=True, activation='gelu_tanh'),
    'deepseek_v3': ModelConfig(
        family='deepseek_v3', **SIZES | dict(head_dim=10), num_layers=3, num_kv_heads=4,
        rope_scaling=YarnScaling(original_max_length=16, mscale_all_dim=0.7),
        tied_embedding=False, layers=((('dense',), 1), (('experts',), 2)),
        experts=Experts(count=8, per_token=2, width=8, routing='sigmoid', scale=2.5, groups=4,
                        groups_per_token=2, shared=1),
        latent=Latent(rank=12, rope_dim=4, value_dim=6, query_rank=14), prediction_head=True),
}
FAMILIES = pytest.mark.parametrize('name', CONFIGS)
EXPERTS = pytest.mark.parametrize('name', ['qwen3_moe', 'deepseek_v3'])


@pytest.fixture(scope='module')
def made(random_params):
  """f(name) -> (model, params, forward(tokens, positions, segment_ids) -> hidden states)."""
  @functools.cache
  def make(name):
    model = build(CONFIGS[name])
    params = random_params(model)
    run = jax.jit(lambda *arrays: model.apply(
        params, arrays[0], positions=arrays[1], segment_ids=arrays[2])[0])
    def forward(*arrays):
      return np.asarray(run(*(np.asarray(x, np.int32) for x in arrays)))
    return model, params, forward
  return make


@FAMILIES
def test_cached_decoding_equals_the_whole_sequence(name, made, prompts):
  """Also where several tokens at a time follow the prompt, as in training, or are drafted."""
  model, params, forward = made(name)
  rng = np.random.default_rng(2)
  completions, lengths = rng.integers(0, 40, (8, 4)), np.repeat(np.asarray(prompts.lengths), 2)

  @jax.jit
  def prefill(tokens, lengths):
    positions, segments = transformer.prompt_segments(tokens, lengths)
    _, new_kv, _ = model.apply(params, tokens, positions=positions, segment_ids=segments)
    return (kv_cache.as_prefix(new_kv, lengths),
            decoding_cache(model.config, new_kv, lengths, group_size=2, size=5, ahead=2))

  @jax.jit
  def step(tokens, positions, cache):
    hidden, new_kv, _ = model.apply(
        params, tokens, positions=positions, segment_ids=jnp.ones_like(tokens), cache=cache)
    return hidden, new_kv

  (start, cache), decoded = prefill(prompts.tokens, prompts.lengths), []
  for i in range(4):
    hidden, new_kv = step(completions[:, i:i + 1], lengths[:, None] + i, cache)
    cache = advanced(cache, new_kv)
    decoded.append(hidden[:, 0])
  at_once, _ = step(completions, lengths[:, None] + np.arange(4), start)
  cache, several = dataclasses.replace(cache, lengths=jnp.zeros_like(cache.lengths)), []
  for i in range(4):    # each time two tokens more, which are wrong from row to row
    tokens = np.concatenate([completions[:, i:i + 2], completions[::-1]], 1)[:, :3]
    hidden, new_kv = step(tokens, lengths[:, None] + i + np.arange(3), cache)
    cache = advanced(cache, new_kv)
    several.append(hidden[:, :2])

  rows = np.pad(np.repeat(np.asarray(prompts.tokens), 2, 0), ((0, 0), (0, 4)))
  places = lengths[:, None] + np.arange(4)
  np.put_along_axis(rows, places, completions, 1)
  whole = forward(rows, np.broadcast_to(np.arange(10), rows.shape), np.ones_like(rows))
  want = np.take_along_axis(whole, places[..., None], 1)
  np.testing.assert_allclose(np.stack(decoded, 1), want, atol=2e-5, rtol=1e-5)
  np.testing.assert_allclose(at_once, want, atol=2e-5)
  several = np.stack(several, 1)
  np.testing.assert_allclose(several[:, :, 0], want, atol=2e-5, rtol=1e-5)
  np.testing.assert_allclose(several[:, :3, 1], want[:, 1:], atol=2e-5, rtol=1e-5)


def test_latent_attention_caches_the_latent_and_the_rotated_key_alone(made, prompts):
  model, params, _ = made('deepseek_v3')
  _, new_kv, _ = jax.eval_shape(lambda: model.apply(
      params, prompts.tokens, positions=prompts.tokens, segment_ids=prompts.tokens))
  cached = sum(leaf.size for leaf in jax.tree.leaves(new_kv))
  assert cached == prompts.tokens.size * 3 * (12 + 4)


@FAMILIES
def test_pitfall_04_packed_and_padded_documents_are_as_if_alone(name, made):
  _, _, forward = made(name)
  rng = np.random.default_rng(0)
  one, other = rng.integers(0, 40, 5), rng.integers(0, 40, 4)
  tokens, positions, segments = rng.integers(0, 40, (8, 10)), np.zeros((8, 10)), np.zeros((8, 10))
  for row, start, document, segment in ((0, 0, one, 1), (0, 5, other, 2), (1, 0, one, 1),
                                        (2, 6, other, 3)):
    place = (row, slice(start, start + len(document)))
    tokens[place], segments[place] = document, segment
    positions[place] = np.arange(len(document))
  hidden = forward(tokens, positions, segments)
  assert np.std(hidden) > 0.3
  np.testing.assert_allclose(hidden[0, :5], hidden[1, :5], atol=2e-5)
  np.testing.assert_allclose(hidden[0, 5:9], hidden[2, 6:], atol=2e-5)


def test_a_local_layer_sees_its_window_and_no_more(random_params):
  config = dataclasses.replace(CONFIGS['gemma3'], num_layers=1, layers=((('local',), 1),))
  model = build(config)
  params = random_params(model)
  tokens = np.random.default_rng(1).integers(0, 40, (2, 8))
  tokens[1, 2] = (tokens[0, 2] + 1) % 40
  tokens[1, np.arange(8) != 2] = tokens[0, np.arange(8) != 2]
  hidden, _, _ = jax.jit(lambda params: model.apply(
      params, tokens, positions=jnp.broadcast_to(jnp.arange(8), (2, 8)),
      segment_ids=jnp.ones((2, 8), int)))(params)
  differ = np.any(np.asarray(hidden[0] != hidden[1]), -1)
  np.testing.assert_array_equal(differ, [0, 0, 1, 1, 1, 0, 0, 0])


@FAMILIES
def test_gradients_are_finite_and_reach_every_parameter_but_the_balancing_bias(name, made):
  model, params, _ = made(name)
  tokens = np.random.default_rng(3).integers(0, 40, (2, 9))
  segments = np.int32(np.arange(9) < np.array([[9], [6]]))
  places = dict(positions=jnp.broadcast_to(jnp.arange(9), (2, 9)), segment_ids=segments)

  @jax.jit
  @jax.grad
  def gradient(params):
    hidden, _, _ = model.apply(params, tokens, **places)
    total = jnp.mean(jax.nn.logsumexp(model.unembed(params, hidden), -1))
    if model.predict_ahead:
      hidden, targets, mask, _ = model.predict_ahead(params, hidden, tokens, **places)
      logprobs = jax.nn.log_softmax(model.unembed(params, hidden))
      total -= jnp.mean(jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0] * mask)
    return total

  found = gradient(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    assert np.all(np.isfinite(leaf)), path
    assert bool(np.any(leaf)) == (path[-1].key != 'balancing_bias'), path
  if name == 'deepseek_v3':
    optimizer = make_optimizer(learning_rate=0.1, weight_decay=0.5)
    changes = jax.jit(
        lambda found: optimizer.update(found, optimizer.init(params), params)[0])(found)
    changed = {jax.tree_util.keystr(path): bool(np.any(leaf))
               for path, leaf in jax.tree_util.tree_leaves_with_path(changes)}
    assert [path for path, any_ in changed.items() if not any_] == [
        path for path in changed if 'balancing_bias' in path] != []


@EXPERTS
def test_bfloat16_routes_in_float32_in_the_sampler_too(name, made):
  model, params, _ = made(name)
  halved = transformer.for_decoding(params, 'bfloat16', model.logical_axes)
  for path, leaf in jax.tree_util.tree_leaves_with_path(halved):
    wide = path[-1].key in ('router', 'balancing_bias')
    assert leaf.dtype == ('float32' if wide else 'bfloat16'), path
  half = build(model.config, compute_dtype='bfloat16')
  tokens = jnp.zeros((2, 3), int)
  hidden, new_kv, aux = jax.eval_shape(lambda p: half.apply(
      p, tokens, positions=tokens, segment_ids=tokens), halved)
  assert {leaf.dtype for leaf in jax.tree.leaves((hidden, new_kv))} == {jnp.dtype('bfloat16')}
  assert {leaf.dtype for leaf in jax.tree.leaves(aux)} == {jnp.dtype('float32')}


def test_four_devices_give_the_values_and_gradients_of_one(made):
  model, params, _ = made('deepseek_v3')
  params = {name: params[name] for name in params.keys() - {'prediction'}}
  model = build(dataclasses.replace(model.config, prediction_head=False))
  tokens = np.random.default_rng(4).integers(0, 40, (4, 6))
  weights = np.random.default_rng(5).normal(size=(4, 6, 16)).astype(np.float32)

  @jax.jit
  @jax.value_and_grad
  def run(params, tokens):
    hidden, _, aux = model.apply(params, tokens, segment_ids=jnp.ones_like(tokens),
                                 positions=jnp.broadcast_to(jnp.arange(6), (4, 6)))
    return jnp.sum(hidden * weights) + moe.row_balance_loss(aux['routing'], 2)

  alone = run(params, tokens)
  mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
  placed = jax.device_put(params, sharding.shardings(mesh, model.logical_axes, params))
  experts = placed['stacks']['stack_1']['mlp']['experts_gate_up']
  assert experts.sharding.shard_shape(experts.shape) == (2, 8, 8, 2, 4)
  with sharding.use(mesh):
    got = run(placed, sharding.place(tokens, mesh, batch=True))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(got)):
    np.testing.assert_allclose(b, a, atol=1e-4, rtol=1e-4, err_msg=str(path))


# Files.


@FAMILIES
def test_export_and_import_are_bit_equal(name, made, tmp_path):
  model, params, _ = made(name)
  huggingface.export(tmp_path / 'a', model.config, params, max_shard_bytes=10_000)
  assert huggingface.read_config(
      tmp_path / 'a', prediction_head=model.config.prediction_head) == model.config
  loaded = huggingface.load_params(tmp_path / 'a', model.config)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  assert ModelConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config


def test_rounded_parameters_are_those_of_the_export_in_bfloat16(made, tmp_path):
  model, params, _ = made('deepseek_v3')    # whose balancing bias stays float32
  huggingface.export(tmp_path / 'a', model.config, params, dtype='bfloat16')
  assert huggingface.weights_dtype(tmp_path / 'a', model.config) == 'bfloat16'
  loaded = huggingface.load_params(tmp_path / 'a', model.config)
  rounded = huggingface.rounded(model.config, jax.tree.map(jnp.array, params), 'bfloat16')
  jax.tree.map(np.testing.assert_array_equal, rounded, loaded)
  assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, rounded))))
  huggingface.export(tmp_path / 'b', model.config, params)
  assert huggingface.weights_dtype(tmp_path / 'b', model.config) == 'float32'
  assert huggingface.rounded(model.config, params, 'float32') is params


@pytest.fixture
def deepseek_tensors(made, tmp_path):
  model, params, _ = made('deepseek_v3')
  huggingface.export(tmp_path / 'whole', model.config, params)
  return load_file(tmp_path / 'whole/model.safetensors')


def load_changed(folder, tensors, config):
  folder.mkdir()
  save_file(tensors, folder / 'model.safetensors')
  return huggingface.load_params(folder, config)


def test_the_prediction_head_is_passed_over_unless_asked_for(deepseek_tensors, made, tmp_path):
  model, params, _ = made('deepseek_v3')
  plain = dataclasses.replace(model.config, prediction_head=False)
  assert huggingface.read_config(tmp_path / 'whole') == plain
  loaded = huggingface.load_params(tmp_path / 'whole', plain)
  assert loaded.keys() == params.keys() - {'prediction'}
  for name in ('embed_tokens', 'shared_head.head'):     # as published: the model's own, again
    repeated = deepseek_tensors.pop(f'model.layers.3.{name}.weight')
    of = {'embed_tokens': 'model.embed_tokens.weight'}.get(name, 'lm_head.weight')
    np.testing.assert_array_equal(repeated, deepseek_tensors[of])
  load_changed(tmp_path / 'less', deepseek_tensors, model.config)
  other = deepseek_tensors | {'model.layers.3.embed_tokens.weight': np.ones((40, 16), np.float32)}
  with pytest.raises(ValueError, match='layers.3.embed_tokens.* differs from .* shares with it'):
    load_changed(tmp_path / 'other', other, model.config)


@pytest.mark.parametrize('change, words', [
    (lambda t: t.pop('model.layers.2.mlp.experts.7.up_proj.weight'),
     r'missing: model\.layers\.2\.mlp\.experts\.7\.up_proj\.weight\)'),
    (lambda t: t.pop('model.layers.3.enorm.weight'), r'missing: model\.layers\.3\.enorm\.weight\)'),
    (lambda t: t.update({'model.layers.1.mlp.experts.8.up_proj.weight': np.zeros(1, np.float32)}),
     r'unexpected: model\.layers\.1\.mlp\.experts\.8\.up_proj\.weight\)'),
    (lambda t: t.update({'model.layers.1.mlp.gate.weight': np.zeros((7, 16), np.float32)}),
     r'wrong shape: model\.layers\.1\.mlp\.gate\.weight \[7, 16\], expected \[8, 16\]\)'),
])
def test_tensors_that_do_not_fit_are_named(change, words, deepseek_tensors, made, tmp_path):
  change(deepseek_tensors)
  with pytest.raises(ValueError, match=words):
    load_changed(tmp_path / 'changed', deepseek_tensors, made('deepseek_v3')[0].config)


@pytest.mark.parametrize('name, change, words', [
    ('deepseek_v3', {'scoring_func': 'softmax'}, "scoring_func='softmax'.* 'sigmoid'"),
    ('deepseek_v3', {'topk_method': 'greedy'}, "topk_method='greedy'.* 'noaux_tc'"),
    ('deepseek_v3', {'kv_lora_rank': None}, 'has no kv_lora_rank'),
    ('deepseek_v3', {'rope_scaling': {'rope_type': 'longrope'}}, "rope_type='longrope'.*'yarn'"),
    ('deepseek_v3', {'quantization_config': {'quant_method': 'fp8'}}, 'quantization_config'),
    ('deepseek_v3', {'topk_group': 9}, 'groups_per_token must be at most groups=4, got 9'),
    ('deepseek_v3', {'num_experts_per_tok': 5}, 'per_token must be from 1 to 4, .* got 5'),
    ('qwen3_moe', {'norm_topk_prob': True, 'num_experts': None}, 'has no num_local_experts'),
    ('gemma3', {'layer_types': ['full_attention', 'chunked_attention']}, 'chunked_attention'),
    ('gemma3', {'final_logit_softcapping': 30.0}, 'final_logit_softcapping=30.0'),
    ('gemma3', {'hidden_activation': 'gelu'}, "hidden_activation='gelu'.*gelu_pytorch_tanh"),
    ('gemma3', {'use_bidirectional_attention': True}, 'use_bidirectional_attention=True'),
    ('gemma3', {'model_type': 'gemma3'}, "text_config=None.*'gemma3' has its text model there"),
])
def test_what_the_model_does_not_have_is_refused_by_name(name, change, words, tmp_path):
  raw = hf_config.config_json(CONFIGS[name], None, 'float32') | change
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  with pytest.raises(ValueError, match=words):
    huggingface.read_config(tmp_path)


@pytest.mark.parametrize('name, fields, words', [
    ('deepseek_v3', dict(layers=((('experts',), 2), (('dense',), 1))),
     'deepseek_v3 cannot express layers'),
    ('qwen3_moe', dict(experts=Experts(count=6, per_token=2, width=8, scale=2.0)),
     'express experts='),
    ('qwen3_moe', dict(layers=((('local', 'experts'), 2),), window=3), 'cannot express layers'),
    ('gemma3', dict(scaled_embedding=False),
     'cannot express scaled_embedding=False .* read as True'),
])
def test_what_a_family_cannot_express_is_not_written(name, fields, words, tmp_path):
  config = dataclasses.replace(CONFIGS[name], prediction_head=False, **fields)
  params = jax.eval_shape(build(config).init, jax.random.key(0))
  with pytest.raises(ValueError, match=words):
    huggingface.export(tmp_path / 'a', config, params)
  assert not (tmp_path / 'a').exists()


@FAMILIES
def test_num_params_counts_the_parameters_that_there_are(name):
  for tied in (True, False):
    config = dataclasses.replace(CONFIGS[name], tied_embedding=tied)
    leaves = jax.tree.leaves(jax.eval_shape(build(config).init, jax.random.key(0)))
    assert num_params(config) == sum(leaf.size for leaf in leaves)


def compiled_flops(config, count):
  model = build(config)

  def forward(params, tokens):
    hidden, _, _ = model.apply(params, tokens, positions=tokens, segment_ids=tokens)
    return model.unembed(params, hidden)
  return jax.jit(forward).lower(
      jax.eval_shape(model.init, jax.random.key(0)),
      jax.ShapeDtypeStruct((2, count), jnp.int32)).cost_analysis()['flops']


def test_flops_of_experts_and_latent_attention_are_those_that_the_compiler_counts(monkeypatch):
  """One layer, as a scan's body is counted once; so is the loop over blocks of experts' rows,
  and that of attention, which is plain here.

  Counts at two sizes of a block give what a row of a block costs; 2 experts for each token's 512
  rows of both batch rows is what there really is.
  """
  config = ModelConfig(
      family='deepseek_v3', vocab_size=1000, width=256, num_layers=1, num_heads=8, num_kv_heads=8,
      head_dim=48, mlp_width=512, tied_embedding=False, layers=((('experts',), 1),),
      experts=Experts(count=8, per_token=2, width=192, routing='sigmoid', shared=1),
      latent=Latent(rank=64, rope_dim=16, value_dim=24, query_rank=96))
  monkeypatch.setattr(attention, 'LONG', 1024)
  counted, product = {}, grouped_product._blocked_product
  for size in (64, 128):
    monkeypatch.setattr(grouped_product, 'block_rows', lambda rows, groups, size=size: size)
    # Another function each time, or jax takes what it traced before.
    monkeypatch.setattr(grouped_product, '_blocked_product', lambda *operands: product(*operands))
    counted[size] = compiled_flops(config, 512)
  per_row = (counted[128] - counted[64]) / 64
  total = counted[64] + per_row * (2 * 512 * 2 - 64)
  assert per_row == pytest.approx(2 * 3 * 256 * 192, rel=0.05)
  assert flops_per_token(config, 512) * 2 * 512 == pytest.approx(total, rel=0.05)


def test_a_window_bounds_the_attention_that_is_counted():
  config = CONFIGS['gemma3']
  beyond = flops_per_token(config, 100) - flops_per_token(config, 99)
  within = flops_per_token(config, 2) - flops_per_token(config, 1)
  assert beyond / within == pytest.approx(2 / 5)        # two of five layers see everything


# Layers.


@pytest.mark.parametrize('kinds, wanted', [
    ('ddd', (('d', 3),)),
    ('dddeeee', (('d', 3), ('e', 4))),
    ('lllllglllllgll', (('lllllg', 2), ('l', 2))),
    ('lg', (('l', 1), ('g', 1))),
    ('edede', (('ed', 2), ('e', 1))),
])
def test_runs_are_few_and_give_the_kinds_back(kinds, wanted):
  runs = as_runs(kinds)
  assert runs == tuple((tuple(pattern), repeats) for pattern, repeats in wanted)
  assert ''.join(''.join(pattern) * repeats for pattern, repeats in runs) == kinds


def test_patterns_equal_the_same_layers_one_by_one(random_params):
  """The four layers of a pattern's run, as four runs of one layer each."""
  config = CONFIGS['qwen3_moe']
  params = random_params(build(config))
  order = [('stack_0', 0), ('stack_1', 0), ('stack_0', 1), ('stack_1', 1)]
  apart = params | {'stacks': {
      f'stack_{i}': jax.tree.map(operator.itemgetter(slice(at, at + 1)), params['stacks'][stack])
      for i, (stack, at) in enumerate(order)}}
  tokens = np.random.default_rng(6).integers(0, 40, (2, 7))

  def run(config, params):
    return jax.jit(lambda params: build(config).apply(
        params, tokens, positions=jnp.broadcast_to(jnp.arange(7), (2, 7)),
        segment_ids=jnp.ones((2, 7), int)))(params)
  together, _, scanned = run(config, params)
  one_by_one = dataclasses.replace(config, layers=tuple(((kind,), 1) for kind in config.kinds))
  hidden, new_kv, aux = run(one_by_one, apart)
  np.testing.assert_allclose(hidden, together, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), aux, scanned)
  assert len(new_kv) == 4 and aux['routing'].counts.shape == (2, 2, 6)


@pytest.mark.parametrize('fields, message', [
    (dict(layers=((('dense',), 5),)), 'has 5 layers, but num_layers=4'),
    (dict(layers=((('global',), 4),)), "kind 'global': use dense, local, no_rope, "),
    (dict(experts=None), "experts=None contradicts .* kind 'experts'"),
    (dict(window=3), "window=3 contradicts .* kind 'local'"),
    (dict(latent=Latent(rank=4, rope_dim=4, value_dim=4)),
     'latent=.* needs num_kv_heads = num_heads'),
    (dict(activation='relu'), "activation must be 'silu' or 'gelu_tanh', got 'relu'")])
def test_fields_that_do_not_go_together_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIGS['qwen3_moe'], **fields)


def test_routing_of_a_pattern_with_two_places_is_in_the_layers_order(random_params):
  """The same four layers as two repeats of two and as four repeats of one."""
  one = ModelConfig(family='qwen3_moe', **SIZES, num_layers=4, num_kv_heads=2,
                    layers=((('experts',), 4),), experts=Experts(count=6, per_token=2, width=8))
  two = dataclasses.replace(one, layers=((('experts', 'experts'), 2),))
  params = random_params(build(one))
  stack = params['stacks']['stack_0']
  places = {f'stack_{i}': jax.tree.map(operator.itemgetter(slice(i, None, 2)), stack)
            for i in range(2)}
  tokens = np.arange(12).reshape(2, 6)
  routings = [build(config).apply(weights, tokens, positions=tokens, segment_ids=tokens * 0 + 1)[2]
              for config, weights in ((one, params), (two, params | {'stacks': places}))]
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *routings)
  counts = np.asarray(routings[0]['routing'].counts)
  assert len({layer.tobytes() for layer in counts}) == 4
