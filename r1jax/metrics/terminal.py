"""Printing to a terminal with rich."""
import sys
import unicodedata

from r1jax.runtime import hosts


def default_console():
  """A `rich.console.Console` on standard output; on hosts other than the first it is silent."""
  import rich.console
  return rich.console.Console(quiet=not hosts.is_first())


def warn(text: str) -> None:
  """Prints a warning on standard error; the first host alone does so."""
  if hosts.is_first():
    print(f'r1jax: warning: {printable(text)}', file=sys.stderr, flush=True)


def printable(text: str) -> str:
  r"""`text` with control, format and surrogate characters escaped (`\x1b`), except `\n`, `\t`."""
  return ''.join(
      char if char in '\n\t' or unicodedata.category(char)[0] != 'C'
      else char.encode('unicode_escape').decode() for char in text)
