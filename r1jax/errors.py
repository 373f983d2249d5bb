"""The error whose cause a user can fix: a setting, a file, a row of data, a folder in use."""


class UserError(ValueError):
  """What a user can fix, in one sentence that names the thing, the value and the fix.

  The commands end with the sentence. Any other ValueError is a bug, and shows its traceback.
  """
