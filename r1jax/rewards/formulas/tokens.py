r"""Formulas as flat lists of tokens, whatever fonts, spaces and aliases they are written with.

`\text{ km}` becomes the word `km`, marked as upright; `\le`, `≤` and `\leqslant` are one sign; a
run of letters is a word where it reads like one (`sin`, `or`, `meters`), else a product of letters.
"""

import re
from typing import NamedTuple

from r1jax.rewards import spelling

MAX_CHARACTERS = 300
_MAX_NESTING = 12


class Unreadable(ValueError):
  """The text is no formula that this package reads."""


class Token(NamedTuple):
  r"""A token of a formula.

  Attributes:
    kind: 'number', 'letter' (also a Greek one), 'word', 'begin' or 'end' (of an environment), or
      'sign' for anything else: operators, brackets, relations, commands.
    text: how it is written; an environment's name.
    spaced: whether white space stands before it.
    upright: whether it is set as text, such as the `km` of `\text{km}`.
  """
  kind: str
  text: str
  spaced: bool = False
  upright: bool = False


FUNCTIONS = frozenset((
    'sin', 'cos', 'tan', 'cot', 'sec', 'csc', 'arcsin', 'arccos', 'arctan', 'sinh', 'cosh', 'tanh',
    'ln', 'log', 'lg', 'exp', 'gcd', 'lcm', 'min', 'max', 'sqrt', 'abs', 'floor', 'ceil'))
_GREEK = frozenset((
    'alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi '
    'rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi '
    'Omega ell').split())
_NAMES = FUNCTIONS | {'pi', 'infinity', 'inf', 'infty', 'theta', 'alpha', 'beta', 'gamma', 'lambda'}
_APPROXIMATELY = frozenset(('approximately', 'approx', 'about', 'roughly', '约', '约等于', '约为'))
CONNECTIVES = {'or': 'or', 'and': 'and', '或': 'or', '或者': 'or', '和': 'and', '且': 'and',
               '与': 'and'}

_ALIASES = {
    r'\le': '≤', r'\leq': '≤', r'\leqslant': '≤', r'\leqq': '≤', '<=': '≤',
    r'\ge': '≥', r'\geq': '≥', r'\geqslant': '≥', r'\geqq': '≥', '>=': '≥',
    r'\lt': '<', r'\gt': '>', r'\ne': '≠', r'\neq': '≠', r'\not=': '≠', '!=': '≠',
    r'\approx': '≈', r'\equiv': '≡', r'\simeq': '≈', r'\doteq': '≈', r'\in': '∈', r'\notin': '∉',
    r'\times': '*', r'\cdot': '*', r'\ast': '*', '·': '*', '×': '*', r'\bullet': '*',
    r'\div': '/', '**': '^', r'\pm': '±', r'\mp': '∓', r'\infty': '∞', r'\pi': 'π', '√': r'\sqrt',
    r'\cup': '∪', r'\cap': '∩', r'\bigcup': '∪', r'\setminus': '∖', r'\backslash': '∖',
    r'\smallsetminus': '∖', r'\emptyset': '∅', r'\varnothing': '∅', 'ø': '∅', 'Ø': '∅',
    r'\mathbb{R}': 'ℝ', r'\R': 'ℝ', r'\reals': 'ℝ', r'\Bbb{R}': 'ℝ', r'\Reals': 'ℝ',
    r'\mathbb{Z}': 'ℤ', r'\mathbb{N}': 'ℕ', r'\mathbb{Q}': 'ℚ', r'\mathbb{C}': 'ℂ',
    r'\lbrace': r'\{', r'\rbrace': r'\}', r'\lbrack': '[', r'\rbrack': ']', r'\langle': '⟨',
    r'\rangle': '⟩', '〈': '⟨', '〉': '⟩', r'\vert': '|', r'\lvert': '|', r'\rvert': '|',
    r'\mid': '|', r'\|': r'\Vert', r'\lVert': r'\Vert', r'\rVert': r'\Vert', r'\colon': ':',
    r'\degree': '°', r'\lor': '∨', r'\land': '∧', r'\vee': '∨', r'\wedge': '∧',
    r'\dots': '...', r'\ldots': '...', r'\cdots': '...', r'\prime': "'",
    r'\imath': 'i', r'\$': '$', r'\&': '&', r'\_': '_', '%': r'\%', '⟶': r'\to', r'\iff': '⇔',
    r'\tbinom': r'\binom', r'\dbinom': r'\binom', r'\tr': r'\operatorname', '⌊': r'\lfloor',
    '⌋': r'\rfloor', '⌈': r'\lceil', '⌉': r'\rceil', r'\lg': r'\lg', '∠': r'\angle',
    r'\euro': '€', r'\pounds': '£', r'\yen': '¥', r'\newline': r'\\', r'\cr': r'\\', '/': '/'}
_GREEK_CHARACTERS = dict(zip(
    'αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΦΨΩ',
    ('alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau '
     'upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega').split(),
    strict=True))

_FONT = (
    r'\\(?:text[a-z]*|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|mbox|hbox'
    r'|operatorname|emph|underline)\*? *\{')
_UPRIGHT = re.compile(r'\\(?:text|mathrm|mbox|hbox|operatorname|emph)')
_TOKEN = re.compile(
    rf'(?P<font>{_FONT})|(?P<space>\s+)'
    r'|(?P<number>[0-9]*\.[0-9]*\\(?:overline|bar|dot) *\{[0-9]+\}'
    r'|[0-9]*\.[0-9]+[eE][+-]?[0-9]{1,2}(?![0-9.])'
    r'|[0-9]+[eE][0-9]{1,2}(?![0-9.])|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)'
    r'|\\(?P<edge>begin|end) *\{(?P<name>[A-Za-z]+)\*?\}(?: *\{[lcr| ]+\})?'
    r'|(?P<blackboard>\\(?:mathbb|Bbb)(?: *\{[A-Z]\}| *[A-Z]))'
    r'|(?P<command>\\(?:not=|[A-Za-z]+|.))'
    r'|(?P<letters>[A-Za-z]+|[\u4e00-\u9fff]+)'
    r'|(?P<sign><=|>=|!=|\*\*|.)', re.DOTALL)
_THOUSANDS = re.compile(r'(?<=[0-9])\{,\}(?=[0-9]{3})')
_MATH_DELIMITER = re.compile(r'(?<!\\)(?:\$|\\[][()])')
_MODULUS = re.compile(
    r'\( *(?:\\?mod|\\text *\{ *mod *\}|\\mathrm *\{ *mod *\}) *([0-9A-Za-z]+) *\)'
    r'|\\pmod *([0-9A-Za-z])')
_ROW_HEIGHT = re.compile(r'\\\\ *\[ *[0-9.]{1,5} *(?:pt|em|ex|mm|cm)\]')
_MERIDIEM = re.compile(r'(?<![A-Za-z])([AaPp])\.? ?[Mm](?![A-Za-z])\.?(?=[ }]*$)')
_SPLIT_NAME = re.compile(
    '(' + '|'.join(sorted(FUNCTIONS, key=len, reverse=True)) + r')([A-Za-z]|pi|theta)')
_ENVIRONMENTS = frozenset((
    'pmatrix', 'bmatrix', 'matrix', 'Bmatrix', 'array', 'smallmatrix', 'cases', 'aligned',
    'align', 'gathered'))
_SHORT_WORDS = frozenset((
    'cm', 'mm', 'km', 'nm', 'in', 'kg', 'mg', 'ml', 'mL', 'hr', 'hrs', 'min', 'ft', 'yd', 'yds',
    'lb', 'lbs', 'mph', 'kph', 'dm', 'cc', 'sq', 'Hz', 'kHz', 'MHz', 'kWh', 'kW', 'th', 'nd',
    'rd', 'of', 'USD'))
_VOWELS = frozenset('aeiouAEIOU')
_OPENING, _CLOSING = frozenset((*'([{⟨', r'\{')), frozenset((*')]}⟩', r'\}'))


def tokenize(text: str) -> tuple[Token, ...]:
  """The tokens of a formula.

  Raises:
    Unreadable: the text is too long or nested too deeply, its braces are not balanced, or it has
      characters that no formula has.
  """
  if not 0 < len(text) <= MAX_CHARACTERS:
    raise Unreadable(f'a formula has 1 to {MAX_CHARACTERS} characters')
  text = spelling.layout(_THOUSANDS.sub('', spelling.characters(text)))
  text = _MODULUS.sub(lambda match: rf'\pmod{{{match[1] or match[2]}}}', text)
  if text.replace(r'\$', '').count('$') % 2 == 0:
    text = _MATH_DELIMITER.sub(' ', text)    # else a currency
  text = _ROW_HEIGHT.sub(r'\\\\', text)
  text = _MERIDIEM.sub(lambda match: match[1].lower() + 'm', text)
  tokens: list[Token] = []
  fonts: list[bool | None] = []    # for each open brace: None, or whether a font's text is upright
  spaced = False
  for match in _TOKEN.finditer(text):
    kind, written = match.lastgroup, match[0]
    if kind == 'space':
      spaced = True
      continue
    if kind == 'font':
      fonts.append(_UPRIGHT.match(written) is not None)
      spaced = True
      continue
    if written == '{':
      fonts.append(None)
    elif written == '}':
      if not fonts:
        raise Unreadable('a brace is closed that was not opened')
      if fonts.pop() is not None:
        spaced = True
        continue
    upright = any(fonts)
    if kind == 'name':
      if match['name'] not in _ENVIRONMENTS:
        raise Unreadable(f'unknown environment {match["name"]}')
      tokens.append(Token(match['edge'], match['name'], spaced))
    elif kind == 'letters':
      tokens += _words(written, spaced, upright)
    elif written != '.' or not tokens or tokens[-1].kind != 'word':    # "sq. ft."
      tokens.append(_token(kind, written, spaced, upright))
    spaced = False
  if fonts:
    raise Unreadable('a brace is not closed')
  _check_nesting(tokens)
  return tuple(tokens)


def _token(kind: str | None, written: str, spaced: bool, upright: bool) -> Token:
  if kind == 'number':
    return Token('number', written, spaced, upright)
  if kind == 'blackboard':
    written = rf'\mathbb{{{written.rstrip("}")[-1]}}}'
  written = _ALIASES.get(written, written)
  name = _GREEK_CHARACTERS.get(written, written[1:])
  if name in _GREEK:
    return Token('letter', '\\' + name, spaced, upright)
  if written[1:] in FUNCTIONS and written != r'\sqrt':
    return Token('word', written[1:], spaced)
  if written in ('or', 'and'):
    return Token('sign', written, spaced)
  if written == 'i':
    return Token('letter', 'i', spaced)
  if len(written) == 1 and not written.isprintable():
    raise Unreadable('a character that cannot be printed')
  return Token('sign', written, spaced, upright)


def _words(written: str, spaced: bool, upright: bool) -> list[Token]:
  """A run of letters as one word, as a function and what follows it, or as single letters."""
  if written in ('pi', 'Pi'):
    return [Token('sign', 'π', spaced)]
  if written.lower() in ('infinity', 'inf', 'infty'):
    return [Token('sign', '∞', spaced)]
  if written == 'sqrt':
    return [Token('sign', r'\sqrt', spaced)]
  if written.lower() in CONNECTIVES:
    return [Token('sign', CONNECTIVES[written.lower()], spaced)]
  if written.lower() in _APPROXIMATELY:
    return [Token('sign', '≈', spaced)]
  if written in _NAMES:
    kind = 'word' if written in FUNCTIONS else 'letter'
    return [Token(kind, written if kind == 'word' else '\\' + written, spaced)]
  split = _SPLIT_NAME.fullmatch(written)
  if split and not upright:
    return [*_words(split[1], spaced, False), *_words(split[2], False, False)]
  if not written.isascii() or (len(written) > 1 and (upright or is_word(written))):
    return [Token('word', written, spaced, upright)]
  return [Token('letter', letter, spaced and i == 0, upright) for i, letter in enumerate(written)]


def is_word(letters: str) -> bool:
  """Whether a run of letters reads as a word rather than as a product such as `ab` or `xyz`."""
  if letters in _SHORT_WORDS or letters.lower() in ('no', 'yes', 'am', 'pm'):
    return True
  ascending = all(a < b for a, b in zip(letters, letters[1:], strict=False))
  return len(letters) > 2 and not ascending and not _VOWELS.isdisjoint(letters)


def _check_nesting(tokens: list[Token]) -> None:
  depth = 0
  for token in tokens:
    depth += token.kind == 'begin' or token.text in _OPENING
    depth -= token.kind == 'end' or token.text in _CLOSING
    if depth > _MAX_NESTING:
      raise Unreadable('a formula is nested too deeply')


def closing(tokens: tuple[Token, ...], start: int) -> int:
  """The index of the bracket that closes the one at `start`, of whichever kind it is.

  Raises:
    Unreadable: it is not closed.
  """
  depth = 0
  for i in range(start, len(tokens)):
    token = tokens[i]
    depth += token.kind == 'begin' or token.text in _OPENING
    depth -= token.kind == 'end' or token.text in _CLOSING
    if depth == 0:
      return i
  raise Unreadable('a bracket is not closed')


def split(tokens: tuple[Token, ...], separators: frozenset[str]) -> list[tuple[Token, ...]]:
  """`tokens` cut at the signs `separators` that stand outside all brackets."""
  parts, start, depth = [], 0, 0
  for i, token in enumerate(tokens):
    depth += token.kind == 'begin' or token.text in _OPENING
    depth -= token.kind == 'end' or token.text in _CLOSING
    if depth == 0 and token.kind == 'sign' and token.text in separators:
      parts.append(tokens[start:i])
      start = i + 1
  return [*parts, tokens[start:]]


def written(tokens: tuple[Token, ...]) -> str:
  """The tokens as text in one spelling: equal for formulas that are written the same way."""
  return ' '.join(token.text for token in tokens)
