"""The prompts of a rollout: reasoning alone, or reasoning and general data mixed in one batch."""
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from r1jax.data.prompts import Order, PromptBatch, PromptStream
from r1jax.stages import datasets
from r1jax.stages.datasets import Problems
from r1jax.tokenization import Tokenizer


class Counters(NamedTuple):
  """The position in the data: an example counter of each source."""
  reasoning: int = 0
  general: int = 0


class PromptMixture:
  """Batches of `config.prompts_per_batch` prompts; some may be of `config.general_prompts.data`.

  General prompts come last. Their example ids are offset by the number of reasoning examples:
  random keys are folded from ids, and no two prompts of a batch may share one.
  """

  def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, problems: Problems):
    """Opens the general data of a config of the stage; raises as `datasets.prompt_stream` does.

    Args:
      config: the stage's.
      tokenizer: encodes the prompts.
      problems: the reasoning examples.
    """
    general = config['general_prompts']
    self._prompts, self._general_prompts = config['prompts_per_batch'], general['prompts_per_batch']
    self._offset = len(problems.examples)
    self._whole = _stream(config, problems, tokenizer, self._prompts)
    if self._general_prompts:
      self._reasoning = _stream(config, problems, tokenizer, self._prompts - self._general_prompts)
      self._general = _stream(
          config, Problems(datasets.load_examples(general['data'], 'train')), tokenizer,
          self._general_prompts)

  def batch(
      self, counters: Counters, num_general: int, order: Order | None = None,
  ) -> tuple[PromptBatch, Counters]:
    """(the batch that begins at `counters`, the counters of the next one).

    Args:
      counters: the position in each source.
      num_general: how many prompts are general: 0 or `config.general_prompts.prompts_per_batch`.
        The batch's own `next_counter` is that of the reasoning examples.
      order: of the reasoning examples, as for `PromptStream.batch`.
    """
    if not num_general:
      whole = self._whole.batch(counters.reasoning, order)
      return whole, counters._replace(reasoning=whole.next_counter)
    first = self._reasoning.batch(counters.reasoning, order)
    last = self._general.batch(counters.general)
    ids = last.example_ids + np.int32(self._offset)
    mixed = PromptBatch(
        prompt_tokens=np.concatenate([first.prompt_tokens, last.prompt_tokens]),
        prompt_lengths=np.concatenate([first.prompt_lengths, last.prompt_lengths]),
        example_ids=np.concatenate([first.example_ids, ids]),
        examples=[*first.examples, *last.examples], next_counter=first.next_counter,
        num_skipped=first.num_skipped + last.num_skipped,
        num_spelling_control=first.num_spelling_control + last.num_spelling_control)
    return mixed, Counters(first.next_counter, last.next_counter)


def _stream(config, problems: Problems, tokenizer: Tokenizer, prompts: int) -> PromptStream:
  return datasets.prompt_stream(
      {**config, 'prompts_per_batch': prompts}, tokenizer, problems, shuffle=True)
