"""Plans the smallest slice of each kind of chip on which each experiment fits.

    python -m r1jax.experiments.benchmarks.slices --out=docs/results/slices [--chips v5e,v6e,v5p]
        [--experiments r1_zero:qwen3_8b,r1:qwen2_5_7b]

Needs libtpu (pip install 'r1jax[plan]'). For each experiment and chip `r1jax.plan --search` is run
for larger and larger slices, starting from one chip, until all stages fit on one mesh; what
arithmetic rules out is not compiled. Each result is kept in a JSON file in the folder `--out`,
which a second run reads instead of compiling. Prints the table that is in docs/scale.md.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

from r1jax.experiments.benchmarks import ROOT

# Slices that are sold, and whose sizes libtpu knows, by chip.
SLICES = {
    'v5e': ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    'v6e': ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16'),
}
# Experiments and sizes. Those left out have the same stages on the same models: parts of r1.py.
EXPERIMENTS = (
    'r1_zero:tiny', 'r1_zero:smollm2_135m', 'r1_zero:qwen3_0_6b', 'r1_zero:qwen2_5_7b',
    'r1_zero:qwen3_8b', 'r1_zero:llama3_8b', 'r1_zero:qwen3_30b_a3b',
    'r1_zero:deepseek_v3', 'r1:tiny', 'r1:smollm2_135m', 'r1:qwen3_0_6b',
    'r1:qwen2_5_7b', 'pretrain:tiny', 'ppo:tiny', 'policy_losses:tiny',
    'expert_iteration:tiny', 'reward_model:tiny', 'rlhf:tiny')


def plan(experiment: str, topology: str, kept: pathlib.Path) -> dict:
  """What `r1jax.plan --search` finds, or why it plans nothing; read from `kept` if it is there."""
  if not kept.exists():
    done = subprocess.run(
        [sys.executable, '-m', 'r1jax.plan', f'--config={experiment}',
         f'--topology={topology}', '--search', f'--json={kept}'],
        cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)}, text=True, check=False,
        stdout=subprocess.DEVNULL)
    if done.returncode:
      raise SystemExit(f'{experiment} on {topology} was not planned')
  return json.loads(kept.read_text())


def smallest(experiment: str, chip: str, out: pathlib.Path) -> dict | None:
  """The plan of the first slice on which all stages of an experiment fit."""
  for sizes in SLICES[chip]:
    topology = f'{chip}:{sizes}'
    name = f'{experiment.replace(":", "_")}_{topology.replace(":", "_")}.json'
    found = plan(experiment, topology, out / name)
    if found['stages']:
      return found
  return None


def row(experiment: str, chip: str, found: dict | None) -> str:
  if found is None:
    return f'| `{experiment}` | {chip} | none: {chip}:{SLICES[chip][-1]} is too small | | | | | |'
  stages = found['stages']
  slowest = max((stage for stage in stages if stage['run']),
                key=lambda stage: stage['run']['in_turn']['seconds'])
  fullest = max((program['resident'] / stage['chip']['memory'], program['name'], stage['stage'])
                for stage in stages for program in stage['programs'])
  mesh = ' × '.join(f'{axis} {size}' for axis, size in stages[0]['mesh'].items() if size > 1)
  settings: dict[str, str] = {}
  for flag in found['flags']:
    path, value = flag.removeprefix('--config.').split('=')
    field = path.rpartition('.')[2]
    if not path.startswith('mesh.') and '.evaluations.' not in path:
      settings.setdefault(f'{field}={value}', path.split('.')[1])
  run = slowest['run']['in_turn']
  return (f'| `{experiment}` | {stages[0]["topology"]} | {mesh or "one chip"} | '
          f'{", ".join(settings)} | {fullest[0]:.0%} ({fullest[2]}: {fullest[1]}) | '
          f'{slowest["stage"]} {run["seconds"]:.3g} s | {run["tokens_per_second"]:,.0f} | '
          f'{run["utilisation"]:.0%} |')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', required=True)
  parser.add_argument('--chips', default=','.join(SLICES))
  parser.add_argument('--experiments', default=','.join(EXPERIMENTS))
  arguments = parser.parse_args()
  out = pathlib.Path(arguments.out).absolute()
  out.mkdir(parents=True, exist_ok=True)
  print('| experiment | slice | mesh | settings | memory of a chip | longest iteration, in turn | '
        'tokens/s | utilisation |\n|---|---|---|---|---|---|---|---|', flush=True)
  for experiment in arguments.experiments.split(','):
    for chip in arguments.chips.split(','):
      print(row(experiment, chip, smallest(experiment, chip, out)), flush=True)


if __name__ == '__main__':
  main()
