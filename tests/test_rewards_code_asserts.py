import math

import pytest

from r1jax.errors import UserError
from r1jax.rewards.code.asserts import split_asserts, split_check


@pytest.mark.parametrize('text, function, arguments, met, unmet', [
    ('assert f(1, [2]) == 3', 'f', (1, [2]), [3, 3.0], [True, '3', [3], 4, None]),
    ('assert 3 == f(1), "three"', 'f', (1,), [3], [1]),
    ('assert f() == {"a": (1, -2)}', 'f', (), [{'a': (1, -2)}], [{'a': [1, -2]}]),
    ('assert f({1: {2}}) != 3', 'f', ({1: {2}},), [4, '3'], [3]),
    ('assert f("x")', 'f', ('x',), [True, 1, [0]], [False, 0, None, '']),
    ('assert not f("x")', 'f', ('x',), [False, 0, None, ''], [True, 1, [0]]),
    ('assert f(2) is None', 'f', (2,), [None], [0, False]),
    ('assert f(2) is not None', 'f', (2,), [0, False], [None]),
    ('assert f(2) == True', 'f', (2,), [True], [1, 1.0, 'True']),
    ('assert f(2) is False', 'f', (2,), [False], [0, None]),
    ('assert f(2) in [1, "a"]', 'f', (2,), [1, 'a'], [True, [1], 'b']),
    ('assert f(2) < 2.5', 'f', (2,), [2, -1.0], [3, 2.5, True, 'a', None, math.nan]),
    ('assert 2 <= f(2)', 'f', (2,), [2, 3.5], [1, True]),
    ('import math\nassert math.isclose(f(10), 4188.79, rel_tol=0.001)', 'f', (10,), [4188, 4190.0],
     [4200, True, 'a', None]),
    ('from math import isclose\nassert isclose(0.5, f(1), abs_tol=0.1)', 'f', (1,), [0.55], [0.65]),
    ('assert abs(f(1.5) - 2.0 / 3) < 1e-6', 'f', (1.5,), [2 / 3], [0.66, None, 'a', [0.6]]),
    ('assert abs(0.5 - f(2)) <= 1e-6', 'f', (2,), [0.5], [0.6]),
    ('assert abs(f(2) - 1.0) < 1e-6', 'f', (2,), [1], [True]),
    ('assert set(f((3, 4), (5,))) == set((4, 5))', 'f', ((3, 4), (5,)), [(4, 5), [5, 4, 4], {4, 5}],
     [(4,), 4, [[4], 5]]),
    ('assert sorted(f([2, 1])) == [1, 2]', 'f', ([2, 1],), [[2, 1], (1, 2)], [[1], None, [1, 'a']]),
    ('assert tuple(f(1)) == tuple([1, 2])', 'f', (1,), [[1, 2]], [[2, 1]]),
    ('assert len(f(1)) == 2', 'f', (1,), ['ab', [1, 2]], ['a', 2]),
    ('assert round(f(1), 1) == 0.3', 'f', (1,), [0.3001], [0.36, True]),
    ('assert f(1)[0] == 2', 'f', (1,), [[2, 3], (2,)], [[], 2, {1: 2}]),
    ('x = [1] * 2\nassert f(x, 2 ** 3, -1) == math.pi', 'f', ([1, 1], 8, -1), [math.pi], [3.14]),
    ('assert sum(10, 15) == 6', 'sum', (10, 15), [6], [25]),
    ('assert Solution().twoSum([1], 2) == [0, 1]', 'Solution.twoSum', ([1], 2), [[0, 1]], [(0, 1)]),
    ('assert (f)(float("inf"), list(range(3))) == str(5)', 'f', (math.inf, [0, 1, 2]), ['5'], [5]),
])
def test_an_assertion_is_split(text, function, arguments, met, unmet):
  call, = split_asserts(text)
  assert (call.function, call.arguments) == (function, arguments)
  assert [value for value in met if not call.expectation.met(value)] == []
  assert [value for value in unmet if call.expectation.met(value)] == []


def test_arguments_may_have_names():
  call, = split_asserts('assert Solution().f(1, nums=[3, 3], target=6) == [0, 1]')
  assert call[:3] == ('Solution.f', (1,), {'nums': [3, 3], 'target': 6})


def test_values_of_one_hash_make_no_set():
  same_hash = [(2 ** 61 - 1) * n for n in range(100)]    # a set of a million of them takes hours
  call, = split_asserts('assert len(set(f(1))) == 100')
  assert call.expectation.met(list(range(100)) * 50) and not call.expectation.met(same_hash)


def test_several_assertions_are_several_calls():
  calls = split_asserts('assert True\nassert f(1) == 2 and f(2) == 3\nassert f(3) == 4')
  assert [(call.arguments, call.expectation.value) for call in calls] == [
      ((1,), 2), ((2,), 3), ((3,), 4)]


@pytest.mark.parametrize('text, message', [
    ('assert f(x) == 1', "'x' is not a constant"),
    ('assert f(g(2)) == 1', r"'g\(2\)' is not a constant"),
    ('assert f(1) == g(2)', r"'g\(2\)' is not a constant"),
    ('assert f(1) == f(2)', r"'f\(2\)' is not a constant"),
    ('assert f(k=x) == 2', "'x' is not a constant"),
    ('assert f(*[1]) == 2', 'not a constant'), ('assert f(**{}) == 2', 'not a call'),
    ('assert f(1) == 2 == 3', 'not a call'), ('assert f(1) or f(2)', 'not a call'),
    ('assert f(1) == b"x"', 'not a constant'), ('assert f(lambda x: x) == 1', 'not a constant'),
    ('assert f([i for i in [1]]) == 1', 'not a constant'), ('assert f(f"{1}") == 1', 'not a const'),
    ('assert f(1) is 2', 'identity'), ('assert f(1) in "ab"', 'must be a list'),
    ('assert f(1) < "a"', 'must be a number'), ('assert 1 - f(2) == 3', 'the other way round'),
    ('assert f(1j) == 1', 'not a constant'), ('assert f(...) == 1', 'not a constant'),
    ('assert 1 == 1', 'not a call'), ('assert f.g(1) == 1', 'not the name of a function'),
    ('assert math.isclose(f(1), 2, rel_tol=-1)', 'at least 0'),
    ('assert math.isclose(f(1), 2, tol=1)', 'rel_tol and abs_tol'),
    ('assert f(10 ** 1000000) == 1', 'a power has more than'), ('assert f(1 / 0) == 1', 'no value'),
    ('assert f("a" * 10 ** 9) == 1', 'more than 1000000 items'),
    ('assert f(-"a") == 1', 'no value'),
    ('assert f(list(range(10 ** 9))) == 1', 'more than 1000000 items'),
    ('assert f("%99999999d" % 1) == 1', 'not formatted'), ('assert f(range(3)) == 1', 'type range'),
    (f'assert f({"[" * 70}{"]" * 70}) == 1', 'nested more than 60'),
    ('assert f("\\ud800") == 1', 'surrogate'),
    ('assert f(2 ** 9000 * 2 ** 9000) == 1', 'more than 14000 bits'),
    ('for i in range(3):\n  assert f(i) == 1', 'not an assertion'), ('x.y', 'not an assertion'),
    ('def g(): pass', 'not an assertion'), ('__import__("os").system("x")', 'not an assertion'),
    ('x = open("/etc/passwd").read()\nassert f(x) == 1', 'not a constant'),
    ('x, y = 1, 2\nassert f(x) == y', 'not the assignment of a constant'),
    ('assert f(', 'is not Python'), ('assert f(1) == ' + '(' * 500, 'is not Python'),
    ('', 'no assertion'), ('assert True', 'no assertion'), ('assert False', 'not a call'),
])
def test_what_cannot_be_split_is_refused(text, message):
  with pytest.raises(UserError, match=message):
    split_asserts(text)


CHECK = '''
METADATA = {'author': 'jt', 'made': object()}
EXPECTED = [4]

def helper(x):
    return x

def check(candidate):
    """Checks."""
    import math
    print    # as HumanEval/129 has it
    assert True, "trivial"
    assert candidate([1.0, 2.0]) == 3, "first" + str(1)
    assert abs(candidate(2) - 0.5) < 1e-6
    xs = [1, 2]
    assert candidate(xs) == EXPECTED

check(add)
'''


def test_humaneval_checks_are_split():
  calls = split_check(CHECK, 'add')
  assert {call.function for call in calls} == {'add'}
  assert [call.arguments for call in calls] == [([1.0, 2.0],), (2,), ([1, 2],)]
  assert calls[2].expectation.met([4]) and not calls[2].expectation.met([5])


@pytest.mark.parametrize('line, message', [
    ('for i in range(3):\n        assert candidate(i) == 1', 'not an assertion'),
    ('assert candidate(helper(1)) == 1', "'helper"),
    ('assert candidate(METADATA) == 1', 'METADATA'),
    ('assert candidate(1) == add(1)', "'add"), ('assert other(1) == 1', "'other"),
    ('import random\n    x = random.random()\n    assert candidate(x) == 1', 'not a constant')])
def test_a_check_that_computes_is_refused(line, message):
  with pytest.raises(UserError, match=message):
    split_check(CHECK.replace('assert candidate(xs)', f'{line}\n    assert candidate(xs)'), 'add')


def test_a_check_takes_the_candidate():
  for text in ('def check():\n  assert f(1) == 2', 'def test(candidate): pass'):
    with pytest.raises(UserError, match='no function check'):
      split_check(text, 'f')
