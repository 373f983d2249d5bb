"""What files outside a workdir hold that decide a result: data, and models by their path.

A field of the settings says what its value names (`Field.names`). Files of data are known by all
their bytes. So are those of a model, but for large ones, of which SAMPLES blocks are read, or whose
folder carries checksums: two models that differ in so few weights that none of the blocks tells
them apart count as one. What is not there is known by what a run has recorded of it.
"""
from collections.abc import Collection, Iterable, Iterator, Mapping
import hashlib
from typing import Any

import numpy as np

from r1jax import checkpoint
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path, Ranges, to_json
from r1jax.stages import loading
from r1jax.stages.artifact import TRAINED
from r1jax.stages.config import Entries, Field, Named, Section, Spec

LARGE = 64 * 1024 ** 2    # bytes from which a file of weights is sampled
SAMPLES = 64
_BLOCK = 64 * 1024        # bytes of a sample
_BUFFER = 16 * 1024 ** 2
_OF_A_MODEL = '.json', '.safetensors', '.model', '.txt', '.jinja', '.gguf'
_NO_PATHS = {'', TRAINED, loading.RANDOM, 'smollm2', *loading.MINIATURES}


def contents(
    settings: Section, config: Mapping[str, Any], inputs: Collection[str],
    recorded: Mapping[str, str] | None = None,
) -> dict[str, str]:
  """Digests of the files and models that a config names, by their paths.

  Args:
    settings: of the config.
    config: of a stage, or of an evaluation.
    inputs: the names of earlier stages, which are no paths.
    recorded: what an earlier call returned, for files that are not there any more.

  Raises:
    UserError: the manifest of an Artifact is damaged.
    OSError: a file cannot be read.
  """
  found: dict[str, str] = {}
  for names, value in _named(settings, config):
    if names == 'files':
      paths = list(value)
    elif names == 'splits':
      paths = [f'{value}/{split}.jsonl' for split in _splits(config)] if value else []
    else:
      paths = [] if value in _NO_PATHS or value in inputs else [value]
    for path in paths:
      digest = _of_model(Path(path)) if names == 'model' else _of_file(Path(path))
      found[path] = digest or (recorded or {}).get(path, '')
  return {path: digest for path, digest in sorted(found.items()) if digest}


def _named(spec: Spec, value: Any) -> Iterator[tuple[str, Any]]:
  """(what it names, the value) of each field of a config that names something outside it."""
  if spec.how:
    return
  if isinstance(spec, Field):
    if spec.names:
      yield spec.names, value
  elif isinstance(spec, Section):
    for name, field in spec.fields.items():
      if name in value:
        yield from _named(field, value[name])
  elif isinstance(spec, Named):
    if value:
      yield from _named(spec.sections[value['name']], value)
  elif isinstance(spec, Entries):
    for entry in value.values():
      yield from _named(spec.section, entry)


def _splits(config: Mapping[str, Any]) -> list[str]:
  """The splits of its data that a stage or an evaluation reads."""
  if config['kind'] == 'reward_model':
    return ['test', 'train']
  return sorted({config.get('split', 'train'), *(['train'] if config.get('shots') else [])})


def _of_file(path: Path) -> str:
  """The digest of a file's bytes; '' if there is no such file."""
  return _digest(path, large=False) if path.is_file() else ''


def _of_model(path: Path) -> str:
  """The digest of a model: an Artifact's folder, one in Hugging Face form, or a file."""
  if path.is_file():
    return _digest(path, large=True)
  if (path / 'manifest.json').exists():
    manifest = checkpoint.read_manifest(path)
    return _hash([manifest.identity, manifest.files])
  if (path / checksums.FILE).exists():
    return _of_file(path / checksums.FILE)
  files = {file.name: _digest(file, large=True) for file in path.iterdir()
           if file.name.endswith(_OF_A_MODEL) and file.is_file()}
  return _hash(files) if files else ''


def _hash(value: Any) -> str:
  return hashlib.sha256(to_json(value).encode()).hexdigest()[:16]


_kept: dict[str, tuple[str, str]] = {}    # digests of large files, with what was known of them then


def _digest(path: Path, *, large: bool) -> str:
  """The digest of a file's bytes, or of samples of them if it is large and may be sampled."""
  state = str(path.info())
  if _kept.get(str(path), ('', ''))[0] == state:
    return _kept[str(path)][1]
  source = Ranges(path)
  try:
    sampled = large and source.size >= LARGE
    places = (np.linspace(0, source.size - _BLOCK, SAMPLES).astype(int).tolist() if sampled else
              range(0, source.size, _BUFFER))
    found = _of_places(source, places, _BLOCK if sampled else min(_BUFFER, source.size))
    if source.size >= LARGE:
      _kept[str(path)] = state, found
  finally:
    source.close()
  return found


def _of_places(source: Ranges, places: Iterable[int], size: int) -> str:
  """The digest of so many bytes from each place on, and of the file's size."""
  digest, buffer = hashlib.sha256(str(source.size).encode()), np.empty(size, np.uint8)
  for place in places:
    digest.update(buffer.data[:source.fill(buffer, place)])
  return digest.hexdigest()[:16]
