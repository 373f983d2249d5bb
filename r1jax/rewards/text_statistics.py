"""Readings of completions that show what a policy is learning, right or wrong.

Reflective words are those that the DeepSeek-R1 report counts (section on the "aha moment");
repetition and mixed languages are how R1-Zero's readability fails.
"""

import re

_REFLECTIVE = re.compile(
    r'(?<![A-Za-z])'
    r'(?:wait|mistake|however|but|retry|error|verify|wrong|evaluate|check)'
    r'(?![A-Za-z])'
    r'|等等|等一下|错误|错了|然而|不过|但是|重试|验证|评估|检查', re.IGNORECASE)
_HAN = r'[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]'
_TOKEN = re.compile(rf'{_HAN}|[^\W_\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]|_')
_NO_LANGUAGE = re.compile(
    r'```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$(?=\S)[^$\n]*(?<=\S)\$(?!\d)'
    r'|\\\([^\n]{0,300}?\\\)|\\\[.{0,300}?\\\]|</?[A-Za-z]+>|\\[A-Za-z]+', re.DOTALL)
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]{2,}(?:['’][A-Za-z]+)?")


def reflective_words(text: str) -> int:
  """How often words of reflection occur: the report's ten, and their Chinese counterparts.

  Whole words in any case; inflected forms (`checking`) are not counted.
  """
  return len(_REFLECTIVE.findall(text))


def repetition(text: str, n: int = 4) -> float:
  """The share of n-grams that repeat an earlier one: 1 − distinct n-grams / n-grams.

  seq-rep-n of Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", over
  lower-case words, single Han characters and single marks. 0 for a text shorter than n.
  """
  tokens = _TOKEN.findall(text.lower())
  ngrams = list(zip(*(tokens[i:] for i in range(n))))
  return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def language_shares(text: str) -> dict[str, float]:
  """The shares of Latin words and of Han characters in a text, `{'latin': ..., 'han': ...}`.

  A Han character counts like a word. Formulas, tags, code, digits and single Latin letters
  (variables) are no language. Both shares are 0 where no language is left, else they sum to 1.
  """
  text = _NO_LANGUAGE.sub(' ', text)
  counts = {'latin': len(_LATIN_WORD.findall(text)), 'han': len(re.findall(_HAN, text))}
  total = sum(counts.values()) or 1
  return {language: count / total for language, count in counts.items()}


def is_mixed(text: str) -> bool:
  """Whether a text mixes languages: the rarer one has more than a tenth of it."""
  return min(language_shares(text).values()) > 0.1
