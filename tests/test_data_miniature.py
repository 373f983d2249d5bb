import collections
import json
import math
import random
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from r1jax.data import miniature
from r1jax.data.miniature_general import LANGUAGES, language_of
from r1jax.rewards.language import language_shares
from r1jax.stages import loading, pretrain
from r1jax.tokenization import load_tokenizer

EXPRESSION = re.compile(r'\d+(?:[+*-]\d)+')
STEP = re.compile(r'(?P<total>\d+)(?P<operation>[+*-]\d)=(?P<result>-?\d+)')
DOUBTS = ('wait', 'wrong', '等等', '不对')
COUNT = 4000

seeds = st.integers(0, 2 ** 32)


@pytest.fixture(scope='module')
def corpus():
  return miniature.corpus(0, 0, COUNT)


@pytest.fixture(scope='module')
def tokenizer():
  return load_tokenizer(loading.MINIATURES['miniature'])


# Calculations and their splits.


def from_left_to_right(expression):
  """The value of an expression, read by an independent way: a fold over its matches."""
  first, rest = re.fullmatch(r'(\d+)((?:[+*-]\d)+)', expression).groups()
  total = int(first)
  for sign, digit in re.findall(r'([+*-])(\d)', rest):
    digits = str({'+': total.__add__, '-': total.__sub__, '*': total.__mul__}[sign](int(digit)))
    total = int(digits[-2:])
  return total


@hypothesis.given(seeds, st.sampled_from(['train', 'test']), st.integers(2, 12), st.integers(0, 4))
def test_a_problem_is_of_its_split_whatever_the_seed(seed, split, min_steps, more):
  examples = miniature.calculations(
      split, 10, seed=seed, min_steps=min_steps, max_steps=min_steps + more)
  assert len({example['question'] for example in examples}) == 10
  for example in examples:
    expression, = EXPRESSION.findall(example['question'])
    assert miniature.is_held_out(expression) == (split == 'test')
    assert ''.join(example['terms']) == expression
    assert example['answer'] == str(from_left_to_right(expression))
    assert min_steps <= len(re.findall('[+*-]', expression)) <= min_steps + more
    assert language_of(example['question']) == example['language']


def test_no_held_out_problem_is_in_the_corpus():
  """Of 6 blocks of 3 seeds. A chain's single steps are too short to be problems of the test."""
  for seed in range(3):
    for block in (0, 1):
      for question, response in miniature.corpus(seed, block, 1500):
        for expression in EXPRESSION.findall(f'{question} {response}'):
          assert len(re.findall('[+*-]', expression)) == 1 or not miniature.is_held_out(expression)
        for expression in EXPRESSION.findall(question):
          assert not miniature.is_held_out(expression)
        if not EXPRESSION.search(question):
          assert not miniature.is_held_out(question)


@hypothesis.given(seeds, st.integers(1, 40))
def test_running_results_have_two_digits(seed, count):
  terms = miniature.draw_operations(random.Random(seed), count)
  results = miniature.running_results(terms)
  assert len(terms) == len(results) == count + 1
  assert 0 <= min(results) and max(results) < 100
  assert results == [int(terms[0])] + [
      from_left_to_right(''.join(terms[:i + 1])) for i in range(1, count + 1)]
  for before, operation in zip(results, terms[1:]):
    assert operation[0] != '-' or int(operation[1:]) <= before


def test_the_split_is_a_fifth():
  """A share of 0.2 within 5 standard deviations: a false alarm in 2 million draws of the seed."""
  rng = random.Random(0)
  held_out = [miniature.is_held_out(''.join(miniature.draw_operations(rng, 6)))
              for _ in range(COUNT)]
  assert abs(sum(held_out) / COUNT - 0.2) < 5 * math.sqrt(0.2 * 0.8 / COUNT)


def test_an_answer_cannot_be_guessed():
  """No answer of 5 to 8 steps is right for more than one problem in twenty-five."""
  answers = collections.Counter(
      example['answer'] for example in miniature.calculations('test', COUNT))
  assert answers.most_common(1)[0][1] < COUNT / 25


def test_impossible_calculations_are_refused():
  with pytest.raises(ValueError, match="split='tset' .*use 'train' or 'test'"):
    miniature.calculations('tset', 3)
  for steps in ((0, 5), (6, 5)):
    with pytest.raises(ValueError, match=f'min_steps={steps[0]}, max_steps={steps[1]} '):
      miniature.calculations('train', 3, min_steps=steps[0], max_steps=steps[1])
  with pytest.raises(ValueError, match='size=5000 .*lower size or raise max_steps'):
    miniature.calculations('test', 5000, min_steps=1, max_steps=1)


# Chains and answers.


@hypothesis.given(seeds, st.integers(1, 12), st.sampled_from(LANGUAGES))
@hypothesis.settings(max_examples=400)
def test_every_written_step_is_true_or_marked_and_corrected(seed, count, language):
  rng = random.Random(seed)
  terms = miniature.draw_operations(rng, count)
  chain = miniature.chain_of_thought(rng, terms, language)
  steps = list(STEP.finditer(chain))
  total, remaining = int(terms[0]), terms[1:]
  for number, step in enumerate(steps):
    assert int(step['total']) == total and step['operation'] == remaining[0]
    right = from_left_to_right(f'{total}{remaining[0]}')
    if int(step['result']) == right:
      total = right
      remaining.pop(0)
    else:     # a slip: doubted at once, then the same step again
      again = steps[number + 1]
      assert any(doubt in chain[step.end():again.start()] for doubt in DOUBTS)
      assert again['total'] == step['total'] and again['operation'] == step['operation']
      assert int(again['result']) == right
  assert not remaining and total == from_left_to_right(''.join(terms))


@hypothesis.given(seeds, st.sampled_from([form for form, _ in miniature._FORMS]))
def test_every_form_of_answer_gives_the_right_number(seed, form):
  rng = random.Random(seed)
  example = miniature.draw_calculation(rng, False, 1, 8)
  answer = miniature.answer_calculation(rng, example, form)
  assert re.findall(r'\d+', answer)[-1] == example['answer']
  assert ('=' in answer) == (form in ('chain', 'untidy', 'proper'))
  proper = re.fullmatch(r'<think>[^<]+</think> <answer>(\d+)</answer>', answer)
  assert bool(proper) == (form == 'proper') or form == 'untidy'


def test_the_corpus_has_the_weaknesses_of_a_base_model(corpus):
  """Shares within 5 standard deviations: a false alarm in 2 million draws of the seed, each."""
  answers = [response for question, response in corpus if EXPRESSION.search(question)]
  chains = [response for response in answers if STEP.search(response)]

  def is_about(count, whole, share):
    return abs(count / whole - share) < 5 * math.sqrt(share * (1 - share) / whole)
  assert is_about(len(answers), COUNT, 5 / 6)
  assert is_about(len(chains), len(answers), 0.3)
  tagged = sum(response.startswith('<think>') and response.endswith('</answer>')
               for response in answers)
  assert is_about(tagged, len(answers), 0.16)
  mixed = sum(len(language_shares(chain)) > 1 for chain in chains)
  corrected = sum(any(doubt in chain for doubt in DOUBTS) for chain in chains)
  assert mixed > len(chains) / 20 and corrected > len(chains) / 100


def test_calculations_and_corpus_depend_on_seed_and_block_alone(corpus):
  assert miniature.corpus(0, 0, COUNT) == corpus
  assert miniature.corpus(0, 0, 10) == corpus[:10]
  others = [miniature.corpus(0, 1, 10), miniature.corpus(1, 0, 10), corpus[:10]]
  assert len({str(block) for block in others}) == 3
  assert miniature.calculations('train', 20, seed=3) == miniature.calculations('train', 20, seed=3)
  assert miniature.calculations('train', 20, seed=3) != miniature.calculations('train', 20, seed=4)
  random.seed(1)
  assert miniature.corpus(0, 0, 10) == corpus[:10]


# The tokenizer, and the base that is shipped.


@hypothesis.given(st.text(), st.integers(0, COUNT - 1))
def test_the_tokenizer_gives_every_text_back(tokenizer, corpus, text, index):
  for given in (text, miniature.document_text(*corpus[index])):
    assert tokenizer.decode(tokenizer.encode(given), skip_special=False) == given


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
    shipped = json.loads((loading.MINIATURES['miniature'] / name).read_text())
    assert json.loads((tmp_path / name).read_text()) == shipped
  assert trained.vocab_size == tokenizer.vocab_size == 512
