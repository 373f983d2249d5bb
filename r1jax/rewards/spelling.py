r"""One spelling for what models write in many: wide characters, LaTeX spaces, fonts, decoration.

Each function takes any text, changes only how it is written, and takes time linear in its length.
`plain` applies those that answers of every kind need:

* `characters`: full-width and Chinese forms become ASCII (`（１，２）` is `(1,2)`), as do
  dashes that serve as a minus sign, quotes, superscripts (`²` is `^{2}`) and fractions (`½` is
  `\frac{1}{2}`); spaces of every width become ` `, and characters without width are removed.
* `layout`: LaTeX's thin spaces (`\,`, `\;`, `~`, `\quad`, ...) become ` `, what only changes the
  size or the style of a formula (`\displaystyle`, `\left`, `\big`) is removed, `\dfrac` is
  `\frac`, `{,}` is `,`.
* `without_fonts`: `\text{cm}`, `\mathbf{72}`, `\bf` and colours are replaced by what they contain.

`undecorated` removes what surrounds an answer: emphasis, quotes, math delimiters, a full stop.
"""

import re

_MAX_LAYERS = 10

_SINGLE = {
    # Spaces, and what has no width.
    **dict.fromkeys('\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a'
                    '\u202f\u205f\u3000', ' '),
    **dict.fromkeys('\u00ad\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufe0e\ufe0f\ufeff', ''),
    # Dashes that people use as a minus sign or a hyphen; the em dash is punctuation.
    **dict.fromkeys('\u2010\u2011\u2012\u2013\u2212\u207b\u02d7\ufe58\ufe63', '-'),
    **dict.fromkeys('“”„‟«»「」『』＂', '"'), **dict.fromkeys('‘’‚‛′＇', "'"),
    '。': '.', '｡': '.', '、': ',', '﹐': ',', '︰': ':', '∶': ':', '⁄': '/', '∕': '/', '÷': '/',
    '【': '[', '】': ']', '〔': '[', '〕': ']', '℃': '°C', '℉': '°F', '㎝': 'cm', '㎞': 'km',
    '㎏': 'kg', '㎡': 'm^{2}', '∗': '*', '⋅': '·', '‧': '·', '・': '·', '∙': '·',
    '≦': '≤', '≧': '≥', '⩽': '≤', '⩾': '≥', '≒': '≈', '≃': '≈', '…': '...', '⋯': '...',
    '￠': '¢', '￡': '£', '￥': '¥', '￦': '₩', 'º': '°', '˚': '°',
    # The wide tilde stands between two ends of a range, the ASCII one is a space in LaTeX.
    **{chr(wide): chr(wide - 0xfee0) for wide in range(0xff01, 0xff5e)},
}
_FRACTIONS = {
    '½': (1, 2), '⅓': (1, 3), '⅔': (2, 3), '¼': (1, 4), '¾': (3, 4), '⅕': (1, 5), '⅖': (2, 5),
    '⅗': (3, 5), '⅘': (4, 5), '⅙': (1, 6), '⅚': (5, 6), '⅐': (1, 7), '⅛': (1, 8), '⅜': (3, 8),
    '⅝': (5, 8), '⅞': (7, 8), '⅑': (1, 9), '⅒': (1, 10)}
_CHARACTERS = str.maketrans(
    _SINGLE | {sign: rf'\frac{{{top}}}{{{bottom}}}' for sign, (top, bottom) in _FRACTIONS.items()})
_SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ', '0123456789+-n')
_SUBSCRIPTS = str.maketrans('₀₁₂₃₄₅₆₇₈₉₊₋', '0123456789+-')
_RAISED = re.compile('[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+')
_LOWERED = re.compile('[₀₁₂₃₄₅₆₇₈₉₊₋]+')

# An escaped backslash is matched first, so that the second half of a line break starts no command.
_LAYOUT = re.compile(
    r'(?P<kept>\\\\)|(?P<nothing>\\!|\\(?:left|right)\.)|(?P<comma>\{,\})'
    r'|(?P<space>~|\\[,;:> \n/]|\{\\,\}|\{ \}|\\(?:quad|qquad|thinspace|enspace|enskip|medspace'
    r'|thickspace|nobreakspace|space)(?![A-Za-z]))'
    r'|(?P<removed>\\(?:displaystyle|textstyle|scriptstyle|scriptscriptstyle|left|right|middle'
    r'|[bB]igg?[lrm]?|limits|nolimits|negthinspace|tiny|scriptsize|footnotesize|small|normalsize'
    r'|large|Large|LARGE|huge|Huge)(?![A-Za-z]) ?)'
    r'|\\(?P<fraction>[dtc]frac)(?![A-Za-z])')
_FONTS = (
    'text|textrm|textbf|textit|textsf|texttt|textup|textnormal|textmd|emph|mathrm|mathbf|mathit'
    '|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|mbox|hbox|operatorname|underline|uline|textcolor')
_BRACE_OR_FONT = re.compile(
    rf'(?P<font>\\(?:{_FONTS})\*? *\{{)|\\(?P<switch>bf|rm|it|sf|tt|bfseries|itshape)(?![A-Za-z]) ?'
    r'|\\color *\{[A-Za-z0-9!]{0,20}\} ?|\\.|[{}]', re.DOTALL)
_COLOUR = re.compile(r'\\textcolor *\{[A-Za-z0-9!]{0,20}\}')
_DECORATION = (
    ('**', '**'), ('*', '*'), ('__', '__'), ('`', '`'), ('$$', '$$'), ('$', '$'), (r'\(', r'\)'),
    (r'\[', r'\]'), ('"', '"'), ("'", "'"))


def plain(text: str) -> str:
  """`text` in the one spelling of this module: `characters`, `layout` and `without_fonts`."""
  return without_fonts(layout(characters(text)))


def characters(text: str) -> str:
  r"""Full-width, Chinese and typographic characters of `text` in ASCII, where they have a form.

  `１，２` is `1,2`, `x²` is `x^{2}`, `a₁` is `a_{1}`, `½` is `\frac{1}{2}`, `−` and `–` are `-`.
  """
  if text.isascii():
    return text
  text = _RAISED.sub(lambda run: f'^{{{run[0].translate(_SUPERSCRIPTS)}}}', text)
  text = _LOWERED.sub(lambda run: f'_{{{run[0].translate(_SUBSCRIPTS)}}}', text)
  return text.translate(_CHARACTERS)


def layout(text: str) -> str:
  r"""`text` with plain spaces for LaTeX's, without sizes and styles, `\frac` for its variants."""
  if not ('\\' in text or '~' in text or '{' in text):
    return text
  return _LAYOUT.sub(_respelled, text)


def _respelled(match: re.Match) -> str:
  kind = match.lastgroup
  if kind == 'kept':
    return match[0]
  return {'space': ' ', 'comma': ',', 'fraction': r'\frac'}.get(kind or '', '')


def without_fonts(text: str) -> str:
  r"""`text` with the contents of `\text{...}`, `\mathbf{...}` and the like in their place.

  A space is put before the contents of `\text`, where one may be meant: `72\text{cm}` is `72 cm`.
  A brace that is never closed stays.
  """
  if '\\' not in text:
    return text
  text = _COLOUR.sub(r'\\textcolor', text) if r'\textcolor' in text else text
  parts: list[str] = []
  opened: list[tuple[int, str, bool]] = []     # place in parts, what stood there, whether a font
  end = 0
  for match in _BRACE_OR_FONT.finditer(text):
    parts.append(text[end:match.start()])
    end, written = match.end(), match[0]
    if match['font']:
      opened.append((len(parts), written, True))
      parts.append('' if written.startswith((r'\mathbf', r'\bold', r'\bm', r'\pmb')) else ' ')
      continue
    if written == '{':
      opened.append((len(parts), written, False))
    elif written == '}' and opened and opened.pop()[2]:
      continue
    elif match['switch'] or written.startswith(r'\color'):
      continue
    parts.append(written)
  for place, written, _ in opened:
    parts[place] = written
  return ''.join(parts) + text[end:]


def undecorated(text: str) -> str:
  """`text` without surrounding white space, emphasis, quotes, math delimiters and full stop.

  At most ten layers of these are removed.
  """
  text = text.strip()
  for _ in range(_MAX_LAYERS):
    bare = text if text.endswith('..') else text.removesuffix('.').rstrip()
    for opening, closing in _DECORATION:
      inside = bare.removeprefix(opening).removesuffix(closing)
      if len(bare) - len(inside) == len(opening) + len(closing):
        bare = inside.strip()
        break
    if bare == text:
      break
    text = bare
  return text
