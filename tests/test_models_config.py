import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from r1jax.models import (
  PRESETS,
  ModelConfig,
  RopeScaling,
  attention,
  build,
  flops_per_token,
  num_params,
)

VARIANTS = [
    {}, dict(qkv_bias=True, qk_norm=False), dict(tied_embedding=False), dict(num_kv_heads=1),
    dict(num_kv_heads=4, head_dim=6, num_layers=3)]


@pytest.mark.parametrize('fields', VARIANTS)
def test_num_params_counts_the_parameters_that_there_are(fields, tiny_config):
  config = dataclasses.replace(tiny_config, **fields)
  leaves = jax.tree.leaves(jax.eval_shape(build(config).init, jax.random.key(0)))
  assert num_params(config) == sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize('name, published', [
    ('miniature', 853_376), ('miniature_small', 230_208), ('smollm2_135m', 134_515_008),
    ('qwen3_0_6b', 596_049_920), ('qwen2_5_1_5b', 1_543_714_304),
    ('qwen2_5_7b', 7_615_616_512),
    ('qwen3_8b', 8_190_735_360), ('llama3_8b', 8_030_261_248), ('qwen3_30b_a3b', 30_532_122_624),
    ('gemma3_1b', 999_885_952), ('deepseek_v3', 671_026_419_200)])
def test_presets_have_the_published_numbers_of_parameters(name, published):
  assert num_params(PRESETS[name]) == published


def test_active_parameters_are_the_published_ones():
  # "30B-A3B": 3.3 billion; DeepSeek-V3: 37 billion, of which the embedding's rows are not used.
  assert num_params(PRESETS['qwen3_30b_a3b'], active=True) == pytest.approx(3.35e9, rel=0.01)
  deepseek = PRESETS['deepseek_v3']
  used = num_params(deepseek, active=True) - deepseek.vocab_size * deepseek.width
  assert used == pytest.approx(36.6e9, rel=0.01)


@pytest.mark.parametrize('tied', [True, False])
def test_flops_are_those_that_the_compiler_counts(tied, monkeypatch):
  monkeypatch.setattr(attention, 'LONG', 1024)    # else blocks that nobody sees are left out
  # One layer, since a scan's body is counted once; wide, so that products outweigh the rest.
  config = ModelConfig(family='qwen3', vocab_size=1000, width=256, num_layers=1, num_heads=8,
                       num_kv_heads=2, head_dim=32, mlp_width=512, tied_embedding=tied)
  model, count = build(config), 512

  def forward(params, tokens):
    hidden, _, _ = model.apply(params, tokens, positions=tokens, segment_ids=tokens)
    return model.unembed(params, hidden)
  counted = jax.jit(forward).lower(
      jax.eval_shape(model.init, jax.random.key(0)),
      jax.ShapeDtypeStruct((2, count), jnp.int32)).cost_analysis()['flops']
  # Every token is multiplied with all 512, the masked ones too.
  assert flops_per_token(config, count) * 2 * count == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize('scaling', [None, RopeScaling(factor=32.0)])
def test_a_config_survives_json(scaling, tiny_config):
  config = dataclasses.replace(tiny_config, rope_scaling=scaling)
  assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize('fields, message', [
    (dict(num_kv_heads=3), 'num_heads must be a multiple of num_kv_heads=3, got 4'),
    (dict(head_dim=7), 'head_dim must be even for rotary positions, got 7')])
def test_heads_that_do_not_fit_are_refused(fields, message, tiny_config):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_config, **fields)
