"""Equivalence of formulas: pairs of every kind, the shared cases, what is not judged, a fuzz."""

import json
import pathlib

from equal_formulas import ASKED_EQUAL, EQUAL, pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import FuzzPool, no_pool, pool  # noqa: F401 (fixtures)
import pytest
from unequal_formulas import ASKED_UNEQUAL, UNEQUAL

from r1jax.rewards import accuracy, formulas, workers
from r1jax.rewards.completion import Completion


def test_equal_pairs_are_equal_without_a_worker():
  assert [pair for pair in pairs(EQUAL) if formulas.equivalent(*pair) is not True] == []


def test_unequal_pairs_are_unequal_without_a_worker():
  assert [pair for pair in pairs(UNEQUAL) if formulas.equivalent(*pair) is not False] == []


def test_every_gold_is_equal_to_itself():
  for gold, _ in pairs(EQUAL + UNEQUAL):
    assert formulas.is_formula(gold)
    assert formulas.equivalent(gold, gold) is True


def test_math_verify_confirms_what_is_equal_and_not_decided_here(pool):
  workers.use_pool(pool)
  assert [pair for pair in pairs(ASKED_EQUAL) if formulas.equivalent(*pair) is not True] == []
  assert [pair for pair in pairs(ASKED_UNEQUAL) if formulas.equivalent(*pair) is not False] == []


def test_the_shared_cases_of_formulas_are_judged_as_wanted(pool):
  path = pathlib.Path(__file__).parents[1] / '../shared/cases/rewards.jsonl'
  if not path.exists():
    pytest.skip(f'no cases at {path}')
  workers.use_pool(pool)
  cases = [json.loads(line) for line in path.read_text().splitlines()]
  cases = [case for case in cases if case['why'].startswith('formulas')]
  assert len(cases) > 20
  for case in cases:
    completion = Completion(case['completion'], 1, False)
    assert accuracy.number_reward(completion, {'answer': case['gold']}) == case['want'], case


@pytest.mark.parametrize('gold', [
    '', '}{', '{', 'x' * 301, '\x00', '(' * 30 + ')' * 30,
    'He buys ten apples and then two pears.'])
def test_a_gold_without_a_reading_is_not_judged(gold):
  assert not formulas.is_formula(gold)
  assert formulas.equivalent(gold, '5') is None
  assert accuracy.number_reward(Completion(r'\boxed{5}', 1, False), {'answer': gold}) is None


def test_a_gold_that_only_math_verify_could_read_is_judged_by_it(pool):
  workers.use_pool(pool)
  assert formulas.equivalent(r'\int_0^x t dt', r'\int_0^x t dt') is True
  assert formulas.equivalent(r'\frac', '1') is None


PIECES = st.one_of(st.text(max_size=20), st.sampled_from((
    r'\frac', r'\frac{', '}', '{', r'\sqrt', r'\sqrt[', ']', '^', '_', '(', ')', '[', r'\{', r'\}',
    ',', ';', r'\text{', ' or ', ' and ', '=', '<', r'\le', r'\in', r'\cup', r'\mathbb{R}', r'\pm',
    '1', '99', '0', '.', '-', '+', '/', '*', '!', '|', ':', r'\\', '&', 'x', 'y', 'sin', 'km', '%',
    r'\begin{pmatrix}', r'\end{pmatrix}', r'\left', r'\right)', '$', r'^\circ', r'\log', r'\pi',
    '10^{', '9^{9^{9}}', '1/0', r'\overline{3}', r'\binom', '\ud800', '\u202e', '\u221e', '９', 'é',
    'ß', '平')))
TEXTS = st.lists(PIECES, min_size=1, max_size=14).map(''.join)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(TEXTS, TEXTS | st.sampled_from((
    r'2\sqrt{3}', '(1,2)', r'x>2', '1,2', r'5\text{ km}', r'\sin x', 'x=1,y=2', '3:5', '1011_2')))
def test_no_text_raises_an_exception(answer, gold):
  workers.use_pool(FuzzPool())
  assert formulas.equivalent(gold, answer) in (None, False, True)
  assert formulas.is_formula(gold) in (False, True)


GOLDS = (
    r'2\sqrt{3}', 'x^2-4', '(1,2)', r'\{1,2,3\}', '-2,1', r'(2,\infty)', 'x=1,y=2', '1011_2',
    r'5\text{ km}', r'\begin{pmatrix}1\\2\end{pmatrix}', r'\text{Monday}', '3:5', 'x+y=5', '[0,1]',
    r'\frac{\pi}{4}', 'y=2x+1', r'\sin x', r'\text{yes}', r'\text{(B)}', r'\emptyset')
ATTACKS = (
    '{} or 7', '7 or {}', '{}, 7', '7, {}', '{}; 7', r'{} \text{{ or }} 7', '{} = 7', '7 = {}',
    r'{} \ne 7x', '{0} and {0}', '{0}, {0}', 'not {}', '{} is wrong', r'\neg {}', '{}+1', '2({})',
    r'{} \text{{ is false}}', '{}x', '({})!+1', '|{}|+1', r'{} \approx 99', r'{} \pm 1',
    '{} thousand', '{} million', r'x \ne {}', r'{} \\ 7', r'{} \to 7', r'{} \Rightarrow 7',
    'if {} then 7', '{}?', 'maybe {}, maybe 7', '{} / 7', r'{} \quad 7', '{} & 7',
    r'7 \text{{ not }} {}', 'between 7 and {}', '> {}', '{} < 7', '{} 7', '7 {}', '', '.', '0', 'x',
    r'\{{', r'\text{{}}', '...', 'x=x', '0=0', r'\frac{{0}}{{0}}', '9^{{9^{{9^9}}}}', 'ABCD',
    'yes or no', '1,2,3,4,5,6', r'\forall x', 'the answer', r'\boxed{{}}', '%', '\\', '&', '||')


class Credulous:
  """Says of every pair that it is asked about that it is equal."""

  def equivalent(self, gold, answer):
    return True


def test_no_attack_is_taken_for_an_answer():
  workers.use_pool(Credulous())
  taken = [(gold, attack) for gold in GOLDS for attack in ATTACKS
           if formulas.equivalent(gold, attack.format(gold)) is not False]
  assert taken == []


@pytest.mark.parametrize('answer', [
    '(' * 300, '-' * 300, r'\sqrt' * 60, r'\frac' * 60, '1' + '!' * 299, '9^' * 149 + '9',
    'x ' * 150, 'x/' * 149 + 'x', '|' * 300, '(1,' * 60 + ')' * 60, r'\text{' * 50,
    '1:' * 149 + '1', '400!^{400!}', '9^{9^{9^9}}', r'\binom{1000}{500}' * 17, '5' + '/km' * 90,
    '1,' * 150])
def test_deep_and_long_formulas_are_read_or_refused(answer):
  for gold in (r'2\sqrt{3}', '1,2', r'5\text{ km}', 'x>2', r'\text{Monday}', 'x=1,y=2'):
    assert formulas.equivalent(gold, answer) is False
  workers.use_pool(Credulous())
  formulas.equivalent(answer, '1')


@pytest.mark.parametrize('gold, prose, value', [
    (r'2\sqrt{3}', r'Adding up, we get $2\sqrt{3}$.', 1.0),
    (r'2\sqrt{3}', 'Therefore\n\\[\n\\sqrt{12}\n\\]', 1.0),
    (r'2\sqrt{3}', r'Thus $$x = 2\sqrt{3}.$$', 1.0),
    (r'2\sqrt{3}', r'The length is \(2\sqrt{3}\) and the width \(2\sqrt{5}\).', 0.0),
    (r'2\sqrt{3}', r'It cannot be $2\sqrt{3}$.', 0.0),
    (r'2\sqrt{3}', r'Maybe $2\sqrt{3}$ or $5$.', 0.0),
    ('-2,1', 'We factor. So the roots are $-2$ and $1$.', 1.0),
    ('-2,1', 'For $a=1$ we find $x=-2$ or $x=1$', 1.0),
    (r'\text{Monday}', 'The answer is Monday.', 1.0),
    (r'5\text{ km}', 'The distance is 5 km.', 1.0)])
def test_prose_gives_the_formulas_at_its_end(gold, prose, value):
  completion = Completion('<think>Hm.</think> ' + prose, 1, False)
  assert accuracy.number_reward(completion, {'answer': gold}) == value
