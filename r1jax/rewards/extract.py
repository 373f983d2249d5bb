r"""Extracting the final answer from a completion.

R1-Zero's template asks for `<think>...</think> <answer>...</answer>`. The rules, in order:

1. Only what stands after the last `</think>` is read, or all of the text if it has no such tag. A
   thinking that is opened there, by `<think>` or by the prompt, and never closed has no answer: a
   model that is asked to think and forgets to stop has not answered, whatever it wrote. What is
   quoted in the thinking, tags and boxes included, changes nothing.
2. If the rest has any answer tag, it must have exactly one complete answer block, which is then
   read, whatever stands around it. Several blocks, even equal ones, or an incomplete one count as
   no answer, so hedging gains nothing.
3. Within that text the answer is the content of the last `\boxed{...}` with balanced braces, or
   else what stands after the last `####` of GSM8K, on the same line. If the last box is empty or
   incomplete, or longer than 4,000 characters, there is no answer.

An answer is *explicit* if it was found in an answer block, in a box or after `####`. An explicit
answer counts as a whole. In other prose a reward may look for the most likely answer, which is how
a base model that has never seen the template can be measured.
"""

import collections
import re
from typing import NamedTuple

from r1jax.rewards import number_answers

_MAX_BOX = 4000

THINK_OPENING, THINK_CLOSING = '<think>', '</think>'
ANSWER_OPENING, ANSWER_CLOSING = '<answer>', '</answer>'
TAGS = (THINK_OPENING, THINK_CLOSING, ANSWER_OPENING, ANSWER_CLOSING)

_BOX = re.compile(r'\\(?:boxed|fbox)(?: *\{| +(?P<word>[^\s{}$\\]+))')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """An extracted answer.

  Attributes:
    text: the answer, never empty.
    explicit: whether it stood in an answer block, in a box or after `####`.
  """
  text: str
  explicit: bool


def extract_answer(
    text: str, *, truncated: bool = False, prompt_opens_think: bool = False) -> Answer | None:
  """The final answer of a completion, by the rules of this module; None if it gives none.

  Args:
    text: the completion's text.
    truncated: whether the completion was cut at the length limit. Then an answer counts only if it
      is certainly complete: in a complete block or box, or on a complete line after `####`.
    prompt_opens_think: whether the prompt ended with `<think>`, so that the completion begins
      inside the thinking.
  """
  _, closed, text = text.rpartition(THINK_CLOSING)
  if THINK_OPENING in text or (prompt_opens_think and not closed):
    return None
  tagged = ANSWER_OPENING in text or ANSWER_CLOSING in text
  if tagged:
    block = _answer_block(text)
    if block is None:
      return None
    text = block
  may_be_cut = truncated and not tagged
  marked = _last_box(text)
  if marked is None:
    marked = _after_hashes(text, may_be_cut)
  if marked is not None:
    answer = Answer(marked.strip(), explicit=True)
  elif may_be_cut:
    return None
  else:
    answer = Answer(text.strip(), explicit=tagged)
  return answer if answer.text else None


def final_summary(text: str, *, prompt_opens_think: bool = False) -> str:
  """What a completion tells its reader at the end, without the chain of thought and its tags.

  This is the content of the answer block if there is exactly one complete block; otherwise the text
  after the last `</think>`; otherwise the whole text, or nothing if a chain of thought was opened
  and never closed. Unlike `extract_answer`, it keeps everything said around the answer.

  Args:
    text: the completion's text.
    prompt_opens_think: whether the prompt ended with `<think>`.
  """
  block = _answer_block(text)
  if block is not None:
    return block.strip()
  _, closed, tail = text.rpartition(THINK_CLOSING)
  return '' if not closed and (prompt_opens_think or THINK_OPENING in text) else tail.strip()


def _answer_block(text: str) -> str | None:
  """The content of the answer block; None unless there is exactly one, and it is complete."""
  block, closing, _ = text.partition(ANSWER_OPENING)[2].partition(ANSWER_CLOSING)
  single = text.count(ANSWER_OPENING) == text.count(ANSWER_CLOSING) == 1
  return block if single and closing else None


def _last_box(text: str) -> str | None:
  """The content of the last box, empty if it does not end; None if there is no box."""
  last = collections.deque(_BOX.finditer(text), maxlen=1)
  if not last:
    return None
  box = last[0]
  if box['word']:
    return box['word']
  depth = 1
  for brace in _BRACE.finditer(text, box.end(), box.end() + _MAX_BOX):
    depth += {'{': 1, '}': -1}.get(brace[0], 0)
    if depth == 0:
      return text[box.end():brace.start()]
  return ''


def _after_hashes(text: str, may_be_cut: bool) -> str | None:
  """What stands after the last `####` on the same line; None if that is a heading.

  It is the answer if it gives a number, or if nothing follows the line.
  """
  before, hashes, rest = text.rpartition('####')
  line, newline, following = rest.partition('\n')
  if not hashes or (may_be_cut and not newline) or not line.strip():
    return None
  answers = not following.strip() or number_answers.read_answer(line.strip()) is not None
  return line if answers else None
