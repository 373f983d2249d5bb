"""Runs `runs.resumable` and kills itself: kill_driver.py WORKDIR BASE MOMENT COUNT.

MOMENT is 'asked' (the COUNT-th time that the run asks whether to stop), 'saving' (the files of the
COUNT-th folder among the checkpoints are written, but for the one that makes it valid), 'saved'
(the COUNT-th checkpoint is complete) or 'never'.
"""
import itertools
import os
import signal
import sys

import runs

from r1jax import checkpoint
from r1jax.runtime.storage import Path


def main(workdir, base, moment, count):
  calls = itertools.count(1)

  def die(at):
    if at == moment and next(calls) == int(count):
      os.kill(os.getpid(), signal.SIGKILL)

  commit, write_text = checkpoint.Checkpointer._commit, Path.write_text

  def _commit(*arguments):
    commit(*arguments)
    if arguments[2].isdigit():    # a step's, no reference's
      die('saved')

  def _write_text(path, text):
    if path.name == 'checkpoint.json':
      die('saving')
    write_text(path, text)

  def should_stop():
    die('asked')
    return False

  checkpoint.Checkpointer._commit = _commit
  Path.write_text = _write_text
  runs.run_resumable(base, workdir, should_stop)


if __name__ == '__main__':
  main(*sys.argv[1:])
