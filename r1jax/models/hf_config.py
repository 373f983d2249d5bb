"""Converts between `config.json` of a Hugging Face checkpoint and a ModelConfig.

Reading does not use `transformers`, whose import takes seconds and loads torch. Files are written
in the spelling of transformers 4, which version 5 reads too.
"""
import dataclasses
import re
from typing import Any

from r1jax.errors import UserError
from r1jax.models import families, hf_rope
from r1jax.models.config import LARGEST, Experts, Latent, ModelConfig, as_runs
from r1jax.models.hf_fields import number, read_json, refuse
from r1jax.runtime import foreign_folders, storage

_ARCHITECTURES = {
    'llama': 'LlamaForCausalLM',
    'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
    'qwen3_moe': 'Qwen3MoeForCausalLM',
    'smollm3': 'SmolLM3ForCausalLM',
    'mistral': 'MistralForCausalLM',
    'ministral': 'MinistralForCausalLM',
    'ministral3': 'Ministral3ForCausalLM',
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
_NO_WINDOW = 'set full attention if no sequence is longer than the window'
_WINDOWED, _FULL = 'sliding_attention', 'full_attention'   # transformers' names

# Models of text and images -> the model_type of their text_config, if it does not say. Of these the
# text model is read.
WRAPPERS = {'gemma3': 'gemma3_text', 'mistral3': 'mistral'}
# What fields mean that a config.json leaves out, as in transformers.
_DEFAULTS: dict[str, dict[str, Any]] = {
    'gemma3_text': {
        'vocab_size': 262_208, 'hidden_size': 2304, 'intermediate_size': 9216,
        'num_hidden_layers': 26, 'num_attention_heads': 8, 'num_key_value_heads': 4,
        'head_dim': 256, 'max_position_embeddings': 131_072, 'tie_word_embeddings': True,
        'sliding_window': 4096},
    'qwen3': {'head_dim': 128},
    'mistral': {'sliding_window': 4096},
    'ministral': {'sliding_window': 4096},
    'ministral3': {'head_dim': 128, 'rms_norm_eps': 1e-5},
    'smollm3': {'tie_word_embeddings': True},
}


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
    raise FileNotFoundError(f'{path} does not exist; {foreign_folders.instead(folder)}.')
  return parse(path, read_json(path), prediction_head)


def parse(path: object, raw: dict, prediction_head: bool = False) -> ModelConfig:
  """The architecture that the content of a `config.json` describes.

  Args:
    path: for messages.
    raw: the content.
    prediction_head: as in `read_config`.

  Raises:
    UserError: a field is missing, or it asks for something that the model does not support.
  """
  _refuse_other_tasks(path, raw)
  raw = text_config(path, raw)
  family = raw.get('model_type')
  if not isinstance(family, str) or family not in families.FAMILIES:
    refuse(path, 'model_type', family, f'use a checkpoint of {", ".join(families.FAMILIES)}')
  if family == 'mistral' and raw.get('layer_types'):
    family = 'ministral'   # as in transformers
  raw = _DEFAULTS.get(family, {}) | raw
  rope = hf_rope.read(path, raw, family)
  fields = _common_fields(path, raw, rope, family)
  _refuse_unsupported(path, raw, fields['num_layers'], family)
  read = {'qwen3_moe': _qwen3_moe, 'gemma3_text': _gemma3, 'deepseek_v3': _deepseek_v3,
          'smollm3': _smollm3}.get(family, _windowed)
  fields |= read(path, raw, fields['num_layers'])
  if family == 'deepseek_v3' and prediction_head:
    if raw.get('num_nextn_predict_layers') != 1:
      refuse(path, 'num_nextn_predict_layers', raw.get('num_nextn_predict_layers'),
             'read it without prediction_head')
    fields['prediction_head'] = True
  try:
    return ModelConfig(**fields)
  except UserError as error:
    raise UserError(f'{path} describes no model: {error}') from None


def text_config(path: object, raw: dict) -> dict:
  """The content of a `config.json`, or of the text model in it if it is of text and images."""
  wrapper = raw.get('model_type')
  if not isinstance(wrapper, str) or wrapper not in WRAPPERS:
    return raw
  text = raw.get('text_config')
  if not isinstance(text, dict):
    refuse(path, 'text_config', text, f'a model_type {wrapper!r} has its text model there')
  tied = 'tie_word_embeddings'   # the outer one decides
  return {'model_type': WRAPPERS[wrapper], 'quantization_config': raw.get('quantization_config'),
          **text, **({tied: raw[tied]} if tied in raw else {})}


def _common_fields(path: object, raw: dict, rope: dict, family: str) -> dict[str, Any]:
  """The fields of ModelConfig that all families have, with the defaults of transformers."""
  num_heads = number(path, raw, 'num_attention_heads', int)
  width = number(path, raw, 'hidden_size', int)
  max_length = number(path, raw, 'max_position_embeddings', int)
  num_layers = number(path, raw, 'num_hidden_layers', int)
  if num_layers > LARGEST['num_layers']:   # before anything is made for each of them
    refuse(path, 'num_hidden_layers', num_layers, f'use at most {LARGEST["num_layers"]:,}')
  fields = dict(
      family=family,
      vocab_size=number(path, raw, 'vocab_size', int),
      width=width,
      num_layers=num_layers,
      num_heads=num_heads,
      num_kv_heads=number(path, raw, 'num_key_value_heads', int, num_heads),
      mlp_width=number(path, raw, 'intermediate_size', int),
      rope_theta=hf_rope.theta(path, rope),
      rope_scaling=hf_rope.scaling(path, rope, max_length),
      norm_epsilon=number(path, raw, 'rms_norm_eps', float, 1e-6),
      qkv_bias=family == 'qwen2',
      qk_norm=family in ('qwen3', 'qwen3_moe', 'gemma3_text'),
      tied_embedding=raw.get('tie_word_embeddings') is True,
      max_length=max_length)
  if family != 'deepseek_v3':
    fields['head_dim'] = number(path, raw, 'head_dim', int, max(width // num_heads, 1))
  return fields


def read_block(folder: storage.Path | str) -> tuple[int, int] | None:
  """(rows, columns) of a block of 8-bit weights, from `config.json`; None if there are none.

  Args:
    folder: of a checkpoint.

  Raises:
    UserError: `config.json` is not valid JSON, or its quantisation is not supported.
  """
  path = storage.Path(folder) / 'config.json'
  return _block(path, text_config(path, read_json(path))) if path.exists() else None


def _block(path, raw: dict) -> tuple[int, int] | None:
  quantised = raw.get('quantization_config')
  if not quantised:
    return None
  if not isinstance(quantised, dict) or quantised.get('quant_method') != 'fp8' or (
      quantised.get('fmt', 'e4m3') != 'e4m3'):
    refuse(path, 'quantization_config', quantised,
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
             'deepseek_v3': _deepseek_v3_json, 'smollm3': _smollm3_json}
  return {
      'architectures': [_ARCHITECTURES[config.family]],
      'model_type': config.family,
      **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
      'hidden_act': activation,
      'rope_theta': config.rope_theta,
      'rope_scaling': hf_rope.scaling_json(config.rope_scaling),
      **special.get(config.family, _windowed_json)(config),
      'torch_dtype': dtype,
      'bos_token_id': None if tokenizer is None else tokenizer.bos_id,
      'eos_token_id': None if tokenizer is None else list(tokenizer.stop_ids),
      'pad_token_id': None if tokenizer is None else tokenizer.pad_id,
  }


def check_expressible(config: ModelConfig) -> None:
  """Raises UserError if a `config.json` of the family would describe another model."""
  path = f'A config.json of {config.family}'
  read = parse(path, config_json(config, None, 'float32'), config.prediction_head)
  for field in dataclasses.fields(config):
    name = 'kinds' if field.name == 'layers' else field.name
    ours, theirs = getattr(config, name), getattr(read, name)
    if ours != theirs:
      raise UserError(
          f'{path} cannot express {field.name}={getattr(config, field.name)!r} (it would be read '
          f'as {getattr(read, field.name)!r}): change the field, or the family.')


# Families with fields of their own.


def _qwen3_moe(path, raw, num_layers) -> dict:
  count = 'num_experts' if raw.get('num_experts') is not None else 'num_local_experts'
  step = number(path, raw, 'decoder_sparse_step', int, 1)
  plain = raw.get('mlp_only_layers') or []
  if not isinstance(plain, list) or not all(type(i) is int for i in plain):
    refuse(path, 'mlp_only_layers', plain, 'give a list of layer numbers')
  kinds = ['dense' if i in plain or (i + 1) % step else 'experts' for i in range(num_layers)]
  if 'experts' not in kinds:
    refuse(path, 'mlp_only_layers', plain, 'use a checkpoint of qwen3 if no layer has experts')
  return dict(layers=as_runs(kinds), experts=Experts(
      count=number(path, raw, count, int),
      per_token=number(path, raw, 'num_experts_per_tok', int),
      width=number(path, raw, 'moe_intermediate_size', int),
      normalise=raw.get('norm_topk_prob') is True))


def _qwen3_moe_json(config) -> dict:
  e = config.experts
  return {'num_experts': e.count, 'num_experts_per_tok': e.per_token,
          'moe_intermediate_size': e.width, 'norm_topk_prob': e.normalise,
          'decoder_sparse_step': 1,
          'mlp_only_layers': [i for i, kind in enumerate(config.kinds) if kind == 'dense']}


def _windows(path, raw, num_layers, default: list[str]) -> dict:
  """The fields `layers` and `window`, from `layer_types`, or `default` where it is not given."""
  kinds = raw.get('layer_types') or default
  if not isinstance(kinds, list):
    refuse(path, 'layer_types', kinds, f'give a list of {_WINDOWED!r} and {_FULL!r}')
  odd = [kind for kind in kinds if kind not in (_WINDOWED, _FULL)]
  if odd:
    refuse(path, 'layer_types', odd[0], f'use {_WINDOWED} and {_FULL}')
  if len(kinds) != num_layers:
    refuse(path, 'layer_types', kinds, f'give one for each of the {num_layers} layers')
  if _WINDOWED not in kinds:
    return {}
  return dict(layers=as_runs(['local' if kind == _WINDOWED else 'dense' for kind in kinds]),
              window=number(path, raw, 'sliding_window', int))


def _windows_json(config) -> dict:
  return {'layer_types': [_WINDOWED if kind == 'local' else _FULL for kind in config.kinds],
          'sliding_window': config.window}


def _windowed(path, raw, num_layers) -> dict:
  """Families whose layers differ in nothing but windows, if at all."""
  family, window = raw['model_type'], raw.get('sliding_window')
  if family in ('mistral', 'ministral', 'ministral3'):
    return _windows(path, raw, num_layers, [_WINDOWED if window else _FULL] * num_layers)
  if family not in ('qwen2', 'qwen3') or not (raw.get('use_sliding_window') and window):
    return {}
  first = raw.get('max_window_layers', 28)
  if type(first) is not int or first < 0:
    refuse(path, 'max_window_layers', first, 'give the number of the first layer with a window')
  return _windows(path, raw, num_layers,
                  [_WINDOWED if i >= first else _FULL for i in range(num_layers)])


def _windowed_json(config) -> dict:
  if config.family in ('mistral', 'ministral3'):
    return {'sliding_window': config.window}
  if config.family == 'ministral':
    return _windows_json(config)
  if config.family in ('qwen2', 'qwen3') and config.window:
    return {'use_sliding_window': True, 'max_window_layers': config.kinds.index('local'),
            **_windows_json(config)}
  return {}


def _smollm3(path, raw, num_layers) -> dict:
  rotated = raw.get('no_rope_layers')
  if rotated is None:
    every = number(path, raw, 'no_rope_layer_interval', int, 4)
    rotated = [int((i + 1) % every != 0) for i in range(num_layers)]
  if not isinstance(rotated, list) or len(rotated) < num_layers or any(
      type(item) is not int or item not in (0, 1) for item in rotated):
    refuse(path, 'no_rope_layers', rotated, f'give a 1 for each of the {num_layers} layers with '
           'rotary positions and a 0 for each without')
  kinds = ['dense' if item else 'no_rope' for item in rotated[:num_layers]]
  return dict(layers=as_runs(kinds) if 'no_rope' in kinds else ())


def _smollm3_json(config) -> dict:
  return {'no_rope_layers': [int(kind == 'dense') for kind in config.kinds],
          'layer_types': [_FULL] * config.num_layers}


def _gemma3(path, raw, num_layers) -> dict:
  every = number(path, raw, 'sliding_window_pattern', int, 6)
  default = [_WINDOWED if (i + 1) % every else _FULL for i in range(num_layers)]
  return _windows(path, raw, num_layers, default) | dict(
      local_rope_theta=hf_rope.local_theta(path, raw),
      query_scale=number(path, raw, 'query_pre_attn_scalar', float, 256.0),
      offset_norms=True, post_norms=True, scaled_embedding=True, activation='gelu_tanh')


def _gemma3_json(config) -> dict:
  scalar = config.head_dim if config.query_scale is None else config.query_scale
  local = config.local_rope_theta or config.rope_theta
  return {'hidden_activation': 'gelu_pytorch_tanh', **_windows_json(config),
          'sliding_window': config.window or config.max_length, 'rope_local_base_freq': local,
          'query_pre_attn_scalar': int(scalar) if scalar == int(scalar) else scalar}


def _deepseek_v3(path, raw, num_layers) -> dict:
  def integer(name, default=None):
    return number(path, raw, name, int, default)

  dense = min(integer('first_k_dense_replace') if raw.get('first_k_dense_replace') else 0,
              num_layers)
  for field, wanted in (('moe_layer_freq', 1), ('scoring_func', 'sigmoid'),
                        ('topk_method', 'noaux_tc'), ('attention_bias', False)):
    if raw.get(field, wanted) != wanted:
      refuse(path, field, raw[field], f'use a checkpoint with {wanted!r}')
  rope_dim, plain_dim = integer('qk_rope_head_dim'), integer('qk_nope_head_dim')
  experts = None if dense == num_layers else Experts(
      count=integer('n_routed_experts'),
      per_token=integer('num_experts_per_tok'),
      width=integer('moe_intermediate_size'),
      routing='sigmoid',
      normalise=raw.get('norm_topk_prob', True) is True,
      scale=number(path, raw, 'routed_scaling_factor', float, 1.0),
      groups=integer('n_group', 1),
      groups_per_token=integer('topk_group', 1),
      shared=integer('n_shared_experts') if raw.get('n_shared_experts') else 0)
  kinds = ['dense'] * dense + ['experts'] * (num_layers - dense)
  return dict(
      num_kv_heads=integer('num_attention_heads'),
      head_dim=rope_dim + plain_dim,
      layers=() if experts is None else as_runs(kinds),
      experts=experts,
      latent=Latent(
          rank=integer('kv_lora_rank'), rope_dim=rope_dim, value_dim=integer('v_head_dim'),
          query_rank=integer('q_lora_rank') if raw.get('q_lora_rank') else None,
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


# Settings that are not supported.


def _refuse_other_tasks(path: object, raw: dict) -> None:
  architectures = raw.get('architectures')
  for name in architectures if isinstance(architectures, list) else []:
    if isinstance(name, str) and re.search('Classification|Reward|QuestionAnswering', name):
      refuse(path, 'architectures', name, 'it is a reward model or classifier, so name the '
             'language model that it was made from')
  if raw.get('quantization') and not raw.get('quantization_config'):
    refuse(path, 'quantization', raw['quantization'], 'these are weights of MLX, so use the '
           'checkpoint that they were made from')


def _refuse_unsupported(path: object, raw: dict, num_layers: int, family: str) -> None:
  plain = 'use a checkpoint without it'
  field, wanted = (('hidden_activation', 'gelu_pytorch_tanh') if family == 'gemma3_text' else
                   ('hidden_act', 'silu'))
  if raw.get(field, wanted) != wanted:
    refuse(path, field, raw[field], f'use a checkpoint with {wanted!r}')
  _block(path, raw)
  for field in ('mlp_bias', 'final_logit_softcapping',
                'attn_logit_softcapping', 'use_bidirectional_attention') + (
      () if family == 'qwen2' else ('attention_bias',)):
    if raw.get(field):
      refuse(path, field, raw[field], plain)
  if family in ('llama', 'qwen3_moe', 'smollm3'):   # whose layers all see everything
    kinds, used = raw.get('layer_types'), raw.get('use_sliding_window')
    if kinds and (not isinstance(kinds, list) or kinds.count(_FULL) < len(kinds)):
      refuse(path, 'layer_types', kinds, _NO_WINDOW)
    first = raw.get('max_window_layers', 28)
    if not kinds and used and raw.get('sliding_window') and not (
        type(first) is int and first >= num_layers):
      refuse(path, 'use_sliding_window', used, _NO_WINDOW)
