"""Pass rates by what problems say, and the range of them that is kept."""
import numpy as np
import pytest

from r1jax.data import pass_rates
from r1jax.data.pass_rates import Verdicts

PROBLEM = dict(question='1+1?', answer='2')


def test_a_problem_is_known_by_what_it_asks_and_by_what_is_right():
  key = pass_rates.problem_key(PROBLEM)
  more = dict(answer='2', question='1+1?', language='en', answers=None)
  assert key == pass_rates.problem_key(more)
  others = [PROBLEM | change for change in (
      dict(question='1+2?'), dict(answer='3'), dict(answers=['2', '2.0']), dict(check='refusal'),
      dict(messages=[dict(role='user', content='Hi')]), dict(tests=[['1', '2']]),
      dict(rubric=[['short', 1.0]]), dict(instructions=['json']),
      dict(instruction_id_list=['a'], kwargs=[{}]),
      dict(instruction_id_list=['a'], kwargs=[dict(n=2)]), dict(prefix='import math'))]
  others += [dict(question='1+1?2', answer=''), dict(question='2', answer='1+1?'),
             dict(question='1+1?'), dict(question='\ud800', answer='2')]
  keys = {pass_rates.problem_key(example) for example in others}
  assert len(keys) == len(others) and key not in keys


def test_verdicts_of_a_problem_that_is_there_twice_are_added():
  rows = [dict(problem='a', judged=4, passed=1), dict(problem='b', judged=0, passed=0),
          dict(problem='a', judged=3, passed=3)]
  assert pass_rates.by_problem(rows) == {'a': Verdicts(7, 4), 'b': Verdicts(0, 0)}


def test_examples_find_their_verdicts_in_any_order():
  examples = [PROBLEM | dict(answer=str(number)) for number in range(20)]
  verdicts = {pass_rates.problem_key(example): Verdicts(8, number % 9)
              for number, example in enumerate(examples[:15])}
  order = np.random.default_rng(0).permutation(20)
  judged, passed = pass_rates.known_verdicts([examples[i] for i in order], verdicts)
  np.testing.assert_array_equal(judged, np.where(order < 15, 8, 0))
  np.testing.assert_array_equal(passed, np.where(order < 15, order % 9, 0))


def test_both_ends_of_the_range_are_inside():
  judged, passed = np.asarray([4] * 5 + [0]), np.asarray([0, 1, 2, 3, 4, 0])
  found = pass_rates.select(judged, passed, low=0.25, high=0.75, keep_unknown=False)
  assert found.kept.tolist() == [1, 2, 3]
  assert (found.total, found.below, found.above, found.unknown) == (6, 1, 1, 1)
  found = pass_rates.select(judged, passed, low=0.25, high=0.75, keep_unknown=True)
  assert found.kept.tolist() == [1, 2, 3, 5] and found.unknown == 1
  found = pass_rates.select(judged, passed, low=0.0, high=1.0, keep_unknown=False)
  assert found.kept.tolist() == [0, 1, 2, 3, 4]


def test_every_example_is_kept_or_counted():
  rng = np.random.default_rng(0)
  for _ in range(50):
    judged = rng.integers(0, 5, 30)
    passed = rng.binomial(judged, rng.random())
    low, high = np.sort(rng.random(2))
    for keep in (True, False):
      found = pass_rates.select(judged, passed, low=low, high=high, keep_unknown=keep)
      assert len(found.kept) + found.below + found.above + found.unknown * (not keep) == 30
      assert (np.diff(found.kept) > 0).all()
      known = found.kept[judged[found.kept] > 0]
      rates = passed[known] / judged[known]
      assert ((low <= rates) & (rates <= high)).all()


@pytest.mark.parametrize('passed, judged, name', [
    (0, 8, '0'), (8, 8, '1'), (3, 10, '0.3 to 0.4'), (7, 10, '0.7 to 0.8'), (1, 100, '0.0 to 0.1'),
    (99, 100, '0.9 to 1.0'), (1, 2, '0.5 to 0.6')])
def test_the_histogram_counts_whole_tenths(passed, judged, name):
  counts = pass_rates.histogram([dict(passed=passed, judged=judged), dict(passed=0, judged=0)])
  assert counts == dict.fromkeys(counts, 0) | {name: 1} and len(counts) == 12
