r"""Which formulas a worker is asked to compare.

math-verify decides whether two formulas are equivalent, but takes more for right than is: `5,5,5`
and `1 = 2 = 5` for 5, a set for a point, a formula with prose behind it. What it must not be asked
is sorted out here, from the texts alone, in linear time.

An answer equivalent to the gold is right in any form, so a task whose question already is such a
form (simplify, expand) can be answered by repeating the question: give it another reward.
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
  """Whether `text` looks like one short formula in LaTeX, not like prose."""
  return _is_readable(text) and not _words(_WRITTEN_OUT.sub(' ', text))


def may_be_equivalent(gold: str, answer: str) -> bool:
  """Whether to ask if the formula `answer` is equivalent to the formula `gold`.

  Not where the answer uses words that the gold lacks, lists more or fewer things, writes a list in
  other brackets, or relates more things than the gold does (but `x = 5` may answer 5).
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
  if not 0 < len(text) <= _MAX_CHARACTERS or not text.isprintable():
    return False
  if _LONG_DIGITS.search(text) or '$' in text or r'\boxed' in text:
    return False
  depth, braces = 0, 0
  for bracket in re.findall(r'\\[{}]|[][(){}]', text):
    step = 1 if bracket[-1] in '([{' else -1
    depth += step
    braces += step if bracket in '{}' else 0
    if depth > _MAX_NESTING or braces < 0:
      return False
  return braces == 0


def _words(text: str) -> set[str]:
  return set(_WORD.findall(_COMMAND.sub(' ', text))) - _FUNCTIONS


def _length(text: str) -> int:
  return 1 + len(_SEPARATOR.findall(text))


def _brackets(text: str) -> str:
  text = text.replace(r'\left', '').replace(r'\right', '').strip()
  return text[0] + text[-1] if text[:1] in ('(', '[') and text[-1] in ')]' else ''
