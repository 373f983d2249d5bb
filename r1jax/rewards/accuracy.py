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

from r1jax.rewards import formulas, number_answers, spelling
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.choice import choice_key
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import Answer, extract_answer


@any_accepted
def number_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float | None:
  """1 if the answer equals the gold number or is equivalent to the gold formula, else 0.

  A gold that is a number (see `exact_numbers`), with no more than a currency, percent or degree
  sign, is compared exactly with the number that the answer gives, whatever words and units stand
  around it (see `number_answers`). Only then is an answer without tags, box or `####` read as the
  last number in its prose. Any other gold is compared as `formulas` says, which may ask math-verify
  in a worker process.

  Args:
    completion: the completion to judge.
    example: its `'answer'` is the gold.
    prompt_opens_think: whether the prompt ended with `<think>`: then there is no answer before
      `</think>`.

  Returns:
    The reward, or None if the gold cannot be judged (see `formulas.equivalent`).

  Raises:
    ImportError: a formula must be compared and math-verify is not installed.
    RuntimeError: a formula must be compared and no worker process starts.
  """
  answer = _extracted(completion, prompt_opens_think)
  gold = spelling.undecorated(str(example['answer']))
  number = number_answers.read_gold(gold)
  if number is not None:
    return _compare_numbers(number, answer)
  if not formulas.is_formula(gold):
    return None
  if answer is None:
    return 0.0
  text = answer.text if answer.explicit else formulas.stated(answer.text)
  verdict = formulas.equivalent(gold, text)
  return None if verdict is None else float(verdict)


@any_accepted
def gsm8k_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float | None:
  """1 if the answer equals GSM8K's number exactly, else 0; needs no worker process.

  The gold is a number or a whole GSM8K solution that ends in `#### number`; None for any other.
  Numbers are read and compared as by `number_reward`.
  """
  number = number_answers.read_gold(str(example['answer']).rpartition('####')[2])
  return None if number is None else _compare_numbers(
      number, _extracted(completion, prompt_opens_think))


@any_accepted
def exact_match_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float | None:
  """1 if the answer equals the gold character by character, else 0; None for an empty gold.

  Only leading and trailing white space is ignored. Without tags, box or `####` the last line is the
  answer.
  """
  gold = str(example['answer']).strip()
  if not gold:
    return None
  answer = _extracted(completion, prompt_opens_think)
  return float(answer is not None and _last_line(answer) == gold)


def canonical_answer(
    text: str, *, truncated: bool = False, prompt_opens_think: bool = False) -> str | None:
  r"""A key that is equal for equal answers, for majority votes; None if there is no answer.

  A number's key is its exact value, however it is written (`1,234`, `1234.0` and `\boxed{1234
  dollars}` are equal), a choice's key its letters, and otherwise the key is the text. This is cheap
  and transitive, and so sometimes stricter than a reward: formulas are equal only if written the
  same way, and 0.333 differs from 1/3.

  Args:
    text: a completion's text with its tags, or a bare answer.
    truncated: whether the completion was cut at the length limit.
    prompt_opens_think: whether the prompt ended with `<think>`.
  """
  answer = extract_answer(text, truncated=truncated, prompt_opens_think=prompt_opens_think)
  if answer is None:
    return None
  number, choice = number_answers.read(*answer), choice_key(answer)
  if number is not None and (answer.explicit or choice is None):
    return str(number.value)
  return choice or ' '.join(spelling.undecorated(_last_line(answer)).split())


def _extracted(completion: Completion, prompt_opens_think: bool) -> Answer | None:
  return extract_answer(
      completion.text, truncated=completion.truncated, prompt_opens_think=prompt_opens_think)


def _compare_numbers(gold: number_answers.Reading, answer: Answer | None) -> float:
  number = None if answer is None else number_answers.read(*answer)
  return float(number is not None and number_answers.equals(gold, number))


def _last_line(answer: Answer) -> str:
  """The whole of an explicit answer, the last line of any other."""
  return answer.text if answer.explicit else answer.text.rpartition('\n')[2].strip()
