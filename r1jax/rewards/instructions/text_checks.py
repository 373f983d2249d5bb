"""Instructions about what a text says: keywords, lengths, language, letters, beginning and end.

Each function takes the text that a reader sees and the fields of an instruction, and returns
whether the text does as told. Departures from IFEval's own checks: keywords are whole words and do
not count inside others (`cat` in `concatenate`), a Han character counts as a word, a comma of any
script is a comma, and after a repeated request there must be an answer.
"""
import re

from r1jax.rewards.instructions import languages, measures

_COMMA = re.compile('[,\u060c\u3001\ufe10\ufe11\ufe50\ufe51\uff0c\uff64]')
_QUOTES = {'"': '"', '“': '”', '«': '»', '「': '」', '『': '』', '„': '“'}


def keywords_exist(text: str, *, keywords: list[str]) -> bool:
  """Whether every keyword occurs."""
  return all(measures.count_of(keyword, text) for keyword in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
  """Whether a keyword occurs so often."""
  return measures.satisfies(measures.count_of(keyword, text), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
  """Whether none of the words occurs."""
  return not any(measures.count_of(word, text) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
  """Whether a letter occurs so often, in upper or lower case."""
  return measures.satisfies(text.casefold().count(letter.casefold()), let_relation, let_frequency)


def response_language(text: str, *, language: str) -> bool | None:
  """Whether the text is in a language; None for a language that is not known."""
  return languages.is_in(text, language)


def number_of_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
  """Whether there are so many sentences."""
  return measures.satisfies(len(measures.sentences(text)), relation, num_sentences)


def number_of_words(text: str, *, num_words: int, relation: str) -> bool:
  """Whether there are so many words."""
  return measures.satisfies(len(measures.words(text)), relation, num_words)


def number_of_paragraphs(text: str, *, num_paragraphs: int) -> bool:
  """Whether there are exactly so many paragraphs, with `***` between them, and none is empty."""
  found = measures.paragraphs(text, r'\s?\*{3}\s?')
  found = found[not found[0]:len(found) - (not found[-1])]
  return len(found) == num_paragraphs and all(map(measures.has_words, found))


def first_word_of_paragraph(
    text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
  """Whether there are exactly so many paragraphs, and one of them begins with a word."""
  found = [paragraph for paragraph in measures.paragraphs(text) if measures.has_words(paragraph)]
  if len(found) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
    return False
  return _begins_with(found[nth_paragraph - 1], first_word)


def postscript(text: str, *, postscript_marker: str) -> bool:
  """Whether a line begins with `P.S.` or `P.P.S` and more follows; upper or lower case, spaces."""
  letters = [re.escape(letter) for letter in postscript_marker.casefold() if letter.isalnum()]
  marker = re.compile(rf'^[^\w\n]{{0,10}}{"[. ]{0,3}".join(letters)}\b[.: ]*(.*)', re.MULTILINE)
  return any(measures.has_words(found) for found in marker.findall(text.casefold()))


def repeats_prompt(text: str, *, prompt_to_repeat: str) -> bool:
  """Whether the text begins with the request, word for word, and goes on with an answer."""
  request, given = (' '.join(part.casefold().split()) for part in (prompt_to_repeat, text))
  given = given.lstrip('"“\'*')
  return given.startswith(request) and measures.has_words(given[len(request):])


def ends_with(text: str, *, end_phrase: str) -> bool:
  """Whether the text ends with a phrase and nothing after it but quotes."""
  ending, given = (' '.join(part.casefold().split()) for part in (end_phrase, text))
  return given.rstrip(' "”\'*').endswith(ending.strip(' "”\'*'))


def capital_words(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
  """Whether so many words are all in capitals."""
  count = sum(word.isupper() for word in measures.words(text))
  return measures.satisfies(count, capital_relation, capital_frequency)


def all_upper_case(text: str) -> bool:
  """Whether all letters are capitals, of English text."""
  return text.isupper() and languages.is_in(text.lower(), 'en') is True


def all_lower_case(text: str) -> bool:
  """Whether all letters are small, of English text."""
  return text.islower() and languages.is_in(text, 'en') is True


def no_comma(text: str) -> bool:
  """Whether there is no comma, of whatever script."""
  return not _COMMA.search(text)


def in_quotation_marks(text: str) -> bool:
  """Whether the whole text is in double quotation marks, with text between them."""
  text = text.strip()
  return _QUOTES.get(text[:1]) == text[-1:] and measures.has_words(text[1:-1])


def _begins_with(text: str, word: str) -> bool:
  found, wanted = (measures.words(part.casefold()) for part in (text[:1000], word))
  return bool(wanted) and found[:len(wanted)] == wanted
