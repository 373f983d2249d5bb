"""The error whose cause a user can fix: a setting, a file, a row of data, a folder in use."""
import unicodedata


class UserError(ValueError):
  """What a user can fix, in one sentence that names the thing, the value and the fix.

  The commands end with the sentence. Any other ValueError is a bug, and shows its traceback.
  """


def printable(text: str) -> str:
  r"""`text` with control, format and surrogate characters escaped (`\x1b`), except `\n`, `\t`.

  What strangers wrote (a key, a name, a completion) can thus not move the cursor, rename the
  window, or turn the direction of text.
  """
  return ''.join(
      char if char in '\n\t' or unicodedata.category(char)[0] != 'C'
      else char.encode('unicode_escape').decode() for char in text)
