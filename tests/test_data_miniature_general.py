"""The general tasks of the miniature: good answers are right, bad ones are wrong."""
import collections
import hashlib
import json
import random
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.data import miniature
from r1jax.data import miniature_general as general
from r1jax.rewards.completion import Completion
from r1jax.rewards.language import consistency
from r1jax.rewards.skills import skill_reward

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


def test_the_corpus_of_the_shipped_base_is_what_it_was():
  """The base was trained on it: what is drawn, and in which order, must never change."""
  documents = repr(miniature.corpus(0, 0, 2000)).encode()
  assert hashlib.sha256(documents).hexdigest() == (
      'c4a87cb5cf8018d1cd54dcb6a756d0775033c0362fee9cf22ec2894e739bc454')


@pytest.mark.parametrize('held_out', [False, True])
@pytest.mark.parametrize('task', general.GENERAL_TASKS)
def test_an_example_says_how_it_is_judged_and_thought_about(task, held_out):
  languages = set()
  for seed in range(40):
    example = general.draw_general(random.Random(seed), task, held_out=held_out)
    chain = f'<think>{example["reasoning"]}</think>'
    good, bad = (f'{chain} <answer>{example[field]}</answer>' for field in ('answer', 'bad_answer'))
    verdicts = [skill_reward(Completion(text, 9, False), example)
                for text in (good, example['answer'], bad)]
    assert verdicts == [1, 1, 0]
    assert consistency(example['reasoning'], example['language']) == 1
    languages.add(example['language'])
  assert example['objective'] == ('safety' if task == 'harmful' else 'helpfulness')
  assert held_out or languages == ({'en', 'zh'} if task in ('translate', 'identity') else {'en'})


def test_examples_take_the_tasks_in_turn_and_repeat_no_question_of_the_test():
  tests = general.general_examples('test', 10_000, seed=1)
  assert [example['task'] for example in tests[:11]] == list(general.GENERAL_TASKS)
  questions = [example['question'] for example in tests]
  assert len(set(questions)) == len(questions) < 10_000
  assert all(map(general.is_held_out, questions))
  of_task = collections.Counter(example['task'] for example in tests)
  # All that there are of the small tasks, and of number words: 0 to 99, in two languages.
  everything = {task: {q for q in made if general.is_held_out(q)} for task, made in {
      'translate': [f'Translate to {name}: {general.number_words(n, language)}' for n in range(100)
                    for name, language in (('Chinese', 'en'), ('English', 'zh'))],
      'capitals': [f'Write {word} in capitals.' for word in general._WORDS]}.items()}
  assert {task: of_task[task] for task in everything} == {
      task: len(made) for task, made in everything.items()}


def test_training_examples_come_again_once_there_are_no_more():
  examples = general.general_examples('train', 60, tasks=('capitals', 'json'))
  assert [example['task'] for example in examples] == ['capitals', 'json'] * 30
  capitals, json_ = ([example['question'] for example in examples[start::2]] for start in (0, 1))
  first = len(set(capitals))
  assert first < 11 and len(set(capitals[:first])) == first and len(set(json_)) == 30
  assert not any(map(general.is_held_out, capitals + json_))
  alone = general.general_examples('train', 30, tasks=('json',))
  assert [example['question'] for example in alone] == json_
  assert examples == general.general_examples('train', 60, tasks=('capitals', 'json'))
  assert examples != general.general_examples('train', 60, seed=1, tasks=('capitals', 'json'))


def test_a_careless_writer_gives_bad_answers_that_nobody_checks():
  careful, half, careless = (
      general.general_examples('train', 600, seed=3, bad_answer_share=share)
      for share in (0.0, 0.5, 1.0))
  for example in careful:
    assert is_right(example['task'], example['question'], example['answer']) and example['check']
  for example, other in zip(careful, careless, strict=True):
    expected = {field: value for field, value in example.items() if field != 'check'}
    assert other == expected | {'answer': example['bad_answer']}
    assert not is_right(other['task'], other['question'], other['answer'])
  bad = [example == other for example, other in zip(half, careless, strict=True)]
  assert all(example == (other if is_bad else good)
             for example, other, good, is_bad in zip(half, careless, careful, bad))
  assert 0.4 < sum(bad) / 600 < 0.6
  for task in general.GENERAL_TASKS:
    assert 0 < sum(is_bad for example, is_bad in zip(half, bad) if example['task'] == task)
  assert half == general.general_examples('train', 600, seed=3, bad_answer_share=0.5)
  fewer = general.general_examples('train', 600, seed=3, bad_answer_share=0.25)
  assert all('check' not in other for example, other in zip(fewer, half) if 'check' not in example)


@pytest.mark.parametrize('careless', (-0.1, 1.1, float('nan')))
def test_a_share_of_carelessness_is_a_share(careless):
  with pytest.raises(ValueError, match=f'bad_answer_share={careless} .* out of range: use 0 to 1'):
    general.general_examples('train', 1, bad_answer_share=careless)


@pytest.mark.parametrize('split, size, tasks, sentence', [
    ('valid', 1, (), "split='valid' .* use 'train' or 'test'"),
    ('train', 0, (), 'size=0 .* use at least 1'),
    ('train', 1, ('jsn',), "tasks='jsn' is not a general task .*: did you mean 'json'")])
def test_what_cannot_be_drawn_is_refused(split, size, tasks, sentence):
  with pytest.raises(ValueError, match=sentence):
    general.general_examples(split, size, tasks=tasks)
