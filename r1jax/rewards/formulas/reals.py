r"""Sets of real numbers: intervals, their unions, what is left of the line without some points."""

from typing import NamedTuple

from r1jax.rewards.formulas import numeric
from r1jax.rewards.formulas.expressions import Tree, read_expression
from r1jax.rewards.formulas.quantities import split_unit
from r1jax.rewards.formulas.tokens import Token, Unreadable

_INFINITE = float('inf')


class Bound(NamedTuple):
  """An end of an interval: its value, for the order, and its tokens; none where it is infinite."""
  value: float
  tokens: tuple[Token, ...]


class Piece(NamedTuple):
  """An interval; a point if both ends are equal."""
  low: Bound
  low_open: bool
  high: Bound
  high_open: bool


class Reals(NamedTuple):
  """Intervals in ascending order that do not touch.

  Attributes:
    pieces: the intervals.
    excluded: the points without which this is the line, if it was written like that.
  """
  pieces: tuple[Piece, ...]
  excluded: tuple[tuple[Token, ...], ...] = ()


_LOW, _HIGH = Bound(-_INFINITE, ()), Bound(_INFINITE, ())
LINE = Reals((Piece(_LOW, True, _HIGH, True),))
NOTHING = Reals(())


def _bound(tokens: tuple[Token, ...]) -> Bound | None:
  """The bound that an expression is; None if it is no real number."""
  try:
    tree = read_expression(split_unit(tokens).value)
  except Unreadable:
    return None
  if _infinite(tree):
    return _LOW if tree.kind == 'negative' else _HIGH
  if numeric.symbols(tree):
    return None
  value = numeric.value(tree)
  if value is None or abs(value.imag) > 1e-12 * abs(value):
    return None
  return Bound(value.real, tokens)


def _infinite(tree: Tree) -> bool:
  if tree.kind == 'negative':
    return _infinite(tree.operands[0])
  return tree.kind == 'constant' and tree.name == '∞'


def between(low: tuple[Token, ...] | None, low_open: bool, high: tuple[Token, ...] | None,
            high_open: bool) -> Reals | None:
  """The numbers between two bounds, None standing for none.

  None if a bound is no number, or is infinite and yet included.
  """
  ends = (_LOW if low is None else _bound(low), _HIGH if high is None else _bound(high))
  if ends[0] is None or ends[1] is None:
    return None
  if (ends[0] == _LOW and not low_open) or (ends[1] == _HIGH and not high_open):
    return None
  if not ends[0].value < ends[1].value:
    single = ends[0].value == ends[1].value and not (low_open or high_open)
    return Reals((Piece(ends[0], False, ends[1], False),)) if single else NOTHING
  return Reals((Piece(ends[0], low_open, ends[1], high_open),))


def without(*points: tuple[Token, ...]) -> Reals:
  """The line without some points.

  Raises:
    Unreadable: a point is no real number.
  """
  taken = _points(points)
  if taken is None:
    raise Unreadable('a point that is no number')
  return _minus(LINE, taken)._replace(excluded=points)


def _points(points) -> Reals | None:
  bounds = [_bound(point) for point in points]
  pieces = [Piece(bound, False, bound, False) for bound in bounds if bound is not None]
  if len(pieces) < len(bounds) or any(abs(piece.low.value) == _INFINITE for piece in pieces):
    return None
  return _merged(pieces)


def of(found) -> Reals | None:
  """The set of real numbers that a meaning can be read as; None if it is none.

  A pair in round or square brackets is an interval if its first number is smaller; a list or set
  of numbers is a set of points.
  """
  if isinstance(found, Reals):
    return found
  items = getattr(found, 'items', None)
  if not isinstance(items, tuple) or not all(hasattr(item, 'tokens') for item in items):
    return None
  brackets = getattr(found, 'brackets', None)
  if brackets is None:
    return _points([item.tokens for item in items])
  if len(items) != 2 or brackets not in ('()', '[]', '(]', '[)'):
    return None
  interval = between(items[0].tokens, brackets[0] == '(', items[1].tokens, brackets[1] == ')')
  return interval if interval is not None and interval.pieces else None


def combined(sign: str, sets: list[Reals]) -> Reals:
  """The union (∪), intersection (∩) or difference (∖) of sets, from left to right."""
  result = sets[0] if sets else NOTHING
  for other in sets[1:]:
    if sign == '∪':
      result = _merged([*result.pieces, *other.pieces])
    elif sign == '∩':
      result = _minus(result, _minus(LINE, other))
    else:
      result = _minus(result, other)
  return result


def _merged(pieces: list[Piece]) -> Reals:
  """The union of intervals in any order."""
  merged: list[Piece] = []
  for piece in sorted(pieces, key=lambda piece: (piece.low.value, piece.low_open)):
    last = merged[-1] if merged else None
    if last is not None and (
        piece.low.value < last.high.value or (
            piece.low.value == last.high.value and not (piece.low_open and last.high_open))):
      if (piece.high.value, not piece.high_open) > (last.high.value, not last.high_open):
        merged[-1] = last._replace(high=piece.high, high_open=piece.high_open)
    else:
      merged.append(piece)
  return Reals(tuple(merged))


def _minus(a: Reals, b: Reals) -> Reals:
  """What is left of `a` without `b`."""
  pieces = list(a.pieces)
  for hole in b.pieces:
    left = []
    for piece in pieces:
      below = piece
      if (hole.low.value, hole.low_open) < (piece.high.value, not piece.high_open):
        below = piece._replace(high=hole.low, high_open=not hole.low_open)
      above = piece
      if (hole.high.value, not hole.high_open) > (piece.low.value, piece.low_open):
        above = piece._replace(low=hole.high, low_open=not hole.high_open)
      left += [side for side in (below, above) if _is_proper(side)]
    pieces = left
  return _merged(pieces)


def _is_proper(piece: Piece) -> bool:
  if piece.low.value == piece.high.value:
    return not piece.low_open and not piece.high_open and piece.low != _HIGH and piece.low != _LOW
  return piece.low.value < piece.high.value
