"""Rewards that shape how a completion is written, by the names that open-r1 gave them.

They are meant to stand beside an accuracy reward, with small weights. Departures from open-r1:
lengths are counted in tokens, never in characters; beyond its maximal length `cosine_length` stays
where it is, instead of rising again; a tag counts by where it stands, and a step by what it says.
"""
from collections.abc import Iterator, Mapping
import math
import re
from typing import Any, Literal

from r1jax.rewards import accuracy, text_statistics
from r1jax.rewards.choice import choice_reward
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import (
  ANSWER_CLOSING,
  ANSWER_OPENING,
  THINK_CLOSING,
  THINK_OPENING,
)
from r1jax.rewards.instructions import measures
from r1jax.rewards.language import chain_of_thought
from r1jax.rewards.parameters import bind, checked

_CORRECT = {
    'number': accuracy.number_reward,
    'gsm8k': accuracy.gsm8k_reward,
    'choice': choice_reward,
    'exact_match': accuracy.exact_match_reward,
}
_STEP = re.compile(
    r'^[ \t]*(?:[*#_]{0,4}step \d{1,3}\b|\d{1,3}[.)][ \t]|[-*•][ \t])'
    r'|\b(?:first(?:ly)?|second(?:ly)?|third(?:ly)?|next|then|finally)\b,|首先|其次|接着|然后|最后',
    re.IGNORECASE | re.MULTILINE)
_STEP_WORDS = 3    # different words that a step must have


def _cosine_faults(settings: Mapping[str, Any]) -> Iterator[str]:
  if settings['max_length'] < 1:
    yield f'max_length must be at least 1, got {settings["max_length"]}'
  for kind in ('wrong', 'correct'):
    low, high = settings[f'min_value_{kind}'], settings[f'max_value_{kind}']
    if low > high:
      yield f'min_value_{kind} must be at most max_value_{kind}={high}, got {low}'


@checked(_cosine_faults)
def cosine_length_reward(
    completion: Completion, example: Mapping, *,
    correct: Literal['number', 'gsm8k', 'choice', 'exact_match'] = 'number',
    max_length: int = 1000, min_value_wrong: float = -1.0, max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5, max_value_correct: float = 1.0,
    prompt_opens_think: bool = False) -> float | None:
  """Accuracy scaled by length: short right answers and long wrong ones are worth more.

  With x = min(1, tokens / max_length) and c = (1 + cos πx) / 2, the reward is
  min_value_correct + c · (max_value_correct − min_value_correct) where the answer is right, else
  max_value_wrong − c · (max_value_wrong − min_value_wrong). Source: Yeo et al., 2025, "Demystifying
  Long Chain-of-Thought Reasoning in LLMs", arXiv:2502.03373.

  Args:
    completion: the completion to judge; one that was cut at the length limit is wrong.
    example: as of the reward that decides what is right.
    correct: the reward that decides what is right.
    max_length: tokens from which on a completion is as long as can be.
    min_value_wrong: of the shortest wrong answer.
    max_value_wrong: of the longest wrong answer.
    min_value_correct: of the longest right answer.
    max_value_correct: of the shortest right answer.
    prompt_opens_think: whether the prompt ended with `<think>`.

  Returns:
    The reward, or None if `correct` cannot judge.
  """
  judge = bind(_CORRECT[correct], {}, prompt_opens_think=prompt_opens_think)
  verdict = judge(completion, example)
  if verdict is None:
    return None
  share = 0.5 + 0.5 * math.cos(math.pi * min(1.0, completion.num_tokens / max_length))
  if verdict == 1 and not completion.truncated:
    return min_value_correct + share * (max_value_correct - min_value_correct)
  return max_value_wrong - share * (max_value_wrong - min_value_wrong)


def _repetition_faults(settings: Mapping[str, Any]) -> Iterator[str]:
  if settings['ngram_size'] < 1:
    yield f'ngram_size must be at least 1, got {settings["ngram_size"]}'
  if settings['max_penalty'] > 0:
    yield f'max_penalty must be at most 0, got {settings["max_penalty"]}'


@checked(_repetition_faults)
def repetition_reward(
    completion: Completion, example: Mapping, *, ngram_size: int = 3, max_penalty: float = -1.0,
) -> float:
  """max_penalty times the share of n-grams that repeat an earlier one; 0 for a short text.

  See `text_statistics.repetition`. Source: Yeo et al., 2025, arXiv:2502.03373, appendix.

  Args:
    completion: the completion to judge, its chain of thought included.
    example: not used; every reward function takes one.
    ngram_size: words, Han characters and punctuation marks that make an n-gram.
    max_penalty: the reward of a text that only repeats itself.
  """
  del example
  return max_penalty * text_statistics.repetition(completion.text, ngram_size)


def tag_count_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float:
  """A quarter for each of the four tags that stands where it should, once.

  `<think>` begins the completion, `</think>` appears once, and of what follows it `<answer>` and
  `</answer>` appear once each, in this order. Tags that the chain of thought quotes do not matter.

  Args:
    completion: the completion to judge.
    example: not used; every reward function takes one.
    prompt_opens_think: whether the prompt ended with `<think>`.
  """
  del example
  text = completion.text
  opens = text.lstrip().startswith(THINK_OPENING) != prompt_opens_think
  after = text.rpartition(THINK_CLOSING)[2]
  opening, closing = after.count(ANSWER_OPENING) == 1, after.count(ANSWER_CLOSING) == 1
  if opening and closing:
    closing = after.index(ANSWER_OPENING) < after.index(ANSWER_CLOSING)
  return 0.25 * sum((opens, text.count(THINK_CLOSING) == 1, opening, closing))


def _step_faults(settings: Mapping[str, Any]) -> Iterator[str]:
  if settings['steps'] < 1:
    yield f'steps must be at least 1, got {settings["steps"]}'


@checked(_step_faults)
def reasoning_steps_reward(
    completion: Completion, example: Mapping, *, steps: int = 3) -> float:
  """min(1, steps found / steps): whether the chain of thought goes step by step.

  A step begins with `Step 1`, with a number or bullet at the start of a line, or with a word such
  as `First,` or `最后`. It counts if it has at least three different words, and once if it is
  repeated.

  Args:
    completion: the completion to judge.
    example: not used; every reward function takes one.
    steps: how many are enough.
  """
  del example
  chain = chain_of_thought(completion.text)
  markers = [match.span() for match in _STEP.finditer(chain)]
  ends = [start for start, _ in markers[1:]] + [len(chain)]
  found = set()
  for (_, start), end in zip(markers, ends):
    words = [word for word in measures.words(chain[start:end].casefold()) if not word.isdigit()]
    if len(set(words)) >= _STEP_WORDS:
      found.add(' '.join(words))
  return min(1.0, len(found) / steps)
