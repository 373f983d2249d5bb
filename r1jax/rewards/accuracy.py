r"""Accuracy rewards: 1 for a right answer, 0 for a wrong one or none, None for what has no judge.

Each takes a `Completion` and its example, whose `'answer'` is the gold. The answer is extracted as
`extract` says: an explicit one must be right as a whole, while in a completion without answer
block, box or `####` the likeliest reading of its prose is taken, so that a base model that knows
no template can be measured. Nothing is ever evaluated: where the gold is a number, `3+9` is not
12. math-verify would take it, and a model could answer by repeating its question.
"""

from collections.abc import Mapping
from fractions import Fraction
import re

from r1jax.rewards import exact_numbers, formulas, workers
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import Answer, extract_answer

_NAME = re.compile(r'^[A-Za-z] *= *')
_LETTER = re.compile(r'[*(\[]*([A-Za-z])[*)\].:]*')
_LETTER_AND_OPTION = re.compile(r'[*(\[]*([A-Z])[*)\].:]+\s+(.+)', re.DOTALL)
_SECOND_LETTER = re.compile(
    r"(?:^|\b(?:or|and|not)\s|[,;/&]\s*)[*(\[]*[A-Z](?![\w'.]|\s[a-z])"
    r"|(?<![\w.'])[A-Z][)\].:,*]+(?!\w)")
_STATED_LETTER = re.compile(
    r"(?:\b(?i:answer|option|choice)(?i:\s+is)?:?\s*[*(\[]*|\()([A-Z])(?![\w'])"
    r'(?!(?<=[AI])\s[a-z])')


def number_reward(completion: Completion, example: Mapping) -> float | None:
  """1 where the answer is the gold number or formula, else 0.

  A gold that is a plain number (see `exact_numbers`) is compared exactly; only then is an answer
  without tags, box or `####` read as the last number of its prose. Any other gold is taken for a
  LaTeX formula, and a worker process asks math-verify whether the answer is equivalent to it.

  Returns:
    The reward, or None where the gold is neither a number nor a formula.
  """
  gold = exact_numbers.undecorated(str(example['answer']))
  answer = extract_answer(completion.text, truncated=completion.truncated)
  number = exact_numbers.parse_number(gold)
  if number is not None:
    return _compare_numbers(number, answer)
  if not formulas.is_formula(gold):
    return None
  if answer is None:
    return 0.0
  formula = exact_numbers.undecorated(_last_line(answer))
  if formula == gold:
    return 1.0
  if not formulas.may_be_equivalent(gold, formula):
    return 0.0
  verdict = workers.current_pool().equivalent(gold, formula)
  return None if verdict is None else float(verdict)


def gsm8k_reward(completion: Completion, example: Mapping) -> float | None:
  """1 where the answer is GSM8K's number, else 0; exact, and never asks a worker.

  The gold is a number or a whole GSM8K solution ending in `#### number`; None for any other.
  """
  number = exact_numbers.parse_number(str(example['answer']).rpartition('####')[2])
  if number is None:
    return None
  return _compare_numbers(number, extract_answer(completion.text, truncated=completion.truncated))


def choice_reward(completion: Completion, example: Mapping) -> float | None:
  """1 where the answer is the gold's letter, else 0; None for a gold that is not one choice."""
  gold = choice_letter(str(example['answer']))
  if gold is None:
    return None
  answer = extract_answer(completion.text, truncated=completion.truncated)
  return float(answer is not None and _choice(answer) == gold)


def exact_match_reward(completion: Completion, example: Mapping) -> float | None:
  """1 where the answer is the gold, character by character, else 0; None for an empty gold.

  Only outer white space is ignored. Of an answer without tags, box or `####` the last line counts.
  """
  gold = str(example['answer']).strip()
  if not gold:
    return None
  answer = extract_answer(completion.text, truncated=completion.truncated)
  return float(answer is not None and _last_line(answer) == gold)


def choice_letter(text: str) -> str | None:
  """The upper-case letter of an answer that makes one choice: `B`, `(b)`, `**B**`, `B. a dog`.

  Option text may follow a marked letter but not name another one: `B. or C` is no choice.
  """
  text = exact_numbers.undecorated(text)
  letter = _LETTER.fullmatch(text)
  if letter is None:
    letter = _LETTER_AND_OPTION.fullmatch(text)
    if letter is None or _SECOND_LETTER.search(letter[2]):
      return None
  return letter[1].upper()


def canonical_answer(text: str, *, truncated: bool = False) -> str | None:
  """A key for a completion's answer, equal for answers that are the same; None for no answer.

  Numbers are keyed by their exact value (1,234 and 1234.0 are the same), choices by their letter,
  all else by its text. Cheap, transitive, and so at times finer than a reward: formulas are equal
  only if written alike, and 0.333 is not 1/3.

  Args:
    text: a completion's text, with its tags, or a bare answer.
    truncated: whether the completion was cut.
  """
  answer = extract_answer(text, truncated=truncated)
  if answer is None:
    return None
  number = exact_numbers.parse_number(_number_text(answer) or '')
  choice = _choice(answer)
  if number is not None and (answer.explicit or choice is None):
    return str(number)
  return choice or ' '.join(exact_numbers.undecorated(_last_line(answer)).split())


def answers_equivalent(a: str, b: str) -> bool:
  """Whether two texts give the same answer by `canonical_answer`; no answer equals none."""
  key = canonical_answer(a)
  return key is not None and key == canonical_answer(b)


def _compare_numbers(gold: Fraction, answer: Answer | None) -> float:
  text = None if answer is None else _number_text(answer)
  return float(text is not None and exact_numbers.equals(gold, text))


def _number_text(answer: Answer) -> str | None:
  """What should be read as a number: all of an explicit answer but `x =`, else the last number."""
  if answer.explicit:
    return _NAME.sub('', exact_numbers.undecorated(answer.text))
  return exact_numbers.last_number(answer.text)


def _choice(answer: Answer) -> str | None:
  letter = choice_letter(_last_line(answer))
  if letter is None and not answer.explicit:
    stated = _STATED_LETTER.findall(answer.text)
    letter = stated[-1] if stated else None
  return letter


def _last_line(answer: Answer) -> str:
  """All of an explicit answer, the last line of any other."""
  return answer.text if answer.explicit else answer.text.rpartition('\n')[2].strip()
