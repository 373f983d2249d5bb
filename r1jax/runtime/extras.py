"""Packages that one feature alone needs: each comes with an extra, `pip install '.[EXTRA]'`."""
import functools
import importlib
from typing import Any


def require(package: str, *, extra: str, purpose: str) -> Any:
  """Imports an optional package and returns it.

  Args:
    package: its name in an `import` statement.
    extra: the extra that installs it.
    purpose: what needs it, as the subject of the error's sentence.

  Raises:
    ModuleNotFoundError: it is not installed.
  """
  try:
    return importlib.import_module(package)
  except ModuleNotFoundError as error:
    if error.name != package:   # it is there, and lacks something itself
      raise
    raise ModuleNotFoundError(
        f'{purpose} needs the package {package}, which is not installed: install r1jax with its '
        f'extra {extra!r}, as in pip install \'.[{extra}]\'.', name=package) from None


@functools.cache
def available(package: str, *, extra: str, otherwise: str) -> bool:
  """Whether an optional package is installed; where it is not, prints once what that means.

  Args:
    package: its name in an `import` statement.
    extra: the extra that installs it.
    otherwise: what is not done without it, as the second half of a sentence.
  """
  try:
    importlib.import_module(package)
  except ModuleNotFoundError as error:
    if error.name != package:
      raise
    print(f'{package} is not installed, so {otherwise}: install r1jax with its extra {extra!r} to '
          'have them.', flush=True)
    return False
  return True


def can_draw() -> bool:
  """Whether figures can be drawn: whether matplotlib is installed; says once if it is not."""
  return available('matplotlib', extra='plots', otherwise='curves and figures are not drawn')
