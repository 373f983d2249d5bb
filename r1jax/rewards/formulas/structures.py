r"""The structure of an answer: lists, brackets, matrices, relations, unions, down to expressions.

Only the signs outside all brackets count at each level. Nothing is interpreted here: `(0,1)` is two
items in round brackets, be it a point or an interval.
"""

from typing import NamedTuple

from r1jax.rewards.formulas.tokens import Token, Unreadable, closing, split

_MAX_ITEMS = 40
_CLOSED_BY = {'(': ')]', '[': ')]', r'\{': (r'\}',), '⟨': '⟩'}
_RELATIONS = frozenset('=≡≈<>≤≥≠∈')


class Leaf(NamedTuple):
  """A single expression."""
  tokens: tuple[Token, ...]


class Items(NamedTuple):
  """Items in brackets, or in none where `opening` is empty, or of a ratio where it is `:`.

  Attributes:
    opening: the opening bracket.
    closing: the closing one, of whichever kind.
    items: what they enclose.
    connective: 'or', 'and' or ','.
  """
  opening: str
  closing: str
  items: tuple
  connective: str = ','


class Grid(NamedTuple):
  """A matrix."""
  rows: tuple[tuple, ...]


class Relation(NamedTuple):
  """Sides with one relation sign less between them."""
  sides: tuple
  signs: tuple[str, ...]


class Operation(NamedTuple):
  """Sets combined by ∪, ∩ or ∖, or a factor before a matrix (*)."""
  sign: str
  operands: tuple


Structure = Leaf | Items | Grid | Relation | Operation


def read_structure(tokens: tuple[Token, ...]) -> Structure:
  """The structure of a whole answer.

  Raises:
    Unreadable: the brackets are not balanced, an item is empty, or there are too many.
  """
  while tokens and tokens[-1].text in ('.', ',', ';'):
    tokens = tokens[:-1]
  tokens = _unwrapped_cases(tokens[1:] if tokens and tokens[0].text in '=≈' else tokens)
  logic = {token.text for token in tokens if token.text in '∧∨'}
  for separators, connective in (
      (('or', '∨'), 'or'), ((';', r'\\'), ','), ((',', 'and', '∧'), ',')):
    parts = split(tokens, frozenset(separators))
    if len(parts) > 1 and not logic.isdisjoint(separators) and not any(
        token.text in _RELATIONS for token in tokens):
      raise Unreadable('a formula of logic')
    if len(parts) > 1:
      if connective == 'or' or any(token.text == 'and' for token in tokens):
        parts = [part for part in parts if part]    # "1, 2, or 3"
      if len(parts) > _MAX_ITEMS:
        raise Unreadable('too many items')
      items = tuple(item for part in parts for item in _items(part))
      return Items('', '', items, connective)
  items = _items(tokens)
  return items[0] if len(items) == 1 else Items('', '', items, 'or')


def _unwrapped_cases(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
  r"""The lines of `\begin{cases} ... \end{cases}`, which is a list."""
  if (tokens and tokens[0].kind == 'begin' and closing(tokens, 0) == len(tokens) - 1
      and tokens[0].text in ('cases', 'aligned', 'align', 'gathered')):
    return tuple(token for token in tokens[1:-1] if token.text != '&')
  return tokens


def _items(tokens: tuple[Token, ...]) -> tuple[Structure, ...]:
  """One item, or two for an expression with ±; a list if separators are left in it."""
  if any(token.text in '±∓' for token in tokens):
    return tuple(
        _single(tuple(token._replace(text=sign[token.text]) if token.text in sign else token
                      for token in tokens))
        for sign in ({'±': '+', '∓': '-'}, {'±': '-', '∓': '+'}))
  return (_single(tokens),)


def _single(tokens: tuple[Token, ...]) -> Structure:
  """An item that may be a list of lower rank, a relation or one operand."""
  if not tokens:
    raise Unreadable('an item is empty')
  if len(split(tokens, frozenset((',', 'and', '∧', ';')))) > 1:
    return read_structure(tokens)
  tokens = _bare_approximation(tokens)
  sides = split(tokens, _RELATIONS)
  if len(sides) == 1:
    return _operand(tokens)
  signs, place = [], 0
  for side in sides[:-1]:
    place += len(side)
    signs.append(tokens[place].text)
    place += 1
  return Relation(tuple(_operand(side) for side in sides), tuple(signs))


def _bare_approximation(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
  """`a (≈ b)` without its brackets."""
  for i in range(1, len(tokens) - 1):
    if tokens[i].text == '(' and tokens[i + 1].text == '≈' and closing(tokens, i) == len(
        tokens) - 1:
      return (*tokens[:i], *tokens[i + 1:-1])
  return tokens


def _operand(tokens: tuple[Token, ...]) -> Structure:
  """One side of a relation: sets combined, something in brackets, a ratio, or an expression."""
  if not tokens:
    raise Unreadable('a side is empty')
  if len(tokens) > 2 and tokens[0].text == 'ℝ' and tokens[1].text == '-':
    tokens = (tokens[0], Token('sign', '∖'), *tokens[2:])
  for sign in '∪∩∖':
    operands = split(tokens, frozenset(sign))
    if len(operands) > 1:
      return Operation(sign, tuple(_operand(operand) for operand in operands))
  if tokens[0].kind == 'begin' and closing(tokens, 0) == len(tokens) - 1:
    return _grid(tokens[1:-1])
  if (tokens[0].text in ('[', '(', '|', r'\{') and len(tokens) > 2 and tokens[1].kind == 'begin'
      and closing(tokens, 1) == len(tokens) - 2):
    return _grid(tokens[2:-2])    # [\begin{array}...]
  begin = next((i for i, token in enumerate(tokens) if token.kind == 'begin'), 0)
  if begin and closing(tokens, begin) == len(tokens) - 1:
    return Operation('*', (Leaf(tokens[:begin]), _grid(tokens[begin + 1:-1])))
  bracketed = _bracketed(tokens)
  if bracketed is not None:
    return bracketed
  parts = split(tokens, frozenset(':'))
  if len(parts) > 1:
    return Items(':', ':', tuple(_operand(part) for part in parts))
  return Leaf(tokens)


def _bracketed(tokens: tuple[Token, ...]) -> Structure | None:
  """A list in brackets; None if the tokens are something else."""
  opening, end = tokens[0].text, tokens[-1].text
  if len(tokens) < 2:
    return None
  if opening == ']' and end == '[':
    ends = split(tokens[1:-1], frozenset(','))
    if len(ends) == 2:
      return Items('(', ')', tuple(_single(item) for item in ends))
  if opening not in ('{', *_CLOSED_BY) or closing(tokens, 0) != len(tokens) - 1:
    return None
  inside = tokens[1:-1]
  if opening == '{':
    return read_structure(inside)
  if end not in _CLOSED_BY[opening]:
    raise Unreadable('brackets that do not match')
  if opening == r'\{':
    return _set(inside)
  for separator in (';', ','):
    items = split(inside, frozenset(separator))
    if len(items) > 1:
      if len(items) > _MAX_ITEMS:
        raise Unreadable('too many items')
      return Items(opening, end, tuple(_single(item) for item in items))
  if len(split(inside, _RELATIONS | frozenset('∪'))) > 1:
    return _single(inside)
  return None


def _set(inside: tuple[Token, ...]) -> Structure:
  r"""The set of the items, or what a builder (`\{x | x > 2\}`) says of its elements."""
  if not inside:
    return Items(r'\{', r'\}', ())
  for bar in ('|', ':'):
    places = [i for i, token in enumerate(inside) if token.text == bar]
    if places and places[0] in (1, 3):
      return read_structure(inside[places[0] + 1:])
  parts = split(inside, frozenset((',', ';')))
  if len(parts) > _MAX_ITEMS:
    raise Unreadable('too many items')
  return Items(r'\{', r'\}', tuple(item for part in parts for item in _items(part)))


def _grid(inside: tuple[Token, ...]) -> Grid:
  rows = split(inside, frozenset((r'\\',)))
  if rows and not rows[-1]:
    rows = rows[:-1]
  cells = tuple(tuple(_operand(cell) for cell in split(row, frozenset('&'))) for row in rows)
  if sum(map(len, cells)) > _MAX_ITEMS or len({len(row) for row in cells}) != 1:
    raise Unreadable('no matrix')
  return Grid(cells)
