r"""Compares a chain whose file system fills at random moments with one that had room.

    mount -t tmpfs -o size=64m tmpfs FOLDER
    python -m r1jax.experiments.benchmarks.full_disk --folder=FOLDER --faults=10

At a random time within `--seconds` of each start a file takes all the space that is left in FOLDER,
and all that becomes free. The run must then end with a sentence; the file is deleted, and the run
is started again. At the end, all files of every stage are compared byte by byte, except for times.
"""
import argparse
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

from r1jax.experiments.benchmarks import killed

PATIENCE_S = 120    # in which a run must have noticed that nothing can be written


def occupy(filler: pathlib.Path) -> None:
  """Lets a file take the space that is left on its file system."""
  with open(filler, 'ab') as file:
    free = shutil.disk_usage(filler.parent).free
    if free:
      os.posix_fallocate(file.fileno(), file.tell(), free)


def fill(process: subprocess.Popen, folder: pathlib.Path, logs: pathlib.Path) -> str:
  """Keeps the file system full until the process ends; returns its last line.

  Raises:
    SystemExit: the process goes on, or ends without a sentence.
  """
  filler = folder / 'filler'
  end = time.monotonic() + PATIENCE_S
  try:
    while process.poll() is None and time.monotonic() < end:
      try:
        occupy(filler)
      except OSError:
        pass    # what was free has been taken meanwhile
      time.sleep(0.02)
  finally:
    filler.unlink()
  if process.poll() is None:
    process.kill()
    raise SystemExit(f'the run did not notice a full disk within {PATIENCE_S} s')
  said = killed.last_words(logs, 0)
  if process.returncode and not said.startswith('r1jax: '):
    raise SystemExit(f'the run ended without a sentence: {said!r}')
  return said if process.returncode else ''


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', type=pathlib.Path, required=True, help='a small file system')
  parser.add_argument('--config', default='r1_zero:tiny,debug')
  parser.add_argument('--faults', type=int, default=10)
  parser.add_argument('--seconds', default='4,12')
  parser.add_argument('--seed', type=int, default=0)
  settings = parser.parse_args()
  low, high = map(float, settings.seconds.split(','))
  random.seed(settings.seed)
  with tempfile.TemporaryDirectory() as elsewhere:
    whole, cut, logs = pathlib.Path(elsewhere, 'whole'), settings.folder / 'cut', pathlib.Path(
        elsewhere, 'logs')
    killed.ended(killed.start(settings.config, whole, logs=whole), whole)
    faults = 0
    while faults < settings.faults:
      process, = started = killed.start(settings.config, cut, logs=logs)
      if killed.ended(started, logs, random.uniform(low, high)):
        shutil.rmtree(cut)    # it came to its end before: once more, from the beginning
      elif said := fill(process, settings.folder, logs):
        faults += 1
        print(f'{faults}: {said}', flush=True)
    killed.ended(killed.start(settings.config, cut, logs=logs), logs)
    found = killed.different(whole, cut)
    print(f'{settings.config}, the disk full {faults} times:',
          ', '.join(found) or 'nothing differs')


if __name__ == '__main__':
  main()
