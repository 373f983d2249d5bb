r"""How fast the sandbox runs programs, and whether it leaves anything behind.

    python -m r1jax.experiments.benchmarks.sandbox
    python -m r1jax.experiments.benchmarks.sandbox --programs=512 --inputs=10 --workers=2

Each program reads two numbers and prints their sum; each run is checked. Prints runs a second, and
what is left of processes, descriptors and files when the sandbox is closed: nothing.
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import time

from r1jax.rewards.sandbox import Outcome, Program, Sandbox, layers

SOURCE = '''
import sys
from collections import defaultdict
found = defaultdict(int)
for word in sys.stdin.read().split():
  found['sum'] += int(word)
print(found['sum'])
'''


def left_behind() -> tuple[set[str], set[str], set[str]]:
  """Processes of this machine, descriptors of this process, folders of servers."""
  processes = set()
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):    # it has ended meanwhile
      if 'import server' in path.read_text(errors='replace'):
        processes.add(path.parent.name)
  return (processes, set(os.listdir('/proc/self/fd')),
          {path.name for path in pathlib.Path('/tmp').glob('r1jax*')})


def main() -> None:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--programs', type=int, default=100)
  parser.add_argument('--inputs', type=int, default=10)
  parser.add_argument('--workers', type=int, default=2)
  options = parser.parse_args()
  print('layers:', ', '.join(layers()))
  before = left_behind()
  inputs = [f'{number} {number + 1}' for number in range(options.inputs)]
  wanted = [Outcome('finished', f'{2 * number + 1}\n') for number in range(options.inputs)]
  with Sandbox(workers=options.workers) as sandbox:
    with concurrent.futures.ThreadPoolExecutor(options.workers) as threads:
      begun = time.perf_counter()
      found = list(threads.map(
          lambda number: sandbox.run(Program(f'{SOURCE}# {number}'), inputs),
          range(options.programs)))
      seconds = time.perf_counter() - begun
  runs = options.programs * options.inputs
  print(f'{runs} runs in {seconds:.1f} s: {runs / seconds:.0f} a second, '
        f'{sum(outcomes == wanted for outcomes in found)} of {options.programs} programs right')
  print('left behind:', [sorted(after - was) for was, after in zip(before, left_behind())])


if __name__ == '__main__':
  main()
