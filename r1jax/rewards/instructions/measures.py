"""Counting the words, sentences and paragraphs of a text, in time linear in its length."""
import re

_HAN = '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f'
_KANA = '\u3041-\u3096\u30a1-\u30fa'
_LETTERS = rf'(?:(?![{_HAN}{_KANA}_])\w)+'
_WORD = re.compile(rf"[{_HAN}{_KANA}]|{_LETTERS}(?:['’]{_LETTERS})*")
_CLOSING = '["\'”’」』)*_]*'
_SENTENCE_END = re.compile(
    rf'(?<![.!?…])[.!?…]+{_CLOSING}(?=\s|\Z)|[。！？]+{_CLOSING}'
    r'|\n\s*\n|\n(?=\s*(?:[-*•]|[0-9]{1,3}[.)])\s)')
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|etc|e\.g|i\.e|cf|fig|no|vol|approx|inc|ltd|dept|a\.m|p\.m)"
    r'|(?-i:(?:\A|\.\s|\b[A-Z][a-z]*\s)[A-Z]))\.\Z', re.IGNORECASE)
_LONGEST_ABBREVIATION = 12    # characters
_RELATIONS = {
    'at least': lambda count, number: count >= number,
    'at most': lambda count, number: count <= number,
    'less than': lambda count, number: count < number,
    'more than': lambda count, number: count > number,
    'exactly': lambda count, number: count == number,
    'around': lambda count, number: abs(count - number) <= max(round(0.1 * number), 1),
}
RELATIONS = tuple(_RELATIONS)


def satisfies(count: int, relation: str, number: int) -> bool:
  """Whether a count is 'at least', 'less than', ... a number; 'around' is within a tenth of it."""
  return _RELATIONS[relation](count, number)


def words(text: str) -> list[str]:
  """The words of a text: runs of letters and digits; each Han character and each kana by itself."""
  return _WORD.findall(text)


def has_words(text: str) -> bool:
  """Whether a text has at least one letter or digit."""
  return any(character.isalnum() for character in text)


def count_of(phrase: str, text: str) -> int:
  """How often a phrase occurs in a text as whole words, ignoring case and width of white space.

  In scripts without spaces between words a phrase counts wherever it occurs.
  """
  parts = [re.escape(part) for part in phrase.casefold().split()]
  if not parts:
    return 0
  before = r'(?<!\w)' if _is_spaced(phrase.strip()[0]) else ''
  after = r'(?!\w)' if _is_spaced(phrase.strip()[-1]) else ''
  return len(re.findall(before + r'\s+'.join(parts) + after, text.casefold()))


def _is_spaced(character: str) -> bool:
  """Whether a character is of a word that spaces or punctuation end."""
  return character.isalnum() and not re.match(
      rf'[{_HAN}{_KANA}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]', character)


def sentences(text: str) -> list[str]:
  """The sentences of a text; list items, headings and paragraphs end a sentence, too.

  A full stop after a usual abbreviation or an initial ends none. Sentences without a letter or
  digit are left out.
  """
  text = text.rstrip()
  found, start = [], 0
  for end in _SENTENCE_END.finditer(text):
    sentence = text[start:end.end()]
    ending = text[max(start, end.end() - _LONGEST_ABBREVIATION):end.end()]
    if end[0] == '.' and end.end() < len(text) and _ABBREVIATION.search(ending):
      continue
    found.append(sentence)
    start = end.end()
  return [sentence.strip() for sentence in (*found, text[start:]) if has_words(sentence)]


def paragraphs(text: str, divider: str = r'\n\s*\n') -> list[str]:
  """The paragraphs of a text, which blank lines or another divider (a pattern) separate."""
  return [paragraph.strip() for paragraph in re.split(divider, text.strip())]
