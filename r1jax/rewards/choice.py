r"""The accuracy reward of multiple choice: the letters that an answer chooses.

An answer is read as words and punctuation marks. A single letter is a *mention* of an option where
it is not an article ("A dog"), a pronoun ("I think"), or a piece of a formula or a name ("B^2",
"Vitamin C"). Each mention is affirmed, denied ("not B", "B is wrong") or left open ("B or C",
"maybe B", "B?"). An explicit answer chooses the letters that it affirms, if it leaves none open, so
that naming several options gains nothing. In prose the last letter that is stated as the answer
counts, with all that is said after it.

Words of Chinese, German, Spanish and French that matter here are first translated into English.
"""

from collections.abc import Mapping
import re
from typing import NamedTuple
import unicodedata

from r1jax.rewards import spelling
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import Answer, extract_answer
from r1jax.rewards.invisible import without_invisible

_MAX_EXPLICIT = 2000      # characters of an answer block or box: longer ones make no choice
_MAX_PROSE = 4000         # characters that are read at the end of other prose
_MAX_GOLD = 300
_WINDOW = 6               # words before a mention that can deny it or leave it open

_SPELLINGS = [(re.compile(pattern), new) for pattern, new in (
    (r'\\[()\[\]!]|\\(?:boxed|fbox)(?= ?\{)', ''), (r'\\[A-Za-z]+|\\.', ' § '),
    ('[〈《]', '('), ('[〉》]', ')'), (r'[{}$*`"]|(?<![^\W_])_+|_+(?![^\W_])', ''),
    (r"(?<!\w)'|'(?!\w)", ''),
    ('不选|排除|不是|并非|而非|不应选', ' not '),
    ('(?:是|为)?(?:不对|不正确|错误的?|错的?)', ' is wrong '),
    ('或者?|还是', ' or '), ('可能|也许|大概', ' maybe '), ('也|同样', ' also '), ('吗', '?'),
    ('(?:正确)?答案(?:应该|应当|应)?|本题|综上', ' answer '), ('选项', ' option '),
    ('(?:我)?(?:应该|应当|应|故|所以|因此)?选择?', ' choose '), ('故|所以|因此', ' so '),
    ('(?:是)?(?:正确的?|对的?)', ' is correct '), ('[是为]', ' is '),
    ('[和与及]|以及', ' and '), ('[都均]', ' '), ('因为?', ' because '), ('但是?', ' but '),
    (r'\b(?i:oder|ou|bzw)\b', 'or'), (r'\b(?i:und|et)\b', 'and'),
    (r'\b(?i:nicht|kein|pas)\b', 'not'), (r'\b(?i:ist|est|es|son|sont)\b', 'is'),
    (r'\b(?i:antwort|lösung|respuesta|réponse)\b', 'answer'),
    (r'\b(?i:falsch|falsa|incorrecta|faux|fausse)\b', 'wrong'),
    (r'\b(?i:richtig|correcta|correcto|correcte|juste)\b', 'correct'),
    (r'\b(?i:vielleicht|quizás|tal vez|peut-être)\b', 'maybe'),
    (r'\b(?i:opción|lettre|letra)\b', 'option'),
    ('(?<=[A-Za-z])(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])(?=[A-Za-z])', ' '),
    (r'[^\S\n]+', ' '), (r'\s*\n\s*', '\n'))]
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,]\d+)*|\S|\n")
_OPTION = re.compile(
    r'(?:^|(?<=\s))[(\[]?([A-Z1-9])[).:\]]+\s+(.+?)(?=\s+[(\[]?[A-Z1-9][).:\]]\s|\n|$)')
_LETTER_FIRST = re.compile(
    r'[\s*_`$(\[（【\\a-z{]*[A-Za-z1-9][\s*_`$)\]）】}]*(?:[).:\]）】。．：,、]|$)')
_MARKED = re.compile(r'(?<![\w.])([A-Za-z1-9])[).:\]]+\s*')

_GLUED = re.compile(r'[A-J]{2,10}')
_NOUNS = frozenset('option options choice choices answer answers letter letters solution'.split())
_CUES = _NOUNS | frozenset('choose chose select pick picked selected chosen'.split())
_COPULAS = frozenset("is are was be it's that's so thus therefore hence then namely".split())
_CONJUNCTIONS = frozenset(
    'or nor and not but than also plus as else maybe perhaps possibly either both neither & /'
    .split())
_OPEN = frozenset('maybe perhaps possibly either or might may could unsure if unless'.split())
_DENIALS = frozenset("not never neither nor cannot reject rejected eliminate eliminated except "
                     "exclude excluding rather instead wrong incorrect false".split())
_VERBS = frozenset(
    "is are was were isn't aren't wasn't also too would could can can't cannot might may should "
    'must seems looks works fits holds applies because since as and or nor but not only instead '
    'either'.split())
_SEPARATORS = frozenset(', ; / & ( ) [ ] and or nor'.split())
_CLAUSE_ENDS = frozenset('. ! ? : ; , – — -'.split()) | {'\n'}
_FORMULA = frozenset("= + ^ < > | _ % # \\ * § ' ÷ ×".split())


@any_accepted
def choice_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float | None:
  """1 if the answer chooses exactly the gold's letters, in any order, else 0.

  The gold is a letter (`B`, `(b)`, `B. a dog`), several (`A, C`, `AC`, `["A", "C"]`) or a digit
  from 1 to 9, where the options are numbered. An option's own text may stand after its letter; what
  it says is known if the example's `'question'` lists the options.

  Args:
    completion: the completion to judge.
    example: its `'answer'` is the gold.
    prompt_opens_think: whether the prompt ended with `<think>`: then there is no answer before
      `</think>`.

  Returns:
    The reward, or None if the gold is no choice.
  """
  written = str(example['answer'])
  gold = read_letters(written) if len(written) <= _MAX_GOLD else None
  numbered = written.strip() in set('123456789')
  if numbered:
    gold = written.strip()
  if gold is None:
    return None
  answer = extract_answer(
      completion.text, truncated=completion.truncated, prompt_opens_think=prompt_opens_think)
  if answer is None:
    return 0.0
  options = _options(str(example.get('question', '')))
  chosen = chosen_letters(answer, options=options, numbered=numbered)
  return float(chosen is not None and set(chosen) == set(gold))


def chosen_letters(
    answer: Answer, *, options: Mapping[str, str] | None = None, numbered: bool = False,
) -> str | None:
  """The letters that an answer chooses, upper-case, in their order; None if it makes no choice.

  Args:
    answer: an extracted answer.
    options: the texts of the options by letter, where they are known.
    numbered: whether the options are digits.
  """
  if answer.explicit:
    return read_letters(answer.text, options=options, numbered=numbered)
  line = answer.text[-_MAX_PROSE:].rpartition('\n')[2]
  whole = read_letters(line, options=options, numbered=numbered) if _is_bare(line) else None
  text = _plain(answer.text[-_MAX_PROSE:], options or {})
  return whole or _Reading(text, numbered).stated()


def read_letters(
    text: str, *, options: Mapping[str, str] | None = None, numbered: bool = False) -> str | None:
  """The letters that a text chooses as a whole, upper-case; None if it makes no choice.

  See `chosen_letters` for the arguments.
  """
  if len(text) > _MAX_EXPLICIT:
    return None
  text = _plain(text, options or {})
  bare = text.strip(' .()[]\n')
  if _GLUED.fullmatch(bare) and len(set(bare)) == len(bare):
    return bare
  if re.fullmatch('[1-9]' if numbered else '[A-Za-z]', bare):
    return bare.upper()
  return _Reading(text, numbered).affirmed()


def choice_key(answer: Answer) -> str | None:
  """A key that is equal for answers that make the same choice; None if an answer makes none."""
  letters = chosen_letters(answer)
  if letters is None or letters in answer.text:    # a word such as BAD stays as it is
    return letters
  return ''.join(sorted(letters))


def _is_bare(line: str) -> bool:
  """Whether a line of prose begins with an option's letter that is marked, or is the letter."""
  return bool(_LETTER_FIRST.match(line[:80]))


def _plain(text: str, options: Mapping[str, str]) -> str:
  """A text in one spelling, without markup and without the texts of options after their letters."""
  text = spelling.plain(unicodedata.normalize('NFKC', without_invisible(text)))
  for pattern, new in _SPELLINGS:
    text = pattern.sub(new, text)
  text = text.strip()
  if not options:
    return text
  kept, end = [], 0
  for mark in _MARKED.finditer(text):
    option = options.get(mark[1].upper())
    after = text[mark.end():]
    if mark.start() >= end and option and after.casefold().startswith(option):
      if not after[len(option):len(option) + 1].isalnum():
        kept += [text[end:mark.start()], mark[1], ' . ']
        end = mark.end() + len(option)
  return ''.join((*kept, text[end:])).strip()


def _options(question: str) -> dict[str, str]:
  """The texts of a question's options by letter, in the spelling of `_plain`, without case."""
  found: dict[str, str] = {}
  for letter, text in _OPTION.findall(_plain(question[-_MAX_PROSE:], {})):
    found.setdefault(letter, text.strip(' .').casefold())
  return found


class _Group(NamedTuple):
  """Letters that are named together ("A, B and C"), from one token to another."""
  letters: str
  first: int
  last: int


class _Reading:
  """The mentions of options in a text that is already plain."""

  def __init__(self, text: str, numbered: bool):
    matches = list(_TOKEN.finditer(text))
    self._text, self._numbered = text, numbered
    self._spans = [match.span() for match in matches]
    self._tokens = [match[0] for match in matches]
    self._words = [token.lower() for token in self._tokens]
    self._groups = self._find_groups()

  def affirmed(self) -> str | None:
    """The letters that the whole text affirms; None if there are none, or if one is left open."""
    return self._total(self._groups)

  def stated(self) -> str | None:
    """The letters that are last stated as the answer, and nothing other after them."""
    for place in reversed(range(len(self._groups))):
      group = self._groups[place]
      if self._is_stated(group) and not self._is_denied(group):
        after = [other for other in self._groups[place + 1:] if self._is_claimed(other)]
        return self._total([group, *after])
    return None

  def _total(self, groups: list[_Group]) -> str | None:
    groups = [group for group in groups if not self._is_denied(group)]
    if any(self._is_open(group) for group in groups):
      return None
    return ''.join(dict.fromkeys(''.join(group.letters for group in groups))) or None

  def _word(self, place: int) -> str:
    return self._words[place] if 0 <= place < len(self._words) else ''

  def _find_groups(self) -> list[_Group]:
    """The mentions of options, those together that only separators part."""
    groups: list[_Group] = []
    weak = -1    # the last letter that mentions nothing
    for place, token in enumerate(self._tokens):
      if not self._is_letter(place):
        continue
      previous = groups[-1] if groups else None
      between = self._words[previous.last + 1:place] if previous else []
      joined = len(between) <= 4 and _SEPARATORS.issuperset(between)
      if previous and joined and weak < previous.last:
        if not self._is_article(place):
          groups[-1] = _Group(previous.letters + token.upper(), previous.first, place)
      elif self._is_mention(place, weak):
        groups.append(_Group(token.upper(), place, place))
      else:
        weak = place
    return groups

  def _is_letter(self, place: int) -> bool:
    """Whether a token could be an option's letter, or several (`AC`) after "answer" or the like."""
    token, (start, end) = self._tokens[place], self._spans[place]
    before, after = self._text[start - 1:start], self._text[end:end + 1]
    if before and (before.isalnum() and ord(before) < 128 or before in "'^=+_%#\\*§-"):
      return False
    if after and (after.isalnum() and ord(after) < 128 or after in "'^=+_%#\\*§"):
      return False
    if after == '-' and not self._text[end + 1:end + 2].isspace():
      return False
    if self._numbered:
      return len(token) == 1 and token in '123456789'
    if len(token) > 1:
      cued = self._before(place) in _CUES | {'is', 'are', ':'}
      return cued and bool(_GLUED.fullmatch(token)) and len(set(token)) == len(token)
    return token.isascii() and token.isalpha()

  def _is_article(self, place: int) -> bool:
    """Whether a letter begins a phrase: "A dog", "I think", or a variable in lower case."""
    token, after = self._tokens[place], self._word(place + 1)
    if self._is_bracketed(place):
      return False
    if token.islower():
      return after.isalnum() or after in ('(', *_FORMULA)
    allowed = {'is'} if token == 'I' else _VERBS
    return token in 'AI' and after.isalnum() and after not in allowed and not (
        self._ends_group(place + 1))

  def _is_bracketed(self, place: int) -> bool:
    """Whether a letter stands in brackets that are not a function's."""
    if self._word(place - 1) not in ('(', '[') or self._word(place + 1) not in (')', ']'):
      return False
    opening = self._spans[place - 1][0]
    return not self._text[max(0, opening - 1):opening].isalnum()

  def _before(self, place: int) -> str:
    """The word before a letter, without its opening bracket."""
    place -= 1
    while place >= 0 and self._words[place] in ('(', '['):
      place -= 1
    return self._words[place] if place >= 0 else ''

  def _is_mention(self, place: int, weak: int) -> bool:
    """Whether a letter that begins a group mentions an option."""
    token, before, after = self._tokens[place], self._before(place), self._word(place + 1)
    if self._is_bracketed(place):
      return True
    if self._is_article(place):
      return False
    if before in _CUES or before in _COPULAS:
      return True
    if before == '=':
      return self._word(place - 2) in _NOUNS
    if before in _CONJUNCTIONS or before in ('with', 'say', 'to') and self._word(place - 2) in (
        'go', 'going', 'went', 'goes', "i'd"):
      joined = weak >= 0 and place - weak == 2
      return not joined and (token.isupper() or self._numbered or before in ('or', 'nor', 'maybe'))
    if after in (')', ']', ':') and not self._numbered:
      return token.isupper() or before in ('', *_CLAUSE_ENDS)
    if after == '.' and place + 2 < len(self._words) and token.isupper():
      return True
    starts = before == '' or before in _CLAUSE_ENDS
    if self._numbered and place:
      return starts and after in _VERBS
    if token.islower() and place:
      return before == ':' and self._word(place - 2) in _CUES
    return starts and after not in _FORMULA

  def _preceding(self, place: int) -> list[str]:
    """The words of the clause before a mention, back to the mention before, six at most."""
    found: list[str] = []
    for other in range(place - 1, max(-1, place - 1 - _WINDOW), -1):
      word = self._words[other]
      if word == 'but' and self._word(other - 1) in ('all', 'any', 'anything', 'everything'):
        return ['except']
      if word in _CLAUSE_ENDS or word == 'but' or self._ends_group(other):
        break
      found.append(word)
    return found

  def _ends_group(self, place: int) -> bool:
    return place < len(self._tokens) and len(self._tokens[place]) == 1 and (
        self._tokens[place].isupper())

  def _following(self, group: _Group) -> list[str]:
    """The four words and marks after a group, without its closing bracket."""
    place = group.last + 1
    while self._word(place) in (')', ']'):
      place += 1
    return self._words[place:place + 4]

  def _is_denied(self, group: _Group) -> bool:
    before, after = self._preceding(group.first), self._following(group)
    if any(word in _DENIALS or word.endswith("n't") for word in before):
      return True
    verb, rest = after[:1], after[1:]
    if verb and (verb[0] == 'cannot' or verb[0].endswith("n't")):
      return True
    if verb and verb[0] == 'not':
      return len(rest) > 0 and rest[0] not in ('(', '[') and not self._is_letter(group.last + 2)
    if not verb or verb[0] not in _VERBS:
      return False
    if verb[0] in _COPULAS and rest[:1] == ['too']:
      return len(rest) > 1 and rest[1].isalpha()
    wrong = {'wrong', 'incorrect', 'false', 'out', 'impossible'}
    joins = verb[0] in ('and', 'as', 'because', 'but', 'or', 'since')
    return bool(wrong.intersection(rest[:2])) or not joins and rest[:1] in (
        ['not'], ['never'], ['neither'], ['no'])

  def _is_open(self, group: _Group) -> bool:
    """Whether a group is one of alternatives, or said with doubt."""
    inside = self._words[group.first:group.last + 1]
    before, after = self._preceding(group.first), self._following(group)
    if 'or' in inside or 'nor' in inside or _OPEN.intersection(before):
      return True
    if before[:1] == ['then'] and 'if' in self._words[:group.first]:
      return True
    if not after:
      return False
    if after[0] in ('?', 'or') or after[0] in _OPEN:
      return True
    return after[0] in ('.', ',', '(', '\n', ';') and len(after) > 1 and after[1] in _OPEN | {'or'}

  def _is_stated(self, group: _Group) -> bool:
    """Whether a group is stated as the answer in prose."""
    place = group.first
    before = self._before(place)
    if self._is_bracketed(place) or before in _CUES:
      return True
    nouns = _NOUNS.intersection(self._words[max(0, place - 4):place])
    if nouns and before in (':', *_COPULAS):
      return True
    if before == ',':
      before = self._word(place - 2)
    if before in ('is', 'be') and {'it', 'must', 'should'}.intersection(self._preceding(place)):
      before = "it's"
    ends = self._following(group)[:1] in ([], ['.'], ['\n'], ['!'])
    return ends and before in (_COPULAS | {'with', 'say'}) - {'is', 'are', 'was', 'be'}

  def _is_claimed(self, group: _Group) -> bool:
    """Whether a mention after the stated answer claims to be right, too."""
    after = self._following(group)
    return self._is_stated(group) or self._is_open(group) or bool(
        {'also', 'right', 'correct', 'answer', 'true', 'too'}.intersection(after))
