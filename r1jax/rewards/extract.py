r"""The final answer of a completion.

R1-Zero's template asks for `<think>...</think> <answer>...</answer>`. The reading, in order:

1. Any answer tag in the text: exactly one complete block counts. Several, or a torn one, are no
   answer, so that nothing is gained by hedging.
2. Otherwise what follows the last `</think>`, else the whole text.
3. Within either, `\boxed{...}` with balanced braces, else GSM8K's last `#### number`. Boxes of
   different contents, or a torn one, are no answer.

An answer is *explicit* when it stood in an answer block, in a box or after `####`. Of an explicit
answer all counts; in other prose a reward may look for the likeliest reading, which is how a base
model that knows no template is measured.
"""

import re
from typing import NamedTuple

from r1jax.rewards import exact_numbers

THINK_OPENING, THINK_CLOSING = '<think>', '</think>'
ANSWER_OPENING, ANSWER_CLOSING = '<answer>', '</answer>'

_BOX = re.compile(r'\\boxed *\{')
_BRACE = re.compile(r'\\.|[{}]', re.DOTALL)


class Answer(NamedTuple):
  """An extracted answer: its text, never empty, and whether it is explicit (see above)."""
  text: str
  explicit: bool


def extract_answer(text: str, *, truncated: bool = False) -> Answer | None:
  """The final answer of a completion's text, None where it gives none.

  Args:
    text: the completion's text; a `<think>` that the prompt ended with may be missing from it.
    truncated: whether it was cut. Then only an answer that is known to be whole counts: in a
      complete block or box, or on a complete line after `####`.
  """
  tagged = ANSWER_OPENING in text or ANSWER_CLOSING in text
  if tagged:
    text = _answer_block(text)
    if text is None:
      return None
  else:
    text = text.rpartition(THINK_CLOSING)[2]
  boxes = _boxes(text)
  if boxes is None or len(boxes) > 1:
    return None
  cut = truncated and not tagged
  marked = boxes.pop() if boxes else _after_hashes(text, cut)
  if marked is None:
    if cut:
      return None
    answer = Answer(text.strip(), explicit=tagged)
  else:
    answer = Answer(marked, explicit=True)
  return answer if answer.text else None


def final_summary(text: str, *, opened: bool = False) -> str:
  """What a completion tells its reader in the end, without the chain of thought and its tags.

  It is the content of the answer block, where there is exactly one complete one; else what follows
  the last `</think>`; else the whole text, unless a chain of thought was begun and never closed:
  then nothing. Unlike `extract_answer` it keeps all that is said around the answer.

  Args:
    text: the completion's text.
    opened: whether the prompt ended with `<think>`.
  """
  block = _answer_block(text)
  if block is not None:
    return block.strip()
  _, closed, tail = text.rpartition(THINK_CLOSING)
  return '' if not closed and (opened or THINK_OPENING in text) else tail.strip()


def _answer_block(text: str) -> str | None:
  """The content of the answer block; None unless there is exactly one, and a complete one."""
  block, closing, _ = text.partition(ANSWER_OPENING)[2].partition(ANSWER_CLOSING)
  alone = text.count(ANSWER_OPENING) == text.count(ANSWER_CLOSING) == 1
  return block if alone and closing else None


def _boxes(text: str) -> set[str] | None:
  """The different contents of all outermost boxes; None where one is torn."""
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


def _after_hashes(text: str, cut: bool) -> str | None:
  """What follows the last `####` on its line, where it is a number: else it is a heading."""
  line, newline, _ = text.rpartition('####')[2].partition('\n')
  if '####' not in text or (cut and not newline) or exact_numbers.parse_number(line) is None:
    return None
  return line.strip()
