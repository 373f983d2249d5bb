"""Artifacts of kind 'pass_rate' of the tests' own data, without measuring."""
import json

from r1jax import checkpoint
from r1jax.data import miniature, pass_rates
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path
from r1jax.stages import difficulty
from r1jax.stages.artifact import open_artifact

EXAMPLES = miniature.calculations('train', 64, min_steps=2, max_steps=4)    # those of runs.DATA
RATES = [number % 5 for number in range(40)]    # of four completions
KEPT = [number for number in range(64) if number >= 40 or RATES[number]]   # all but the zeros


def leave_rates(folder, rates, *, examples=EXAMPLES, judged=4):
  """An Artifact of the first examples, with these numbers of completions that passed."""
  rows = [dict(example_id=number, problem=pass_rates.problem_key(example), drawn=4, judged=judged,
               passed=passed) for number, (example, passed) in enumerate(zip(examples, rates))]
  folder = Path(folder)
  (folder / difficulty.ROWS).write_text(''.join(json.dumps(row) + '\n' for row in rows))
  checkpoint.write_manifest(folder, checkpoint.Manifest(
      'pass_rate', 'rates', f'rates {rates}',
      files=checksums.gathered(folder, (difficulty.ROWS,))))
  return open_artifact(folder)
