"""Running pass rates, the chances that follow from them, and the order of the draws."""
import itertools

import numpy as np
import pytest

from r1jax.data import curriculum

IDS = np.asarray([2, 3, 5, 8, 13, 21])
SETTINGS = dict(rule='learnability', floor=0.05, decay=0.5, seed=0)


def begun(ids=IDS, **fields):
  return curriculum.begin(ids, **SETTINGS | fields)


def order_of(course, iteration, start=0):
  order = course.order(iteration, start)
  return [order[start + place] for place in range(len(course.ids))]


def test_estimates_begin_with_what_was_measured_or_in_the_middle():
  np.testing.assert_array_equal(begun().estimates, 0.5)
  known = begun(judged=np.asarray([8, 8, 8, 0, 2, 1000]), passed=np.asarray([0, 4, 8, 0, 1, 1000]))
  np.testing.assert_allclose(
      known.estimates, [0.5 / 9, 0.5, 8.5 / 9, 0.5, 0.5, 1000.5 / 1001], rtol=1e-12)
  assert not known.drawn.any()


def test_each_visit_decays_the_counts_before_and_adds_its_own():
  course = begun(judged=np.full(6, 4), passed=np.full(6, 2))
  seen = course.follow(np.asarray([21, 3]), np.asarray([[1, 1, 0], [0, np.nan, 0]]))
  np.testing.assert_array_equal(seen.judged, [4, 4, 4, 4, 4, 5])
  np.testing.assert_array_equal(seen.passed, [2, 1, 2, 2, 2, 3])
  np.testing.assert_array_equal(seen.drawn, [0, 1, 0, 0, 0, 1])
  again = seen.follow(np.asarray([3]), np.full((1, 3), np.nan))    # nothing could be judged
  np.testing.assert_array_equal(again.estimates, seen.estimates)
  assert again.drawn[1] == 2
  assert course.judged.tolist() == [4] * 6 and not course.drawn.any()    # is not changed
  for decay, passed in ((0.0, [0, 1]), (1.0, [2, 3])):
    kept = begun(judged=np.full(6, 4), passed=np.full(6, 2), decay=decay).follow(
        np.asarray([2, 3]), np.asarray([[0, 0], [1, 0]]))
    assert kept.passed[:2].tolist() == passed


def test_what_is_sometimes_solved_weighs_most_or_what_is_seldom_solved():
  counts = dict(judged=np.full(6, 100), passed=np.asarray([0, 10, 50, 90, 100, 50]))
  weights = begun(**counts).weights
  assert weights.argmax() in (2, 5) and weights[2] == weights[5] == pytest.approx(1.05)
  assert weights[0] == pytest.approx(weights[4]) and weights[1] == pytest.approx(weights[3])
  assert 0.05 < weights[0] < 0.1 < weights[1] < weights[2]
  failure = begun(rule='failure', floor=0.0, **counts).weights
  assert (np.diff(failure[:5]) < 0).all() and 0 < failure[4] < 0.01 and failure[0] > 0.99


def test_every_problem_comes_once_and_the_order_depends_on_nothing_but_seed_and_place():
  course = begun(np.arange(50))
  first = order_of(course, 3)
  assert sorted(first) == list(range(50)) and first == order_of(course, 3, start=1000)
  assert first != order_of(course, 4) and first != order_of(begun(np.arange(50), seed=1), 3)
  order = course.order(3, 7)
  assert [order[7 + place] for place in range(100)] == first * 2


def test_problems_are_drawn_without_replacement_by_their_weights():
  """The first two of four against the exact chances of all pairs."""
  course = begun(np.arange(4), judged=np.full(4, 40), passed=np.asarray([0, 4, 20, 36]))
  shares = course.weights / course.weights.sum()
  draws = 4000
  found = np.zeros((4, 4))
  for iteration in range(draws):
    order = course.order(iteration, 0)
    found[order[0], order[1]] += 1
  for one, two in itertools.permutations(range(4), 2):
    chance = shares[one] * shares[two] / (1 - shares[one])
    assert abs(found[one, two] / draws - chance) < 4.5 * np.sqrt(chance * (1 - chance) / draws)
  assert not np.diag(found).any()


def test_the_numbering_of_examples_changes_nothing_but_their_names():
  """A filter that leaves the same problems, elsewhere in the data, gives the same curriculum."""
  one, other = begun(np.arange(6)), begun()
  for _ in range(3):
    assert order_of(one, 0) == order_of(other, 0)
    verdicts = np.asarray([[1, 0], [1, 1]])
    one = one.follow(np.asarray([1, 4]), verdicts)
    other = other.follow(IDS[[1, 4]], verdicts)
  np.testing.assert_array_equal(one.estimates, other.estimates)


def test_the_curriculum_follows_a_policy_that_learns_from_easy_to_hard():
  rng, course = np.random.default_rng(0), begun(np.arange(300))
  difficulty, drawn, variance = np.linspace(-6, 6, 300), [], []
  for iteration in range(200):
    order = course.order(iteration, 0)
    ids = np.asarray([order[place] for place in range(16)])
    chances = 1 / (1 + np.exp(difficulty + 3 - iteration / 33))
    course = course.follow(ids, rng.random((16, 8)) < chances[ids, None])
    drawn.append(difficulty[ids].mean())
    variance.append((chances * (1 - chances))[ids].mean() / (chances * (1 - chances)).mean())
  assert np.mean(drawn[-50:]) > np.mean(drawn[50:100]) + 1
  assert np.mean(variance[-100:]) > 1.35    # of drawing all alike: 1


def test_it_goes_on_from_its_state_bit_for_bit():
  course = begun().follow(np.asarray([2, 8]), np.asarray([[1, 0, 1], [0, 0, 0]]))
  restored = begun().restored({name: np.array(value) for name, value in course.state.items()})
  assert order_of(restored, 5) == order_of(course, 5) and restored.metrics() == course.metrics()
  assert {value.dtype.name for value in course.state.values()} == {'float32', 'int32'}


def test_its_metrics_are_of_all_problems():
  assert begun().metrics() == {
      'data/running_pass_rate': 0.5, 'data/seen': 0.0, 'data/effective_problems': pytest.approx(6)}
  course = begun(rule='failure', floor=0.0, judged=np.asarray([9] * 4 + [0, 9]),
                 passed=np.asarray([9, 0, 9, 4, 0, 9])).follow(
                     np.asarray([2, 3, 8]), np.asarray([[1], [0], [1]]))
  found = course.metrics()
  assert (found['data/seen'], found['data/always_solved'], found['data/never_solved']) == (
      0.5, 3 / 5, 1 / 5)
  assert found['data/running_pass_rate'] == pytest.approx(course.estimates.mean())
  assert 1 < found['data/effective_problems'] < 6
