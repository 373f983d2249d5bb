r"""Whether an answer is equivalent to a gold that is a formula, a list, a unit, a word.

The gold decides what must be said. It accepts, and does not accept:

* `2\sqrt{3}`: any equal expression, `3.464`, `x = 2\sqrt3`, a known unit behind it; not `3.46`.
* `-2,1` or `\{-2,1\}`: any order, `x=-2 or x=1`, `x \in \{-2,1\}`; not `(-2,1)` nor another count.
* `\pm 2`: `2,-2` and `x=\pm2`; not `2`.
* `(1,2)`: `(x,y)=(1,2)`, `x=1, y=2` with names in alphabetical order, `\langle 1,2\rangle`, a
  column; not `1,2` nor `[1,2]`. Brackets of longer tuples do not matter.
* `x=1, y=2`: any order of the names, `(x,y)=(1,2)`, `(1,2)`; not `1,2`.
* `x=5`, `y=2x+1`: also without the name, `f(x)` for `y`, and as another form of the same equation
  if the value has letters; not another name.
* `x+y=5`: the same equation up to a constant factor; not `5`.
* `(2,\infty)`, `x>2`: either, `x \in (2,\infty)`; so with unions, `x \ne 2`, `\mathbb{R}`. `(0,1)`
  may be a point or an interval; neither is `[0,1]`.
* a matrix: the same entries in any brackets; a single row or column also as a tuple.
* `3:5`: the same proportion, `\frac35`; what may be a time (`10:30`) only itself.
* `1011_2`: the same digits with this base or none.
* `5\text{ km}`: `5`, `5 km`, `5 kilometers`; not `5 cm` nor `5000 m`. `50\%`: `50`, `50 percent`;
  not `0.5`. `5\text{ million}`: `5000000`; not `5`.
* `\text{Monday}`, `yes`, `\text{(B)}`: the same words, whatever case, articles, punctuation.

The case of a letter is part of a formula. A decimal of three places or more equals a number that no
decimal equals, if it is its rounded value; nothing else is rounded. `a = b = c` must be right on
every side, but for a name in front. `\log` without a base is the natural or the decimal one,
whichever the gold means.

An answer in any form equivalent to the gold is correct. A task whose question already has such a
form (simplify, expand) can therefore be answered by repeating the question: use another reward.

All but the value of single expressions is compared here, and most values, too (`leaves`).
math-verify is asked about the others alone. By itself it takes, among others,

* `{1,2}` for `(1,2)`, `1,2` for `(1,2)`, `{1,1,2}` and `1,2,2` for `{1,2}`;
* `2,1` for `x=1, y=2`, `5` for `x+y=5`, `1 = 2 = 5` for 5;
* `5 cm` for `5 km`, `1011_7` for `1011_2`, `30` for `30^\circ`, `0.5` and `50` for `50\%`;
* `X+1` for `x+1`, `\sqrt2 \text{ is wrong}` for `\sqrt2`.
"""

import re

from r1jax.rewards import spelling
from r1jax.rewards.formulas import comparison, texts
from r1jax.rewards.formulas.meanings import meaning
from r1jax.rewards.formulas.quantities import compound, is_known_unit
from r1jax.rewards.formulas.structures import read_structure
from r1jax.rewards.formulas.texts import stated
from r1jax.rewards.formulas.tokens import FUNCTIONS, MAX_CHARACTERS, Token, Unreadable, tokenize

_MAX_WRITTEN = 4 * MAX_CHARACTERS
_THOUSANDS = re.compile(r'(?<![0-9.,([{])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])')
_TO = re.compile(r'(?<=[0-9]) to (?=[0-9])')
_PUNCTUATION = frozenset((',', 'and', 'or', "'", '-', '.', '(', ')', '!', '?', ':', '&'))


def is_formula(gold: str) -> bool:
  """Whether a gold can be judged, as far as can be told without an answer: it is no prose."""
  if len(gold) > _MAX_WRITTEN:
    return False
  try:
    tokens = tokenize(_bare(gold))
  except Unreadable:
    return False
  return bool(tokens) and not (_is_text(tokens) and texts.is_prose(gold))


def equivalent(gold: str, answer: str) -> bool | None:
  """Whether an answer is equivalent to a gold, by the rules of this module.

  Args:
    gold: the right answer: a LaTeX formula or a few words.
    answer: the whole answer that was given, without box or tags.

  Returns:
    None if the gold cannot be judged: it is prose or unreadable, also for math-verify.

  Raises:
    ImportError: math-verify must be asked and is not installed.
    RuntimeError: math-verify must be asked and no worker process starts.
  """
  gold, answer = gold.strip(), answer.strip()
  if len(gold) > _MAX_WRITTEN or len(answer) > _MAX_WRITTEN:
    return None if len(gold) > _MAX_WRITTEN else False
  gold, answer = _bare(gold), _bare(texts.without_lead_in(_bare(answer)))
  if ':' in gold:
    answer = _TO.sub(':', answer)
  letter = texts.choice(gold)
  if letter is not None:
    return texts.same_choice(letter, answer)
  verdicts = [
      _equivalent(one, other) for one in _with_thousands(gold) for other in _with_thousands(answer)]
  return True if True in verdicts else None if None in verdicts else False


def _with_thousands(text: str) -> tuple[str, ...]:
  """A text as it is and, if it may have thousands separators, without them."""
  joined = _THOUSANDS.sub(lambda match: match[0].replace(',', ''), text[:MAX_CHARACTERS])
  return (text,) if joined == text[:MAX_CHARACTERS] else (text, joined)


def _equivalent(gold: str, answer: str) -> bool | None:
  try:
    gold_tokens = tokenize(texts.as_formula(gold))
  except Unreadable:
    return None
  if _is_text(gold_tokens):
    return None if texts.is_prose(gold) else texts.same_text(gold, answer)
  try:
    answer_tokens = tokenize(texts.as_formula(answer))
  except Unreadable:
    return False
  quantity = compound(gold_tokens)
  if gold_tokens == answer_tokens or quantity is not None:
    return gold_tokens == answer_tokens or quantity == compound(answer_tokens)
  try:
    wanted = meaning(read_structure(gold_tokens))
  except Unreadable:
    has_words = any(token.kind == 'word' for token in gold_tokens)
    return texts.same_text(gold, answer) or (False if has_words else None)
  try:
    given = meaning(read_structure(answer_tokens))
  except Unreadable:
    return False
  return comparison.same(wanted, given)


def _bare(text: str) -> str:
  return spelling.undecorated(spelling.characters(text)).strip()


def _is_text(tokens: tuple[Token, ...]) -> bool:
  """Whether a gold is words rather than a formula: it has no operations and begins with a word.

  Capital letters in a row (`BDAC`) are a word, too. A letter may begin a text (`I do`), but not a
  quantity (`x cm`).
  """
  letters = [token for token in tokens if token.kind == 'letter']
  if len(letters) == len(tokens):
    return any(token.upright for token in tokens) or (
        len(tokens) > 1 and all(token.text.isupper() for token in tokens))
  words = [token for token in tokens if token.kind == 'word' and token.text not in FUNCTIONS]
  if tokens[0].kind == 'letter':
    words = [word for word in words if not is_known_unit(word.text)]
  starts = tokens[0].kind in ('letter', 'word') and tokens[0].text not in FUNCTIONS
  return starts and bool(words) and all(
      token.kind in ('word', 'letter', 'number') or token.text in _PUNCTUATION for token in tokens)
