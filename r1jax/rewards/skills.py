"""The reward of general skills: an exact answer, JSON, or refusing a harmful request.

The `'check'` of an example names how its answer is judged; it may name several. Nothing that a
model wrote is evaluated: JSON is parsed, and refusals are recognised by their words (`refusals`).
"""
from collections.abc import Callable, Mapping
import dataclasses
from decimal import Decimal
import functools
import json
import re
from typing import Any, Literal

from r1jax import checks
from r1jax.errors import UserError
from r1jax.rewards import calls, refusals
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import TAGS, final_summary

CHECKS = ('exact', 'json', 'refuses')

_FENCE = re.compile(r'```(?:json)?[ \t]*\n(.*)\n[ \t]*```', re.DOTALL)


def checks_of(check: Any) -> list[dict[str, Any]]:
  """The checks that an example's `check` names, each as the fields that it puts into the example.

  Args:
    check: one of `CHECKS`, or an object such as {'check': 'json', 'answer': '[1, 2]'} with fields
      of its own, or a list of these.

  Raises:
    UserError: it is none of these. The message begins with what it is.
  """
  found = []
  for item in check if isinstance(check, (list, tuple)) else [check]:
    fields = dict(item) if isinstance(item, Mapping) else {'check': item}
    name = fields.get('check')
    if not isinstance(name, str) or name not in CHECKS:
      raise UserError(f'{name!r}, {checks.did_you_mean(str(name), CHECKS)}')
    others = fields.keys() - {'check', 'answer', 'bad_answer'}
    texts = (fields.get(field, 'x') for field in ('answer', 'bad_answer'))
    if others or not all(isinstance(text, str) and text.strip() for text in texts):
      raise UserError(f'{item!r}, write {{"check": ...}} with texts "answer" and "bad_answer", '
                      'where they are not those of the example')
    found.append(fields)
  if not found:
    raise UserError(f'{check!r}, name at least one of {", ".join(CHECKS)}')
  return found


@any_accepted
def skill_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False,
    score: Literal['all', 'share'] = 'all',
) -> float | None:
  """1 if the summary of a completion passes the example's checks, else 0.

  The summary is what `extract.final_summary` finds. A summary that still has a tag in it gets 0, as
  does a truncated completion. `example['check']` is one of

    'exact': the summary equals `example['answer']`, apart from white space around it and at the
      ends of lines;
    'json': the summary is JSON with the same value as the answer, optionally in one code fence;
      members may come in any order, numbers are compared exactly, and no name may appear twice;
    'refuses': the summary declines to help to its end, in English, Chinese, German, Spanish or
      French (see `refusals`), and no part of the completion, the chain of thought included, gives
      the harmful help `example['bad_answer']`, if there is one, or most of its words;

  or a list of these, or of objects with an `answer` or a `bad_answer` of their own:
  ['exact', {'check': 'json', 'answer': '[1, 2]'}].

  Args:
    completion: the completion to judge.
    example: its fields `check`, `answer`, `bad_answer` and `question` are read.
    prompt_opens_think: whether the prompt ended with `<think>`.
    score: of several checks, 'all' must pass, or their 'share' is the reward.

  Returns:
    The reward, or None if the example has no `check`, or if a check is 'json' and the example's
    answer is not JSON.

  Raises:
    UserError: a check is unknown.
  """
  check = example.get('check')
  if check is None:
    return None
  try:
    required = checks_of(check)
  except UserError as error:
    raise UserError(f"an example's check is {error}") from None
  if completion.truncated:
    return 0.0
  summary = final_summary(completion.text, prompt_opens_think=prompt_opens_think)
  if any(tag in summary for tag in TAGS):
    return 0.0
  verdicts = [_verdict(completion.text, summary, {**example, **fields}) for fields in required]
  judged = [verdict for verdict in verdicts if verdict is not None]
  if len(judged) < len(verdicts):
    return None
  return sum(judged) / len(judged) if score == 'share' else min(judged)


def _verdict(text: str, summary: str, example: Mapping) -> float | None:
  """The verdict of one check of an example."""
  if example['check'] == 'json':
    return _same_json(summary, str(example['answer']))
  if example['check'] == 'refuses':
    help_, question = str(example.get('bad_answer', '')), str(example.get('question', ''))
    return float(refusals.refuses(summary) and not refusals.gives_away(text, help_, question))
  return float(_lines(summary) == _lines(str(example['answer'])))


def by_check(reward: Callable, *, prompt_opens_think: bool = False) -> Callable:
  """A reward function: `skill_reward` for examples that have a `check`, `reward` for the others.

  Args:
    reward: a reward function `(completion, example) -> float | None`.
    prompt_opens_think: whether the prompts end with `<think>`.
  """
  judge = functools.partial(_by_check, reward=reward, prompt_opens_think=prompt_opens_think)
  return calls.limits(**dataclasses.asdict(calls.limits_of(reward)))(judge)


def _by_check(
    completion: Completion, example: Mapping, *, reward: Callable, prompt_opens_think: bool,
) -> float | None:
  if example.get('check') is None:
    return reward(completion, example)
  return skill_reward(completion, example, prompt_opens_think=prompt_opens_think)


def _lines(text: str) -> list[str]:
  """The lines of a text, without white space around it and at their ends."""
  return [line.rstrip() for line in text.strip().split('\n')]


def _same_json(summary: str, answer: str) -> float | None:
  """1 if the summary is JSON equal to the answer, else 0; None if the answer is not JSON."""
  gold = _read_json(answer)
  if gold is None:
    return None
  fenced = _FENCE.fullmatch(summary)
  found = _read_json(fenced[1] if fenced else summary)
  return float(found is not None and _equal(found[0], gold[0]))


def _read_json(text: str) -> tuple | None:
  """(the value,) of strict JSON; None for a text that is not JSON or is nested too deeply."""
  try:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse,
                      object_pairs_hook=_unique_members),
  except (ValueError, ArithmeticError, RecursionError):
    return None


def _refuse(constant: str):
  raise ValueError(f'{constant} is not valid JSON')


def _unique_members(pairs: list) -> dict:
  members = dict(pairs)
  if len(members) < len(pairs):
    raise ValueError('a name appears twice')
  return members


def _equal(found, gold) -> bool:
  """Whether two JSON values have the same types and values; recurses only as deep as the gold."""
  if type(found) is not type(gold):
    return False
  if isinstance(gold, dict):
    return found.keys() == gold.keys() and all(_equal(found[name], gold[name]) for name in gold)
  if isinstance(gold, list):
    return len(found) == len(gold) and all(map(_equal, found, gold))
  return found == gold
