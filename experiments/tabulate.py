"""Tabulates several seeds' results in Markdown: mean over runs, 95 % interval by Student's t.

    python -m r1jax.experiments.tabulate /tmp/r1_zero{0,1,2}/zero /tmp/expert{0,1,2}/tuned
    python -m r1jax.experiments.tabulate /tmp/r1_seed{0,1,2}

Each argument is the folder of a finished stage or chain, with its results.json; a chain gets one
table per evaluation. Results with the same name are combined. If a score is the same in every run
(the base does not depend on the seed), its interval is the run's own, over problems.
"""
import collections
import json
import math
import pathlib
import sys

from r1jax.metrics import format_table

# Two-sided 95 % quantiles of Student's t, by the number of runs.
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


def over_runs(cells: list[list[float]]) -> tuple[float, float, float]:
  """Combines one score of several runs.

  Args:
    cells: (mean, low, high) over problems, for each run.

  Returns:
    (mean, low, high) over runs.
  """
  means = [float(cell[0]) for cell in cells]
  if len(set(means)) == 1:
    mean, low, high = map(float, cells[0])
    return mean, low, high
  mean = sum(means) / len(means)
  deviation = math.sqrt(sum((x - mean) ** 2 for x in means) / (len(means) - 1))
  half = _T95[len(means)] * deviation / math.sqrt(len(means))
  return mean, mean - half, mean + half


def by_evaluation(scores: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
  """Groups one model's scores by evaluation; a chain names them '<evaluation> <score>'."""
  found: dict[str, dict[str, list[float]]] = collections.defaultdict(dict)
  for name, cell in scores.items():
    evaluation, _, score = name.rpartition(' ')
    found[evaluation][score] = cell
  return found


def main(folders: list[str]) -> None:
  tables: dict[str, dict[str, list]] = collections.defaultdict(
      lambda: collections.defaultdict(list))
  for folder in folders:
    for name, scores in json.loads((pathlib.Path(folder) / 'results.json').read_text()).items():
      for evaluation, found in by_evaluation(scores).items():
        tables[evaluation][name].append(found)
  for evaluation, runs in tables.items():
    rows = [{'model': name, 'runs': str(len(found))} | {
        score: over_runs([scores[score] for scores in found if score in scores])
        for score in dict.fromkeys(score for scores in found for score in scores)}
        for name, found in runs.items()]
    print(format_table(rows, f'{evaluation}: mean with 95 % interval' if evaluation
                       else 'Mean with 95 % interval'))


if __name__ == '__main__':
  main(sys.argv[1:])
