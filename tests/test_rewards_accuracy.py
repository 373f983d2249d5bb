"""Accuracy rewards: known wrong acceptances and refusals, real GSM8K, and a fuzz."""

import json
import os
import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st
from pools import FuzzPool, no_pool, pool  # noqa: F401 (fixtures)
import pytest

from r1jax.rewards import accuracy, formulas, workers
from r1jax.rewards.choice import choice_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward

REWARDS = (accuracy.number_reward, accuracy.gsm8k_reward, choice_reward,
           accuracy.exact_match_reward, format_reward)


def reward(function, text, gold, *, truncated=False):
  return function(Completion(text, 1, truncated), {'answer': gold})


@pytest.mark.parametrize('text', [
    r'\boxed{42.}', '<answer>42</answer>', '#### 42.', '#### $42', '42', r'\boxed{42}',
    '<think>41</think> <answer>$42.00$</answer>', '<answer>x = 42</answer>', 'So it is 42.',
    '<answer>**42**</answer>', '6 times 7 gives\n#### 42', '<answer>84/2</answer>'])
@pytest.mark.parametrize('function', [accuracy.number_reward, accuracy.gsm8k_reward])
def test_pitfall_16_known_wrong_refusals_are_right(function, text):
  assert reward(function, text, '42') == 1.0


def test_pitfall_18_gsm8k_forms_are_right():
  for text, gold in (('#### 42.', '42'), ('#### $42', '42'), ('#### 1,234', '1234'),
                     ('#### 1234', '1,234'), ('#### -5', 'He owes 5.\n#### -5')):
    assert reward(accuracy.gsm8k_reward, text, gold) == 1.0


@pytest.mark.parametrize('text', [
    r'\boxed{1 = 2 = 5}', r'\boxed{5,5,5}', r'\boxed{5} wait \boxed{1}', '<answer>5 or 7</answer>',
    r'\boxed{4 = 5}', r'\boxed{\{5\}}', '<answer>2 + 3</answer>', '<answer>10 - 5</answer>',
    '<answer>5 thousand</answer>', '<answer>1</answer><answer>5</answer>', '<answer>5',
    '<answer>4 </answer> 5', '5\n<answer>4</answer>', '<answer>99**98**97</answer>',
    '<answer>__import__("os")</answer>', '', '5 no, 6', '<think>5</think>'])
def test_pitfall_16_known_wrong_acceptances_are_wrong(text):
  assert reward(accuracy.number_reward, text, '5') == 0.0


def test_an_uncertain_end_of_a_cut_completion_is_no_answer():
  assert reward(accuracy.number_reward, 'it is 5', '5', truncated=True) == 0.0
  assert reward(accuracy.number_reward, '#### 5\nnext', '5', truncated=True) == 1.0


@pytest.mark.parametrize('gold', [
    '', 'a bag of ten apples and two pears', '9' * 400, '}{', 'x' * 301, '\x00'])
def test_pitfall_16_a_gold_without_reading_is_not_judged(gold):
  for text in ('<answer>5</answer>', '', f'<answer>{gold}</answer>'):
    assert reward(accuracy.number_reward, text, gold) is None
  assert reward(accuracy.gsm8k_reward, '<answer>5</answer>', gold) is None


@pytest.mark.parametrize('gold, answer', [
    (r'2\sqrt{3}', r'\sqrt{12}'), (r'2\sqrt{3}', r'$\dfrac{6}{\sqrt{3}}$.'),
    (r'2\sqrt{3}', r'x = 2\sqrt{3}'), ('x^2+2x+1', '(x+1)^2'), ('x+1', '1+x'),
    ('(1,2)', r'\left(1, \frac{4}{2}\right)'), ('1,2', '2, 1'), (r'5\text{ inches}', '5'),
    ('y=2x', 'y = x + x'), (r'\text{Monday}', 'Monday'),
    (r'\begin{pmatrix}1\\2\end{pmatrix}', r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}')])
def test_equivalent_formulas_are_right(pool, gold, answer):
  workers.use_pool(pool)
  assert reward(accuracy.number_reward, f'<answer>{answer}</answer>', gold) == 1.0


@pytest.mark.parametrize('gold, answer', [
    (r'2\sqrt{3}', r'2\sqrt{5}'), ('x+1', 'y+1'), ('(1,2)', '(2,1)'), ('x=5', 'y=5'),
    ('x=5', '1=5'), (r'\frac{x}{3}', '0.333x')])
def test_other_formulas_are_wrong(pool, gold, answer):
  workers.use_pool(pool)
  assert reward(accuracy.number_reward, f'<answer>{answer}</answer>', gold) == 0.0


def test_a_formula_that_the_worker_cannot_read_is_not_judged(pool):
  workers.use_pool(pool)
  assert reward(accuracy.number_reward, '<answer>1</answer>', r'\frac') is None


@pytest.mark.parametrize('answer', [
    r'2\sqrt{3}, 2\sqrt{3}', r'2\sqrt{3} or 5', r'1 = 2\sqrt{3}', r'x = y = 2\sqrt{3}',
    r'2\sqrt{3} \approx 3.56', r'2\sqrt{3}\text{ thousand}', r'2\sqrt{3}}{', '(' * 50 + ')' * 50,
    '9' * 31, '', 'x' * 301, '\x00', '\ud800', r'\boxed', r'2\sqrt{3', '}{', '$'])
def test_pitfall_16_what_math_verify_would_wrongly_take_is_not_asked(answer):
  assert formulas.equivalent(r'2\sqrt{3}', answer) is False


def test_the_gold_itself_is_right_without_a_question():
  assert reward(accuracy.number_reward, r'<answer>$2\sqrt{3}$.</answer>', r'2\sqrt{3}') == 1.0


@pytest.mark.parametrize('text, value', [
    ('<answer> olleh </answer>', 1.0), ('it reads\nolleh', 1.0), ('<answer>Olleh</answer>', 0.0),
    ('<answer>o lleh</answer>', 0.0), ('it is olleh', 0.0), ('', 0.0)])
def test_exact_match(text, value):
  assert reward(accuracy.exact_match_reward, text, ' olleh') == value


def test_exact_match_of_other_types_and_of_nothing():
  assert reward(accuracy.exact_match_reward, '<answer>12</answer>', 12) == 1.0
  assert reward(accuracy.exact_match_reward, '<answer>12</answer>', ' ') is None


def test_pitfall_24_votes_are_over_equivalent_answers():
  classes = (
      ('1,234', '<answer>1234</answer>', r'\boxed{1234.0}', '#### 1234.', 'so $1,234', '2468/2'),
      ('B', '(B)', '<answer>B. a dog</answer>', 'The answer is B.', '(B) 42'),
      ('<answer>x  + 1</answer>', r'\boxed{$x + 1$}'), ('1/3',), ('0.333',))
  for one in classes:
    for other in classes:
      for a in one:
        for b in other:
          key = accuracy.canonical_answer(a)
          assert key is not None
          assert (key == accuracy.canonical_answer(b)) == (one is other), (a, b)
  assert accuracy.canonical_answer('<answer>5') is None
  assert accuracy.canonical_answer('It is 5', truncated=True) is None
  assert accuracy.canonical_answer('') is None


def gsm8k_rows():
  root = pathlib.Path(__file__).parents[1]
  folder = root / os.environ.get('R1JAX_GSM8K', '../shared/data/gsm8k')
  if not (folder / 'test.jsonl').exists():
    pytest.skip(f'no GSM8K at {folder}: set R1JAX_GSM8K')
  with open(folder / 'test.jsonl', encoding='utf-8') as lines:
    return [json.loads(line)['answer'] for line in lines]


def test_every_gsm8k_answer_is_right_and_the_next_number_wrong():
  rows = gsm8k_rows()
  assert len(rows) == 1319
  for solution in rows:
    gold = solution.rpartition('#### ')[2]
    wrong = int(gold.replace(',', '')) + 1
    for function, example in ((accuracy.number_reward, gold), (accuracy.gsm8k_reward, gold),
                              (accuracy.gsm8k_reward, solution)):
      for form in ('#### {}', '<think>so</think> <answer>{}</answer>', r'\boxed{{{}}}', 'So ${}.'):
        assert reward(function, form.format(gold), example) == 1.0, (form, gold)
        assert reward(function, form.format(wrong), example) == 0.0, (form, wrong)
    assert reward(accuracy.gsm8k_reward, solution, solution) == 1.0


RIGHT_FORMS = (
    'The answer is {}.', 'He pays {} dollars per day.', '${}', 'USD {}', '{} €', r'\${}', r'{}\%',
    r'{}\text{{ cm}}', r'{}\,\mathrm{{cm}}^2', r'{}^\circ', 'x = {}', 'AB = {}', 'about {} km/h',
    '3 + 4 = {}', r'\displaystyle \mathbf{{{}}}', 'The answer is **{}**', 'Total: ${}', '{}元',
    '答案：{}', '一共有{}个苹果。', '({})', '{}, as asked.')
WRONG_FORMS = (
    '{}1', '1{}', '{}.5', '{} thousand', '{}k', '{} dozen', '{}万', '{} or 0.7', '0.7 and {}',
    '0.7, {}', '{}+1', '{} + 0', '1 * {}', '{}-0.7', r'{} \pm 1', 'at least {}', '> {}', 'not {}',
    '{}x', '{}th', '3:{}', 'twice {}', '{} and a half', '{}/7', 'In 0.7 days he pays {} dollars')


def test_units_and_words_change_no_verdict_on_gsm8k():
  for i, solution in enumerate(gsm8k_rows()[::40]):
    gold = solution.rpartition('#### ')[2]
    block = ('<think>so</think> <answer>{}</answer>', r'So it is \boxed{{{}}}.')[i % 2]
    for form in RIGHT_FORMS:
      text = block.format(form.format(gold))
      assert reward(accuracy.gsm8k_reward, text, solution) == 1.0, text
    for form in WRONG_FORMS:
      if gold not in ('0', '1'):    # 0/7 is 0
        text = block.format(form.format(gold))
        assert reward(accuracy.gsm8k_reward, text, solution) == 0.0, text


def test_equal_answers_vote_together_whatever_stands_around_them():
  keys = {accuracy.canonical_answer(text) for text in (
      '72 dollars', '72', r'\boxed{72.0}', '<answer>He pays $72.</answer>',
      r'\boxed{7.2\times10^1}', '<think>9</think> It is 72', '#### 72 dollars')}
  assert keys == {'72'}
  assert accuracy.canonical_answer('72</think> 73', prompt_opens_think=True) == '73'
  assert accuracy.canonical_answer('72', prompt_opens_think=True) is None


@pytest.mark.parametrize('function', [
    accuracy.number_reward, accuracy.gsm8k_reward, accuracy.exact_match_reward])
def test_a_thinking_that_does_not_end_has_no_answer(function):
  for text in ('<answer>5</answer>', r'3 + 2, so \boxed{5}', '#### 5'):
    completion = Completion(text, 1, False)
    assert function(completion, {'answer': '5'}) == 1.0
    assert function(completion, {'answer': '5'}, prompt_opens_think=True) == 0.0
    assert reward(function, f'<think>{text}', '5') == 0.0


PIECES = st.one_of(st.text(), st.sampled_from((
    '<think>', '</think>', '<answer>', '</answer>', r'\boxed{', '}', '{', '####', '\n', ' ', '42',
    '-', '.', ',', '/', '=', '(A)', 'B.', r'\frac', r'\sqrt{2}', '$', '**', '\x00', '\ud800',
    '\u202e', '٤', '９', '99**98**97', '1e999', '9' * 5000, '(' * 200)))
TEXTS = st.lists(PIECES, max_size=12).map(''.join)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(TEXTS, TEXTS | st.sampled_from(('42', r'\sqrt{2}', 'A', 'x = 1')), st.booleans())
def test_pitfall_15_no_text_crashes_a_reward_or_scores_anything_but_0_or_1(text, gold, truncated):
  workers.use_pool(FuzzPool())
  for function in REWARDS:
    assert reward(function, text, gold, truncated=truncated) in (None, 0.0, 1.0)
  key = accuracy.canonical_answer(text, truncated=truncated)
  assert key is None or isinstance(key, str)
