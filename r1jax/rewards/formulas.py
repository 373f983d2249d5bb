r"""Which pairs of formulas a worker is asked to compare.

math-verify decides whether two formulas are equivalent, but it accepts too much: `5,5,5` and
`1 = 2 = 5` for 5, a set for a point, a formula followed by prose. This module filters out such
pairs beforehand, from the texts alone, in linear time.

An answer in any form equivalent to the gold is correct. A task whose question already has such a
form (simplify, expand) can therefore be answered by repeating the question: use another reward.
"""

import re

_MAX_CHARACTERS = 300
_MAX_NESTING = 10

_COMMAND = re.compile(r'\\[A-Za-z]+')
_WRITTEN_OUT = re.compile(r'\\(?:text[a-z]*|mathrm|mbox|operatorname|begin|end)\{[^{}]*\}')
_WORD = re.compile(r'[A-Za-z]{4,}')
_FUNCTIONS = frozenset(('sqrt', 'sinh', 'cosh', 'tanh', 'arcsin', 'arccos', 'arctan'))
_LONG_DIGITS = re.compile(r'[0-9]{31}')
_SEPARATOR = re.compile(r'[,;±]|\b(?:and|or)\b|\\(?:pm|mp)(?![A-Za-z])')
_RELATION = re.compile(
    r'[<>=≠≤≥≈∈→]|\\(?:leq?|geq?|neq?|lt|gt|approx|equiv|sim|simeq|cong|in|to|rightarrow'
    r'|Rightarrow|implies|iff)(?![A-Za-z])')
_NAMED = re.compile(r'(?:[A-Za-z]|\\[a-z]+)(?:\([a-z]\))? *=')


def is_formula(text: str) -> bool:
  """Whether `text` looks like one short LaTeX formula rather than prose."""
  return _is_readable(text) and not _words(_WRITTEN_OUT.sub(' ', text))


def may_be_equivalent(gold: str, answer: str) -> bool:
  """Whether to ask math-verify if the formula `answer` is equivalent to the formula `gold`.

  False if the answer uses words that the gold does not, lists more or fewer items, puts a list in
  other brackets, or has more relations (such as `=` or `<`) than the gold, except that `x = 5` may
  answer 5.
  """
  if not _is_readable(answer) or not _words(answer) <= _words(gold):
    return False
  if _length(gold) != _length(answer):
    return False
  if _length(gold) > 1 and _brackets(gold) != _brackets(answer):
    return False
  relations = len(_RELATION.findall(answer))
  return relations <= len(_RELATION.findall(gold)) or (
      relations == 1 and _NAMED.match(answer) is not None)


def _is_readable(text: str) -> bool:
  """Whether a formula is short, printable, balanced and not nested too deeply."""
  if not 0 < len(text) <= _MAX_CHARACTERS or not text.isprintable():
    return False
  if _LONG_DIGITS.search(text) or '$' in text or r'\boxed' in text:
    return False
  depth = braces = 0
  for bracket in re.findall(r'\\[{}]|[][(){}]', text):
    step = 1 if bracket[-1] in '([{' else -1
    depth += step
    braces += step if bracket in '{}' else 0
    if depth > _MAX_NESTING or braces < 0:
      return False
  return braces == 0


def _words(text: str) -> set[str]:
  """The words of four letters or more that are neither LaTeX commands nor function names."""
  return set(_WORD.findall(_COMMAND.sub(' ', text))) - _FUNCTIONS


def _length(text: str) -> int:
  """The number of items that a formula lists."""
  return 1 + len(_SEPARATOR.findall(text))


def _brackets(text: str) -> str:
  """The pair of brackets around a formula, such as `(]`; empty if it has none."""
  text = text.replace(r'\left', '').replace(r'\right', '').strip()
  return text[0] + text[-1] if text[:1] in ('(', '[') and text[-1] in ')]' else ''
