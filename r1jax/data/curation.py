r"""Curation: small filters that say why a sample is not fit to learn from, and a rewriter.

    curated = curate(samples, {'correct': {}, 'language': {'min_share': 0.95}, 'cap': {}}, seed=0)
    curated.kept, curated.refused, curated.counts

DeepSeek-R1 report, sections 2.3.1 (cold start) and 2.3.3 (rejection sampling): chains with mixed
languages, long paragraphs and code blocks are dropped; of the rest the correct ones are kept. What
"readable" means is not given in numbers there: the defaults here are ours.

The readable pattern of the cold start is `|special_token|<reasoning>|special_token|<summary>` in
the report. Here it is

    <think>reasoning</think> <answer>summary with the result in \boxed{}</answer>

so that the templates, the format reward and the accuracy rewards of R1-Zero hold for it as they
are: of a box inside an answer block the box is the answer. A cold start draws from R1-Zero, keeps
what the filters leave, rewrites it (`readable`), adds data of one's own in the same pattern
(`data.jsonl.reasoning_source`, `readable_completion`), and fine-tunes the base on it.
"""
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import random
import re
from typing import Any

from r1jax.rewards import exact_numbers, text_statistics
from r1jax.rewards.accuracy import canonical_answer
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import (
  ANSWER_CLOSING,
  ANSWER_OPENING,
  THINK_CLOSING,
  THINK_OPENING,
  extract_answer,
)
from r1jax.rewards.format import format_reward
from r1jax.rewards.language import chain_of_thought, count_words, identify, target_language


@dataclasses.dataclass(frozen=True)
class Sample:
  """A sampled completion and what is known of it.

  Attributes:
    question: the example's question, without the template.
    completion: its text, as sampled.
    correct: the accuracy reward's verdict; None where it could not judge.
    truncated: whether it was cut at the length limit.
    reasoning_tokens: tokens of `reasoning`.
    example_id: the question's index in its source.
    prompt_opens_think: whether the prompt ended with `<think>`, so that the completion begins inside it.
    language: what the example names as the language to answer in; '' is the question's own.
    objective: of the reward model whose question it is; '' where it is none's.
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

  @property
  def text(self) -> str:
    """The completion with the tag that its prompt ended with."""
    return THINK_OPENING * self.prompt_opens_think + self.completion

  @property
  def reasoning(self) -> str:
    return chain_of_thought(self.text)


Filter = Callable[[Sample], str | None]
WRONG = 'wrong answer'    # what `correct` says of what was judged


# Filters: each makes a `(sample) -> reason | None`, None for a sample that may stay.


def correct() -> Filter:
  """Refuses wrong answers, and those that could not be judged."""
  return lambda sample: {True: None, False: WRONG}.get(sample.correct, 'answer not judged')


def truncated() -> Filter:
  """Refuses what was cut at the length limit."""
  return lambda sample: 'truncated' if sample.truncated else None


def well_formed() -> Filter:
  """Refuses what the format reward does."""
  def check(sample):
    completion = Completion(sample.text, 0, sample.truncated)
    return None if format_reward(completion, {}) else 'not of the form think, answer'
  return check


def length(min_tokens: int, max_tokens: int) -> Filter:
  """Refuses reasoning of fewer or of more tokens; `max_tokens` of 0 is no limit."""
  if not 0 <= min_tokens <= (max_tokens or min_tokens):
    raise ValueError(f'min_tokens={min_tokens}, max_tokens={max_tokens} leave no length: use '
                     '0 <= min_tokens <= max_tokens, or max_tokens=0 for no limit')

  def check(sample):
    count = sample.reasoning_tokens
    if count < min_tokens:
      return f'too short: reasoning of {count} tokens'
    return f'too long: reasoning of {count} tokens' if 0 < max_tokens < count else None
  return check


def repetition(max_share: float, n: int) -> Filter:
  """Refuses reasoning where more than `max_share` of the n-grams repeat an earlier one."""
  _check_share(max_share=max_share)
  _check_at_least_1(n=n)

  def check(sample):
    share = text_statistics.repetition(sample.reasoning, n)
    return f'repetition of {share:.2f}' if share > max_share else None
  return check


def language(target: str, min_share: float) -> Filter:
  """Refuses reasoning with less than `min_share` of its words in the target language.

  A target of '' is the one that the sample names, else the question's own. For a question in no known language, or without
  words, the reasoning must be in some one language. Reasoning without words stays.
  """
  _check_share(min_share=min_share)
  target_language('', target)

  def check(sample):
    wanted = target_language(sample.question, target or sample.language)
    counts = count_words(sample.reasoning, expected=wanted)
    if not counts or counts[wanted or max(counts, key=counts.get)] >= min_share * counts.total():
      return None
    (most, count), *_ = counts.most_common()
    if wanted and most != wanted and count >= min_share * counts.total():
      return f'wrong language: {most} instead of {wanted}'
    parts = ', '.join(f'{name} {n / counts.total():.2f}' for name, n in counts.most_common())
    return f'mixed languages: {parts}'
  return check


def code() -> Filter:
  """Refuses code blocks in the reasoning."""
  blocks = re.compile(r'```|^ {0,3}~~~', re.MULTILINE)
  return lambda sample: 'code block' if blocks.search(sample.reasoning) else None


def paragraphs(max_characters: int) -> Filter:
  """Refuses reasoning with a paragraph (what stands between blank lines) of more characters."""
  _check_at_least_1(max_characters=max_characters)

  def check(sample):
    lines, longest, current = sample.reasoning.split('\n'), 0, 0
    for line in lines:
      current = current + len(line) + 1 if line.strip() else 0
      longest = max(longest, current - 1)
    return f'paragraph of {longest} characters' if longest > max_characters else None
  return check


# Filters of a set: each makes a `(samples, seed) -> {position: reason}` of those to refuse.


def duplicates(max_similarity: float) -> Callable:
  """Refuses what says the same as an earlier sample of the same question.

  The same is: equal but for case, white space and punctuation; or near, the Jaccard similarity of
  the two sets of three tokens in a row (words, numbers, Han characters, marks) being above
  `max_similarity`. Samples of different questions are never compared: their wording may well be
  alike. Time grows with the square of the samples of one question.
  """
  _check_share(max_similarity=max_similarity)

  def find(samples, seed):
    del seed
    earlier, found = {}, {}
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


def cap(per_prompt: int) -> Callable:
  """Leaves at most `per_prompt` samples of a question, drawn by the seed."""
  _check_at_least_1(per_prompt=per_prompt)

  def find(samples, seed):
    places = {}
    for place, sample in enumerate(samples):
      places.setdefault(_normalised(sample.question), []).append(place)
    found = {}
    for of_one in places.values():
      order = random.Random(f'{seed} {samples[of_one[0]].example_id}').sample(of_one, len(of_one))
      found |= dict.fromkeys(order[per_prompt:], f'more than {per_prompt} of this prompt')
    return found
  return find


# Name -> (maker, its settings by default). The order of the dicts is the order of work.
FILTERS: dict[str, tuple[Callable[..., Filter], dict[str, Any]]] = {
    'correct': (correct, {}), 'truncated': (truncated, {}), 'format': (well_formed, {}),
    'length': (length, dict(min_tokens=1, max_tokens=0)),
    'repetition': (repetition, dict(max_share=0.3, n=4)),
    'language': (language, dict(target='', min_share=0.9)),
    'code': (code, {}),
    'paragraphs': (paragraphs, dict(max_characters=2000)),
}
SET_FILTERS: dict[str, tuple[Callable[..., Callable], dict[str, Any]]] = {
    'duplicates': (duplicates, dict(max_similarity=0.9)),
    'cap': (cap, dict(per_prompt=4)),
}
SETTINGS = {name: settings for name, (_, settings) in (FILTERS | SET_FILTERS).items()}


def make_filters(filters: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable]:
  """The filters of these names and settings, in the order in which they work.

  Raises:
    ValueError: a setting is impossible. Names and types are the caller's to check (`SETTINGS`).
  """
  made = {}
  for name, (make, settings) in (FILTERS | SET_FILTERS).items():
    if name in filters:
      try:
        made[name] = make(**settings | dict(filters[name]))
      except ValueError as error:
        raise ValueError(f'filters.{name}: {error}') from None
  return made


@dataclasses.dataclass(frozen=True)
class Curated:
  """Samples sorted into kept and refused.

  Attributes:
    kept: in their order.
    refused: each with its reasons by filter, in their order.
    counts: drawn, kept, and `refused/<filter>` of every filter. A sample that several filters of
      `FILTERS` refuse counts for each; those of `SET_FILTERS` see only what is left.
  """
  kept: list[Sample]
  refused: list[tuple[Sample, dict[str, str]]]
  counts: dict[str, int]


def curate(
    samples: Sequence[Sample], filters: Mapping[str, Mapping[str, Any]], *, seed: int,
) -> Curated:
  """Applies filters to samples; the same seed leaves the same.

  Args:
    samples: in the order in which the first of several duplicates is kept.
    filters: settings that differ from the defaults, by name of `FILTERS` or `SET_FILTERS`.
    seed: of the draw of `cap`.

  Raises:
    ValueError: as `make_filters`.
  """
  made = make_filters(filters)
  reasons = [{} for _ in samples]
  for name in made:
    if name in FILTERS:
      for sample, why in zip(samples, reasons):
        reason = made[name](sample)
        if reason is not None:
          why[name] = reason
    else:
      left = [place for place, why in enumerate(reasons) if not why]
      for found, reason in made[name]([samples[place] for place in left], seed).items():
        reasons[left[found]][name] = reason
  counts = Counter(name for why in reasons for name in why)
  kept = [sample for sample, why in zip(samples, reasons) if not why]
  refused = [(sample, why) for sample, why in zip(samples, reasons) if why]
  return Curated(kept, refused, {'drawn': len(samples), 'kept': len(kept)} | {
      f'refused/{name}': counts[name] for name in made})


# The readable pattern.

SUMMARIES = {'en': 'The answer is {}.', 'zh': '答案是{}。', 'de': 'Die Antwort ist {}.',
             'es': 'La respuesta es {}.', 'fr': 'La réponse est {}.'}


def readable_completion(
    reasoning: str, summary: str, *, prompt: str = '', prompt_opens_think: bool = False) -> str:
  """Reasoning and summary in the readable pattern (see above).

  Args:
    reasoning: without tags; blank lines are made single.
    summary: what a reader is told in the end; for questions with one answer, in `\\boxed{}`.
    prompt: what the completion will follow: a space comes between where none is.
    prompt_opens_think: whether that prompt ends with `<think>`.
  """
  reasoning = re.sub(r'\n\s*\n', '\n\n', reasoning.strip())
  between = ' ' if prompt and not prompt[-1].isspace() else ''
  return (f'{"" if prompt_opens_think else between + THINK_OPENING}{reasoning}{THINK_CLOSING} '
          f'{ANSWER_OPENING}{summary.strip()}{ANSWER_CLOSING}')


def readable(sample: Sample) -> Sample | None:
  """The sample in the readable pattern, its answer in a sentence in the reasoning's language.

  White space before it stays. None for what has no reasoning, no answer that can be told from its
  prose, or one that would not be read back the same.
  """
  answer = extract_answer(sample.text, truncated=sample.truncated)
  if answer is None or not sample.reasoning:
    return None
  short = answer.text if answer.explicit else exact_numbers.last_number(answer.text)
  short = exact_numbers.undecorated(short or '').lstrip('$')
  if not short:
    return None
  spoken = identify(sample.reasoning) or identify(sample.question)
  summary = SUMMARIES.get(spoken, SUMMARIES['en']).replace('{}', f'\\boxed{{{short}}}')
  space = sample.completion[:1] if sample.completion[:1].isspace() else ''
  rewritten = dataclasses.replace(sample, completion=space * (not sample.prompt_opens_think) + (
      readable_completion(sample.reasoning, summary, prompt_opens_think=sample.prompt_opens_think)))
  same = canonical_answer(rewritten.text) == canonical_answer(
      sample.text, truncated=sample.truncated)
  return rewritten if same and well_formed()(rewritten) is None else None


# Helpers.

_IGNORED = re.compile(r'[\s.,;:!?。，、；：！？…]+')


def _normalised(text: str) -> str:
  return _IGNORED.sub(' ', text.casefold()).strip()


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
  tokens = text_statistics.tokens(text)
  return frozenset(zip(tokens, tokens[1:], tokens[2:])) or frozenset([tuple(tokens)])


def _jaccard(a: frozenset, b: frozenset) -> float:
  common = len(a & b)
  return common / (len(a) + len(b) - common)


def _check_share(**share: float) -> None:
  for name, value in share.items():
    if not 0 <= value <= 1:
      raise ValueError(f'{name}={value} is no share: use one from 0 to 1')


def _check_at_least_1(**count: int) -> None:
  for name, value in count.items():
    if value < 1:
      raise ValueError(f'{name}={value} leaves nothing: use at least 1')
