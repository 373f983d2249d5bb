"""Curation: small filters that say why a sample should not be learnt from.

    curated = curate(samples, {'correct': {}, 'language': {'min_share': 0.95}, 'cap': {}}, seed=0)
    curated.kept, curated.refused, curated.counts

DeepSeek-R1 report, sections 2.3.1 (cold start) and 2.3.3 (rejection sampling): chains of thought
with mixed languages, long paragraphs or code blocks are dropped, and of the rest the correct ones
are kept. The report gives no numbers for what is readable: the defaults here are ours.
"""
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import random
import re
from typing import Any

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards import text_statistics
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import THINK_OPENING
from r1jax.rewards.format import format_reward
from r1jax.rewards.language import chain_of_thought, count_words, target_language


@dataclasses.dataclass(frozen=True)
class Sample:
  """A sampled completion and what is known of it.

  Attributes:
    question: the example's question, without the template.
    completion: the text as sampled.
    correct: the verdict of the accuracy reward; None if it could not judge.
    truncated: whether the completion was cut at the length limit.
    reasoning_tokens: number of tokens of `reasoning`.
    example_id: the question's index in its source.
    prompt_opens_think: whether the prompt ended with `<think>`, so that the completion begins
      inside the reasoning.
    language: the language to answer in that the example names; '' for that of the question.
    objective: the objective of the reward model that the question is for; '' if it is for none.
    messages: the whole chat, where it is more than the question.
  """
  question: str
  completion: str
  correct: bool | None = True
  truncated: bool = False
  reasoning_tokens: int = 0
  example_id: int = 0
  prompt_opens_think: bool = False
  language: str = ''
  objective: str = ''
  messages: Sequence[Mapping[str, str]] = ()

  @property
  def text(self) -> str:
    """The completion, with the tag `<think>` if its prompt ended with it."""
    return THINK_OPENING * self.prompt_opens_think + self.completion

  @property
  def reasoning(self) -> str:
    """The chain of thought, without tags."""
    return chain_of_thought(self.text)


Filter = Callable[[Sample], str | None]
SetFilter = Callable[[Sequence[Sample], int], dict[int, str]]
WRONG = 'wrong answer'    # the reason of `correct` for an answer that was judged


# Filters of single samples. Each function returns a filter `(sample) -> reason | None`, which gives
# the reason to refuse a sample, or None to keep it.


def correct() -> Filter:
  """Refuses wrong answers and answers that could not be judged."""
  def check(sample: Sample) -> str | None:
    if sample.correct is None:
      return 'answer not judged'
    return None if sample.correct else WRONG
  return check


def truncated() -> Filter:
  """Refuses completions that were cut at the length limit."""
  return lambda sample: 'truncated' if sample.truncated else None


def well_formed() -> Filter:
  """Refuses completions that get no format reward."""
  def check(sample: Sample) -> str | None:
    completion = Completion(sample.text, 0, sample.truncated)
    return None if format_reward(completion, {}) else 'not of the form think, answer'
  return check


def length(min_tokens: int, max_tokens: int) -> Filter:
  """Refuses reasoning of fewer than `min_tokens` or more than `max_tokens` tokens (0: no limit)."""
  if not 0 <= min_tokens <= (max_tokens or min_tokens):
    raise UserError(f'min_tokens={min_tokens}, max_tokens={max_tokens} are impossible: use '
                     '0 <= min_tokens <= max_tokens, or max_tokens=0 for no limit')

  def check(sample: Sample) -> str | None:
    count = sample.reasoning_tokens
    if count < min_tokens:
      return f'too short: reasoning of {count} tokens'
    return f'too long: reasoning of {count} tokens' if 0 < max_tokens < count else None
  return check


def repetition(max_share: float, n: int) -> Filter:
  """Refuses reasoning in which more than `max_share` of the n-grams repeat an earlier one."""
  _check_share(max_share=max_share)
  checks.at_least(1, n=n)

  def check(sample: Sample) -> str | None:
    share = text_statistics.repetition(sample.reasoning, n)
    return f'repetition of {share:.2f}' if share > max_share else None
  return check


def language(target: str, min_share: float) -> Filter:
  """Refuses reasoning with less than `min_share` of its words in the target language.

  Reasoning without words is kept.

  Args:
    target: the target language; '' stands for the one that the sample names, or else that of its
      question. If the question has no words or is not in a known language, the reasoning may be in
      any single language.
    min_share: from 0 to 1.
  """
  _check_share(min_share=min_share)
  target_language('', target)    # raises if the target is unknown

  def check(sample: Sample) -> str | None:
    wanted = target_language(sample.question, target or sample.language)
    counts = count_words(sample.reasoning, expected=wanted)
    if not counts:
      return None
    needed = min_share * counts.total()
    if counts[wanted or max(counts, key=counts.__getitem__)] >= needed:
      return None
    (most, count), *_ = counts.most_common()
    if wanted and most != wanted and count >= needed:
      return f'wrong language: {most} instead of {wanted}'
    shares = ', '.join(f'{name} {n / counts.total():.2f}' for name, n in counts.most_common())
    return f'mixed languages: {shares}'
  return check


def code() -> Filter:
  """Refuses reasoning with a code block."""
  blocks = re.compile(r'```|^ {0,3}~~~', re.MULTILINE)
  return lambda sample: 'code block' if blocks.search(sample.reasoning) else None


def paragraphs(max_characters: int) -> Filter:
  """Refuses reasoning with a paragraph of more than `max_characters` between blank lines."""
  checks.at_least(1, max_characters=max_characters)

  def check(sample: Sample) -> str | None:
    lines, longest, current = sample.reasoning.split('\n'), 0, 0
    for line in lines:
      current = current + len(line) + 1 if line.strip() else 0
      longest = max(longest, current - 1)
    return f'paragraph of {longest} characters' if longest > max_characters else None
  return check


# Filters of a set of samples. Each function returns a filter `(samples, seed) -> {index: reason}`
# of the samples to refuse.


def duplicates(max_similarity: float) -> SetFilter:
  """Refuses samples that say the same as an earlier sample of the same question.

  Two samples say the same if they are equal apart from case, white space and punctuation, or if the
  Jaccard similarity of their sets of token trigrams (tokens are words, numbers, Han characters and
  punctuation marks) exceeds `max_similarity`. Samples of different questions are never compared,
  because their wording may well be similar. Time grows with the square of the number of samples per
  question.
  """
  _check_share(max_similarity=max_similarity)

  def find(samples: Sequence[Sample], seed: int) -> dict[int, str]:
    del seed
    earlier: dict[str, dict[str, frozenset]] = {}
    found = {}
    for place, sample in enumerate(samples):
      key, shingles = _normalised(sample.completion), _shingles(sample.completion)
      others = earlier.setdefault(_normalised(sample.question), {})
      similarity = max((_jaccard(shingles, other) for other in others.values()), default=0.0)
      if key in others:
        found[place] = 'duplicate'
      elif similarity > max_similarity:
        found[place] = f'near-duplicate, similarity {similarity:.2f}'
      else:
        others[key] = shingles
    return found
  return find


def cap(per_prompt: int) -> SetFilter:
  """Keeps at most `per_prompt` samples of a question, drawn at random by the seed."""
  checks.at_least(1, per_prompt=per_prompt)

  def find(samples: Sequence[Sample], seed: int) -> dict[int, str]:
    places: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
      places.setdefault(_normalised(sample.question), []).append(place)
    found: dict[int, str] = {}
    for of_one in places.values():
      order = random.Random(f'{seed} {samples[of_one[0]].example_id}').sample(of_one, len(of_one))
      found |= dict.fromkeys(order[per_prompt:], f'more than {per_prompt} of this prompt')
    return found
  return find


# Name -> (function that makes the filter, default settings), in the order of application.
FILTERS: dict[str, tuple[Callable[..., Filter], dict[str, Any]]] = {
    'correct': (correct, {}), 'truncated': (truncated, {}), 'format': (well_formed, {}),
    'length': (length, dict(min_tokens=1, max_tokens=0)),
    'repetition': (repetition, dict(max_share=0.3, n=4)),
    'language': (language, dict(target='', min_share=0.9)),
    'code': (code, {}),
    'paragraphs': (paragraphs, dict(max_characters=2000)),
}
SET_FILTERS: dict[str, tuple[Callable[..., SetFilter], dict[str, Any]]] = {
    'duplicates': (duplicates, dict(max_similarity=0.9)),
    'cap': (cap, dict(per_prompt=4)),
}
SETTINGS = {name: settings for name, (_, settings) in (FILTERS | SET_FILTERS).items()}


def make_filters(filters: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable]:
  """The filters with these names and settings, in the order of application.

  Args:
    filters: settings that differ from the defaults, by filter name. The caller checks names and
      types, by `SETTINGS`.

  Raises:
    UserError: a setting is out of range.
  """
  made = {}
  for name, (make, settings) in (FILTERS | SET_FILTERS).items():
    if name in filters:
      try:
        made[name] = make(**settings | dict(filters[name]))
      except ValueError as error:
        raise UserError(f'filters.{name}: {error}') from None
  return made


@dataclasses.dataclass(frozen=True)
class Curated:
  """Samples divided into kept and refused ones, both in their original order.

  Attributes:
    kept: the kept samples.
    refused: the refused samples, each with its reasons by filter name.
    counts: `drawn`, `kept`, and `refused/<filter>` for every filter. A sample that several of
      `FILTERS` refuse counts for each of them; `SET_FILTERS` see only the samples left by others.
  """
  kept: list[Sample]
  refused: list[tuple[Sample, dict[str, str]]]
  counts: dict[str, int]


def curate(
    samples: Sequence[Sample], filters: Mapping[str, Mapping[str, Any]], *, seed: int,
) -> Curated:
  """Applies filters to samples; the result depends only on the arguments.

  Args:
    samples: the samples; the first of several duplicates is kept.
    filters: settings that differ from the defaults, by name in `FILTERS` or `SET_FILTERS`.
    seed: seed of the draws of `cap`.

  Raises:
    UserError: a setting is out of range.
  """
  made = make_filters(filters)
  reasons: list[dict[str, str]] = [{} for _ in samples]    # of each sample, by filter
  for name, apply in made.items():
    if name in FILTERS:
      for sample, found in zip(samples, reasons):
        reason = apply(sample)
        if reason is not None:
          found[name] = reason
    else:
      left = [place for place, found in enumerate(reasons) if not found]
      for index, reason in apply([samples[place] for place in left], seed).items():
        reasons[left[index]][name] = reason
  counts = Counter(name for found in reasons for name in found)
  kept = [sample for sample, found in zip(samples, reasons) if not found]
  refused = [(sample, found) for sample, found in zip(samples, reasons) if found]
  return Curated(kept, refused, {'drawn': len(samples), 'kept': len(kept)} | {
      f'refused/{name}': counts[name] for name in made})


_IGNORED = re.compile(r'[\s.,;:!?。，、；：！？…]+')


def _normalised(text: str) -> str:
  """The text without case, and with a space for each run of white space and punctuation."""
  return _IGNORED.sub(' ', text.casefold()).strip()


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
  """The set of token trigrams; of a shorter text, all of its tokens."""
  tokens = text_statistics.tokens(text)
  return frozenset(zip(tokens, tokens[1:], tokens[2:])) or frozenset([tuple(tokens)])


def _jaccard(a: frozenset, b: frozenset) -> float:
  common = len(a & b)
  return common / (len(a) + len(b) - common)


def _check_share(**share: float) -> None:
  for name, value in share.items():
    if not 0 <= value <= 1:
      raise UserError(f'{name}={value} is out of range: use 0 to 1')
