"""Measures step time and peak memory of every recipe of experiments/policy_losses.py.

    python -m r1jax.experiments.benchmarks.policy_losses

Each recipe runs six rollouts on the miniature in a process of its own. Prints one JSON line for
each: medians of a whole iteration and of its parts, after the first two, and the process's peak
memory.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile

from r1jax.experiments import policy_losses


def measure(recipe: str) -> None:
  from r1jax import metrics
  from r1jax.stages import rl
  config = policy_losses.get_config('tiny').stages[recipe].to_dict()
  config |= dict(steps=12, evaluations={})
  with tempfile.TemporaryDirectory() as workdir:
    rl.run(config, {}, workdir)
    rows = metrics.read_metrics(workdir)[2:]
  seconds = {name.removeprefix('timing_s/'): round(statistics.median(
      row[name] for row in rows), 3) for name in sorted(rows[0])
      if name.startswith('timing_s/') and 'token' not in name}
  print(json.dumps(dict(recipe=recipe, seconds=seconds, peak_mb=resource.getrusage(
      resource.RUSAGE_SELF).ru_maxrss // 1024)))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--recipe', help='measure this one, in this process')
  arguments = parser.parse_args()
  if arguments.recipe:
    return measure(arguments.recipe)
  for recipe in policy_losses.RECIPES:
    done = subprocess.run(
        [sys.executable, '-m', 'r1jax.experiments.benchmarks.policy_losses', f'--recipe={recipe}'],
        text=True, stdout=subprocess.PIPE, check=True)
    print(done.stdout.splitlines()[-1], flush=True)


if __name__ == '__main__':
  from r1jax.command import restart_with_allocator
  restart_with_allocator()
  main()
