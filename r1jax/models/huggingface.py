"""Imports and exports Hugging Face folders: `config.json` and safetensors."""
from collections.abc import Iterable
import contextlib
import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.models import families, fp8, safetensors_io, streaming, weight_files
from r1jax.models.config import ModelConfig
from r1jax.models.hf_config import check_expressible, config_json, read_block
from r1jax.models.hf_config import read_config as read_config
from r1jax.runtime import checksums, hosts, storage

_READ_TYPES = ('F32', 'F16', 'BF16')   # and fp8.TYPE, with its scales
WRITTEN_TYPES = ('float32', 'bfloat16')


def load_params(
    folder: storage.Path | str, config: ModelConfig, *, mesh: jax.sharding.Mesh | None = None
) -> dict:
  """Loads float32 parameters from a folder's safetensors, streamed to the devices that hold them.

  Nothing is written, so an interrupted import can simply be repeated. On a mesh of several
  processes, each reads what its own devices hold.

  Args:
    folder: local or in a bucket, with `model.safetensors`, or with shards and their index. Tensors
      are float32, bfloat16 or float16, or 8-bit with block scales, which are multiplied in (see
      `fp8`). A tied model may also have an `lm_head.weight` (as Qwen3-0.6B has) if it equals the
      embedding. Ignored are `rotary_emb.inv_freq` of old Llama files, and DeepSeek-V3's prediction
      head if the config has none.
    config: what `read_config` returns.
    mesh: where the parameters lie (see `sharding.RULES`); None for the default device.

  Raises:
    FileNotFoundError: there are no weights, or a shard of the index is missing.
    UserError: a file is truncated, or tensors are missing, unexpected, or of the wrong shape or
      type, or have weights that are NaN or infinite.
  """
  table = families.FAMILIES[config.family]
  block = read_block(folder)
  with contextlib.ExitStack() as stack:
    files = weight_files.open_folder(storage.Path(folder), stack)
    families.check_counts(str(folder), config, files)
    expected, aliases = families.tensors(config, table), families.aliases(config, table)
    files = {name: stored for name, stored in files.items() if not families.ignored(config, name)}
    _check_head(folder, config, files)
    repeated = {name: files.pop(name) for name in aliases if name in files}
    entries = {name: stored.entry for name, stored in files.items()}
    scales = {} if block is None else {
        name + fp8.SUFFIX: expected[name]._replace(shape=fp8.scales_shape(entry.shape, block))
        for name, entry in entries.items() if name in expected and _is_fp8(entry)}
    families.check(str(folder), expected | scales, {n: entry.shape for n, entry in entries.items()})
    for name, stored in (files | repeated).items():
      _check_type(folder, name, stored.entry, block)
    for name, stored in repeated.items():
      _check_repeated(folder, config, name, stored, aliases[name], files[aliases[name]])
    return streaming.assemble(
        config, expected, functools.partial(_read, files, block), mesh=mesh, source=str(folder))


def weights_dtype(folder: storage.Path | str, config: ModelConfig) -> str:
  """The type in which a folder's weights are best exported again: that of its embedding.

  Returns:
    'bfloat16' or, for all other types, 'float32', which loses nothing.

  Raises:
    FileNotFoundError, UserError: as `load_params`.
  """
  name = families.FAMILIES[config.family]['embedding']
  with contextlib.ExitStack() as stack:
    stored = weight_files.open_folder(storage.Path(folder), stack).get(name)
    return 'bfloat16' if stored and stored.entry.dtype == 'BF16' else 'float32'


def rounded(config: ModelConfig, params: Any, dtype: str) -> Any:
  """Parameters as they come back from an export in this type; they are donated.

  A balancing bias, which is exported in float32, is kept.
  """
  if dtype == 'float32':
    return params
  return _to_bfloat16(params, frozenset(
      tensor.path for tensor in _written_tensors(config).values() if _stays_float32(tensor)))


@functools.partial(jax.jit, static_argnums=1, donate_argnums=0)
def _to_bfloat16(params, kept: frozenset):
  def round_one(path, x):    # XLA may drop two casts
    return x if families.keys(path) in kept else jax.lax.reduce_precision(
        x, exponent_bits=8, mantissa_bits=7)
  return jax.tree_util.tree_map_with_path(round_one, params)


def _stays_float32(tensor: families.Tensor) -> bool:
  # A balancing bias moves by steps that bfloat16 would lose; DeepSeek publishes it in float32 too.
  return tensor.role == 'balancing_bias'


def _read(files: dict[str, weight_files.Stored], block: tuple[int, int] | None, name: str,
          rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
  """A region of a tensor, multiplied with its scales if it is 8-bit."""
  def read(name, rows, columns):
    stored = files[name]
    return stored.file.read(stored.name, rows, columns)

  values = read(name, rows, columns)
  if not _is_fp8(files[name].entry):
    return values
  assert block is not None
  scale_rows, scale_columns = (
      (at[0] // size, -(-at[1] // size)) for at, size in zip((rows, columns), block))
  scales = read(name + fp8.SUFFIX, scale_rows, scale_columns)
  return fp8.dequantise(values, scales, block, first_row=rows[0], first_column=columns[0])


def export(
    folder: storage.Path | str, config: ModelConfig, params: Any, *,
    tokenizer: Any = None, dtype: str = 'float32', max_shard_bytes: int = 2 * 1024**3,
) -> dict[str, checksums.Sum]:
  """Writes a folder that `transformers`, inference engines and `load_params` can load.

  `config.json` is written last: a folder that has one is complete. `r1jax_checksums.json` has the
  sums of all files. All processes call this together and the first one writes; if it fails, all of
  them raise.

  Args:
    folder: local or in a bucket.
    config: the architecture.
    params: the parameters; float32 is kept bit for bit, bfloat16 rounds to nearest.
    tokenizer: a `tokenization.Tokenizer`, whose files and stop ids are written too; or None.
    dtype: 'float32' or 'bfloat16', of the written tensors; a balancing bias stays float32.
    max_shard_bytes: larger models are split into shards with an index. One tensor at a time comes
      to the host; to write to a bucket takes the memory of one shard.

  Returns:
    The sum of every file of the folder by its name.

  Raises:
    FileExistsError: the folder already holds weights or a `config.json`.
    UserError: unknown dtype; the parameters do not have this architecture; the family's
      checkpoints cannot describe the model.
    OSError: a file cannot be written.
  """
  folder = storage.Path(folder)
  _check_export(folder, config, params, dtype)
  tensors = _written_tensors(config)
  types = {name: jnp.dtype('float32' if _stays_float32(tensor) else dtype)
           for name, tensor in tensors.items()}
  sizes = {name: types[name].itemsize * math.prod(t.shape) for name, t in tensors.items()}
  shards = _shards(sizes, max_shard_bytes)
  hosts.barrier()   # every process has checked the folder before the first one writes
  params, sums = streaming.small_on_host(params), {}
  for file, names in shards.items():
    names = safetensors_io.aligned_order({name: types[name] for name in names})
    sums[file] = hosts.together(functools.partial(_write_shard, folder / file, params, {
        name: (types[name], tensors[name]) for name in names}))[0]

  def finish() -> dict[str, checksums.Sum]:
    more = []
    if len(shards) > 1:
      index = {'metadata': {'total_size': sum(sizes.values())},
               'weight_map': {name: file for file, names in shards.items() for name in names}}
      (folder / weight_files.INDEX).write_text(json.dumps(index, indent=2))
      more.append(weight_files.INDEX)
    if tokenizer is not None:
      more += tokenizer.save(folder)
    last = json.dumps(config_json(config, tokenizer, dtype), indent=2)
    found = sums | checksums.of_files(folder, more) | {
        'config.json': checksums.of_bytes(last.encode())}
    found[checksums.FILE] = checksums.write(folder, found)
    (folder / 'config.json').write_text(last)
    return found
  return {name: checksums.Sum(*found) for name, found in hosts.from_first(finish).items()}


def _check_export(folder: storage.Path, config: ModelConfig, params: Any, dtype: str) -> None:
  if dtype not in WRITTEN_TYPES:
    raise UserError(f'dtype={dtype!r} cannot be written: use one of {", ".join(WRITTEN_TYPES)}.')
  for file in folder.iterdir():
    if file.name == 'config.json' or '.safetensors' in file.name:
      raise FileExistsError(f'{file} already exists: remove it or use another folder.')
  families.check_shapes(config, params)
  families.tensors(config, families.FAMILIES[config.family])   # refuses what has no name
  check_expressible(config)


def _written_tensors(config: ModelConfig) -> dict[str, families.Tensor]:
  """Name -> tensor; DeepSeek-V3's repeated tensors are written too, a tied unembedding is not."""
  table = families.FAMILIES[config.family]
  tensors = families.tensors(config, table)
  return tensors | {name: tensors[of] for name, of in families.aliases(config, table).items()
                    if name != table['unembedding']}


def _write_shard(path: storage.Path, params: Any,
                 tensors: dict[str, tuple[np.dtype, families.Tensor]]) -> checksums.Sum:
  """Writes one file, and returns its sum; `tensors` is name -> (written type, tensor)."""
  arrays = (streaming.extract(params, tensor) for _, tensor in tensors.values())
  parts = checksums.Summed(safetensors_io.serialise(
      {name: (dtype, tensor.shape) for name, (dtype, tensor) in tensors.items()}, arrays))
  try:
    if hosts.is_first():
      path.write_parts(parts)
    return parts.sum
  finally:   # all processes gather every tensor, even when the first one cannot write it
    for _ in arrays:
      pass


def _is_fp8(entry: safetensors_io.Entry) -> bool:
  return entry.dtype == fp8.TYPE and len(entry.shape) == 2


def _check_type(folder, name: str, entry: safetensors_io.Entry, block) -> None:
  if entry.dtype in _READ_TYPES or (_is_fp8(entry) and block is not None):
    return
  raise UserError(f'The tensor {name} of {folder} has the type {entry.dtype}' + (
      ', but config.json has no quantization_config with its blocks: use the model in bfloat16.'
      if _is_fp8(entry) else f': save the checkpoint in one of {", ".join(_READ_TYPES)}.'))


def _check_head(folder, config: ModelConfig, names: Iterable[str]) -> None:
  head = families.FAMILIES[config.family]['unembedding']
  if not config.tied_embedding and head not in names:
    raise UserError(f'{folder} has no {head}, and tie_word_embeddings is false: set it to true in '
                    'config.json if the model shares its embedding, or use a copy with that '
                    'tensor.')


def _check_repeated(folder, config: ModelConfig, name: str, stored: weight_files.Stored,
                    of: str, of_stored: weight_files.Stored) -> None:
  """Raises UserError unless the tensor `name` equals `of`, compared some rows at a time."""
  def read(stored, rows):
    return stored.file.read(stored.name, rows)

  shape = stored.entry.shape
  step = max(1, streaming.READ_BYTES // (4 * max(1, math.prod(shape[1:]))))
  if shape != of_stored.entry.shape or not all(
      np.array_equal(read(stored, rows), read(of_stored, rows), equal_nan=True)
      for rows in ((at, min(at + step, shape[0])) for at in range(0, shape[0], step))):
    raise UserError(f'{name} of {folder} differs from {of}' + (
        ', but tie_word_embeddings is true: set it to false in config.json.'
        if config.tied_embedding and name == families.FAMILIES[config.family]['unembedding'] else
        ', which the model shares with it: use another checkpoint.'))


def _shards(sizes: dict[str, int], limit: int) -> dict[str, list[str]]:
  """File -> names of its tensors, in order; a tensor above the limit has a file of its own."""
  groups: list[list[str]] = []
  room = 0
  for name, size in sizes.items():
    if not groups or size > room:
      groups.append([])
      room = limit
    groups[-1].append(name)
    room -= size
  if len(groups) == 1:
    return {weight_files.WEIGHTS: groups[0]}
  count = len(groups)
  return {f'model-{i:05d}-of-{count:05d}.safetensors': names for i, names in enumerate(groups, 1)}
