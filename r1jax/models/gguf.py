"""GGUF files of the llama architecture, dequantised to float32 (SmolLM2 comes as one)."""
import functools
import pathlib

import jax
import numpy as np

from r1jax.errors import UserError
from r1jax.models import families, streaming
from r1jax.models.config import ModelConfig
from r1jax.runtime import extras


def load_gguf(
    path: str, *, mesh: jax.sharding.Mesh | None = None) -> tuple[ModelConfig, dict]:
  """Loads a model: (architecture, float32 parameters).

  For rotary positions, llama.cpp pairs neighbouring rows of the query and key matrices, Hugging
  Face the two halves of a head; the rows are reordered to halves.

  Args:
    path: a GGUF file; its tensors may have any type that the `gguf` package dequantises.
    mesh: where the parameters lie (see `sharding.RULES`); None for the default device.

  Raises:
    ModuleNotFoundError: the `gguf` package is not installed.
    FileNotFoundError: there is no such file.
    UserError: the file is truncated or not a GGUF file, its architecture is not llama, or its
      tensors do not match it.
  """
  gguf = _gguf()
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'GGUF file {path} does not exist: correct the path.')
  try:
    reader = gguf.GGUFReader(path)
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise UserError(
        f'{path} is truncated or not a GGUF file ({error}): download it again.') from None
  found = {tensor.name: tensor for tensor in reader.tensors}
  config = _config(path, reader, tied='output.weight' not in found)
  expected = families.tensors(config, families.GGUF)
  shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in found.items()}
  families.check(path, expected, shapes)
  heads = {'query': config.num_heads, 'key': config.num_kv_heads}

  @functools.lru_cache(maxsize=1)   # a tensor's reads follow each other
  def dequantise(name):
    try:
      array = gguf.dequantize(found[name].data, found[name].tensor_type)
    except NotImplementedError:
      raise UserError(
          f'The tensor {name} of {path} has the type {found[name].tensor_type.name}, which the '
          'gguf package cannot dequantise: use a file of another type.') from None
    role = expected[name].role
    if role in heads:
      pairs = array.reshape(heads[role], config.head_dim // 2, 2, config.width)
      array = pairs.swapaxes(1, 2)
    return array.reshape(expected[name].shape[0], -1)

  def read(name, rows, columns):
    return dequantise(name)[slice(*rows), slice(*columns)]

  return config, streaming.assemble(config, expected, read, mesh=mesh)


def read_config(path: str) -> ModelConfig:
  """Reads the architecture from a GGUF file.

  Args:
    path: a GGUF file.

  Raises:
    ModuleNotFoundError: the `gguf` package is not installed.
    UserError: a field is missing, or the architecture is not llama.
  """
  reader = _gguf().GGUFReader(path)
  return _config(path, reader,
                 tied='output.weight' not in {tensor.name for tensor in reader.tensors})


def _gguf():
  return extras.require('gguf', extra='gguf', purpose='Reading the weights of a GGUF file')


def _config(path: str, reader, *, tied: bool) -> ModelConfig:
  def value(name, default=None):
    field = reader.get_field(name)
    if field is None and default is None:
      raise UserError(f'{path} has no {name}: download a complete GGUF file.')
    return default if field is None else field.contents()

  architecture = value('general.architecture')
  if architecture != 'llama':
    raise UserError(f'{path} has general.architecture={architecture!r}: use a file of the llama '
                     'architecture, or the Hugging Face folder.')
  width, num_heads = value('llama.embedding_length'), value('llama.attention.head_count')
  head_dim = value('llama.attention.key_length', width // num_heads)
  for name, plain in (('llama.rope.dimension_count', head_dim),
                      ('llama.rope.scaling.type', 'none')):
    if value(name, plain) != plain:
      raise UserError(f'{path} has {name}={value(name)!r}, but only {plain!r} is supported: use '
                       'the Hugging Face folder.')
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
  """The shortest decimal that rounds to this float32: 1e-5, not 9.999999747378752e-06."""
  return float(str(np.float32(number)))
