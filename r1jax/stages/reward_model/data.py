"""The data of reward models: pairs and judged completions, and what a reward model sees of them."""
import collections
from collections.abc import Callable, Mapping, Sequence
import functools
import itertools
import random
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from r1jax.data import curation, miniature_general
from r1jax.data.jsonl import preference_source, safety_source
from r1jax.rewards.extract import final_summary
from r1jax.stages import supervised
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import Field, Section
from r1jax.tokenization import Tokenizer, encode_prompt, opens_think, render_prompt

_WIDTH = 16    # widths of encoded texts are multiples of it: few programs are compiled


class Example(NamedTuple):
  """A question and what is compared: two completions, or one that was judged."""
  question: str
  completions: tuple[str, ...]
  label: float          # 1: the first of two is the better one, or the only one is safe; else 0
  margin: float = 1.0   # of a pair: by how much


class Encoded(NamedTuple):
  """R prompts with G completions each, as `completion_rewards` takes them once flat."""
  prompt_tokens: np.ndarray        # [R, P] int32
  prompt_lengths: np.ndarray       # [R] int32
  completion_tokens: np.ndarray    # [R, G, C] int32, each ended by the end token
  completion_mask: np.ndarray      # [R, G, C] float32


def _jsonl(split, objective, rng, *, folder):
  path = f'{folder}/{split}.jsonl'
  if objective == 'safety':
    return [Example(row['question'], (row['completion'],), float(row['safe']))
            for row in safety_source(path)]
  return [_pair(rng, row['question'], row['chosen'], row['rejected'], row['margin'])
          for row in preference_source(path)]


def _miniature(split, objective, rng, *, size):
  """`size` draws of the general tasks, without repeats.

  Helpfulness: the good and a bad answer, of all but the harmful tasks, one pair a question (lest a
  task with many bad answers decide how lengths are matched). Safety: half the draws
  are unsafe, the help with a harmful deed; the safe ones refuse that, or help or refuse in harmless
  deeds. Every second of these is in answer tags, as trained models write them.
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
  """A pair whose sides stand in a random order."""
  if rng.random() < 0.5:
    return Example(question, (chosen, rejected), 1.0, margin)
  return Example(question, (rejected, chosen), 0.0, margin)


# Name -> (loader of a split and objective, the fields that `data` may have besides, with defaults).
DATASETS: dict[str, tuple[Callable, Section]] = {
    'miniature': (_miniature, Section(dict(
        size=Field(10_000, 'examples of the split', at_least=1)))),
    'jsonl': (_jsonl, Section(dict(folder=Field('', 'where train.jsonl and test.jsonl are')))),
}


def load_examples(config: Mapping[str, Any], split: str) -> list[Example]:
  """The examples of a split ('train' or 'test') by the `data` part of a config and its objective.

  There are none where `data` is empty.

  Raises:
    FileNotFoundError, ValueError: as `jsonl.preference_source` and `jsonl.safety_source`.
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
  """Examples from completions that stages of kind 'reject' drew, judged by their accuracy reward.

  Of a question of this objective, or of none, each right completion and a wrong one make a pair, up
  to `pairs_per_question`; for safety the right ones are safe and the wrong ones are not. What could
  not be judged is neither; a completion counts once. One question in ten, by a checksum of its
  text, belongs to the test split.

  Raises:
    ValueError: as `supervised.read_drawn`.
  """
  rng = random.Random(f'{config["seed"]} drawn {split} {config["objective"]}')
  sides = collections.defaultdict(lambda: ([], []))   # by question: wrong, right
  for name in config['sample_stages']:
    wrong = [row for row in supervised.read_drawn(inputs, name, 'refused')
             if row['reasons'].get('correct') == curation.WRONG]
    for right, rows in enumerate((wrong, supervised.read_drawn(inputs, name))):
      for row in rows:
        if _is_held_out(row['question']) == (split == 'test') and (
            row['objective'] in ('', config['objective'])):
          texts = sides[row['question']][right]
          if row['completion'] not in texts:
            texts.append(row['completion'])
  if config['objective'] == 'safety':
    return [Example(question, (text,), float(label)) for question, both in sides.items()
            for label, texts in enumerate(both) for text in texts]
  examples = []
  for question, (wrong, right) in sides.items():
    rng.shuffle(wrong), rng.shuffle(right)
    for rejected, chosen in list(zip(wrong, right))[:config['pairs_per_question']]:
      examples.append(_pair(rng, question, chosen, rejected))
  return examples


def _is_held_out(question: str) -> bool:
  """One drawn question in ten, by a checksum apart from that of the miniature's own splits."""
  return zlib.crc32(f'drawn: {question}'.encode()) % 10 == 0


def seen(completion: str, objective: str, *, prompt: str, opened: bool) -> str:
  """The part of a completion that a reward model of this objective sees after the prompt.

  For helpfulness its `final_summary`, for safety all of it; white space between prompt and
  completion is as the prompt asks for: a space where it does not end with any.
  """
  if objective == 'helpfulness':
    completion = final_summary(completion, prompt_opens_think=opened)
  return ('' if prompt[-1:].isspace() else ' ') + completion.strip()


def encode(
    questions: Sequence[str], completions: Sequence[Sequence[str]], *, tokenizer: Tokenizer,
    template: str, objective: str,
) -> Encoded:
  """Questions and the same number of completions of each, as the reward model sees them."""
  opened = opens_think(template, tokenizer)
  prompts = [encode_prompt(template, question, tokenizer) for question in questions]
  texts = [render_prompt(template, question, tokenizer) for question in questions]
  ends = [[[*tokenizer.encode(seen(completion, objective, prompt=prompt, opened=opened)),
            tokenizer.eos_id] for completion in group]
          for prompt, group in zip(texts, completions, strict=True)]
  sizes = np.asarray([[len(tokens) for tokens in group] for group in ends], np.int32)
  table = np.full((*sizes.shape, _round_up(sizes.max())), tokenizer.pad_id, np.int32)
  for rows, group in zip(table, ends):
    for row, tokens in zip(rows, group):
      row[:len(tokens)] = tokens
  mask = np.arange(table.shape[-1]) < sizes[..., None]
  lengths = np.asarray([len(tokens) for tokens in prompts], np.int32)
  prompt_table = np.full((len(prompts), _round_up(lengths.max())), tokenizer.pad_id, np.int32)
  for row, tokens in zip(prompt_table, prompts):
    row[:len(tokens)] = tokens
  return Encoded(prompt_tokens=prompt_table, prompt_lengths=lengths, completion_tokens=table,
                 completion_mask=mask.astype(np.float32))


def _round_up(size) -> int:
  """The least width that holds it: there are at most four, a multiple of `_WIDTH`, an octave."""
  unit = max(_WIDTH, 1 << max(0, (int(size) - 1).bit_length() - 3))
  return -(-int(size) // unit) * unit


def select(
    examples: Sequence[Example], encoded: Encoded, config: Mapping[str, Any], *, split: str,
) -> tuple[list[int], dict[str, int]]:
  """(the places of examples to learn from or to be held out, counts of the others by reason).

  Dropped are: what is longer than max_tokens ('dropped/long'), and pairs of which the reward model
  would see two equal sides ('dropped/equal'). Lest length be learnt for quality, lengths are
  matched: a pair is dropped where the longer side has more than max_length_ratio times the tokens
  of the shorter, its end included ('dropped/length'); then there are to be as many pairs whose
  longer side is the better one as pairs whose shorter side is: of the train split the fewer ones
  are repeated ('repeated/balance'), of the test split, or where there are none of the fewer, the
  surplus is dropped by the seed ('dropped/balance').
  """
  counts = {f'dropped/{reason}': 0 for reason in ('long', 'equal', 'length', 'balance')}
  sizes = encoded.completion_mask.sum(-1).astype(int)
  ratio, kept = config['pairs']['max_length_ratio'], []
  for place, size in enumerate(sizes):
    tokens = encoded.completion_tokens[place]
    if encoded.prompt_lengths[place] + size.max() > config['max_tokens']:
      counts['dropped/long'] += 1
    elif len(size) == 2 and (size[0] == size[1]) and (tokens[0] == tokens[1]).all():
      counts['dropped/equal'] += 1
    elif len(size) == 2 and ratio and size.max() > ratio * size.min():
      counts['dropped/length'] += 1
    else:
      kept.append(place)
  if ratio and sizes.shape[1] == 2:
    longer = [(sizes[place, 0] - sizes[place, 1]) * (examples[place].label - 0.5) for place in kept]
    sides = [[place for place, sign in zip(kept, longer) if sign * side > 0] for side in (1, -1)]
    fewer, more = sorted(sides, key=len)
    surplus = random.Random(config['seed']).sample(more, len(more) - len(fewer))
    if split == 'train' and fewer:
      repeats = list(itertools.islice(itertools.cycle(fewer), len(surplus)))
      kept, counts['repeated/balance'] = sorted(kept + repeats), len(repeats)
    else:
      kept, counts['dropped/balance'] = sorted(set(kept) - set(surplus)), len(surplus)
  return kept, counts


class Split(NamedTuple):
  """What is learnt from, or held out; counts of what was drawn, dropped and repeated."""
  examples: list[Example]
  encoded: Encoded
  counts: dict[str, int]


def load_split(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer,
    split: str, at_most: int | None = None,
) -> Split:
  """What is learnt from, or held out, of a split: what was drawn, then the data.

  Of the data, questions that are held out of what was drawn are not learnt ('dropped/held_out').

  Raises:
    ValueError: nothing is left, or of judged completions nothing of one label.
  """
  drawn, data = drawn_examples(config, inputs, split), load_examples(config, split)
  held_out = {example.question for example in drawn_examples(config, inputs, 'test')}
  examples = drawn + [example for example in data
                      if split == 'test' or example.question not in held_out]
  sources = ' and '.join([*(repr(name) for name in [config['data'].get('name')] if name),
                          *(f'stage {name!r}' for name in config['sample_stages'])])
  if not examples:
    raise ValueError(f'the {split} split of {sources} has no example of {config["objective"]}: '
                     'draw more completions, right and wrong, of more questions, or give data')
  encoded = encode([example.question for example in examples],
                   [example.completions for example in examples], tokenizer=tokenizer,
                   template=config['template'], objective=config['objective'])
  kept, counts = select(examples, encoded, config, split=split)
  kept = kept[:at_most]
  counts |= {'drawn': len(drawn), 'dropped/held_out': len(drawn + data) - len(examples)}
  examples = [examples[place] for place in kept]
  story = ', '.join(f'{reason} {count}' for reason, count in counts.items())
  if not kept:
    raise ValueError(f'the {split} split of {sources} has no example left ({story}): raise '
                     'max_tokens, set pairs.max_length_ratio=0, or give more data')
  if config['objective'] == 'safety' and len({example.label for example in examples}) < 2:
    raise ValueError(f'all {len(examples)} completions of the {split} split of {sources} '
                     'have the same judgement: give safe and unsafe ones')
  return Split(examples, jax.tree.map(lambda array: array[np.asarray(kept)], encoded), counts)
