r"""Extracting the final answer from a completion.

R1-Zero's template asks for `<think>...</think> <answer>...</answer>`. The rules, in order:

1. If the text has any answer tag, it must have exactly one complete answer block, which is then
   read. Several blocks, or an incomplete one, count as no answer, so hedging gains nothing.
2. Otherwise the text after the last `</think>` is read, or all of it if there is no such tag.
3. Within that text the answer is the content of `\boxed{...}` with balanced braces, or else GSM8K's
   last `#### number`. Boxes with different contents, or an incomplete box, count as no answer.

An answer is *explicit* if it was found in an answer block, in a box or after `####`. An explicit
answer counts as a whole. In other prose a reward may look for the most likely answer, which is how
a base model that has never seen the template can be measured.
"""

import re
from typing import NamedTuple

from r1jax.rewards import exact_numbers

THINK_OPENING, THINK_CLOSING = '<think>', '</think>'
ANSWER_OPENING, ANSWER_CLOSING = '<answer>', '</answer>'
TAGS = (THINK_OPENING, THINK_CLOSING, ANSWER_OPENING, ANSWER_CLOSING)

_BOX = re.compile(r'\\boxed *\{')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """An extracted answer.

  Attributes:
    text: the answer, never empty.
    explicit: whether it stood in an answer block, in a box or after `####`.
  """
  text: str
  explicit: bool


def extract_answer(text: str, *, truncated: bool = False) -> Answer | None:
  """The final answer of a completion, by the rules of this module; None if it gives none.

  Args:
    text: the completion's text. If the prompt ended with `<think>`, the text may lack that tag.
    truncated: whether the completion was cut at the length limit. Then an answer counts only if it
      is certainly complete: in a complete block or box, or on a complete line after `####`.
  """
  tagged = ANSWER_OPENING in text or ANSWER_CLOSING in text
  if tagged:
    block = _answer_block(text)
    if block is None:
      return None
    text = block
  else:
    text = text.rpartition(THINK_CLOSING)[2]
  boxes = _boxes(text)
  if boxes is None or len(boxes) > 1:
    return None
  may_be_cut = truncated and not tagged
  marked = boxes.pop() if boxes else _after_hashes(text, may_be_cut)
  if marked is None:
    if may_be_cut:
      return None
    answer = Answer(text.strip(), explicit=tagged)
  else:
    answer = Answer(marked, explicit=True)
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


def _boxes(text: str) -> set[str] | None:
  """The distinct contents of all outermost boxes; None if a box is not closed."""
  contents = set()
  box = _BOX.search(text)
  while box:
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
      depth += {'{': 1, '}': -1}.get(brace[0], 0)
      if depth == 0:
        break
    if depth:
      return None
    contents.add(text[box.end():brace.start()].strip())
    box = _BOX.search(text, brace.end())
  return contents


def _after_hashes(text: str, may_be_cut: bool) -> str | None:
  """The number after the last `####`, on the same line; None if there is none (a heading)."""
  line, newline, _ = text.rpartition('####')[2].partition('\n')
  if '####' not in text or (may_be_cut and not newline):
    return None
  return line.strip() if exact_numbers.parse_number(line) is not None else None
