"""Batches of prompts, addressed by one global example counter.

The counter is the whole position in the data. Which examples follow it depends only on the source,
the seed and the settings, not on the number of hosts, so a run can resume on any number of hosts.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from r1jax import checks
from r1jax.errors import UserError
from r1jax.prompting import templates
from r1jax.tokenization import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptBatch:
  """The prompts of one host; B is its share of the batch, P the prompt length.

  Attributes:
    prompt_tokens: [B, P] int32, padded on the right.
    prompt_lengths: [B] int32, from 1 to P; only these tell tokens from padding.
    example_ids: [B] int32, the examples' indices in the source, distinct over all hosts.
    examples: the B examples as the source returned them.
    next_counter: the global example counter at which the next batch begins.
    num_skipped: number of prompts skipped because they were too long, over all hosts.
    num_spelling_control: number of prompts whose question spells control tokens that are
      encoded as text, over all hosts.
  """

  prompt_tokens: np.ndarray
  prompt_lengths: np.ndarray
  example_ids: np.ndarray
  examples: list[Mapping[str, Any]]
  next_counter: int
  num_skipped: int
  num_spelling_control: int = 0


class Order(Protocol):
  """The places, from 0, of an endless order of examples, by counter."""

  def __getitem__(self, counter: int, /) -> int: ...


class PromptStream:
  """An endless, random-access stream of prompt batches over a source of examples.

  Counter i stands for place i % n of epoch i // n, of the n examples that are read; each epoch has
  its own shuffled order (by grain). A batch takes the examples from its counter onwards whose
  prompts fit. An example that occurs twice in one batch, where two epochs meet, is skipped the
  second time, because its completions would use the same random keys.

  Args:
    source: n examples with a text 'question', by index from 0. Those with 'messages' are chats.
    tokenizer: encodes the prompts.
    template: a `templates.PromptFormat`, or a name in `templates.TEMPLATES`.
    prompts_per_batch: number of prompts in a batch, over all hosts.
    max_prompt_length: P, in tokens.
    seed: seed of the shuffling, at least 0.
    shuffle: whether epochs are shuffled or in the source's order.
    overlong: what happens to a prompt of more than P tokens: 'skip' skips and counts it, 'error'
      encodes the whole source at once and raises.
    shots: (question, completion) pairs shown before each question. An example of the source whose
      question is among them is skipped.
    indices: of the examples that are read, ascending; the others are as if they were not there.
    process_index: index of this host; host i takes the i-th contiguous block of each batch.
    process_count: number of hosts.

  Attributes:
    source: the examples.
    indices: of those that are read.

  Raises:
    UserError: a setting is impossible, the template fails or cannot show a question, or a prompt is
      too long and `overlong` is 'error'.
  """

  def __init__(
      self,
      source: Sequence[Mapping[str, Any]],
      tokenizer: Tokenizer,
      *,
      template: templates.Format,
      prompts_per_batch: int,
      max_prompt_length: int,
      seed: int,
      shuffle: bool = True,
      overlong: str = 'skip',
      shots: Sequence[tuple[str, str]] = (),
      indices: Sequence[int] | np.ndarray | None = None,
      process_index: int = 0,
      process_count: int = 1,
  ):
    checks.word(('skip', 'error'), overlong=overlong)
    checks.at_least(1, max_prompt_length=max_prompt_length)
    checks.at_least(0, seed=seed)
    self.source = source
    self.indices = range(len(source)) if indices is None else indices
    _check_batch_size(prompts_per_batch, len(self.indices), process_index, process_count)
    self._shots = tuple(shots)
    self._shown = {question for question, _ in shots}
    self._tokenizer = tokenizer
    self._template = templates.as_format(template)
    self._batch_size = prompts_per_batch
    self._max_prompt_length = max_prompt_length
    share = prompts_per_batch // process_count
    self._block = slice(process_index * share, (process_index + 1) * share)
    count = len(self.indices)
    self._order = _shuffled(count, seed) if shuffle else _Cycle(count)
    if isinstance(source, list):    # others make their examples on access
      for index, example in enumerate(source):
        self._check_question(index, templates.asked(example))
    templates.render_prompt(self._template, 'question', tokenizer)    # raises if it cannot
    if overlong == 'error':
      self._check_lengths()

  def _check_question(self, index: int, question: templates.Question) -> None:
    templates.check_question(self._template, question, f'The question of example {index}')

  def _check_lengths(self) -> None:
    for index in self.indices:
      length = len(self._encode(index))
      if length > self._max_prompt_length:
        raise UserError(
            f'The prompt of example {index} has {length} tokens and the limit is '
            f"{self._max_prompt_length}: raise max_prompt_length or set overlong='skip'.")

  def _encode(self, index: int) -> list[int]:
    question = templates.asked(self.source[index])
    self._check_question(index, question)
    tokens = templates.encode_prompt(
        self._template, templates.few_shot_question(self._template, question, self._shots),
        self._tokenizer)
    if not tokens:
      raise UserError(f'The prompt of example {index} has no tokens: give it a question.')
    return tokens

  def _is_shown(self, index: int) -> bool:
    return bool(self._shown) and self.source[index]['question'] in self._shown

  def num_fitting(self, enough: int) -> int:
    """The number of distinct prompts that fit the limit; counting stops at `enough`."""
    fitting = 0
    for index in self.indices:
      fitting += (not self._is_shown(index)
                  and len(self._encode(index)) <= self._max_prompt_length)
      if fitting == enough:
        break
    return fitting

  def batch(self, counter: int, order: Order | None = None) -> PromptBatch:
    """The batch that begins at the global example counter `counter`, from 0.

    Args:
      counter: the position in the data.
      order: where in `indices` the example of each counter is; by default that of the epochs.

    Raises:
      UserError: fewer distinct prompts fit than a batch needs, or one has no tokens.
    """
    order = self._order if order is None else order
    start, skipped = counter, 0
    prompts: dict[int, list[int]] = {}    # tokens by index, each index once
    while len(prompts) < self._batch_size:
      # Any 2n - 1 consecutive places contain a whole epoch.
      if counter - start == 2 * len(self.indices):
        raise UserError(
            f'Only {len(prompts)} of the {len(self.indices)} prompts have at most '
            f'max_prompt_length={self._max_prompt_length} tokens and prompts_per_batch='
            f'{self._batch_size} are needed: raise the former or lower the latter.')
      index = int(self.indices[order[counter]])
      counter += 1
      if self._is_shown(index):
        continue
      prompt = self._encode(index)
      if len(prompt) > self._max_prompt_length:
        skipped += 1
      else:
        prompts[index] = prompt
    ids = list(prompts)[self._block]
    tokens, lengths = pad_prompts(
        [prompts[i] for i in ids], self._max_prompt_length, self._tokenizer.pad_id)
    return PromptBatch(
        prompt_tokens=tokens,
        prompt_lengths=lengths,
        example_ids=np.asarray(ids, np.int32),
        examples=[self.source[i] for i in ids],
        next_counter=counter,
        num_skipped=skipped,
        num_spelling_control=sum(templates.spells_control_tokens(
            self._template, self._tokenizer, templates.asked(self.source[i])) for i in prompts))


def _check_batch_size(
    prompts_per_batch: int, num_examples: int, process_index: int, process_count: int) -> None:
  if not 0 < prompts_per_batch <= num_examples:
    raise UserError(
        f'prompts_per_batch={prompts_per_batch} does not suit a source of {num_examples} examples: '
        f'use 1 to {num_examples}, or give more data.')
  if not 0 <= process_index < process_count:
    raise ValueError(
        f'process_index={process_index} is out of range: use 0 to {process_count - 1}.')
  if prompts_per_batch % process_count:
    raise UserError(
        f'prompts_per_batch={prompts_per_batch} cannot be split evenly among {process_count} hosts:'
        ' use a multiple of the number of hosts.')


def _shuffled(n: int, seed: int):
  """The places of endless epochs by index, each epoch a new permutation of 0..n-1."""
  import grain
  return grain.MapDataset.source(range(n)).seed(seed).shuffle().repeat()


class _Cycle:
  """0, 1, ..., n - 1, 0, 1, ... by index."""

  def __init__(self, n: int):
    self._n = n

  def __getitem__(self, index: int) -> int:
    return index % self._n


def pad_prompts(
    prompts: Iterable[Sequence[int]], max_prompt_length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pads prompts to one length.

  Args:
    prompts: B lists of token ids, each of at most P tokens.
    max_prompt_length: P.
    pad_id: the token id to pad with.

  Returns:
    ([B, P] int32 tokens, padded on the right, [B] int32 lengths).
  """
  prompts = list(prompts)
  tokens = np.full((len(prompts), max_prompt_length), pad_id, np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[:len(prompt)] = prompt
  return tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)
