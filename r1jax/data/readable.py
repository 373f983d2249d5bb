r"""The readable pattern of the cold start, and rewriting samples into it.

The pattern of the DeepSeek-R1 report (section 2.3.1) is
`|special_token|<reasoning>|special_token|<summary>`. Here it is

    <think>reasoning</think> <answer>summary with the result in \boxed{}</answer>

so that the templates, the format reward and the accuracy rewards of R1-Zero apply to it unchanged:
the answer is the content of the box inside the answer block. A cold start draws samples from
R1-Zero, keeps those that pass the filters (`data.curation`), rewrites them (`rewrite`), adds the
user's own data in the same pattern (`data.jsonl.reasoning_source`, `readable_completion`), and
fine-tunes the base model on the result.
"""
import dataclasses
import re

from r1jax.data.curation import Sample, well_formed
from r1jax.rewards import number_answers, spelling
from r1jax.rewards.accuracy import canonical_answer
from r1jax.rewards.extract import (
  ANSWER_CLOSING,
  ANSWER_OPENING,
  THINK_CLOSING,
  THINK_OPENING,
  extract_answer,
)
from r1jax.rewards.language import identify

SUMMARIES = {'en': 'The answer is {}.', 'zh': '答案是{}。', 'de': 'Die Antwort ist {}.',
             'es': 'La respuesta es {}.', 'fr': 'La réponse est {}.'}


def readable_completion(
    reasoning: str, summary: str, *, prompt: str = '', prompt_opens_think: bool = False) -> str:
  r"""Reasoning and summary in the readable pattern.

  Args:
    reasoning: the reasoning without tags; runs of blank lines are reduced to one.
    summary: what the reader is told at the end, with a single answer in `\boxed{}`.
    prompt: the prompt that the completion will follow. A space is put between them if the prompt
      does not end with white space.
    prompt_opens_think: whether the prompt ends with `<think>`.
  """
  reasoning = re.sub(r'\n\s*\n', '\n\n', reasoning.strip())
  between = ' ' if prompt and not prompt[-1].isspace() else ''
  return (f'{"" if prompt_opens_think else between + THINK_OPENING}{reasoning}{THINK_CLOSING} '
          f'{ANSWER_OPENING}{summary.strip()}{ANSWER_CLOSING}')


def rewrite(sample: Sample) -> Sample | None:
  """The sample in the readable pattern, with its answer in a sentence in the reasoning's language.

  White space before the completion is kept.

  Returns:
    The rewritten sample, or None if it has no reasoning, if no answer can be found in it, or if the
    answer of the rewritten sample would be another one.
  """
  answer = extract_answer(sample.text, truncated=sample.truncated)
  if answer is None or not sample.reasoning:
    return None
  number = number_answers.read(*answer)
  short = answer.text if answer.explicit else ''
  short = number.written if number else spelling.undecorated(short).lstrip('$')
  if not short:
    return None
  spoken = identify(sample.reasoning) or identify(sample.question) or 'en'
  summary = SUMMARIES.get(spoken, SUMMARIES['en']).replace('{}', f'\\boxed{{{short}}}')
  completion = readable_completion(
      sample.reasoning, summary, prompt_opens_think=sample.prompt_opens_think)
  if not sample.prompt_opens_think and sample.completion[:1].isspace():
    completion = sample.completion[0] + completion
  rewritten = dataclasses.replace(sample, completion=completion)
  same_answer = canonical_answer(rewritten.text) == canonical_answer(
      sample.text, truncated=sample.truncated)
  return rewritten if same_answer and well_formed()(rewritten) is None else None
