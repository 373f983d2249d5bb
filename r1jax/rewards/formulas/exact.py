r"""Exact comparison of expressions by their images in a finite field.

An expression of rational numbers, their square roots, π, e, i and letters, combined by +, -, *, /
and whole powers, has an image in the field of p² elements, p = 2^61 - 1: every letter, π and e is
sent to a fixed element drawn at random, √q of a prime q to a root of q, i to a root of -1.
Sums and products keep their value under this map, so equal expressions have equal images; different
ones have different images but for a chance of about 2^-50 (Schwartz, 1980; Zippel, 1979). Any other
function is sent to a random element that depends on its arguments' images. Then equal images still
mean equal expressions, but different images mean nothing.
"""

from fractions import Fraction
import functools
import hashlib
import math
from typing import NamedTuple

from r1jax.rewards.formulas.expressions import Tree
from r1jax.rewards.formulas.tokens import Unreadable

_P = 2**61 - 1
_MAX_BITS = 4096
_LARGEST_FACTOR = 1000


class Undefined(Unreadable):
  """The expression has no value, such as 1/0, or one that is too large."""


class Image(NamedTuple):
  """The element `real + root * imaginary` of the field, with root² = -1.

  Attributes:
    real: from 0 to p - 1.
    imaginary: from 0 to p - 1.
    faithful: whether only expressions that are equal have equal images *and* no equal expressions
      have different ones.
  """
  real: int
  imaginary: int
  faithful: bool


def image(tree: Tree, point: int = 0) -> Image:
  """The image of an expression, with its letters at their `point`th elements.

  Raises:
    Undefined: it divides by zero, or its numbers are too large.
  """
  if tree.kind == 'number':
    return _of_fraction(tree.number)
  if tree.kind == 'constant' and tree.name == 'i':
    return Image(0, 1, True)
  if tree.kind == 'constant' and tree.name == '∞':
    return _drawn('∞')._replace(faithful=False)
  if tree.kind in ('symbol', 'constant'):
    return _drawn(f'{tree.kind} {tree.name} {point if tree.kind == "symbol" else ""}')
  if tree.kind == 'power':
    return _power(tree, point)
  if tree.kind == 'root':
    return _root(tree, point)
  operands = [image(operand, point) for operand in tree.operands]
  if tree.kind == 'sum':
    return functools.reduce(_add, operands)
  if tree.kind == 'negative':
    return product(operands[0], Image(_P - 1, 0, True))
  if tree.kind == 'product':
    return functools.reduce(product, operands)
  if tree.kind == 'quotient':
    return product(operands[0], _inverse(operands[1]))
  value = rational(tree)
  return _opaque(tree.name, operands) if value is None else _of_fraction(value)


def rational(tree: Tree) -> Fraction | None:
  """The exact value of an expression of rational numbers; None for any other.

  Raises:
    Undefined: it divides by zero, or its numbers are too large.
  """
  if tree.kind == 'number':
    return _limited(tree.number)
  if not tree.operands:
    return None
  operands = []
  for operand in tree.operands:
    value = rational(operand)
    if value is None:
      return None
    operands.append(value)
  combine = _COMBINED.get(tree.name if tree.kind == 'function' else tree.kind)
  value = None if combine is None else combine(*operands)
  return None if value is None else _limited(value)


def _limited(value: Fraction) -> Fraction:
  if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
    raise Undefined('a number is too large')
  return value


def _quotient(a: Fraction, b: Fraction) -> Fraction:
  if b == 0:
    raise Undefined('a division by zero')
  return a / b


def _rational_power(base: Fraction, exponent: Fraction) -> Fraction | None:
  if exponent.denominator != 1:
    return _rational_root(Fraction(exponent.denominator), _rational_power(
        base, Fraction(exponent.numerator)) or Fraction(0)) if base > 0 else None
  if base == 0 and exponent <= 0:
    raise Undefined('a power of zero')
  bits = max(base.numerator.bit_length(), base.denominator.bit_length())
  if base in (0, 1, -1):
    return base**(int(exponent) % 2 + 2)
  if bits * abs(exponent) > 2 * _MAX_BITS:
    raise Undefined('a power is too large')
  return base**int(exponent)


def _rational_root(degree: Fraction, radicand: Fraction) -> Fraction | None:
  if degree.denominator != 1 or not 2 <= degree <= 64:
    return None
  n = int(degree)
  negative = radicand < 0
  if negative and n % 2 == 0:
    return None
  sides = [_whole_root(side, n) for side in (abs(radicand.numerator), radicand.denominator)]
  if sides[0] is None or sides[1] is None:
    return None
  value = Fraction(sides[0], sides[1])
  return -value if negative else value


def _whole_root(value: int, n: int) -> int | None:
  low, high = 0, 1 << (value.bit_length() // n + 1)
  while low < high:
    middle = (low + high) // 2
    if middle**n < value:
      low = middle + 1
    else:
      high = middle
  return low if low**n == value else None


def _factorial(value: Fraction) -> Fraction | None:
  if value.denominator != 1 or value < 0:
    return None
  if value > 400:
    raise Undefined('a factorial is too large')
  return Fraction(math.factorial(int(value)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
  if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= 1000:
    return None
  return Fraction(math.comb(int(n), int(k)))


def _whole(function):
  """`function` of whole numbers; None for any other."""
  def of_fractions(*values: Fraction) -> Fraction | None:
    if any(value.denominator != 1 for value in values):
      return None
    return Fraction(function(*map(int, values)))
  return of_fractions


_COMBINED = {
    'sum': lambda *values: sum(values, Fraction(0)),
    'negative': lambda a: -a,
    'product': lambda *values: math.prod(values, start=Fraction(1)),
    'quotient': _quotient,
    'power': _rational_power,
    'root': _rational_root,
    'factorial': _factorial,
    'binomial': _binomial,
    'abs': abs,
    'floor': lambda a: Fraction(math.floor(a)),
    'ceil': lambda a: Fraction(math.ceil(a)),
    'min': min,
    'max': max,
    'gcd': _whole(math.gcd),
    'lcm': _whole(math.lcm),
}


def _drawn(name: str) -> Image:
  """An element of the field that depends on `name` alone."""
  digest = hashlib.sha256(name.encode('utf-8', 'surrogatepass')).digest()
  return Image(int.from_bytes(digest[:8], 'big') % _P, 0, True)


def _opaque(name: str, operands: list[Image]) -> Image:
  arguments = ', '.join(f'{operand.real}+{operand.imaginary}i' for operand in operands)
  return _drawn(f'{name}({arguments})')._replace(faithful=False)


def _of_fraction(value: Fraction) -> Image:
  _limited(value)
  return Image(value.numerator * pow(value.denominator, -1, _P) % _P, 0, True)


def _add(a: Image, b: Image) -> Image:
  return Image(
      (a.real + b.real) % _P, (a.imaginary + b.imaginary) % _P, a.faithful and b.faithful)


def product(a: Image, b: Image) -> Image:
  """The image of a product, from those of its factors."""
  return Image((a.real * b.real - a.imaginary * b.imaginary) % _P,
               (a.real * b.imaginary + a.imaginary * b.real) % _P, a.faithful and b.faithful)


def _inverse(a: Image) -> Image:
  norm = (a.real * a.real + a.imaginary * a.imaginary) % _P
  if norm == 0:
    raise Undefined('a division by zero')
  inverse = pow(norm, -1, _P)
  return Image(a.real * inverse % _P, -a.imaginary * inverse % _P, a.faithful)


def _power(tree: Tree, point: int) -> Image:
  base, exponent = tree.operands
  number = rational(exponent)
  if number is None:
    return _opaque('power', [image(base, point), image(exponent, point)])
  if number.denominator == 2:
    base = Tree('root', operands=(Tree('number', number=Fraction(2)), base))
    number *= 2
  if number.denominator != 1:
    return _opaque('power', [image(base, point), _of_fraction(number)])
  element = image(base, point)
  if number < 0:
    element = _inverse(element)
  result, left = Image(1, 0, element.faithful), abs(number.numerator) % (_P * _P - 1)
  while left:
    if left & 1:
      result = product(result, element)
    element = product(element, element)
    left >>= 1
  return result


def _root(tree: Tree, point: int) -> Image:
  degree, radicand = (rational(operand) for operand in tree.operands)
  if radicand is None or degree is None:
    return _opaque('root', [image(operand, point) for operand in tree.operands])
  value = _rational_root(degree, radicand)
  if value is not None:
    return _of_fraction(value)
  if degree != 2:
    return _opaque('root', [_of_fraction(degree), _of_fraction(radicand)])
  # √(a/b) = √(ab) / b
  outside, primes, faithful = _squarefree(abs(radicand.numerator * radicand.denominator))
  result = _of_fraction(Fraction(outside, radicand.denominator))._replace(faithful=faithful)
  for prime in primes:
    result = product(result, _root_of(prime))
  return product(result, Image(0, 1, True)) if radicand < 0 else result


def _squarefree(value: int) -> tuple[int, list[int], bool]:
  """`outside` and distinct primes with √value = outside · √(their product).

  The last "prime" may be a product of large ones, where the third result is False.
  """
  outside, primes = 1, []
  for factor in range(2, _LARGEST_FACTOR):
    if factor * factor > value:
      break
    count = 0
    while value % factor == 0:
      value //= factor
      count += 1
    outside *= factor**(count // 2)
    if count % 2:
      primes.append(factor)
  root = math.isqrt(value)
  if root * root == value:
    return outside * root, primes, True
  return outside, [*primes, value], value < _LARGEST_FACTOR**2


def _root_of(value: int) -> Image:
  """A root of a positive whole number in the field: p leaves 3 when divided by 4."""
  value %= _P
  root = pow(value, (_P + 1) // 4, _P)
  if root * root % _P == value:
    return Image(root, 0, True)
  return Image(0, pow(-value % _P, (_P + 1) // 4, _P), True)
