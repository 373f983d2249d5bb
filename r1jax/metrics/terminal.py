"""Printing to a terminal with rich."""
import unicodedata

from r1jax.runtime import hosts


def default_console():
  """A `rich.console.Console` on standard output; on hosts other than the first it is silent."""
  import rich.console
  return rich.console.Console(quiet=not hosts.is_first())


def printable(text: str) -> str:
  r"""`text` with control, format and surrogate characters escaped (`\x1b`), except `\n`, `\t`."""
  return ''.join(
      char if char in '\n\t' or unicodedata.category(char)[0] != 'C'
      else char.encode('unicode_escape').decode() for char in text)
