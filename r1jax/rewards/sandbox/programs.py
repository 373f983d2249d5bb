"""What goes into the sandbox and what comes out of it."""
import dataclasses
from typing import Literal

Kind = Literal['finished', 'raised', 'timeout', 'memory', 'output', 'crashed']


@dataclasses.dataclass(frozen=True)
class Program:
  """Python source, and how it is used.

  Attributes:
    source: the whole program.
    function: None for a program that reads standard input and writes standard output; else the
      function that is called, `'f'`, or `'Solution.f'` for a method of a class that is made
      without arguments.
  """

  source: str
  function: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one run of a program came to. All of it was written by the program: trust none of it.

  Attributes:
    kind: 'finished': it exited with status 0, or the function returned a plain value;
      'raised': an exception was not caught, or the value returned is not a plain one;
      'timeout': it ran longer than it may, on the clock or on the processor;
      'memory': it asked for more memory than it may have;
      'output': it wrote, or returned, more than it may;
      'crashed': it ended in another way: a signal, another exit status, no value returned.
    value: the text on standard output, or the value returned; None unless finished.
    message: the exception, for people to read, cut to 200 characters and without control
      characters; '' unless raised.
  """

  kind: Kind
  value: object = None
  message: str = ''
