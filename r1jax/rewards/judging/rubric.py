"""Rubrics: lists of weighted criteria, each met or not.

The score of a rubric is Σ weight·met / Σ of its positive weights, clipped to 0..1, as in "Rubrics
as Rewards" (arXiv:2507.17746) and HealthBench (arXiv:2505.08775). A negative weight marks a
pitfall, which costs when it is met.
"""
from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

from r1jax.errors import UserError

MOST_CRITERIA = 100
_FIELDS = {'criterion', 'weight'}
_LONGEST_VALUE = 80    # characters of a value in a message


class Criterion(NamedTuple):
  """What an answer is judged by, and how much that counts."""
  text: str
  weight: float = 1.0


def read_rubric(value: Any, name: str) -> tuple[Criterion, ...]:
  """The criteria of a list of {'criterion': text, 'weight': number}.

  Args:
    value: the list; a weight that is left out is 1.
    name: of what holds it, for messages.

  Raises:
    UserError: it has another form, has no criterion of positive weight, or too many.
  """
  if not isinstance(value, (list, tuple)) or not value:
    raise UserError(f'{name} must be a list of {{"criterion": ..., "weight": ...}}, got '
                    f'{_shown(value)}')
  if len(value) > MOST_CRITERIA:
    raise UserError(f'{name} must have at most {MOST_CRITERIA} criteria, got {len(value)}')
  criteria = tuple(_read_criterion(item, f'{name}[{place}]') for place, item in enumerate(value))
  if not any(criterion.weight > 0 for criterion in criteria):
    raise UserError(f'{name} must have a criterion of positive weight, got {_shown(value)}')
  texts = [criterion.text for criterion in criteria]
  if len(set(texts)) < len(texts):
    twice = next(text for text in texts if texts.count(text) > 1)
    raise UserError(f'{name} must not have a criterion twice, got {_shown(twice)}')
  return criteria


def _read_criterion(value: Any, name: str) -> Criterion:
  if not isinstance(value, Mapping) or 'criterion' not in value or not set(value) <= _FIELDS:
    raise UserError(f'{name} must be {{"criterion": ..., "weight": ...}}, got {_shown(value)}')
  text, weight = value['criterion'], value.get('weight', 1.0)
  if not isinstance(text, str) or not text.strip():
    raise UserError(f'{name}.criterion must be a text that is not blank, got {_shown(text)}')
  if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight or (
      not abs(weight) <= 1e6 or not math.isfinite(weight)):
    raise UserError(f'{name}.weight must be a number other than 0, of at most 1e6, negative for a '
                    f'pitfall, got {_shown(weight)}')
  return Criterion(text, float(weight))


def score(criteria: Sequence[Criterion], met: Sequence[float | None]) -> float | None:
  """The score of a rubric, from 0 to 1; None if one of the criteria was not judged.

  Args:
    criteria: of which some weight is positive.
    met: for each, from 0 (not met) to 1, None for not judged.
  """
  found = [verdict for verdict in met if verdict is not None]
  if len(found) < len(criteria):
    return None
  weights = [criterion.weight for criterion in criteria]
  gained = math.fsum(weight * verdict for weight, verdict in zip(weights, found, strict=True))
  return min(1.0, max(0.0, gained / math.fsum(weight for weight in weights if weight > 0)))


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _LONGEST_VALUE else f'{text[:_LONGEST_VALUE]}...'
