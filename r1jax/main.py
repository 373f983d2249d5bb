"""Runs an experiment: python -m r1jax.main --config=r1_zero:tiny --workdir=W.

--config takes the name of an experiment of r1jax or the path of a file, either with a size. Any
field is overridden by --config.stages.<stage>.<field>=<value>. Started again with the same command,
a run goes on where it was. SIGTERM, SIGHUP and Ctrl-C make it save its state and end; a second one
ends it at once.

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
  --lost_s=100         a host that is silent for so long counts as dead, and the others end
"""
from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import traceback
from typing import Any

from r1jax import command
from r1jax.errors import UserError, printable

_REQUIRED = '--config=EXPERIMENT', '--workdir=FOLDER'


def main() -> None:
  """Parses flags and runs the pipeline; ends with one sentence on an error that a user can fix."""
  from absl import app, flags
  from ml_collections import config_flags
  config = config_flags.DEFINE_config_file(
      'config', help_string='experiment: name:size, or file.py:size')
  flags.DEFINE_string('workdir', None, 'where the run is kept: a folder or a bucket')
  flags.DEFINE_string('compilation_cache', os.path.expanduser('~/.cache/r1jax/compiled'),
                      'folder that keeps compiled programs between runs; empty for none')
  flags.DEFINE_bool('dry_run', False, 'check and list what each stage would do, and stop')
  flags.DEFINE_bool('help_config', False, "list the experiment's fields, and stop")
  flags.DEFINE_bool('version', False, 'print the version, and stop')
  flags.DEFINE_list('only', [], 'stages to run, and no others: a,b')
  flags.DEFINE_string('from', '', 'run this stage and those that depend on it')
  flags.DEFINE_string('until', '', 'run this stage and those that it depends on')
  flags.DEFINE_string('coordinator', '', 'HOST:PORT of host 0, where hosts meet')
  flags.DEFINE_integer('num_hosts', 0, 'how many hosts there are')
  flags.DEFINE_integer('host', -1, 'which of them this is, from 0')
  flags.DEFINE_integer('join_wait_s', 300, 'seconds that hosts wait for each other to begin')
  flags.DEFINE_integer('lost_s', 100, 'seconds after which a silent host counts as dead')
  flags.mark_flags_as_required(['config'])

  def run(_: list[str]) -> None:
    command.quieten_libraries()
    with command.errors_in_a_sentence():
      _run(config.value, flags.FLAGS)

  app.run(run, flags_parser=command.flags_parser(config, __doc__ or '', _REQUIRED))


def _run(config: Any, flags: Any) -> None:
  """Does what the flags say with an experiment's config."""
  import jax

  from r1jax import pipeline, stopping
  from r1jax.runtime import hosts, joining
  from r1jax.stages.config import plain
  from r1jax.stages.stage import StopRequested
  if flags.help_config:
    print(printable(pipeline.help_text(config)))
    return
  if not flags.workdir:
    raise UserError(command.missing('--workdir', _REQUIRED))
  if flags.compilation_cache:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(flags.compilation_cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  stages = dict(only=flags.only, from_=flags['from'].value, until=flags.until)
  if flags.dry_run:
    print(printable(pipeline.dry_run(config, flags.workdir, **stages)))
    return
  reporter = joining.join(joining.Joining(
      flags.coordinator, flags.num_hosts, flags.host, flags.join_wait_s, flags.lost_s,
      flags.workdir), plain(config))
  with stopping.StopSignals(several_hosts=reporter is not None) as signals:
    should_stop = hosts.StopNotice() if reporter else signals.asked
    try:
      with ending(reporter), jax.transfer_guard_device_to_host('disallow'):
        pipeline.run(config, flags.workdir, **stages, should_stop=should_stop)
    except StopRequested as stop:
      if hosts.is_first():
        print(printable(str(stop)), flush=True)
      # Of several hosts all say the same, whichever was asked.
      sys.exit(128 + (signal.SIGTERM if reporter else signals.received[0]))


@contextlib.contextmanager
def ending(reporter: Any) -> Iterator[None]:
  """Closes the crash reporter when all hosts end alike, normally or with the same error.

  When another host died, or only this one failed, jax cannot shut down: the reporter then prints
  its message.
  """
  import jax

  from r1jax.runtime import joining
  from r1jax.stages.stage import StopRequested
  try:
    yield
  except Exception as error:
    if reporter is None or isinstance(error, StopRequested):
      raise
    said = command.user_sentence(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and not said:
      said = command.sentence(error)
    if os.environ.get(command.TRACEBACK) or not said:
      print(printable(''.join(traceback.format_exception(error))), file=sys.stderr)
    elif not joining.says_that_a_host_is_lost(error):
      command.print_error(said.partition('\n')[0])
    sys.stdout.flush()
    command.silence()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      jax.distributed.shutdown()
      reporter.close()
    os._exit(1)    # other threads may still wait for the dead host
  finally:
    if reporter is not None:
      reporter.close()


def cli() -> None:
  """The command `r1jax`."""
  command.restart_with_allocator()
  signal.signal(signal.SIGINT, signal.SIG_DFL)   # as SIGTERM does, until there is a state to save
  main()


if __name__ == '__main__':
  cli()
