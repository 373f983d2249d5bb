r"""Accuracy rewards: 1 for a correct answer, 0 for a wrong or missing one, None if unjudgeable.

Each takes a `Completion` and its example, whose `'answer'` is the gold answer; where it has several
accepted `'answers'`, any of them will do. The completion's answer is extracted by
`extract.extract_answer`. An explicit answer must be correct as a whole; in a completion without
answer block, box or `####` the most likely reading of its prose is taken, so that a base model that
has never seen the template can be measured. Arithmetic is never evaluated: where the gold is the
number 12, `3+9` is wrong. math-verify would accept it, and a model could answer by repeating the
question.
"""

from collections.abc import Mapping
from fractions import Fraction
import re

from r1jax.rewards import calls, exact_numbers, formulas, spelling
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.choice import choice_key
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import Answer, extract_answer

_NAME = re.compile(r'^[A-Za-z] *= *')


@calls.limits(at_once=16, timeout_s=3600.0)    # threads wait for workers, which limit the time
@any_accepted
def number_reward(completion: Completion, example: Mapping) -> float | None:
  """1 if the answer equals the gold number or is equivalent to the gold formula, else 0.

  A gold that is a plain number (see `exact_numbers`) is compared exactly; only then is an answer
  without tags, box or `####` read as the last number in its prose. Any other gold is compared as
  `formulas` says, which may ask math-verify in a worker process.

  Args:
    completion: the completion to judge.
    example: its `'answer'` is the gold.

  Returns:
    The reward, or None if the gold cannot be judged (see `formulas.equivalent`).

  Raises:
    ImportError: a formula must be compared and math-verify is not installed.
    RuntimeError: a formula must be compared and no worker process starts.
  """
  gold = spelling.undecorated(str(example['answer']))
  answer = extract_answer(completion.text, truncated=completion.truncated)
  number = exact_numbers.parse_number(gold)
  if number is not None:
    return _compare_numbers(number, answer)
  if not formulas.is_formula(gold):
    return None
  if answer is None:
    return 0.0
  verdict = formulas.equivalent(gold, _last_line(answer))
  return None if verdict is None else float(verdict)


@any_accepted
def gsm8k_reward(completion: Completion, example: Mapping) -> float | None:
  """1 if the answer equals GSM8K's number exactly, else 0; needs no worker process.

  The gold is a number or a whole GSM8K solution that ends in `#### number`; None for any other.
  """
  number = exact_numbers.parse_number(str(example['answer']).rpartition('####')[2])
  if number is None:
    return None
  return _compare_numbers(number, extract_answer(completion.text, truncated=completion.truncated))


@any_accepted
def exact_match_reward(completion: Completion, example: Mapping) -> float | None:
  """1 if the answer equals the gold character by character, else 0; None for an empty gold.

  Only leading and trailing white space is ignored. Without tags, box or `####` the last line is the
  answer.
  """
  gold = str(example['answer']).strip()
  if not gold:
    return None
  answer = extract_answer(completion.text, truncated=completion.truncated)
  return float(answer is not None and _last_line(answer) == gold)


def canonical_answer(text: str, *, truncated: bool = False) -> str | None:
  """A key that is equal for equal answers, for majority votes; None if there is no answer.

  A number's key is its exact value (1,234 and 1234.0 are equal), a choice's key its letters, and
  otherwise the key is the text. This is cheap and transitive, and so sometimes stricter than a
  reward: formulas are equal only if written the same way, and 0.333 differs from 1/3.

  Args:
    text: a completion's text with its tags, or a bare answer.
    truncated: whether the completion was cut at the length limit.
  """
  answer = extract_answer(text, truncated=truncated)
  if answer is None:
    return None
  number = exact_numbers.parse_number(_number_text(answer) or '')
  choice = choice_key(answer)
  if number is not None and (answer.explicit or choice is None):
    return str(number)
  return choice or ' '.join(spelling.undecorated(_last_line(answer)).split())


def _compare_numbers(gold: Fraction, answer: Answer | None) -> float:
  text = None if answer is None else _number_text(answer)
  return float(text is not None and exact_numbers.equals(gold, text))


def _number_text(answer: Answer) -> str | None:
  """The text to read as a number: an explicit answer without `x =`, else the last number."""
  if answer.explicit:
    return _NAME.sub('', spelling.undecorated(answer.text))
  return exact_numbers.last_number(answer.text)


def _last_line(answer: Answer) -> str:
  """The whole of an explicit answer, the last line of any other."""
  return answer.text if answer.explicit else answer.text.rpartition('\n')[2].strip()
