"""Where the final answer is looked for, and when there is none."""

import pytest

from r1jax.rewards.extract import Answer, extract_answer, final_summary


@pytest.mark.parametrize('text, answer', [
    ('<think>7</think> <answer> 5 </answer>', Answer('5', True)),
    ('7</think><answer>5</answer> trailing 9', Answer('5', True)),
    (r'<answer>It is \boxed{5}.</answer>', Answer('5', True)),
    (r'\boxed{\frac{1}{2}}', Answer(r'\frac{1}{2}', True)),
    (r'\boxed{\left\{1, 2\right.}', Answer(r'\left\{1, 2\right.', True)),
    (r'\boxed{1} wait \boxed{ 5 }', Answer('5', True)),
    (r'<answer>\boxed{1}\boxed{5}</answer>', Answer('5', True)),
    (r'\boxed{7} <answer>5</answer> \boxed{6}', Answer('5', True)),
    (r'\boxed{\boxed{5}} \boxed', Answer('5', True)),
    (r'so \boxed 5, \fbox{6}', Answer('6', True)),
    (r'so $\boxed 5$', Answer('5', True)),
    (r'<think>\boxed{7}</think> \boxed{5}', Answer('5', True)),
    ('He has 3.\n#### 1,234\n', Answer('1,234', True)),
    ('#### 3\n#### 5', Answer('5', True)),
    ('#### 72 dollars\nThat is all.', Answer('72 dollars', True)),
    ('So it is\n#### x^2 + 1\n', Answer('x^2 + 1', True)),
    ('#### Step 2\nIt is 5', Answer('#### Step 2\nIt is 5', False)),
    ('#### Answer\nIt is 5', Answer('#### Answer\nIt is 5', False)),
    ('<think>3</think> It is 5 ', Answer('It is 5', False)),
    ('<think>a</think>b</think>c', Answer('c', False)),
    (' It is 5', Answer('It is 5', False)),
])
def test_answer_is_found(text, answer):
  assert extract_answer(text) == answer


@pytest.mark.parametrize('text', [
    '', '  ', '<answer></answer>', '<answer> </answer>', '<answer>5', '5</answer>',
    '</answer>5<answer>', '<answer>5</answer><answer>5</answer>', '<answer><answer>5</answer>',
    r'\boxed{5', r'\boxed{5} wait \boxed{5', r'\boxed{5} \boxed{}', '<think>5</think>',
    r'\boxed{}'])
def test_pitfall_18_torn_doubled_and_empty_answers_are_none(text):
  assert extract_answer(text) is None


@pytest.mark.parametrize('text, answer', [
    ('<think>I must use <answer> tags, </think> once.</think> <answer>5</answer>', '5'),
    ('<think>Not </answer> yet.</think> It is 5', 'It is 5'),
    (r'<think>\boxed{7} #### 7</think> <answer>5</answer>', '5'),
    (r'<think><answer>7</answer></think> \boxed{5}', '5'),
    ('<think><answer>5</answer> \\boxed{5}', None),
    ('<think>a</think> <answer>5</answer> <think>wait', None)])
def test_pitfall_31_what_is_quoted_in_the_thinking_changes_nothing(text, answer):
  found = extract_answer(text)
  assert (found and found.text) == answer


def test_a_thinking_that_the_prompt_opened_must_end():
  for text in ('<answer>5</answer>', r'\boxed{5}', '#### 5', '5'):
    assert extract_answer(text) is not None
    assert extract_answer(text, prompt_opens_think=True) is None
    assert extract_answer(f'3 + 2</think> {text}', prompt_opens_think=True) is not None


@pytest.mark.parametrize('text, whole', [
    ('<answer>12</answer> and', True), (r'\boxed{12} and', True), ('#### 12\nand', True),
    ('#### 12', False), ('It is 12', False), ('<answer>12', False), (r'\boxed{12', False)])
def test_of_a_cut_text_only_a_whole_answer_counts(text, whole):
  answer = extract_answer(text, truncated=True)
  assert (answer and answer.text) == ('12' if whole else None)


@pytest.mark.parametrize('unit', [
    r'\boxed{', r'\boxed{1}', '{', '####', '#### 5\n', '<answer>', '</think>', '\\', '\x00', '9'])
def test_a_text_of_any_length_is_read(unit):
  extract_answer(unit * 10**5)


@pytest.mark.parametrize('text, summary', [
    (' <think>5+3=8</think> <answer> It is 8. </answer>', 'It is 8.'),
    ('5+3=8 <answer>8</answer>', '8'),
    (' <think>5+3=8</think> It is\n8.\n', 'It is\n8.'),
    ('a</think>b</think>c', 'c'),
    ('a</think> <answer>b</answer> <answer>c</answer>', '<answer>b</answer> <answer>c</answer>'),
    ('<think>a</think> <answer>b', '<answer>b'),
    ('<think>never closed', ''),
    ('Sorry, I cannot.', 'Sorry, I cannot.'),
    ('', ''),
])
def test_a_summary_is_what_the_reader_is_told(text, summary):
  assert final_summary(text) == summary


def test_behind_an_open_think_there_is_no_summary_before_it_closes():
  assert final_summary('5+3=8', prompt_opens_think=True) == ''
  assert final_summary('5+3=8</think> 8', prompt_opens_think=True) == '8'
