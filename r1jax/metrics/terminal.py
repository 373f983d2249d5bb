"""Printing to a terminal with rich."""
import sys

from r1jax.errors import printable
from r1jax.runtime import hosts


def default_console():
  """A `rich.console.Console` on standard output; on hosts other than the first it is silent."""
  import rich.console
  return rich.console.Console(quiet=not hosts.is_first())


def warn(text: str) -> None:
  """Prints a warning on standard error; the first host alone does so."""
  if hosts.is_first():
    print(f'r1jax: warning: {printable(text)}', file=sys.stderr, flush=True)
