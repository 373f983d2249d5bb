"""The format reward is anchored at both ends."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import pytest

from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward

GOOD = '<think>reasons</think> <answer>42</answer>'
TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def reward(text, *, prompt_opens_think=False, truncated=False):
  return format_reward(Completion(text, 1, truncated), {}, prompt_opens_think=prompt_opens_think)


@pytest.mark.parametrize('text', [
    GOOD, ' ' + GOOD, GOOD + '\n', '<think>a\nb</think><answer>c\nd</answer>',
    '<think>a</think>\n\n<answer>b</answer>', '<think>1 < 2 </ think></think> <answer>b</answer>'])
def test_the_template_is_rewarded(text):
  assert reward(text) == 1.0


@pytest.mark.parametrize('text', [
    '', '42', '<answer>42</answer>', '<think>reasons</think>', '<think>a</think> b',
    '<think></think> <answer>b</answer>', '<think> \n</think> <answer>b</answer>',
    '<think>a</think> <answer> </answer>', '<think>a</think> so <answer>b</answer>',
    '<answer>b</answer> <think>a</think>', '<think>a <answer>b</answer></think>',
    '<think>a</think> <answer>b', 'a</think> <answer>b</answer>', GOOD + GOOD,
    '<think>a</think> <think>a</think> <answer>b</answer>', '<think>' + GOOD, GOOD + '</answer>',
    '<think>a</think> <answer>b</answer> <answer>b</answer>', '  ' + GOOD, GOOD + '\n\n',
    GOOD.upper()])
def test_pitfall_18_nothing_else_is(text):
  assert reward(text) == 0.0


def test_a_truncated_completion_gets_nothing():
  assert reward(GOOD, truncated=True) == 0.0


def test_an_opening_that_the_prompt_gave_is_put_back():
  for text in (GOOD, GOOD.removeprefix('<think>'), '</think> <answer>42</answer>', ''):
    assert reward(text, prompt_opens_think=True) == reward('<think>' + text)
  assert reward(GOOD.removeprefix('<think>'), prompt_opens_think=True) == 1.0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(), st.text(), st.lists(st.sampled_from(TAGS + (' ', 'x', '\n')), min_size=1))
def test_pitfall_18_junk_around_the_blocks_is_never_rewarded(reasoning, answer, pieces):
  assume(reasoning.strip() and answer.strip())
  assume(not any(tag in reasoning + answer for tag in TAGS))
  text = f'<think>{reasoning}</think> <answer>{answer}</answer>'
  assert reward(text) == 1.0
  junk = ''.join(pieces)
  if junk.strip():
    assert reward(text + junk) == reward(junk + text) == 0.0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(TAGS + (' ', 'x')), max_size=10).map(''.join))
def test_equals_a_reading_by_hand(text):
  def by_hand():
    rest = text.removeprefix(' ')
    for tag in TAGS:
      if rest.count(tag) != 1:
        return False
    before, rest = rest.split('<think>')
    if before or '</think>' not in rest:
      return False
    reasoning, rest = rest.split('</think>')
    if not reasoning.strip() or '<answer>' in reasoning or '</answer>' in reasoning:
      return False
    between, rest = rest.split('<answer>') if '<answer>' in rest else ('x', '')
    if between.strip() or '</answer>' not in rest:
      return False
    answer, after = rest.split('</answer>')
    return bool(answer.strip()) and after in ('', ' ')
  assert reward(text) == by_hand()
