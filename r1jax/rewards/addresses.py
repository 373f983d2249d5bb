"""Functions by an address, `module:function` or `path/to/file.py:function`, in any process."""
from collections.abc import Callable
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from r1jax.errors import UserError

_OWN = 'r1jax.rewards.'
_files: dict[str, str] = {}    # the paths of modules that were loaded from files, by their names


def load(address: str) -> Callable:
  """The function at an address; a file is run once in a process.

  Raises:
    UserError: there is no such file, module or function.
    Exception: what the file or module raises when it is run.
  """
  module_name, _, name = address.rpartition(':')
  if not module_name or not name:
    raise UserError(f"a function must be named as 'file.py:function' or 'module:function', got "
                    f'{address!r}')
  module = (_load_file(os.path.abspath(module_name)) if module_name.endswith('.py')
            else _import(module_name, address))
  found: Any = module
  for part in name.split('.'):
    found = getattr(found, part, None)
  if not callable(found):
    raise UserError(f'{address!r} names no function: {module_name} has no function {name!r}')
  return found


def address_of(function: Callable) -> str:
  """Where another process finds a function of r1jax's rewards, or of a file; '' for all others."""
  module, name = getattr(function, '__module__', ''), getattr(function, '__qualname__', '')
  if not isinstance(module, str) or not (module.startswith(_OWN) or module in _files):
    return ''
  found: Any = sys.modules.get(module)
  for part in name.split('.'):
    found = getattr(found, part, None)
  return f'{_files.get(module, module)}:{name}' if found is function else ''


def _import(name: str, address: str) -> ModuleType:
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and (name == error.name or name.startswith(f'{error.name}.')):
      raise UserError(f'{address!r} cannot be found: there is no module {name!r}') from None
    raise


@functools.cache
def _load_file(path: str) -> ModuleType:
  if not os.path.isfile(path):
    raise UserError(f'there is no file {path}')
  folder, stem = os.path.dirname(path), os.path.basename(path)[:-len('.py')]
  if folder not in sys.path:
    sys.path.append(folder)    # for modules beside it
  name = f'{stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}'
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  _files[name] = path
  return module
