r"""Reading plain numbers in text exactly, as fractions.

A plain number is one of

* an integer or decimal in ASCII digits, with thousands separators in the right places or none
  (`1,234.50`, `1{,}234`, `.5`, `42.`), optionally with an exponent of one or two digits (`1e-5`);
* a fraction of two integers: `3/4`, `\frac{3}{4}`, `\dfrac`, `\tfrac`, `\frac34`.

It may have a sign, a currency sign, a percent or degree sign, a trailing full stop, Markdown
emphasis and math delimiters, and nothing else. A percent sign is a unit like the others: `50%` is
50, not 0.5. Words are not allowed: `10 apples` and `10 thousand` are not plain numbers. A comma is
never a decimal point. Text of more than 200 characters is not read, which bounds the time.
"""

from fractions import Fraction
import re

from r1jax.rewards.spelling import undecorated

_MAX_CHARACTERS = 200
_TAIL_CHARACTERS = 1000
_MIN_ROUNDED_PLACES = 3

_INTEGER = r'(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)'
_DECIMAL = rf'(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)'
_FRACTION = (
    rf'(?:{_INTEGER}/{_INTEGER}'
    rf'|\\[dt]?frac(?:\{{-?{_INTEGER}\}}\{{{_INTEGER}\}}|[0-9][0-9]))')
_CURRENCY = '[$€£¥]'

_PLAIN = re.compile(
    rf'{_CURRENCY}?(?P<sign>[+-]?){_CURRENCY}? ?'
    rf'(?:(?P<fraction>{_FRACTION})|(?P<decimal>{_DECIMAL})(?P<exponent>[eE][+-]?[0-9]{{1,2}})?)'
    r' ?(?:%|°|\^\{?\\circ\}?|[€£¥])?')
_IN_PROSE = re.compile(
    r'(?:(?<![A-Za-z0-9_)])[-\u2212])?\$?(?<![A-Za-z0-9_])(?<![0-9]\.)'
    rf'(?:{_FRACTION}|(?<!\.){_DECIMAL}|{_INTEGER})')
_TWO_INTEGERS = re.compile(rf'-?{_INTEGER}')

_SPELLINGS = (('\u2212', '-'), (r'\$', '$'), (r'\%', '%'), ('{,}', ','), (r'\,', ''), (r'\!', ''))


def _match(text: str) -> re.Match | None:
  """The match of `_PLAIN` with the whole of `text`, without its decoration."""
  if len(text) > _MAX_CHARACTERS:
    return None
  text = undecorated(text)
  for spelling, plain in _SPELLINGS:
    text = text.replace(spelling, plain)
  return _PLAIN.fullmatch(text)


def _value(match: re.Match) -> Fraction | None:
  """The value of a match of `_PLAIN`; None for a fraction with denominator 0."""
  if match['fraction']:
    written = match['fraction']
    if written[-1] != '}' and '/' not in written:
      numerator, denominator = written[-2:]
    else:
      numerator, denominator = _TWO_INTEGERS.findall(written)
    if int(denominator.replace(',', '')) == 0:
      return None
    value = Fraction(int(numerator.replace(',', '')), int(denominator.replace(',', '')))
  else:
    value = Fraction(match['decimal'].replace(',', '') + (match['exponent'] or ''))
  return -value if match['sign'] == '-' else value


def parse_number(text: str) -> Fraction | None:
  """The exact value of a text that is one plain number, or None for any other text."""
  match = _match(text)
  return None if match is None else _value(match)


def last_number(text: str) -> str | None:
  """The last plain number in the last 1,000 characters of `text`, as written; None if none."""
  found = _IN_PROSE.findall(text[-_TAIL_CHARACTERS:])
  return found[-1] if found else None


def equals(gold: Fraction, text: str) -> bool:
  """Whether `text` is a plain number with the value `gold`.

  Equality is exact, with one convention: if the gold has no finite decimal form (1/3), its correct
  rounding to at least three places (0.333) also counts as equal.
  """
  match = _match(text)
  if match is None:
    return False
  value = _value(match)
  if value is None or value == gold:
    return value is not None
  places = len((match['decimal'] or '').partition('.')[2])
  if places < _MIN_ROUNDED_PLACES or match['exponent'] or _is_finite_decimal(gold):
    return False
  return round(gold, places) == value


def _is_finite_decimal(value: Fraction) -> bool:
  denominator = value.denominator
  for prime in (2, 5):
    while denominator % prime == 0:
      denominator //= prime
  return denominator == 1
