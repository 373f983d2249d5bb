r"""Comparing two single expressions: units, then values.

Values are compared exactly where both have faithful images (`exact`), else by floating-point
numbers, which can only tell them apart (`numeric`). Only pairs that these leave open are put to
math-verify, rewritten in a plain form that it reads in one way.
"""

from fractions import Fraction
import math
import re

from r1jax.rewards import workers
from r1jax.rewards.formulas import exact, numeric
from r1jax.rewards.formulas.expressions import Tree, read_expression
from r1jax.rewards.formulas.quantities import Quantity, split_unit
from r1jax.rewards.formulas.tokens import Token, Unreadable, written

_MIN_ROUNDED_PLACES = 3
_MAX_DIGITS = 30
_BASES = {'two': '2', 'three': '3', 'four': '4', 'five': '5', 'six': '6', 'seven': '7',
          'eight': '8', 'nine': '9', 'ten': '10', 'eleven': '11', 'twelve': '12', 'sixteen': '16'}
_IN_BASE = re.compile(
    r'\(?([0-9A-F][0-9A-Fa-f]*(?:\.[0-9A-Fa-f]+)?)\)?(?:_\{?\(?|\(?base)([0-9]{1,2}|[a-z]+)\)?\}?')
_ALPHABET = 'xyztuvwabcpqrsmnklh'


def equal(gold: tuple[Token, ...], answer: tuple[Token, ...]) -> bool | None:
  """Whether an expression equals the gold; None if the gold cannot be judged.

  Raises:
    ImportError: math-verify must be asked and is not installed.
  """
  if written(gold) == written(answer):
    return True
  base = _in_base(gold)
  if base is not None:
    return _in_base(answer) == base or _compact(answer).lstrip('0').upper() == base[0]
  if any(token.text == r'\pmod' for token in gold):
    return _same_remainder(gold, answer)
  wanted = split_unit(gold)
  given = split_unit(answer, letters=wanted.unit is not None)
  try:
    gold_tree = read_expression(wanted.value)
    exact.image(gold_tree)
  except exact.Undefined:
    return None
  except Unreadable:
    return _unreadable(gold, answer)
  if not _same_unit(wanted, given):
    return False
  try:
    return _equal_values(gold_tree, read_expression(given.value), given.value, wanted.value)
  except (Unreadable, RecursionError):
    return False


def _same_remainder(gold: tuple[Token, ...], answer: tuple[Token, ...]) -> bool:
  r"""Whether an answer to `3 \pmod{7}` has the same remainder, with the same modulus or none."""
  (gold_value, modulus), (value, other) = map(_with_modulus, (gold, answer))
  if modulus is None or other not in (None, modulus):
    return False
  try:
    wanted, given = (exact.rational(read_expression(tokens)) for tokens in (gold_value, value))
  except Unreadable:
    return False
  if wanted is None or given is None:
    return written(gold_value) == written(value)
  difference = wanted - given
  return difference == 0 or (other is not None and modulus.isdigit() and int(modulus) > 0
                             and difference % int(modulus) == 0)


def _with_modulus(tokens: tuple[Token, ...]) -> tuple[tuple[Token, ...], str | None]:
  for i, token in enumerate(tokens):
    if token.text == r'\pmod':
      return tokens[:i], _compact(tokens[i + 1:]).strip('{}')
  return tokens, None


def _compact(tokens: tuple[Token, ...]) -> str:
  return ''.join(token.text for token in tokens)


def _in_base(tokens: tuple[Token, ...]) -> tuple[str, str] | None:
  """The digits and the base of a number such as `1011_2`; None for anything else."""
  match = _IN_BASE.fullmatch(_compact(tokens))
  if match is None:
    return None
  digits, base = match[1].upper(), _BASES.get(match[2], match[2])
  # `A_2` is a letter with a subscript.
  if not base.isdigit() or any(int(digit, 16) >= int(base) for digit in digits.replace('.', '')):
    return None
  return digits.lstrip('0'), base


def _same_unit(wanted: Quantity, given: Quantity) -> bool:
  """Whether the answer has the gold's unit or none; where the gold has none, any known one."""
  if given.unit is None or given.unit == wanted.unit:
    return True
  return wanted.unit is None and given.known


def _unreadable(gold: tuple[Token, ...], answer: tuple[Token, ...]) -> bool | None:
  """The verdict on a gold that is no expression of ours, such as an integral: math-verify's."""
  words = {token.text for token in (*gold, *answer) if token.kind == 'word'}
  if words - {'sin', 'cos', 'tan', 'ln', 'log', 'exp'}:
    return None if written(gold) == '' else False
  for tokens in (gold, answer):
    if any(len(token.text) > _MAX_DIGITS for token in tokens):
      return False
  # A sign that math-verify would skip or take for a separator.
  if any(token.text in (',', ';', ':', '|', '"', '#', '&', '°') for token in answer):
    return False
  commands = {token.text for token in answer if token.text.startswith('\\')}
  allowed = {token.text for token in gold} | {
      r'\frac', r'\sqrt', r'\pi', r'\infty', r'\{', r'\}', r'\binom'}
  if not commands <= allowed:
    return False
  return workers.current_pool().equivalent(_latex(gold), _latex(answer))


def _latex(tokens: tuple[Token, ...]) -> str:
  symbols = {'*': r'\cdot ', 'π': r'\pi ', '∞': r'\infty '}
  return ' '.join(
      symbols.get(token.text, '\\' + token.text if token.kind == 'word' else token.text)
      for token in tokens)


def _equal_values(gold: Tree, answer: Tree, answer_tokens: tuple[Token, ...],
                  gold_tokens: tuple[Token, ...]) -> bool | None:
  if _is_number(gold) and _is_arithmetic(answer):
    return False
  infinities = [_infinity(tree) for tree in (gold, answer)]
  if any(infinities):
    return infinities[0] == infinities[1]
  has_log = numeric.has_function(gold, 'log') or numeric.has_function(answer, 'log')
  log_base = 10.0 if has_log and numeric.differ(gold, answer) else math.e
  one, other = exact.image(gold), exact.image(answer)
  if one[:2] == other[:2] and (one.faithful and other.faithful
                               or numeric.differ(gold, answer, log_base) is not True):
    return True
  if _is_rounded(gold, answer_tokens) or _is_rounded(answer, gold_tokens):
    return True
  if one.faithful and other.faithful:
    return False
  if numeric.differ(gold, answer, log_base) is True:
    return False
  if _too_large(gold) or _too_large(answer):
    return False
  names = sorted(numeric.symbols(gold) | numeric.symbols(answer))
  if len(names) > len(_ALPHABET):
    return False
  letters = dict(zip(names, _ALPHABET, strict=False)) | {'log': 'e' if log_base == math.e else '10'}
  return workers.current_pool().equivalent(_rendered(gold, letters), _rendered(answer, letters))


def _infinity(tree: Tree) -> str:
  if tree.kind == 'negative':
    inside = _infinity(tree.operands[0])
    return {'+': '-', '-': '+'}.get(inside, inside)
  if tree == Tree('constant', '∞'):
    return '+'
  return '?' if any(map(_infinity, tree.operands)) else ''


def _is_number(tree: Tree) -> bool:
  """Whether an expression is a plain number: digits, a sign, a fraction of such."""
  return tree.kind == 'number' or (
      tree.kind in ('negative', 'quotient') and all(map(_is_number, tree.operands)))


def _is_arithmetic(tree: Tree) -> bool:
  """Whether an expression computes with numbers alone: `3 + 9`, `3 * 4`, not `1.2 * 10^3`."""
  if numeric.symbols(tree):
    return False
  if tree.kind == 'sum':
    return True
  if tree.kind == 'product' and tree.operands[-1].kind != 'power':
    return all(_is_number(operand) for operand in tree.operands)
  return any(map(_is_arithmetic, tree.operands))


def _is_rounded(value: Tree, tokens: tuple[Token, ...]) -> bool:
  """Whether the tokens are a decimal of three places or more to which a number is rounded.

  The number must be one that no decimal equals.
  """
  negative = len(tokens) == 2 and tokens[0].text == '-'
  token = tokens[-1] if tokens else None
  if token is None or len(tokens) > 1 + negative or token.kind != 'number':
    return False
  places = len(token.text.partition('.')[2])
  return '\\' not in token.text and places >= _MIN_ROUNDED_PLACES and is_rounding(
      value, (-1 if negative else 1) * Fraction(token.text), places)


def is_rounding(tree: Tree, decimal: Fraction, places: int) -> bool:
  """Whether `decimal`, with so many places, is the rounded value of a number without a decimal."""
  if numeric.symbols(tree) or numeric.has_function(tree, 'log'):
    return False
  value = exact.rational(tree)
  if value is not None:
    denominator = value.denominator
    for prime in (2, 5):
      while denominator % prime == 0:
        denominator //= prime
    return denominator != 1 and round(value, places) == decimal
  approximate = numeric.value(tree)
  if approximate is None or abs(approximate.imag) > 1e-12:
    return False
  error = 1e-13 * max(1.0, abs(approximate.real))
  return abs(Fraction(approximate.real) - decimal) <= Fraction(1, 2 * 10**places) + Fraction(error)


def _too_large(tree: Tree) -> bool:
  """Whether a computer algebra system may take too long for the numbers of an expression."""
  if tree.kind == 'number':
    return max(abs(tree.number.numerator), tree.number.denominator) >= 10**_MAX_DIGITS
  if tree.kind == 'power' and tree.operands[1].kind == 'number':
    exponent = tree.operands[1].number
    if abs(exponent) > 1000 or (tree.operands[0].kind == 'sum' and abs(exponent) > 50):
      return True
  return any(map(_too_large, tree.operands))


def _rendered(tree: Tree, letters: dict[str, str]) -> str:
  """An expression in LaTeX, with every operation in brackets."""
  operands = [_rendered(operand, letters) for operand in tree.operands]
  if tree.kind == 'number':
    if tree.number.denominator == 1:
      return str(tree.number.numerator)
    return rf'\frac{{{tree.number.numerator}}}{{{tree.number.denominator}}}'
  if tree.kind == 'symbol':
    return letters[tree.name]
  if tree.kind == 'constant':
    return {'π': r'\pi', '∞': r'\infty'}.get(tree.name, tree.name)
  if tree.kind == 'sum':
    return '(' + ' + '.join(operands) + ')'
  if tree.kind == 'negative':
    return f'(-{operands[0]})'
  if tree.kind == 'product':
    return '(' + r' \cdot '.join(operands) + ')'
  if tree.kind == 'quotient':
    return rf'\frac{{{operands[0]}}}{{{operands[1]}}}'
  if tree.kind == 'power':
    return f'({operands[0]})^{{{operands[1]}}}'
  if tree.kind == 'root':
    return rf'\sqrt[{operands[0]}]{{{operands[1]}}}'
  return _rendered_function(tree.name, operands, letters['log'])


def _rendered_function(name: str, operands: list[str], log_base: str) -> str:
  if name == 'factorial':
    return f'({operands[0]})!'
  if name == 'binomial':
    return rf'\binom{{{operands[0]}}}{{{operands[1]}}}'
  if name == 'degrees':
    return rf'(\frac{{\pi}}{{180}} \cdot {operands[0]})'
  if name in ('abs', 'floor', 'ceil'):
    left, right = {'abs': ('|', '|'), 'floor': (r'\lfloor ', r'\rfloor '),
                   'ceil': (r'\lceil ', r'\rceil ')}[name]
    return f'{left}{operands[0]}{right}'
  if name in ('log', 'log10'):
    base = '10' if name == 'log10' else operands[0] if len(operands) == 2 else log_base
    return rf'\log_{{{base}}}({operands[-1]})'
  if name in ('gcd', 'lcm', 'min', 'max'):
    return rf'\{name}({", ".join(operands)})'
  if len(name) == 1 or "'" in name or '_' in name:
    return f'f({operands[0]})'
  return rf'\{name}({operands[0]})'
