"""What must be the same on all hosts of a run: code, versions, settings, and the bytes of files."""
from collections.abc import Iterator, Mapping
import functools
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import platform
from typing import Any

import jax

from r1jax.errors import printable

_PACKAGES = (
    'jax', 'jaxlib', 'libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin', 'jax-rocm7-plugin',
    'numpy', 'ml-dtypes', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'tokenizers',
    'grain', 'array-record', 'tensorflow-datasets', 'math-verify', 'sympy', 'reasoning-gym')
_OPTIONS = ('jax_enable_x64', 'jax_default_matmul_precision', 'jax_default_prng_impl',
            'jax_threefry_partitionable', 'jax_numpy_dtype_promotion')
_PATHS = 'folder', 'source'     # fields that may name a folder or file of the machine
_MAX_FILES = 500                # of one folder
_WHOLE = 256 * 1024 ** 2        # bytes up to which all of a file is compared
_SAMPLES, _SAMPLE = 256, 256 * 1024      # else so many blocks of so many bytes
_MAX_WIDTH = 80                 # characters of a setting that are shown
_MAX_FOREIGN = 300              # characters of what another host wrote that are shown


def fingerprint(config: Mapping[str, Any] | None = None) -> dict[str, str]:
  """What a host knows of itself, by name; all hosts of a run must know the same.

  Of files that a config names, the sizes and bytes; of those of more than 256 MB, 256 blocks. Files
  in a bucket, which is one for all hosts, are not read.

  Args:
    config: of the run, as dicts.
  """
  known = {'the code of r1jax': _code(), 'Python': platform.python_version()}
  known |= {name: _version(name) for name in _PACKAGES}
  known |= {name: str(getattr(jax.config, name, None)) for name in _OPTIONS}
  for field, value in _fields(config or {}, 'config'):
    known[printable(field)] = _shown(value)
    for one in value if isinstance(value, list) else [value]:
      if isinstance(one, str) and (field.rpartition('.')[2] in _PATHS or '/' in one):
        known |= _files(one)
  return known


def difference(own: Mapping[str, str], other: Mapping[str, str], host: int) -> str:
  """How another host differs from host 0, as a sentence with what to do; '' if it does not.

  Args:
    own: what host 0 knows.
    other: what the other host knows.
    host: its number.
  """
  differing = [name for name in {**own, **other} if own.get(name) != other.get(name)]
  if not differing:
    return ''
  name, more = differing[0], len(differing) - 1
  also = f' (and {more} more that differ)' if more else ''
  here, there = own.get(name, 'none'), printable(other.get(name, 'none'))[:_MAX_FOREIGN]
  name = printable(name)[:_MAX_FOREIGN]
  if name.startswith('file '):
    return (f'{name} is {there} on host {host} and {here} on host 0{also}: give all hosts the same '
            'data and models')
  if name.startswith('config'):
    return (f'host {host} has {name}={there} and host 0 has {here}{also}: host {host} was started '
            'with another config than host 0: give all hosts the same command and experiment file')
  return (f'host {host} has {name} {there} and host 0 has {here}{also}: install the same on all '
          'hosts')


@functools.cache
def _code() -> str:
  root = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  # In a checkout r1jax/kernels and r1jax/experiments are links, which rglob does not follow.
  paths = {*root.rglob('*.py'), *root.glob('*/*.py')}
  for path in sorted(paths):
    digest.update(f'{path.relative_to(root)}\0'.encode() + path.read_bytes() + b'\0')
  return digest.hexdigest()[:16]


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'none'


def _fields(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if isinstance(value, Mapping) and value:
      yield from _fields(value, f'{path}.{name}')
    else:
      yield f'{path}.{name}', list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
  text = printable(repr(value))
  if len(text) <= _MAX_WIDTH:
    return text
  return f'{text[:_MAX_WIDTH // 2]}… ({hashlib.sha256(text.encode()).hexdigest()[:16]})'


def _files(location: str) -> dict[str, str]:
  """The files that a setting names, if it names any: {'file PATH': bytes and digest}."""
  location = location.partition('.py:')[0] + '.py' if '.py:' in location else location
  try:
    path = pathlib.Path(location).expanduser()
    paths = [path] if path.is_file() else itertools.islice(_below(path), _MAX_FILES)
    return {f'file {printable(str(found))}': _digest(found) for found in paths}
  except (OSError, ValueError, RuntimeError):    # what reads it says what is wrong with it
    return {}


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files in a folder at any depth, in order, without hidden ones."""
  for root, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    yield from (pathlib.Path(root, name) for name in sorted(names)
                if not name.startswith('.') and os.path.isfile(os.path.join(root, name)))


def _digest(path: pathlib.Path) -> str:
  size, digest = path.stat().st_size, hashlib.sha256()
  with open(path, 'rb') as file:
    if size <= _WHOLE:
      digest = hashlib.file_digest(file, 'sha256')
    else:
      for block in range(_SAMPLES):
        file.seek(block * (size - _SAMPLE) // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE))
  return f'{size:,} bytes ({digest.hexdigest()[:16]})'
