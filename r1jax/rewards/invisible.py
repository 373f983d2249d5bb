"""Characters that a reader does not see."""
import html
import unicodedata

# Default-ignorable or blank, although Unicode calls them letters, marks or symbols.
_BLANK_LETTERS = frozenset('\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc\U0001d159')


def is_invisible(char: str) -> bool:
  """Whether a character shows nothing: white space, controls, formats, variation selectors."""
  if char.isascii():
    return not '!' <= char <= '~'
  return (unicodedata.category(char)[0] in 'CZ' or char in _BLANK_LETTERS
          or '\ufe00' <= char <= '\ufe0f' or '\u180b' <= char <= '\u180f'
          or '\U000e0000' <= char <= '\U000e0fff')


def is_blank(text: str) -> bool:
  """Whether a text shows nothing; `&nbsp;` and the like count as what they stand for."""
  return all(map(is_invisible, html.unescape(text)))


def without_invisible(text: str) -> str:
  """A text without the characters that show nothing, white space excepted."""
  return text if text.isascii() else ''.join(
      char for char in text if char.isspace() or not is_invisible(char))
