"""What the commands share: flags, experiments by name, and errors that end in one sentence."""
from collections.abc import Callable, Iterator
import contextlib
import logging
import os
import re
import sys
import traceback
from typing import Any, NoReturn

from r1jax.errors import UserError, printable

TRACEBACK = 'R1JAX_TRACEBACK'                     # the environment variable that shows where

_MALLOC = {'MALLOC_MMAP_THRESHOLD_': '4294967296', 'MALLOC_TRIM_THRESHOLD_': '8589934592',
           'MALLOC_TOP_PAD_': '268435456', 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}


def flags_parser(
    flag: Any, documentation: str, required: tuple[str, ...],
) -> Callable[[list[str]], list[str]]:
  """What parses the flags, for `app.run`.

  `--config` may name an experiment of r1jax. An error in the flags or in the config ends in one
  sentence; `--help` and `--version` end with exit status 0.

  Args:
    flag: that of the config.
    documentation: of the command, for `--help`.
    required: the flags that must be given, as '--workdir=FOLDER'.
  """
  from absl import flags

  def parse(arguments: list[str]) -> list[str]:
    if {'--help', '-h', '--helpfull', '--helpshort'} & set(arguments[1:]):
      print(f'{documentation}\n{flags.FLAGS.main_module_help()}')
      sys.exit(0)
    if '--version' in arguments[1:]:
      from r1jax import __version__
      print(f'r1jax {__version__}')
      sys.exit(0)
    try:
      rest = flags.FLAGS(_with_experiment(arguments))
      if getattr(flag.value, 'stages', None) is None:   # a file that cannot be read fails only now
        raise UserError(_NO_CONFIG.format(type(flag.value).__name__))
      return rest
    except Exception as error:   # of the experiment file, or as many kinds as flags have
      end(error, experiment_sentence(error, arguments) or flag_sentence(error, required))
  return parse


def _with_experiment(arguments: list[str]) -> list[str]:
  """The arguments with the path of the experiment that `--config` names."""
  from r1jax.experiments import find
  found = list(arguments)
  for place, argument in enumerate(arguments):
    name, equals, value = argument.partition('=')
    if name in ('--config', '-config') and equals:
      found[place] = f'--config={find(value)}'
    elif name in ('--config', '-config') and place + 1 < len(arguments):
      found[place + 1] = find(arguments[place + 1])
  return found


def end(error: Exception, message: str) -> NoReturn:
  """Prints what is wrong and ends with status 1; raises the error if a traceback is asked for."""
  if os.environ.get(TRACEBACK):
    raise error
  print_error(message)
  jax = sys.modules.get('jax')
  if jax and jax.distributed.is_initialized():
    silence()
  sys.exit(1)


@contextlib.contextmanager
def errors_in_a_sentence() -> Iterator[None]:
  """Ends the command with a sentence on what a user can fix; a bug shows its traceback."""
  try:
    yield
  except Exception as error:
    said = user_sentence(error)
    if not said:
      raise
    end(error, said)


def print_error(message: str) -> None:
  """Prints a sentence about an error, and how to see where it came from."""
  print(f'r1jax: {printable(message)} ({TRACEBACK}=1 shows where)', file=sys.stderr, flush=True)


def silence() -> None:
  """Closes standard error, to which jax would write at length about other hosts, from C++."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


# What is said in one sentence at the end, by the folder of the library and what it logs.
_SAID_AT_THE_END = (
    ('/orbax/', r'_SignalingThread\.run\(\) raised an exception'),
    ('/orbax/', 'Failed to run .* in background save thread'))


def quieten_libraries() -> None:
  """Keeps libraries from logging what is said in one sentence at the end, and their notes."""
  import absl.logging
  if TRACEBACK not in os.environ:
    absl.logging.set_verbosity(absl.logging.WARNING)
    absl.logging.get_absl_handler().python_handler.addFilter(_is_news)
    sys.unraisablehook = _show_unraisable


def _is_news(record: logging.LogRecord) -> bool:
  return not any(folder in record.pathname and re.search(words, record.getMessage())
                 for folder, words in _SAID_AT_THE_END)


def _show_unraisable(unraisable: Any) -> None:
  """Shows an error in a finaliser, unless it is that of a bucket's connection as all ends."""
  if 'event loop' not in str(unraisable.exc_value).lower():
    sys.__unraisablehook__(unraisable)


def user_sentence(error: BaseException) -> str:
  """What to say of an error that a user can fix; '' for a bug of r1jax."""
  if said := _out_of_memory(error):
    return said
  if isinstance(error, (UserError, OSError)):
    return sentence(error)
  if isinstance(error, ModuleNotFoundError) and not re.match(r'r1jax\b', error.name or 'r1jax'):
    return sentence(error)
  return ''


_DEVICE_MEMORY = (
    'a device has too little memory ({}): raise micro_batches, set model.remat=True, let reference '
    'and optimizer wait in_host_memory, or draw fewer or shorter completions at a time; python -m '
    'r1jax.plan with this config and --search says what fits. What was saved is there: the same '
    'command goes on')
_HOST_MEMORY = (
    'this host has too little memory ({}): use fewer reward_workers, smaller batches or shorter '
    'rows, take in_host_memory back, or use a machine with more. What was saved is there: the same '
    'command goes on')


def _out_of_memory(error: BaseException) -> str:
  """What to say if this error, or what caused it, is a lack of memory; '' otherwise."""
  cause: BaseException | None = error
  while cause is not None:
    first = printable(str(cause).strip().partition('\n')[0])[:200]
    if isinstance(cause, MemoryError):
      return _HOST_MEMORY.format(first or 'MemoryError')
    if type(cause).__name__ == 'JaxRuntimeError' and 'RESOURCE_EXHAUSTED' in first:
      return _DEVICE_MEMORY.format(first.partition('RESOURCE_EXHAUSTED: ')[2] or first)
    cause = cause.__cause__
  return ''


def sentence(error: BaseException) -> str:
  """What an error says, with its file and its notes, in one line."""
  said = str(error)
  if isinstance(error, OSError) and error.filename:
    said = f'{error.filename}: {error.strerror}'
  return ' '.join([said, *getattr(error, '__notes__', ())])


_NO_CONFIG = 'get_config() of the experiment must return a ConfigDict with `stages`, got {}'


def experiment_sentence(error: BaseException, arguments: list[str]) -> str:
  """What is wrong with the experiment file, with its line; '' if the error is not the file's.

  A UserError is left to `flag_sentence`: it is a sentence already.
  """
  paths = {os.path.abspath(value.partition(':')[0]) for argument in arguments
           for value in (argument.partition('=')[2] or argument,)}
  given = any(re.match('--?config(=|$)', argument) for argument in arguments)
  if given and str(error).startswith('flag --config=None'):
    return _NO_CONFIG.format('None')
  for cause in _chain(error):
    if isinstance(cause, SyntaxError) and cause.filename:
      return f'{cause.filename}, line {cause.lineno}: {cause.msg}'
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(cause.__traceback__)
             if os.path.abspath(frame.filename) in paths]
    if lines and not isinstance(cause, UserError):
      return f'{lines[-1][0]}, line {lines[-1][1]}: {type(cause).__name__}: {cause}'
  return ''


def _chain(error: BaseException) -> Iterator[BaseException]:
  """An error, and those that it wraps or that caused it, the innermost first."""
  inner = next((part for part in error.args if isinstance(part, BaseException)), None)
  for cause in (inner, error.__cause__, error.__context__):
    if cause is not None:
      yield from _chain(cause)
  yield error


# How Python and absl say that a flag's value has the wrong type, and the type in words.
_WRONG_TYPES = {'invalid literal for int': 'a whole number', 'could not convert string': 'a number',
                'Non-boolean argument': 'true or false'}


def flag_sentence(error: Exception, required: tuple[str, ...]) -> str:
  """What is wrong with the flags, given an error that ml_collections may have wrapped."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  said = str(*error.args[:1])
  if isinstance(error, (AttributeError, KeyError)):
    return _unknown_field(said)
  flag, _, reason = said.removeprefix('flag ').partition(': ')
  if reason.endswith('must have a value other than None.'):
    return missing(flag.removesuffix('=None'), required)
  for words, wanted in _WRONG_TYPES.items():
    if words in reason:
      return f'{flag} has the wrong type: it must be {wanted}'
  lines = [line.strip() for line in said.splitlines() if line.strip()]
  return re.sub(r'^[\w.]+Error: ', '', lines[-1]) if lines else type(error).__name__


def missing(flag: str, required: tuple[str, ...]) -> str:
  """What to say about a flag that was not given."""
  return f'{flag} is missing: give {" and ".join(required)}'


def _unknown_field(said: str) -> str:
  field, _, hint = said.strip().partition('\n')
  near = re.search('mean "(.*?)"', hint)
  argument = next((argument for argument in sys.argv
                   if field.strip('\'"') in argument.partition('=')[0].split('.')), field)
  advice = f'did you mean {near[1]!r}?' if near else '--help_config lists its fields'
  return f'{argument} is not a field of the config: {advice}'


def restart_with_allocator() -> None:
  """Restarts this program with allocator settings that keep large buffers mapped (Linux).

  Much of a small model's step on a CPU is otherwise spent in page faults (docs/benchmarks.md).
  """
  if sys.platform == 'linux' and 'MALLOC_TOP_PAD_' not in os.environ:
    os.environ.update(_MALLOC)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
