r"""Expressions as floating-point numbers, to see that two of them differ.

Letters are given fixed values of both signs. Values that agree at all of them prove nothing.
"""

import cmath
from collections.abc import Callable
from fractions import Fraction
import hashlib
import math

from r1jax.rewards.formulas.expressions import Tree

_POINTS = 5
_RELATIVE, _OF_TERMS = 1e-9, 1e-12
_LN10 = math.log(10)


class _NoValue(ArithmeticError):
  pass


def value(tree: Tree, point: int = 0, log_base: float = math.e) -> complex | None:
  """The value of an expression with its letters at their `point`th values; None if it has none."""
  return _Evaluation(point, log_base).result(tree)[0]


def differ(a: Tree, b: Tree, log_base: float = math.e) -> bool | None:
  """Whether two expressions differ somewhere; None if too few values could be computed."""
  compared = 0
  for point in range(_POINTS):
    (one, scale), (other, other_scale) = (
        _Evaluation(point, log_base).result(tree) for tree in (a, b))
    if one is None and other is None:
      continue
    if one is None or other is None:
      continue
    tolerance = (_RELATIVE * max(abs(one), abs(other)) + _OF_TERMS * max(scale, other_scale))
    if abs(one - other) > tolerance:
      return True
    compared += 1
  return False if compared >= 2 else None


def has_function(tree: Tree, name: str) -> bool:
  """Whether an expression uses the function `name` with one operand."""
  return (tree.kind == 'function' and tree.name == name and len(tree.operands) == 1) or any(
      has_function(operand, name) for operand in tree.operands)


def symbols(tree: Tree) -> set[str]:
  """The names of the letters of an expression."""
  if tree.kind == 'symbol':
    return {tree.name}
  return set().union(*(symbols(operand) for operand in tree.operands))


class _Evaluation:
  """One evaluation; `scale` is the largest term that was added."""

  def __init__(self, point: int, log_base: float):
    self._point = point
    self._log_base = log_base
    self._scale = 0.0

  def result(self, tree: Tree) -> tuple[complex | None, float]:
    try:
      found = self._of(tree)
    except (ArithmeticError, ValueError, TypeError):
      return None, 0.0
    return (found if cmath.isfinite(found) else None), self._scale

  def _of(self, tree: Tree) -> complex:
    if tree.kind == 'number':
      return complex(float(tree.number))
    if tree.kind == 'constant':
      if tree.name == '∞':
        raise _NoValue
      return {'π': complex(math.pi), 'e': complex(math.e), 'i': 1j}[tree.name]
    if tree.kind == 'symbol':
      return self._symbol(tree.name)
    operands = [self._of(operand) for operand in tree.operands]
    if tree.kind == 'sum':
      self._scale = max(self._scale, *map(abs, operands))
      return sum(operands, 0j)
    if tree.kind == 'negative':
      return -operands[0]
    if tree.kind == 'product':
      return math.prod(operands, start=1 + 0j)
    if tree.kind == 'quotient':
      return operands[0] / operands[1]
    if tree.kind == 'power':
      return _power(*operands)
    if tree.kind == 'root':
      return _root(*operands)
    return self._function(tree.name, operands)

  def _symbol(self, name: str) -> complex:
    digest = hashlib.sha256(f'{self._point} {name}'.encode('utf-8', 'surrogatepass')).digest()
    drawn = int.from_bytes(digest[:6], 'big') / 2**48
    size = 0.3 + 1.7 * drawn
    return complex(-size if self._point % 2 else size)

  def _function(self, name: str, operands: list[complex]) -> complex:
    if name == 'log':
      if len(operands) == 2:
        return cmath.log(operands[1]) / cmath.log(operands[0])
      return cmath.log(operands[0]) / math.log(self._log_base)
    if name in _COMPLEX:
      return _COMPLEX[name](*operands)
    if name in _REAL:
      if any(abs(operand.imag) > 1e-12 * abs(operand) for operand in operands):
        raise _NoValue
      return complex(_REAL[name](*(operand.real for operand in operands)))
    (argument,) = operands    # a function such as f: anything that depends on its argument
    return self._symbol(name) + cmath.sin(3 * argument + 1)


def _power(base: complex, exponent: complex) -> complex:
  if exponent.imag == 0 and exponent.real == int(exponent.real) and abs(exponent) < 1024:
    return base**int(exponent.real)
  if base.imag == 0 and base.real < 0 and exponent.imag == 0:
    part = Fraction(exponent.real).limit_denominator(99)
    if part.denominator % 2 and abs(float(part) - exponent.real) < 1e-12:
      return complex((-1)**part.numerator * (-base.real)**exponent.real)    # the real root
  return base**exponent


def _root(degree: complex, radicand: complex) -> complex:
  if degree == 2:
    return cmath.sqrt(radicand)
  return _power(radicand, 1 / degree)


def _binomial(n: float, k: float) -> float:
  return math.gamma(n + 1) / (math.gamma(k + 1) * math.gamma(n - k + 1))


_COMPLEX: dict[str, Callable[..., complex]] = {
    'sin': cmath.sin, 'cos': cmath.cos, 'tan': cmath.tan, 'cot': lambda z: 1 / cmath.tan(z),
    'sec': lambda z: 1 / cmath.cos(z), 'csc': lambda z: 1 / cmath.sin(z), 'arcsin': cmath.asin,
    'arccos': cmath.acos, 'arctan': cmath.atan, 'sinh': cmath.sinh, 'cosh': cmath.cosh,
    'tanh': cmath.tanh, 'ln': cmath.log, 'log10': lambda z: cmath.log(z) / _LN10,
    'abs': lambda z: complex(abs(z)), 'sqrt': cmath.sqrt,
    'degrees': lambda z: z * math.pi / 180}
_REAL: dict[str, Callable[..., float]] = {
    'factorial': lambda x: math.gamma(x + 1), 'binomial': _binomial, 'floor': math.floor,
    'ceil': math.ceil, 'min': min, 'max': max,
    'gcd': lambda *n: math.gcd(*map(round, n)), 'lcm': lambda *n: math.lcm(*map(round, n))}
