r"""The notation of numbers, read exactly, as fractions.

A number is written as

* an integer or decimal in ASCII digits, with thousands separators in the right places or none
  (`1,234.50`, `12,34,567`, `1 234`, `1'234`, `.5`), optionally with an exponent (`1e-5`). A comma
  is never a decimal point, and a point never separates thousands;
* a repeating decimal: `0.\overline{3}`, `0.\dot{3}`, `0.(3)`, `0.333...`;
* a fraction of two numbers, or a mixed number: `3/4`, `\frac{3}{4}`, `\frac34`, `3\frac12`,
  `3 1/2`;
* a power, a factorial, a root that is rational, a product with a power of ten: `2^{10}`, `5!`,
  `\sqrt{16}`, `7.2\times10^3`;
* one of these in parentheses or braces.

Nothing else is evaluated: `3+9` and `2*5` are not numbers. Powers and factorials of more than
16,384 bits are not read, which bounds the time, like the limit of 300 characters on a text.
`tokenized` and `number_at` serve `number_answers`, which finds numbers in sentences.
"""

from collections.abc import Sequence
from fractions import Fraction
import math
import re
from typing import NamedTuple

from r1jax.rewards import spelling

MAX_CHARACTERS = 300
_MAX_BITS = 1 << 14
_MAX_FACTORIAL = 1000
_MAX_NESTING = 4
_MIN_ROUNDED_PLACES = 3

_GROUPS = r"[1-9][0-9]{0,2}(?:(?: [0-9]{3})+|(?:'[0-9]{3})+)(?![0-9])(?:\.[0-9]+)?"
_EXPONENT = r'(?:[eE][-+]?[0-9]{1,4}(?![0-9A-Za-z]))?'
_REPEATING = (
    r'(?P<fixed>[0-9]*\.[0-9]*?) ?(?:'
    r'\\(?:overline|bar|widebar) ?(?:\{ ?(?P<lined>[0-9]+) ?\}|(?P<one>[0-9]))'
    r'|\((?P<bracketed>[0-9]+)\)(?![0-9A-Za-z(])'
    r'|\\dot ?(?:\{(?P<dotted>[0-9])\}|(?P<bare>[0-9]))'
    r'(?:(?P<middle>[0-9]*)\\dot ?\{?(?P<last>[0-9])\}?)?'
    r'|(?P<barred>(?:[0-9][\u0304\u0305])+)'
    r'|(?P<above>[0-9]\u0307(?:[0-9]*[0-9]\u0307)?))')
_LETTER = r'[^\W\d_\u3007\u3400-\u9fff]'
_TOKEN = re.compile(
    rf'(?P<repeating>(?<![0-9.,]){_REPEATING})'
    rf"|(?P<number>(?:(?<![0-9.,']){_GROUPS}|(?<![\w.])\.[0-9]+|[0-9]+(?:[.,'][0-9]+)*){_EXPONENT})"
    rf"|(?P<word>{_LETTER}+(?:['-]{_LETTER}+)*)"
    r'|(?P<han>[\u3007\u3400-\u9fff]+)|(?P<newline>\n)|(?P<command>\\(?:[A-Za-z]+|.))'
    r'|(?P<symbol>\.{3,}|<=|>=|!=|==|[=-]+>|:=|\*\*|\S)')
_WRITTEN = re.compile(
    r"(?P<integer>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}"
    r"|[1-9][0-9]{0,2}(?:(?: [0-9]{3})+|(?:'[0-9]{3})+)|[0-9]*)"
    r'(?:\.(?P<places>[0-9]+))?(?:[eE](?P<exponent>[-+]?[0-9]+))?')
_REPEATED = re.compile(r'[0-9]*?([0-9]{3,}?|[0-9]{2}|[0-9](?=[0-9]{2}))\1+')
_SHIFT = re.compile(r'[,\' ]')

TIMES = frozenset(('*', '×', '·', 'x', 'X', r'\times', r'\cdot'))
_SIGNS = {'-': -1, '+': 1}
_CLOSING = {'(': ')', '{': '}'}
_DOTS = frozenset(('...', r'\ldots', r'\dots', r'\cdots'))


class Token(NamedTuple):
  """A token of a text.

  Attributes:
    kind: `number`, `repeating`, `word`, `han`, `newline`, `command` or `symbol`.
    text: the token as written.
    start: where it begins in the text.
    end: where it ends.
    glued: whether it follows another token without white space.
  """
  kind: str
  text: str
  start: int
  end: int
  glued: bool


class Number(NamedTuple):
  """A number in a sequence of tokens.

  Attributes:
    value: its value.
    places: the number of decimal places of a plain decimal or integer; None in other notation.
    start: its first token.
    end: the token after it.
  """
  value: Fraction
  places: int | None
  start: int
  end: int


def tokenized(text: str) -> list[Token]:
  """The tokens of a text in the spelling of `spelling.plain`."""
  tokens, end = [], 0
  for match in _TOKEN.finditer(text):
    start = match.start()
    kind = match.lastgroup or ''
    if match['repeating']:
      kind = 'repeating'
    tokens.append(Token(kind, match[0], start, match.end(), start == end and start > 0))
    end = match.end()
  return tokens


def parse_number(text: str) -> Fraction | None:
  """The exact value of a text that is one number and nothing else, or None for any other text.

  A sign, math delimiters, emphasis and a full stop may surround the number.
  """
  if len(text) > MAX_CHARACTERS:
    return None
  tokens = tokenized(spelling.undecorated(spelling.plain(text)))
  found = _signed(tokens, 0, 0)
  return found.value if found is not None and found.end == len(tokens) else None


def rounds_to(exact: Fraction, value: Fraction, places: int | None) -> bool:
  """Whether `value`, written with `places`, is the rounding of an `exact` number.

  Only a number without finite decimal form (1/3) may be rounded, to at least three places.
  """
  return (places is not None and places >= _MIN_ROUNDED_PLACES and not _is_finite_decimal(exact)
          and round(exact, places) == value)


def number_at(tokens: Sequence[Token], start: int, depth: int = 0) -> Number | None:
  """The number that begins at token `start`, without sign; None if none does."""
  if start >= len(tokens) or depth > _MAX_NESTING:
    return None
  found = _atom(tokens, start, depth)
  if found is None:
    return None
  value, places, end = found
  while end < len(tokens):
    text = tokens[end].text
    if text == '!' and tokens[end].glued:
      if value.denominator > 1 or not 0 <= value <= _MAX_FACTORIAL:
        break
      value, places, end = Fraction(math.factorial(int(value))), None, end + 1
      break
    raised = _exponent(tokens, end)
    if raised is None:
      break
    power = _power(value, raised[0])
    if power is None:
      return None
    value, places, end = power, None, raised[1]
  shift = _power_of_ten(tokens, end, scientific=places is not None and places > 0 and value < 10)
  if shift is not None:
    value, places, end = value * shift[0], None, shift[1]
  return Number(value, places, start, end)


def _text(tokens: Sequence[Token], place: int) -> str:
  return tokens[place].text if 0 <= place < len(tokens) else ''


def _atom(tokens: Sequence[Token], i: int, depth: int) -> tuple[Fraction, int | None, int] | None:
  kind, text = tokens[i].kind, tokens[i].text
  if kind == 'number':
    written = _written(text)
    if written is None:
      return None
    return _mixed_or_fraction(tokens, i, *written)
  if kind == 'repeating':
    return _repeating(text), None, i + 1
  if text in _CLOSING:
    inside = _signed(tokens, i + 1, depth + 1)
    if inside is not None and _text(tokens, inside.end) == _CLOSING[text]:
      return inside.value, inside.places, inside.end + 1
  elif text == r'\frac':
    fraction = _fraction(tokens, i)
    return fraction and (fraction[0], None, fraction[1])
  elif text in (r'\sqrt', '√'):
    return _root(tokens, i, depth)
  return None


def _signed(tokens: Sequence[Token], i: int, depth: int) -> Number | None:
  sign = _SIGNS.get(_text(tokens, i))
  found = number_at(tokens, i + (sign is not None), depth)
  return found and found._replace(value=found.value * (sign or 1))


def _written(text: str) -> tuple[Fraction, int | None] | None:
  """Value and places of a `number` token; None if its separators are in wrong places."""
  match = _WRITTEN.fullmatch(text)
  if match is None:
    return None
  places, exponent = match['places'] or '', match['exponent']
  digits = _SHIFT.sub('', match['integer']) + places
  if exponent is None:
    return Fraction(int(digits), 10 ** len(places)), len(places)
  scale = _power(Fraction(10), int(exponent))
  return None if scale is None else (Fraction(int(digits), 10 ** len(places)) * scale, None)


def _mixed_or_fraction(
    tokens: Sequence[Token], i: int, value: Fraction, places: int | None,
) -> tuple[Fraction, int | None, int] | None:
  """A number token, with the fraction that it is the numerator or the integer part of."""
  following = _text(tokens, i + 1)
  if places is None:
    return value, places, i + 1
  if following in _DOTS and places:
    repeated = _REPEATED.fullmatch(tokens[i].text.rpartition('.')[2])
    if repeated is not None:
      digits = tokens[i].text
      return _repeated(digits[:-len(repeated[1])], repeated[1]), None, i + 2
  if places or not following:
    return value, places, i + 1
  if following == '/':
    bottom = _integer(tokens, i + 2)
    if bottom is not None:
      return None if bottom == 0 else (value / bottom, None, i + 3)
  elif following == r'\frac':
    fraction = _fraction(tokens, i + 1)
    if fraction is not None and 0 < fraction[0] < 1:
      return value + fraction[0], None, fraction[1]
  elif not tokens[i + 1].glued and _text(tokens, i + 2) == '/':
    top, bottom = _integer(tokens, i + 1), _integer(tokens, i + 3)
    if top is not None and bottom is not None and 0 < top < bottom:
      return value + top / bottom, None, i + 4
  return value, places, i + 1


def _integer(tokens: Sequence[Token], i: int) -> Fraction | None:
  if i < len(tokens) and tokens[i].kind == 'number':
    written = _written(tokens[i].text)
    if written is not None and written[1] == 0:
      return written[0]
  return None


def _fraction(tokens: Sequence[Token], i: int) -> tuple[Fraction, int] | None:
  r"""Value and end of a `\frac` of two signed decimals, each in braces or one digit."""
  parts: list[Fraction] = []
  place, digits = i + 1, ''
  while len(parts) < 2:
    if digits:
      parts.append(Fraction(digits[0]))
      digits = digits[1:]
    elif _text(tokens, place) == '{':
      sign = _SIGNS.get(_text(tokens, place + 1))
      place += 1 + (sign is not None)
      written = _written(_text(tokens, place)) if _text(tokens, place).strip(',.') else None
      if written is None or _text(tokens, place + 1) != '}':
        return None
      parts.append(written[0] * (sign or 1))
      place += 2
    else:
      digits = _text(tokens, place)
      if not digits.isdecimal() or not digits.isascii() or len(digits) > 2:
        return None
      place += 1
  return None if digits or parts[1] == 0 else (parts[0] / parts[1], place)


def _root(tokens: Sequence[Token], i: int, depth: int) -> tuple[Fraction, int | None, int] | None:
  degree, place = 2, i + 1
  if _text(tokens, place) == '[':
    index = _integer(tokens, place + 1)
    if index is None or not 2 <= index <= 9 or _text(tokens, place + 2) != ']':
      return None
    degree, place = int(index), place + 3
  if place >= len(tokens) or tokens[i].text == r'\sqrt' and tokens[place].text != '{':
    single = _text(tokens, place)
    if len(single) != 1 or not single.isdecimal():
      return None
  found = _atom(tokens, place, depth + 1)
  if found is None or found[0] < 0:
    return None
  top, bottom = (_integer_root(part, degree)
                 for part in (found[0].numerator, found[0].denominator))
  return None if top is None or bottom is None else (Fraction(top, bottom), None, found[2])


def _integer_root(value: int, degree: int) -> int | None:
  if value.bit_length() > 1000:
    return None
  root = math.isqrt(value) if degree == 2 else 0
  step = 1 << (value.bit_length() // degree + 1) if degree > 2 else 0
  while step:
    if (root + step) ** degree <= value:
      root += step
    step >>= 1
  return root if root ** degree == value else None


def _exponent(tokens: Sequence[Token], i: int) -> tuple[int, int] | None:
  """The integer exponent that begins with `^` or `**` at token `i`, and the token after it."""
  if _text(tokens, i) not in ('^', '**') or _text(tokens, i) == '**' and not tokens[i].glued:
    return None
  place = i + 1
  closing = _CLOSING.get(_text(tokens, place), '')
  place += bool(closing)
  sign = _SIGNS.get(_text(tokens, place))
  place += sign is not None
  value = _integer(tokens, place)
  if value is None or closing and _text(tokens, place + 1) != closing or value > _MAX_BITS:
    return None
  return int(value) * (sign or 1), place + 1 + bool(closing)


def _power(base: Fraction, exponent: int) -> Fraction | None:
  """`base ** exponent` if it is defined and within the limit of bits."""
  bits = max(base.numerator.bit_length(), base.denominator.bit_length())
  if bits * abs(exponent) > _MAX_BITS or base == 0 and exponent <= 0:
    return None
  return base ** exponent


def _power_of_ten(
    tokens: Sequence[Token], i: int, *, scientific: bool) -> tuple[Fraction, int] | None:
  """The factor of a `× 10^n` at token `i`, and the token after it.

  After the mantissa of scientific notation the power may be 10 itself: `7.2 × 10`.
  """
  if _text(tokens, i) not in TIMES or _text(tokens, i + 1) != '10':
    return None
  raised = _exponent(tokens, i + 2)
  if raised is None and scientific:
    return Fraction(10), i + 2
  power = raised and _power(Fraction(10), raised[0])
  return (power, raised[1]) if raised and power is not None else None


def _repeating(text: str) -> Fraction:
  match = re.fullmatch(_REPEATING, text)
  assert match is not None
  if match['dotted'] or match['bare']:
    period = (match['dotted'] or match['bare']) + (match['middle'] or '') + (match['last'] or '')
  else:
    marked = match['barred'] or match['above']
    period = match['lined'] or match['one'] or match['bracketed'] or re.sub('[^0-9]', '', marked)
  return _repeated(match['fixed'], period)


def _repeated(fixed: str, period: str) -> Fraction:
  whole, _, places = fixed.replace(',', '').partition('.')
  scale = 10 ** len(places)
  return (Fraction(int((whole or '0') + places), scale)
          + Fraction(int(period), (10 ** len(period) - 1) * scale))


def _is_finite_decimal(value: Fraction) -> bool:
  denominator = value.denominator
  denominator >>= (denominator & -denominator).bit_length() - 1
  while denominator % 5 == 0:
    denominator //= 5
  return denominator == 1
