"""Hugging Face folders of the families in `families.FAMILIES`: `config.json` and safetensors."""
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
from r1jax.models.config import ModelConfig
from r1jax.models.hf_config import (
    check_expressible, config_json, read_config as read_config, read_json)

_READ_TYPES = ('F32', 'F16', 'BF16')
_WRITTEN_TYPES = ('float32', 'bfloat16')
_WEIGHTS, _INDEX = 'model.safetensors', 'model.safetensors.index.json'


def load_params(
    folder: storage.Path | str, config: ModelConfig, *, mesh: jax.sharding.Mesh | None = None
) -> dict:
  """Float32 parameters from a folder's safetensors, read tensor by tensor.

  Args:
    folder: a local folder with `model.safetensors`, or with shards and their index. Tensors are
      float32, bfloat16 or float16. Of a tied model an `lm_head.weight` may be there as well (as in
      Qwen3-0.6B) if it equals the embedding; old Llama files' `rotary_emb.inv_freq` is passed over,
      and DeepSeek-V3's prediction head if the config has none.
    config: what `read_config` gives.
    mesh: where to put the parameters (see `sharding.RULES`); None: on the default device.

  Raises:
    FileNotFoundError: there are no weights, or a shard of the index is missing.
    ValueError: a file is torn; tensors are missing, unexpected, ill-shaped or of another type.
  """
  table = families.FAMILIES[config.family]
  expected, repeats = families.tensors(config, table), families.aliases(config, table)
  with contextlib.ExitStack() as stack:
    files = {}   # name of a tensor -> the open file that has it
    for path in _weight_files(storage.Path(folder)):
      try:
        file = stack.enter_context(safe_open(os.fspath(path), framework='numpy'))
      except SafetensorError as error:
        raise ValueError(
            f'{path} is torn or no safetensors file ({error}): fetch it again.') from None
      files |= {name: file for name in file.keys() if not families.ignored(config, name)}
    repeated = {name: files.pop(name) for name in repeats if name in files}
    slices = {name: file.get_slice(name) for name, file in files.items()}
    families.check(str(folder), expected, {n: tuple(s.get_shape()) for n, s in slices.items()})
    for name, part in slices.items():
      if part.get_dtype() not in _READ_TYPES:
        raise ValueError(f'The tensor {name} of {folder} has the type {part.get_dtype()}: save the '
                         f'checkpoint in one of {", ".join(_READ_TYPES)}.')
    for name, file in repeated.items():
      of = repeats[name]
      if not np.array_equal(file.get_tensor(name), files[of].get_tensor(of)):
        raise ValueError(f'{name} of {folder} differs from {of}' + (
            ', but tie_word_embeddings is true: set it to false in config.json.'
            if config.tied_embedding and name == table['unembedding'] else
            ', which the model shares with it: take another checkpoint.'))
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
    dtype: 'float32' or 'bfloat16', of the written tensors; a balancing bias stays float32.
    max_shard_bytes: larger models are split into shards with an index. One shard at a time is held
      in memory beside the parameters.

  Raises:
    FileExistsError: the folder holds weights or a `config.json` already.
    ValueError: unknown dtype; the parameters are not of this shape; the family's checkpoints cannot
      describe the model.
    OSError: a file cannot be written.
  """
  folder = storage.Path(folder)
  if dtype not in _WRITTEN_TYPES:
    raise ValueError(f'dtype={dtype!r} cannot be written: set one of {", ".join(_WRITTEN_TYPES)}.')
  for file in folder.iterdir():
    if file.name == 'config.json' or '.safetensors' in file.name:
      raise FileExistsError(f'{file} is there already: remove it or name another folder.')
  families.check_shapes(config, params)
  table = families.FAMILIES[config.family]
  tensors = families.tensors(config, table)
  check_expressible(config)
  tensors |= {name: tensors[of] for name, of in families.aliases(config, table).items()
              if name != table['unembedding']}
  params = sharding.to_host(params)
  # A balancing bias moves by steps that bfloat16 would lose; DeepSeek publishes it in float32 too.
  types = {name: jnp.dtype('float32' if tensor.part == 'balancing_bias' else dtype)
           for name, tensor in tensors.items()}
  sizes = {name: types[name].itemsize * math.prod(t.shape) for name, t in tensors.items()}
  shards = _shards(sizes, max_shard_bytes)
  for file, names in shards.items():
    content = {
        name: np.ascontiguousarray(families.extract(params, tensors[name]), types[name])
        for name in names}
    (folder / file).write_bytes(save(content, metadata={'format': 'pt'}))
  if len(shards) > 1:
    index = {'metadata': {'total_size': sum(sizes.values())},
             'weight_map': {name: file for file, names in shards.items() for name in names}}
    (folder / _INDEX).write_text(json.dumps(index, indent=2))
  if tokenizer is not None:
    tokenizer.save(folder)
  (folder / 'config.json').write_text(json.dumps(config_json(config, tokenizer, dtype), indent=2))


def _weight_files(folder: storage.Path) -> list[storage.Path]:
  if (folder / _WEIGHTS).exists():
    return [folder / _WEIGHTS]
  index = folder / _INDEX
  if not index.exists():
    raise FileNotFoundError(
        f'{folder} has neither {_WEIGHTS} nor {_INDEX}: name the folder of a checkpoint in '
        'safetensors (`save_pretrained` writes them).')
  weight_map = read_json(index).get('weight_map')
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
