"""Statistics of completions that show what a policy is learning, good or bad.

Reflective words are those that the DeepSeek-R1 report counts (section on the "aha moment").
Repetition is, besides mixed languages (see `language`), what makes R1-Zero hard to read.
"""

import re

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
