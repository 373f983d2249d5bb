import math

import hypothesis
import hypothesis.strategies as st
import pytest

from r1jax.rewards.code.compare import same_output, same_value

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=100)
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
PLAIN = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3),
    max_leaves=6)


@SETTINGS
@hypothesis.given(PLAIN, PLAIN)
def test_a_value_equals_itself_and_no_other(value, other):
  assert same_value(value, value) and same_value(value, value, json=True)
  if repr(other) != repr(value) and same_value(value, other):    # else Python says so, too
    assert value == other or 'nan' in repr(value) or '.' in repr(other) or 'e-' in repr(other)


@pytest.mark.parametrize('found, expected', [
    (1, 1.0), (1.0, 1), (0.1 + 0.2, 0.3), (1e16 + 2, 1e16), (3, 3.0000001), (-0.0, 0),
    (0, 1e-9 * 0),
    (math.nan, math.nan), (math.inf, math.inf), ([math.nan], [math.nan]),
    ({'a': 1, 'b': [2.0]}, {'b': [2], 'a': 1.0}), ({1, 2}, {2, 1}), ({1.0, 2}, {1, 2}),
    (frozenset('ab'), {'a', 'b'}), ({0.1 + 0.2, 1}, {0.3, 1}), ({(1, 'a')}, {(1, 'a')}),
    (10 ** 400, 10 ** 400), (1e-5, 1.0005e-5), ((), ()), ({}, {}), (set(), set()),
])
def test_what_is_equal(found, expected):
  assert same_value(found, expected)


@pytest.mark.parametrize('found, expected', [
    (True, 1), (1, True), (True, 1.0), (1.0, True), (0, False), (False, 0), (0, None), (None, 0),
    (1, '1'), ('1', 1), ('a', 'b'), ('', None), ([], None), ([], ()), ((1,), [1]), ([1], (1,)),
    ([1], 1), (1, [1]), ([1, 2], [2, 1]), ([1], [1, 2]), ([1, 2], [1]), ([True], [1]),
    ([1], [True]),
    (math.nan, 1.0), (1.0, math.nan), (math.inf, -math.inf), (math.inf, 1e308), (1e308, math.inf),
    (0.1, 0.2), (1.00001, 1.0), (1.0000001, 1), (2e-7, 1e-7), (0.0, 1e-7), (10 ** 400, 1.0),
    ({'a': 1}, {'a': True}), ({1: 2}, {True: 2}), ({1: 2}, {'1': 2}), ({'a': 1}, {'a': 1, 'b': 2}),
    ({'a': 1, 'b': 2}, {'a': 1}), ([('a', 1)], {'a': 1}), ({1}, {True}), ({True}, {1}), ([1], {1}),
    ({1}, [1]), ({1, 2}, {1}), ({1}, {1, 2}), ({'a'}, {'b'}), ({'a'}, {1.0}), ({0.1}, {0.2}),
    ({(1,)}, {(True,)}), ({math.nan}, {1.0}), ('nan', math.nan), ('1.0', 1.0), (b'a', 'a'),
])
def test_what_differs(found, expected):
  assert not same_value(found, expected)


def test_json_has_neither_tuples_nor_keys_that_are_numbers():
  assert same_value([(1, 2)], [[1, 2]], json=True) and same_value({1: (2,)}, {'1': [2]}, json=True)
  for found, expected in (({1}, [1]), ((True,), [1]), ({True: 2}, {'1': 2}), ({1.0: 2}, {'1': 2}),
                          ({1: 2, '1': 2}, {'1': 2}), ('12', ['1', '2'])):
    assert not same_value(found, expected, json=True)


@pytest.mark.parametrize('found, expected', [
    ('3\n', '3'), ('3', '3\n\n'), ('a b  \n c\t\r\n', 'a b\n c'), ('', '\n'),
    ('1\n\n2', '1\n\n2\n'),
    ('0.30000000000000004', '0.3'), ('x 0.5', 'x 0.500000'), ('1', '1.0'), ('1e3 a', '1000.0 a'),
    ('-2.0000001', '-2.0'), ('+.5', '0.5'), ('0.0000001', '0.000000'), ('nan', 'nan'),
])
def test_outputs_that_are_equal(found, expected):
  assert same_output(found, expected)


@pytest.mark.parametrize('found, expected', [
    ('1\n2', '1\n2\n3'), ('1\n2\n3', '1\n2'), ('', '1'), ('1', ''), ('1\n', '2'), ('12', '1 2'),
    ('1 2', '12'), ('a  b', 'a b'), (' 1', '1'), ('\n1', '1'), ('1\n\n2', '1\n2'),
    ('1\n2', '1\n\n2'),
    ('yes', 'YES'), ('1.0', '1'), ('3 ', '3.1'), ('0.3 0.3', '0.3'), ('0.3', '0.3 0.3'),
    ('inf', '1.0'),
    ('nan', '1.0'), ('1_0.0', '10.0'), ('１.5', '1.5'), ('0.5 y', '0.5 x'), ('True', '1.0'),
    ('0x1p0', '1.0'), ('0.4', '0.5'), ('9' * 500, '1.0'), ('1,5', '1.5'), ('0', '0.00001'),
    ('7\x083', '3'), ('7\r3', '3'), ('\ufeff3', '3'), ('3\x00', '3'), ('\x1b[2K3', '3'),
    ('3\u200b', '3'),
    ('٣.0', '3.0'), ('3.0\n\x0c3.1', '3.0'), ('3.0e', '3.0'), ('3.0,', '3.0'), ('--3.0', '-3.0'),
    ('answer: 3', '3'), ('3\n3', '3'), ('1 2 3 4 5 6', '3'), ('3.0', '3'), ('1e999', '1.0'),
])
def test_outputs_that_differ(found, expected):
  assert not same_output(found, expected)
