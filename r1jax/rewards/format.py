"""The format reward of R1-Zero (DeepSeek-R1 report, section 2.2)."""

from collections.abc import Mapping
import re

from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import TAGS, THINK_OPENING

_TEMPLATE = re.compile(
    r'\s?<think>(?P<reasoning>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s?', re.DOTALL)


def format_reward(
    completion: Completion, example: Mapping, *, prompt_opens_think: bool = False) -> float:
  """1 for a completion of the form `<think>reasoning</think> <answer>answer</answer>`, else 0.

  Each tag appears exactly once and in this order, there is only white space between the two blocks,
  and neither reasoning nor answer is empty. Outside the blocks at most one white-space character is
  allowed at either end, because tokenizers put a space before the first word and models a newline
  after the last one. A truncated completion gets 0.

  Args:
    completion: the completion to judge.
    example: not used; every reward function takes one.
    prompt_opens_think: whether the prompt ended with `<think>`, so that the completion begins
      inside the reasoning. The tag is put back before the form is judged.
  """
  del example
  text = THINK_OPENING * prompt_opens_think + completion.text
  if completion.truncated or any(text.count(tag) != 1 for tag in TAGS):
    return 0.0
  match = _TEMPLATE.fullmatch(text)
  return float(bool(match and match['reasoning'].strip() and match['answer'].strip()))
