"""Runs an experiment: python -m r1jax.main --config=r1_zero:tiny --workdir=W.

--config takes the name of an experiment of r1jax or the path of a file, either with a size. Any
field is overridden by --config.stages.<stage>.<field>=<value>. Started again with the same command,
a run goes on where it was; SIGTERM and Ctrl-C make it save its state first.

  --help_config  lists the experiment's fields with their values, defaults and meanings, and stops
  --dry_run      checks what a run would check, lists what each stage would do, and stops
  --version      prints the version, and stops

What each stage will do is listed before anything runs:

  --only=a,b    these stages alone, on what the others have left
  --from=a      this stage, and those that depend on it
  --until=b     this stage, and those that it depends on

On several hosts the same command is run on each, with a workdir that all share (a bucket or a
disk). TPU slices, SLURM and Open MPI are recognised; by hand each is told who it is:

  --coordinator=HOST:PORT --num_hosts=N --host=I    an address of host 0, how many, and which
  --join_wait_s=300    how long hosts wait for each other to begin
  --lost_s=100         one that has not been heard of for so long is dead, and the others end
"""
import contextlib
import os
import re
import signal
import sys
import traceback

_MALLOC = {'MALLOC_MMAP_THRESHOLD_': '4294967296', 'MALLOC_TRIM_THRESHOLD_': '8589934592',
           'MALLOC_TOP_PAD_': '268435456', 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
FORESEEN = ValueError, OSError, ImportError    # errors that end in a sentence


def main() -> None:
  """Parses flags and runs the pipeline; ends with one sentence on an error a user can mend."""
  from absl import app, flags
  from ml_collections import config_flags
  flag = config_flags.DEFINE_config_file('config', help_string='experiment file, as file.py:size')
  workdir = flags.DEFINE_string('workdir', None, 'where the run is kept: a folder or a bucket')
  cache = flags.DEFINE_string(
      'compilation_cache', os.path.expanduser('~/.cache/r1jax/compiled'),
      'folder that keeps compiled programs between runs; empty for none')
  dry_run = flags.DEFINE_bool('dry_run', False, 'check and list what each stage would do, and stop')
  help_config = flags.DEFINE_bool('help_config', False, "list the experiment's fields, and stop")
  only = flags.DEFINE_list('only', [], 'stages to run, and no others: a,b')
  first = flags.DEFINE_string('from', '', 'run this stage and those that depend on it')
  until = flags.DEFINE_string('until', '', 'run this stage and those that it depends on')
  coordinator = flags.DEFINE_string('coordinator', '', 'HOST:PORT of host 0, where hosts meet')
  num_hosts = flags.DEFINE_integer('num_hosts', 0, 'how many hosts there are')
  host = flags.DEFINE_integer('host', -1, 'which of them this is, from 0')
  wait = flags.DEFINE_integer('join_wait_s', 300, 'seconds that hosts wait for each other to begin')
  lost = flags.DEFINE_integer('lost_s', 100, 'seconds after which a silent host is taken for dead')
  flags.mark_flags_as_required(['config'])

  def run(_) -> None:
    import jax

    from r1jax import pipeline
    from r1jax.runtime import hosts, joining
    from r1jax.stages.stage import StopRequested
    if 'R1JAX_TRACEBACK' not in os.environ:
      quieten_libraries()
    if cache.value:
      jax.config.update('jax_compilation_cache_dir', cache.value)
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
    stages = dict(only=only.value, from_=first.value, until=until.value)
    try:
      if help_config.value:
        print(pipeline.help_text(flag.value))
        return
      if not workdir.value:
        raise ValueError('--workdir is missing: give --config=FILE and --workdir=FOLDER')
      if dry_run.value:
        print(pipeline.dry_run(flag.value, workdir.value, **stages))
        return
      reporter = joining.join(joining.Joining(
          coordinator.value, num_hosts.value, host.value, wait.value, lost.value))
      asked = _listen(several=reporter is not None)
      should_stop = hosts.StopNotice() if reporter else lambda: bool(asked)
      with ending(reporter), jax.transfer_guard_device_to_host('disallow'):
        pipeline.run(flag.value, workdir.value, **stages, should_stop=should_stop)
    except StopRequested as stop:
      if hosts.is_first():
        print(stop, flush=True)
      sys.exit(128 + (asked[0] if asked else signal.SIGTERM))
    except FORESEEN as error:
      end(error, sentence(error))

  app.run(run, flags_parser=flags_parser(flag))


def flags_parser(flag, needed: str = '--workdir=FOLDER'):
  """What parses the flags, for `app.run`: an error in them or in the config ends in one sentence.

  Args:
    flag: that of the config.
    needed: what must be given beside it.
  """
  from absl import flags

  def parse(arguments: list[str]) -> list[str]:
    try:
      rest = flags.FLAGS(arguments)
      getattr(flag.value, 'stages', None)   # a file that could not be read says so only now
      return rest
    except Exception as error:   # of the experiment file, or as many kinds as flags have
      end(error, _flag_sentence(error).replace('--workdir=FOLDER', needed))
  return parse


def _listen(*, several: bool) -> list[int]:
  """The signals that ask this process to stop, as they come in; several hosts have jax listen."""
  asked = []
  if several:    # jax takes SIGTERM itself, as the notice to all hosts
    signal.signal(signal.SIGINT, lambda signum, frame: signal.raise_signal(signal.SIGTERM))
    return asked
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, lambda signum, frame: asked.append(signum))
  return asked


@contextlib.contextmanager
def ending(reporter):
  """Closes the crash reporter when all hosts end alike, normally or with the same error.

  When another host died, or only this one failed, jax cannot shut down: the reporter then prints
  its message.
  """
  import jax

  from r1jax.stages.stage import StopRequested
  try:
    yield
  except Exception as error:
    if reporter is None or isinstance(error, StopRequested):
      raise
    if os.environ.get('R1JAX_TRACEBACK') or not isinstance(
        error, (*FORESEEN, jax.errors.JaxRuntimeError)):
      traceback.print_exception(error)
    else:
      _say(sentence(error).partition('\n')[0])
    sys.stdout.flush()
    _silence()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      jax.distributed.shutdown()
      reporter.close()
    os._exit(1)    # other threads may still wait for the dead
  finally:
    if reporter is not None:
      reporter.close()


def end(error: Exception, sentence: str) -> None:
  if os.environ.get('R1JAX_TRACEBACK'):
    raise error
  _say(sentence)
  jax = sys.modules.get('jax')
  if jax and jax.distributed.is_initialized():
    _silence()
  sys.exit(1)


def _say(sentence: str) -> None:
  print(f'r1jax: {sentence} (R1JAX_TRACEBACK=1 shows where)', file=sys.stderr, flush=True)


def _silence() -> None:
  """All is said: jax would tell of other hosts at length, from C++."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def quieten_libraries() -> None:
  """Leaves to one sentence at the end what libraries would log and their threads cannot raise."""
  from absl import logging
  logging.set_verbosity(logging.FATAL)
  sys.unraisablehook = lambda unraisable: None


def sentence(error: Exception) -> str:
  said = str(error)
  if isinstance(error, OSError) and error.filename:
    said = f'{error.filename}: {error.strerror}'
  return ' '.join([said, *getattr(error, '__notes__', ())])


# How Python and absl say that a flag's value is of the wrong type, and what a person would say.
_ILL_TYPED = {'invalid literal for int': 'a whole number', 'could not convert string': 'a number',
              'Non-boolean argument': 'true or false'}


def _flag_sentence(error: Exception) -> str:
  """What is wrong, of an error in which ml_collections may have wrapped others."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  said = str(*error.args[:1])
  if isinstance(error, (AttributeError, KeyError)):
    field, _, hint = said.strip().partition('\n')
    near = re.search('mean "(.*?)"', hint)
    argument = next((argument for argument in sys.argv
                     if field.strip('\'"') in argument.partition('=')[0].split('.')), field)
    return (f'{argument} names no field of the config: ' +
            (f'did you mean {near[1]!r}?' if near else 'see the experiment file for its fields'))
  flag, _, reason = said.removeprefix('flag ').partition(': ')
  if reason.endswith('must have a value other than None.'):
    return f'{flag.removesuffix("=None")} is missing: give --config=FILE and --workdir=FOLDER'
  for words, wanted in _ILL_TYPED.items():
    if words in reason:
      return f'{flag} is of the wrong type: give {wanted}'
  lines = [line.strip() for line in said.splitlines() if line.strip()]
  return re.sub(r'^\w+Error: ', '', lines[-1])


def restart_with_allocator() -> None:
  """Starts this program anew with allocator settings that keep large buffers mapped (Linux).

  Much of a small model's step on a CPU is otherwise spent in page faults (docs/benchmarks.md).
  """
  if sys.platform == 'linux' and 'MALLOC_TOP_PAD_' not in os.environ:
    os.environ.update(_MALLOC)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == '__main__':
  restart_with_allocator()
  main()
