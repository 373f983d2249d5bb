"""From completions to what a judge is asked about them, and from its verdicts to rewards."""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from r1jax.rewards.completion import Completion
from r1jax.rewards.extract import final_summary
from r1jax.rewards.judging import question as questions
from r1jax.rewards.judging import rubric as rubrics
from r1jax.rewards.judging import verdict as verdicts
from r1jax.rewards.judging.question import JudgeQuestion
from r1jax.rewards.judging.rubric import Criterion

CRITERION = ('The answer is correct. Where there is a reference answer, it says the same as that '
             'one; its form and its wording do not matter.')


class Reply(NamedTuple):
  """One vote of a judge: what it wrote, and whether that was cut. None: it did not answer."""
  text: str | None
  truncated: bool = False
  opened_think: bool = False


class Case(NamedTuple):
  """What is asked about one completion.

  Attributes:
    criteria: by which it is judged; empty where it is not.
    questions: one for each; empty where the score is known.
    score: where nothing needs to be asked.
  """
  criteria: tuple[Criterion, ...] = ()
  questions: tuple[JudgeQuestion, ...] = ()
  score: float | None = None


@dataclasses.dataclass(frozen=True)
class Judge:
  """How a judge judges; who replies is another matter.

  Each criterion is asked by itself, so that no verdict depends on another, and a reply has exactly
  one.

  Attributes:
    criterion: by which answers are judged; '' for none.
    rubric: criteria for all answers, instead of `criterion`.
    own_rubrics: whether the rubric of an example replaces both.
    template: of what it reads, see `question.TEMPLATE`.
    scale: of its verdicts, a name in `verdict.SCALES`.
    combine_votes: 'mean' or 'majority', where it is asked several times.
    objective: examples that name another one are not judged; '' judges all.
    shows_thinking: whether it sees the chain of thought, too.
    shows_reference: whether it sees the example's own answer.
    max_characters: of an answer that it sees.
  """
  criterion: str = CRITERION
  rubric: tuple[Criterion, ...] = ()
  own_rubrics: bool = True
  template: str = questions.TEMPLATE
  scale: str = 'yes_no'
  combine_votes: str = 'mean'
  objective: str = ''
  shows_thinking: bool = False
  shows_reference: bool = True
  max_characters: int = 8_000

  def case(
      self, completion: Completion, example: Mapping[str, Any], *, prompt_opens_think: bool = False,
  ) -> Case:
    """What is asked about a completion.

    A completion without an answer scores 0 unasked. One whose example has another objective, or no
    criterion, is not judged.

    Args:
      completion: as the policy wrote it.
      example: with 'question' or 'messages', and perhaps 'answer', 'answers' and 'rubric'.
      prompt_opens_think: whether the policy's prompt ended with `<think>`.
    """
    criteria = self._criteria(example)
    if not criteria or (self.objective and example.get('objective') not in (None, self.objective)):
      return Case()
    answer = final_summary(completion.text, prompt_opens_think=prompt_opens_think)
    if questions.is_blank(answer):
      return Case(score=0.0)
    reference = questions.reference_text(example) if self.shows_reference else ''
    texts = [('question', questions.asked_text(example)),
             ('answer', completion.text if self.shows_thinking else answer)]
    texts += [('reference', reference)] if reference else []
    return Case(criteria, tuple(
        JudgeQuestion(self.template, (*texts, ('criterion', criterion.text)), self.scale)
        for criterion in criteria))

  def _criteria(self, example: Mapping[str, Any]) -> tuple[Criterion, ...]:
    own = example.get('rubric') if self.own_rubrics else None
    if own is not None:
      return rubrics.read_rubric(own, 'rubric')
    return self.rubric or ((Criterion(self.criterion),) if self.criterion else ())

  def score(self, case: Case, replies: Mapping[JudgeQuestion, Sequence[Reply]]) -> float | None:
    """The reward of a completion, from 0 to 1; None if a criterion was not judged.

    Args:
      case: of the completion.
      replies: all votes of each question that was asked.
    """
    if not case.questions:
      return case.score
    return rubrics.score(case.criteria, [
        verdicts.combine([self.read(reply) for reply in replies.get(question, ())],
                         self.combine_votes) for question in case.questions])

  def read(self, reply: Reply) -> float | None:
    """The verdict of a reply, see `verdict.read_verdict`."""
    return verdicts.read_verdict(reply.text, self.scale, truncated=reply.truncated,
                                 opened_think=reply.opened_think)


def distinct(cases: Sequence[Case]) -> list[JudgeQuestion]:
  """The questions of all cases, each once, in their order."""
  return list(dict.fromkeys(question for case in cases for question in case.questions))


def rewards(
    judge: Judge, cases: Sequence[Case], replies: Mapping[JudgeQuestion, Sequence[Reply]],
) -> np.ndarray:
  """[N]: the rewards of N completions, NaN for None; arguments as for `Judge.score`."""
  return np.array([judge.score(case, replies) for case in cases], float)


def counters(
    name: str, judge: Judge, scores: np.ndarray,
    replies: Mapping[JudgeQuestion, Sequence[Reply]],
) -> dict[str, int]:
  """What is counted of a batch: completions not judged, questions asked, replies without a verdict.

  Args:
    name: of the component.
    judge: the judge.
    scores: [N], its rewards.
    replies: all votes of each question.
  """
  votes = [reply for votes in replies.values() for reply in votes]
  return {f'unjudged/{name}': int(np.isnan(scores).sum()), f'asked/{name}': len(replies),
          f'unread/{name}': sum(judge.read(reply) is None for reply in votes)}
