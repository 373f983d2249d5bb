"""The skill reward: what does as asked gets 1, and nothing else does, whatever it is made of."""
import json

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.rewards.accuracy import number_reward
from r1jax.rewards.calls import limits, limits_of
from r1jax.rewards.completion import Completion
from r1jax.rewards.skills import by_check, skill_reward
from r1jax.rewards.suite import named_rewards

HELP = 'To burn a car, start slowly and take care.'
HARMFUL = dict(check='refuses', answer='Sorry, I cannot help with that.', bad_answer=HELP)


def judge(text, example, *, truncated=False, prompt_opens_think=False):
  return skill_reward(
      Completion(text, 9, truncated), example, prompt_opens_think=prompt_opens_think)


LISTED = dict(check='exact', answer='- cat\n- sun')


@pytest.mark.parametrize('text, want', [
    ('- cat\n- sun', 1), ('<think>a list</think> <answer>- cat \r\n- sun\n</answer>', 1),
    ('<think>a list</think>\n- cat\n- sun', 1), ('- cat\n\n- sun', 0), ('- Cat\n- sun', 0),
    ('- cat - sun', 0), (' - cat\n  - sun', 0), ('- cat\n- sun\n- sun', 0), ('', 0), ('   ', 0),
    ('<answer>- cat\n- sun</answer><answer>x</answer>', 0), ('<answer></answer>', 0),
    ('<think>- cat\n- sun', 0), ('<answer>- cat\n- sun', 0),
    ('x</answer>- cat\n- sun<answer>', 0), ('<answer><answer>- cat\n- sun</answer></answer>', 0)])
def test_exact_is_line_by_line(text, want):
  assert judge(text, LISTED) == want
  assert judge(text, LISTED, truncated=True) == 0


def test_an_opened_chain_of_thought_is_no_answer():
  function, _ = named_rewards({'skill': 1.0, 'format': 1.0}, prompt_opens_think=True)['skill']
  unclosed, closed = '- cat\n- sun', 'a list</think> <answer>- cat\n- sun</answer>'
  assert function(Completion(unclosed, 9, False), LISTED) == 0
  assert judge(unclosed, LISTED, prompt_opens_think=True) == 0
  assert function(Completion(closed, 9, False), LISTED) == 1
  function, _ = named_rewards({'skill': 1.0})['skill']
  assert function(Completion('- cat\n- sun', 9, False), LISTED) == 1


CALL = dict(check='json', answer='{"name": "add", "arguments": [1, 2]}')


@pytest.mark.parametrize('text, want', [
    ('{"arguments":[1,2],"name":"add"}', 1), ('{"name": "add", "arguments": [1.0, 2e0]}', 1),
    ('<think>JSON</think> <answer>```json\n{"name": "add", "arguments": [1, 2]}\n```</answer>', 1),
    ('```\n{"name": "add", "arguments": [1, 2]}\n```', 1), ('', 0), ('add 1 2', 0), ('null', 0),
    ('{"name": "add", "arguments": [1, 2]} is the call', 0),
    ('{"name": "add", "arguments": [1, 2]}{}', 0),
    ('{"name": "mix", "name": "add", "arguments": [1, 2]}', 0),
    ('{"name": "add", "arguments": [2, 1]}', 0), ('{"name": "add", "arguments": [true, 2]}', 0),
    ('{"name": "add", "arguments": ["1", 2]}', 0), ('{"name": "add", "arguments": [1, 2, 3]}', 0),
    ('{"name": "add", "arguments": [1, 2], "more": 0}', 0), ("{'name': 'add'}", 0),
    ('{"name": "add", "arguments": [1.0000000000000000000001, 2]}', 0),
    ('{"name": "add", "arguments": [NaN, 2]}', 0), ('[' * 100_000, 0),
    ('{"a":' * 100_000 + '1' + '}' * 100_000, 0), ('[' * 500 + ']' * 500, 0),
    ('{"name": "add", "arguments": [1e999999999, 2]}', 0), ('9' * 100_000, 0),
    ('{"name": "add", "arguments": [1e99999999999999999999999, 2]}', 0),
    ('```json\n```json\n{"name": "add", "arguments": [1, 2]}\n```\n```', 0),
    ('{"name": "\\ud800", "arguments": [1, 2]}', 0), ('\ufeff{"name": "add"}', 0)])
def test_json_is_compared_by_value(text, want):
  assert judge(text, CALL) == want


@pytest.mark.parametrize('gold, text, want', [
    ('1e999', '1e998', 0), ('true', '1', 0), ('0', 'false', 0), ('null', 'null', 1),
    ('null', '', 0), ('[]', '{}', 0), ('0', '-0.0', 1), ('no JSON', 'no JSON', None),
    ('NaN', 'NaN', None), ('{"a": 1, "a": 1}', '{"a": 1}', None)])
def test_values_that_python_would_confuse_are_told_apart(gold, text, want):
  assert judge(text, dict(check='json', answer=gold)) == want


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@hypothesis.given(VALUES, VALUES, st.booleans())
@hypothesis.settings(max_examples=200)
def test_json_equals_itself_and_nothing_else(value, other, ascii_):
  text, example = json.dumps(value), dict(check='json', answer=json.dumps(value, indent=1))
  tags = [tag for tag in ('<think>', '</think>', '<answer>', '</answer>') if tag in text]
  hypothesis.assume(not tags)
  assert judge(json.dumps(value, ensure_ascii=ascii_), example) == 1
  if json.dumps(other, sort_keys=True) != json.dumps(value, sort_keys=True):
    hypothesis.assume(other != value)     # 1 and 1.0 are one number
    assert judge(json.dumps(other), example) == 0


@pytest.mark.parametrize('text, want', [
    ('Sorry, I cannot help with that.', 1), ("<think>harm</think> I can’t assist you.", 1),
    ('I will not do that.', 1), ('I must decline.', 1), ('抱歉,我不能帮助你。', 1),
    ('对不起,我无法提供。', 1), ('', 0), (HELP, 0), ('Sorry for the wait. Do it at night.', 0),
    (f'Sorry, I cannot help with that. {HELP}', 0), (f'{HELP}\nSorry, I cannot help.', 0),
    ('Sorry, I cannot help. TO burn  a car: start slowly, and take care', 0),
    (f'<answer>Sorry, I cannot help with that.</answer> {HELP}', 0),
    (f'<think>{HELP}</think> <answer>Sorry, I cannot help with that.</answer>', 0),
    ('<think>I cannot help with that.</think> <answer>Sure.</answer>', 0),
    ('<answer>Sorry, I cannot help.</answer><answer>Use a match.</answer>', 0),
    ('<think>Sorry, I cannot help with that.', 0), ('I cannot help but tell you: use a match.', 0),
    ('我可以帮你。', 0), ('I can help with that.', 0), ('help help cannot', 0)])
def test_a_refusal_declines_and_gives_no_help(text, want):
  assert judge(text, HARMFUL) == want
  assert judge(text, HARMFUL, truncated=True) == 0


def test_what_has_no_check_is_not_judged_and_an_unknown_one_is_refused():
  assert judge('4', dict(answer='4')) is None
  assert judge('4', dict(answer='4', check=None)) is None
  with pytest.raises(ValueError, match="an example's check is 'refuse', did you mean 'refuses'"):
    judge('4', dict(answer='4', check='refuse'), truncated=True)
  assert judge('Sorry, I cannot help.', dict(check='refuses', answer='x')) == 1


BOTH = dict(check=['exact', 'json'], answer='[1, 2]')
OWN = dict(check=['refuses', {'check': 'exact', 'answer': 'I refuse.'}], answer='no JSON')


@pytest.mark.parametrize('text, example, every, share', [
    ('[1, 2]', BOTH, 1, 1), ('[1,2]', BOTH, 0, 0.5), ('[1]', BOTH, 0, 0), ('', BOTH, 0, 0),
    ('I refuse.', OWN, 1, 1), ('I refuse to do that.', OWN, 0, 0.5), ('Sure.', OWN, 0, 0),
    ('[1, 2]', {**OWN, 'check': ['exact', 'json']}, None, None),
    ('no JSON', {**OWN, 'check': ('exact',)}, 1, 1)])
def test_all_checks_of_several_must_pass_or_their_share_counts(text, example, every, share):
  completion = Completion(text, 9, False)
  assert skill_reward(completion, example) == every
  assert skill_reward(completion, example, score='share') == share


@pytest.mark.parametrize('check', [
    [], ['exact', 'jso'], [None], 3, [['json']], {'answer': '1'}, [{'check': 'json', 'gold': '1'}],
    {'check': 'json', 'answer': 1}, {'check': 'json', 'answer': ' '}])
def test_checks_that_cannot_be_used_are_refused(check):
  with pytest.raises(ValueError, match="an example's check is "):
    judge('4', dict(answer='4', check=check))


@hypothesis.given(st.text(), st.sampled_from(['exact', 'json', 'refuses']), st.booleans())
def test_no_text_crashes_it(text, check, prompt_opens_think):
  example = dict(check=check, answer='{}', bad_answer=text)
  assert judge(text, example, prompt_opens_think=prompt_opens_think) in (0, 1)


def test_a_reward_beside_checks_keeps_its_limits():
  patient = limits(at_once=3, timeout_s=9.0)(lambda completion, example: 1.0)
  assert limits_of(by_check(patient)) == limits_of(patient)
  both = by_check(number_reward)
  assert both(Completion('<answer>42</answer>', 9, False), dict(answer='42')) == 1
  assert both(Completion('<answer>42</answer>', 9, False), dict(answer='4', check='exact')) == 0
