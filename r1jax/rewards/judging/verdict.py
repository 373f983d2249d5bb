"""Verdicts, read strictly: one line of a fixed form, the last one, claimed once."""
from collections import Counter
from collections.abc import Mapping, Sequence
import re
from typing import NamedTuple

from r1jax.rewards.extract import THINK_CLOSING, THINK_OPENING

_MARKS = str.maketrans('', '', '*_`')    # Markdown around a verdict
_LONGEST_LINE = 80                       # characters of the line of a verdict
_CLAIM = re.compile(r'verdict\s?[:：]', re.IGNORECASE)


class Scale(NamedTuple):
  """The values of a verdict.

  Attributes:
    asked: what a judge is told to write after 'Verdict: '.
    values: from what it writes, in lower case, to a number from 0 to 1.
  """
  asked: str
  values: Mapping[str, float]


SCALES = {
    'yes_no': Scale("'Verdict: yes' if the criterion is met, or 'Verdict: no' if it is not",
                    {'no': 0.0, 'yes': 1.0}),
    'one_to_ten': Scale("'Verdict: N', where N is a whole number from 1 (the criterion is not met "
                        'at all) to 10 (it is met in full)',
                        {str(grade): (grade - 1) / 9 for grade in range(1, 11)}),
}
VOTES = ('mean', 'majority')


def read_verdict(
    reply: str | None, scale: str, *, truncated: bool = False, opened_think: bool = False,
) -> float | None:
  """The verdict of a judge's reply, from 0 to 1; None if it does not give exactly one.

  The last line that is not blank must be 'Verdict: ' and a value of the scale, in any case, perhaps
  in Markdown's bold and with a full stop; and nowhere else may the reply say 'verdict:'. What a
  judge thinks before `</think>` does not count.

  Args:
    reply: the text; None where there is none.
    scale: a name in `SCALES`.
    truncated: whether the reply was cut: its last line may not be whole.
    opened_think: whether the judge's prompt ended with `<think>`.
  """
  if reply is None or truncated:
    return None
  _, thought, reply = reply.rpartition(THINK_CLOSING)
  if not thought and (opened_think or reply.lstrip().startswith(THINK_OPENING)):
    return None
  line = reply.rstrip().rpartition('\n')[2]
  if len(line) > _LONGEST_LINE:
    return None
  said = line.translate(_MARKS).strip().lower().removesuffix('.')
  name, _, value = said.replace('：', ':').partition(':')
  if name.rstrip() != 'verdict' or _num_claims(reply) != 1:
    return None
  return SCALES[scale].values.get(value.strip())


def _num_claims(reply: str) -> int:
  return sum(1 for _ in _CLAIM.finditer(reply.translate(_MARKS)))


def combine(verdicts: Sequence[float | None], votes: str) -> float | None:
  """One verdict of several votes; None if none of them could be read.

  Args:
    verdicts: of each vote.
    votes: 'mean', or 'majority' for the most frequent one; of those that tie, their mean.
  """
  readable = [verdict for verdict in verdicts if verdict is not None]
  if not readable:
    return None
  if votes == 'majority':
    counts = Counter(readable)
    most = max(counts.values())
    readable = sorted(verdict for verdict, count in counts.items() if count == most)
  return sum(readable) / len(readable)
