"""How often a model solves each problem, and the problems whose pass rates are in a range.

A problem is known by its content: a dataset that was shuffled or extended finds the rates of the
problems that it still has, and a problem that was changed has none.
"""
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np

from r1jax.runtime.storage import to_json

# The fields of an example that say what is asked and what is right, as rewards read them.
_CONTENT = (
    'question', 'messages', 'answer', 'answers', 'check', 'bad_answer', 'tests', 'prefix',
    'starter_code', 'entry_point', 'instructions', 'instruction_id_list', 'kwargs', 'rubric')


def problem_key(example: Mapping[str, Any]) -> str:
  """16 hexadecimal digits that stand for what an example asks and for what is right."""
  content = to_json([(name, example[name]) for name in _CONTENT
                     if example.get(name) is not None])
  return hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


class Verdicts(NamedTuple):
  """Of completions of one problem: how many were judged, and how many of these passed."""
  judged: int
  passed: int


def by_problem(rows: Iterable[Mapping[str, Any]]) -> dict[str, Verdicts]:
  """The verdicts by `problem_key`, added up where a dataset has a problem several times.

  Args:
    rows: those that a stage of kind 'pass_rate' leaves; `problem`, `judged` and `passed` are read.
  """
  found: dict[str, Verdicts] = {}
  for row in rows:
    before = found.get(row['problem'], Verdicts(0, 0))
    found[row['problem']] = Verdicts(
        before.judged + row['judged'], before.passed + row['passed'])
  return found


@dataclasses.dataclass(frozen=True)
class Selection:
  """The examples whose pass rate is in a range.

  Attributes:
    kept: [K] int, the indices of the examples that are kept, ascending.
    total: how many examples there are.
    below, above: how many are left out because their rate is below or above the range.
    unknown: how many have no rate: they were not measured, or none of their completions judged.
  """
  kept: np.ndarray
  total: int
  below: int
  above: int
  unknown: int


def known_verdicts(
    examples: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdicts],
) -> tuple[np.ndarray, np.ndarray]:
  """([n] judged, [n] passed): the completions of each example that were judged, and that passed."""
  found = [verdicts.get(problem_key(examples[index]), Verdicts(0, 0))
           for index in range(len(examples))]
  judged, passed = np.asarray(found, int).reshape(-1, 2).T
  return judged, passed


def select(
    judged: np.ndarray, passed: np.ndarray, *, low: float, high: float, keep_unknown: bool,
) -> Selection:
  """Keeps the examples with low <= passed / judged <= high: both ends are inside.

  Args:
    judged: [n] completions that were judged of each example; with 0 its rate is unknown.
    passed: [n] how many of them passed.
    low: the lowest rate that is kept.
    high: the highest.
    keep_unknown: whether examples without a rate are kept.
  """
  known = judged > 0
  rates = passed / np.maximum(judged, 1)
  below, above = known & (rates < low), known & (rates > high)
  kept = ~below & ~above & (known | keep_unknown)
  return Selection(np.flatnonzero(kept), len(judged), int(below.sum()), int(above.sum()),
                   int((~known).sum()))


def histogram(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
  """How many problems have a pass rate of 0, of 1, and in each tenth in between.

  Args:
    rows: as for `by_problem`; those without a judged completion are left out.
  """
  names = ['0', *(f'{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}' for tenth in range(10)), '1']
  counts = dict.fromkeys(names, 0)
  for row in rows:
    judged, passed = row['judged'], row['passed']
    if judged:
      # In whole numbers: 3 of 10 belong to the tenth that begins at 0.3.
      place = 0 if passed == 0 else 11 if passed == judged else 1 + 10 * passed // judged
      counts[names[place]] += 1
  return counts
