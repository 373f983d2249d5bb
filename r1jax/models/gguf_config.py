"""The metadata of a GGUF file as the `config.json` of the Hugging Face checkpoint it came from."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.errors import UserError
from r1jax.models import rotary
from r1jax.models.config import RopeScaling

# general.architecture -> model_type.
ARCHITECTURES = {
    'llama': 'llama', 'qwen2': 'qwen2', 'qwen3': 'qwen3', 'qwen3moe': 'qwen3_moe',
    'gemma3': 'gemma3_text', 'deepseek2': 'deepseek_v3', 'smollm3': 'smollm3',
    'mistral3': 'ministral3'}
_FIELDS = {
    'hidden_size': 'embedding_length',
    'num_hidden_layers': 'block_count',
    'num_attention_heads': 'attention.head_count',
    'num_key_value_heads': 'attention.head_count_kv',
    'head_dim': 'attention.key_length',
    'intermediate_size': 'feed_forward_length',
    'max_position_embeddings': 'context_length',
    'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
    'rope_theta': 'rope.freq_base',
}
_NEEDED = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'max_position_embeddings',
           'rms_norm_eps')
_EXPERTS = {
    'num_experts_per_tok': 'expert_used_count',
    'moe_intermediate_size': 'expert_feed_forward_length',
}
_DEEPSEEK = _EXPERTS | {
    'n_routed_experts': 'expert_count',
    'n_shared_experts': 'expert_shared_count',
    'first_k_dense_replace': 'leading_dense_block_count',
    'routed_scaling_factor': 'expert_weights_scale',
    'norm_topk_prob': 'expert_weights_norm',
    'n_group': 'expert_group_count',
    'topk_group': 'expert_group_used_count',
    'kv_lora_rank': 'attention.kv_lora_rank',
    'q_lora_rank': 'attention.q_lora_rank',
    'qk_rope_head_dim': 'rope.dimension_count',
}
_GEMMA3_27B = 62   # layers; its queries alone are scaled by another width than a head's
_SIGMOID = 2       # of expert_gating_func


def config_json(path: object, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]],
                frequencies: np.ndarray | None) -> dict:
  """The content of the `config.json`, for `hf_config.parse`.

  Args:
    path: of the file, for messages.
    metadata: the file's.
    shapes: name -> shape of each tensor.
    frequencies: the values of `rope_freqs.weight`, if the file has it.

  Raises:
    UserError: a field is missing, or the architecture or a setting is not supported.
  """
  read = _Reader(path, metadata)
  embedding = shapes.get('token_embd.weight', ())
  if len(embedding) != 2:
    raise UserError(f'{path} has no token_embd.weight [vocabulary, width]: it holds no language '
                    'model; use the file of one.')
  raw = read.fields(_FIELDS)
  for field in _NEEDED:
    if field not in raw:
      raise UserError(f'{path} has no {read.key(_FIELDS[field])}: download a complete GGUF file.')
  raw = {'model_type': read.family, 'vocab_size': embedding[0],
         'tie_word_embeddings': 'output.weight' not in shapes} | raw
  raw['rope_parameters'] = _rope_scaling(read, frequencies) or {'rope_type': 'default'}
  extra = {'qwen3_moe': _qwen3_moe, 'gemma3_text': _gemma3, 'deepseek_v3': _deepseek}.get(
      read.family, _plain)
  return raw | extra(read, raw)


class _Reader:
  """Reads the fields of the file's architecture."""

  def __init__(self, path: object, metadata: Mapping[str, Any]):
    self.path, self._metadata = path, metadata
    kind = metadata.get('general.type', 'model')
    if kind != 'model':
      raise UserError(f'{path} has general.type={kind!r:.100}, so it is an addition to a model (an '
                      'adapter, or the part for images): name the file of the model itself.')
    architecture = metadata.get('general.architecture')
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
      raise UserError(f'{path} has general.architecture={str(architecture)[:100]!r}: use a file of '
                      f'{", ".join(ARCHITECTURES)}, or a Hugging Face folder.')
    self.family, self._prefix = ARCHITECTURES[architecture], architecture

  def key(self, name: str) -> str:
    """The name of a field of this architecture."""
    return f'{self._prefix}.{name}'

  def __call__(self, name: str, default: Any = None) -> Any:
    value = self._metadata.get(self.key(name))
    return default if value is None else _shortest(value)

  def integer(self, name: str, default: int | None = None) -> int:
    """A field that is a number of things, at least 0."""
    value = self(name, default)
    if type(value) is not int or value < 0:
      raise UserError(f'{self.path} has {self.key(name)}={value!r:.100}: it must be a whole '
                      'number; download a complete GGUF file.')
    return value

  def fields(self, names: Mapping[str, str]) -> dict[str, Any]:
    """Those of config.json -> field that the file has."""
    found = {theirs: self(ours) for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if value is not None}

  def refuse_unless(self, name: str, *allowed: Any) -> None:
    """Refuses a field whose value is none of these; absent is allowed."""
    value = self(name)
    if value is not None and value not in allowed:
      raise UserError(
          f'{self.path} has {self.key(name)}={value!r:.100}, but only '
          f'{" or ".join(map(repr, allowed))} is supported: use another model.')


def _width_of_head(read: _Reader) -> int:
  return read.integer('embedding_length') // max(read.integer('attention.head_count'), 1)


def _plain(read: _Reader, raw: dict) -> dict:
  dim = raw.get('head_dim', _width_of_head(read))
  read.refuse_unless('rope.dimension_count', dim)
  read.refuse_unless('attention.value_length', dim)
  read.refuse_unless('expert_count', 0)
  return {'head_dim': dim, 'sliding_window': None}


def _qwen3_moe(read: _Reader, raw: dict) -> dict:
  fields = read.fields(_EXPERTS | {'num_experts': 'expert_count'})
  # Every layer has experts, so no MLP needs a width; their weights are divided by their sum.
  width = raw.get('intermediate_size', fields.get('moe_intermediate_size'))
  return {'norm_topk_prob': True, 'intermediate_size': width, **fields}


def _gemma3(read: _Reader, raw: dict) -> dict:
  layers = read.integer('block_count')
  pattern = read('attention.sliding_window_pattern', 6)
  head_dim = raw.get('head_dim', 256)
  result: dict[str, Any] = {
      'sliding_window': read('attention.sliding_window'), 'head_dim': head_dim,
      'query_pre_attn_scalar': _width_of_head(read) if layers == _GEMMA3_27B else head_dim,
      'rope_theta': raw.get('rope_theta', 1_000_000.0),
      'rope_local_base_freq': read('rope.freq_base_swa', 10_000.0)}
  if isinstance(pattern, list):
    result['layer_types'] = [
        'sliding_attention' if windowed else 'full_attention' for windowed in pattern[:layers]]
  else:
    result['sliding_window_pattern'] = pattern
  read.refuse_unless('final_logit_softcapping', 0)
  read.refuse_unless('attn_logit_softcapping', 0)
  return result


def _deepseek(read: _Reader, raw: dict) -> dict:
  fields = read.fields(_DEEPSEEK)
  # Newer files say what attention caches, and name the heads' own sizes apart.
  key_dim = read.integer('attention.key_length_mla', read('attention.key_length'))
  read.refuse_unless('expert_gating_func', _SIGMOID)
  if read('expert_gating_func') is None:
    raise UserError(f'{read.path} has no {read.key("expert_gating_func")}, so it is of DeepSeek-V2,'
                    ' which is not supported: use a file of DeepSeek-V3 or R1.')
  layers = read.integer('block_count') - read.integer('nextn_predict_layers', 0)
  # Files from before group fields were written are all of DeepSeek-V3 itself.
  groups = {'n_group': 8, 'topk_group': 4} if fields.get('n_routed_experts') == 256 else {}
  return groups | {
      'num_hidden_layers': layers, 'num_key_value_heads': raw['num_attention_heads'],
      'qk_nope_head_dim': key_dim - read.integer('rope.dimension_count'),
      'v_head_dim': read('attention.value_length_mla', read('attention.value_length'))} | fields


def _rope_scaling(read: _Reader, frequencies: np.ndarray | None) -> dict | None:
  kind = read('rope.scaling.type', 'none')
  factor = read('rope.scaling.factor', read('rope.scale_linear'))
  if frequencies is not None:
    return _llama3(read, frequencies)
  if kind == 'none' or factor in (None, 1.0, 0.0):
    return None
  if kind == 'linear':
    return {'rope_type': 'linear', 'factor': factor}
  read.refuse_unless('rope.scaling.type', 'none', 'linear', 'yarn')
  for name in ('attn_factor', 'yarn_attn_factor', 'yarn_ext_factor'):
    read.refuse_unless(f'rope.scaling.{name}', 1.0)
  result = {'rope_type': 'yarn', 'factor': factor} | read.fields({
      'original_max_position_embeddings': 'rope.scaling.original_context_length',
      'beta_fast': 'rope.scaling.yarn_beta_fast',
      'beta_slow': 'rope.scaling.yarn_beta_slow',
      'llama_4_scaling_beta': 'attention.temperature_scale'})
  if (multiplier := read('rope.scaling.yarn_log_multiplier')) and type(multiplier) is float:
    # Only where mscale equals mscale_all_dim is their ratio, which files do not have, known: 1.
    # DeepSeek's files have a tenth of it.
    both = _shortest(multiplier * (10 if read.family == 'deepseek_v3' else 1))
    result |= {'mscale': both, 'mscale_all_dim': both}
  return result


def _llama3(read: _Reader, frequencies: np.ndarray) -> dict:
  """Llama 3's scaling, of which a file has only what each frequency is divided by."""
  theta, factor = read('rope.freq_base', 10_000.0), float(frequencies.max(initial=1.0))
  scaling = RopeScaling(factor=_shortest(np.float32(factor)))
  size = 2 * len(frequencies)
  if np.isfinite(frequencies).all() and type(theta) is float and theta > 1 and factor >= 1:
    ours = rotary.frequencies(size, theta, None) / rotary.frequencies(size, theta, scaling)
    if np.allclose(ours, frequencies, rtol=1e-3):
      return {'rope_type': 'llama3', 'factor': scaling.factor,
              'low_freq_factor': scaling.low_frequency_factor,
              'high_freq_factor': scaling.high_frequency_factor,
              'original_max_position_embeddings': scaling.original_max_length}
  raise UserError(f'{read.path} stretches rotary positions by rope_freqs.weight in another way '
                  'than Llama 3: use the Hugging Face folder.')


def _shortest(value: Any) -> Any:
  """The shortest decimal that rounds to a float32: 1e-5, not 9.999999747378752e-06."""
  if isinstance(value, (float, np.floating)) and -1e38 < float(value) < 1e38:
    return float(str(np.float32(value)))
  return value
