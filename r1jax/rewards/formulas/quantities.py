r"""Units at the end of an expression, and a currency in front of it.

`5\text{ km}`, `5 kilometers` and `5\,\mathrm{km}` have one unit, `5\text{ m}^2` and
`5 square meters` another. A word that is no known unit is a unit by its own name (`apples`),
without its plural. Nothing is converted: `5000 m` has another unit than `5 km`. A magnitude is no
unit but a factor: `5 million` is 5000000.
"""

from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards.formulas.tokens import FUNCTIONS, Token, Unreadable, closing

_NAMES = {
    'mm': 'millimeter millimetre 毫米', 'cm': 'centimeter centimetre 厘米',
    'dm': 'decimeter decimetre', 'm': 'meter metre 米', 'km': 'kilometer kilometre 千米 公里',
    'nm': 'nanometer nanometre', 'in': 'inch inche', 'ft': 'foot feet', 'yd': 'yard', 'mi': 'mile',
    'mg': 'milligram', 'g': 'gram gramme 克', 'kg': 'kilogram kilogramme kilo 千克 公斤',
    't': 'tonne ton 吨', 'lb': 'pound', 'oz': 'ounce', 'ms': 'millisecond',
    's': 'second sec 秒', 'min': 'minute 分钟 分', 'h': 'hour hr 小时', 'day': '天 日',
    'week': 'wk 周 星期', 'month': '月', 'year': 'yr 年', 'mL': 'milliliter millilitre ml 毫升',
    'L': 'liter litre 升', 'gal': 'gallon', 'N': 'newton', 'J': 'joule', 'kJ': 'kilojoule',
    'W': 'watt', 'kW': 'kilowatt', 'V': 'volt', 'A': 'ampere amp', 'Ω': 'ohm', 'Pa': 'pascal',
    'Hz': 'hertz', 'kHz': 'kilohertz', 'MHz': 'megahertz', 'K': 'kelvin', 'mol': 'mole',
    'percent': r'percentage \% pct', 'degree': 'deg ° 度', 'radian': 'rad', 'dollar':
    'USD usd $ 美元', 'cent': '¢', 'euro': 'EUR €', 'pound_sterling': 'GBP £',
    'yuan': 'RMB CNY 元 块 ¥ 圆', 'yen': 'JPY', 'rupee': 'INR ₹', 'unit': '', 'hectare': 'ha',
    'acre': '', 'people': 'person 人', 'am': '', 'pm': '', 'mph': '', 'kph': 'kmh',
}
_KNOWN = {name: unit for unit, names in _NAMES.items() for name in (unit, *names.split())}
_COMPOSED: Mapping[str, tuple[tuple[str, int], ...]] = {
    'mph': (('mi', 1), ('h', -1)), 'kph': (('km', 1), ('h', -1)), 'cc': (('cm', 3),),
    '平方米': (('m', 2),), '平方厘米': (('cm', 2),), '平方千米': (('km', 2),),
    '平方公里': (('km', 2),), '立方米': (('m', 3),), '立方厘米': (('cm', 3),)}
_POWERS = {'square': 2, 'squared': 2, 'sq': 2, 'cubic': 3, 'cubed': 3, 'cu': 3}
_MAGNITUDES = {
    'hundred': 100, 'thousand': 1000, 'million': 10**6, 'billion': 10**9, 'trillion': 10**12,
    'dozen': 12, '百': 100, '千': 1000, '万': 10**4, '百万': 10**6, '亿': 10**8}
_FILLERS = frozenset(('of', 'the', 'a', 'an'))
_CURRENCIES = frozenset('$€£¥₹')

Unit = frozenset[tuple[str, int]]


class Quantity(NamedTuple):
  """The tokens of a value, and its unit: its bases with their powers, None if it has none."""
  value: tuple[Token, ...]
  unit: Unit | None
  known: bool = True    # whether each base is in the table


def is_known_unit(word: str) -> bool:
  """Whether a word is a unit of the table, in any spelling."""
  return _canonical(word) in _NAMES or word in _COMPOSED or word.lower() in _POWERS


def split_unit(tokens: tuple[Token, ...], *, letters: bool = False) -> Quantity:
  """Separates the value from its unit.

  Args:
    tokens: the tokens of an expression.
    letters: whether single letters with a space before them (`5 m`) are units, too.
  """
  currency = None
  if len(tokens) > 2 and [token.text for token in tokens[:3]] == ['U', 'S', '$']:
    tokens = tokens[2:]
  if len(tokens) > 1 and tokens[0].text in (*_CURRENCIES, 'USD'):
    currency, tokens = _KNOWN[tokens[0].text], tokens[1:]
  elif len(tokens) > 2 and tokens[0].text in '+-' and tokens[1].text in _CURRENCIES:
    currency, tokens = _KNOWN[tokens[1].text], (tokens[0], *tokens[2:])
  tokens = _flat_fractions(tokens)
  start = _start(tokens, letters)
  if any(token.text in FUNCTIONS for token in tokens[:start]) and _circle(tokens[start + 1:]):
    return Quantity(tokens, None)    # sin 30°
  magnitudes = start
  while magnitudes < len(tokens) and tokens[magnitudes].text.lower() in _MAGNITUDES:
    magnitudes += 1
  value = _multiplied(tokens[:start], tokens[start:magnitudes])
  if magnitudes == len(tokens):
    return Quantity(value, None if currency is None else frozenset([(currency, 1)]))
  try:
    bases, known = _read(tokens[magnitudes:])
  except Unreadable:
    return Quantity(tokens, None)
  if currency is not None and bases != {currency: 1}:
    return Quantity(tokens, None)
  return Quantity(value, frozenset(bases.items()), known)


def _multiplied(value: tuple[Token, ...], magnitudes: tuple[Token, ...]) -> tuple[Token, ...]:
  if not magnitudes:
    return value
  factors = [token for word in magnitudes for token in (
      Token('sign', '*'), Token('number', str(_MAGNITUDES[word.text.lower()])))]
  return (Token('sign', '('), *value, Token('sign', ')'), *factors)


def _flat_fractions(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
  r"""`\text{km} / \text{h}` for a `\frac{\text{km}}{\text{h}}` at the end."""
  for i in range(len(tokens) - 1, 0, -1):
    if tokens[i].text == r'\frac' and i + 1 < len(tokens) and tokens[i + 1].text == '{':
      end = closing(tokens, i + 1)
      top, bottom = tokens[i + 2:end], tokens[end + 2:-1]
      if top and bottom and all(_is_unit(token, False) for token in (*top, *bottom)):
        return (*tokens[:i], *top, Token('sign', '/'), *bottom)
      break
  return tokens


def _is_unit(token: Token, letters: bool) -> bool:
  """Whether a token can stand in a unit by itself."""
  if token.kind == 'word':
    return token.text not in FUNCTIONS or token.text == 'min'
  if token.kind == 'letter':
    return token.upright or (letters and token.text in _KNOWN)
  return token.text in ('°', '¢', r'\%', *_CURRENCIES)


def _start(tokens: tuple[Token, ...], letters: bool) -> int:
  """The index of the first token of the unit, or the number of tokens."""
  start = len(tokens)
  i = len(tokens) - 1
  while i > 0:
    token = tokens[i]
    if _is_unit(token, letters):
      start = i
    elif (token.text in (r'\circ', '{', '}', '(', ')', '^', '/', '*', '-', '_')
          or (token.kind == 'number' and tokens[i - 1].text in ('^', '-', '{'))
          or (token.kind == 'letter' and tokens[i - 1].text in ('/', '*', r'\circ', '°', '}'))):
      # Part of a unit only if one stands before it.
      if token.text == r'\circ' and tokens[i - 1].text in ('^', '{'):
        start = i - 1 if tokens[i - 1].text == '^' else i - 2
        i = start
    else:
      break
    i -= 1
  return max(start, 0)


def _read(tokens: tuple[Token, ...]) -> tuple[dict[str, int], bool]:
  """The bases of a unit with their powers, and whether all are known.

  Raises:
    Unreadable: the tokens are no unit.
  """
  bases: dict[str, int] = {}
  known = True
  side, coming, last = 1, 1, ''
  i = 0
  while i < len(tokens):
    token = tokens[i]
    word = token.text
    i += 1
    if word in ('/', 'per'):
      side = -1
    elif word in ('*', '(', ')', '{', '}') or word.lower() in _FILLERS:
      pass
    elif word == '°' or (word == '^' and _circle(tokens[i:])):
      i += _circle(tokens[i:]) if word == '^' else 0
      last = 'degree'
      if i < len(tokens) and tokens[i].text in ('C', 'F'):
        last += tokens[i].text
        i += 1
      bases[last] = side
    elif word == '^' and last:
      power, i = _exponent(tokens, i)
      bases[last] = (1 if bases[last] > 0 else -1) * power
    elif word.lower() in ('celsius', 'fahrenheit') and last == 'degree':
      bases[last + word[0].upper()] = bases.pop(last)
    elif word.lower() in _POWERS:
      if word.lower().endswith('ed'):
        if not last:
          raise Unreadable('no unit before a power')
        bases[last] *= _POWERS[word.lower()]
      else:
        coming = _POWERS[word.lower()]
    elif token.kind in ('word', 'letter') or word in ('¢', r'\%', *_CURRENCIES):
      if word.lower() in _MAGNITUDES:
        raise Unreadable('a magnitude within a unit')
      for last, power in _COMPOSED.get(word, ((_canonical(word), 1),)):
        bases[last] = bases.get(last, 0) + side * power * coming
      known = known and (word in _COMPOSED or last in _NAMES)
      coming = 1
    else:
      raise Unreadable(f'{word} is no unit')
  if not bases:
    raise Unreadable('no unit')
  return bases, known


def _circle(tokens: tuple[Token, ...]) -> int:
  r"""How many tokens `\circ` or `{\circ}` takes; 0 if neither comes."""
  texts = [token.text for token in tokens[:3]]
  if texts[:1] in ([r'\circ'], ['°']):
    return 1
  return 3 if texts == ['{', r'\circ', '}'] else 0


def _exponent(tokens: tuple[Token, ...], i: int) -> tuple[int, int]:
  """The whole exponent at `i`, and where it ends."""
  if i >= len(tokens):
    raise Unreadable('an exponent is missing')
  end = closing(tokens, i) + 1 if tokens[i].text == '{' else i + 1
  digits = ''.join(token.text for token in tokens[i:end] if token.text not in '{}')
  if digits not in ('1', '2', '3', '4', '-1', '-2', '-3'):
    raise Unreadable('no exponent of a unit')
  return int(digits), end


def compound(tokens: tuple[Token, ...]) -> frozenset[tuple[str, str]] | None:
  r"""The numbers and units of a quantity in several units, such as `1 hour 30 minutes`.

  None for anything else.
  """
  tokens = tuple(token for token in tokens if token.text not in ('and', ','))
  if len(tokens) < 4 or len(tokens) % 2:
    return None
  pairs = set()
  for number, unit in zip(tokens[::2], tokens[1::2]):
    if number.kind != 'number' or unit.kind not in ('word', 'letter'):
      return None
    pairs.add((_canonical(unit.text), number.text))
  units = {unit for unit, _ in pairs}
  return frozenset(pairs) if len(units) == len(tokens) // 2 and units <= _NAMES.keys() else None


def _canonical(word: str) -> str:
  """One name for a unit's abbreviations, spellings and plural."""
  for form in (word, word.lower(), word.lower().removesuffix('s'), word.lower().removesuffix('es')):
    if form in _KNOWN:
      return _KNOWN[form]
  word = word.lower()
  return word[:-1] if word.endswith('s') and not word.endswith('ss') else word
