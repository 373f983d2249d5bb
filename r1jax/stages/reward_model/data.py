"""The data of reward models: pairs and judged completions, and what a reward model sees of them."""
from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import random
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from r1jax.data import curation, jsonl, miniature_general
from r1jax.errors import UserError
from r1jax.metrics.terminal import warn
from r1jax.prompting.templates import (
  SPELT,
  Format,
  Question,
  asked,
  encode_completion,
  encode_prompt,
  opens_think,
  render_prompt,
  spells_control_tokens,
)
from r1jax.rewards.extract import final_summary
from r1jax.stages import supervised
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import Field, Section
from r1jax.stages.datasets import jsonl_section
from r1jax.stages.fields import prompt_format
from r1jax.tokenization import Tokenizer

_WIDTH = 16    # widths of encoded texts are multiples of it, so that few programs are compiled


class Example(NamedTuple):
  """A question and two completions to compare, or one that was judged.

  Attributes:
    question: the question.
    completions: one or two.
    label: 1 if the first of two is the better one, or the only one is safe; else 0.
    margin: of a pair, how much better the better one is.
  """
  question: Question
  completions: tuple[str, ...]
  label: float
  margin: float = 1.0


class Encoded(NamedTuple):
  """R prompts with G completions each, as arrays on the host or the devices, or as shapes.

  Attributes:
    prompt_tokens: [R, P] int32.
    prompt_lengths: [R] int32.
    completion_tokens: [R, G, C] int32, each completion ended by the template's `end_id`.
    completion_mask: [R, G, C] float32.
  """
  prompt_tokens: Any
  prompt_lengths: Any
  completion_tokens: Any
  completion_mask: Any


def _jsonl(split, objective, rng, *, folder, columns):
  path = folder and f'{folder}/{split}.jsonl'
  if objective == 'safety':
    return [Example(asked(row), (row['completion'],), float(row['safe']))
            for row in jsonl.safety_source(path, columns)]
  return [_pair(rng, asked(row), row['chosen'], row['rejected'], row['margin'])
          for row in jsonl.preference_source(path, columns)]


def _miniature(split, objective, rng, *, size):
  """`size` draws of the general tasks, without repeats.

  Helpfulness: the good answer and a bad one, of all tasks but the harmful ones. There is one pair
  for each question; otherwise a task with many bad answers would decide how lengths are matched.
  Safety: half of the draws are unsafe, help with a harmful deed; the safe ones refuse it, or help
  with a harmless deed or refuse to. Half of them are in answer tags, as trained models write them.
  """
  tasks = [task for task in miniature_general.GENERAL_TASKS if task != 'harmful']
  examples = {}
  for _ in range(size):
    draw = functools.partial(miniature_general.draw_general, rng, held_out=split == 'test')
    if objective == 'safety':
      task, field = rng.choice((('harmful', 'bad_answer'), rng.choice((
          ('harmful', 'answer'), ('harmless', 'answer'), ('harmless', 'bad_answer')))))
      row = draw(task)
      text = rng.choice(('{}', '<answer>{}</answer>')).format(row[field])
      example = Example(row['question'], (text,), float((task, field) != ('harmful', 'bad_answer')))
    else:
      row = draw(rng.choice(tasks))
      example = _pair(rng, row['question'], row['answer'], row['bad_answer'])
    examples.setdefault(example[:2] if objective == 'safety' else example.question, example)
  return list(examples.values())


def _pair(rng, question, chosen, rejected, margin=1.0) -> Example:
  """A pair whose sides are in a random order."""
  if rng.random() < 0.5:
    return Example(question, (chosen, rejected), 1.0, margin)
  return Example(question, (rejected, chosen), 0.0, margin)


# Name -> (loader of a split and objective, the other fields of `data`).
DATASETS: dict[str, tuple[Callable, Section]] = {
    'miniature': (_miniature, Section(dict(
        size=Field(10_000, 'examples of the split', at_least=1)))),
    'jsonl': (_jsonl, jsonl_section(jsonl.PREFERENCES, jsonl.JUDGEMENTS)),
}


def load_examples(config: Mapping[str, Any], split: str) -> list[Example]:
  """The examples of a split by the `data` part of a config and its objective; none without data.

  Args:
    config: the stage's.
    split: 'train' or 'test'.

  Raises:
    FileNotFoundError, UserError: as `jsonl.preference_source` and `jsonl.safety_source`.
  """
  if not config['data']:
    return []
  load, section = DATASETS[config['data']['name']]
  fields = {field: value for field, value in config['data'].items() if field != 'name'}
  rng = random.Random(f'{config["seed"]} {split} {config["objective"]}')
  return load(split, config['objective'], rng, **section.default | fields)


def drawn_examples(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], split: str,
) -> list[Example]:
  """Examples from completions that stages of kind 'reject' drew, judged by their correctness.

  They are of questions of this objective or of none. For helpfulness each right completion and a
  wrong one make a pair, up to `pairs_per_question`; for safety the right ones are safe and the
  wrong ones are not. Completions that could not be judged are left out, and repeated ones count
  once. One question in ten, by a checksum of its text, belongs to the test split.

  Args:
    config: the stage's.
    inputs: earlier stages' Artifacts by name.
    split: 'train' or 'test'.

  Raises:
    UserError: as `supervised.read_drawn`.
  """
  rng = random.Random(f'{config["seed"]} drawn {split} {config["objective"]}')
  judged = _judged_completions(config, inputs, split)
  if config['objective'] == 'safety':
    return [Example(question, (text,), float(label)) for question, both in judged.items()
            for label, texts in enumerate(both) for text in texts]
  examples = []
  for question, (wrong, right) in judged.items():
    rng.shuffle(wrong)
    rng.shuffle(right)
    for rejected, chosen in list(zip(wrong, right))[:config['pairs_per_question']]:
      examples.append(_pair(rng, question, chosen, rejected))
  return examples


def _judged_completions(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], split: str,
) -> dict[Question, tuple[list[str], list[str]]]:
  """{question: (wrong completions, right ones)}, each completion once."""
  found: dict[Question, tuple[list[str], list[str]]] = {}
  for name in config['sample_stages']:
    wrong = [row for row in supervised.read_drawn(inputs, name, 'refused')
             if row['reasons'].get('correct') == curation.WRONG]
    for right, rows in enumerate((wrong, supervised.read_drawn(inputs, name))):
      for row in rows:
        if _is_held_out(asked(row)) == (split == 'test') and (
            row['objective'] in ('', config['objective'])):
          texts = found.setdefault(asked(row), ([], []))[right]
          if row['completion'] not in texts:
            texts.append(row['completion'])
  return found


def _is_held_out(question: Question) -> bool:
  """One drawn question in ten, by another checksum than that of the miniature's own splits."""
  return zlib.crc32(f'drawn: {question}'.encode()) % 10 == 0


def seen(completion: str, objective: str, *, prompt: str, prompt_opens_think: bool) -> str:
  """The part of a completion that a reward model of this objective sees after the prompt.

  For helpfulness this is its `final_summary`, for safety all of it. It begins with a space if the
  prompt does not end with white space.

  Args:
    completion: as a policy wrote it.
    objective: 'helpfulness' or 'safety'.
    prompt: the text before it.
    prompt_opens_think: whether the prompt ends with `<think>`.
  """
  if objective == 'helpfulness':
    completion = final_summary(completion, prompt_opens_think=prompt_opens_think)
  return ('' if prompt[-1:].isspace() else ' ') + completion.strip()


def encode(
    questions: Sequence[Question], completions: Sequence[Sequence[str]], *, tokenizer: Tokenizer,
    template: Format, objective: str,
) -> Encoded:
  """R questions with G completions each, as the reward model sees them.

  Args:
    questions: the R questions.
    completions: G texts for each.
    tokenizer: the reward model's.
    template: of its prompts.
    objective: 'helpfulness' or 'safety'.
  """
  prompt_opens_think = opens_think(template, tokenizer)
  prompts = [encode_prompt(template, question, tokenizer) for question in questions]
  ends = []
  for question, group in zip(questions, completions, strict=True):
    prompt = render_prompt(template, question, tokenizer)
    for completion in group:
      text = seen(completion, objective, prompt=prompt, prompt_opens_think=prompt_opens_think)
      ends.append(encode_completion(template, text, tokenizer))
  prompt_tokens, prompt_lengths = padded(prompts, tokenizer.pad_id)
  tokens, lengths = padded(ends, tokenizer.pad_id)
  mask = np.arange(tokens.shape[-1]) < lengths[:, None]
  shape = len(questions), -1, tokens.shape[-1]
  return Encoded(prompt_tokens, prompt_lengths, tokens.reshape(shape),
                 mask.astype(np.float32).reshape(shape))


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
  """(tokens [n, width], lengths [n]) of rows of tokens, int32, at one of few widths."""
  lengths = np.asarray([len(row) for row in rows], np.int32)
  table = np.full((len(rows), _round_up(int(lengths.max()))), pad_id, np.int32)
  for padded, row in zip(table, rows):
    padded[:len(row)] = row
  return table, lengths


def _round_up(size: int) -> int:
  """The least width from `size` on; there are at most four from one power of two to the next."""
  unit = max(_WIDTH, 1 << max(0, (size - 1).bit_length() - 3))
  return -(-size // unit) * unit


def select(
    examples: Sequence[Example], encoded: Encoded, config: Mapping[str, Any], *, split: str,
) -> tuple[list[int], dict[str, int]]:
  """(the numbers of the examples to keep, counts of the others by reason).

  Dropped are examples longer than max_tokens ('dropped/long'), and pairs of which the reward model
  would see two equal sides ('dropped/equal'). So that length is not learnt instead of quality, a
  pair is dropped if its longer side has more than max_length_ratio times the tokens of the shorter
  one, the end token included ('dropped/length'), and the lengths of the others are balanced.

  Args:
    examples: pairs, or judged completions.
    encoded: the same.
    config: the stage's.
    split: 'train' or 'test'.
  """
  counts = {f'dropped/{reason}': 0 for reason in ('long', 'equal', 'length', 'balance')}
  sizes = encoded.completion_mask.sum(-1).astype(int)
  ratio, kept = config['pairs']['max_length_ratio'], []
  for number, size in enumerate(sizes):
    tokens = encoded.completion_tokens[number]
    if encoded.prompt_lengths[number] + size.max() > config['max_tokens']:
      counts['dropped/long'] += 1
    elif len(size) == 2 and (size[0] == size[1]) and (tokens[0] == tokens[1]).all():
      counts['dropped/equal'] += 1
    elif len(size) == 2 and ratio and size.max() > ratio * size.min():
      counts['dropped/length'] += 1
    else:
      kept.append(number)
  if not ratio or sizes.shape[1] != 2:
    return kept, counts
  kept, balanced = _balance_lengths(kept, examples, sizes, seed=config['seed'], split=split)
  return kept, counts | balanced


def _balance_lengths(
    kept: list[int], examples: Sequence[Example], sizes: np.ndarray, *, seed: int, split: str,
) -> tuple[list[int], dict[str, int]]:
  """As many pairs whose longer side is the better one as pairs whose shorter side is.

  In the train split the fewer ones are repeated ('repeated/balance'). In the test split, or if
  there are none of the fewer, the surplus is dropped by the seed ('dropped/balance').
  """
  longer = [(sizes[number, 0] - sizes[number, 1]) * (examples[number].label - 0.5)
            for number in kept]
  sides = [[number for number, sign in zip(kept, longer) if sign * side > 0] for side in (1, -1)]
  fewer, more = sorted(sides, key=len)
  surplus = random.Random(seed).sample(more, len(more) - len(fewer))
  if split == 'train' and fewer:
    repeats = list(itertools.islice(itertools.cycle(fewer), len(surplus)))
    return sorted(kept + repeats), {'repeated/balance': len(repeats)}
  return sorted(set(kept) - set(surplus)), {'dropped/balance': len(surplus)}


class Split(NamedTuple):
  """The examples of a split; counts of those that were drawn, dropped and repeated."""
  examples: list[Example]
  encoded: Encoded
  counts: dict[str, int]


def load_split(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer,
    split: str, at_most: int | None = None,
) -> Split:
  """A split of all examples: those drawn by earlier stages, then those of the data.

  Questions of the data that are held out among the drawn ones are not learnt ('dropped/held_out').

  Args:
    config: the stage's.
    inputs: earlier stages' Artifacts by name.
    tokenizer: the reward model's.
    split: 'train' or 'test'.
    at_most: the number of examples to keep.

  Raises:
    UserError: no example is left, or all judged completions have one label.
  """
  drawn, data = drawn_examples(config, inputs, split), load_examples(config, split)
  held_out = {example.question for example in drawn_examples(config, inputs, 'test')}
  examples = drawn + [example for example in data
                      if split == 'test' or example.question not in held_out]
  sources = ' and '.join([*(repr(name) for name in [config['data'].get('name')] if name),
                          *(f'stage {name!r}' for name in config['sample_stages'])])
  if not examples:
    raise UserError(f'the {split} split of {sources} has no example of {config["objective"]}: '
                     'draw more completions, right and wrong, of more questions, or give data')
  encoded = encode([example.question for example in examples],
                   [example.completions for example in examples], tokenizer=tokenizer,
                   template=prompt_format(config), objective=config['objective'])
  spelling = sum(spells_control_tokens(
      prompt_format(config), tokenizer, example.question, *example.completions)
      for example in examples)
  if spelling:
    warn(SPELT.format(spelling, f'{len(examples)} examples of the {split} split'))
  kept, counts = select(examples, encoded, config, split=split)
  kept = kept[:at_most]
  counts |= {'drawn': len(drawn), 'dropped/held_out': len(drawn + data) - len(examples),
             'spelling_control_tokens': spelling}
  examples = [examples[number] for number in kept]
  reasons = ', '.join(f'{reason} {count}' for reason, count in counts.items())
  if not kept:
    raise UserError(f'the {split} split of {sources} has no example left ({reasons}): raise '
                     'max_tokens, set pairs.max_length_ratio=0, or give more data')
  if config['objective'] == 'safety' and len({example.label for example in examples}) < 2:
    raise UserError(f'all {len(examples)} completions of the {split} split of {sources} '
                     'have the same judgement: give safe and unsafe ones')
  return Split(examples, jax.tree.map(lambda array: array[np.asarray(kept)], encoded), counts)
