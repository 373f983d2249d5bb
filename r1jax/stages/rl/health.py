"""Warnings about rollouts from which nothing is learnt, each given once with its likely cause."""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1jax.metrics.labels import reward_titles
from r1jax.prompting import templates


class _Symptom(NamedTuple):
  """What an iteration may have, in how many iterations in a row it is worth a warning, and which.

  The warning is formatted with `iterations` and with fields of the stage's config.
  """
  iterations: int
  shown: Callable[[Mapping[str, float]], bool]
  warning: str


def _is_judged(measured: Mapping[str, float]) -> bool:
  return bool(reward_titles(measured))


_SYMPTOMS = {
    'not judged': _Symptom(
        1, lambda measured: not _is_judged(measured),
        'no completion of an iteration could be judged, every reward was None, and nothing is '
        'learnt from that: check the answers of the data, and the reward functions'),
    'control tokens': _Symptom(
        1, lambda measured: measured.get('prompts/spelling_control_tokens', 0) > 0,
        templates.SPELT.format('questions', 'an iteration')),
    'cut': _Symptom(
        3, lambda measured: measured['completions/clipped_ratio'] == 1,
        'in {iterations} iterations all completions were cut at sampling.max_new_tokens='
        '{max_new_tokens}, so that none could be finished: raise it, or check that the model knows '
        'the template {template!r} and its end token'),
    'equal': _Symptom(
        5, lambda measured: _is_judged(measured) and measured['frac_reward_zero_std'] == 1,
        'in {iterations} iterations all completions of each group had equal rewards, from which '
        'nothing is learnt: the problems are likely too hard or too easy for the model, or the '
        'rewards do not tell its answers apart'),
}


def warnings(
    counts: Mapping[str, int], measured: Mapping[str, float], config: Mapping[str, Any],
) -> tuple[dict[str, int], list[str]]:
  """What is to be said after an iteration.

  Args:
    counts: in how many iterations in a row each symptom was seen, as the call before returned it;
      {} at first. Once a warning was given its count stays.
    measured: the metrics of the iteration.
    config: the stage's.

  Returns:
    The new counts, and the warnings to give now.
  """
  following, said = {}, []
  for name, symptom in _SYMPTOMS.items():
    count = counts.get(name, 0)
    if count < symptom.iterations:
      count = count + 1 if symptom.shown(measured) else 0
      if count == symptom.iterations:
        said.append(symptom.warning.format(
            iterations=count, template=config['template'],
            max_new_tokens=config['sampling']['max_new_tokens']))
    following[name] = count
  return following, said
