"""Hugging Face folders of Llama 3, SmolLM2, Qwen2/2.5 and Qwen3: `config.json` and safetensors.

`config.json` is read here rather than by `transformers`, whose import takes seconds and brings
torch along. It is written in the spelling of transformers 4, which version 5 reads too.
"""
import contextlib
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from r1jax import sharding, storage
from r1jax.models import families
from r1jax.models.config import ModelConfig, RopeScaling

_ARCHITECTURES = {
    'llama': 'LlamaForCausalLM',
    'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
}

# ModelConfig -> config.json, where only the name differs.
_FIELDS = {
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
_ROPE_FIELDS = {
    'factor': 'factor',
    'low_frequency_factor': 'low_freq_factor',
    'high_frequency_factor': 'high_freq_factor',
    'original_max_length': 'original_max_position_embeddings',
}
_READ_TYPES = ('F32', 'F16', 'BF16')
_WRITTEN_TYPES = ('float32', 'bfloat16')
_WEIGHTS, _INDEX = 'model.safetensors', 'model.safetensors.index.json'


def read_config(folder: storage.Path | str) -> ModelConfig:
  """The model's shape from a folder's `config.json`, in the spelling of transformers 4 or 5.

  Raises:
    FileNotFoundError: there is no `config.json`.
    ValueError: it is no JSON, lacks a field, or asks for what the model does not have.
  """
  path = storage.Path(folder) / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'There is no {path}: name the folder of a Hugging Face checkpoint.')
  raw = _read_json(path)
  family = raw.get('model_type')
  if family not in families.FAMILIES:
    _refuse(path, 'model_type', family, f'take a checkpoint of {", ".join(families.FAMILIES)}')
  rope = _rope(path, raw)
  _refuse_unsupported(path, raw, rope, family)

  num_heads = _number(path, raw, 'num_attention_heads', int)
  width = _number(path, raw, 'hidden_size', int)
  head_dim = 128 if family == 'qwen3' else width // num_heads
  max_length = _number(path, raw, 'max_position_embeddings', int)
  return ModelConfig(
      family=family,
      vocab_size=_number(path, raw, 'vocab_size', int),
      width=width,
      num_layers=_number(path, raw, 'num_hidden_layers', int),
      num_heads=num_heads,
      num_kv_heads=_number(path, raw, 'num_key_value_heads', int, num_heads),
      head_dim=_number(path, raw, 'head_dim', int, head_dim),
      mlp_width=_number(path, raw, 'intermediate_size', int),
      rope_theta=_number(path, rope, 'rope_theta', float, 10_000.0),
      rope_scaling=_rope_scaling(path, rope, max_length),
      norm_epsilon=_number(path, raw, 'rms_norm_eps', float, 1e-6),
      qkv_bias=family == 'qwen2',
      qk_norm=family == 'qwen3',
      tied_embedding=raw.get('tie_word_embeddings') is True,
      max_length=max_length)


def load_params(
    folder: storage.Path | str, config: ModelConfig, *, mesh: jax.sharding.Mesh | None = None
) -> dict:
  """Float32 parameters from a folder's safetensors, read tensor by tensor.

  Args:
    folder: a local folder with `model.safetensors`, or with shards and their index. Tensors are
      float32, bfloat16 or float16. Of a tied model an `lm_head.weight` may be there as well (as in
      Qwen3-0.6B) if it equals the embedding; old Llama files' `rotary_emb.inv_freq` is passed over.
    config: what `read_config` gives.
    mesh: where to put the parameters (see `sharding.RULES`); None: on the default device.

  Raises:
    FileNotFoundError: there are no weights, or a shard of the index is missing.
    ValueError: a file is torn; tensors are missing, unexpected, ill-shaped or of another type.
  """
  expected = families.tensors(config, families.FAMILIES[config.family])
  with contextlib.ExitStack() as stack:
    files = {}   # name of a tensor -> the open file that has it
    for path in _weight_files(storage.Path(folder)):
      try:
        file = stack.enter_context(safe_open(os.fspath(path), framework='numpy'))
      except SafetensorError as error:
        raise ValueError(
            f'{path} is torn or no safetensors file ({error}): fetch it again.') from None
      files |= {name: file for name in file.keys() if not name.endswith('rotary_emb.inv_freq')}
    head, embedding = (families.FAMILIES[config.family][p] for p in ('unembedding', 'embedding'))
    tied_head = files.pop(head, None) if config.tied_embedding else None
    slices = {name: file.get_slice(name) for name, file in files.items()}
    families.check(str(folder), expected, {n: tuple(s.get_shape()) for n, s in slices.items()})
    for name, part in slices.items():
      if part.get_dtype() not in _READ_TYPES:
        raise ValueError(f'The tensor {name} of {folder} has the type {part.get_dtype()}: save the '
                         f'checkpoint in one of {", ".join(_READ_TYPES)}.')
    if tied_head is not None and not np.array_equal(
        tied_head.get_tensor(head), files[embedding].get_tensor(embedding)):
      raise ValueError(
          f'{head} of {folder} differs from {embedding}, but tie_word_embeddings is true: set it '
          'to false in config.json.')
    return families.assemble(config, expected, lambda name: files[name].get_tensor(name), mesh=mesh)


def export(
    folder: storage.Path | str, config: ModelConfig, params, *, tokenizer=None,
    dtype: str = 'float32', max_shard_bytes: int = 2 * 1024**3) -> None:
  """Writes a folder that `transformers` and other engines load, and `load_params` too.

  `config.json` is written last: a folder that has one is whole.

  Args:
    folder: local or in a bucket.
    config, params: the model; float32 round-trips bit for bit, bfloat16 rounds to nearest.
    tokenizer: a `tokenization.Tokenizer`, whose files and stop ids go in as well.
    dtype: 'float32' or 'bfloat16', of the written tensors.
    max_shard_bytes: larger models are split into shards with an index. One shard at a time is held
      in memory beside the parameters.

  Raises:
    FileExistsError: the folder holds weights or a `config.json` already.
    ValueError: unknown dtype; the parameters are not of this shape.
    OSError: a file cannot be written.
  """
  folder = storage.Path(folder)
  if dtype not in _WRITTEN_TYPES:
    raise ValueError(f'dtype={dtype!r} cannot be written: set one of {", ".join(_WRITTEN_TYPES)}.')
  for file in folder.iterdir():
    if file.name == 'config.json' or '.safetensors' in file.name:
      raise FileExistsError(f'{file} is there already: remove it or name another folder.')
  families.check_shapes(config, params)
  tensors = families.tensors(config, families.FAMILIES[config.family])
  params = sharding.to_host(params)
  type_ = jnp.dtype(dtype)
  sizes = {name: type_.itemsize * math.prod(tensor.shape) for name, tensor in tensors.items()}
  shards = _shards(sizes, max_shard_bytes)
  for file, names in shards.items():
    content = {
        name: np.ascontiguousarray(families.extract(params, tensors[name]), type_)
        for name in names}
    (folder / file).write_bytes(save(content, metadata={'format': 'pt'}))
  if len(shards) > 1:
    index = {'metadata': {'total_size': sum(sizes.values())},
             'weight_map': {name: file for file, names in shards.items() for name in names}}
    (folder / _INDEX).write_text(json.dumps(index, indent=2))
  if tokenizer is not None:
    tokenizer.save(folder)
  (folder / 'config.json').write_text(json.dumps(_config_json(config, tokenizer, dtype), indent=2))


def _read_json(path: storage.Path) -> dict:
  try:
    value = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is no JSON ({error}): fetch it again.') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds no JSON object: fetch it again.')
  return value


def _refuse(path: storage.Path, field: str, value: object, mend: str):
  raise ValueError(f'{path} has {field}={value!r}, which is not supported: {mend}.')


def _rope(path: storage.Path, raw: dict) -> dict:
  """The settings of rotary positions, gathered from where transformers 4 and 5 keep them."""
  field = 'rope_scaling' if raw.get('rope_scaling') else 'rope_parameters'
  rope = raw.get(field) or {}
  if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
    _refuse(path, field, rope, 'give one set of rotary settings for all layers')
  fields = ('rope_theta', 'partial_rotary_factor')
  return {name: raw[name] for name in fields if name in raw} | rope


def _refuse_unsupported(path: storage.Path, raw: dict, rope: dict, family: str) -> None:
  def sliding():
    if raw.get('layer_types'):
      return set(raw['layer_types']) != {'full_attention'}
    return raw.get('use_sliding_window') and raw.get('sliding_window') and (
        raw.get('max_window_layers', 28) < _number(path, raw, 'num_hidden_layers', int))

  plain = 'take a checkpoint without it'
  if raw.get('hidden_act', 'silu') != 'silu':
    _refuse(path, 'hidden_act', raw['hidden_act'], 'take a checkpoint with \'silu\'')
  for field in ('mlp_bias', 'quantization_config') + (
      () if family == 'qwen2' else ('attention_bias',)):
    if raw.get(field):
      _refuse(path, field, raw[field], plain)
  if sliding():
    field = 'layer_types' if raw.get('layer_types') else 'use_sliding_window'
    _refuse(path, field, raw[field], 'set full attention if no sequence outgrows the window')
  if rope.get('partial_rotary_factor') not in (None, 1):
    _refuse(path, 'partial_rotary_factor', rope['partial_rotary_factor'], plain)


def _number(path: storage.Path, raw: dict, field: str, kind: type, default=None):
  value = default if raw.get(field) is None else raw[field]
  if value is None:
    raise ValueError(f'{path} lacks {field}: add it, or fetch the file again.')
  wanted = int if kind is int else (int, float)
  if not isinstance(value, wanted) or isinstance(value, bool) or not value > 0:
    raise ValueError(
        f'{path} has {field}={value!r}: it must be {"an integer" if kind is int else "a number"} '
        'above 0.')
  return kind(value)


def _rope_scaling(path: storage.Path, rope: dict, max_length: int) -> RopeScaling | None:
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind == 'default':
    return None
  if kind != 'llama3':
    _refuse(path, 'rope_type', kind, 'take a checkpoint with \'default\' or \'llama3\'')
  rope = {'original_max_position_embeddings': max_length} | rope
  return RopeScaling(**{
      ours: _number(path, rope, theirs, int if ours == 'original_max_length' else float)
      for ours, theirs in _ROPE_FIELDS.items()})


def _config_json(config: ModelConfig, tokenizer, dtype: str) -> dict:
  scaling = config.rope_scaling
  return {
      'architectures': [_ARCHITECTURES[config.family]],
      'model_type': config.family,
      **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
      'hidden_act': 'silu',
      'rope_theta': config.rope_theta,
      'rope_scaling': None if scaling is None else {
          'rope_type': 'llama3',
          **{theirs: getattr(scaling, ours) for ours, theirs in _ROPE_FIELDS.items()}},
      'torch_dtype': dtype,
      'bos_token_id': None if tokenizer is None else tokenizer.bos_id,
      'eos_token_id': None if tokenizer is None else list(tokenizer.stop_ids),
  }


def _weight_files(folder: storage.Path) -> list[storage.Path]:
  if (folder / _WEIGHTS).exists():
    return [folder / _WEIGHTS]
  index = folder / _INDEX
  if not index.exists():
    raise FileNotFoundError(
        f'{folder} has neither {_WEIGHTS} nor {_INDEX}: name the folder of a checkpoint in '
        'safetensors (`save_pretrained` writes them).')
  weight_map = _read_json(index).get('weight_map')
  if not isinstance(weight_map, dict):
    raise ValueError(f'{index} has no weight_map: fetch it again.')
  files = [folder / name for name in dict.fromkeys(weight_map.values())]
  for file in files:
    if not file.exists():
      raise FileNotFoundError(f'{file}, named in {_INDEX}, is missing: fetch it again.')
  return files


def _shards(sizes: dict[str, int], limit: int) -> dict[str, list[str]]:
  """File -> names of its tensors, in order; a tensor larger than the limit has a file to itself."""
  groups, room = [], 0
  for name, size in sizes.items():
    if not groups or size > room:
      groups.append([])
      room = limit
    groups[-1].append(name)
    room -= size
  if len(groups) == 1:
    return {_WEIGHTS: groups[0]}
  count = len(groups)
  return {f'model-{i:05d}-of-{count:05d}.safetensors': names for i, names in enumerate(groups, 1)}
