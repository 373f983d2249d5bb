"""The format reward of R1-Zero (DeepSeek-R1 report, section 2.2)."""

from collections.abc import Mapping
import re

from r1jax.rewards import extract
from r1jax.rewards.completion import Completion

_TAGS = (
    extract.THINK_OPENING, extract.THINK_CLOSING, extract.ANSWER_OPENING, extract.ANSWER_CLOSING)
_TEMPLATE = re.compile(
    r'\s?<think>(?P<reasoning>.*)</think>\s*<answer>(?P<answer>.*)</answer>\s?', re.DOTALL)


def format_reward(completion: Completion, example: Mapping, *, opened: bool = False) -> float:
  """1 for a completion of the form `<think>reasoning</think> <answer>answer</answer>`, else 0.

  Each tag stands once and in this order, only white space lies between the blocks, reasoning and
  answer are not empty, and nothing lies outside but at most one white-space character at either
  end (tokenizers put a space before a first word, models a newline after a last one). A truncated
  completion gets 0.

  Args:
    completion: the completion.
    example: not read; every reward takes one.
    opened: whether the prompt ended with `<think>`, so that the completion begins inside the
      reasoning. The opening is put back before the form is judged.
  """
  del example
  text = extract.THINK_OPENING * opened + completion.text
  if completion.truncated or any(text.count(tag) != 1 for tag in _TAGS):
    return 0.0
  match = _TEMPLATE.fullmatch(text)
  return float(bool(match and match['reasoning'].strip() and match['answer'].strip()))
