r"""Reading the one number that an answer gives, among units, words and signs.

An explicit answer (`read_answer`) must give one number that stands by itself (see
`numbers_in_text`): alone, with a unit or a currency, or in words ("He pays 72 dollars per day.").
It may repeat the number. Another number among its words ("In 5 days he pays 72"), an alternative
("72 or 73"), a negation or a question leave no answer; nor is arithmetic evaluated. An equation
gives its last member: of `3 + 4 = 7` that is 7. Members that are numbers themselves must be equal,
or rounded after `≈`: `1 = 2 = 5` gives none. "About 72" gives 72, and so does "seventy-two". `72!`
is a factorial, but "It is 72!" is not. A unit is never converted, and only a gold's own percent,
degree or currency sign is compared.

Prose (`read_prose`) gives its last number in digits if that stands by itself.
"""

from collections.abc import Sequence
from fractions import Fraction
import functools
import re
from typing import NamedTuple

from r1jax.rewards import exact_numbers, number_words, spelling
from r1jax.rewards.numbers_in_text import (
  APPROXIMATE,
  DECORATION,
  PUNCTUATION,
  RELATIONS,
  Item,
  NumbersInText,
)

_BEFORE_CHARACTERS, _AFTER_CHARACTERS = 300, 100
_PROSE_CHARACTERS = 1000

_SIMPLE = re.compile(r'-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?')
_LAST_DIGIT = re.compile(r'.*[0-9]', re.DOTALL)
_OPENING_EMPHASIS = re.compile(r'(?<![\w*)\]}^.])(?:\*{1,3}|_{1,3}|`{1,3})(?=[^\s*_`])')
_CLOSING_EMPHASIS = re.compile(r'(?<=[^\s*_`])(?:\*{1,3}|_{1,3}|`{1,3})(?![\w*(\\^{]|\.[0-9])|`')
_TAG = re.compile(r'</?(?:b|i|u|em|p|span|strong|br|div|center|mark)(?: ?/)?>')
# Pictures are decoration, but crosses and signs of arithmetic are not.
_PICTURE = re.compile(
    '[\u2600-\u2715\u2719-\u274b\u274d\u274f-\u2752\u2758-\u2794\u2798-\u27be'
    '\U0001f300-\U0001f6d0\U0001f900-\U0001faff]')
# In a sentence "It is 72!" the mark is no factorial.
_EXCLAMATION = re.compile(
    r'(?:(?<=[A-Za-z] )|(?<=[\u4e00-\u9fff]))([$€£¥]?[0-9][0-9,.]*)!(?=["\']?(?:\s|$))')
_STRUCK = '§'    # stands for what is struck through: not a part of any number

_SIGNS = frozenset(number_words.MARKS.values())
_DENYING = frozenset((r'\not', r'\neg', r'\ne', '¬', r'\cancel', r'\xcancel', r'\sout', _STRUCK))
_FREE = PUNCTUATION | DECORATION | RELATIONS | frozenset(number_words.MARKS) | frozenset(
    ('/', '·', '~', '#', '&', r'\&', '{', '}', '-', '@', '^', '[', ']', '•',
     *number_words.COMMAND_UNITS))


class Reading(NamedTuple):
  """The number that an answer gives.

  Attributes:
    value: its value.
    places: the number of decimal places of a plain decimal; None in other notation.
    marks: its unit: percent, degree and currency signs, one for each however it is written, and
      the word after it.
    written: the number as it is written, in plain spelling.
    exact: the exact number that `value` approximates, if the answer gives both.
  """
  value: Fraction
  places: int | None
  marks: frozenset[str] = frozenset()
  written: str = ''
  exact: Fraction | None = None


def equals(gold: Reading, answer: Reading) -> bool:
  """Whether an answer is the gold number, exactly or by the rule of `exact_numbers.rounds_to`.

  If the gold has a percent, degree or currency sign, the answer has it, too, or has no unit. Only a
  gold in per mille is answered in per mille.
  """
  if '‰' in answer.marks - gold.marks:
    return False
  if gold.marks and answer.marks and (
      not answer.marks & gold.marks or answer.marks & _SIGNS > gold.marks):
    return False
  return gold.value in (answer.value, answer.exact) or exact_numbers.rounds_to(
      gold.value, answer.value, answer.places)


def read(text: str, explicit: bool) -> Reading | None:
  """The number that an explicit answer gives, or that prose ends with."""
  return read_answer(text) if explicit else read_prose(text)


@functools.lru_cache(1 << 12)    # a group's completions have the same gold
def read_gold(text: str) -> Reading | None:
  """The number that a gold is, with no more than a percent, degree or currency sign; else None."""
  if len(text) > exact_numbers.MAX_CHARACTERS:
    return None
  answer = _Answer(spelling.undecorated(spelling.plain(text)))
  if len(answer.items) != 1:
    return None
  item = answer.items[0]
  outside = [token for i, token in enumerate(answer.tokens) if not item.start <= i < item.end]
  if outside or not item.alone or any(t.kind in ('word', 'han') for t in answer.tokens):
    return None
  return answer.reading(item)


def read_answer(text: str) -> Reading | None:
  """The number that an explicit answer gives; None if it gives none, or more than one."""
  if _SIMPLE.fullmatch(text):
    return Reading(Fraction(text), len(text.partition('.')[2]), written=text)
  if len(text) > exact_numbers.MAX_CHARACTERS:
    return None
  return _Answer(_bare(_prepared(text))).only_number()


def read_prose(text: str) -> Reading | None:
  """The last number of a text's last 1,000 characters, if it stands by itself; None if not."""
  text = _prepared(text[-_PROSE_CHARACTERS:])
  last = _LAST_DIGIT.match(text)
  if last is None:
    return None
  start = max(0, last.end() - _BEFORE_CHARACTERS)
  text = text[start:last.end() + _AFTER_CHARACTERS]
  if start and not text[0].isspace():     # a word or number that is cut
    text = text.partition(' ')[2] or text.partition('\n')[2]
  return _Answer(_unemphasised(text)).last_number()


def _prepared(text: str) -> str:
  """`text` in plain spelling, without HTML and pictures."""
  text = text.replace('÷', r'\div ').replace('~~', _STRUCK).replace('---', '—')
  if not text.isascii():
    text = _PICTURE.sub(' ', text)
  if '<' in text:
    text = _TAG.sub('"', text)
  text = spelling.plain(text)
  return _EXCLAMATION.sub(r'\1.', text) if '!' in text else text


def _bare(text: str) -> str:
  text = spelling.undecorated(text.rstrip('\\ '))
  while text[:1] == '{' and text.endswith('}') and text.find('}') == len(text) - 1:
    text = spelling.undecorated(text[1:-1])
  return _unemphasised(text)


def _unemphasised(text: str) -> str:
  """`text` with a quotation mark for each sign of Markdown emphasis."""
  if '*' in text or '_' in text or '`' in text:
    text = _CLOSING_EMPHASIS.sub('"', _OPENING_EMPHASIS.sub('"', text))
  return text


class _Answer(NumbersInText):
  """What the numbers of a text say together."""

  def reading(self, item: Item, exact: Fraction | None = None) -> Reading:
    """The reading of an item that stands by itself."""
    assert item.number is not None
    tokens = self.tokens[item.number.start:item.number.end]
    sign = '-' if item.value < 0 <= item.number.value else ''
    written = sign + self.text[tokens[0].start:tokens[-1].end]
    return Reading(item.value, item.number.places, item.marks, written, exact)

  def only_number(self) -> Reading | None:
    """The number of an explicit answer."""
    if not self.items or self._hedges(0, len(self.tokens)) or self._is_scaled():
      return None
    found: Reading | None = None
    pure = 0
    for start, end in self._segments():
      items = [item for item in self.items if start <= item.start < end]
      if not items:
        if not self._is_free(start, end):
          return None
        continue
      reading = self._chain(items, start, end)
      if reading is None:
        return None
      pure += self._is_pure(items, start, end)
      if found is not None and (found.value != reading.value or pure > 1):
        return None
      found = reading
    return found if found is not None and self._numerals_agree(found.value) else None

  def _is_scaled(self) -> bool:
    """Whether a word such as `thousand` stands anywhere but in a number in words."""
    return any(
        token.kind == 'word' and token.text.lower() in number_words.SCALES
        and not any(item.start <= i < item.end for item in self.items)
        for i, token in enumerate(self.tokens))

  def _numerals_agree(self, value: Fraction) -> bool:
    """Whether no number in words beside those in digits is offered as another answer.

    One before a noun is not ("the two friends"), unless it stands behind a punctuation mark.
    """
    units = {self._text(item.number.end) for item in self.items if item.number}
    return all(
        number == value for start, end, number in self.numerals
        if self._kind(end) != 'word' or self._text(end) in units
        or self._text(start - 1) in (',', ';', '(', '/', '-', ':'))

  def _hedges(self, start: int, end: int) -> bool:
    """Whether a word among tokens leaves no single answer."""
    for i in range(start, end):
      token = self.tokens[i]
      if token.kind == 'word':
        lower = token.text.lower()
        if lower in number_words.HEDGES or lower.endswith("n't") or lower == 'at' and (
            self._text(i + 1).lower() in ('least', 'most')):
          return True
      elif token.kind == 'han' and number_words.han_hedges(token.text):
        return True
      elif token.text in _DENYING:
        return True
    return False

  def _segments(self) -> list[tuple[int, int]]:
    """The clauses: what stands between line breaks, full stops, semicolons and outer commas."""
    segments, start, depth = [], 0, 0
    for i, token in enumerate(self.tokens):
      if token.text in ('(', '['):
        depth += 1
      elif token.text in (')', ']'):
        depth -= 1
      elif token.kind == 'newline' or depth <= 0 and token.text in (',', ';', '.', '?', r'\\'):
        segments.append((start, i))
        start = i + 1
    return [*segments, (start, len(self.tokens))]

  def _chain(self, items: Sequence[Item], start: int, end: int) -> Reading | None:
    """The number of a clause: its only one, or the last member of its equations."""
    relations = [i for i in range(start, end) if self._text(i) in RELATIONS]
    last = relations[-1] if relations else start - 1
    final = [item for item in items if item.start > last]
    earlier = [item for item in items if item.start <= last and item.alone]
    if not final:
      if not earlier or not self._is_free(last + 1, end):
        return None
      final, earlier = earlier[-1:], earlier[:-1]
      last = max((i for i in relations if i < final[0].start), default=start - 1)
      if not self._is_free(final[0].end, end):
        return None
    if any(not item.alone or item.value != final[0].value for item in final):
      return None
    if not self._is_free(last + 1, end):
      return None
    exact = None
    value, places = final[0].value, final[0].number.places if final[0].number else None
    for item in earlier:
      if item.value == value:
        continue
      if exact_numbers.rounds_to(item.value, value, places):
        exact = item.value
      elif places is not None and round(item.value, places) == value and (
          any(self._text(i) in APPROXIMATE for i in relations if item.end <= i)):
        exact = item.value
      else:
        return None
    return self.reading(final[0], exact)

  def _is_free(self, start: int, end: int) -> bool:
    """Whether tokens are numbers with their units, words and punctuation alone."""
    i, inside = start, {item.start: item.end for item in self.items}
    while i < end:
      if i in inside:
        i = max(inside[i], i + 1)
        continue
      token = self.tokens[i]
      if token.kind not in ('word', 'han') and token.text not in _FREE:
        return False
      i += 1
    return True

  def _is_pure(self, items: Sequence[Item], start: int, end: int) -> bool:
    """Whether a clause is a number with its unit and nothing else."""
    inside = sum(item.end - item.start for item in items)
    rest = sum(self._kind(i) in ('word', 'han') or self._text(i) in RELATIONS
               for i in range(start, end) if not any(t.start <= i < t.end for t in items))
    return inside > 0 and rest == 0

  def last_number(self) -> Reading | None:
    """The last number of prose."""
    if not self.items:
      return None
    item = self.items[-1]
    if not item.alone:
      return None
    previous = self.items[-2] if len(self.items) > 1 else None
    begin = previous.end if previous else 0
    for start, end in self._segments():
      if start <= item.start < end:
        if self._hedges(max(start, begin), end) or self._is_list_marker(item):
          return None
        if previous and previous.alone and previous.value != item.value and previous.start >= start:
          between = self.tokens[begin:item.start]
          if len(between) == 1 and between[0].text in ('=', '=='):
            return None
    return self.reading(item)

  def _is_list_marker(self, item: Item) -> bool:
    """Whether a number begins a line as in `1. He pays`."""
    assert item.number is not None
    if self._kind(item.start - 1) not in ('newline', 'end'):
      return False
    return self._text(item.number.end) in ('.', ')', ':') and self._kind(
        item.number.end + 1) in ('word', 'han', 'command')
