r"""The language of each word of a text, and the language-consistency reward.

DeepSeek-R1 report, section 2.3.2: the reward is the share of words in the chain of thought that are
in the target language. The language of a word is found as follows:

* A Han character is a word of Chinese, or of `OTHER` in a text with kana (Japanese). A run of
  letters in any other non-Latin script is a word of `OTHER`.
* Latin words are classified together, by the most likely path of a small hidden Markov model. A
  word listed for some language (`language_words`) is less likely in the others by a fixed factor.
  An unlisted word is judged by its spelling, using letter trigrams of the lists. Changing language
  has a cost, so that a single name or loanword belongs to the language around it. A stretch that is
  not spelt like any of the languages is `OTHER`.
* Numbers, punctuation, tags, single letters, units, function names, short unlisted words in
  capitals, formulas and code have no language and are not counted. To keep prose from hiding there,
  `disguises` spells out what is written in other letters or spaced, and finds the prose in formulas
  and code: the argument of `\text`, five words in a row, other scripts, and, beyond a small share
  of the text, words that people say and programmers do not write. Long runs of letters and digits,
  and more than a few emoji, are words of `OTHER`.

The known languages are those of `LANGUAGES`; another language in Latin letters is classified as the
nearest of them, or as `OTHER`. A Han character counts as one word, because there are no spaces to
count words by. Every function takes time linear in the length of its text, of which at most
200,000 characters are read: half of them from either end.
"""
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
import functools
import math
import re
import unicodedata

from r1jax.errors import UserError
from r1jax.rewards import disguises, text_statistics
from r1jax.rewards.completion import Completion
from r1jax.rewards.disguises import HAN, KANA, LATIN
from r1jax.rewards.extract import ANSWER_OPENING, TAGS, THINK_CLOSING, THINK_OPENING
from r1jax.rewards.language_words import WORDS

LANGUAGES = {'en': 'English', 'zh': 'Chinese', 'de': 'German', 'es': 'Spanish', 'fr': 'French'}
OTHER = 'other'

_SWITCH = 6.0           # cost of changing language, in nats; a single foreign word pays it twice
_OTHER_LETTER = -3.6    # log-probability of a letter in `OTHER`: below that in a known language
_LISTED = 7.0           # nats by which a listed word is less likely in the other languages
_TRUST = 0.4            # weight of the spelling: trigrams from so few words are noisy
_LONGEST_WORD = 24      # letters of the longest word that counts as one
_FREE_WORDS = 3         # words hidden in code, coded or drawn that are not counted, ...
_FREE_SHARE = 0.2       # ... and per word of prose
_MAX_CHARACTERS = 200_000
_ANSWER_WORDS = 7       # words of a completion without tags that may repeat: it may be an answer
_MIXED = 0.1            # share of words in other languages above which a text is mixed

_NEITHER = rf'(?:(?![{HAN}{KANA}{LATIN}])[^\W\d_]|[\u2801-\u28ff])'    # Braille is a script, too
_TWINS = '\u0400-\u052f\u0531-\u0587\u13a0-\u13fd\uab70-\uabbf\ua4d0-\ua4f7'    # as Cyrillic
_BEYOND = rf'(?:[{LATIN}]|{_NEITHER})'
_WORD = re.compile(
    rf'(?P<han>[{HAN}])|(?P<kana>[{KANA}])'
    rf'|(?P<other>[{LATIN}]{{1,20}}(?:[{_TWINS}]|[\u0370-\u03ff](?=[{LATIN}])){_BEYOND}{{0,20}}'
    rf'|[{_TWINS}]{_BEYOND}{{1,20}}|{_NEITHER}{{2,20}})'
    rf"|(?P<latin>[{LATIN}]{{1,40}}(?:['’][{LATIN}]{{1,40}})?)"
    r'|(?P<emoji>[\u2600-\u2775\u2794-\u27bf\U0001f000-\U0001faff])')
_CODED = re.compile('[A-Za-z0-9]{24,}')
_NOTATION = frozenset(
    'sin cos tan cot sec arcsin arccos arctan sinh cosh tanh log ln exp max min mod gcd lcm lim '
    'det sup inf arg int abs sqrt floor ceil mm cm dm km kg mg ml cl dl kmh mph ft lb lbs oz hr '
    'hrs st nd rd th px eq rhs lhs'.split())


class _Spelling:
  """Letter trigrams of a list of words, smoothed by bigrams and letters (Witten and Bell)."""

  def __init__(self, words: Iterable[str]):
    self._counts: Counter[tuple[str, str]] = Counter()    # of (context, next letter)
    self._totals: Counter[str] = Counter()                # of a context
    self._kinds: Counter[str] = Counter()                 # distinct letters after a context
    for word in words:
      for context, letter in self._steps(word):
        for start in range(len(context) + 1):
          tail = context[start:]
          self._totals[tail] += 1
          self._kinds[tail] += not self._counts[tail, letter]
          self._counts[tail, letter] += 1

  @staticmethod
  def _steps(word: str) -> Iterator[tuple[str, str]]:
    """(the two letters before it, letter) for each letter of a word and its end."""
    padded = f'  {word} '
    return ((padded[i - 2:i], padded[i]) for i in range(2, len(padded)))

  def _probability(self, context: str, letter: str) -> float:
    """P(letter | context), smoothed with P(letter | shorter context)."""
    shorter = self._probability(context[1:], letter) if context else 1 / 200
    kinds = self._kinds[context]
    if not kinds:
      return shorter
    return (self._counts[context, letter] + kinds * shorter) / (self._totals[context] + kinds)

  def log_probability(self, word: str) -> float:
    """The log-probability of a word's letters and its end, in nats."""
    return sum(math.log(self._probability(*step)) for step in self._steps(word))


_SPELLINGS = {language: _Spelling(sorted(words)) for language, words in WORDS.items()}
_STATES = (*_SPELLINGS, OTHER)


@functools.lru_cache(maxsize=1 << 16)
def _emissions(word: str) -> tuple[float, ...] | None:
  """Log P(word | state) for each of `_STATES`; None for what does not count as a word."""
  plain = unicodedata.normalize('NFKC', word)
  short_capitals = plain.isupper() and len(plain) <= 4
  plain = plain.lower().replace('’', "'")
  listed = [plain in words for words in WORDS.values()]
  if len(plain) < 2 or plain in _NOTATION or (short_capitals and not any(listed)):
    return None
  if any(listed):
    return (*(0.0 if found else -_LISTED for found in listed), -_LISTED)
  known = (_TRUST * _SPELLINGS[language].log_probability(plain) for language in WORDS)
  return (*known, _TRUST * _OTHER_LETTER * (len(plain) + 1))


def _likeliest_path(words: list[str], first: str | None) -> Counter[str]:
  """The number of words in each state on the Viterbi path; starting in `first` costs nothing."""
  found = [(emission, _weight(word)) for word in words
           if (emission := _emissions(word)) is not None]
  states = range(len(_STATES))
  scores = [0.0 if first in (None, state) else -_SWITCH for state in _STATES]
  origins = []
  for emission, _ in found:
    top = max(states, key=scores.__getitem__)
    entered = scores[top] - _SWITCH
    origin = [i if scores[i] >= entered else top for i in states]
    scores = [(scores[i] if scores[i] >= entered else entered) + emission[i] for i in states]
    origins.append(origin)
  counts = [0] * len(_STATES)
  state = max(states, key=scores.__getitem__)
  for origin, (_, weight) in zip(reversed(origins), reversed(found)):
    counts[state] += weight
    state = origin[state]
  return Counter({name: count for name, count in zip(_STATES, counts) if count})


def _weight(word: str) -> int:
  """The number of words that a run of letters counts as: words may be written without spaces."""
  return 1 if len(word) <= _LONGEST_WORD else len(word) // 8


def count_words(text: str, *, expected: str | None = None) -> Counter[str]:
  """The number of words of a text in each of `LANGUAGES` and `OTHER`.

  Args:
    text: any text.
    expected: the language that the text is assumed to start in when its first words exist in
      several.
  """
  first = expected if expected in _STATES else None
  text = text_statistics.both_ends(text, _MAX_CHARACTERS)
  prose, hidden = disguises.split(disguises.undisguised(text))
  kinds: Counter[str | None] = Counter()
  latin = []
  for match in _WORD.finditer(prose):
    kinds[match.lastgroup] += 1
    if match.lastgroup == 'latin':
      latin.append(match[0])
  han, kana = kinds['han'], kinds['kana']
  japanese = 4 * kana > han
  counts = Counter({'zh': 0 if japanese else han,
                    OTHER: kinds['other'] + kana + han * japanese})
  counts = +counts + _likeliest_path(latin, first)
  free = _FREE_WORDS + _FREE_SHARE * counts.total()    # so many words hide without being counted
  coded = sum(len(run) // 6 for run in _CODED.findall(text) if not run.isalpha() | run.isdigit())
  signs = max(kinds['emoji'] - free, 0) + (coded if coded > free else 0)
  return counts + _count_hidden(hidden, free, first) + Counter({OTHER: round(signs)})


def _count_hidden(hidden: disguises.Hidden, free: float, first: str | None) -> Counter[str]:
  """The words of formulas and code that are prose, estimated; none if they are at most `free`.

  In prose about every third word is one that no variable is named by.
  """
  spoken = len(hidden.spoken) if len(hidden.spoken) > 1 else 0
  size = max(3 * spoken, len(hidden.plain))
  if size <= free:
    return Counter()
  counts = _likeliest_path(hidden.spoken, first) if spoken else _likeliest_path(hidden.plain, first)
  return Counter({name: round(count * size / counts.total()) for name, count in counts.items()})


def language_shares(text: str) -> dict[str, float]:
  """The share of a text's words in each language it contains; empty if it has no words."""
  counts = count_words(text)
  return {language: count / counts.total() for language, count in counts.items()}


def is_mixed(text: str) -> bool:
  """Whether more than a tenth of a text's words are not in its most frequent language."""
  return max(language_shares(text).values(), default=1.0) < 1 - _MIXED


def identify(text: str) -> str | None:
  """The most frequent language of a text (of `LANGUAGES`, or `OTHER`); None if it has no words."""
  counts = count_words(text)
  return max(sorted(counts), key=counts.__getitem__) if counts else None


def target_language(question: str, named: str | None = None) -> str | None:
  """The language to answer a question in: the named one if any, else the question's own.

  Args:
    question: the question's text.
    named: a key of `LANGUAGES`, optionally with a region (`zh-CN`); None or '' names none.

  Returns:
    A key of `LANGUAGES`, or None if none is named and the question is in none of them.

  Raises:
    UserError: `named` is not a known language.
  """
  if not named:
    found = identify(question)
    return found if found in LANGUAGES else None
  name = re.split('[-_]', str(named))[0].lower()
  if name not in LANGUAGES:
    known = ', '.join(f'{code} ({language})' for code, language in LANGUAGES.items())
    raise UserError(f'The language {named!r} is not known: name one of {known}, or none, to use '
                     'the language of the question')
  return name


def chain_of_thought(text: str) -> str:
  """A completion's text up to its last `</think>`, else up to its answer block, else all of it."""
  chain, closing, _ = text.rpartition(THINK_CLOSING)
  if not closing:
    chain = text.partition(ANSWER_OPENING)[0]
  return chain.strip().removeprefix(THINK_OPENING).strip()


def consistency(text: str, target: str) -> float | None:
  """The share of a text's words that are in the target language; None if it has no words."""
  counts = count_words(text, expected=target)
  return counts[target] / counts.total() if counts else None


def language_reward(
    completion: Completion, example: Mapping, *, target: str | None = None,
) -> float | None:
  """The share of words in the chain of thought that are in the target language.

  A chain that repeats itself gets less: the share is multiplied by `text_statistics.variety`, which
  is 1 for ordinary prose. A chain of only numbers, formulas and code, without words, gets 1,
  because it mixes no languages. A completion without a chain, or without letters and digits in it,
  gets 0.

  Args:
    completion: its chain of thought is found by `chain_of_thought`.
    example: may name its `'language'`; otherwise the target is the language of its `'question'`.
    target: a language that overrides what the examples name.

  Returns:
    The share, or None if the question has no words or is not in a known language.

  Raises:
    UserError: `target`, or the language that the example names, is unknown.
  """
  named = target or example.get('language')
  language = target_language('' if named else str(example['question']), named)
  if language is None:
    return None
  chain = chain_of_thought(completion.text)
  if not chain:
    return 0.0
  share = consistency(chain, language)
  if share is None:
    share = float(any(char.isalnum() for char in chain))
  may_be_answer = not any(tag in completion.text for tag in TAGS)
  if may_be_answer and len(chain.split(None, _ANSWER_WORDS)) <= _ANSWER_WORDS:
    return share
  return share * text_statistics.variety(chain)
