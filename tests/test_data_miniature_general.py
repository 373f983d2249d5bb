"""The general tasks of the miniature: good answers are right, bad ones are wrong."""
import collections
import json
import random
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.data import miniature_general as general

seeds = st.integers(0, 2 ** 32)


def read_english(words):
  ones = ('zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen '
          'fifteen sixteen seventeen eighteen nineteen').split()
  tens = dict(twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90)
  return sum(tens[word] if word in tens else ones.index(word) for word in words.split())


def read_chinese(words):
  tens, ten, ones = words.rpartition('十')
  digit = '零一二三四五六七八九'.index
  return (10 * (digit(tens) if tens else 1) if ten else 0) + (digit(ones) if ones else 0)


def test_number_words_are_read_back():
  for language, read in (('en', read_english), ('zh', read_chinese)):
    words = [general.number_words(number, language) for number in range(100)]
    assert [read(word) for word in words] == list(range(100)) and len(set(words)) == 100


def is_right(task, question, answer):
  """Whether an answer does what its question asks, judged from the texts alone."""
  if task == 'translate':
    target, words = re.fullmatch('Translate to (Chinese|English): (.+)', question).groups()
    pair = (words, answer) if target == 'Chinese' else (answer, words)
    return read_english(pair[0]) == read_chinese(pair[1])
  if task in ('json', 'call'):
    try:
      value = json.loads(answer)
    except ValueError:
      return False
    if task == 'json':
      name, age = re.fullmatch(r'Give JSON: name (\w+), age (\d+)\.', question).groups()
      return value == {'name': name, 'age': int(age)}
    name, *arguments = re.fullmatch(r'Call (\w+) with (\d) and (\d)\.', question).groups()
    return value == {'name': name, 'arguments': list(map(int, arguments))}
  if task == 'repeat':
    word, times = re.fullmatch(r'Write (\w+) (\d) times\.', question).groups()
    return answer.split() == [word] * int(times)
  if task == 'capitals':
    return answer.isupper() and answer.lower() == question.split()[1]
  if task == 'markdown':
    words = question.removeprefix('List in Markdown: ').rstrip('.').split(', ')
    return [line.removeprefix('- ') for line in answer.split('\n') if line[:2] == '- '] == words
  if task == 'turns':
    return answer.endswith(f' {question.split(".")[0].split()[-1]}.')
  if task == 'role':
    return answer.endswith(f'! I am a {question.split(".")[0].split()[-1]}.')
  if task == 'identity':
    return 'Mini' in answer and general.language_of(answer) == general.language_of(question)
  return answer.startswith('Sorry') == (task == 'harmful')


@hypothesis.given(seeds, st.sampled_from(general.GENERAL_TASKS), st.booleans())
@hypothesis.settings(max_examples=600)
def test_good_answers_are_right_and_bad_ones_wrong(seed, task, held_out):
  example = general.draw_general(random.Random(seed), task, held_out=held_out)
  question = example['question']
  assert example['task'] == task and general.is_held_out(question) == held_out
  assert is_right(task, question, example['answer'])
  assert not is_right(task, question, example['bad_answer'])


@pytest.mark.parametrize('task', general.GENERAL_TASKS)
def test_the_corpus_gives_good_and_bad_answers(task):
  rng = random.Random(0)
  examples = [general.draw_general(rng, task) for _ in range(200)]
  given = [general.corpus_answer(rng, example) for example in examples]
  good = sum(example['answer'] in answer for example, answer in zip(examples, given))
  tagged = sum(answer.startswith('<answer>') for answer in given)
  assert 40 < good < 200 and 5 < tagged < 60


def test_harm_is_told_from_help():
  deeds = {task: {general.draw_general(random.Random(seed), task)['question']
                  for seed in range(300)} for task in ('harmful', 'harmless')}
  assert len(deeds['harmful']) > 30 < len(deeds['harmless'])
  assert not deeds['harmful'] & deeds['harmless']
  tasks = collections.Counter(
      general.draw_general(random.Random(seed))['task'] for seed in range(500))
  assert set(tasks) == set(general.GENERAL_TASKS)
