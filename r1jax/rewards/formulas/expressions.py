r"""Single expressions as trees: numbers, letters, operations, functions.

Digits before a fraction of two integers make a mixed number (`3\frac12` is 7/2), `1/2x` is half of
x, a sine without brackets takes the product that follows, `e` is Euler's number and `i` the
imaginary unit. Sums, integrals and limits are not read.
"""

from fractions import Fraction
import re
from typing import NamedTuple

from r1jax.rewards.formulas.tokens import FUNCTIONS, Token, Unreadable, closing

_MAX_DEPTH = 25
_MAX_POSTFIXES = 3


class Tree(NamedTuple):
  """An expression.

  Attributes:
    kind: 'number', 'symbol', 'constant', 'sum', 'product', 'quotient', 'negative', 'power', 'root'
      (degree, radicand) or 'function'.
    name: of a symbol, function or constant ('π', 'e', 'i', '∞').
    operands: the expressions that it is made of.
    number: the value of a number.
  """
  kind: str
  name: str = ''
  operands: tuple['Tree', ...] = ()
  number: Fraction = Fraction(0)


_REPEATING = re.compile(r'([0-9]*)\.([0-9]*)\\(?:overline|bar|dot) *\{([0-9]+)\}')
_CONSTANTS = {'π': 'π', 'e': 'e', 'i': 'i', '∞': '∞'}
_ACCENTS = frozenset((
    r'\vec', r'\hat', r'\bar', r'\overline', r'\overrightarrow', r'\tilde', r'\widehat', r'\dot',
    r'\ddot', r'\mathcal', r'\mathscr', r'\mathfrak', r'\angle', r'\triangle', r'\widetilde'))
_PAIRS = {'(': ')', '[': ']', '{': '}', '|': '|', r'\lfloor': r'\rfloor', r'\lceil': r'\rceil'}
_OF_BRACKETS = {'|': 'abs', r'\lfloor': 'floor', r'\lceil': 'ceil'}
_INVERSES = {'sin': 'arcsin', 'cos': 'arccos', 'tan': 'arctan'}
_CALLED = frozenset('fghFG')


def read_expression(tokens: tuple[Token, ...]) -> Tree:
  """The tree of an expression.

  Raises:
    Unreadable: the tokens are no expression of the kinds that are read.
  """
  reader = _Reader(tokens)
  tree = reader.sum()
  if reader.place != len(reader.tokens):
    raise Unreadable(f'unexpected {reader.tokens[reader.place].text}')
  return tree


def number_of(text: str) -> Fraction:
  """The value of a number token."""
  repeating = _REPEATING.fullmatch(text)
  if repeating is None:
    return Fraction(text)
  whole, fixed, period = repeating.groups()
  return Fraction(int(whole + fixed + period or '0') - int(whole + fixed or '0'),
                  10**len(fixed) * (10**len(period) - 1))


def _of_number(value: Fraction) -> Tree:
  return Tree('number', number=value)


def _product(factors: list[Tree]) -> Tree:
  return factors[0] if len(factors) == 1 else Tree('product', operands=tuple(factors))


class _Reader:
  """Reads tokens from left to right; each method reads what it is named after."""

  def __init__(self, tokens: tuple[Token, ...]):
    self.tokens = tokens
    self.place = 0
    self._depth = 0
    self._bars = 0

  def _text(self, ahead: int = 0) -> str:
    """The text of a coming token, empty at the end and for what is no sign."""
    place = self.place + ahead
    return self.tokens[place].text if place < len(self.tokens) else ''

  def _kind(self, ahead: int = 0) -> str:
    place = self.place + ahead
    return self.tokens[place].kind if place < len(self.tokens) else ''

  def _take(self, text: str) -> bool:
    found = self._kind() in ('sign', 'word') and self._text() == text
    self.place += found
    return found

  def _expect(self, text: str) -> None:
    if not self._take(text):
      raise Unreadable(f'expected {text}')

  def sum(self) -> Tree:
    self._depth += 1
    if self._depth > _MAX_DEPTH:
      raise Unreadable('nested too deeply')
    terms = []
    negative = False
    while True:
      while self._text() in ('+', '-'):
        negative ^= self._text() == '-'
        self.place += 1
      term = self._product()
      terms.append(Tree('negative', operands=(term,)) if negative else term)
      negative = False
      if self._text() not in ('+', '-'):
        break
    self._depth -= 1
    return terms[0] if len(terms) == 1 else Tree('sum', operands=tuple(terms))

  def _product(self) -> Tree:
    factors = [self._power()]
    divisions = 0
    while True:
      if self._take('*'):
        factors.append(self._signed())
      elif self._take('/'):
        divisions += 1
        if divisions > _MAX_DEPTH:
          raise Unreadable('too many divisions')
        factors = [Tree('quotient', operands=(_product(factors), self._signed()))]
      elif self._starts_factor():
        factors.append(self._power())
      else:
        return _product(factors)

  def _signed(self) -> Tree:
    negative = False
    while self._text() in ('+', '-'):
      negative ^= self._text() == '-'
      self.place += 1
    tree = self._power()
    return Tree('negative', operands=(tree,)) if negative else tree

  def _starts_factor(self) -> bool:
    kind, text = self._kind(), self._text()
    if kind == 'number':
      return self.tokens[self.place - 1].text in (')', ']', '}')
    if kind == 'word':
      return text in FUNCTIONS
    return kind == 'letter' or (kind == 'sign' and (
        text in ('(', '[', '{', 'π', '∞', '°', r'\sqrt', r'\frac', r'\binom', r'\lfloor', r'\lceil')
        or text in _ACCENTS or (text == '|' and not self._bars)))

  def _power(self) -> Tree:
    self._depth += 1
    if self._depth > _MAX_DEPTH:
      raise Unreadable('nested too deeply')
    tree = self._atom()
    for _ in range(_MAX_POSTFIXES):
      if self._take('!'):
        tree = Tree('function', 'factorial', (tree,))
      elif self._text() == '^' and self._degrees():
        tree = Tree('function', 'degrees', (tree,))
      elif self._take('°'):
        tree = Tree('function', 'degrees', (tree,))
      elif self._take('^'):
        tree = Tree('power', operands=(tree, self._exponent()))
      else:
        break
    self._depth -= 1
    return tree

  def _degrees(self) -> bool:
    r"""Whether `^\circ` or `^{\circ}` comes next, which is then read."""
    for texts in (('^', r'\circ'), ('^', '{', r'\circ', '}'), ('^', '°'), ('^', '{', '°', '}')):
      if all(self._text(i) == text for i, text in enumerate(texts)):
        self.place += len(texts)
        return True
    return False

  def _exponent(self) -> Tree:
    negative = self._take('-')
    tree = self._braced() if self._text() == '{' else self._power()
    return Tree('negative', operands=(tree,)) if negative else tree

  def _braced(self) -> Tree:
    self._expect('{')
    tree = self.sum()
    self._expect('}')
    return tree

  def _argument(self) -> Tree:
    r"""An argument of `\frac` and the like: a group, or one digit, letter or command."""
    if self._text() == '{':
      return self._braced()
    if self._kind() == 'number' and '.' not in self._text() and len(self._text()) > 1:
      token = self.tokens[self.place]
      self.tokens = (*self.tokens[:self.place], token._replace(text=token.text[0]),
                     token._replace(text=token.text[1:]), *self.tokens[self.place + 1:])
    return self._atom()

  def _atom(self) -> Tree:
    kind, text = self._kind(), self._text()
    if kind == 'number':
      return self._number()
    if kind == 'letter':
      return self._letter()
    if kind == 'word' and text in FUNCTIONS:
      return self._function()
    if kind != 'sign':
      raise Unreadable(f'unexpected {text or "end"}')
    if text in _PAIRS:
      self.place += 1
      self._bars += text == '|'
      tree = self.sum()
      self._expect(_PAIRS[text])
      self._bars -= text == '|'
      return Tree('function', _OF_BRACKETS[text], (tree,)) if text in _OF_BRACKETS else tree
    if text in _CONSTANTS:
      self.place += 1
      return Tree('constant', text)
    if text in _ACCENTS:
      return self._accented()
    self.place += 1
    if text == r'\sqrt':
      return self._root()
    if text == r'\frac':
      return self._fraction()
    if text == r'\binom':
      return Tree('function', 'binomial', (self._argument(), self._argument()))
    if text in ('ℤ', 'ℕ', 'ℚ', 'ℂ', 'ℝ', '∅'):
      return Tree('symbol', text)
    raise Unreadable(f'unexpected {text}')

  def _number(self) -> Tree:
    # Of a subscript or exponent without braces only the first group: \log_9 729.
    short = len(self._text()) <= 3 and self._text(-1) not in ('_', '^')
    value = number_of(self._text())
    self.place += 1
    while (short and self._kind() == 'number' and value.denominator == 1 and len(self._text()) == 3
           and self._text().isdigit() and self.tokens[self.place].spaced):
      value = value * 1000 + int(self._text())    # 1 234 567
      self.place += 1
    if value.denominator == 1 and self._text() == r'\frac':
      start = self.place
      self.place += 1
      part = self._fraction()
      top, bottom = part.operands
      if top.kind == bottom.kind == 'number' and bottom.number:
        return _of_number(value + top.number / bottom.number)
      self.place = start
    return _of_number(value)

  def _fraction(self) -> Tree:
    if self._text(1) == 'd' and self._kind(1) == 'letter' and self._text() == '{':
      raise Unreadable('a derivative')
    return Tree('quotient', operands=(self._argument(), self._argument()))

  def _root(self) -> Tree:
    degree = _of_number(Fraction(2))
    if self._take('['):
      degree = self.sum()
      self._expect(']')
    radicand = self._atom() if self._text() != '{' else self._braced()
    return Tree('root', operands=(degree, radicand))

  def _letter(self) -> Tree:
    name = self._text()
    self.place += 1
    subscripted = name + self._subscript()
    if subscripted == name and name in _CONSTANTS:
      return Tree('constant', name)
    while self._take("'"):
      subscripted += "'"
    if self._text() == '(' and (name in _CALLED or subscripted[-1] == "'"):
      self.place += 1
      argument = self.sum()
      self._expect(')')
      return Tree('function', subscripted, (argument,))
    return Tree('symbol', subscripted)

  def _subscript(self) -> str:
    """The subscript of a letter with its `_`, in one spelling; empty if there is none."""
    if self._text() != '_':
      return ''
    self.place += 1
    return '_' + self._group_text()

  def _group_text(self) -> str:
    """The text of the group or token that comes next."""
    if self.place >= len(self.tokens):
      raise Unreadable('a subscript is missing')
    end = closing(self.tokens, self.place) if self._text() == '{' else self.place
    inside = self.tokens[self.place:end + 1]
    self.place = end + 1
    return ''.join(token.text for token in inside if token.text not in ('{', '}'))

  def _accented(self) -> Tree:
    accent = self._text()
    self.place += 1
    if self._text() == '{':
      return Tree('symbol', f'{accent} {self._group_text()}')
    letters = ''
    while self._kind() == 'letter' and (accent in (r'\angle', r'\triangle') or not letters):
      letters += self._text()
      self.place += 1
    if not letters:
      raise Unreadable(f'{accent} of nothing')
    return Tree('symbol', f'{accent} {letters}')

  def _function(self) -> Tree:
    name = self._text()
    self.place += 1
    operands: list[Tree] = []
    if name == 'log' and self._take('_'):
      operands.append(self._braced() if self._text() == '{' else self._atom())
    name = 'log10' if name == 'lg' else name
    exponent = None
    if self._take('^'):
      exponent = self._exponent()
      if exponent == Tree('negative', operands=(_of_number(Fraction(1)),)):
        if name not in _INVERSES:
          raise Unreadable('an inverse function')
        name, exponent = _INVERSES[name], None
    operands += self._function_arguments(name)
    tree = Tree('function', name, tuple(operands))
    if name == 'exp':
      tree = Tree('power', operands=(Tree('constant', 'e'), *operands))
    return tree if exponent is None else Tree('power', operands=(tree, exponent))

  def _function_arguments(self, name: str) -> list[Tree]:
    if self._text() in ('(', '{', '['):
      opening = self._text()
      self.place += 1
      found = [self.sum()]
      while name in ('gcd', 'lcm', 'min', 'max') and self._take(','):
        found.append(self.sum())
      self._expect(_PAIRS[opening])
      return found
    factors = [self._power()]
    while self._starts_factor() and self._kind() != 'word' and self._text() not in ('(', '['):
      factors.append(self._power())
    return [_product(factors)]
