"""The format reward of R1-Zero (DeepSeek-R1 report, section 2.2)."""

from collections.abc import Mapping
import re

from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import ANSWER_CLOSING, ANSWER_OPENING, TAGS, THINK_CLOSING, THINK_OPENING
from r1jax.rewards.invisible import is_blank

_QUOTED_OPENING = re.compile(rf'(?<=[^\w\n]){THINK_OPENING}')


def format_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float:
  """1 for a completion of the form `<think>reasoning</think> <answer>answer</answer>`, else 0.

  There is one `</think>`. The reasoning before it may quote the other tags ("I must put it in
  <answer> tags"), which changes nothing; `<think>` counts as quoted within a line, after a space or
  a mark. After the reasoning there is one answer block without any tag in it, and nothing else but
  white space between the two. Both have something that a reader sees: white space, characters of no
  width and other invisible ones are nothing. Outside the blocks at most one white-space character
  is allowed at either end, because tokenizers put a space before the first word and models a
  newline after the last one. A truncated completion gets 0.

  Args:
    completion: the completion to judge.
    example: not used; every reward function takes one.
    prompt_opens_think: whether the prompt ended with `<think>`, so that the completion begins
      inside the reasoning. The tag is put back before the form is judged.
  """
  del example
  text = THINK_OPENING * prompt_opens_think + completion.text
  if completion.truncated or text.count(THINK_CLOSING) != 1:
    return 0.0
  reasoning, _, rest = _without_one_space(text).partition(THINK_CLOSING)
  rest = rest.lstrip()
  if not reasoning.startswith(THINK_OPENING) or not rest.startswith(ANSWER_OPENING):
    return 0.0
  if not rest.endswith(ANSWER_CLOSING) or len(rest) < len(ANSWER_OPENING + ANSWER_CLOSING):
    return 0.0
  reasoning = reasoning[len(THINK_OPENING):]
  answer = rest[len(ANSWER_OPENING):-len(ANSWER_CLOSING)]
  if any(tag in answer for tag in TAGS) or is_blank(reasoning) or is_blank(answer):
    return 0.0
  quoted = len(_QUOTED_OPENING.findall(reasoning.lstrip()))
  return float(quoted == reasoning.count(THINK_OPENING))


def _without_one_space(text: str) -> str:
  """`text` without one white-space character at its start and one at its end."""
  return text[text[:1].isspace():len(text) - text[-1:].isspace()]
