"""The tokenizer inside a GGUF file, converted to the files of a Hugging Face tokenizer.

Two kinds are read: byte-level BPE ('gpt2'), whose text is split first in one of the ways in
`_SPLITS`, and SentencePiece's BPE ('llama'), whose merges follow from the order of its tokens.

Departure from llama.cpp: Qwen's text is normalised to NFC, as by Qwen's own tokenizer.
"""
from collections.abc import Mapping, Sequence
import functools
import json
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from r1jax.errors import UserError
from r1jax.runtime import storage
from r1jax.runtime.gguf_file import GgufFile

# Types of tokens.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
_LLAMA3 = (_WORDS + r'\p{N}{1,3}|' + _REST,)
_QWEN2 = (_WORDS + r'\p{N}|' + _REST,)
_UPPER, _LOWER = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]', r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'
_TEKKEN = (
    rf'[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|'
    + _REST.replace(r'[\r\n]*|', r'[\r\n/]*|', 1),)
_DEEPSEEK3 = (
    r'\p{N}{1,3}', '[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+',
    r'[!"#$%&' r"'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r' ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')
# tokenizer.ggml.pre -> the patterns that split text, one after the other. None stands for GPT-2's,
# () for single digits and then GPT-2's.
_SPLITS: dict[str, tuple[str, ...] | None] = {
    'gpt-2': None, 'smollm': (),
    'llama-bpe': _LLAMA3, 'llama3': _LLAMA3, 'llama-v3': _LLAMA3, 'smaug-bpe': _LLAMA3,
    'falcon3': _LLAMA3, 'qwen2': _QWEN2, 'deepseek-r1-qwen': _QWEN2, 'tekken': _TEKKEN,
    'deepseek-v3': _DEEPSEEK3}
_WHOLE_WORDS = ('llama-bpe', 'llama3', 'llama-v3', 'tekken')   # a word that is a token stays whole
# As in llama.cpp, these end a completion besides the file's own end token.
_ENDS = ('<|eot_id|>', '<|eom_id|>', '<|im_end|>', '<|endoftext|>', '<|end_of_text|>',
         '<end_of_turn>', '<\uff5cend\u2581of\u2581sentence\uff5c>')
_SPACE = '\u2581'


def files(path: str) -> dict[str, str]:
  """The text of each file of the tokenizer, by its name.

  Args:
    path: a GGUF file.

  Raises:
    FileNotFoundError: there is no such file.
    UserError: it is not a GGUF file, or its tokenizer is of another kind.
  """
  location = storage.Path(path)
  if not location.exists():
    raise FileNotFoundError(f'There is no GGUF file {path}: correct the path.')
  info = location.fs.info(str(location))
  return dict(_files(str(location), info.get('size'), str(info.get('mtime'))))


@functools.lru_cache(maxsize=2)   # a large vocabulary takes seconds, and each stage asks for it
def _files(path: str, size: int, modified: str) -> Mapping[str, str]:
  del size, modified   # another file has others
  with GgufFile(path) as file:
    read = _Reader(path, file.metadata)
  backend = _byte_level(read) if read.model == 'gpt2' else _sentencepiece(read)
  text = {name: read.text_of(read.token_id(name)) for name in ('bos', 'eos', 'unknown', 'padding')}
  eos, bos = read.token_id('eos'), read.token_id('bos')
  add_bos = read.flag('add_bos_token', read.model == 'llama' or read.pre in _WHOLE_WORDS[:3])
  if add_bos and bos is not None:
    token = read.tokens[bos]
    backend.post_processor = processors.TemplateProcessing(
        single=[token, '$A'], pair=[token, '$A', '$B'], special_tokens=[(token, bos)])
  config = {
      'tokenizer_class': 'PreTrainedTokenizerFast',
      'clean_up_tokenization_spaces': False,
      'model_max_length': read.context_length,
      'chat_template': read.get('tokenizer.chat_template', str),
      'add_bos_token': bool(add_bos and bos is not None),
      'bos_token': text['bos'], 'eos_token': text['eos'],
      'unk_token': text['unknown'], 'pad_token': text['padding'] or text['eos']}
  ends = [i for i, token in enumerate(read.tokens)
          if token in _ENDS and read.types[i] in (_CONTROL, _USER_DEFINED)]
  stops = [i for i in dict.fromkeys([eos, *ends]) if i is not None]
  if not stops:
    raise UserError(f'{path} names no token that ends a text (tokenizer.ggml.eos_token_id): use '
                    'the Hugging Face folder.')
  generation = {
      'bos_token_id': bos, 'eos_token_id': stops, 'pad_token_id': read.token_id('padding')}
  return {
      'tokenizer.json': backend.to_str(),
      'tokenizer_config.json': json.dumps({k: v for k, v in config.items() if v is not None},
                                          indent=2),
      'generation_config.json': json.dumps({k: v for k, v in generation.items() if v is not None},
                                           indent=2)}


class _Reader:
  """The fields of a tokenizer, checked."""

  def __init__(self, path: str, metadata: Mapping[str, Any]):
    self._path, self._metadata = path, metadata
    self.model: Any = metadata.get('tokenizer.ggml.model')
    self.pre: Any = metadata.get('tokenizer.ggml.pre')
    if self.model not in ('gpt2', 'llama') or (
        self.model == 'gpt2' and str(self.pre) not in _SPLITS):
      raise UserError(
          f'The tokenizer of {path} is of the kind {str((self.model, self.pre))[:200]}, and only '
          f'\'llama\' and \'gpt2\' with {", ".join(_SPLITS)} are read from GGUF: name a Hugging '
          'Face folder instead.')
    self.tokens: list[str] = self.list_of('tokens', str)
    if not self.tokens or len(set(self.tokens)) < len(self.tokens):
      raise UserError(f'{path} has no tokenizer.ggml.tokens, or one twice: download it again.')
    self.types: list[int] = self.list_of('token_type', int) or [1] * len(self.tokens)
    if len(self.types) != len(self.tokens):
      raise UserError(f'{path} has {len(self.tokens)} tokens and {len(self.types)} types of them: '
                      'download it again.')
    used = max((i for i, kind in enumerate(self.types) if kind != _UNUSED), default=-1) + 1
    del self.tokens[used:], self.types[used:]   # what fills a padded vocabulary
    architecture = metadata.get('general.architecture')
    self.context_length = self.get(f'{architecture}.context_length', int)

  def get(self, name: str, kind: type) -> Any:
    """A field; None where it is absent.

    Raises:
      UserError: it is of another type.
    """
    value = self._metadata.get(name)
    if value is not None and type(value) is not kind:
      raise UserError(f'{self._path} has {name}={value!r:.100}, which is of a wrong type: '
                      'download it again.')
    return value

  def list_of(self, name: str, kind: type) -> list:
    """A field that is a list; empty where it is absent."""
    value = self.get(f'tokenizer.ggml.{name}', list) or []
    if not all(type(item) is kind for item in value):
      raise UserError(f'{self._path} has tokenizer.ggml.{name} with items of a wrong type: '
                      'download it again.')
    return list(value)

  def flag(self, name: str, default: bool) -> bool:
    """A field that is true or false."""
    value = self.get(f'tokenizer.ggml.{name}', bool)
    return default if value is None else value

  def token_id(self, name: str) -> int | None:
    """The id of a special token."""
    value = self.get(f'tokenizer.ggml.{name}_token_id', int)
    if value is not None and not 0 <= value < len(self.tokens):
      raise UserError(f'{self._path} has tokenizer.ggml.{name}_token_id={value}, but '
                      f'{len(self.tokens)} tokens: download it again.')
    return value

  def text_of(self, token_id: int | None) -> str | None:
    """The text of a token."""
    return None if token_id is None else self.tokens[token_id]

  def add_whole(self, backend: tokenizers.Tokenizer) -> None:
    """Makes control tokens special, and keeps user-defined ones whole."""
    vocab = backend.get_vocab(with_added_tokens=False)
    for kind in (_CONTROL, _USER_DEFINED):
      tokens = [AddedToken(token, normalized=False, special=kind == _CONTROL)
                for token, type_ in zip(self.tokens, self.types)
                if type_ == kind and token in vocab]
      (backend.add_special_tokens if kind == _CONTROL else backend.add_tokens)(tokens)

  def bpe(self, tokens: Sequence[str], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    """The model of these tokens and merges."""
    try:
      vocab = {token: i for i, token in enumerate(tokens)}
      return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:   # the library raises nothing narrower
      raise UserError(f'The tokenizer of {self._path} cannot be made ({error}): download it again.'
                      ) from None


def _byte_level(read: _Reader) -> tokenizers.Tokenizer:
  """Byte-level BPE on text that is split into words, digits and the rest."""
  merges = [tuple(merge.split(' ', 1)) for merge in read.list_of('merges', str)]
  backend = tokenizers.Tokenizer(read.bpe(
      read.tokens, merges, ignore_merges=read.pre in _WHOLE_WORDS))
  patterns = _SPLITS[read.pre]
  steps: list[Any] = [pre_tokenizers.Split(Regex(p), 'isolated') for p in patterns or ()]
  if patterns == ():
    steps.append(pre_tokenizers.Digits(individual_digits=True))
  steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns))
  backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
  if read.pre == 'qwen2':
    backend.normalizer = normalizers.NFC()
  backend.decoder = decoders.ByteLevel()
  read.add_whole(backend)
  return backend


def _sentencepiece(read: _Reader) -> tokenizers.Tokenizer:
  """SentencePiece's BPE: spaces are written as a letter, and unknown characters as their bytes."""
  # Gemma's files write tokens of several spaces as spaces.
  tokens = [_SPACE * len(token) if len(token) > 1 and not token.strip(' ') else token
            for token in read.tokens]
  merges = [tuple(merge.split(' ', 1)) for merge in read.list_of('merges', str)]
  unknown = read.types.index(_UNKNOWN) if _UNKNOWN in read.types else read.token_id('unknown')
  backend = tokenizers.Tokenizer(read.bpe(
      tokens, merges or _merges(tokens), unk_token=read.text_of(unknown), fuse_unk=True,
      byte_fallback=True))
  spaced = normalizers.Replace(' ', _SPACE)
  steps: list[Any] = [decoders.Replace(_SPACE, ' '), decoders.ByteFallback(), decoders.Fuse()]
  if read.flag('add_space_prefix', True):
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaced])
    steps.append(decoders.Strip(' ', 1, 0))
  else:
    backend.normalizer = spaced
  backend.decoder = decoders.Sequence(steps)
  read.add_whole(backend)
  return backend


def _merges(tokens: Sequence[str]) -> list[tuple[str, str]]:
  """All pairs of tokens that make a token: earlier tokens first, then longer left parts."""
  known = set(tokens)
  return [(token[:at], token[at:]) for token in tokens for at in range(len(token) - 1, 0, -1)
          if token[:at] in known and token[at:] in known]
