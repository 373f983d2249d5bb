"""Architectures: published models, the miniature, and a tiny model per family for debugging."""
from typing import Any

from r1jax.models.config import (
  Experts,
  Latent,
  LinearScaling,
  ModelConfig,
  RopeScaling,
  YarnScaling,
  as_runs,
)

_TINY: dict[str, Any] = dict(
    vocab_size=512, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=32,
    max_length=512)
_GEMMA3: dict[str, Any] = dict(
    family='gemma3_text', rope_theta=1_000_000.0, qk_norm=True, local_rope_theta=10_000.0,
    query_scale=256.0, head_dim=256, offset_norms=True, post_norms=True, scaled_embedding=True,
    activation='gelu_tanh')


def _gemma3(num_layers: int, **fields: Any) -> ModelConfig:
  kinds = ['dense' if i % 6 == 5 else 'local' for i in range(num_layers)]
  return ModelConfig(**_GEMMA3, num_layers=num_layers, layers=as_runs(kinds), **fields)


PRESETS = {
    'miniature': ModelConfig(
        family='qwen3', vocab_size=512, width=128, num_layers=4, num_heads=4, num_kv_heads=2,
        head_dim=32, mlp_width=384, rope_theta=10_000.0, qk_norm=True, max_length=1024),
    'miniature_small': ModelConfig(    # the student when the miniature is distilled
        family='qwen3', vocab_size=512, width=64, num_layers=4, num_heads=2, num_kv_heads=1,
        head_dim=32, mlp_width=192, rope_theta=10_000.0, qk_norm=True, max_length=1024),
    'smollm2_135m': ModelConfig(
        family='llama', vocab_size=49_152, width=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_dim=64, mlp_width=1536, rope_theta=100_000.0, norm_epsilon=1e-5, max_length=8192),
    'qwen3_0_6b': ModelConfig(
        family='qwen3', vocab_size=151_936, width=1024, num_layers=28, num_heads=16,
        num_kv_heads=8, head_dim=128, mlp_width=3072, rope_theta=1_000_000.0, qk_norm=True,
        max_length=40_960),
    'qwen2_5_1_5b': ModelConfig(
        family='qwen2', vocab_size=151_936, width=1536, num_layers=28, num_heads=12,
        num_kv_heads=2, head_dim=128, mlp_width=8960, rope_theta=1_000_000.0, qkv_bias=True,
        max_length=131_072),
    'qwen2_5_7b': ModelConfig(
        family='qwen2', vocab_size=152_064, width=3584, num_layers=28, num_heads=28,
        num_kv_heads=4, head_dim=128, mlp_width=18_944, rope_theta=1_000_000.0, qkv_bias=True,
        tied_embedding=False, max_length=131_072),
    'qwen3_8b': ModelConfig(
        family='qwen3', vocab_size=151_936, width=4096, num_layers=36, num_heads=32,
        num_kv_heads=8, head_dim=128, mlp_width=12_288, rope_theta=1_000_000.0, qk_norm=True,
        tied_embedding=False, max_length=40_960),
    'llama3_8b': ModelConfig(     # Llama 3.1, whose shape Llama 3 shares
        family='llama', vocab_size=128_256, width=4096, num_layers=32, num_heads=32,
        num_kv_heads=8, head_dim=128, mlp_width=14_336, rope_theta=500_000.0,
        rope_scaling=RopeScaling(), norm_epsilon=1e-5, tied_embedding=False, max_length=131_072),
    'qwen3_30b_a3b': ModelConfig(
        family='qwen3_moe', vocab_size=151_936, width=2048, num_layers=48, num_heads=32,
        num_kv_heads=4, head_dim=128, mlp_width=6144, rope_theta=1_000_000.0, qk_norm=True,
        tied_embedding=False, max_length=40_960, layers=((('experts',), 48),),
        experts=Experts(count=128, per_token=8, width=768)),
    'smollm3_3b': ModelConfig(
        family='smollm3', vocab_size=128_256, width=2048, num_layers=36, num_heads=16,
        num_kv_heads=4, head_dim=128, mlp_width=11_008, rope_theta=5_000_000.0,
        max_length=65_536, layers=((('dense', 'dense', 'dense', 'no_rope'), 9),)),
    'mistral_7b': ModelConfig(    # of version 0.3, which has no window
        family='mistral', vocab_size=32_768, width=4096, num_layers=32, num_heads=32,
        num_kv_heads=8, head_dim=128, mlp_width=14_336, rope_theta=1_000_000.0,
        norm_epsilon=1e-5, tied_embedding=False),
    'gemma3_270m': _gemma3(18, vocab_size=262_144, width=640, num_heads=4, num_kv_heads=1,
                           mlp_width=2048, window=512),
    'gemma3_1b': _gemma3(26, vocab_size=262_144, width=1152, num_heads=4, num_kv_heads=1,
                         mlp_width=6912, window=512),
    'gemma3_4b': _gemma3(34, vocab_size=262_208, width=2560, num_heads=8, num_kv_heads=4,
                         mlp_width=10_240, window=1024, rope_scaling=LinearScaling(8.0),
                         max_length=131_072),
    'deepseek_v3': ModelConfig(
        family='deepseek_v3', vocab_size=129_280, width=7168, num_layers=61, num_heads=128,
        num_kv_heads=128, head_dim=192, mlp_width=18_432, rope_scaling=YarnScaling(),
        tied_embedding=False, max_length=163_840, layers=((('dense',), 3), (('experts',), 58)),
        experts=Experts(count=256, per_token=8, width=2048, routing='sigmoid', scale=2.5,
                        groups=8, groups_per_token=4, shared=1),
        latent=Latent(rank=512, rope_dim=64, value_dim=128, query_rank=1536)),
    'tiny_llama': ModelConfig('llama', **_TINY, rope_scaling=RopeScaling(original_max_length=32)),
    'tiny_qwen2': ModelConfig('qwen2', **_TINY, qkv_bias=True),
    'tiny_qwen3': ModelConfig('qwen3', **_TINY, qk_norm=True, tied_embedding=False),
    'tiny_qwen3_moe': ModelConfig(
        'qwen3_moe', **_TINY, qk_norm=True, layers=((('dense', 'experts'), 1),),
        experts=Experts(count=4, per_token=2, width=8)),
    'tiny_smollm3': ModelConfig('smollm3', **_TINY, layers=((('dense', 'no_rope'), 1),)),
    'tiny_ministral3': ModelConfig(
        'ministral3', **_TINY,
        rope_scaling=YarnScaling(original_max_length=16, query_growth=0.1)),
    'tiny_gemma3': ModelConfig(
        'gemma3_text', **_TINY, qk_norm=True, layers=((('local', 'dense'), 1),), window=6,
        local_rope_theta=100.0, query_scale=12.0, offset_norms=True, post_norms=True,
        scaled_embedding=True, activation='gelu_tanh'),
    'tiny_deepseek_v3': ModelConfig(
        'deepseek_v3', **_TINY | dict(num_kv_heads=2, head_dim=12),
        rope_scaling=YarnScaling(original_max_length=16, mscale_all_dim=0.7), tied_embedding=False,
        layers=((('dense',), 1), (('experts',), 1)),
        experts=Experts(count=8, per_token=2, width=8, routing='sigmoid', scale=2.5, groups=4,
                        groups_per_token=2, shared=1),
        latent=Latent(rank=12, rope_dim=4, value_dim=6, query_rank=14)),
}
