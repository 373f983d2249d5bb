"""Models in GGUF files, the format of llama.cpp, dequantised to float32.

llama.cpp reads a model in the terms of its own graph, so a file differs from a Hugging Face
checkpoint in more than names: see `families.GGUF`, `_PERMUTED` and `_OFFSET_NORMS`.
"""
from collections.abc import Mapping
import math
import re
from typing import Any

import jax
import numpy as np

from r1jax.errors import UserError
from r1jax.models import families, hf_config, streaming
from r1jax.models.config import ModelConfig
from r1jax.models.gguf_config import config_json
from r1jax.runtime import extras, storage
from r1jax.runtime.gguf_file import Entry, GgufFile

# Families whose rotary positions llama.cpp applies to neighbouring rows of the query and key
# matrices, and Hugging Face to the two halves of a head: rows are reordered to halves.
_PERMUTED = ('llama', 'mistral', 'ministral3', 'smollm3')
# Families whose files keep 1 + scale of every norm.
_OFFSET_NORMS = ('gemma3_text',)
_SLICE = re.compile(r'(.*)\[(\d+)\]$')   # of a tensor that stacks those of all experts
_FREQUENCIES = 'rope_freqs.weight'
_BFLOAT16 = 30   # a kind of values


def load_gguf(path: storage.Path | str, *, mesh: jax.sharding.Mesh | None = None
              ) -> tuple[ModelConfig, dict]:
  """Loads a model: (architecture, float32 parameters).

  Args:
    path: a GGUF file, local or in a bucket; of one that is split, any part. Its tensors may have
      any type that the `gguf` package dequantises.
    mesh: where the parameters lie (see `sharding.RULES`); None for the default device.

  Raises:
    ModuleNotFoundError: the `gguf` package is not installed.
    FileNotFoundError: there is no such file.
    UserError: the file is truncated or not a GGUF file, its architecture is not supported, or its
      tensors do not match it or have weights that are NaN or infinite.
  """
  _gguf()
  with GgufFile(path) as file:
    config = _config(file)
    tensors = _Tensors(file, config)
    found = tensors.shapes()
    families.check_counts(str(path), config, found)
    expected = families.tensors(config, families.GGUF[config.family])
    families.check(str(path), expected, found)
    tensors.check_kinds()
    return config, streaming.assemble(
        config, expected, tensors.reader(expected), mesh=mesh, source=str(path))


def weights_dtype(path: storage.Path | str) -> str:
  """The type in which a file's weights are best exported; as for `huggingface.weights_dtype`."""
  with GgufFile(path) as file:
    stored = file.entries.get('token_embd.weight')
    return 'bfloat16' if stored and stored.kind == _BFLOAT16 else 'float32'


def read_config(path: storage.Path | str) -> ModelConfig:
  """Reads the architecture from a GGUF file.

  Args:
    path: a GGUF file.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is not a GGUF file, a field is missing, or the architecture is not supported.
  """
  with GgufFile(path) as file:
    return _config(file)


def _gguf() -> Any:
  return extras.require('gguf', extra='gguf', purpose='Reading the weights of a GGUF file')


def _config(file: GgufFile) -> ModelConfig:
  frequencies = None
  if _FREQUENCIES in file.entries:
    entry = file.entries[_FREQUENCIES]
    if entry.kind != 0 or len(entry.shape) != 1:
      raise UserError(f'{file.path} has {_FREQUENCIES} of shape {list(entry.shape)} and type '
                      f'{entry.kind}: one axis of float32 is read; use another copy.')
    frequencies = file.rows(_FREQUENCIES, 0, 1, 4 * entry.shape[0])[0].view('<f4')
  shapes = {name: entry.shape for name, entry in file.entries.items()}
  return hf_config.parse(file.path, config_json(file.path, file.metadata, shapes, frequencies))


class _Tensors:
  """The tensors of a file by the names of `families.GGUF`."""

  def __init__(self, file: GgufFile, config: ModelConfig):
    self._file, self._config = file, config
    self._latent = config.family == 'deepseek_v3'

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor; one for each expert of those that stack all experts'."""
    result: dict[str, tuple[int, ...]] = {}
    joined: dict[str, list[tuple[int, ...]]] = {}
    for name, entry in self._file.entries.items():
      if name == _FREQUENCIES or self._ignored(name):
        continue
      if self._latent and re.search(r'\.attn_[kv]_b\.weight$', name):
        joined.setdefault(re.sub('attn_[kv]_b', 'attn_kv_b', name), []).append(entry.shape)
      elif len(entry.shape) == 3 and '_exps.' in name:
        result |= {f'{name}[{i}]': entry.shape[1:] for i in range(entry.shape[0])}
      else:
        result[name] = entry.shape
    for name, (first, *others) in joined.items():   # [heads, rank, plain], [heads, value, rank]
      if len(others) != 1 or len(first) != 3 or len(others[0]) != 3:
        raise UserError(f'{self._file.path} has no whole {name}: use another copy of it.')
      keys, values = (self._file.entries[self._half(name, half)].shape for half in 'kv')
      result[name] = (keys[0] * (keys[2] + values[1]), keys[1])
    return result

  def _ignored(self, name: str) -> bool:
    """Whether it belongs to DeepSeek-V3's prediction head, which is not read from GGUF."""
    match = re.match(r'blk\.(\d+)\.', name)
    return self._latent and match is not None and int(match[1]) >= self._config.num_layers

  def _half(self, name: str, half: str) -> str:
    return name.replace('attn_kv_b', f'attn_{half}_b')

  def check_kinds(self) -> None:
    """Raises UserError for types that cannot be dequantised, and tensors with too few bytes."""
    for name, entry in self._file.entries.items():
      if not self._ignored(name):
        self._row_bytes(name, entry)

  def _row_bytes(self, name: str, entry: Entry) -> int:
    gguf = _gguf()
    try:
      kind = gguf.GGMLQuantizationType(entry.kind)
      block, size = gguf.GGML_QUANT_SIZES[kind]
      if entry.shape[-1] % block:
        raise ValueError
      gguf.dequantize(np.zeros(size, np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
      raise UserError(
          f'The tensor {name} of {self._file.path} has the type {_kind_name(entry.kind)}, which '
          'the gguf package cannot dequantise: use a file of another type, or update the package.'
          ) from None
    row_bytes = entry.shape[-1] // block * size
    if row_bytes * math.prod(entry.shape[:-1]) > entry.limit:
      raise UserError(f'{self._file.path} is truncated or not a GGUF file (the tensor {name} of '
                      f'shape {list(entry.shape)} has {entry.limit} bytes): download it again.')
    return row_bytes

  def reader(self, expected: Mapping[str, families.Tensor]) -> streaming.Read:
    """The function by which `streaming.assemble` reads them, in float32."""
    heads = {'query': self._config.num_heads, 'key': self._config.num_kv_heads}

    def read(name: str, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
      role = expected[name].role
      if role == 'latent_key_value' and name not in self._file.entries:
        values = self._joined(name, *rows)
      elif role in heads and self._config.family in _PERMUTED:
        values = self._halves(name, *rows)
      else:
        values = self._rows(name, *rows)
      if role.endswith('norm') and self._config.family in _OFFSET_NORMS:
        values = values - 1
      return values[:, slice(*columns)]
    return read

  def _rows(self, name: str, begin: int, end: int) -> np.ndarray:
    """Some rows of a tensor or of one expert's slice; one with one axis has one column."""
    match = _SLICE.match(name)
    name = match[1] if match else name
    entry = self._file.entries[name]
    if len(entry.shape) == 1:
      return self._dequantised(name, 0, 1).reshape(-1, 1)[begin:end]
    first = int(match[2]) * entry.shape[1] if match else 0
    return self._dequantised(name, first + begin, first + end)

  def _dequantised(self, name: str, begin: int, end: int) -> np.ndarray:
    gguf, entry = _gguf(), self._file.entries[name]
    data = self._file.rows(name, begin, end, self._row_bytes(name, entry))
    return np.asarray(gguf.dequantize(data, gguf.GGMLQuantizationType(entry.kind)), np.float32)

  def _halves(self, name: str, begin: int, end: int) -> np.ndarray:
    """Rows [begin, end) in Hugging Face's order, of heads whose rows llama.cpp has as pairs."""
    size = self._config.head_dim
    first, last = begin // size * size, -(-end // size) * size
    pairs = self._rows(name, first, last)
    halves = pairs.reshape(-1, size // 2, 2, pairs.shape[1]).swapaxes(1, 2)
    return halves.reshape(pairs.shape)[begin - first:end - first]

  def _joined(self, name: str, begin: int, end: int) -> np.ndarray:
    """Rows of DeepSeek-V3's kv_b, which newer files split into keys, transposed, and values."""
    keys, values = (self._half(name, half) for half in 'kv')
    (_, rank, plain), (_, value_dim, _) = (self._file.entries[n].shape for n in (keys, values))
    size = plain + value_dim
    first, last = begin // size, -(-end // size)
    key_rows = self._dequantised(keys, first * rank, last * rank).reshape(-1, rank, plain)
    value_rows = self._dequantised(values, first * value_dim, last * value_dim)
    both = np.concatenate(
        [key_rows.swapaxes(1, 2), value_rows.reshape(-1, value_dim, rank)], axis=1)
    return both.reshape(-1, rank)[begin - first * size:end - first * size]


def _kind_name(kind: int) -> str:
  names = {int(known): known.name for known in _gguf().GGMLQuantizationType}
  return names.get(kind, str(kind))
