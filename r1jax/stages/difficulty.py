"""The problems of a dataset that a stage reads: all, or those whose pass rates are in a range.

The rates are those of a stage of kind 'pass_rate'. Its identity is part of that of the stages that
read it, as an input or, by its folder, as a file. Difficulty filters of this kind: DAPO
(arXiv:2503.14476), which drops a prompt while all of its completions are right or all are wrong;
PRIME (arXiv:2502.01456), which keeps prompts whose accuracy is between 0.2 and 0.8.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import metrics
from r1jax.data import pass_rates
from r1jax.data.pass_rates import Selection, Verdicts
from r1jax.errors import UserError
from r1jax.metrics.terminal import default_console
from r1jax.runtime.storage import Path
from r1jax.stages import datasets
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import Field, Section
from r1jax.stages.datasets import Problems

ROWS = 'pass_rates.jsonl'    # of an Artifact of kind 'pass_rate': a row for each problem


def _filter_faults(given: Mapping[str, Any]) -> Iterator[str]:
  if given['low'] > given['high']:
    yield f'low must be at most high={given["high"]}, got {given["low"]}'
  if not given['source'] and given != FILTER.filled({}):
    yield ("source must not be empty where other fields are set: name an input stage of kind "
           "'pass_rate', or the folder of its Artifact")


FILTER = Section(dict(
    source=Field('', "an input stage of kind 'pass_rate', or the folder of its Artifact",
                 names='model'),
    low=Field(0.0, 'the lowest pass rate that is kept', at_least=0, at_most=1),
    high=Field(1.0, 'the highest pass rate that is kept', at_least=0, at_most=1),
    unknown=Field('drop', 'what becomes of problems that were not measured',
                  choices=('drop', 'keep'))),
    'only problems whose pass rates are in a range', partial=True, pairs=_filter_faults)


class Chosen(NamedTuple):
  """The problems that a stage reads.

  Attributes:
    problems: all examples, and the indices of those that are read.
    selection: how they were chosen; None without a filter.
  """
  problems: Problems
  selection: Selection | None = None

  def scores(self) -> dict[str, Any]:
    """What the manifest says of the filter; empty without one."""
    if self.selection is None:
      return {}
    found = self.selection
    return {'problems': found.total, 'problems/kept': len(found.kept),
            'problems/below': found.below, 'problems/above': found.above,
            'problems/unknown': found.unknown}

  def announce(self, stage: str, console=None) -> None:
    """Prints how many problems the filter of a stage keeps; nothing without one."""
    if self.selection is not None:
      (console or default_console()).print(
          f'stage {stage!r}: data.filter keeps {len(self.selection.kept):,} of '
          f'{self.selection.total:,} problems ({_counts(self.selection)})',
          markup=False, highlight=False, soft_wrap=True)


def choose(
    config: Mapping[str, Any], split: str, inputs: Mapping[str, Artifact] | None,
) -> Chosen:
  """The problems of a split, by the `data` part of a stage's config.

  Args:
    config: the stage's.
    split: of the data.
    inputs: earlier stages' Artifacts by name; None before there are any: then a filter by the rates
      of an input stage keeps all.

  Raises:
    FileNotFoundError, UserError: the data or the rates cannot be read, the rates are those of other
      data, or no problem is kept.
  """
  examples = datasets.load_examples(config['data'], split)
  given = FILTER.filled(config['data'].get('filter', {}))
  source = given['source']
  if not source or (inputs is None and source in config['inputs']):
    return Chosen(Problems(examples))
  verdicts = read_verdicts(source, inputs or {}, 'data.filter')
  judged, passed = _matched(examples, verdicts, 'data.filter', source)
  found = pass_rates.select(judged, passed, low=given['low'], high=given['high'],
                            keep_unknown=given['unknown'] == 'keep')
  if not found.kept.size:
    raise UserError(
        f'data.filter keeps none of the {found.total} problems ({_counts(found)}) with low='
        f'{given["low"]}, high={given["high"]}, unknown={given["unknown"]!r}: widen the range')
  return Chosen(Problems(examples, found.kept), found)


def read_verdicts(
    source: str, inputs: Mapping[str, Artifact], where: str) -> dict[str, Verdicts]:
  """The verdicts by problem that a stage of kind 'pass_rate' has left; all hosts call this.

  Args:
    source: the name of an input stage, or the folder of its Artifact.
    inputs: earlier stages' Artifacts by name.
    where: the path of the section that names `source`, for messages.

  Raises:
    FileNotFoundError, UserError: there is no such Artifact, or its rows are damaged.
  """
  if source in inputs:
    artifact = inputs[source]
  elif (Path(source) / 'manifest.json').exists():
    artifact = open_artifact(source)
  else:
    raise FileNotFoundError(
        f'{where}.source={source!r} is neither an input stage nor the folder of an Artifact: name '
        "a stage of kind 'pass_rate', or the folder that it has left")
  if artifact.manifest.kind != 'pass_rate':
    raise UserError(f'{where}.source={source!r} is a stage of kind {artifact.manifest.kind!r}: '
                    "name one of kind 'pass_rate'")
  artifact.check(ROWS)
  return pass_rates.by_problem(metrics.read_part(artifact.folder / ROWS))


def _matched(
    examples: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdicts], where: str,
    source: str,
) -> tuple[np.ndarray, np.ndarray]:
  """([n] judged, [n] passed) of examples, some of which must be known."""
  judged, passed = pass_rates.known_verdicts(examples, verdicts)
  if not judged.any():
    rated = sum(found.judged > 0 for found in verdicts.values())
    raise UserError(
        f'{where}.source={source!r} has pass rates of {rated} problems, and none of them is among '
        f'the {len(examples)} of this data: name the pass rates of this data')
  return judged, passed


def _counts(found: Selection) -> str:
  return f'{found.below:,} below, {found.above:,} above, {found.unknown:,} not measured'
