"""Answers that are words: a day, yes or no, the letter of a choice, names in any order."""

import re

from r1jax.rewards import spelling

_MAX_WORDS = 6
_MAX_CHARACTERS = 80
_ARTICLES = frozenset(('a', 'an', 'the'))
_LEAD_IN = re.compile(
    r"(?P<words>(?:[A-Za-z']+ +){1,8}?)(?:is|are|equals|be)(?: equal to)?\b *:? *"
    r'|(?:the )?(?:final )?(?:answers?|solutions?|results?|ans) *[:=] *'
    r'|(?:答案|结果|最终答案|解)(?:是|为|等于|:)+ *|(?:so|thus|hence|therefore)\b,? +',
    re.IGNORECASE)
_TAIL_CHARACTERS = 1000
_SPAN = re.compile(r'\$[^$]{1,300}\$|\\\([^\n]{1,300}?\\\)')
_AFTER = re.compile(r'[ .,!*]*')
_BETWEEN = re.compile(r' *,? *(?:and|or)? *')
_SENTENCE = re.compile(r'[.!?] ')
_NEGATIONS = frozenset((
    'not', 'no', 'never', 'wrong', 'incorrect', 'false', 'neither', 'nor', 'cannot', 'if', 'or',
    'than', "isn't", "aren't", "doesn't", "don't", 'unless', 'either', 'unlikely'))
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_LISTED = re.compile(r',|;|&|\band\b|和|与', re.IGNORECASE)
_CHOICE = re.compile(r'\(([A-Z])\)')
_CHOICE_WITH_NOISE = re.compile(r'(?:option|choice)? *\(?([A-Za-z])\)?\.?', re.IGNORECASE)
_ALIASES = {
    'no solutions': 'no solution', 'no real solution': 'no real solutions',
    'does not exist': 'dne', 'doesnt exist': 'dne', 'none of above': 'none of these',
    'true': 'true', '是': 'yes', '否': 'no', '不是': 'no', '对': 'true', '错': 'false', 't': 't'}
_AS_FORMULAS = (
    (re.compile(r'(?:the set of )?all real(?:s| numbers?)|the real numbers|实数'), r'\mathbb{R}'),
    (re.compile(r'(?:the )?empty set|no solutions?|空集|无解'), r'\emptyset'),
    (re.compile(r'(?:positive )?infinity|无穷大'), r'\infty'),
    (re.compile(r'(?:negative|minus) infinity'), r'-\infty'))


def without_lead_in(text: str) -> str:
  """An answer without "The answer is", "So the length is" and the like in front of it."""
  match = _LEAD_IN.match(text)
  if match is None or match.end() == len(text):
    return text
  words = (match['words'] or '').lower().split()
  return text if _NEGATIONS.intersection(words) else text[match.end():]


def stated(text: str) -> str:
  r"""The answer that prose ends with: its last line, or the formulas that end that line.

  Formulas in math delimiters that are listed (`are $1$ and $2$.`) are one answer; none are taken
  from a sentence that denies or doubts.
  """
  text = text.rstrip()[-_TAIL_CHARACTERS:]
  for opening, closing in ((r'\[', r'\]'), ('$$', '$$')):
    bare = text.removesuffix('.').rstrip()
    if bare.endswith(closing):
      return bare[:-2].rpartition(opening)[2].strip()
  line = text.rpartition('\n')[2].strip()
  spans = list(_SPAN.finditer(line))
  if not spans or _AFTER.fullmatch(line, spans[-1].end()) is None:
    return line
  first = len(spans) - 1
  while first > 0 and _BETWEEN.fullmatch(line, spans[first - 1].end(), spans[first].start()):
    first -= 1
  sentence = _SENTENCE.split(line[:spans[first].start()])[-1]
  if _NEGATIONS.intersection(re.findall(r"[a-z']+", sentence.lower())):
    return line
  return line[spans[first].start():]


def as_formula(text: str) -> str:
  """An answer in words as the formula that says the same: `all real numbers`, `no solution`."""
  words = ' '.join(_words(text))
  for pattern, formula in _AS_FORMULAS:
    if pattern.fullmatch(words) or pattern.fullmatch(spelling.plain(text).strip().lower()):
      return formula
  return text


def choice(text: str) -> str | None:
  r"""The letter of a gold such as `(B)` or `\text{(B)}`; None for any other."""
  match = _CHOICE.fullmatch(spelling.plain(text).strip())
  return match[1] if match else None


def same_choice(gold: str, answer: str) -> bool:
  """Whether an answer is one letter, in brackets or bare."""
  match = _CHOICE_WITH_NOISE.fullmatch(spelling.plain(answer).strip(' .*'))
  return match is not None and match[1].upper() == gold


def is_prose(text: str) -> bool:
  """Whether a text is too long to be compared word by word."""
  return len(text) > _MAX_CHARACTERS or len(_words(text)) > _MAX_WORDS


def same_text(gold: str, answer: str) -> bool:
  """Whether two texts have the same words, without regard to case, articles and punctuation.

  Names that the gold lists (`Alice and Bob`) may come in any order.
  """
  if len(answer) > 4 * _MAX_CHARACTERS or set('?<>=+^~') & set(answer) - set(gold):
    return False
  one, other = _words(gold), _words(answer)
  if other and other[0] in ('on', 'in', 'at'):
    other = other[1:]
  if ''.join(one) == ''.join(other):
    return bool(one)
  if ' '.join(one) in _ALIASES or ' '.join(other) in _ALIASES:
    return _alias(one) == _alias(other)
  items = [sorted(''.join(_words(item)) for item in _LISTED.split(spelling.plain(text))
                  if _words(item)) for text in (gold, answer)]
  return len(items[0]) > 1 and items[0] == items[1]


def _words(text: str) -> list[str]:
  found = _WORD.findall(spelling.plain(text).casefold().replace("'", ''))
  return [word for word in found if word not in _ARTICLES] or found


def _alias(words: list[str]) -> str:
  text = ' '.join(words)
  return _ALIASES.get(text, text)
