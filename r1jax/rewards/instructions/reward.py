"""The reward of verifiable instructions, and how they are read from an example."""
from collections.abc import Callable, Mapping
import functools
import inspect
import itertools
from typing import Any, Literal, NamedTuple

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import TAGS, final_summary
from r1jax.rewards.instructions import form_checks, measures, text_checks
from r1jax.rewards.instructions.languages import LANGUAGES
from r1jax.rewards.invisible import without_invisible

# IFEval's name of a kind -> its check, whose keywords are the fields of an instruction.
KINDS: dict[str, Callable[..., bool | None]] = {
    'keywords:existence': text_checks.keywords_exist,
    'keywords:frequency': text_checks.keyword_frequency,
    'keywords:forbidden_words': text_checks.forbidden_words,
    'keywords:letter_frequency': text_checks.letter_frequency,
    'language:response_language': text_checks.response_language,
    'length_constraints:number_sentences': text_checks.number_of_sentences,
    'length_constraints:number_paragraphs': text_checks.number_of_paragraphs,
    'length_constraints:number_words': text_checks.number_of_words,
    'length_constraints:nth_paragraph_first_word': text_checks.first_word_of_paragraph,
    'detectable_content:number_placeholders': form_checks.placeholders,
    'detectable_content:postscript': text_checks.postscript,
    'detectable_format:number_bullet_lists': form_checks.bullets,
    'detectable_format:constrained_response': form_checks.constrained_response,
    'detectable_format:number_highlighted_sections': form_checks.highlights,
    'detectable_format:multiple_sections': form_checks.sections,
    'detectable_format:json_format': form_checks.is_json,
    'detectable_format:title': form_checks.title,
    'combination:two_responses': form_checks.two_responses,
    'combination:repeat_prompt': text_checks.repeats_prompt,
    'startend:end_checker': text_checks.ends_with,
    'startend:quotation': text_checks.in_quotation_marks,
    'change_case:capital_word_frequency': text_checks.capital_words,
    'change_case:english_capital': text_checks.all_upper_case,
    'change_case:english_lowercase': text_checks.all_lower_case,
    'punctuation:no_comma': text_checks.no_comma,
}
_RELATION_FIELDS = ('relation', 'let_relation', 'capital_relation')


class Instruction(NamedTuple):
  """One instruction: a key of `KINDS`, and the keywords of its check."""
  kind: str
  fields: Mapping[str, Any]


def instructions_reward(
    completion: Completion, example: Mapping, *, score: Literal['all', 'share'] = 'all',
    loose: bool = False, prompt_opens_think: bool = False) -> float | None:
  """1 if a completion follows the instructions of its example, or the share that it follows.

  What follows them is the summary that `extract.final_summary` finds, without the chain of thought.
  An empty one, one with tags in it, and a truncated completion follow none.

  Args:
    completion: the completion to judge.
    example: as `read_instructions`.
    score: 'all' must be followed, or the 'share' that is followed counts.
    loose: whether an instruction counts as followed, too, where the summary follows it without its
      first line, its last line or its asterisks (IFEval's loose criterion).
    prompt_opens_think: whether the prompt ended with `<think>`.

  Returns:
    The reward; None if the example has no instructions, or one that cannot be judged.

  Raises:
    UserError: as `read_instructions`.
  """
  instructions = read_instructions(example)
  if not instructions:
    return None
  summary = without_invisible(
      final_summary(completion.text, prompt_opens_think=prompt_opens_think)).strip()
  if completion.truncated or not summary or any(tag in summary for tag in TAGS):
    return 0.0
  verdicts = [_follows(instruction, summary, loose) for instruction in instructions]
  if None in verdicts:
    return None
  return float(all(verdicts)) if score == 'all' else sum(map(bool, verdicts)) / len(verdicts)


def read_instructions(example: Mapping) -> tuple[Instruction, ...]:
  """The instructions of an example; none if it has no such field.

  Args:
    example: has `'instructions'`, a list of objects such as
      `{"kind": "keywords:frequency", "keyword": "sun", "frequency": 2, "relation": "at least"}`, or
      IFEval's own two columns: `'instruction_id_list'`, the kinds, and `'kwargs'`, their fields.
      Fields that are None are left out.

  Raises:
    UserError: a kind is unknown, or a field is missing, unknown or of another type.
  """
  if 'instructions' in example:
    given = example['instructions']
  elif 'instruction_id_list' in example:
    given = _read_ifeval(example)
  else:
    return ()
  if not isinstance(given, (list, tuple)) or not all(isinstance(one, Mapping) for one in given):
    raise UserError(f'instructions must be a list of objects {{"kind": ..., ...}}, got {given!r}')
  return tuple(_read(one) for one in given)


def _read_ifeval(example: Mapping) -> list[dict[str, Any]]:
  kinds, fields = example['instruction_id_list'], example.get('kwargs')
  if not (isinstance(kinds, (list, tuple)) and isinstance(fields, (list, tuple))
          and len(kinds) == len(fields)
          and all(one is None or isinstance(one, Mapping) for one in fields)):
    raise UserError('kwargs must be a list of objects, one for each of instruction_id_list')
  return [{'kind': kind, **(one or {})} for kind, one in zip(kinds, fields)]


def _read(given: Mapping[str, Any]) -> Instruction:
  kind = given.get('kind')
  if kind not in KINDS:
    raise UserError(f'the kind {kind!r} of an instruction is unknown: '
                    f'{checks.did_you_mean(str(kind), KINDS)}')
  fields = {name: value for name, value in given.items() if name != 'kind' and value is not None}
  known = _fields_of(kind)
  for name in known.keys() - fields.keys():
    raise UserError(f'the instruction {kind!r} needs the field {name!r}')
  for name, value in fields.items():
    if name not in known:
      raise UserError(f'the instruction {kind!r} has no field {name!r}: leave it out'
                      + (f' ({checks.did_you_mean(name, known)})' if known else ''))
    fault = _fault(name, value, known[name])
    if fault:
      raise UserError(f'the field {name!r} of the instruction {kind!r} must be {fault}, got '
                      f'{value!r}')
  return Instruction(kind, fields)


@functools.cache
def _fields_of(kind: str) -> dict[str, Any]:
  """The fields of a kind and their types."""
  parameters = inspect.signature(KINDS[kind]).parameters.values()
  return {parameter.name: parameter.annotation for parameter in parameters
          if parameter.kind is parameter.KEYWORD_ONLY}


def _fault(name: str, value: Any, kind: Any) -> str:
  """What a field must be instead of a value; empty if that is right."""
  if kind is int:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return '' if right else 'a whole number of at least 0'
  if kind is str:
    if not isinstance(value, str) or not value.strip():
      return 'a text that is not blank'
    if name in _RELATION_FIELDS and value not in measures.RELATIONS:
      return f'one of {", ".join(map(repr, measures.RELATIONS))}'
    if name == 'language' and value.split('-')[0] not in LANGUAGES:
      return f'one of {", ".join(LANGUAGES)}'
    return ''
  if not value or not isinstance(value, (list, tuple)) or not all(
      isinstance(item, str) and item.strip() for item in value):
    return 'a list of texts that are not blank'
  return ''


def _follows(instruction: Instruction, text: str, loose: bool) -> bool | None:
  check = functools.partial(KINDS[instruction.kind], **instruction.fields)
  verdicts = [check(variant) for variant in (_variants(text) if loose else (text,))]
  return True if True in verdicts else verdicts[0]


def _variants(text: str) -> list[str]:
  """A text as it is, and without its first line, last line and asterisks, alone or together."""
  lines = text.split('\n')
  found = ['\n'.join(lines[first:len(lines) - last]).strip()
           for first, last in itertools.product((0, 1), (0, 1))]
  found += [part.replace('*', '') for part in found]
  return [part for part in dict.fromkeys(found) if part]
