r"""Numbers in a text, each with its signs and its unit, and whether it stands by itself.

A number stands by itself if its neighbours are the ends of the text or of a line, words,
punctuation, relations such as `=`, and the signs of its own currency, percentage or unit. It does
not if it is a piece of a formula (`\\sqrt{5}`, `2^5`, `5x`, `3 * 5`), of a list, an interval or a
ratio (`3, 5`, `[0, 5)`, `3:5`), of a range (`5-7`), a name (`x_5`, `H2O`, `v1.5`), an ordinal
(`5th`) or a date, if a word makes it another number (`5 thousand`, `half of 5`), a bound (`at least
5`) or a label (`Step 5`), or if it is negated (`not 5`).
"""

from fractions import Fraction
from typing import NamedTuple

from r1jax.rewards import exact_numbers
from r1jax.rewards import number_words as words
from r1jax.rewards.exact_numbers import Number

_NUMBER_OPENINGS = frozenset(('(', '{', r'\frac', r'\sqrt', '√'))
_FEW_WORDS = 6
DECORATION = frozenset(('"', "'", '$', r'\(', r'\)', r'\[', r'\]', r'\$'))
APPROXIMATE = frozenset(('≈', r'\approx', r'\simeq', '≅', r'\cong', r'\doteq'))
EQUAL = APPROXIMATE | frozenset(('=', '==', ':=', '≡', r'\equiv'))
ARROWS = frozenset((
    '->', '=>', '-->', '==>', '→', '⇒', r'\to', r'\rightarrow', r'\Rightarrow', r'\implies',
    r'\therefore', '∴', '⟹', '⟶', r'\longrightarrow', r'\Longrightarrow', r'\iff', '⇔'))
RELATIONS = EQUAL | ARROWS
PUNCTUATION = frozenset((
    ',', ';', ':', '.', '?', '!', '(', ')', '...', '—', '―', r'\\', r'\ldots', r'\dots'))


class Item(NamedTuple):
  """A number among tokens, with its signs and its unit.

  Attributes:
    number: its notation; None if its digits are not a number (`1,23`).
    alone: whether it stands by itself.
    value: its value with its sign.
    marks: percent, degree and currency signs beside it, one for each unit however it is written.
    start: the first token of it and its signs.
    end: the token after it, its signs and its unit.
  """
  number: Number | None
  alone: bool
  value: Fraction
  marks: frozenset[str]
  start: int
  end: int


class NumbersInText:
  """A text in plain spelling, in tokens, and the `items` of it that are numbers."""

  def __init__(self, text: str):
    self.text = text
    self.tokens = exact_numbers.tokenized(text)
    self.dollars_are_math = text.count('$') % 2 == 0
    self.items: list[Item] = []
    self.number_ends: set[int] = set()     # the tokens after numbers
    self.ends: set[int] = set()            # and those after numbers with their units
    self.numerals = self._numerals()
    self.calls = self._calls() if '(' in text else set()
    self._find()

  def _find(self) -> None:
    numbers = self._numbers() or self._spelled_items()
    self.starts = {start for _, start in numbers}
    unit_end = 0
    for number, start in numbers:
      if start < unit_end:
        continue
      if number is None:
        self.items.append(Item(None, False, Fraction(0), frozenset(), start, start + 1))
        self.number_ends.add(start + 1)
        continue
      item = self._item(number)
      self.items.append(item)
      self.number_ends.add(number.end)
      self.ends.add(item.end)
      unit_end = item.end

  def _numbers(self) -> list[tuple[Number | None, int]]:
    """The numbers in digits and their first tokens; None for digits that are no number."""
    i, numbers = 0, []
    while i < len(self.tokens):
      token, number = self.tokens[i], None
      if token.kind in ('number', 'repeating') or token.text in _NUMBER_OPENINGS:
        number = exact_numbers.number_at(self.tokens, i)
      if number is not None or token.kind in ('number', 'repeating'):
        numbers.append((number, i))
      i = number.end if number else i + 1
    return numbers

  def _numerals(self) -> list[tuple[int, int, int | None]]:
    """The numbers in words: first token, the token after the last, the value if they have one."""
    found: list[tuple[int, int, int | None]] = []
    for start, token in enumerate(self.tokens):
      if token.kind != 'word' or not words.is_numeral(token.text) or found and start < found[-1][1]:
        continue
      i = start
      while self._kind(i) == 'word' and (words.is_numeral(self._text(i)) or (
          i > start and self._text(i) == 'and' and self._kind(i + 1) == 'word'
          and words.is_numeral(self._text(i + 1))
          and self._text(i - 1).lower() in ('hundred', 'thousand'))):
        i += 1
      spelled = ' '.join(self._text(place) for place in range(start, i))
      found.append((start, i, words.spelled_number(spelled)))
    return found

  def _spelled_items(self) -> list[tuple[Number | None, int]]:
    """The numbers in words as `_numbers` has those in digits; `one` only in a few words."""
    found: list[tuple[Number | None, int]] = []
    for start, end, value in self.numerals:
      if value is not None and (value != 1 or len(self.tokens) <= _FEW_WORDS):
        found.append((Number(Fraction(value), 0, start, end), start))
      elif value != 1:
        found.append((None, start))
    return found

  def _calls(self) -> set[int]:
    """The tokens inside the brackets of a function's arguments, such as `P(X = 3)`."""
    inside, opened = set(), []
    for i, token in enumerate(self.tokens):
      if token.text == '(':
        opened.append(token.glued and (
            self._kind(i - 1) in ('word', 'command') or self._text(i - 1) in ('}', ')')))
      elif token.text == ')' and opened:
        opened.pop()
      elif any(opened):
        inside.add(i)
    return inside

  def _kind(self, i: int) -> str:
    return self.tokens[i].kind if 0 <= i < len(self.tokens) else 'end'

  def _text(self, i: int) -> str:
    return self.tokens[i].text if 0 <= i < len(self.tokens) else ''

  def _glued(self, i: int) -> bool:
    """Whether token `i` follows another one without white space."""
    return 0 < i < len(self.tokens) and self.tokens[i].glued

  def _ends_before(self, i: int) -> bool:
    """Whether a number, with its signs or unit, ends just before token `i`."""
    return i in self.number_ends or i in self.ends

  def _mark(self, i: int) -> str:
    """The percent, degree or currency sign at token `i`; empty if it is none."""
    text = self._text(i)
    return '' if text == '$' and self.dollars_are_math else words.MARKS.get(text, '')

  def _item(self, number: Number) -> Item:
    marks: set[str] = set()
    before, sign, alone_before = self._before(number.start, marks)
    after, alone_after = self._after(number.end, marks)
    alone = (alone_before and alone_after and number.start not in self.calls
             and not self._is_part(before) and not self._touches_numeral(before + 1, number, after))
    value = number.value * sign
    return Item(number, alone, value, frozenset(marks), before + 1, after)

  def _touches_numeral(self, start: int, number: Number, end: int) -> bool:
    """Whether a number in words stands beside one in digits, as in `72 hundred`."""
    ends = {number.end, end}
    ends |= {place + 1 for place in ends if self._text(place) in ('and', '/', '-')}
    starts = {start, start - 1} if self._text(start - 1) == 'and' else {start}
    return any(first in ends or last in starts
               for first, last, _ in self.numerals if first != number.start)

  def _is_part(self, i: int) -> bool:
    """Whether a word before a number makes it a part or a bound: `twice as much as 72`."""
    while self._kind(i) == 'word':
      word = self._text(i).lower()
      if word in words.VERBS:
        return False
      if word in words.MULTIPLES:
        return True
      i -= 1
    return False

  # What stands before a number.

  def _before(self, start: int, marks: set[str]) -> tuple[int, int, bool]:
    """The token before a number with its signs, its sign, and whether it may stand there."""
    i, sign, signed = start - 1, 1, False
    while i >= 0:
      text = self._text(i)
      if text in words.CURRENCY_SIGNS and self._mark(i):
        marks.add(self._mark(i))
      elif text in ('-', '+') and not signed:
        if self._announces(i):
          break
        if not self._sign(i):
          return i, 1, False
        sign, signed = (-1 if text == '-' else 1), True
      elif text not in DECORATION:
        break
      i -= 1
    word = self._text(i).lower() if self._kind(i) in ('word', 'han') else ''
    if word in words.NEGATIVE or word == words.HAN_NEGATIVE:
      if signed or self._ends_before(i):
        return i, 1, False
      return i - 1, -1, self._stands_after(i - 1, start)
    return i, sign, self._stands_after(i, start)

  def _announces(self, i: int) -> bool:
    """Whether the `-` at token `i` is a dash, as in `Answer - 72`, or begins an item of a list."""
    if self._text(i) != '-' or self._glued(i + 1):
      return False
    return self._kind(i - 1) == 'newline' or (
        not self._glued(i) and self._text(i - 1).lower() in words.ANNOUNCING)

  def _sign(self, i: int) -> bool:
    """Whether the `-` or `+` at token `i` is the sign of the number after it."""
    if i == 0:
      return True
    kind, text, glued = self._kind(i - 1), self._text(i - 1), self._glued(i + 1)
    if kind == 'newline':
      return glued
    if kind == 'word':
      return glued and not self._glued(i)
    if kind == 'han':
      return glued
    return text in RELATIONS or text in DECORATION or text in (':', '(', ',', '{', '—') or (
        text in words.CURRENCY_SIGNS)

  def _stands_after(self, i: int, start: int) -> bool:
    """Whether a number may stand after token `i`; `start` is the number's first token."""
    if self._ends_before(i + 1):
      return False
    kind, text, glued = self._kind(i), self._text(i), self._glued(i + 1)
    if kind in ('end', 'newline') or text in RELATIONS:
      return True
    if kind == 'word':
      return self._stands_after_word(i, glued and i + 1 == start)
    if kind == 'han':
      if self._ends_before(i) and text in '和与及或至到、加减乘除':
        return False
      return words.han_precedes(text)
    if text == ',' or text == ';':
      if self._ends_before(i) or text == ',' and glued and self._kind(i - 1) == 'word':
        return False
      return self._text(self._skip(start)) not in (')', ']') or self._opening(i) < 0
    if text == ':':
      return not self._ends_before(i)
    if text == '.':
      return not glued and self._text(i - 1).lower() not in words.ABBREVIATED_LABELS
    if text == '(':
      return not self._glued(i) or self._kind(i - 1) == 'han'
    if text == '[':    # a single number in brackets
      return self._text(self._skip(start)) == ']' and i == 0
    if text == '•':
      return self._kind(i - 1) in ('end', 'newline')
    if text == '-':
      return self._announces(i)
    if text in (')', '!', '—', '―'):
      return not glued or text in ('—', '―') and i > 0 and not self._ends_before(i)
    return text in ('?', '...', r'\\', r'\ldots', r'\dots')

  def _skip(self, start: int) -> int:
    number = exact_numbers.number_at(self.tokens, start)
    i = number.end if number else start + 1
    while self._text(i) in DECORATION:
      i += 1
    return i

  def _opening(self, i: int) -> int:
    """The bracket that is open at token `i`, looking back over one clause; -1 if none is."""
    depth = 0
    for place in range(i - 1, -1, -1):
      text = self._text(place)
      if text in (')', ']'):
        depth += 1
      elif text in ('(', '['):
        if depth == 0:
          return place
        depth -= 1
      elif text == '\n':
        break
    return -1

  def _stands_after_word(self, i: int, glued: bool) -> bool:
    word = self._text(i)
    lower = word.lower()
    if glued:
      return word in words.CURRENCY_WORDS
    if len(word) == 1 and word.isascii() and word not in 'aAI':
      return False
    if lower in words.BOUNDS or lower in words.LABELS or lower.endswith("n't"):
      return False
    if i in self.number_ends and lower in ('in', 'of', 'per', 'for', 'at'):
      return False
    if lower in words.JOINING and (i in self.number_ends or lower != 'and' and i in self.ends):
      return False
    previous = self._text(i - 1).lower()
    if lower in ('of', 'the') and (previous in words.PARTS or previous == 'of' and (
        self._text(i - 2).lower() in words.PARTS)):
      return False
    if lower == 'to' and previous in ('up', 'close', 'closer', 'down', 'next', 'prior'):
      return False
    if lower == 'as' and previous in ('many', 'much', 'few', 'little', 'high', 'low'):
      return False
    if lower == 'but' and previous in ('anything', 'everything', 'nothing', 'all', 'any'):
      return False
    if lower == 'to' and previous == 'equal' and self._text(i - 2).lower() in words.HEDGES:
      return False
    return not (lower == 'by' and previous in ('divided', 'multiplied', 'divisible'))

  # What stands after a number.

  def _after(self, end: int, marks: set[str]) -> tuple[int, bool]:
    """The token after a number with its unit, and whether the number may stand there."""
    i = end
    while i < len(self.tokens):
      text = self._text(i)
      if text == '^' and self._degree(i):
        marks.add('°')
        i = self._degree(i)
      elif self._mark(i):
        marks.add(self._mark(i))
        i += 1
      elif text in DECORATION:
        i += 1
      else:
        break
    return self._unit(i, end, marks)

  def _degree(self, i: int) -> int:
    r"""The token after a `^\circ` that begins at token `i`; 0 if none does."""
    braced = self._text(i + 1) == '{'
    if self._text(i + 1 + braced) not in (r'\circ', '°', r'\degree'):
      return 0
    return i + 2 + 2 * braced

  def _unit(self, i: int, end: int, marks: set[str]) -> tuple[int, bool]:
    kind, text, glued = self._kind(i), self._text(i), self._glued(i)
    if kind in ('end', 'newline') or text in RELATIONS:
      return i, True
    if kind == 'word':
      return self._unit_word(i, end, marks)
    if kind == 'han':
      mark = words.MARK_WORDS.get(text)
      if mark:
        marks.add(mark)
      return i + 1, words.han_follows(text)
    if text == '/':
      after = self._text(i + 1)
      return self._unit_end(i + 2), self._kind(i + 1) == 'han' or (
          self._kind(i + 1) == 'word' and words.follows(after, False))
    if text in (',', ';'):
      following = i + 1
      while self._text(following) in DECORATION or self._text(following) in ('-', '+'):
        following += 1
      listed = following in self.starts and self._text(following) != '{' or (
          self._text(following) in ('...', r'\ldots', r'\dots', r'\cdots'))
      return i, not listed and not (self._glued(i + 1) and self._kind(i + 1) == 'word')
    if text in (':', '.'):
      return i, not (self._glued(i + 1) and self._kind(i + 1) in ('number', 'word'))
    if text == '(':
      inside = self._text(i + 1)
      return i, self._kind(i + 1) == 'han' or self._kind(i + 1) == 'word' and (
          not glued or len(inside) > 1 and self._text(i + 2) == ')')
    if text == '{':    # what is left of `{\rm cm}`
      return i + 3, self._text(i + 2) == '}' and self._kind(i + 1) == 'word' and (
          words.follows(self._text(i + 1), False))
    if text in words.COMMAND_UNITS:
      return self._unit_end(i + 1), text != r'\mu' or self._kind(i + 1) == 'word'
    if text in (')', ']'):
      opening = self._opening(i)
      return i, opening >= 0 and (text == ')' or opening == 0)
    if text == '-':
      return i, not glued and self._kind(i + 1) == 'word' and len(self._text(i + 1)) > 1
    if text == '!':
      number = exact_numbers.number_at(self.tokens, end - 1)
      return i, number is not None and number.value.denominator > 1
    if text == r'\frac':
      return self._fraction_unit(i)
    return i, text in ('...', '—', '―', r'\\', r'\ldots', r'\dots')

  def _unit_word(self, i: int, end: int, marks: set[str]) -> tuple[int, bool]:
    text, lower, following = self._text(i), self._text(i).lower(), self._text(i + 1).lower()
    before = self._text(i - 1)
    if not words.follows(text, self._glued(i) and i == end) or before == "'" and self._glued(i):
      return i, False
    if self._kind(i + 1) == 'number' and self._glued(i + 1) and not (
        text in words.POWERED and following in ('2', '3')):
      return i, False
    if lower in ('and', 'is', 'are', 'was', 'or') or lower == 'in' and following != '^':
      return i, following not in words.COMPARING and following not in words.SCALES and (
          following != '' or lower != 'and') and not any(
              self._text(place).lower() in words.HALVES for place in range(i + 1, i + 4))
    if lower in ('times', 'to'):
      numeral = self._kind(i + 1) == 'number' or bool(following) and words.is_numeral(following)
      return i + 1, not numeral and following not in ('itself', 'that') and not (
          lower == 'to' and (following == 'the' or len(following) < 2))
    mark = words.MARK_WORDS.get(lower)
    marks.add(mark or (lower if lower not in words.FUNCTION_WORDS else ''))
    marks.discard('')
    return self._unit_end(i + 1), True

  def _unit_end(self, i: int) -> int:
    """The token after a unit that goes on at token `i` with powers, quotients and products."""
    while True:
      if self._text(i) == '^':
        braced = self._text(i + 1) == '{'
        place = i + 1 + braced
        place += self._text(place) == '-'
        if self._text(place) not in ('1', '2', '3') or braced and self._text(place + 1) != '}':
          return i
        i = place + 1 + braced
      elif self._text(i) in ('2', '3') and self._glued(i):
        i += 1
      elif words.is_unit(self._text(i)):
        i += 1
      elif self._text(i) in ('/', '·', r'\cdot', '*') and self._kind(i + 1) in ('word', 'han') and (
          words.follows(self._text(i + 1), False) or self._kind(i + 1) == 'han'):
        i += 2
      else:
        return i

  def _fraction_unit(self, i: int) -> tuple[int, bool]:
    r"""The end of a unit such as `\frac{km}{h}` at token `i`, and whether it is one."""
    place = i + 1
    for _ in range(2):
      if self._text(place) != '{' or self._kind(place + 1) != 'word' or not words.follows(
          self._text(place + 1), False):
        return i, False
      place = self._unit_end(place + 2)
      if self._text(place) != '}':
        return i, False
      place += 1
    return place, True
