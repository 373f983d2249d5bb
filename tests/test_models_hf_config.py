"""A config.json of the hub reads as the preset of its model."""
import dataclasses
import json

import numpy as np
import pytest
from test_models_families import CONFIGS, SIZES

from r1jax.models import (
  PRESETS,
  ModelConfig,
  YarnScaling,
  hf_config,
  huggingface,
  num_params,
)


def test_gemma_of_the_hub_reads_as_the_preset(tmp_path):
  """`google/gemma-3-1b-it`'s config.json, which names its pattern by a number."""
  raw = {
      'model_type': 'gemma3_text', 'vocab_size': 262144, 'hidden_size': 1152, 'head_dim': 256,
      'num_hidden_layers': 26, 'num_attention_heads': 4, 'num_key_value_heads': 1,
      'intermediate_size': 6912, 'hidden_activation': 'gelu_pytorch_tanh', 'rms_norm_eps': 1e-6,
      'max_position_embeddings': 32768, 'query_pre_attn_scalar': 256, 'rope_theta': 1000000,
      'rope_local_base_freq': 10000, 'rope_scaling': None, 'sliding_window': 512,
      'sliding_window_pattern': 6, 'final_logit_softcapping': None, 'attention_bias': False}
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  assert huggingface.read_config(tmp_path) == PRESETS['gemma3_1b']


def test_the_text_of_gemma_4b_of_the_hub_reads_as_the_preset(tmp_path):
  """`google/gemma-3-4b-it`'s config.json, whose text_config leaves most fields out."""
  raw = {
      'architectures': ['Gemma3ForConditionalGeneration'], 'model_type': 'gemma3',
      'image_token_index': 262144, 'vision_config': {'model_type': 'siglip_vision_model'},
      'text_config': {
          'hidden_size': 2560, 'intermediate_size': 10240, 'model_type': 'gemma3_text',
          'num_hidden_layers': 34, 'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
          'sliding_window': 1024}}
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  assert huggingface.read_config(tmp_path) == PRESETS['gemma3_4b']


def test_smollm3_and_mistral_of_the_hub_read_as_the_presets(tmp_path):
  smollm3 = {
      'model_type': 'smollm3', 'vocab_size': 128256, 'hidden_size': 2048, 'num_hidden_layers': 36,
      'num_attention_heads': 16, 'num_key_value_heads': 4, 'intermediate_size': 11008,
      'rms_norm_eps': 1e-6, 'max_position_embeddings': 65536, 'rope_theta': 5000000.0,
      'rope_scaling': None, 'use_sliding_window': False, 'sliding_window': None,
      'no_rope_layer_interval': 4, 'no_rope_layers': [1, 1, 1, 0] * 9, 'attention_bias': False,
      'layer_types': ['full_attention'] * 36, 'mlp_bias': False, 'hidden_act': 'silu'}
  mistral = {
      'model_type': 'mistral', 'vocab_size': 32768, 'hidden_size': 4096, 'num_hidden_layers': 32,
      'num_attention_heads': 32, 'num_key_value_heads': 8, 'intermediate_size': 14336,
      'rms_norm_eps': 1e-5, 'max_position_embeddings': 32768, 'rope_theta': 1000000.0,
      'sliding_window': None, 'tie_word_embeddings': False, 'hidden_act': 'silu'}
  for raw, preset in ((smollm3, 'smollm3_3b'), (mistral, 'mistral_7b')):
    (tmp_path / 'config.json').write_text(json.dumps(raw))
    assert huggingface.read_config(tmp_path) == PRESETS[preset]


def test_yarn_stretches_what_a_model_can_be_used_for(tmp_path):
  """As Qwen's own instructions say it, in the fields of transformers 4; the factor may be left."""
  raw = hf_config.config_json(ModelConfig(
      family='qwen3', **SIZES, num_layers=2, num_kv_heads=2, qk_norm=True, max_length=128),
      None, 'float32')
  yarn = {'type': 'yarn', 'original_max_position_embeddings': 32}
  for scaling, length in ((yarn | {'factor': 8.0}, 256), (yarn, 128)):
    (tmp_path / 'config.json').write_text(json.dumps(raw | {'rope_scaling': scaling}))
    config = huggingface.read_config(tmp_path)
    assert config.longest == length and config.max_length == 128
    assert config.rope_scaling == YarnScaling(
        factor=length / 32, original_max_length=32, mscale_all_dim=0.0)


def test_a_lone_mscale_counts_as_in_transformers():
  yarn = {'rope_type': 'yarn', 'factor': 40.0, 'original_max_position_embeddings': 16}
  raw = hf_config.config_json(dataclasses.replace(
      CONFIGS['deepseek_v3'], prediction_head=False), None, 'float32')

  def read(**fields):
    return hf_config.parse('here', raw | {'rope_scaling': yarn | fields}).rope_scaling
  assert read(mscale=0.7) == read() == read(mscale_all_dim=0.0)
  assert read().attention_factor is None and read().mscale_all_dim == 0
  alone = read(mscale_all_dim=0.7)
  assert alone.attention_factor == pytest.approx(0.1 * np.log(40) + 1)
  assert alone.mscale_all_dim == 0.7
  for words, fields in (('beta_slow=2.0.*below beta_fast=1.0', dict(beta_fast=1, beta_slow=2)),
                        ("truncate='no'", dict(truncate='no'))):
    with pytest.raises(ValueError, match=words):
      read(**fields)


def test_deepseek_of_the_hub_reads_as_the_preset(tmp_path):
  """`deepseek-ai/DeepSeek-V3`'s config.json, but for its FP8 weights."""
  raw = {
      'model_type': 'deepseek_v3', 'vocab_size': 129280, 'hidden_size': 7168,
      'num_hidden_layers': 61, 'num_attention_heads': 128, 'num_key_value_heads': 128,
      'intermediate_size': 18432, 'moe_intermediate_size': 2048, 'first_k_dense_replace': 3,
      'moe_layer_freq': 1, 'n_routed_experts': 256, 'n_shared_experts': 1,
      'num_experts_per_tok': 8, 'n_group': 8, 'topk_group': 4, 'topk_method': 'noaux_tc',
      'scoring_func': 'sigmoid', 'norm_topk_prob': True, 'routed_scaling_factor': 2.5,
      'kv_lora_rank': 512, 'q_lora_rank': 1536, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64,
      'v_head_dim': 128, 'hidden_act': 'silu', 'rms_norm_eps': 1e-6, 'rope_theta': 10000,
      'rope_scaling': {
          'beta_fast': 32, 'beta_slow': 1, 'factor': 40, 'mscale': 1.0, 'mscale_all_dim': 1.0,
          'original_max_position_embeddings': 4096, 'type': 'yarn'},
      'max_position_embeddings': 163840, 'tie_word_embeddings': False, 'attention_bias': False,
      'num_nextn_predict_layers': 1}
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  preset = PRESETS['deepseek_v3']
  assert huggingface.read_config(tmp_path) == preset
  whole = huggingface.read_config(tmp_path, prediction_head=True)
  assert whole == dataclasses.replace(preset, prediction_head=True)
  # README_WEIGHTS.md of the checkpoint: 11.5 billion beside what it shares.
  assert num_params(whole) - num_params(preset) == pytest.approx(11.5e9, rel=0.02)


# Counts.
