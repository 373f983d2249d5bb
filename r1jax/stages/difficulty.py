"""The problems of a dataset that a stage reads, by how hard they are for a model.

A filter keeps those whose pass rates are in a range; a curriculum (`data.curriculum`) draws them by
running pass rates. Rates are those of a stage of kind 'pass_rate', whose identity is part of that
of the stages that read it, as an input or, by its folder, as a file. PRIME (arXiv:2502.01456) keeps
prompts whose accuracy is between 0.2 and 0.8; DAPO (arXiv:2503.14476) drops those whose completions
are all right or all wrong, for which r1jax also has `dynamic_sampling_rounds`.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax import metrics
from r1jax.data import curriculum, pass_rates
from r1jax.data.curriculum import RULES, Curriculum
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


def _curriculum_faults(given: Mapping[str, Any]) -> Iterator[str]:
  if not given['rule'] and given != CURRICULUM.filled({}):
    yield f'rule must not be empty where other fields are set: use one of {", ".join(RULES)}'


CURRICULUM = Section(dict(
    rule=Field('', "'learnability' draws problems by p(1 - p), 'failure' by 1 - p, where p is the "
                   "running pass rate; '' draws all alike", choices=('', *RULES)),
    reward=Field('', "the one of the stage's rewards by which a completion passes, with 1 or more; "
                     "'judge/<name>' for a judge; '' for the only one"),
    source=Field('', "the pass rates that the estimates begin with: an input stage of kind "
                     "'pass_rate' or the folder of its Artifact; '' for those of the filter, if "
                     'there are any', names='model'),
    floor=Field(0.05, 'is added to the weights, the largest of which is 1', at_least=0),
    decay=Field(0.5, 'of what was counted before, whenever a problem is drawn', at_least=0,
                at_most=1)),
    'problems drawn by how often the policy solves them now', partial=True,
    pairs=_curriculum_faults)


class Chosen(NamedTuple):
  """The problems that a stage reads.

  Attributes:
    problems: all examples, and the indices of those that are read.
    selection: how they were chosen; None without a filter.
    judged, passed: completions of those that are read, by the rates of the filter; None without.
  """
  problems: Problems
  selection: Selection | None = None
  judged: np.ndarray | None = None
  passed: np.ndarray | None = None

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
  return Chosen(Problems(examples, found.kept), found, judged[found.kept], passed[found.kept])


def make_curriculum(
    config: Mapping[str, Any], chosen: Chosen, inputs: Mapping[str, Artifact] | None,
) -> Curriculum | None:
  """The curriculum of a stage before its first draw; None where all problems are drawn alike.

  Args:
    config: the stage's.
    chosen: the problems that it reads.
    inputs: as for `choose`.

  Raises:
    FileNotFoundError, UserError: the rates that it begins with cannot be read, or are those of
      other data.
  """
  given = CURRICULUM.filled(config['data'].get('curriculum', {}))
  if not given['rule']:
    return None
  (examples, indices), judged, passed = chosen.problems, chosen.judged, chosen.passed
  indices = np.arange(len(examples)) if indices is None else indices
  source = given['source']
  if source and not (inputs is None and source in config['inputs']):
    verdicts = read_verdicts(source, inputs or {}, 'data.curriculum')
    judged, passed = (found[indices] for found in _matched(
        examples, verdicts, 'data.curriculum', source))
  return curriculum.begin(indices, judged=judged, passed=passed, seed=config['seed'], **{
      name: given[name] for name in ('rule', 'floor', 'decay')})


def passing_reward(config: Mapping[str, Any], rules: Iterable[str]) -> str:
  """The reward by which completions pass for the curriculum: a rule or a judge; '' without one.

  Raises:
    UserError: the config names none of them, and there is more than one.
  """
  given = CURRICULUM.filled(config['data'].get('curriculum', {}))
  # Judges' names are those of `judge_rewards.component`, whose module depends on this one.
  names = [*rules, *(f'judge/{name}' for name in config.get('judges', ()))]
  name = given['reward'] or (names[0] if len(names) == 1 else '')
  if given['rule'] and name not in names:
    raise UserError(f'data.curriculum.reward must name the reward by which a completion passes, '
                    f'one of {", ".join(names) or "rewards"}, got {given["reward"]!r}')
  return name if given['rule'] else ''


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
