"""Converts between `config.json` of a Hugging Face checkpoint and a ModelConfig.

Reading does not use `transformers`, whose import takes seconds and loads torch. Files are written
in the spelling of transformers 4, which version 5 reads too.
"""
import dataclasses
import json
from typing import Any, NoReturn

from r1jax.errors import UserError
from r1jax.models import families
from r1jax.models.config import (
  Experts,
  Latent,
  LinearScaling,
  ModelConfig,
  RopeScaling,
  YarnScaling,
  as_runs,
)
from r1jax.runtime import storage

_ARCHITECTURES = {
    'llama': 'LlamaForCausalLM',
    'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
    'qwen3_moe': 'Qwen3MoeForCausalLM',
    'gemma3_text': 'Gemma3ForCausalLM',
    'deepseek_v3': 'DeepseekV3ForCausalLM',
}

# ModelConfig -> config.json, where only the name differs.
FIELDS = {
    'vocab_size': 'vocab_size',
    'width': 'hidden_size',
    'num_layers': 'num_hidden_layers',
    'num_heads': 'num_attention_heads',
    'num_kv_heads': 'num_key_value_heads',
    'head_dim': 'head_dim',
    'mlp_width': 'intermediate_size',
    'norm_epsilon': 'rms_norm_eps',
    'tied_embedding': 'tie_word_embeddings',
    'max_length': 'max_position_embeddings',
}
_SCALINGS = {
    'llama3': (RopeScaling, {
        'factor': 'factor',
        'low_frequency_factor': 'low_freq_factor',
        'high_frequency_factor': 'high_freq_factor',
        'original_max_length': 'original_max_position_embeddings',
    }),
    'linear': (LinearScaling, {'factor': 'factor'}),
    'yarn': (YarnScaling, {
        'factor': 'factor',
        'original_max_length': 'original_max_position_embeddings',
        'fast_turns': 'beta_fast',
        'slow_turns': 'beta_slow',
        'mscale': 'mscale',
        'mscale_all_dim': 'mscale_all_dim',
    }),
}
# Scalings that a family may have; other families may have llama3.
_FAMILY_SCALINGS = {'gemma3_text': ('linear',), 'deepseek_v3': ('yarn',)}
_WINDOWED = 'sliding_attention'   # transformers' name for layers of kind 'local'


def read_config(folder: storage.Path | str, *, prediction_head: bool = False) -> ModelConfig:
  """Reads the architecture from a folder's `config.json`, in the spelling of transformers 4 or 5.

  Args:
    folder: of a checkpoint.
    prediction_head: include DeepSeek-V3's prediction head, which `load_params` then loads;
      otherwise it is ignored, as transformers does.

  Raises:
    FileNotFoundError: there is no `config.json`.
    UserError: it is not valid JSON, a field is missing, or it asks for something that the model
      does not support.
  """
  path = storage.Path(folder) / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist: use the folder of a Hugging Face checkpoint.')
  return _parse(path, read_json(path), prediction_head)


def _parse(path: storage.Path | str, raw: dict, prediction_head: bool) -> ModelConfig:
  family = raw.get('model_type')
  if not isinstance(family, str) or family not in families.FAMILIES:
    _refuse(path, 'model_type', family, f'use a checkpoint of {", ".join(families.FAMILIES)}')
  rope = _rope(path, raw, family)
  _refuse_unsupported(path, raw, rope, family)
  fields = _common_fields(path, raw, rope, family)
  special = {'qwen3_moe': _qwen3_moe, 'gemma3_text': _gemma3, 'deepseek_v3': _deepseek_v3}
  if family in special:
    fields |= special[family](path, raw, fields['num_layers'])
  if family == 'deepseek_v3' and prediction_head:
    if raw.get('num_nextn_predict_layers') != 1:
      _refuse(path, 'num_nextn_predict_layers', raw.get('num_nextn_predict_layers'),
              'read it without prediction_head')
    fields['prediction_head'] = True
  return ModelConfig(**fields)


def _common_fields(path: storage.Path | str, raw: dict, rope: dict, family: str) -> dict[str, Any]:
  """The fields of ModelConfig that all families have, with the defaults of transformers."""
  num_heads = _number(path, raw, 'num_attention_heads', int)
  width = _number(path, raw, 'hidden_size', int)
  max_length = _number(path, raw, 'max_position_embeddings', int)
  fields = dict(
      family=family,
      vocab_size=_number(path, raw, 'vocab_size', int),
      width=width,
      num_layers=_number(path, raw, 'num_hidden_layers', int),
      num_heads=num_heads,
      num_kv_heads=_number(path, raw, 'num_key_value_heads', int, num_heads),
      mlp_width=_number(path, raw, 'intermediate_size', int),
      rope_theta=_number(path, rope, 'rope_theta', float, 10_000.0),
      rope_scaling=_rope_scaling(path, rope, max_length, family),
      norm_epsilon=_number(path, raw, 'rms_norm_eps', float, 1e-6),
      qkv_bias=family == 'qwen2',
      qk_norm=family in ('qwen3', 'qwen3_moe', 'gemma3_text'),
      tied_embedding=raw.get('tie_word_embeddings', family == 'gemma3_text') is True,
      max_length=max_length)
  if family != 'deepseek_v3':
    own = {'qwen3': 128, 'gemma3_text': 256}
    fields['head_dim'] = _number(path, raw, 'head_dim', int, own.get(family, width // num_heads))
  return fields


def read_block(folder: storage.Path | str) -> tuple[int, int] | None:
  """(rows, columns) of a block of 8-bit weights, from `config.json`; None if there are none.

  Args:
    folder: of a checkpoint.

  Raises:
    UserError: `config.json` is not valid JSON, or its quantisation is not supported.
  """
  path = storage.Path(folder) / 'config.json'
  return _block(path, read_json(path)) if path.exists() else None


def _block(path, raw: dict) -> tuple[int, int] | None:
  quantised = raw.get('quantization_config')
  if not quantised:
    return None
  if not isinstance(quantised, dict) or quantised.get('quant_method') != 'fp8' or (
      quantised.get('fmt', 'e4m3') != 'e4m3'):
    _refuse(path, 'quantization_config', quantised,
            "use a checkpoint without it, or with quant_method 'fp8' and fmt 'e4m3'")
  block = quantised.get('weight_block_size')
  if not isinstance(block, list) or [type(size) for size in block] != [int, int] or min(block) < 1:
    raise UserError(
        f'{path} has quantization_config.weight_block_size={block!r}: it must be the rows and '
        'columns of a block, as [128, 128]: use a checkpoint with scales per block.')
  return tuple(block)


def config_json(config: ModelConfig, tokenizer, dtype: str) -> dict:
  """The content of `config.json` of an export.

  Args:
    config: the architecture.
    tokenizer: a `tokenization.Tokenizer`, for bos and eos ids; or None.
    dtype: of the written tensors.
  """
  activation = {'silu': 'silu', 'gelu_tanh': 'gelu_pytorch_tanh'}[config.activation]
  special = {'qwen3_moe': _qwen3_moe_json, 'gemma3_text': _gemma3_json,
             'deepseek_v3': _deepseek_v3_json}
  return {
      'architectures': [_ARCHITECTURES[config.family]],
      'model_type': config.family,
      **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
      'hidden_act': activation,
      'rope_theta': config.rope_theta,
      'rope_scaling': _scaling_json(config.rope_scaling),
      **special.get(config.family, lambda config: {})(config),
      'torch_dtype': dtype,
      'bos_token_id': None if tokenizer is None else tokenizer.bos_id,
      'eos_token_id': None if tokenizer is None else list(tokenizer.stop_ids),
  }


def check_expressible(config: ModelConfig) -> None:
  """Raises UserError if a `config.json` of the family would describe another model."""
  path = f'A config.json of {config.family}'
  read = _parse(path, config_json(config, None, 'float32'), config.prediction_head)
  for field in dataclasses.fields(config):
    name = 'kinds' if field.name == 'layers' else field.name
    ours, theirs = getattr(config, name), getattr(read, name)
    if ours != theirs:
      raise UserError(
          f'{path} cannot express {field.name}={getattr(config, field.name)!r} (it would be read '
          f'as {getattr(read, field.name)!r}): change the field, or the family.')


def read_json(path: storage.Path) -> dict:
  """Reads a JSON file; raises UserError unless it holds an object."""
  try:
    value = json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f'{path} is not valid JSON ({error}): download it again.') from None
  if not isinstance(value, dict):
    raise UserError(f'{path} is not valid JSON (it holds no object): download it again.')
  return value


# Families with fields of their own.


def _qwen3_moe(path, raw, num_layers) -> dict:
  count = 'num_experts' if raw.get('num_experts') is not None else 'num_local_experts'
  step = _number(path, raw, 'decoder_sparse_step', int, 1)
  plain = raw.get('mlp_only_layers') or []
  if not isinstance(plain, list):
    _refuse(path, 'mlp_only_layers', plain, 'give a list of layer numbers')
  kinds = ['dense' if i in plain or (i + 1) % step else 'experts' for i in range(num_layers)]
  if 'experts' not in kinds:
    _refuse(path, 'mlp_only_layers', plain, 'use a checkpoint of qwen3 if no layer has experts')
  return dict(layers=as_runs(kinds), experts=Experts(
      count=_number(path, raw, count, int),
      per_token=_number(path, raw, 'num_experts_per_tok', int),
      width=_number(path, raw, 'moe_intermediate_size', int),
      normalise=raw.get('norm_topk_prob') is True))


def _qwen3_moe_json(config) -> dict:
  e = config.experts
  return {'num_experts': e.count, 'num_experts_per_tok': e.per_token,
          'moe_intermediate_size': e.width, 'norm_topk_prob': e.normalise,
          'decoder_sparse_step': 1,
          'mlp_only_layers': [i for i, kind in enumerate(config.kinds) if kind == 'dense']}


def _gemma3(path, raw, num_layers) -> dict:
  kinds = raw.get('layer_types')
  if kinds is None:
    every = _number(path, raw, 'sliding_window_pattern', int, 6)
    kinds = [_WINDOWED if (i + 1) % every else 'full_attention' for i in range(num_layers)]
  odd = [kind for kind in kinds if kind not in (_WINDOWED, 'full_attention')]
  if odd:
    _refuse(path, 'layer_types', odd[0], f'use {_WINDOWED} and full_attention')
  kinds = ['local' if kind == _WINDOWED else 'dense' for kind in kinds]
  return dict(
      layers=() if 'local' not in kinds else as_runs(kinds),
      window=_number(path, raw, 'sliding_window', int, 4096) if 'local' in kinds else None,
      local_rope_theta=_local_theta(path, raw),
      query_scale=_number(path, raw, 'query_pre_attn_scalar', float, 256.0),
      offset_norms=True, post_norms=True, scaled_embedding=True, activation='gelu_tanh')


def _gemma3_json(config) -> dict:
  kinds = ['full_attention' if kind == 'dense' else _WINDOWED for kind in config.kinds]
  scalar = config.head_dim if config.query_scale is None else config.query_scale
  local = config.local_rope_theta or config.rope_theta
  return {'hidden_activation': 'gelu_pytorch_tanh', 'layer_types': kinds,
          'sliding_window': config.window or config.max_length, 'rope_local_base_freq': local,
          'query_pre_attn_scalar': int(scalar) if scalar == int(scalar) else scalar}


def _local_theta(path, raw) -> float:
  nested = (raw.get('rope_parameters') or {}).get(_WINDOWED)
  local = nested or {'rope_theta': raw.get('rope_local_base_freq')}
  if local.get('rope_type', 'default') != 'default':
    _refuse(path, 'rope_type', local['rope_type'], 'use \'default\' for sliding attention')
  return _number(path, local, 'rope_theta', float, 10_000.0)


def _deepseek_v3(path, raw, num_layers) -> dict:
  def number(name, default=None):
    return _number(path, raw, name, int, default)

  dense = min(number('first_k_dense_replace') if raw.get('first_k_dense_replace') else 0,
              num_layers)
  for field, wanted in (('moe_layer_freq', 1), ('scoring_func', 'sigmoid'),
                        ('topk_method', 'noaux_tc'), ('attention_bias', False)):
    if raw.get(field, wanted) != wanted:
      _refuse(path, field, raw[field], f'use a checkpoint with {wanted!r}')
  rope_dim, plain_dim = number('qk_rope_head_dim'), number('qk_nope_head_dim')
  experts = None if dense == num_layers else Experts(
      count=number('n_routed_experts'),
      per_token=number('num_experts_per_tok'),
      width=number('moe_intermediate_size'),
      routing='sigmoid',
      normalise=raw.get('norm_topk_prob', True) is True,
      scale=_number(path, raw, 'routed_scaling_factor', float, 1.0),
      groups=number('n_group', 1),
      groups_per_token=number('topk_group', 1),
      shared=number('n_shared_experts') if raw.get('n_shared_experts') else 0)
  kinds = ['dense'] * dense + ['experts'] * (num_layers - dense)
  return dict(
      num_kv_heads=number('num_attention_heads'),
      head_dim=rope_dim + plain_dim,
      layers=() if experts is None else as_runs(kinds),
      experts=experts,
      latent=Latent(
          rank=number('kv_lora_rank'), rope_dim=rope_dim, value_dim=number('v_head_dim'),
          query_rank=number('q_lora_rank') if raw.get('q_lora_rank') else None,
          interleaved=raw.get('rope_interleave', True) is True))


def _deepseek_v3_json(config) -> dict:
  e, latent = config.experts, config.latent
  fields = {
      'head_dim': latent.rope_dim, 'qk_rope_head_dim': latent.rope_dim,
      'qk_nope_head_dim': config.head_dim - latent.rope_dim, 'v_head_dim': latent.value_dim,
      'kv_lora_rank': latent.rank, 'q_lora_rank': latent.query_rank,
      'rope_interleave': latent.interleaved,
      'first_k_dense_replace': config.kinds.count('dense'),
      'num_nextn_predict_layers': int(config.prediction_head)}
  return fields if e is None else fields | {
      'n_routed_experts': e.count, 'num_experts_per_tok': e.per_token,
      'moe_intermediate_size': e.width, 'norm_topk_prob': e.normalise,
      'routed_scaling_factor': e.scale, 'n_group': e.groups, 'topk_group': e.groups_per_token,
      'n_shared_experts': e.shared, 'moe_layer_freq': 1, 'scoring_func': 'sigmoid',
      'topk_method': 'noaux_tc'}


# Rotary positions, and settings that are not supported.


def _rope(path: storage.Path | str, raw: dict, family: str) -> dict:
  """The settings of rotary positions, from the fields where transformers 4 and 5 keep them."""
  field = 'rope_scaling' if raw.get('rope_scaling') else 'rope_parameters'
  rope = raw.get(field) or {}
  if family == 'gemma3_text':
    if isinstance(rope, dict) and isinstance(rope.get('full_attention'), dict):
      rope = rope['full_attention']
    rope = {'rope_theta': 1_000_000.0} | rope
  if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
    _refuse(path, field, rope, 'give one set of rotary settings for all layers')
  fields = ('rope_theta', 'partial_rotary_factor')
  return {name: raw[name] for name in fields if name in raw} | {
      name: value for name, value in rope.items()
      if not (name == 'rope_theta' and name in raw and family == 'gemma3_text')}


def _refuse_unsupported(path: storage.Path | str, raw: dict, rope: dict, family: str) -> None:
  def sliding():
    if raw.get('layer_types'):
      return set(raw['layer_types']) != {'full_attention'}
    return raw.get('use_sliding_window') and raw.get('sliding_window') and (
        raw.get('max_window_layers', 28) < _number(path, raw, 'num_hidden_layers', int))

  plain = 'use a checkpoint without it'
  gemma = family == 'gemma3_text'
  field, wanted = (('hidden_activation', 'gelu_pytorch_tanh') if gemma else
                   ('hidden_act', 'silu'))
  if raw.get(field, wanted) != wanted:
    _refuse(path, field, raw[field], f'use a checkpoint with {wanted!r}')
  _block(path, raw)
  for field in ('mlp_bias', 'final_logit_softcapping',
                'attn_logit_softcapping', 'use_bidirectional_attention') + (
      () if family == 'qwen2' else ('attention_bias',)):
    if raw.get(field):
      _refuse(path, field, raw[field], plain)
  if not gemma and sliding():
    field = 'layer_types' if raw.get('layer_types') else 'use_sliding_window'
    _refuse(path, field, raw[field], 'set full attention if no sequence is longer than the window')
  if rope.get('partial_rotary_factor') not in (None, 1):
    _refuse(path, 'partial_rotary_factor', rope['partial_rotary_factor'], plain)


def _rope_scaling(path: storage.Path | str, rope: dict, max_length: int, family: str):
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return None
  kinds = _FAMILY_SCALINGS.get(family, ('llama3',))
  if kind not in kinds:
    _refuse(path, 'rope_type', kind, 'use a checkpoint with ' + ' or '.join(
        repr(k) for k in ('default', *kinds)))
  rope = {'original_max_position_embeddings': max_length} | rope
  scaling, fields = _SCALINGS[kind]
  if kind == 'yarn':
    _check_yarn(path, rope)
    rope = {'beta_fast': 32.0, 'beta_slow': 1.0} | rope
  return scaling(**{
      ours: _number(path, rope, theirs, int if ours == 'original_max_length' else float)
      for ours, theirs in fields.items()})


def _check_yarn(path: storage.Path | str, rope: dict) -> None:
  for field, wanted in (('truncate', True), ('attention_factor', None)):
    if rope.get(field, wanted) != wanted:
      _refuse(path, field, rope[field], 'use a checkpoint without it')


def _scaling_json(scaling) -> dict | None:
  if scaling is None:
    return None
  fields = _SCALINGS[scaling.kind][1]
  return {'rope_type': scaling.kind,
          **{theirs: getattr(scaling, ours) for ours, theirs in fields.items()}}


def _refuse(path: storage.Path | str, field: str, value: object, fix: str) -> NoReturn:
  raise UserError(f'{path} has {field}={value!r}, which is not supported: {fix}.')


def _number(path: storage.Path | str, raw: dict, field: str, kind: type, default=None):
  value = default if raw.get(field) is None else raw[field]
  if value is None:
    raise UserError(f'{path} has no {field}: add it, or download the file again.')
  wanted = int if kind is int else (int, float)
  if not isinstance(value, wanted) or isinstance(value, bool) or not value > 0:
    raise UserError(
        f'{path} has {field}={value!r}: it must be {"an integer" if kind is int else "a number"} '
        'above 0.')
  return kind(value)
