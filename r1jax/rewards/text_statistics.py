"""Statistics of completions that show what a policy is learning, good or bad.

Reflective words are those that the DeepSeek-R1 report counts (section on the "aha moment").
Repetition is, besides mixed languages (see `language`), what makes R1-Zero hard to read.
"""

import collections
import re

_MAX_CHARACTERS = 100_000
_REFLECTIVE = re.compile(
    r'(?<![A-Za-z])'
    r'(?:wait|mistake|however|but|retry|error|verify|wrong|evaluate|check)'
    r'(?![A-Za-z])'
    r'|等等|等一下|错误|错了|然而|不过|但是|重试|验证|评估|检查', re.IGNORECASE)
_HAN = r'[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]'
_TOKEN = re.compile(rf'{_HAN}|[^\W_\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]|_')


def reflective_words(text: str) -> int:
  """How many reflective words a text has: the report's ten and their Chinese counterparts.

  Whole words count, in upper or lower case; inflected forms (`checking`) do not.
  """
  return len(_REFLECTIVE.findall(text))


def tokens(text: str) -> list[str]:
  """Lower-case words and numbers, single Han characters and single punctuation marks."""
  return _TOKEN.findall(text.lower())


def repetition(text: str, n: int = 4) -> float:
  """The share of n-grams that repeat an earlier one: 1 − distinct n-grams / n-grams.

  This is seq-rep-n of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training",
  counted over `tokens`. It is 0 for a text of fewer than n tokens.
  """
  words = tokens(text)
  ngrams = list(zip(*(words[i:] for i in range(n))))
  return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def both_ends(text: str, most: int) -> str:
  """A text, or half of `most` characters from either end of a longer one."""
  return text if len(text) <= most else f'{text[:most // 2]} {text[-(most // 2):]}'


def variety(text: str) -> float:
  """1 for a text that says ever new things, towards 0 for one that repeats words or phrases.

  The least of three measures, each 1 in ordinary prose and in chains of calculations:

  * twice the share of 4-grams that are new (1 − `repetition`): a phrase again and again;
  * the share of words that differ from the word before, over 0.8: a word again and again;
  * the effective number of words, 1 / Σ p² for words of shares p, over the number expected, which
    is a 16th of all words and at most 4: one word between ever new numbers.

  Of a text of more than 100,000 characters, half as many are read at either end.
  """
  found = tokens(both_ends(text, _MAX_CHARACTERS))
  ngrams = list(zip(*(found[i:] for i in range(4))))
  new = len(set(ngrams)) / len(ngrams) if ngrams else 1.0
  said = [token for token in found if token[0].isalnum()]
  words = [word for word in said if not word[0].isdigit()]
  again = sum(word == before and word.isalpha() and not re.match(_HAN, word)    # 等等 is a word
              for before, word in zip(said, said[1:]))
  changing = 1 - again / len(words) if words else 1.0
  squares = sum(count ** 2 for count in collections.Counter(words).values())
  expected = min(4.0, len(words) / 16)
  effective = len(words) ** 2 / squares / expected if words else 1.0
  return min(1.0, 2 * new, changing / 0.8, effective)
