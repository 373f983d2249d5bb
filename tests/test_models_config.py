import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from r1jax.errors import UserError
from r1jax.models import (
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


@pytest.mark.parametrize('change', [
    dict(num_heads='4'), dict(num_heads=0), dict(colour='red'), dict(rope_scaling={'kind': 'x'}),
    dict(rope_scaling=[]) | dict(experts={'count': 1}), dict(layers=[[['dense'], 10**9]]),
    dict(layers=5), dict(latent=7), dict(width=2**40)])
def test_damaged_fields_are_refused_in_one_sentence(change, tiny_config):
  with pytest.raises(UserError, match='The fields of a model are damaged .*: run again'):
    ModelConfig.from_dict(tiny_config.to_dict() | change)
  for fields in ({}, [], None):
    with pytest.raises(UserError, match='The fields of a model are damaged'):
      ModelConfig.from_dict(fields)
