"""Control tokens, and text that spells them.

A tokenizer turns the text '<|im_end|>' into the token that ends a turn, wherever it stands: in a
chat template, where it is meant, and in a question, where it is text. Two steps tell them apart:

  1. `hide` replaces what spells a control token in a question by digits that mean nothing; the
     question is put into its template; and `reveal` puts the text back, and says where it is.
  2. `encode` encodes the whole text at once, with a copy of the tokenizer in which the control
     tokens have other names. Outside of these places they are called by the new names. So only
     these places are encoded in another way; all other tokens stay what they are.
"""
from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import json
import re
import secrets
from typing import Any

import tokenizers

Spans = Sequence[tuple[int, int]]

_NONCE = f'{secrets.randbelow(10 ** 30):030d}'    # so that no text can spell a hidden name
_HIDDEN = re.compile(_NONCE + r'(\d{6})')


class ControlTokens:
  """The control tokens of a tokenizer."""

  def __init__(self, backend: tokenizers.Tokenizer, names: Collection[str]):
    """Takes the tokenizer and the texts of its control tokens."""
    self._backend = backend
    self._names = sorted(set(names) - {''}, key=lambda name: (-len(name), name))

  @functools.cached_property
  def _spelt(self) -> re.Pattern[str]:
    return re.compile('|'.join(map(re.escape, self._names)) or r'(?!)')

  def find(self, text: str) -> list[tuple[int, int]]:
    """Where the text spells control tokens: (start, end) of each."""
    return [match.span() for match in self._spelt.finditer(text)]

  def starts(self, text: str) -> str | None:
    """The control token that a text begins with, if it does."""
    match = self._spelt.match(text)
    return match and match[0]

  def hide(self, text: str) -> str:
    """A text in which whatever spells a control token is hidden."""
    return self._spelt.sub(
        lambda match: f'{_NONCE}{self._names.index(match[0]):06d}', text)

  def reveal(self, text: str) -> tuple[str, list[tuple[int, int]]]:
    """(the text with what was hidden, where that is)."""
    parts, spans, size, end = [], [], 0, 0
    for match in _HIDDEN.finditer(text):
      name = self._names[int(match[1])]
      size += match.start() - end
      spans.append((size, size + len(name)))
      parts += [text[end:match.start()], name]
      size, end = size + len(name), match.end()
    return ''.join([*parts, text[end:]]), spans

  def encode(self, text: str, spans: Spans) -> list[int]:
    """The ids of a text, without a begin token.

    Args:
      text: any.
      spans: (start, end) of what spells control tokens but is text, in order.
    """
    encode, names = self._renamed
    parts, end = [], 0
    for start, stop in [*spans, (len(text), len(text))]:
      parts += [self._spelt.sub(lambda match: names[match[0]], text[end:start]), text[start:stop]]
      end = stop
    return encode(''.join(parts))

  @functools.cached_property
  def _renamed(self) -> tuple[Callable[[str], list[int]], Mapping[str, str]]:
    """(encodes with the control tokens under new names, the new names)."""
    names = {name: f'\ue000{_NONCE}{place:06d}\ue001' for place, name in enumerate(self._names)}
    fields = json.loads(self._backend.to_str())
    for token in fields['added_tokens']:
      token['content'] = names.get(token['content'], token['content'])
    _rename_pieces(fields['model'], names)
    fields['post_processor'] = fields['truncation'] = fields['padding'] = None
    renamed = tokenizers.Tokenizer.from_str(json.dumps(fields))
    # Ids of added tokens are given by their order, which may move them.
    ids = {renamed.token_to_id(names.get(token.content, token.content)): number
           for number, token in self._backend.get_added_tokens_decoder().items()}

    def encode(text: str) -> list[int]:
      found = renamed.encode(text, add_special_tokens=False).ids
      return [ids.get(number, number) for number in found]
    return encode, names


def _rename_pieces(model: dict[str, Any], names: Mapping[str, str]) -> None:
  """Renames the pieces of a model's vocabulary that are control tokens."""
  vocabulary = model['vocab']
  if isinstance(vocabulary, dict):
    model['vocab'] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
  else:
    model['vocab'] = [[names.get(piece, piece), score] for piece, score in vocabulary]
  if 'unk_token' in model:
    model['unk_token'] = names.get(model['unk_token'], model['unk_token'])
