"""GGUF files of random parameters, written by the gguf package's own names, keys and types."""
import jax
import numpy as np
import pytest

from r1jax.models import (
  LinearScaling,
  RopeScaling,
  YarnScaling,
  build,
  families,
  rotary,
  streaming,
)

gguf = pytest.importorskip('gguf', reason='GGUF files are read with the gguf package')

ARCHITECTURES = {
    'llama': 'LLAMA', 'qwen2': 'QWEN2', 'qwen3': 'QWEN3', 'qwen3_moe': 'QWEN3MOE',
    'gemma3_text': 'GEMMA3', 'deepseek_v3': 'DEEPSEEK2', 'smollm3': 'SMOLLM3',
    'ministral3': 'MISTRAL3'}
_PERMUTED = ('llama', 'smollm3', 'ministral3')


def random_params(config):
  shapes = jax.eval_shape(build(config).init, jax.random.key(0))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def permute(rows, heads):
  """llama.cpp's conversion of query and key matrices."""
  return (rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
          .swapaxes(1, 2).reshape(rows.shape))


def metadata(config):
  """Method of GGUFWriter, without add_ -> its argument."""
  c = config
  fields = dict(
      vocab_size=c.vocab_size, context_length=c.max_length, embedding_length=c.width,
      block_count=c.num_layers, feed_forward_length=c.mlp_width, head_count=c.num_heads,
      head_count_kv=c.num_kv_heads, key_length=c.head_dim, value_length=c.head_dim,
      rope_dimension_count=c.head_dim, rope_freq_base=c.rope_theta,
      layer_norm_rms_eps=c.norm_epsilon)
  scaling = c.rope_scaling
  if isinstance(scaling, LinearScaling):
    fields |= dict(
        rope_scaling_type=gguf.RopeScalingType.LINEAR, rope_scaling_factor=scaling.factor)
  if isinstance(scaling, YarnScaling):
    tenth = 0.1 if c.latent else 1
    fields |= dict(
        rope_scaling_type=gguf.RopeScalingType.YARN, rope_scaling_factor=scaling.factor,
        rope_scaling_orig_ctx_len=scaling.original_max_length,
        rope_scaling_yarn_log_mul=tenth * scaling.mscale_all_dim)
    if scaling.query_growth:
      fields |= dict(attn_temperature_scale=scaling.query_growth)
  if c.window:
    fields |= dict(sliding_window=c.window, rope_freq_base_swa=c.local_rope_theta,
                   sliding_window_pattern=[kind == 'local' for kind in c.kinds])
  if c.experts:
    e = c.experts
    fields |= dict(expert_count=e.count, expert_used_count=e.per_token,
                   expert_feed_forward_length=e.width)
  if c.latent:
    fields |= dict(
        leading_dense_block_count=c.kinds.count('dense'), expert_shared_count=e.shared,
        expert_weights_scale=e.scale, expert_weights_norm=e.normalise,
        expert_gating_func=gguf.ExpertGatingFuncType.SIGMOID, expert_group_count=e.groups,
        expert_group_used_count=e.groups_per_token, kv_lora_rank=c.latent.rank,
        q_lora_rank=c.latent.query_rank, rope_dimension_count=c.latent.rope_dim, head_count_kv=1,
        key_length=c.latent.rank + c.latent.rope_dim, value_length=c.latent.rank,
        key_length_mla=c.head_dim, value_length_mla=c.latent.value_dim)
  return fields


def tensors(config, params):
  """Name -> array, as llama.cpp's conversion of a Hugging Face checkpoint makes them."""
  arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.family])
  names = gguf.get_tensor_name_map(arch, config.num_layers)
  result, experts = {}, {}
  for name, tensor in families.tensors(config, families.FAMILIES[config.family]).items():
    array = np.ascontiguousarray(streaming.extract(params, tensor))
    heads = {'query': config.num_heads, 'key': config.num_kv_heads}.get(tensor.role)
    if heads and config.family in _PERMUTED:
      array = permute(array, heads)
    if tensor.role.endswith('norm') and config.family == 'gemma3_text':
      array = array + 1
    if tensor.role == 'latent_key_value':
      plain = config.head_dim - config.latent.rope_dim
      both = array.reshape(config.num_heads, -1, config.latent.rank)
      for half, part in (('k', both[:, :plain].swapaxes(1, 2)), ('v', both[:, plain:])):
        half = names.get_name(name.replace('kv_b', f'{half}_b'), try_suffixes=('.weight',))
        result[half] = np.ascontiguousarray(part)
      continue
    if tensor.role.startswith('expert_'):
      before, _, after = name.partition('.experts.')
      name = f'{before}.experts.{after.partition(".")[2]}'
      experts.setdefault(names.get_name(name, try_suffixes=('.weight',)), []).append(array)
      continue
    name = name.replace('e_score_correction_bias', 'e_score_correction.bias')
    result[names.get_name(name, try_suffixes=('.weight', '.bias'))] = array
  return result | {name: np.stack(arrays) for name, arrays in experts.items()}


def _frequencies(config):
  if not isinstance(config.rope_scaling, RopeScaling):
    return []
  plain, scaled = (rotary.frequencies(config.head_dim, config.rope_theta, scaling)
                   for scaling in (None, config.rope_scaling))
  return [('rope_freqs.weight', np.asarray(plain / scaled))]


def write(path, config, *, tensor_type='F32', changes=(), drop=(), extra=(), architecture=None):
  """Writes a file; returns its path and the parameters.

  Args:
    path: where.
    config: the architecture.
    tensor_type: of the matrices whose rows have whole blocks of it.
    changes: as `metadata` returns, in its place.
    drop: keys of `metadata` and names of tensors that are left out.
    extra: (name, array) of more tensors.
    architecture: in place of the family's.
  """
  arch = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.family])
  writer = gguf.GGUFWriter(path, architecture or gguf.MODEL_ARCH_NAMES[arch])
  for name, value in (metadata(config) | dict(changes)).items():
    if name not in drop:
      getattr(writer, f'add_{name}')(value)
  kind = gguf.GGMLQuantizationType[tensor_type]
  params = random_params(config)
  for name, array in [*tensors(config, params).items(), *_frequencies(config), *extra]:
    if name not in drop:
      if array.ndim > 1 and kind != gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
      else:
        writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path), params
