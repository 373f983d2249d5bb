"""Runs a program inside a process that is confined already.

The process belongs to the program from its first line on: whatever it does to this module, to the
interpreter or to the descriptors, it can only change what is said of itself. On the descriptor
`REPORT` stand, in this order: one byte `READY` before the program begins; then, unless it ended by
itself, one byte that says how, and a text.
"""
import atexit
import builtins
import json
import os
import random
import sys
import threading
import types

from r1jax.rewards.sandbox import values

REPORT = 3    # a descriptor; 0, 1 and 2 are the usual ones
REQUEST = 4

READY = b'+'
REFUSED = b'-'    # instead of READY: a layer failed, and no program is run
VALUE = b'='
RAISED = b'!'
MEMORY = b'm'
OUTPUT = b'o'

_MESSAGE_CHARACTERS = 200


def request(source: str, function: str | None, arguments: tuple | None, output_bytes: int) -> bytes:
  """What `run` reads from the descriptor `REQUEST`.

  Raises:
    values.NotPlain, values.TooLarge: an argument cannot be handed over.
  """
  encoded = None if arguments is None else values.encode(arguments).decode('utf-8', 'surrogatepass')
  return json.dumps({'source': source, 'function': function, 'arguments': encoded,
                     'output_bytes': output_bytes}).encode()


def run() -> None:
  """Runs the program that is requested, and ends the process."""
  report = _Report()
  try:
    with open(REQUEST, 'rb') as file:
      task = json.loads(file.read())
    _set_up()
    if task['function'] is None:
      status = _run_script(task['source'])
      report.end(status)
    arguments = values.decode(task['arguments'].encode('utf-8', 'surrogatepass'))
    assert isinstance(arguments, tuple)
    value = _call(task['source'], task['function'], arguments)
    report.end(0, VALUE, values.encode(value, task['output_bytes']))
  except MemoryError:
    report.end(1, MEMORY)
  except values.TooLarge:
    report.end(1, OUTPUT)
  except SystemExit:    # of a function, which returns nothing then
    report.end(1)
  except BaseException as error:
    report.end(1, RAISED, _describe(error))


class _Report:
  """Ends the process; made before the program runs, so that it needs no memory or name later."""

  def __init__(self):
    self._write, self._exit = os.write, os._exit

  def end(self, status: int, kind: bytes = b'', text: bytes = b'') -> None:
    try:
      left = kind + text if text else kind
      while left:
        left = left[self._write(REPORT, left):]
    finally:
      self._exit(status)


def _set_up() -> None:
  """A fresh interpreter's standard streams and state, the same for each run."""
  for descriptor, name, mode, errors in (
      (0, 'stdin', 'r', 'strict'), (1, 'stdout', 'w', 'strict'),
      (2, 'stderr', 'w', 'backslashreplace')):
    stream = open(descriptor, mode, encoding='utf-8', errors=errors, closefd=False)
    setattr(sys, name, stream)
    setattr(sys, f'__{name}__', stream)
  sys.argv = ['program.py']
  sys.path.clear()
  sys.path_importer_cache.clear()
  for name in [name for name in sys.modules if name.split('.')[0] == 'r1jax']:
    del sys.modules[name]
  sys.set_int_max_str_digits(0)    # the limit on time bounds what it is there to bound
  random.seed(0)    # so that a program that draws numbers gets the same verdict again


def _execute(source: str, name: str) -> types.ModuleType:
  module = types.ModuleType(name)
  module.__dict__['__builtins__'] = builtins
  sys.modules[name] = module
  exec(compile(source, 'program.py', 'exec', dont_inherit=True), module.__dict__)
  return module


def _run_script(source: str) -> int:
  """Runs a program as `python program.py` would, and returns its exit status."""
  status = 0
  try:
    _execute(source, '__main__')
  except SystemExit as exit:
    status = _status(exit.code)
  # Waits for threads, and ends those of executors.
  threading._shutdown()    # type: ignore[attr-defined]
  atexit._run_exitfuncs()
  sys.stdout.flush()
  return status


def _status(code: object) -> int:
  return 0 if code is None else code & 255 if isinstance(code, int) else 1


def _call(source: str, function: str, arguments: tuple) -> object:
  """What a function of a program returns."""
  found = _execute(source, 'program')
  *owner, name = function.split('.')
  for part in owner:
    found = getattr(found, part)()
  return getattr(found, name)(*arguments)


def _describe(error: BaseException) -> bytes:
  try:
    text = f'{type(error).__name__}: {error}'
  except Exception:
    text = type(error).__name__
  return text[:_MESSAGE_CHARACTERS].encode('utf-8', 'backslashreplace')
