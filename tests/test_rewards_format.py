"""The format reward is anchored at both ends."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import pytest

from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward, think_only_reward
from r1jax.rewards.invisible import is_blank

GOOD = '<think>reasons</think> <answer>42</answer>'
TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def reward(text, *, prompt_opens_think=False, truncated=False):
  return format_reward(Completion(text, 1, truncated), {}, prompt_opens_think=prompt_opens_think)


@pytest.mark.parametrize('text', [
    GOOD, ' ' + GOOD, GOOD + '\n', '<think>a\nb</think><answer>c\nd</answer>',
    '<think>a</think>\n\n<answer>b</answer>', '<think>1 < 2 </ think></think> <answer>b</answer>',
    '<think>I must put it in <answer> tags.</think> <answer>5</answer>',
    '<think>It looks like <answer>7</answer>, or not?</think> <answer>5</answer>',
    '<think>The </answer> tag ends it. <answer></think> <answer>5</answer>',
    '<think>I use `<think>` and <think> and `<answer>` here.</think> <answer>5</answer>',
    '<think>...</think> <answer>∅</answer>', '<think>想</think><answer>５</answer>',
    '<think>e\u0301</think> <answer>\u0661</answer>',
    '<think>\u200ba</think> <answer>👍\ufe0f</answer>', '<think>&amp;</think> <answer><</answer>'])
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
    GOOD.upper(), '<think>a<think>b</think> <answer>c</answer>', '<think></think>' + GOOD,
    '<think> <think>a</think> <answer>b</answer>', '<think>a\n<think>b</think> <answer>c</answer>',
    '<think>a</think> b</think> <answer>c</answer>', GOOD + '\u200b', GOOD + 'x', GOOD + '<b>',
    '<think>a</think>\u200b<answer>b</answer>', '\ufeff' + GOOD, GOOD + '\u00a0\u00a0',
    '<think>a</think> <answer><answer>b</answer></answer>', '<think>a</think> <answer>',
    '<think>a</think> <answer>b</answer></think>', '<think>a</think> <answer>b <think></answer>',
    '<think>a</think> <answer>b</think></answer>', '<think>a</think></answer><answer>',
    '<think>a</think> <answer>b</answer> so <answer>c</answer>', '<think>a</think> <answer/>',
    '<think >a</think> <answer>b</answer>', '<think>a</think> <answer>b</answer\n>',
    '<think>a <answer>b</answer>', '<think>a</think> `<answer>b</answer>`', '<think>' + GOOD[7:-9],
    '<think>a</think> <answer></answer>b', 'x' + GOOD, '```\n' + GOOD + '\n```', GOOD * 3,
    '<think>a</think>:<answer>b</answer>', '<think>a</think> <answer>b</answer>\n<think>c'])
def test_pitfall_18_nothing_else_is(text):
  assert reward(text) == 0.0


@pytest.mark.parametrize('nothing', [
    '', ' ', '\n\t', '\u200b', '\ufeff', '\u2060', '\ufe0f', '\u3164', '\u00a0\u3000', '\u00ad',
    '\u200e', '\u202e\u202c', '\u115f', '\uffa0', '\u2800', '\u180e', '\u180b', '\u034f', '\x00',
    '\U000e0041', '\x7f', '\u2028', '\ud800', '\ue000', '\U000e0100', '&nbsp;', '\u2061', '\ufff9',
    '&#8203; &ZeroWidthSpace;', '\u061c', '\u17b4', '\u200b ' * 500])
def test_what_nobody_sees_is_empty(nothing):
  assert reward(f'<think>{nothing}</think> <answer>5</answer>') == 0
  assert reward(f'<think>a</think> <answer>{nothing}</answer>') == 0
  assert reward(f'<think>{nothing}a</think> <answer>5{nothing}</answer>') == 1


def test_a_truncated_completion_gets_nothing():
  assert reward(GOOD, truncated=True) == 0.0


def test_an_opening_that_the_prompt_gave_is_put_back():
  for text in (GOOD, GOOD.removeprefix('<think>'), '</think> <answer>42</answer>', ''):
    assert reward(text, prompt_opens_think=True) == reward('<think>' + text)
  assert reward(GOOD.removeprefix('<think>'), prompt_opens_think=True) == 1.0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(), st.text(), st.lists(st.sampled_from(TAGS + (' ', 'x', '\n')), min_size=1))
def test_pitfall_18_junk_around_the_blocks_is_never_rewarded(reasoning, answer, pieces):
  assume(not is_blank(reasoning) and not is_blank(answer))
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
    rest = text.removeprefix(' ').removesuffix(' ')
    if rest.count('</think>') != 1 or not rest.startswith('<think>'):
      return False
    reasoning, rest = rest[len('<think>'):].split('</think>')
    if not reasoning.strip() or reasoning.lstrip().startswith('<think>'):
      return False
    if any(before and before[-1] == 'x' for before in reasoning.split('<think>')[:-1]):
      return False
    rest = rest.lstrip()
    if not rest.startswith('<answer>') or not rest.endswith('</answer>'):
      return False
    answer = rest[len('<answer>'):-len('</answer>')]
    return bool(answer.strip()) and not any(tag in answer for tag in TAGS)
  assert reward(text) == by_hand()


@pytest.mark.parametrize('text, want', [
    ('<think>a</think> b', 1), ('<think>a</think>b\n', 1), ('<think>so <answer>!</think>\n\nb', 1),
    ('<think>a</think>', 0), ('<think>a</think> \u200b', 0), ('<think>\u200b</think> b', 0),
    ('b', 0), ('<think>a', 0), (GOOD, 0), ('<think>a</think> b </think>', 0), ('a</think> b', 0),
    ('<think>a</think> <think>b</think> c', 0), ('x <think>a</think> b', 0), ('', 0)])
def test_thinking_before_a_plain_answer(text, want):
  assert think_only_reward(Completion(text, 1, False), {}) == want
  assert think_only_reward(Completion(text, 1, True), {}) == 0
  inside = Completion(text.removeprefix('<think>'), 1, False)
  if text.startswith('<think>'):
    assert think_only_reward(inside, {}, prompt_opens_think=True) == want
