"""R1-Zero on a tiny model of every family: two updates, sampler and trainer agreeing."""
import jax
import numpy as np
import pytest

from r1jax import metrics, models
from r1jax.models import Experts, Latent, ModelConfig, RopeScaling, YarnScaling, huggingface
from r1jax.stages import common, rl
from r1jax.tokenization import load_tokenizer
from runs import compiled, no_curves, rl_config  # noqa: F401

SIZES = dict(vocab_size=512, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
             mlp_width=32, max_length=256)
SHAPES = {
    'llama': ModelConfig('llama', **SIZES, rope_scaling=RopeScaling(original_max_length=32)),
    'qwen2': ModelConfig('qwen2', **SIZES, qkv_bias=True),
    'qwen3': ModelConfig('qwen3', **SIZES, qk_norm=True, tied_embedding=False),
    'qwen3_moe': ModelConfig(
        'qwen3_moe', **SIZES, qk_norm=True, layers=((('dense', 'experts'), 1),),
        experts=Experts(count=4, per_token=2, width=8)),
    'gemma3': ModelConfig(
        'gemma3_text', **SIZES, qk_norm=True, layers=((('local', 'dense'), 1),), window=6,
        local_rope_theta=100.0, query_scale=12.0, offset_norms=True, post_norms=True,
        scaled_embedding=True, activation='gelu_tanh'),
    'deepseek_v3': ModelConfig(
        'deepseek_v3', **SIZES | dict(num_kv_heads=2, head_dim=12),
        rope_scaling=YarnScaling(original_max_length=16, mscale_all_dim=0.7), tied_embedding=False,
        layers=((('dense',), 1), (('experts',), 1)),
        experts=Experts(count=8, per_token=2, width=8, routing='sigmoid', scale=2.5, groups=4,
                        groups_per_token=2, shared=1),
        latent=Latent(rank=12, rope_dim=4, value_dim=6, query_rank=14)),
}


@pytest.mark.parametrize('name', SHAPES)
def test_r1_zero_runs_on_every_family(name, compiled, tmp_path):
  """The completions' log-probabilities as sampled are those that the trainer finds, to 1e-4."""
  shape = SHAPES[name]
  params = models.build(shape).init(jax.random.key(0))
  spread = lambda x: 10 * x if x.ndim > 1 else x     # so that no two tokens are equally likely
  huggingface.export(tmp_path / 'base', shape, jax.tree.map(spread, params),
                     tokenizer=load_tokenizer(common.MINIATURES['miniature']))
  config = rl_config(str(tmp_path / 'base'), kl_coefficient=0.1, sampling=dict(max_new_tokens=12))
  by_bytes = lambda completion, example: sum(completion.text.encode()) % 11 / 10
  artifact = rl.run(config, {}, tmp_path / 'run', reward_functions={'bytes': (by_bytes, 1.0)})
  records = metrics.read_metrics(tmp_path / 'run')
  assert [record['step'] for record in records] == [1, 2]
  for record in records:
    assert record['refused_updates'] == 0 and record['grad_norm'] > 0
    assert record['sampling/logprob_difference/max'] < 1e-4
  trained = huggingface.load_params(artifact.folder / 'model', shape)
  changed = jax.tree.map(lambda a, b: np.any(np.asarray(a) != np.asarray(b)), params, trained)
  still = {path[-1].key for path, moved in jax.tree_util.tree_leaves_with_path(changed) if not moved}
  assert still <= {'balancing_bias'}     # state that no gradient trains
