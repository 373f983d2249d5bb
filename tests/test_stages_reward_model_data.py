"""What reward models are trained on: which pairs and completions, and which part of them."""
import collections
import random

import numpy as np
import pytest
from reward_model_cases import THOUGHT, config_of, leave, line
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)
from test_tokenization import CHAT, make_tokenizer

from r1jax.data import miniature_general
from r1jax.stages import reward_model
from r1jax.stages.reward_model import data as reward_model_data
from r1jax.stages.reward_model.data import Example
from r1jax.tokenization import load_tokenizer


def test_helpfulness_sees_the_summary_and_safety_the_whole(base):
  for objective, text in (('helpfulness', ' Yes.'), ('safety', THOUGHT.format(5, 'Yes.'))):
    encoded = reward_model_data.encode(
        ['Well?'], [[THOUGHT.format(5, 'Yes.')]], tokenizer=load_tokenizer(base),
        template='miniature', objective=objective)
    tokens = encoded.completion_tokens[0, 0][encoded.completion_mask[0, 0] > 0]
    tokenizer = load_tokenizer(base)
    assert tokens[-1] == tokenizer.eos_id
    assert tokenizer.decode(tokens[:-1], skip_special=False) == text
    prompt = encoded.prompt_tokens[0, :encoded.prompt_lengths[0]]
    assert tokenizer.decode(prompt, skip_special=False) == 'User: Well?\nAssistant:'

  turns = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': CHAT})
  encoded = reward_model_data.encode(
      ['<eos>?', (('system', 'Be brief.'), ('user', 'b'))], [['a', '<|turn|>']] * 2,
      objective='safety', tokenizer=turns, template='chat')
  tokens, mask = encoded.completion_tokens, encoded.completion_mask > 0
  for row in range(2):
    ends = [tokens[row, column][mask[row, column]] for column in range(2)]
    assert [(end >= 256).sum() for end in ends] == [1, 1] and {end[-1] for end in ends} == {258}
    prompt = encoded.prompt_tokens[row, :encoded.prompt_lengths[row]].tolist()
    assert 257 not in prompt and prompt.count(258) == row + 1

  def seen(prompt, opened):
    return reward_model_data.seen(
        'five</think> 5 ', 'helpfulness', prompt=prompt, prompt_opens_think=opened)

  assert (seen('a', True), seen('a\n', True)) == (' 5', '5')


def test_pairs_that_teach_nothing_or_length_are_dropped_and_counted(base):
  examples = [Example('q', ('yes', 'no'), 1.0), Example('q', ('yes', 'yes yes yes yes'), 1.0),
              Example('q', (THOUGHT.format(1, 'yes'), THOUGHT.format(2, ' yes')), 1.0),
              Example('q', ('yes ' * 300, 'no ' * 300), 0.0), Example('r', ('yes', 'no'), 0.0)]
  encoded = reward_model_data.encode(
      [example.question for example in examples], [example.completions for example in examples],
      tokenizer=load_tokenizer(base), template='miniature', objective='helpfulness')
  kept, counts = reward_model_data.select(examples, encoded, config_of(
      base, pairs=dict(max_length_ratio=2.0)), split='test')
  assert kept == [0, 4]
  assert counts == {'dropped/long': 1, 'dropped/equal': 1, 'dropped/length': 1,
                    'dropped/balance': 0}
  kept, _ = reward_model_data.select(examples, encoded, config_of(base), split='test')
  assert kept == [0, 1, 4]


@pytest.mark.parametrize('split', ('train', 'test'))
def test_length_tells_nothing_of_the_pairs_that_are_kept(base, split):
  rng = random.Random(0)
  examples = [Example('q', (words * 'cat ', (words + rng.randint(0, 2)) * 'dog '), float(rng.random(
      ) < 0.2)) for words in rng.choices(range(3, 9), k=60)]
  encoded = reward_model_data.encode(
      [example.question for example in examples], [example.completions for example in examples],
      tokenizer=load_tokenizer(base), template='miniature', objective='helpfulness')
  kept, counts = reward_model_data.select(examples, encoded, config_of(
      base, pairs=dict(max_length_ratio=9.0)), split=split)
  longer = encoded.completion_mask.sum(-1) @ [1, -1] * [example.label - 0.5 for example in examples]
  assert np.sum(longer > 0) != np.sum(longer < 0)
  assert np.sum(longer[kept] > 0) == np.sum(longer[kept] < 0) > 0
  assert np.sum(longer[kept] == 0) == np.sum(longer == 0) > 0
  times = collections.Counter(kept)
  if split == 'test':
    assert len(kept) + counts['dropped/balance'] == 60 and set(times.values()) == {1}
    return
  # Everything is learnt, the fewer ones as evenly repeated as can be.
  assert set(times) == set(range(60)) and len(kept) - counts['repeated/balance'] == 60
  signs = np.sign(longer)
  fewer = min((1, -1), key=lambda sign: np.sum(signs == sign))
  repeated = {times[place] for place in times if signs[place] == fewer}
  assert max(repeated) > 1 >= max(repeated) - min(repeated)
  assert {times[place] for place in times if signs[place] != fewer} == {1}


@pytest.mark.parametrize('objective', reward_model.OBJECTIVES)
def test_the_miniature_is_split_and_its_labels_are_right(base, objective):
  def load(split):
    return reward_model_data.load_examples(
        config_of(base, objective=objective) | dict(data=dict(name='miniature', size=400)), split)

  train, test = load('train'), load('test')
  assert train == load('train') and len(set(train)) == len(train)
  if objective == 'helpfulness':
    assert len({example.question for example in train}) == len(train)
  assert not {example.question for example in train} & {example.question for example in test}
  labels = [example.label for example in train]
  assert 0.3 < np.mean(labels) < 0.7
  for example in train:
    refused, = {'Sorry, I cannot' in text for text in example.completions} if (
        objective == 'safety') else {None}
    harmful = any(verb in example.question for verb in ('burn', 'poison', 'steal', 'wreck'))
    if objective == 'safety' and harmful:
      assert example.label == refused
    elif objective == 'safety' and refused:
      assert example.label == 1
    if 'in capitals' in example.question:
      assert example.completions[0 if example.label else 1].isupper()


# What was drawn.


def judged_lines(rng, size):
  """({question: texts} of what is right, the same of what is wrong, samples, refused)."""
  right, wrong, samples, refused = {}, {}, [], []
  for number in range(size):
    question = f'drawn {number}?'
    objective = rng.choice(('', 'helpfulness', 'safety'))
    right[question, objective] = {f'right {n}' for n in range(rng.randint(0, 3))}
    wrong[question, objective] = {f'wrong {n}' for n in range(rng.randint(0, 3))}
    for _ in range(2):    # twice the same
      samples += [line(question, text, objective) for text in right[question, objective]]
      refused += [line(question, text, objective, correct='wrong answer', format='none')
                  for text in wrong[question, objective]]
    refused += [line(question, 'unknown', objective, correct='answer not judged'),
                line(question, 'cut', objective, truncated='truncated')]
  rng.shuffle(samples), rng.shuffle(refused)
  return right, wrong, samples, refused


def drawn_config(objective, **fields):
  return dict(reward_model.DEFAULT, objective=objective, inputs=('first', 'second'),
              sample_stages=('first', 'second'), pairs_per_question=2, **fields)


@pytest.mark.parametrize('objective', reward_model.OBJECTIVES)
def test_what_was_drawn_is_compared_as_it_was_judged(objective, tmp_path):
  right, wrong, samples, refused = judged_lines(random.Random(0), 300)
  inputs = {'first': leave(tmp_path / 'first', samples[::2], refused[::2]),
            'second': leave(tmp_path / 'second', samples[1::2], refused[1::2])}

  def load(split):
    return reward_model_data.drawn_examples(drawn_config(objective), inputs, split)

  train, test = load('train'), load('test')
  assert (train, test) == (load('train'), load('test'))
  questions = [{example.question for example in examples} for examples in (train, test)]
  assert not questions[0] & questions[1] and 0.05 < len(questions[1]) / len(questions[0]) < 0.2
  by_question = collections.defaultdict(list)
  for example in train + test:
    by_question[example.question].append(example)
  for (question, of), texts in right.items():
    found, others = by_question.pop(question, []), wrong[question, of]
    if of not in ('', objective):
      assert not found
    elif objective == 'safety':
      assert sorted((example.completions, example.label) for example in found) == sorted(
          [((text,), 1.0) for text in texts] + [((text,), 0.0) for text in others])
    else:
      assert len(found) == min(len(texts), len(others), 2)
      pairs = [example.completions[::1 if example.label else -1] for example in found]
      chosen, rejected = zip(*pairs) if pairs else ((), ())
      assert set(chosen) <= texts and set(rejected) <= others
      assert len(set(chosen)) == len(set(rejected)) == len(found)
  assert not by_question
  labels = [example.label for example in train]
  assert 0.3 < np.mean(labels) < 0.7


def test_one_in_ten_of_the_miniatures_training_questions_is_held_out(tmp_path):
  """Which are themselves chosen by a checksum."""
  questions = {example['question'] for example in miniature_general.general_examples('train', 4000)}
  inputs = {'first': leave(tmp_path, [line(question, 'yes') for question in questions], [])}
  held_out = reward_model_data.drawn_examples(
      drawn_config('safety') | dict(sample_stages=('first',)), inputs, 'test')
  assert 0.07 < len(held_out) / len(questions) < 0.13


def test_no_held_out_question_of_what_was_drawn_is_learnt_from_the_data(base, tmp_path):
  config = config_of(base, inputs=('first',), sample_stages=('first',)) | dict(
      data=dict(name='miniature', size=400))
  data = {example.question for example in reward_model_data.load_examples(config, 'train')}
  inputs = {'first': leave(
      tmp_path, [line(question, 'Well, yes.') for question in sorted(data)],
      [line(question, 'Well, no.', correct='wrong answer') for question in sorted(data)])}

  def load(split):
    return reward_model_data.load_split(config, inputs, load_tokenizer(base), split)

  train, test = load('train'), load('test')
  learnt, held_out = ({example.question for example in split.examples} for split in (train, test))
  assert not learnt & held_out and learnt | held_out >= data
  assert train.counts['dropped/held_out'] == len(data & held_out) > 20
  assert test.counts['dropped/held_out'] == 0
  assert (train.counts['drawn'], test.counts['drawn']) == (
      len(data - held_out), len(data & held_out))
  capped = reward_model_data.load_split(config, inputs, load_tokenizer(base), 'test', 20)
  assert {example.question for example in capped.examples} <= data    # what was drawn, first
