r"""Whether an answer means what the gold means: the gold's kind decides how they are compared."""

from fractions import Fraction

from r1jax.rewards.formulas import exact, leaves, numeric, reals
from r1jax.rewards.formulas.expressions import Tree, read_expression
from r1jax.rewards.formulas.meanings import (
  Chain,
  Many,
  Named,
  Ordered,
  Related,
  Table,
  Value,
  base_name,
  same_name,
)
from r1jax.rewards.formulas.tokens import Token, Unreadable, written


def same(gold, answer) -> bool | None:
  """Whether the meaning of an answer is that of the gold; None if the gold cannot be judged."""
  if isinstance(gold, Chain):
    return same(gold.sides[0], answer)
  if isinstance(gold, Named):
    return _same_names(gold, answer)
  if isinstance(gold, Related):
    return _same_relation(gold, _related(answer))
  if isinstance(answer, Named):
    return _value_of_names(gold, answer)
  if isinstance(answer, Related) and answer.sign == '=':
    answer = Chain((Value(answer.left), Value(answer.right)), ('=', '='))
  if isinstance(answer, Chain):
    return _all_sides(gold, answer)
  if isinstance(gold, Value) and isinstance(answer, Value):
    return leaves.equal(gold.tokens, answer.tokens)
  if isinstance(gold, reals.Reals) or isinstance(answer, reals.Reals):
    return _same_reals(gold, answer)
  if isinstance(gold, Many):
    if isinstance(answer, Value) and len(gold.items) == 1:
      answer = Many((answer,))
    return _same_many(gold.items, answer.items) if isinstance(answer, Many) else False
  if isinstance(gold, Table):
    answer = _as_table(answer)
  if isinstance(gold, Table) and isinstance(answer, Table):
    return _same_table(gold, answer)
  if isinstance(gold, Ordered) and gold.brackets == '::':
    return _same_ratio(gold, answer)
  gold, answer = (_as_vector(found) for found in (gold, answer))
  if isinstance(gold, Ordered) and isinstance(answer, Ordered):
    return _same_ordered(gold, answer)
  return False


def _every(verdicts) -> bool | None:
  """False if any verdict is false, else None if any is, else true."""
  result: bool | None = True
  for verdict in verdicts:
    if verdict is False:
      return False
    if verdict is None:
      result = None
  return result


def _all_sides(gold, answer: Chain) -> bool | None:
  """Whether one side of `a = b ≈ c` is the gold and each other is it, too, or says it rounds it."""
  verdicts = [same(gold, side) for side in answer.sides]
  if True not in verdicts:
    return None if None in verdicts else False
  return _every(
      verdict or (sign == '≈' and _is_rounding_of(gold, side)) if verdict is not None else None
      for verdict, sign, side in zip(verdicts, answer.signs, answer.sides, strict=True))


def _is_rounding_of(gold, side) -> bool:
  """Whether a side is a decimal to which the gold is rounded, to however many places."""
  if not isinstance(gold, Value) or not isinstance(side, Value):
    return False
  text = written(side.tokens).replace('- ', '-')
  places = len(text.partition('.')[2])
  try:
    return 0 < places and leaves.is_rounding(
        read_expression(gold.tokens), Fraction(text), places)
  except ValueError:    # no decimal, or unreadable
    return False


def _same_names(gold: Named, answer) -> bool | None:
  names = [name for name, _ in gold.values]
  if len(names) > 1:
    return _same_values(gold, answer)
  if isinstance(answer, Named) and '(' in gold.name and '(' in answer.name and (
      gold.name != answer.name):
    return False    # f(x) and g(x)
  if isinstance(gold.value, Value) and _letters(gold.value):
    related = _related(answer)
    if related is not None and _same_relation(_related(gold), related):
      return True
  if isinstance(answer, Named):
    if len(answer.values) != 1 or not same_name(gold.name, answer.name):
      return False
    return same(gold.value, answer.value)
  return same(gold.value, answer)


def _same_values(gold: Named, answer) -> bool | None:
  """Whether an answer gives several names their values, as a tuple in their order or by name."""
  if isinstance(answer, Ordered) and answer.brackets == '()':
    if len(answer.items) != len(gold.values):
      return False
    return _every(same(value, item) for (_, value), item in zip(
        gold.values, answer.items, strict=True))
  if isinstance(answer, Many) and len(answer.items) == len(gold.values) and len(
      {base_name(name) for name, _ in gold.values}) == 1:
    return _every(same(value, item) for (_, value), item in zip(
        gold.values, answer.items, strict=True))    # x_1 and x_2 in their order
  if not isinstance(answer, Named):
    return False
  given = dict(answer.values)
  if given.keys() != dict(gold.values).keys():
    return False
  return _every(same(value, given[name]) for name, value in gold.values)


def _value_of_names(gold, answer: Named) -> bool | None:
  """Whether the named values of an answer are a gold that has no names."""
  if len(answer.values) == 1:
    if isinstance(gold, Value) and answer.name in _letters(gold):
      return False
    return same(gold, answer.value)
  values = tuple(value for _, value in answer.values)
  if isinstance(gold, Ordered) and gold.brackets == '()':
    return same(gold, Ordered('()', values))
  if isinstance(gold, Many) and len({base_name(name) for name, _ in answer.values}) == 1:
    return same(gold, Many(values))
  return False


def _letters(value: Value) -> set[str]:
  try:
    return numeric.symbols(read_expression(value.tokens))
  except Unreadable:
    return set()


def _same_reals(gold, answer) -> bool | None:
  sets = reals.of(gold), reals.of(answer)
  if isinstance(answer, Many) and len(answer.items) > 1:
    # Intervals that are listed: their union.
    pieces = [reals.of(item) for item in answer.items if isinstance(item, Ordered)]
    union = reals.combined('∪', [piece for piece in pieces if piece is not None])
    sets = (sets[0], union if len(union.pieces) == len(answer.items) else None)
  elif isinstance(gold, Many) and gold.items or isinstance(answer, Many) and answer.items:
    return False    # points are no interval
  if sets[0] is None or sets[1] is None:
    return False
  if [(p.low_open, p.high_open) for p in sets[0].pieces] != [
      (p.low_open, p.high_open) for p in sets[1].pieces]:
    return False
  ends = [((p.low, q.low), (p.high, q.high))
          for p, q in zip(sets[0].pieces, sets[1].pieces, strict=True)]
  return _every(
      leaves.equal(a.tokens, b.tokens) if a.tokens and b.tokens else a == b
      for pair in ends for a, b in pair)


def _same_many(gold: tuple, answer: tuple) -> bool | None:
  """Whether two lists have the same items in any order."""
  if len(gold) != len(answer):
    return False
  left = list(answer)
  unknown = False
  for item in gold:
    for i, candidate in enumerate(left):
      verdict = same(item, candidate)
      unknown = unknown or verdict is None
      if verdict:
        del left[i]
        break
    else:
      return None if unknown else False
  return True


def _same_table(gold: Table, answer: Table) -> bool | None:
  if len(gold.rows) != len(answer.rows) or len(gold.rows[0]) != len(answer.rows[0]):
    return False
  return _every(same(a, b) for one, other in zip(gold.rows, answer.rows, strict=True)
                for a, b in zip(one, other, strict=True))


def _as_table(found):
  """Rows in square brackets (`[[1, 0], [0, 1]]`) as a matrix; anything else as it is."""
  if isinstance(found, Ordered) and all(
      isinstance(row, Ordered) and row.brackets == '[]' for row in found.items) and len(
          {len(row.items) for row in found.items}) == 1:
    return Table(tuple(row.items for row in found.items))
  return found


def _as_vector(found):
  """A matrix of one row or column as a tuple; anything else as it is."""
  if isinstance(found, Table) and (len(found.rows) == 1 or len(found.rows[0]) == 1):
    return Ordered('()', tuple(cell for row in found.rows for cell in row))
  return found


def _same_ordered(gold: Ordered, answer: Ordered) -> bool | None:
  """Whether two tuples have the same items in order; the brackets of a pair matter, too."""
  if len(gold.items) != len(answer.items):
    return False
  kinds = [found.brackets.replace('⟨', '(').replace('⟩', ')') for found in (gold, answer)]
  if kinds[0] != kinds[1] and (len(gold.items) == 2 or '::' in kinds):
    return False
  return _every(same(a, b) for a, b in zip(gold.items, answer.items, strict=True))


def _same_ratio(gold: Ordered, answer) -> bool | None:
  r"""Whether an answer is the ratio in any terms; what looks like a time must be literally it."""
  trees = _trees(gold.items)
  if isinstance(answer, Value) and len(gold.items) == 2 and trees is not None:
    try:
      tree = read_expression(answer.tokens)
    except Unreadable:
      return False
    return tree.kind == 'quotient' and _proportional(trees, list(tree.operands))
  if not isinstance(answer, Ordered) or answer.brackets != '::' or (
      len(gold.items) != len(answer.items)):
    return False
  minutes = written(gold.items[-1].tokens) if isinstance(gold.items[-1], Value) else ''
  given = _trees(answer.items)
  if trees is None or given is None or (minutes[:2].isdigit() and len(minutes) != 1):
    return _every(same(a, b) for a, b in zip(gold.items, answer.items, strict=True))
  return _proportional(trees, given)


def _trees(items: tuple) -> list[Tree] | None:
  try:
    return [read_expression(item.tokens) for item in items]
  except (Unreadable, AttributeError):
    return None


def _proportional(gold: list[Tree], answer: list[Tree]) -> bool:
  """Whether two lists of expressions are proportional, exactly and not all zero."""
  try:
    first = _images(gold, 0)
    other = _images(answer, 0)
  except Unreadable:
    return False
  return any(image[:2] != (0, 0) for image in other) and all(
      exact.product(a, other[0])[:2] == exact.product(b, first[0])[:2]
      for a, b in zip(first, other, strict=True))


def _images(trees: list[Tree], point: int) -> list[exact.Image]:
  return [exact.image(tree, point) for tree in trees]


def _related(found) -> Related | None:
  """An answer as an equation or inequality of two expressions; None if it is neither."""
  if isinstance(found, Related):
    return found
  if isinstance(found, Named) and len(found.values) == 1 and isinstance(found.value, Value):
    name = found.name
    name = 'y' if same_name(name, 'y') else name
    return Related('=', (Token('letter', name),), found.value.tokens)
  return None


def _same_relation(gold: Related | None, answer: Related | None) -> bool | None:
  """Whether two equations (inequalities) are the same up to a constant (positive) factor."""
  if gold is None or answer is None or gold.sign != answer.sign:
    return False
  if (written(gold.left), written(gold.right)) == (written(answer.left), written(answer.right)):
    return True
  try:
    wanted, given = (
        _difference(relation.left, relation.right) for relation in (gold, answer))
    images = [[exact.image(tree, point) for point in (0, 1)] for tree in (wanted, given)]
  except Unreadable:
    return False
  if not all(image.faithful for pair in images for image in pair):
    return _same_sides(gold, answer)
  if all(image[:2] == (0, 0) for image in images[1]):
    return False
  if exact.product(images[0][0], images[1][1])[:2] != exact.product(
      images[0][1], images[1][0])[:2]:
    return False
  if gold.sign in '=≠':
    return True
  one, other = (numeric.value(tree) for tree in (wanted, given))
  return one is not None and other is not None and (one * other.conjugate()).real > 0


def _difference(left: tuple[Token, ...], right: tuple[Token, ...]) -> Tree:
  return Tree('sum', operands=(
      read_expression(left), Tree('negative', operands=(read_expression(right),))))


def _same_sides(gold: Related, answer: Related) -> bool | None:
  straight = _every((leaves.equal(gold.left, answer.left), leaves.equal(gold.right, answer.right)))
  if straight or gold.sign not in '=≠':
    return straight
  return _every((leaves.equal(gold.left, answer.right), leaves.equal(gold.right, answer.left)))
