r"""Words that are written so as not to be counted as words, for `rewards.language`.

`undisguised` spells them as they are read: HTML entities, letters in circles and flags, letters
with spaces between them, invisible characters. `split` parts a text into what is read as prose and
the words within formulas and code. Some of those are prose in any case: the argument of `\text`
and the like, five words in a row, and other scripts. The others are names of variables and
keywords as a rule; `Hidden` counts what speaks against that.
"""
import html
import re
from typing import NamedTuple
import unicodedata

from r1jax.rewards.language_words import WORDS

HAN = '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f'
LATIN = ('A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff'
         '\ufb00-\ufb06\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7cb')
KANA = '\u3041-\u3096\u30a1-\u30fa'

_INVISIBLE = re.compile(
    '[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164'
    '\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]')
_RANGES = (range(0x24b6, 0x24ea), range(0x1f110, 0x1f150), range(0x2f00, 0x2fd6))
_SYMBOLS = {    # letters in circles, squares and flags; radicals
    code: plain for codes in _RANGES for code in codes
    if (plain := unicodedata.normalize('NFKC', chr(code)).strip('()')).isalpha()}
_SYMBOLS |= {
    first + i: chr(ord('A') + i) for first in (0x1f150, 0x1f170, 0x1f1e6) for i in range(26)}
_SPACER = r'[ \n.\-_·•|:;~]'
_LETTER = rf'(?![{HAN}{KANA}])[^\W\d_]'
_SPACED = re.compile(rf'(?<![^\W_]){_LETTER}(?:{_SPACER}{{1,3}}{_LETTER}(?![^\W_])){{5,}}')
_GAP = re.compile(rf'{_SPACER}{{2,3}}')

_COMMANDS = (
    'text|textrm|textbf|textit|textsf|texttt|mbox|mathrm|mathbf|mathit|mathsf|mathtt|mathbb|mathcal'
    '|operatorname|overline|underline|hat|bar|vec|angle|circ|triangle|[Rr]ightarrow|implies|iff|to'
    '|in|therefore|because|q?quad|[lc]?dots|hspace|vspace|displaystyle|[Bb]igg?[lr]?|binom|[dt]?frac'
    '|sqrt|times|cdot|div|boxed|left|right|sum|prod|int|leq?|geq?|neq?|approx|equiv|pm|mp|infty|pi'
    '|alpha|beta|gamma|delta|theta|lambda|sigma|begin|end|align(?:ed)?|cases|[pb]?mod|pmatrix|max'
    '|min|lfloor|rfloor|lceil|rceil|mid|cap|cup|subset|forall|exists|perp|parallel|degree|dollar')
_NO_LANGUAGE = re.compile(
    r'```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$(?=\S)[^$\n]*(?<=\S)\$(?!\d)'
    r'|\\\([^\n]{0,300}?\\\)|\\\[.{0,300}?\\\]|</?(?:think|answer)>'
    rf'|\\(?:{_COMMANDS})(?![A-Za-z])', re.DOTALL)
_PROSE = re.compile(
    r'\\(?:text|mbox|math|operatorname|emph)(?:rm|bf|it|sf|tt)?\s?\{([^{}]{1,300})\}'
    rf'|((?<![{LATIN}])[{LATIN}]{{2,40}}+(?:[ ,]{{1,2}}[{LATIN}]{{2,40}}+){{4,}})'
    rf'|((?:(?![{LATIN}])[^\W\d_])+)')
_COMMAND = re.compile(rf'\\(?:{_COMMANDS})(?![A-Za-z])')
_NAME = re.compile(rf'[A-Z]{{2,40}}(?![a-z])|[A-Z]?(?:(?![A-Z])[{LATIN}]){{2,40}}')
_WORDY = re.compile(rf"[{LATIN}][{LATIN} \t,;.!?'’-]*")
_KEYWORDS = frozenset((
    'for in if and or not is as with from while to do then else this all any by on let def end '
    'new true false none null return print import class self try except elif pass break continue '
    'lambda void int str float list dict set range len die main public static final var const '
    'case of step total select where group order having join insert into values update delete '
    'create table').split())
# Words of other languages than English name variables seldom; of English, these do.
_SPOKEN = {language: frozenset(word for word in words if len(word) > 2) - WORDS['en'] - _KEYWORDS
           for language, words in WORDS.items() if language != 'en'}
_SPOKEN['en'] = frozenset((
    'the that was are his they have had but some what there we can other were your when use how '
    'said each she which their will about many them would like so these her long make him has '
    'could did who may been now than because must should our it be he you my very just much '
    'after before does again still its only also therefore thus hence wait however').split())


class Hidden(NamedTuple):
  """The Latin words within formulas and code that are not prose in any case.

  Attributes:
    spoken: those that people say and programmers do not write, in the text's order.
    plain: those of code and formulas that have no sign of either: letters, spaces, punctuation.
  """
  spoken: list[str]
  plain: list[str]


def undisguised(text: str) -> str:
  """A text with its letters as they are read."""
  if '&' in text:
    text = html.unescape(text)
  if not text.isascii():
    text = _INVISIBLE.sub('', text).translate(_SYMBOLS)
  return _SPACED.sub(_joined, text)


def _joined(match: re.Match) -> str:
  """The words of letters with spaces between them; those of an alphabetic list are left alone."""
  words = [re.sub(_SPACER, '', word) for word in _GAP.split(match[0])]
  if all(len(word) == 1 for word in words):
    words = [''.join(words)]
  letters = ''.join(words).lower()
  listed = sum(ord(after) - ord(before) == 1 for before, after in zip(letters, letters[1:]))
  return match[0] if 2 * listed >= len(letters) - 1 else f' {" ".join(words)} '


def split(text: str) -> tuple[str, Hidden]:
  """(the prose of a text, the other words in its formulas and code)."""
  hidden = Hidden([], [])

  def prose_of(match: re.Match) -> str:
    segment = match[0]
    if len(segment) <= 2 or segment[0] in '<\\' and segment[1] not in '([':
      return ' '
    prose = [found[0] if found[0][0] != '\\' else found[1]
             for found in _PROSE.finditer(segment) if _is_prose(found)]
    _note_names(_PROSE.sub(_name_of, segment), hidden)
    return f' {" ".join(prose)} '

  return _NO_LANGUAGE.sub(prose_of, text), hidden


def _is_prose(found: re.Match) -> bool:
  """Whether what `_PROSE` finds is more than a name or keywords."""
  if found[1]:
    return len(found[1].split()) > 1 or not re.search(f'[{LATIN}]', found[1])
  words = found[2].lower().split() if found[2] else []
  return not words or 2 * sum(word.strip(',') in _KEYWORDS for word in words) <= len(words)


def _name_of(found: re.Match) -> str:
  return ' ' if _is_prose(found) else f' {found[1] or found[0]} '


def _note_names(segment: str, hidden: Hidden) -> None:
  """Adds the words of a formula or of code that are not prose in any case to `hidden`."""
  segment = _COMMAND.sub(' ', segment)
  for line in segment.strip('`$').splitlines():
    wordy = _WORDY.fullmatch(line.strip(' \t\\()[]'))
    for name in _NAME.findall(line):
      word = name.lower()
      if any(word in words for words in _SPOKEN.values()):
        hidden.spoken.append(word)
      if wordy and len(word) > 2 and word not in _KEYWORDS:
        hidden.plain.append(word)
