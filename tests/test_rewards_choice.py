"""Choices in their usual forms, and nothing hedged."""

import pytest

from r1jax.rewards.choice import choice_reward
from r1jax.rewards.completion import Completion


def reward(text, gold):
  return choice_reward(Completion(text, 1, False), {'answer': gold})


@pytest.mark.parametrize('text', [
    'B', '(B)', 'B.', '**B**', 'b', '<answer>B</answer>', r'\boxed{B}', '<answer>B. a dog</answer>',
    '<answer>(B) A dog</answer>', '<answer>**B.** Vitamin C</answer>', '<answer>[B]</answer>',
    'The answer is B.', 'A cat is no dog.\nAnswer: **B**', 'It is (B) since A cat is none.',
    '<think>A</think>\nB'])
def test_pitfall_16_a_choice_is_read(text):
  assert reward(text, 'B') == 1.0


@pytest.mark.parametrize('text', [
    '', 'A', '<answer>B or A</answer>', '<answer>A, B</answer>', '<answer>B. or C</answer>',
    '<answer>B. C</answer>', '<answer>B. (A)</answer>', '<answer>BA</answer>',
    '<answer>Bees buzz</answer>', '<answer>The dog</answer>', '<answer>A. Vitamin B</answer>',
    'The answer is A. B is wrong', '<answer>B</answer><answer>B</answer>',
    '<answer>' + 'B. ' * 10**5 + '</answer>'], ids=lambda text: text[:30])
def test_no_choice_and_other_choices_are_wrong(text):
  assert reward(text, 'B') == 0.0


def test_option_text_is_not_the_choice_a():
  for text in ('<answer>A cat</answer>', 'The answer is A cat', 'A cat'):
    assert reward(text, 'A') == 0.0


@pytest.mark.parametrize('gold', ['', 'Monday', 'ten apples', '9' * 400, '}{', 'x' * 301, '\x00'])
def test_a_gold_that_is_no_choice_is_not_judged(gold):
  assert reward('<answer>A</answer>', gold) is None
