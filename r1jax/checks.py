"""Checks of arguments, for the entry of public functions.

Each raises a ValueError of one sentence: which argument is wrong, what is allowed, what was given.
"""
from collections.abc import Collection, Iterable, Iterator
import difflib
import re
from typing import Any
import unicodedata


def floats(**arrays: Any) -> None:
  """Checks that arguments are arrays of a floating-point dtype; None is allowed.

  Raises:
    ValueError: naming the argument, and its type or dtype.
  """
  import jax.numpy as jnp  # here: reward workers use this module, and must not load jax
  for name, x in arrays.items():
    if x is None:
      continue
    if not hasattr(x, 'dtype'):
      raise ValueError(f'{name} must be a jax or numpy array, got a {type(x).__name__}')
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f'{name} must have a floating-point dtype, got {x.dtype}')


def rank(names: str, **arrays: Any) -> None:
  """Checks that arguments are arrays with as many axes as `names` lists, such as '[N, C]'.

  Raises:
    ValueError: naming the argument, and its type or shape.
  """
  for name, x in arrays.items():
    if not hasattr(x, 'shape') or x.ndim != names.count(',') + 1:
      raise ValueError(f'{name} must have shape {names}, got {_shape(x)}')


def shapes(*allowed: tuple[int, ...], **arrays: Any) -> None:
  """Checks that arguments are arrays of one of the `allowed` shapes; None is allowed.

  Raises:
    ValueError: naming the argument, its type or shape, and the allowed shapes.
  """
  for name, x in arrays.items():
    if x is not None and getattr(x, 'shape', None) not in allowed:
      raise ValueError(f'{name} must have shape '
                       f'{" or ".join(str(list(shape)) for shape in allowed)}, got {_shape(x)}')


def word(allowed: Collection[str], **words: Any) -> None:
  """Checks that arguments are among the `allowed` words.

  Raises:
    ValueError: naming the argument, the word, and the allowed ones.
  """
  for name, value in words.items():
    if value not in allowed:
      raise ValueError(f'{name}={value!r} is unknown: {did_you_mean(value, allowed)}')


def nearest(word: object, words: Iterable[str]) -> str:
  """The one of `words`, of which there is at least one, whose spelling is closest to `word`."""
  return difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.0)[0]


def did_you_mean(word: object, words: Iterable[str]) -> str:
  """The second half of an error about an unknown word: "did you mean 'b'? (known: a, b)"."""
  words = list(words)
  return f'did you mean {nearest(word, words)!r}? (known: {", ".join(words)})'


def at_least(bound: float, *, strictly: bool = False, **numbers: Any) -> None:
  """Checks that numbers are at least `bound`, or greater than it with `strictly`.

  None and values that are only known to a trace are not checked.

  Raises:
    ValueError: naming the argument and its value.
  """
  for name, value in numbers.items():
    if isinstance(value, (int, float)) and not (value > bound if strictly else value >= bound):
      raise ValueError(f'{name} must be {"greater than" if strictly else "at least"} {bound:g}, '
                       f'got {value}')


def _shape(x: Any) -> str:
  return str(list(x.shape)) if hasattr(x, 'shape') else f'a {type(x).__name__}'


_NAME_BYTES = 100     # with a prefix and an ending, a file's name may have 255


def name_faults(names: Iterable, where: str) -> Iterator[str]:
  """What is wrong with names of a user's choice that become folders, files or metrics.

  Args:
    names: that stand beside each other.
    where: the field that they are in, for messages.
  """
  seen: dict[str, str] = {}
  for name in names:
    if not (isinstance(name, str) and re.fullmatch(r'\w([\w. -]*[\w-])?', name)
            and len(name.encode()) <= _NAME_BYTES and unicodedata.is_normalized('NFC', name)):
      shown = repr(name)[:2 * _NAME_BYTES]
      yield (f'{where} must have names that can be folders (letters and digits, and _ . - and '
             f'spaces between them, at most {_NAME_BYTES} bytes), got {shown}')
      continue
    other = seen.setdefault(unicodedata.normalize('NFKC', name).casefold(), name)
    if other != name:
      yield (f'{where} has the names {other!r} and {name!r}, which some disks take for one: give '
             'them names that differ by more than case')
