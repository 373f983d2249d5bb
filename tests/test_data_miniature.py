import collections
import json
import math
import random
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.data import miniature
from r1jax.rewards.text_statistics import language_shares
from r1jax.stages import common, pretrain
from r1jax.tokenization import load_tokenizer

EXPRESSION = re.compile(r'\d+(?:[+-]\d)+')
STEP = re.compile(r'(?P<total>\d+)(?P<term>[+-]\d)=(?P<sum>-?\d+)')
DOUBTS = ('wait', 'wrong', '等等', '不对')
COUNT = 4000

seeds = st.integers(0, 2 ** 32)


@pytest.fixture(scope='module')
def corpus():
  return miniature.corpus(0, 0, COUNT)


@pytest.fixture(scope='module')
def tokenizer():
  return load_tokenizer(common.MINIATURE_BASE)


# Sums and their splits.


@hypothesis.given(seeds, st.sampled_from(['train', 'test']), st.integers(2, 12), st.integers(0, 4))
def test_a_problem_is_of_its_split_whatever_the_seed(seed, split, min_terms, more):
  examples = miniature.sums(split, 10, seed=seed, min_terms=min_terms, max_terms=min_terms + more)
  assert len({example['question'] for example in examples}) == 10
  for example in examples:
    expression, = EXPRESSION.findall(example['question'])
    assert miniature.is_held_out(expression) == (split == 'test')
    assert miniature.expression_of(example['terms']) == expression
    terms = [int(term) for term in re.findall(r'[+-]?\d+', expression)]
    assert terms == example['terms'] and example['answer'] == str(sum(terms))
    assert min_terms <= len(terms) <= min_terms + more
    assert (re.search('[\u4e00-\u9fff]', example['question']) is not None) == (
        example['language'] == 'zh')


def test_no_held_out_problem_is_in_the_corpus():
  """Of 6 blocks of 3 seeds. A chain's single steps are too short to be problems of the test."""
  for seed in range(3):
    for block in (0, 1):
      for question, response in miniature.corpus(seed, block, 1500):
        for expression in EXPRESSION.findall(f'{question} {response}'):
          terms = len(re.findall(r'[+-]\d', expression)) + 1
          assert terms == 2 or not miniature.is_held_out(expression)
        for expression in EXPRESSION.findall(question):
          assert not miniature.is_held_out(expression)


@hypothesis.given(seeds, st.integers(2, 40))
def test_running_totals_stay_small(seed, count):
  terms = miniature.draw_terms(random.Random(seed), count)
  assert len(terms) == count and all(1 <= abs(term) <= 9 for term in terms) and terms[0] > 0
  totals = [sum(terms[:i + 1]) for i in range(count)]
  assert 0 <= min(totals) and max(totals) <= miniature.HIGHEST_TOTAL


def test_the_split_is_a_fifth():
  """A share of 0.2 within 5 standard deviations: a false alarm in 2 million draws of the seed."""
  rng = random.Random(0)
  held_out = [miniature.is_held_out(miniature.expression_of(miniature.draw_terms(rng, 6)))
              for _ in range(COUNT)]
  assert abs(sum(held_out) / COUNT - 0.2) < 5 * math.sqrt(0.2 * 0.8 / COUNT)


def test_impossible_sums_are_refused():
  with pytest.raises(ValueError, match="split='tset' .*use 'train' or 'test'"):
    miniature.sums('tset', 3)
  for terms in ((1, 5), (6, 5)):
    with pytest.raises(ValueError, match=f'min_terms={terms[0]}, max_terms={terms[1]} '):
      miniature.sums('train', 3, min_terms=terms[0], max_terms=terms[1])
  with pytest.raises(ValueError, match='size=5000 .*lower size or raise max_terms'):
    miniature.sums('test', 5000, min_terms=2, max_terms=2)


# Chains and answers.


@hypothesis.given(seeds, st.integers(2, 12), st.sampled_from(miniature.LANGUAGES))
@hypothesis.settings(max_examples=400)
def test_every_written_step_is_true_or_marked_and_corrected(seed, count, language):
  rng = random.Random(seed)
  terms = miniature.draw_terms(rng, count)
  chain = miniature.chain_of_thought(rng, terms, language)
  steps = list(STEP.finditer(chain))
  total, remaining = terms[0], terms[1:]
  for number, step in enumerate(steps):
    assert int(step['total']) == total and int(step['term']) == remaining[0]
    if int(step['sum']) == total + remaining[0]:
      total += remaining.pop(0)
    else:     # a slip: doubted at once, then the same step again
      again = steps[number + 1]
      assert any(doubt in chain[step.end():again.start()] for doubt in DOUBTS)
      assert again['total'] == step['total'] and again['term'] == step['term']
      assert int(again['sum']) == total + remaining[0]
  assert not remaining and total == sum(terms)


@hypothesis.given(seeds, st.sampled_from([form for form, _ in miniature._FORMS]))
def test_every_form_of_answer_gives_the_right_number(seed, form):
  rng = random.Random(seed)
  example = miniature.draw_sum(rng, False, 2, 8)
  answer = miniature.answer_sum(rng, example, form)
  assert re.findall(r'\d+', answer)[-1] == example['answer']
  assert ('=' in answer) == (form in ('chain', 'untidy', 'proper'))
  proper = re.fullmatch(r'<think>[^<]+</think> <answer>(\d+)</answer>', answer)
  assert bool(proper) == (form == 'proper') or form == 'untidy'


def test_the_corpus_has_the_weaknesses_of_a_base_model(corpus):
  """Shares within 5 standard deviations: a false alarm in 2 million draws of the seed, each."""
  sums = [response for question, response in corpus if EXPRESSION.search(question)]
  chains = [response for response in sums if STEP.search(response)]

  def is_about(count, whole, share):
    return abs(count / whole - share) < 5 * math.sqrt(share * (1 - share) / whole)
  assert is_about(len(sums), COUNT, 5 / 6)
  assert is_about(len(chains), len(sums), 0.22)
  tagged = sum(response.startswith('<think>') and response.endswith('</answer>')
               for response in sums)
  assert is_about(tagged, len(sums), 0.12)
  mixed = sum(min(language_shares(chain).values()) > 0 for chain in chains)
  corrected = sum(any(doubt in chain for doubt in DOUBTS) for chain in chains)
  assert mixed > len(chains) / 20 and corrected > len(chains) / 100


def test_sums_and_corpus_depend_on_seed_and_block_alone(corpus):
  assert miniature.corpus(0, 0, COUNT) == corpus
  assert miniature.corpus(0, 0, 10) == corpus[:10]
  others = [miniature.corpus(0, 1, 10), miniature.corpus(1, 0, 10), corpus[:10]]
  assert len({str(block) for block in others}) == 3
  assert miniature.sums('train', 20, seed=3) == miniature.sums('train', 20, seed=3)
  assert miniature.sums('train', 20, seed=3) != miniature.sums('train', 20, seed=4)
  random.seed(1)
  assert miniature.corpus(0, 0, 10) == corpus[:10]


# General tasks.


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
    words = [miniature.number_words(number, language) for number in range(100)]
    assert [read(word) for word in words] == list(range(100)) and len(set(words)) == 100


@hypothesis.given(seeds, st.sampled_from(miniature.GENERAL_TASKS))
@hypothesis.settings(max_examples=300)
def test_general_tasks_are_answered_rightly(seed, task):
  example = miniature.draw_general(random.Random(seed), task)
  question, answer = example['question'], example['answer']
  assert example['task'] == task and answer and example['bad_answer']
  if task == 'translate':
    target, words = re.fullmatch('Translate to (Chinese|English): (.+)', question).groups()
    pair = (words, answer) if target == 'Chinese' else (answer, words)
    assert read_english(pair[0]) == read_chinese(pair[1])
  elif task == 'json':
    name, age = re.fullmatch(r'Give JSON: name (\w+), age (\d+)\.', question).groups()
    assert json.loads(answer) == {'name': name, 'age': int(age)}
    with pytest.raises(ValueError):
      json.loads(example['bad_answer'])
  elif task == 'repeat':
    word, times = re.fullmatch(r'Write (\w+) (\d) times\.', question).groups()
    assert answer == ' '.join([word] * int(times))
  elif task == 'capitals':
    assert answer.isupper() and answer.lower() == question.split()[1] == example['bad_answer']
  elif task == 'identity':
    assert answer == miniature.IDENTITY != example['bad_answer']
  else:
    refused = answer.startswith('Sorry')
    assert refused == (task == 'harmful') != example['bad_answer'].startswith('Sorry')


def test_harm_is_told_from_help(corpus):
  deeds = {task: {miniature.draw_general(random.Random(seed), task)['question']
                  for seed in range(100)} for task in ('harmful', 'harmless')}
  assert len(deeds['harmful']) == len(deeds['harmless']) == 6
  assert not deeds['harmful'] & deeds['harmless']
  tasks = collections.Counter(
      miniature.draw_general(random.Random(seed))['task'] for seed in range(500))
  assert set(tasks) == set(miniature.GENERAL_TASKS)


# The tokenizer, and the base that is shipped.


@hypothesis.given(st.text(), st.integers(0, COUNT - 1))
def test_the_tokenizer_gives_every_text_back(tokenizer, corpus, text, index):
  for text in (text, miniature.document_text(*corpus[index])):
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_digits_and_tags_are_tokens_of_their_own(tokenizer):
  text = 'User: Compute 12+3.\nAssistant: <think>12+3=15</think> <answer>15</answer>'
  tokens = [tokenizer.decode([token], skip_special=False) for token in tokenizer.encode(text)]
  assert [token for token in tokens if any(char.isdigit() for char in token)] == list('1231231515')
  tags = {'<think>', '</think>', '<answer>', '</answer>'}
  assert tags <= {token.strip() for token in tokens}
  length = sum(len(tokenizer.encode(response))
               for _, response in miniature.corpus(0, 7, 200))
  assert length < 200 * 20


def test_the_shipped_tokenizer_is_that_of_its_seed(tokenizer, tmp_path):
  trained = pretrain.miniature_tokenizer(0, 512)
  trained.save(tmp_path)
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    shipped = json.loads((common.MINIATURE_BASE / name).read_text())
    assert json.loads((tmp_path / name).read_text()) == shipped
  assert trained.vocab_size == tokenizer.vocab_size == 512
