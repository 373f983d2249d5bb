"""What public functions refuse at their entry: each error is one sentence with the mend in it."""
from collections.abc import Collection, Iterable
import difflib


def floats(**arrays) -> None:
  """Refuses what is not an array of floating-point numbers; None passes.

  Raises:
    ValueError: naming the argument and what it is.
  """
  import jax.numpy as jnp  # here: reward workers use this module, and must not load jax
  for name, x in arrays.items():
    if x is not None and not hasattr(x, 'dtype'):
      raise ValueError(f'{name}: a {type(x).__name__} is no array: give a jax or numpy array')
    if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(f'{name} are of dtype {x.dtype}: give floating-point numbers')


def rank(names: str, **arrays) -> None:
  """Refuses an array that has not the axes that `names` lists, as '[N, C]'.

  Raises:
    ValueError: naming the argument and its shape.
  """
  for name, x in arrays.items():
    if not hasattr(x, 'shape'):
      raise ValueError(f'{name}: a {type(x).__name__} is no array: give {names}')
    if x.ndim != names.count(',') + 1:
      raise ValueError(f'{name} have shape {x.shape}: give {names}')


def shapes(*allowed: tuple[int, ...], **arrays) -> None:
  """Refuses an array whose shape is none of `allowed`; None passes.

  Raises:
    ValueError: naming the argument, its shape and the allowed ones.
  """
  for name, x in arrays.items():
    if x is not None and getattr(x, 'shape', None) not in allowed:
      found = x.shape if hasattr(x, 'shape') else f'none (a {type(x).__name__})'
      raise ValueError(f'{name} have shape {found}: give '
                       f'{" or ".join(str(list(shape)) for shape in allowed)}')


def word(allowed: Collection[str], **words) -> None:
  """Refuses a word that is not one of `allowed`.

  Raises:
    ValueError: naming the argument, the word and the allowed ones.
  """
  for name, value in words.items():
    if value not in allowed:
      raise ValueError(f'{name}={value!r} is unknown: use one of {", ".join(allowed)}')


def nearest(word: object, words: Iterable[str]) -> str:
  """The one of `words`, of which there is at least one, whose spelling is closest to `word`."""
  return difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.0)[0]


def did_you_mean(word: object, words: Iterable[str]) -> str:
  """The second half of an error about an unknown word: "did you mean 'b'? (known: a, b)"."""
  words = list(words)
  return f'did you mean {nearest(word, words)!r}? (known: {", ".join(words)})'


def at_least(bound: float, *, strictly: bool = False, **numbers) -> None:
  """Refuses a number below `bound` (or equal to it); what is only known to a trace passes.

  Raises:
    ValueError: naming the argument and its value.
  """
  for name, value in numbers.items():
    if isinstance(value, (int, float)) and not (value > bound if strictly else value >= bound):
      raise ValueError(f'{name}={value} is out of range: give '
                       f'{"more than" if strictly else "at least"} {bound:g}')
