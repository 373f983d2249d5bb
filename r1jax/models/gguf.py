"""GGUF files of the llama architecture, dequantised to float32 (SmolLM2 comes as one)."""
import functools
import pathlib

import jax
import numpy as np

from r1jax.models import families, streaming
from r1jax.models.config import ModelConfig
from r1jax.runtime import extras


def load_gguf(
    path: str, *, mesh: jax.sharding.Mesh | None = None) -> tuple[ModelConfig, dict]:
  """The model's shape and its float32 parameters.

  llama.cpp pairs neighbouring rows for rotary positions where Hugging Face pairs halves: within
  each head the rows of the query and key matrices are put back.

  Args:
    path: a GGUF file; its tensors may have any type that the `gguf` package dequantises.
    mesh: where to put the parameters (see `sharding.RULES`); None: on the default device.

  Raises:
    FileNotFoundError: there is no such file.
    ModuleNotFoundError: the `gguf` package is not installed.
    ValueError: it is torn or no GGUF file, of another architecture, or its tensors do not fit.
  """
  gguf = _gguf()
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'There is no GGUF file {path}: mend the path.')
  try:
    reader = gguf.GGUFReader(path)
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(f'{path} is torn or no GGUF file ({error}): fetch it again.') from None
  found = {tensor.name: tensor for tensor in reader.tensors}
  config = _config(path, reader, tied='output.weight' not in found)
  expected = families.tensors(config, families.GGUF)
  shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in found.items()}
  families.check(path, expected, shapes)
  heads = {'query': config.num_heads, 'key': config.num_kv_heads}

  @functools.lru_cache(maxsize=1)   # its pieces are asked for in turn
  def dequantised(name):
    try:
      array = gguf.dequantize(found[name].data, found[name].tensor_type)
    except NotImplementedError:
      raise ValueError(f'The tensor {name} of {path} has the type {found[name].tensor_type.name}, '
                       'which the gguf package cannot dequantise: take another file.') from None
    part = expected[name].part
    if part in heads:
      pairs = array.reshape(heads[part], config.head_dim // 2, 2, config.width)
      array = pairs.swapaxes(1, 2)
    return array.reshape(expected[name].shape[0], -1)

  def read(name, rows, columns):
    return dequantised(name)[slice(*rows), slice(*columns)]

  return config, streaming.assemble(config, expected, read, mesh=mesh)


def read_config(path: str) -> ModelConfig:
  """The model's shape alone; errors as of `load_gguf`."""
  reader = _gguf().GGUFReader(path)
  return _config(path, reader,
                 tied='output.weight' not in {tensor.name for tensor in reader.tensors})


def _gguf():
  return extras.require('gguf', extra='gguf', purpose='Reading the weights of a GGUF file')


def _config(path: str, reader, *, tied: bool) -> ModelConfig:
  def value(name, default=None):
    field = reader.get_field(name)
    if field is None and default is None:
      raise ValueError(f'{path} lacks {name}: fetch a complete GGUF file.')
    return default if field is None else field.contents()

  architecture = value('general.architecture')
  if architecture != 'llama':
    raise ValueError(f'{path} has general.architecture={architecture!r}: take a file of the llama '
                     'architecture, or the Hugging Face folder.')
  width, num_heads = value('llama.embedding_length'), value('llama.attention.head_count')
  head_dim = value('llama.attention.key_length', width // num_heads)
  for name, plain in (('llama.rope.dimension_count', head_dim),
                      ('llama.rope.scaling.type', 'none')):
    if value(name, plain) != plain:
      raise ValueError(f'{path} has {name}={value(name)!r} where only {plain!r} is read: take the '
                       'Hugging Face folder.')
  return ModelConfig(
      family='llama',
      vocab_size=value('llama.vocab_size'),
      width=width,
      num_layers=value('llama.block_count'),
      num_heads=num_heads,
      num_kv_heads=value('llama.attention.head_count_kv', num_heads),
      head_dim=head_dim,
      mlp_width=value('llama.feed_forward_length'),
      rope_theta=_shortest(value('llama.rope.freq_base', 10_000.0)),
      norm_epsilon=_shortest(value('llama.attention.layer_norm_rms_epsilon')),
      tied_embedding=tied,
      max_length=value('llama.context_length'))


def _shortest(number: float) -> float:
  """The shortest decimal that a float32 stands for: 1e-5 rather than 9.999999747378752e-06."""
  return float(str(np.float32(number)))
