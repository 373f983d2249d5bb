"""Format rewards: R1-Zero's (DeepSeek-R1 report, section 2.2), and thinking with a plain answer."""

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
  blocks = _reasoning_and_rest(completion, prompt_opens_think)
  if blocks is None:
    return 0.0
  rest = blocks[1].lstrip()
  if not rest.startswith(ANSWER_OPENING) or not rest.endswith(ANSWER_CLOSING):
    return 0.0
  return float(_is_shown_without_tags(rest[len(ANSWER_OPENING):-len(ANSWER_CLOSING)]))


def think_only_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float:
  """1 for a completion of the form `<think>reasoning</think> answer`, without answer tags, else 0.

  This is the form of R1's own answers. All else is as in `format_reward`.

  Args:
    completion: the completion to judge.
    example: not used; every reward function takes one.
    prompt_opens_think: whether the prompt ended with `<think>`.
  """
  del example
  blocks = _reasoning_and_rest(completion, prompt_opens_think)
  return float(blocks is not None and _is_shown_without_tags(blocks[1]))


def _reasoning_and_rest(
    completion: Completion, prompt_opens_think: bool) -> tuple[str, str] | None:
  """(the reasoning of a completion, what follows it); None without proper reasoning."""
  text = THINK_OPENING * prompt_opens_think + completion.text
  if completion.truncated or text.count(THINK_CLOSING) != 1:
    return None
  reasoning, _, rest = _without_one_space(text).partition(THINK_CLOSING)
  if not reasoning.startswith(THINK_OPENING):
    return None
  reasoning = reasoning[len(THINK_OPENING):]
  quoted = len(_QUOTED_OPENING.findall(reasoning.lstrip()))
  if is_blank(reasoning) or quoted < reasoning.count(THINK_OPENING):
    return None
  return reasoning, rest


def _is_shown_without_tags(answer: str) -> bool:
  return not is_blank(answer) and not any(tag in answer for tag in TAGS)


def _without_one_space(text: str) -> str:
  """`text` without one white-space character at its start and one at its end."""
  return text[text[:1].isspace():len(text) - text[-1:].isspace()]
