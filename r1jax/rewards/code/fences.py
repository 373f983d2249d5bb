"""The program in a completion: the last fenced block after the thinking."""
import re

from r1jax.rewards.extract import ANSWER_CLOSING, ANSWER_OPENING, THINK_CLOSING, THINK_OPENING

_LANGUAGES = ('', 'python', 'python3', 'py', 'py3')
# A fence may stand in a list or a quotation, and directly after the tag of an answer.
_OPENING = re.compile(
    r'(?P<margin>[ \t>]*(?:(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)?)'
    rf'(?:{ANSWER_OPENING}[ \t]*)?(?P<fence>`{{3,}}|~{{3,}})(?P<info>.*)')
_CLOSING = re.compile(
    rf'(?P<margin>[ \t>]*)(?P<fence>`{{3,}}|~{{3,}})[ \t]*(?:{ANSWER_CLOSING}.*)?')
_DEEPER = 3    # columns by which a closing fence may be indented more than the opening one


def extract_program(
    text: str, *, truncated: bool = False, prompt_opens_think: bool = False) -> str | None:
  """The program of a completion; None if it has none.

  It is the content of the last fenced block after the last `</think>` that is labelled `python`,
  `py` or not at all; an answer block may hold it. Blocks are found as in CommonMark: a fence is at
  least three backticks or tildes, a block ends at a fence of the same kind that is at least as
  long, and a block that is not closed goes on to the end of the text. If the completion was cut
  there, it has no program.

  Args:
    text: the completion's text.
    truncated: whether the completion was cut at the length limit.
    prompt_opens_think: whether the prompt ended with `<think>`.
  """
  _, closed, after = text.rpartition(THINK_CLOSING)
  if not closed and (prompt_opens_think or THINK_OPENING in text):
    return None
  program: str | None = None
  opening: re.Match | None = None    # of the block that is being read
  block: list[str] = []
  for line in after.replace('\r\n', '\n').split('\n'):
    if opening is None:
      opening, block = _opened(line), []
    elif _closes(line, opening):
      program = _content(opening, block, program)
      opening = None
    else:
      block.append(line)
  if opening is not None:
    program = _content(opening, [] if truncated else block, program)
  return program if program and program.strip() else None


def _opened(line: str) -> re.Match | None:
  """The opening fence that a line is, if any."""
  found = _OPENING.fullmatch(line)
  return None if found is None or (found['fence'][0] == '`' and '`' in found['info']) else found


def _closes(line: str, opening: re.Match) -> bool:
  found = _CLOSING.fullmatch(line)
  return (found is not None and found['fence'].startswith(opening['fence'])
          and len(found['margin']) <= len(opening['margin']) + _DEEPER)


def _content(opening: re.Match, block: list[str], earlier: str | None) -> str | None:
  """The text of a block without its margin; `earlier` for one in another language."""
  if (opening['info'].split() or [''])[0].lower() not in _LANGUAGES:
    return earlier
  marks = ' \t>' if '>' in opening['margin'] else ' \t'
  first = next(filter(str.strip, block), '')
  width = min(len(opening['margin']), len(first) - len(first.lstrip(marks)))
  return '\n'.join(
      line[min(width, len(line) - len(line.lstrip(marks))):] for line in block)
