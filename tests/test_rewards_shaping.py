"""Rewards that shape a completion: their formulas, and texts that only seem to earn them."""
import itertools

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.rewards.completion import Completion
from r1jax.rewards.parameters import faults_of, settings_of
from r1jax.rewards.shaping import (
  cosine_length_reward,
  reasoning_steps_reward,
  repetition_reward,
  tag_count_reward,
)

RIGHT, WRONG = '<think>x</think> <answer>5</answer>', '<think>x</think> <answer>6</answer>'


def cosine(text, tokens, **settings):
  truncated = settings.pop('truncated', False)
  return cosine_length_reward(
      Completion(text, tokens, truncated), {'answer': settings.pop('gold', '5')}, **settings)


def test_cosine_length_is_the_published_curve():
  assert cosine(RIGHT, 0) == 1 and cosine(RIGHT, 500) == pytest.approx(0.75)
  assert cosine(RIGHT, 1000) == pytest.approx(0.5) == cosine(RIGHT, 1500)
  assert cosine(WRONG, 0) == -1 and cosine(WRONG, 500) == pytest.approx(-0.75)
  assert cosine(WRONG, 1000) == pytest.approx(-0.5) == cosine(WRONG, 1500)
  assert cosine(RIGHT, 1000, truncated=True) == pytest.approx(-0.5)
  assert cosine('B', 0, gold='B', correct='choice') == 1
  assert cosine('x</think>5', 0, prompt_opens_think=True) == 1
  assert cosine('anything', 5, gold='') is None


@hypothesis.given(st.integers(0, 2000), st.integers(0, 2000))
def test_longer_is_worse_if_right_and_better_if_wrong(one, other):
  short, long = sorted((one, other))
  assert cosine(RIGHT, short) >= cosine(RIGHT, long) > 0 > cosine(WRONG, long) >= cosine(
      WRONG, short)


@pytest.mark.parametrize('reward, given, said', [
    (cosine_length_reward, dict(max_length=0), 'max_length'),
    (cosine_length_reward, dict(min_value_wrong=0.5), 'min_value_wrong'),
    (cosine_length_reward, dict(min_value_correct=2.0), 'min_value_correct'),
    (repetition_reward, dict(ngram_size=0), 'ngram_size'),
    (repetition_reward, dict(max_penalty=1.0), 'max_penalty'),
    (reasoning_steps_reward, dict(steps=0), 'steps')])
def test_settings_out_of_range_are_faults(reward, given, said):
  default = {name: one.default for name, one in settings_of(reward).items()}
  assert not [*faults_of(reward)(default)]
  (fault,) = faults_of(reward)(default | given)
  assert fault.startswith(said)


def test_repetition_is_a_penalty():
  assert repetition_reward(Completion('one two three four', 4, False), {}) == 0
  assert repetition_reward(Completion('no ' * 1000, 1000, False), {}) < -0.99
  assert repetition_reward(Completion('不' * 1000, 1000, False), {}, max_penalty=-0.5) < -0.49
  assert repetition_reward(Completion('a b a b', 4, False), {}, ngram_size=2) == pytest.approx(-1/3)


@pytest.mark.parametrize('text, want', [
    ('<think>x</think> <answer>y</answer>', 1), ('<think>x</think> y', 0.5), ('x', 0), ('', 0),
    ('<think>use <answer>5</answer></think> <answer>y</answer>', 1), ('x</think>', 0.25),
    ('<think>x</think></think> <answer>y</answer>', 0.75), ('</answer><answer>', 0.25),
    ('<think>x</think> <answer>y</answer><answer>z</answer>', 0.5), ('<think>', 0.25),
    ('x <think>x</think> <answer>y</answer>', 0.75), ('<think><think><think>', 0.25),
    ('<think></think><answer></answer>' * 9, 0.75)])
def test_a_tag_counts_where_it_should_stand(text, want):
  assert tag_count_reward(Completion(text, 9, False), {}) == want


def test_a_prompt_may_have_opened_the_chain_of_thought():
  for text, want in (('x</think> <answer>y</answer>', 1), ('<think>x</think> y', 0.25)):
    assert tag_count_reward(Completion(text, 9, False), {}, prompt_opens_think=True) == want


STEPS = '''<think>
Step 1: add two and three to get five.
Step 2: double that to get ten at last.
Finally, we take one away and are done.
</think> <answer>9</answer>'''


@pytest.mark.parametrize('text, want', [
    (STEPS, 1), ('First, we add the two. Then, we take three away.</think>', 2 / 3),
    ('1. we add two\n2) we take three\n- we are all done</think>', 1),
    ('首先把两数相加。然后减去三。最后得到答案。</think>', 1),
    ('Step 1: ' * 50 + '</think>', 0), ('Step 1: add all numbers.\n' * 50 + '</think>', 1 / 3),
    ('First, Second, Next, Finally,</think>', 0), ('1. a\n2. a a a\n3. b b b</think>', 0),
    ('1.5 is more than 1.2 and 3.4 less than that', 0), ('</think>' + STEPS[8:-32], 0)])
def test_a_step_says_something_new(text, want):
  assert reasoning_steps_reward(Completion(text, 9, False), {}) == pytest.approx(want)


# What a policy could write for the reward alone: at least a hundred texts for each.

TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def test_no_other_order_of_tags_counts_in_full():
  orders = [order for length in range(5) for order in itertools.product(TAGS, repeat=length)]
  full = [order for order in orders
          if tag_count_reward(Completion(' x '.join(order), 9, False), {}) == 1]
  assert len(orders) == 341 and full == [TAGS]


def test_no_list_of_markers_without_thoughts_counts_as_steps():
  markers = ('Step {}: ', '{}. ', '{}) ', '- ', '* ', 'First, ', 'Finally, ', '首先', '然后',
             '### Step {}')
  fillers = ('', 'x', 'so', 'ok ok ok ok', '7', '1 2 3 4', '...', 'go go', '好',
             '\u200b\u200b \u200b')
  for marker, filler in itertools.product(markers, fillers):
    chain = '\n'.join(marker.format(n) + filler for n in range(1, 30))
    assert reasoning_steps_reward(Completion(f'<think>{chain}</think>', 9, False), {}) == 0, chain


def test_no_repeated_phrase_escapes_the_penalty():
  phrases = ('a', 'so', 'wait, no', 'the answer is', '答案是', '5', '!', 'a b c d e f g')
  joins = ('', ' ', '\n', ', ', ' \t ', '\u200b ', ' - ')
  for phrase, join, upper in itertools.product(phrases, joins, (False, True)):
    text = join.join((phrase.upper() if upper and n % 2 else phrase) for n in range(400))
    if len(text.split()) > 1 or not text.isascii() or not text.isalnum():
      assert repetition_reward(Completion(text, 9, False), {}) < -0.9, text[:40]


def test_no_length_makes_a_wrong_answer_good():
  answers = ('6', '5 or 6', '5!', 'not 5', '', '3 + 2', '5 thousand', '<answer>5', '5x', '[5, 6]')
  for answer, tokens, cut in itertools.product(answers, (0, 1, 9, 500, 10**9), (False, True)):
    text = f'<think>5</think> <answer>{answer}</answer>'
    assert cosine(text, tokens, truncated=cut) <= -0.5
