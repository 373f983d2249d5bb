"""Instructions about the form of a text: bullets, sections, highlights, JSON, a title, a choice.

Each function takes the text that a reader sees and the fields of an instruction, and returns
whether the text does as told. Departures from IFEval's own checks: what is counted must have a
letter or digit in it, so that empty bullets, sections, placeholders and titles do not count; two
sections of one number count once; JSON is an object or a list; two answers must differ in more than
spelling.
"""
import json
import re

from r1jax.rewards.instructions import measures

_CONSTRAINED = ('my answer is yes.', 'my answer is no.', 'my answer is maybe.')
_PLACEHOLDER = re.compile(r'\[([^\[\]\n]{1,100})\]')
_BULLET = re.compile(r'^[ \t]*[*\-•+][ \t]+(.*)', re.MULTILINE)
_HIGHLIGHT = re.compile(r'\*{1,3}([^*\n]+)\*{1,3}')
_TITLE = re.compile(r'<<([^<>\n]+)>>')
_FENCED = re.compile(r'```[A-Za-z]{0,10}[ \t]*\n(.*)\n[ \t]*```', re.DOTALL)
_BETWEEN_RESPONSES = r'\*{6}'


def placeholders(text: str, *, num_placeholders: int) -> bool:
  """Whether there are at least so many placeholders, such as `[address]`."""
  return _count(_PLACEHOLDER, text) >= num_placeholders


def bullets(text: str, *, num_bullets: int) -> bool:
  """Whether there are exactly so many lines `* text` or `- text`."""
  return _count(_BULLET, text) == num_bullets


def constrained_response(text: str) -> bool:
  """Whether the text gives exactly one of "My answer is yes.", "... no." and "... maybe."."""
  text = ' '.join(text.casefold().split())
  return sum(text.count(answer) for answer in _CONSTRAINED) == 1


def highlights(text: str, *, num_highlights: int) -> bool:
  """Whether at least so many stretches are highlighted, as `*this*` or `**this**`."""
  return _count(_HIGHLIGHT, text) >= num_highlights


def sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
  """Whether at least so many sections begin with a word and different numbers, as `Section 2`."""
  opening = re.compile(
      rf'^[^\w\n]{{0,10}}{re.escape(section_spliter.strip())} {{0,3}}'
      r'([0-9]{1,4}|[IVXLC]{1,7}|[A-Z])\b', re.MULTILINE | re.IGNORECASE)
  found = [*opening.finditer(text)]
  ends = [match.start() for match in found[1:]] + [len(text)]
  numbers = {match[1].casefold() for match, end in zip(found, ends)
             if measures.has_words(text[match.end():end])}
  return len(numbers) >= num_sections


def is_json(text: str) -> bool:
  """Whether the whole text is a JSON object or list that is not empty, at most in a code fence."""
  text = text.strip()
  fenced = _FENCED.fullmatch(text)
  try:
    value = json.loads(fenced[1] if fenced else text, parse_int=str, parse_float=str,
                       parse_constant=_refuse)
  except (ValueError, RecursionError):
    return False
  return isinstance(value, (dict, list)) and bool(value)


def title(text: str) -> bool:
  """Whether there is a title, as `<<title>>`."""
  return _count(_TITLE, text) > 0


def two_responses(text: str) -> bool:
  """Whether there are exactly two answers with `******` between them, which differ."""
  found = [' '.join(measures.words(part.casefold()))
           for part in measures.paragraphs(text, _BETWEEN_RESPONSES)]
  return len(found) == 2 and all(found) and found[0] != found[1]


def _count(pattern: re.Pattern, text: str) -> int:
  """How many matches have a letter or digit in them."""
  return sum(map(measures.has_words, pattern.findall(text)))


def _refuse(constant: str):
  raise ValueError(f'{constant} is not valid JSON')
