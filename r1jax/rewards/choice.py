"""The accuracy reward of multiple choice: the letter that an answer chooses."""

from collections.abc import Mapping
import re

from r1jax.rewards import spelling
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import Answer, extract_answer

_LETTER = re.compile(r'[*(\[]*([A-Za-z])[*)\].:]*')
_LETTER_AND_OPTION = re.compile(r'[*(\[]*([A-Z])[*)\].:]+\s+(.+)', re.DOTALL)
_SECOND_LETTER = re.compile(
    r"(?:^|\b(?:or|and|not)\s|[,;/&]\s*)[*(\[]*[A-Z](?![\w'.]|\s[a-z])"
    r"|(?<![\w.'])[A-Z][)\].:,*]+(?!\w)")
_STATED_LETTER = re.compile(
    r"(?:\b(?i:answer|option|choice)(?i:\s+is)?:?\s*[*(\[]*|\()([A-Z])(?![\w'])"
    r'(?!(?<=[AI])\s[a-z])')


@any_accepted
def choice_reward(completion: Completion, example: Mapping) -> float | None:
  """1 if the answer is the gold's letter, else 0; None if the gold is not a single choice."""
  gold = choice_letter(str(example['answer']))
  if gold is None:
    return None
  answer = extract_answer(completion.text, truncated=completion.truncated)
  return float(answer is not None and chosen_letter(answer) == gold)


def choice_letter(text: str) -> str | None:
  """The letter of an answer that makes one choice (`B`, `(b)`, `**B**`, `B. a dog`), upper-case.

  The text of the option may follow a marked letter, but must not name another letter. None for any
  other text, such as `B. or C`.
  """
  text = spelling.undecorated(text)
  letter = _LETTER.fullmatch(text)
  if letter is None:
    letter = _LETTER_AND_OPTION.fullmatch(text)
    if letter is None or _SECOND_LETTER.search(letter[2]):
      return None
  return letter[1].upper()


def chosen_letter(answer: Answer) -> str | None:
  """The letter that the answer chooses: its own, or the last that its prose states."""
  line = answer.text if answer.explicit else answer.text.rpartition('\n')[2].strip()
  letter = choice_letter(line)
  if letter is None and not answer.explicit:
    stated = _STATED_LETTER.findall(answer.text)
    letter = stated[-1] if stated else None
  return letter
