r"""What structures mean: values, lists, tuples, sets of real numbers, named values, equations.

`x = -2 or x = 1` and `x \in \{-2, 1\}` mean one list with the name `x`; `x > 2` and
`x \in (2, \infty)` mean one set of real numbers. `(0,1)` stays a tuple, which `reals.of` reads as
an interval where it is compared with one.
"""

import re
from typing import NamedTuple

from r1jax.rewards.formulas import reals
from r1jax.rewards.formulas.structures import (
  Grid,
  Items,
  Leaf,
  Operation,
  Relation,
  Structure,
  read_structure,
)
from r1jax.rewards.formulas.tokens import FUNCTIONS, Token, Unreadable, written


class Value(NamedTuple):
  """A single expression."""
  tokens: tuple[Token, ...]


class Many(NamedTuple):
  """Items in any order."""
  items: tuple


class Ordered(NamedTuple):
  """A tuple, vector or point; a ratio where `brackets` is `::`."""
  brackets: str
  items: tuple


class Table(NamedTuple):
  """A matrix."""
  rows: tuple[tuple, ...]


class Named(NamedTuple):
  """Names with their meanings, in the order in which a tuple would have them."""
  values: tuple[tuple[str, tuple], ...]

  @property
  def name(self) -> str:
    """The first name."""
    return self.values[0][0]

  @property
  def value(self):
    """The first name's meaning."""
    return self.values[0][1]


class Chain(NamedTuple):
  """Sides that are said to be equal, `≈` standing before those that are rounded."""
  sides: tuple
  signs: tuple[str, ...]


class Related(NamedTuple):
  """An equation or inequality between two expressions that names no value."""
  sign: str
  left: tuple[Token, ...]
  right: tuple[Token, ...]


_BUILT = {'ℝ': reals.LINE, '∅': reals.NOTHING}
_CALL = re.compile(r'\\?[A-Za-z]+\([\\A-Za-z0-9]+\)')
_SUBSCRIPT = re.compile(r"_.*|'+$")
_ACCENTED = frozenset((
    r'\det', r'\angle', r'\triangle', r'\vec', r'\overline', r'\bar', r'\hat', '|'))


def meaning(structure: Structure):
  """The meaning of a structure.

  Raises:
    Unreadable: it has none, such as `1 < 2 = x`.
  """
  if isinstance(structure, Leaf):
    return _of_leaf(structure.tokens)
  if isinstance(structure, Grid):
    return Table(tuple(tuple(meaning(cell) for cell in row) for row in structure.rows))
  if isinstance(structure, Relation):
    return _of_relation(structure)
  if isinstance(structure, Operation):
    return _of_operation(structure)
  if structure.opening == r'\{':
    return Many(tuple(meaning(item) for item in structure.items))
  if structure.opening:
    return Ordered(structure.opening + structure.closing,
                   tuple(meaning(item) for item in structure.items))
  return _of_list(structure)


def _of_leaf(tokens: tuple[Token, ...]):
  if len(tokens) == 1 and tokens[0].text in _BUILT:
    return _BUILT[tokens[0].text]
  # A point with its letter: A(1,2).
  if len(tokens) > 4 and tokens[0].kind == 'letter' and tokens[0].text.isupper():
    if tokens[1].text == '(' and any(token.text == ',' for token in tokens):
      return Named(((tokens[0].text, meaning(read_structure(tokens[1:]))),))
  return Value(tokens)


def name_of(structure: Structure) -> str | None:
  r"""The name that a side of an equation is: `x`, `x_1`, `f(x)`, `AB`, `\angle A`, `Area`."""
  if not isinstance(structure, Leaf):
    return None
  tokens = structure.tokens
  if tuple(token.text for token in tokens[1:6]) == ('^', '{', '-', '1', '}'):
    tokens = (tokens[0]._replace(text=tokens[0].text + '⁻'), *tokens[6:])
  first = tokens[0]
  if not (first.kind == 'letter' or first.text in _ACCENTED
          or (first.kind == 'word' and first.text not in FUNCTIONS)):
    return None
  depth = 0
  in_subscript = False
  for i, token in enumerate(tokens):
    depth += token.text in ('(', '{')
    depth -= token.text in (')', '}')
    in_subscript = token.text == '_' or (in_subscript and depth > 0)
    after_subscript = i > 0 and tokens[i - 1].text == '_'
    allowed = (
        token.kind in ('letter', 'word') or token.text in ('(', ')', '{', '}', "'", '_', '|')
        or token.text in _ACCENTED
        or (token.kind == 'number' and (after_subscript or depth > 0)))
    if not allowed:
      return None
  plain = [token for token in tokens if token.kind == 'letter']
  if first.kind == 'letter' and len(tokens) > 1 and tokens[1].kind == 'letter' and not (
      all(token.text.isupper() or token.upright for token in plain)):
    return 'm' + written(tokens[1:]).replace(' ', '') if first.text == 'm' else None
  return written(tokens).replace(' ', '').replace('{', '').replace('}', '')


def _of_relation(relation: Relation):
  signs, sides = relation.signs, relation.sides
  if signs == ('≡',):
    signs = ('=',)
  if all(sign in '=≈' for sign in signs):
    return _of_equation(sides, signs)
  if signs == ('∈',):
    name = name_of(sides[0])
    if isinstance(sides[0], Items) and None not in map(name_of, sides[0].items):
      return meaning(sides[1])    # (x, y) in {(1, 2), (2, 1)}
    if name is not None:
      inside = meaning(sides[1])
      interval = reals.of(inside) if isinstance(inside, Ordered) else None
      return Named(((name, interval or inside),))
  if signs == ('≠',) and (name := name_of(sides[0])) and isinstance(sides[1], Leaf):
    return Named(((name, reals.without(sides[1].tokens)),))
  found = _interval(sides, signs)
  if found is not None:
    return found
  if len(signs) == 1 and signs[0] in '<>≤≥≠∈' and all(isinstance(side, Leaf) for side in sides):
    left, right = sides[0].tokens, sides[1].tokens
    if signs[0] in '>≥':
      return Related('<' if signs[0] == '>' else '≤', right, left)
    return Related(signs[0], left, right)
  raise Unreadable('relations of several kinds')


def _of_equation(sides: tuple, signs: tuple[str, ...]):
  name = name_of(sides[0])
  if name is not None:
    values = tuple(meaning(side) for side in sides[1:])
    return Named(((name, values[0] if len(values) == 1 else Chain(values, signs)),))
  if len(sides) == 2:
    if (name := name_of(sides[1])) is not None and signs == ('=',):
      return Named(((name, meaning(sides[0])),))
    named = _tuple_of_names(sides[0], sides[1])
    if named is not None:
      return named
    if signs == ('=',) and all(isinstance(side, Leaf) for side in sides):
      return Related('=', sides[0].tokens, sides[1].tokens)
  return Chain(tuple(meaning(side) for side in sides), ('=', *signs))


def _tuple_of_names(left: Structure, right: Structure) -> Named | None:
  """The meaning of `(x, y) = (1, 2)`."""
  if not (isinstance(left, Items) and isinstance(right, Items)
          and left.opening == right.opening == '(' and len(left.items) == len(right.items)):
    return None
  names = [name for item in left.items if (name := name_of(item)) is not None]
  if len(set(names)) < len(left.items):
    return None
  return Named(tuple(zip(names, map(meaning, right.items), strict=True)))


def _interval(sides: tuple, signs: tuple[str, ...]) -> Named | None:
  """The values of one letter between bounds: `x > 2`, `0 < x ≤ 1`; None for any other relation."""
  if not all(isinstance(side, Leaf) for side in sides) or not all(sign in '<>≤≥' for sign in signs):
    return None
  absolute = _of_absolute_value(sides, signs) if len(sides) == 2 else None
  if absolute is not None:
    return absolute
  places = [i for i, side in enumerate(sides) if name_of(side) is not None]
  if len(places) != 1 or len(sides) > 3 or (len(sides) == 3 and places != [1]):
    return None
  bounds = [None if i == places[0] else side.tokens for i, side in enumerate(sides)]
  if len({sign in '<≤' for sign in signs}) != 1:
    return None
  opened = [sign in '<>' for sign in signs]
  if signs[0] in '>≥':
    bounds, opened = bounds[::-1], opened[::-1]
    places = [len(sides) - 1 - places[0]]
  place = places[0]
  low = (bounds[0], opened[0]) if place > 0 else (None, True)
  high = (bounds[-1], opened[-1]) if place < len(sides) - 1 else (None, True)
  found = reals.between(*low, *high)
  name = name_of(next(side for side in sides if name_of(side) is not None))
  return None if found is None or name is None else Named(((name, found),))


def _of_absolute_value(sides: tuple, signs: tuple[str, ...]) -> Named | None:
  """The meaning of `|x| < a` and `|x| > a`."""
  if sides[0].tokens[0].text != '|':
    return None
  name = name_of(Leaf(sides[0].tokens[1:-1])) if len(sides[0].tokens) > 2 else None
  if name is None or sides[0].tokens[-1].text != '|':
    return None
  bound = sides[1].tokens
  negative = (Token('sign', '-'), Token('sign', '('), *bound, Token('sign', ')'))
  opened = signs[0] in '<>'
  if signs[0] in '<≤':
    inside = reals.between(negative, opened, bound, opened)
    return None if inside is None else Named(((name, inside),))
  below = reals.between(None, True, negative, opened)
  above = reals.between(bound, opened, None, True)
  if below is None or above is None:
    return None
  return Named(((name, reals.combined('∪', [below, above])),))


def _of_operation(operation: Operation):
  if operation.sign == '*':
    factor, matrix = operation.operands
    return Table(tuple(tuple(_multiple(factor, cell) for cell in row) for row in matrix.rows))
  operands = [meaning(operand) for operand in operation.operands]
  if operation.sign == '∪' and all(isinstance(operand, Many) for operand in operands):
    return Many(tuple(item for operand in operands for item in operand.items))
  return reals.combined(operation.sign, _all_reals(operands))


def _multiple(factor: Leaf, cell: Structure) -> Value:
  """A matrix's entry, multiplied by what stands before the matrix."""
  if not isinstance(cell, Leaf):
    raise Unreadable('a multiple of something else than an expression')
  opening, end = Token('sign', '('), Token('sign', ')')
  if factor.tokens[-1].text == '*':
    factor = Leaf(factor.tokens[:-1])
  if [token.text for token in factor.tokens] == ['-']:
    return Value((factor.tokens[0], opening, *cell.tokens, end))
  return Value((
      opening, *factor.tokens, end, Token('sign', '*'), opening, *cell.tokens, end))


def _of_list(structure: Items):
  items = [meaning(item) for item in structure.items]
  items = [item for item in items if not _is_side_condition(item)] or items
  if len(items) == 1:
    return items[0]
  named = [item for item in items if isinstance(item, Named)]
  if len(named) == len(items) and all(len(item.values) == 1 for item in named):
    names = [item.name for item in named]
    if len(set(names)) == len(names):
      return Named(tuple(sorted((item.name, item.value) for item in named)))
    if len(set(names)) == 1:
      return Named(((names[0], _joined([item.value for item in named], structure.connective)),))
  if len(named) == 1 and named[0] is items[0] and len(named[0].values) == 1 and not any(
      isinstance(item, (Related, Chain)) for item in items):
    name, first = named[0].values[0]
    if isinstance(first, reals.Reals) and first.excluded and all(
        isinstance(item, Value) for item in items[1:]):
      return Named(((name, reals.without(first.excluded[0], *(
          item.tokens for item in items[1:]))),))
    return Named(((name, _joined([first, *items[1:]], structure.connective)),))
  return _flat(items)


def _joined(items: list, connective: str):
  """The values of one name: a list, or one set of real numbers if some of them are sets."""
  if any(isinstance(item, reals.Reals) for item in items):
    sets = _all_reals(items)
    common = None if connective == 'or' else reals.combined('∩', sets)
    return common if common is not None and common.pieces else reals.combined('∪', sets)
  return _flat(items)


def _flat(items: list) -> Many:
  """A list of the items, those of lists in it included."""
  flat: list = []
  for item in items:
    flat += item.items if isinstance(item, Many) else (item,)
  return Many(tuple(flat))


def _all_reals(items: list) -> list[reals.Reals]:
  """The sets of real numbers that meanings are, a number standing for a point.

  Raises:
    Unreadable: one of them is something else.
  """
  sets = [reals.of(Many((item,)) if isinstance(item, Value) else item) for item in items]
  found = [one for one in sets if one is not None]
  if len(found) < len(sets):
    raise Unreadable('sets of something else than real numbers')
  return found


def _is_side_condition(item) -> bool:
  r"""Whether an item says only that a letter is a whole number: `k \in \mathbb{Z}`."""
  return isinstance(item, Named) and isinstance(item.value, Value) and (
      [token.text for token in item.value.tokens] in (['ℤ'], ['ℕ'], ['ℤ', '^', '+']))


def same_name(gold: str, answer: str) -> bool:
  """Whether two names are one; `y` is also written as a function, `f(x)`."""
  if gold == answer:
    return True
  called = [_CALL.fullmatch(name) is not None for name in (gold, answer)]
  return (called[0] and answer == 'y') or (called[1] and gold == 'y')


def base_name(name: str) -> str:
  """A name without subscripts and primes."""
  return _SUBSCRIPT.sub('', name)
