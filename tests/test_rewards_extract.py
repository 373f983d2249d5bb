"""Where the final answer is looked for, and when there is none."""

import pytest

from r1jax.rewards.extract import Answer, extract_answer, final_summary


@pytest.mark.parametrize('text, answer', [
    ('<think>7</think> <answer> 5 </answer>', Answer('5', True)),
    ('7</think><answer>5</answer> trailing 9', Answer('5', True)),
    (r'<answer>It is \boxed{5}.</answer>', Answer('5', True)),
    (r'\boxed{\frac{1}{2}}', Answer(r'\frac{1}{2}', True)),
    (r'\boxed{\left\{1, 2\right.}', Answer(r'\left\{1, 2\right.', True)),
    (r'\boxed{5} so \boxed{ 5 }', Answer('5', True)),
    (r'<think>\boxed{7}</think> \boxed{5}', Answer('5', True)),
    ('He has 3.\n#### 1,234\n', Answer('1,234', True)),
    ('#### 3\n#### 5', Answer('5', True)),
    ('#### Step 2\nIt is 5', Answer('#### Step 2\nIt is 5', False)),
    ('<think>3</think> It is 5 ', Answer('It is 5', False)),
    ('<think>a</think>b</think>c', Answer('c', False)),
    (' It is 5', Answer('It is 5', False)),
])
def test_answer_is_found(text, answer):
  assert extract_answer(text) == answer


@pytest.mark.parametrize('text', [
    '', '  ', '<answer></answer>', '<answer> </answer>', '<answer>5', '5</answer>',
    '</answer>5<answer>', '<answer>5</answer><answer>5</answer>', '<answer><answer>5</answer>',
    r'\boxed{5', r'\boxed{1} wait \boxed{5}', r'<answer>\boxed{1}\boxed{5}</answer>',
    '<think>5</think>', r'\boxed{}'])
def test_pitfall_18_torn_doubled_and_empty_answers_are_none(text):
  assert extract_answer(text) is None


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
