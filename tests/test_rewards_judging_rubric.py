"""Rubrics: their form, and their score."""
import itertools

import pytest

from r1jax.errors import UserError
from r1jax.rewards.judging.rubric import Criterion, read_rubric, score

CRITERIA = (Criterion('polite', 2.0), Criterion('right', 3.0), Criterion('boasts', -4.0))


def test_the_score_is_the_share_of_positive_weights_less_negative_ones_clipped():
  for met in itertools.product((0.0, 1.0, 0.5), repeat=3):
    want = (2 * met[0] + 3 * met[1] - 4 * met[2]) / 5
    assert score(CRITERIA, met) == pytest.approx(min(1, max(0, want)))
  assert score(CRITERIA, (1, 1, 0)) == 1 and score(CRITERIA, (0, 0, 1)) == 0


def test_what_has_a_criterion_that_was_not_judged_has_no_score():
  for place in range(3):
    met = [1.0, 1.0, 0.0]
    met[place] = None
    assert score(CRITERIA, met) is None


def test_a_rubric_is_read_with_weight_1_by_default():
  assert read_rubric([dict(criterion='a'), dict(criterion='b', weight=-2)], 'rubric') == (
      Criterion('a', 1.0), Criterion('b', -2.0))


@pytest.mark.parametrize('value, says', [
    ([], 'rubric must be a list'), ('text', 'rubric must be a list'), ({}, 'rubric must be a list'),
    (['a'], r'rubric\[0\] must be'), ([dict(weight=1)], r'rubric\[0\] must be'),
    ([dict(criterion='a', wieght=1)], r'rubric\[0\] must be'),
    ([dict(criterion=' ')], r'rubric\[0\].criterion must be a text'),
    ([dict(criterion=3)], r'rubric\[0\].criterion must be a text'),
    ([dict(criterion='a'), dict(criterion='b', weight=0)], r'rubric\[1\].weight must be a number'),
    ([dict(criterion='a', weight='1')], r'rubric\[0\].weight must be a number'),
    ([dict(criterion='a', weight=True)], r'rubric\[0\].weight must be a number'),
    ([dict(criterion='a', weight=float('nan'))], r'rubric\[0\].weight must be a number'),
    ([dict(criterion='a', weight=1e400)], r'rubric\[0\].weight must be a number'),
    ([dict(criterion='a', weight=-1)], 'rubric must have a criterion of positive weight'),
    ([dict(criterion='a'), dict(criterion='a')], 'rubric must not have a criterion twice'),
    ([dict(criterion=str(n)) for n in range(101)], 'rubric must have at most 100 criteria'),
])
def test_other_forms_are_refused(value, says):
  with pytest.raises(UserError, match=says):
    read_rubric(value, 'rubric')
