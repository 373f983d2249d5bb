"""Runs an experiment file: python -m r1jax.main --config=experiments/r1_zero.py --workdir=W.

Any field is overridden by --config.stages.<stage>.<field>=<value>. Started again with the same
command, a run goes on where it was; SIGTERM and Ctrl-C make it save its state first.
"""
import os
import signal
import sys

_MALLOC = {'MALLOC_MMAP_THRESHOLD_': '4294967296', 'MALLOC_TRIM_THRESHOLD_': '8589934592',
           'MALLOC_TOP_PAD_': '268435456', 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}


def main() -> None:
  """Parses flags and runs the pipeline; ends with one sentence on an error a user can mend."""
  from absl import app, flags
  from absl import logging as absl_logging
  from ml_collections import config_flags
  flag = config_flags.DEFINE_config_file('config', help_string='experiment file, as file.py:size')
  workdir = flags.DEFINE_string('workdir', None, 'where the run is kept: a folder or a bucket')
  cache = flags.DEFINE_string(
      'compilation_cache', os.path.expanduser('~/.cache/r1jax/compiled'),
      'folder that keeps compiled programs between runs; empty for none')
  flags.mark_flags_as_required(['config', 'workdir'])

  def run(_) -> None:
    import jax
    from r1jax import pipeline
    from r1jax.stages.common import StopRequested
    absl_logging.set_verbosity(absl_logging.WARNING)
    if cache.value:
      jax.config.update('jax_compilation_cache_dir', cache.value)
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
    asked = []
    for signum in (signal.SIGTERM, signal.SIGINT):
      signal.signal(signum, lambda signum, frame: asked.append(signum))
    try:
      with jax.transfer_guard_device_to_host('disallow'):
        pipeline.run(flag.value, workdir.value, should_stop=lambda: bool(asked))
    except StopRequested as stop:
      print(stop, flush=True)
      sys.exit(128 + (asked[0] if asked else signal.SIGTERM))
    except (ValueError, OSError) as error:
      _end(error, str(error))

  def parse(arguments: list[str]) -> list[str]:
    try:
      rest = flags.FLAGS(arguments)
      getattr(flag.value, 'stages', None)   # a file that could not be read says so only now
      return rest
    except Exception as error:   # of the experiment file, or as many kinds as flags have
      _end(error, _flag_sentence(error))

  app.run(run, flags_parser=parse)


def _end(error: Exception, sentence: str) -> None:
  if os.environ.get('R1JAX_TRACEBACK'):
    raise error
  sys.exit(f'r1jax: {sentence} (R1JAX_TRACEBACK=1 shows where)')


def _flag_sentence(error: Exception) -> str:
  """What is wrong, of an error in which ml_collections may have wrapped others."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  lines = [line.strip() for line in str(*error.args[:1]).splitlines() if line.strip()]
  if isinstance(error, (AttributeError, KeyError)):
    return f'the config has no field {". ".join(lines)}'
  return lines[-1]


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
