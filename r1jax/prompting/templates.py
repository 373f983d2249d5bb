"""Prompt templates, and the ids that end a completion.

Departures from the R1-Zero report: its prompt template is reworded, not copied.
"""
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from r1jax import checks
from r1jax.errors import UserError
from r1jax.prompting import chat
from r1jax.tokenization import Tokenizer

_R1_ZERO = (
    'This is a conversation in which a User brings a problem and an Assistant solves it. The '
    'Assistant first works the problem out step by step, and only then gives the result. The '
    'working stands between <think> and </think>, the result between <answer> and </answer>, '
    'like this: <think> the working </think> <answer> the result </answer>.\n'
    'User: {question}\n'
    'Assistant:'
)

# '{question}' marks the question's place; None is the tokenizer's own chat template.
TEMPLATES: dict[str, str | None] = {
    'r1_zero': _R1_ZERO,
    'r1_zero_think': _R1_ZERO + ' <think>',
    'miniature': 'User: {question}\nAssistant:',
    'miniature_think': 'User: {question}\nAssistant: <think>',
    'chat': None,
    'plain': '{question}',
}

# A text, or the (role, content) of each message of a chat, of which the last asks.
Question = str | tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class PromptFormat:
  """How a question becomes a prompt. The fields from `system` to `date` are for 'chat' alone.

  Attributes:
    template: a name in `TEMPLATES`.
    system: a system message before every chat that has none of its own; '' for none.
    options: of the chat template, by name, besides `chat.DEFAULT_OPTIONS`.
    date: the day that a chat template sees.
    parse_control_tokens: whether what spells a control token in a question or a completion becomes
      that token; otherwise it is text.
  """
  template: str
  system: str = ''
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  date: str = chat.DATE
  parse_control_tokens: bool = False

  @property
  def text(self) -> str | None:
    """The template's text; None for 'chat'.

    Raises:
      UserError: the template is unknown.
    """
    if self.template not in TEMPLATES:
      raise UserError(f'There is no prompt template {self.template!r}: '
                      f'{checks.did_you_mean(self.template, TEMPLATES)}.')
    return TEMPLATES[self.template]


Format = PromptFormat | str    # the name of a template stands for the format with its defaults


def as_format(template: Format) -> PromptFormat:
  """A format, also by the name of its template."""
  return PromptFormat(template) if isinstance(template, str) else template


def asked(example: Mapping[str, Any]) -> Question:
  """What an example asks: its 'messages' where it has any, else its 'question'."""
  messages = example.get('messages')
  return tuple((message['role'], message['content']) for message in messages) if messages else (
      example['question'])


def question_text(question: Question) -> str:
  """The text that is asked: of a chat, its last message."""
  return question[-1][1] if isinstance(question, tuple) else question


def check_question(template: Format, question: Question, where: str) -> None:
  """Checks that a template can show a question.

  Raises:
    UserError: it is not text, or a chat that only the template 'chat' can show; `where` names it.
  """
  template = as_format(template)
  text = question_text(question)
  if not isinstance(text, str):
    raise UserError(f'{where} is {text!r}: give it a text.')
  if not isinstance(question, str) and template.text is not None:
    raise UserError(f'{where} is a chat with a system message or earlier turns, and '
                    f'template={template.template!r} shows a question alone: set '
                    "template='chat'.")


def render_prompt(template: Format, question: Question, tokenizer: Tokenizer) -> str:
  """The prompt's text: the question inserted, literally, into its template.

  Raises:
    UserError: the template is unknown, or is 'chat' and the tokenizer has none or it fails, or it
      is another one and the question is a chat.
  """
  return _render(as_format(template), question, tokenizer)[0]


def encode_prompt(template: Format, question: Question, tokenizer: Tokenizer) -> list[int]:
  """The prompt's ids; errors as for `render_prompt`.

  A begin token is added where the tokenizer's rule does so; a chat template writes its own.
  """
  template = as_format(template)
  text, spans = _render(template, question, tokenizer)
  return tokenizer.encode(text, add_special=template.text is not None, literal=spans)


def encode_completion(template: Format, completion: str, tokenizer: Tokenizer) -> list[int]:
  """The ids of a completion that follows such a prompt, ended by `end_id`."""
  template = as_format(template)
  spans = () if template.parse_control_tokens else tokenizer.control_tokens.find(completion)
  return [*tokenizer.encode(completion, literal=spans), end_id(template, tokenizer)]


def spells_control_tokens(template: Format, tokenizer: Tokenizer, *texts: Question) -> bool:
  """Whether questions or completions spell control tokens that are encoded as text."""
  parts = [part for text in texts for part in (
      [text] if isinstance(text, str) else [content for _, content in text])]
  return not as_format(template).parse_control_tokens and any(
      tokenizer.control_tokens.find(part) for part in parts)


SPELT = ('{} of {} spell control tokens of the tokenizer and are encoded as text: set '
         'prompt.parse_control_tokens=True if these tokens are meant')    # a warning


def _render(
    template: PromptFormat, question: Question, tokenizer: Tokenizer,
) -> tuple[str, list[tuple[int, int]]]:
  """(the prompt's text, where it spells control tokens that are text)."""
  tokens, text = tokenizer.control_tokens, template.text
  hide = str if template.parse_control_tokens else tokens.hide
  if text is not None:
    check_question(template, question, 'The question')
    return tokens.reveal(text.replace('{question}', hide(question_text(question))))
  messages = [('user', question)] if isinstance(question, str) else list(question)
  if template.system and messages[0][0] != 'system':
    messages.insert(0, ('system', template.system))
  return tokens.reveal(tokenizer.render_chat(
      [{'role': role, 'content': hide(content)} for role, content in messages],
      options=template.options, date=template.date))


def few_shot_question(
    template: Format, question: Question, shots: Sequence[tuple[str, str]]) -> Question:
  """A question with worked examples before it, for `render_prompt`; without any, the question.

  The templates of the miniature show them as earlier turns (User:, Assistant:), all others as plain
  text in the user's turn (Question:, Answer:).

  Args:
    template: the prompt's.
    question: the question to answer.
    shots: the (question, completion) of each worked example.

  Raises:
    UserError: the template is unknown.
  """
  text = as_format(template).text
  if not shots:
    return question
  if not isinstance(question, str):
    role, content = question[-1]
    return (*question[:-1], (role, question_text(few_shot_question(template, content, shots))))
  if text is not None and text.startswith('User: {question}\nAssistant:'):
    turns = ''.join(f'{shown}\nAssistant: {completion.strip()}\nUser: '
                    for shown, completion in shots)
    return turns + question
  return ''.join(f'Question: {shown}\nAnswer: {completion.strip()}\n\n'
                 for shown, completion in shots) + f'Question: {question}'


def opens_think(template: Format, tokenizer: Tokenizer) -> bool:
  """Whether the prompt ends with an open `<think>`, so that the completion must not open it."""
  return render_prompt(template, 'question', tokenizer).rstrip().endswith('<think>')


def stop_ids(template: Format, tokenizer: Tokenizer) -> tuple[int, ...]:
  """The ids that end a completion of this template: the tokenizer's and `end_id`."""
  return tuple(dict.fromkeys([*tokenizer.stop_ids, end_id(template, tokenizer)]))


def end_id(template: Format, tokenizer: Tokenizer) -> int:
  """The id with which completions are taught to end.

  For 'chat' it is the token that ends an assistant's turn, which the settings of a base model often
  leave out, as Qwen2.5's do; for all others, and where a turn ends with no control token, it is the
  tokenizer's `eos_id`.
  """
  template = as_format(template)
  if template.text is not None:
    return tokenizer.eos_id
  turn = tokenizer.render_chat(
      [{'role': 'user', 'content': 'question'}, {'role': 'assistant', 'content': 'the reply'}],
      add_generation_prompt=False, options=template.options, date=template.date)
  _, shown, rest = turn.rpartition('the reply')
  end = tokenizer.control_tokens.starts(rest.lstrip()) if shown else None
  return tokenizer.eos_id if end is None else tokenizer.encode(end)[0]
