"""The readable pattern: what is rewritten keeps its answer and its rewards."""
import dataclasses

import pytest

from r1jax.data import jsonl, readable
from r1jax.data.curation import Sample
from r1jax.data.readable import rewrite
from r1jax.rewards.accuracy import canonical_answer, number_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.format import format_reward

ENGLISH = ('Ann has 3 boxes of 4 pencils, so she has 3 × 4 = 12 pencils. She gives 5 to her '
           'brother, hence 12 − 5 = 7 are left.')
CHINESE = '安有3盒铅笔，每盒4支，所以她有 3 × 4 = 12 支。她给弟弟5支，因此还剩 12 − 5 = 7 支。'
GERMAN = ('Anna hat 3 Schachteln mit je 4 Stiften, also 3 × 4 = 12 Stifte. Sie gibt ihrem Bruder '
          '5, folglich bleiben 12 − 5 = 7 übrig.')
QUESTION = 'Ann has three boxes with four pencils each and gives five away. How many are left?'


def sample(reasoning=ENGLISH, answer='7', **fields):
  fields = dict(question=QUESTION, reasoning_tokens=20) | fields
  return Sample(completion=f' <think>{reasoning}</think> <answer>{answer}</answer>', **fields)


@pytest.mark.parametrize('reasoning, summary', [
    (ENGLISH, r'The answer is \boxed{7}.'), (CHINESE, r'答案是\boxed{7}。'),
    (GERMAN, r'Die Antwort ist \boxed{7}.'), ('12 − 5 = 7', r'The answer is \boxed{7}.')])
def test_a_sample_is_rewritten_with_a_summary_that_is_still_right(reasoning, summary):
  given = sample(f'\n{reasoning}\n\n\n \nSo 7.\n')
  got = rewrite(given)
  assert got == dataclasses.replace(
      given, completion=f' <think>{reasoning}\n\nSo 7.</think> <answer>{summary}</answer>')
  completion = Completion(got.text, 9, False)
  assert number_reward(completion, {'answer': '7'}) == format_reward(completion, {}) == 1
  assert number_reward(completion, {'answer': '8'}) == 0
  assert rewrite(got).completion == got.completion


@pytest.mark.parametrize('completion, prompt_opens_think, answer', [
    ('3 × 4 = 12, 12 − 5 = 7. So it is 7.', False, '7'),
    ('<think>3 × 4 = 12</think> It is $1,234.50', False, '1,234.50'),
    (r'so </think> <answer>\frac{1}{2}</answer>', True, r'\frac{1}{2}'),
    (r'so \boxed{(B)}', False, '(B)'), ('so\n#### 42', False, '42')])
def test_answers_of_every_form_are_put_into_the_box(completion, prompt_opens_think, answer):
  given = Sample('q', completion, prompt_opens_think=prompt_opens_think)
  got = rewrite(given)
  assert got.completion.startswith('<think>') != prompt_opens_think
  assert got.completion.endswith(rf'</think> <answer>The answer is \boxed{{{answer}}}.</answer>')
  assert canonical_answer(got.text) == canonical_answer(given.text)


@pytest.mark.parametrize('completion', [
    '', 'no number', '<answer>7</answer>', '<think></think><answer>7</answer>',
    '<think>so</think><answer>}{</answer>', '<think>so</think><answer>7</answer><answer>8</answer>',
    '<think>a<think>b</think><answer>7</answer>', r'<think>so</think><answer>\boxed{7</answer>'])
def test_what_cannot_be_rewritten_is_told(completion):
  assert rewrite(Sample('q', completion)) is None


def test_what_a_model_wrote_is_text_and_nothing_else():
  given = sample(answer='{0.__class__} %s {}')
  assert r'\boxed{{0.__class__} %s {}}' in rewrite(given).completion


def test_ones_own_data_take_the_same_pattern(tmp_path):
  path = tmp_path / 'own.jsonl'
  path.write_text('{"prompt": "p", "reasoning": " so\\n\\n\\nthus ", "summary": "It is 7. "}\n')
  row, = jsonl.reasoning_source(path)
  assert row == {'question': 'p', 'reasoning': ' so\n\n\nthus ', 'summary': 'It is 7. '}
  texts = row['reasoning'], row['summary']
  tail = 'so\n\nthus</think> <answer>It is 7.</answer>'
  for prompt, opens, head in (('User: p\nAssistant:', False, ' <think>'), ('', False, '<think>'),
                               ('assistant\n', False, '<think>'), ('A: <think>', True, '')):
    assert readable.readable_completion(
        *texts, prompt=prompt, prompt_opens_think=opens) == head + tail
