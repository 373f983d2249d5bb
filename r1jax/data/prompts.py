"""Batches of prompts, addressed by one global example counter.

The whole position in the data is that counter: which examples follow it is a pure function of the
source, the seed and the settings, and not of the number of hosts, so a run restores on any number.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from r1jax import tokenization


@dataclasses.dataclass(frozen=True)
class PromptBatch:
  """The prompts of one host; B is its share of the batch, P the prompt limit.

  Attributes:
    prompt_tokens: [B, P] int32, padded on the right.
    prompt_lengths: [B] int32, from 1 to P; padding is told by these alone.
    example_ids: [B] int32, the examples' indices in the source, all different over all hosts.
    examples: the B examples as the source gave them.
    next_counter: the global example counter at which the next batch begins.
    num_skipped: prompts passed over, on the way, as too long; over all hosts.
  """

  prompt_tokens: np.ndarray
  prompt_lengths: np.ndarray
  example_ids: np.ndarray
  examples: list[Mapping[str, Any]]
  next_counter: int
  num_skipped: int


class PromptStream:
  """An endless, random-access stream of prompt batches over a source of examples.

  Counter i stands for place i % n of epoch i // n, each epoch shuffled anew (by grain). A batch
  takes the examples from its counter onwards that fit. An example met twice in one batch, at the
  seam of two epochs, is passed over the second time: its completions would have the same keys.

  Attributes:
    source: the examples, as they were given.
  """

  def __init__(
      self,
      source: Sequence[Mapping[str, Any]],
      tokenizer: tokenization.Tokenizer,
      *,
      template: str,
      prompts_per_batch: int,
      max_prompt_length: int,
      seed: int,
      shuffle: bool = True,
      overlong: str = 'skip',
      shots: Sequence[tuple[str, str]] = (),
      process_index: int = 0,
      process_count: int = 1,
  ):
    """Makes the stream.

    Args:
      source: n examples with a text 'question', by index from 0.
      tokenizer: encodes the prompts.
      template: a name in `tokenization.TEMPLATES`.
      prompts_per_batch: how many a batch has, over all hosts.
      max_prompt_length: P, in tokens.
      seed: of the shuffling, from 0.
      shuffle: whether epochs are shuffled, or in the source's order.
      overlong: what befalls a prompt of more than P tokens: 'skip' passes over it and counts it,
        'error' refuses the source, all of which is encoded here and now.
      shots: (question, completion) of examples shown before each question. An example of the
        source that is among them is passed over.
      process_index: this host, which takes the contiguous block of that number.
      process_count: the number of hosts.

    Raises:
      ValueError: a setting is impossible, or a prompt is too long and `overlong` is 'error'.
    """
    if overlong not in ('skip', 'error'):
      raise ValueError(f'overlong={overlong!r} is unknown: say \'skip\' or \'error\'.')
    if max_prompt_length < 1:
      raise ValueError(f'max_prompt_length={max_prompt_length} leaves no prompt: raise it.')
    if not 0 < prompts_per_batch <= len(source):
      raise ValueError(
          f'prompts_per_batch={prompts_per_batch} does not suit a source of {len(source)} examples: take from 1 to '
          f'{len(source)}, or give more data.')
    if prompts_per_batch % process_count or not 0 <= process_index < process_count:
      raise ValueError(
          f'prompts_per_batch={prompts_per_batch} cannot be shared out to host {process_index} of '
          f'{process_count}: take a multiple of the number of hosts.')
    if seed < 0:
      raise ValueError(f'seed={seed} cannot shuffle the data: take one from 0.')
    self.source = source
    self._shots = tuple(shots)
    self._shown = {question for question, _ in shots}
    self._tokenizer = tokenizer
    self._template = template
    self._batch_size = prompts_per_batch
    self._max_prompt_length = max_prompt_length
    share = prompts_per_batch // process_count
    self._block = slice(process_index * share, (process_index + 1) * share)
    self._order = _Cycle(len(source))
    if shuffle:
      import grain
      places = grain.MapDataset.source(range(len(source)))
      self._order = places.seed(seed).shuffle().repeat()
    if overlong == 'error':
      for index in range(len(source)):
        length = len(self._encode(index))
        if length > max_prompt_length:
          raise ValueError(
              f'The prompt of example {index} has {length} tokens and the limit is '
              f'{max_prompt_length}: raise max_prompt_length or set overlong=\'skip\'.')

  def _encode(self, index: int) -> list[int]:
    question = tokenization.few_shot_question(
        self._template, self.source[index]['question'], self._shots)
    tokens = tokenization.encode_prompt(self._template, question, self._tokenizer)
    if not tokens:
      raise ValueError(f'The prompt of example {index} has no tokens: give it a question.')
    return tokens

  def _is_shown(self, index: int) -> bool:
    return bool(self._shown) and self.source[index]['question'] in self._shown

  def num_fitting(self, enough: int) -> int:
    """How many different prompts fit the limit, counted no further than `enough`."""
    fitting = 0
    for index in range(len(self.source)):
      fitting += (not self._is_shown(index)
                  and len(self._encode(index)) <= self._max_prompt_length)
      if fitting == enough:
        break
    return fitting

  def batch(self, counter: int) -> PromptBatch:
    """The batch that begins at the global example counter `counter`, from 0.

    Raises:
      ValueError: fewer different prompts fit than a batch needs, or one has no tokens.
    """
    start, prompts, skipped = counter, {}, 0
    while len(prompts) < self._batch_size:
      # Any 2n - 1 places in a row hold a whole epoch.
      if counter - start == 2 * len(self.source):
        raise ValueError(
            f'Only {len(prompts)} of the {len(self.source)} prompts have at most '
            f'max_prompt_length={self._max_prompt_length} tokens and prompts_per_batch='
            f'{self._batch_size} are needed: raise the former or lower the latter.')
      index = self._order[counter]
      counter += 1
      if self._is_shown(index):
        continue
      tokens = self._encode(index)
      if len(tokens) > self._max_prompt_length:
        skipped += 1
      else:
        prompts[index] = tokens  # Once, however often it is met.
    ids = list(prompts)[self._block]
    tokens, lengths = pad_prompts(
        [prompts[i] for i in ids], self._max_prompt_length, self._tokenizer.pad_id)
    return PromptBatch(
        prompt_tokens=tokens,
        prompt_lengths=lengths,
        example_ids=np.asarray(ids, np.int32),
        examples=[self.source[i] for i in ids],
        next_counter=counter,
        num_skipped=skipped)


class _Cycle:
  """0, 1, ..., n - 1 for ever, by index."""

  def __init__(self, n: int):
    self._n = n

  def __getitem__(self, index: int) -> int:
    return index % self._n


def pad_prompts(
    prompts: Iterable[Sequence[int]], max_prompt_length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Token lists of at most P tokens as ([B, P] int32 padded on the right, [B] int32 lengths)."""
  prompts = list(prompts)
  tokens = np.full((len(prompts), max_prompt_length), pad_id, np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[:len(prompt)] = prompt
  return tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)
