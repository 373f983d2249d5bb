r"""Runs commands in turn, several times, and prints medians: for comparing on a noisy machine.

    python -m r1jax.experiments.benchmarks.in_turn --repeats=5 \
        'python -m r1jax.experiments.benchmarks.grpo --shape=tunix' \
        'CACHE=192 tunix/bin/python ../shared/peers/bench_tunix_sampler.py'

The shell runs each command, whose last line must be JSON. Prints that line for each, with every
number replaced by its median over the repeats, and with all values under `all`.
"""
import argparse
import json
import statistics
import subprocess


def last_line(command: str) -> dict:
  done = subprocess.run(command, shell=True, capture_output=True, text=True)
  lines = done.stdout.strip().splitlines()
  try:
    return json.loads(lines[-1])
  except (IndexError, ValueError):
    raise SystemExit(f'{command!r} exited with {done.returncode} without a line of JSON:\n'
                     f'{done.stderr}') from None


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('commands', nargs='+')
  arguments = parser.parse_args()
  found: list[list[dict]] = [[] for _ in arguments.commands]
  for _ in range(arguments.repeats):
    for command, lines in zip(arguments.commands, found):
      lines.append(last_line(command))
  for lines in found:
    numbers = {name: [line[name] for line in lines] for name, value in lines[0].items()
               if isinstance(value, (int, float))}
    varying = {name: values for name, values in numbers.items() if len(set(values)) > 1}
    medians = {name: statistics.median(values) for name, values in numbers.items()}
    print(json.dumps(lines[0] | medians | {'all': varying}))


if __name__ == '__main__':
  main()
