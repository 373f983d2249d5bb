"""Runs commands in turn, several times, and prints medians: how to compare on a noisy machine.

    python experiments/benchmarks/in_turn.py --repeats=5 \\
        'python experiments/benchmarks/grpo.py --shape=tunix' \\
        'CACHE=192 tunix/bin/python ../shared/peers/bench_tunix_sampler.py'

Each command is run by the shell and ends in one line of JSON. For each one JSON line is printed: its
last line, with the median of every number over the repeats in its place, and under `all` the values.
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
    raise SystemExit(f'{command!r} ended with {done.returncode} and no line of JSON:\n{done.stderr}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('commands', nargs='+')
  arguments = parser.parse_args()
  found = [[] for _ in arguments.commands]
  for _ in range(arguments.repeats):
    for command, records in zip(arguments.commands, found):
      records.append(last_line(command))
  for records in found:
    numbers = {name: [record[name] for record in records] for name, value in records[0].items()
               if isinstance(value, (int, float))}
    varying = {name: values for name, values in numbers.items() if len(set(values)) > 1}
    medians = {name: statistics.median(values) for name, values in numbers.items()}
    print(json.dumps(records[0] | medians | {'all': varying}))


if __name__ == '__main__':
  main()
