"""Tokenizers of GGUF files: the ids of transformers, special tokens, and what is refused."""
import random

import pytest
import transformers

from r1jax.errors import UserError
from r1jax.tokenization import tokenizer_from_gguf

gguf = pytest.importorskip('gguf', reason='GGUF files are written with the gguf package')

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256)),
         *map(chr, range(256, 324))]
MERGES = ['Ġ t', 'h e', 'Ġt he', '1 2', 'i n', 'Ġ Ġ', 'l l', "' ll", 'Ċ Ċ', 'è ª', '12 3', 'A B']
TEXTS = ['in the AB12345 they\'ll', ' a\n\n  b\t c', '日本 Überß ñ 1,234.5!? :)', "I'LL iN", '',
         '/\n/ x<|end|>y <think>', '  the']
SPM = ['▁', 'a', 'b', 'c', 'ab', '▁a', '▁ab', 'bc', 'abc', '▁abc', '▁▁', '\n']


def byte_level():
  """(tokens, types) with '<|end|>' as the end and '<think>' as a plain token."""
  tokens = [*BYTES, *(merge.replace(' ', '') for merge in MERGES), '<|end|>', '<think>']
  types = [NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED]
  return tokens, types


def sentencepiece():
  tokens = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256)), *SPM]
  return tokens, [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(SPM)]


def write(folder, model, pre, tokens, types, *, architecture='llama', **fields):
  writer = gguf.GGUFWriter(folder / 'a.gguf', architecture)
  writer.add_tokenizer_model(model)
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types(types)
  if model == 'gpt2':
    writer.add_token_merges(MERGES)
  else:
    writer.add_token_scores([float(-i) for i in range(len(tokens))])
  for name, value in fields.items():
    getattr(writer, f'add_{name}')(value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return str(folder / 'a.gguf')


def theirs(folder):
  pytest.importorskip('torch', reason='transformers reads GGUF files with torch')
  return transformers.AutoTokenizer.from_pretrained(folder, gguf_file='a.gguf')


@pytest.mark.parametrize('pre', ['qwen2', 'llama-bpe', 'tekken', 'gpt-2', 'deepseek-r1-qwen'])
def test_byte_level_ids_are_those_of_transformers(pre, tmp_path):
  tokens, types = byte_level()
  path = write(tmp_path, 'gpt2', pre, tokens, types, eos_token_id=len(tokens) - 2)
  ours, reference = tokenizer_from_gguf(path), theirs(tmp_path)
  rng = random.Random(0)
  drawn = [''.join(rng.choices("aAB12 \n\t'lthe.,!日ñ", k=20)) for _ in range(200)]
  for text in [*TEXTS, *drawn]:
    assert ours.encode(text) == reference.encode(text, add_special_tokens=False), text
    assert ours.decode(ours.encode(text), skip_special=False) == text
  assert ours.stop_ids == (len(tokens) - 2,)
  assert ours.encode('<think>') == [len(tokens) - 1]


def test_deepseeks_text_is_split_as_its_own_tokenizer_splits_it(tmp_path):
  tokens, types = byte_level()
  path = write(tmp_path, 'gpt2', 'deepseek-v3', tokens, types, eos_token_id=len(tokens) - 2)
  backend = tokenizer_from_gguf(path)._fast.backend_tokenizer
  pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(
      "12345 it's (ok)中文ab\n\n  x")]
  assert pieces == ['123', '45', 'Ġit', "'s", 'Ġ(', 'ok', ')', 'ä¸ŃæĸĩÂ'[:6], 'ab', 'ĊĊ', 'Ġ',
                    'Ġx']


@pytest.mark.parametrize('architecture, prefix', [('llama', True), ('gemma3', False)])
def test_sentencepiece_ids_are_those_of_transformers(architecture, prefix, tmp_path):
  path = write(tmp_path, 'llama', 'default', *sentencepiece(), architecture=architecture,
               bos_token_id=1, eos_token_id=2, unk_token_id=0, add_space_prefix=prefix)
  ours, reference = tokenizer_from_gguf(path), theirs(tmp_path)
  # With a prefix, transformers adds none where there is a space; SentencePiece and llama.cpp do.
  for text in ('abc', 'a abc  ab\nbca', *([] if prefix else [' abé', 'x<s>abc</s>']), ''):
    assert ours.encode(text, add_special=True) == reference.encode(text), text
    assert ours.decode(ours.encode(text), skip_special=False) == text
  assert ours.bos_id == 1 and ours.eos_id == 2


def test_the_begin_token_is_added_where_the_file_says_so(tmp_path):
  for flag in (True, False):
    path = write(tmp_path, 'llama', 'default', *sentencepiece(), bos_token_id=1, eos_token_id=2,
                 add_bos_token=flag)
    assert (tokenizer_from_gguf(path).encode('a', add_special=True)[0] == 1) == flag


def test_tokens_that_end_a_turn_stop_and_those_that_pad_a_vocabulary_are_dropped(tmp_path):
  tokens, types = byte_level()
  path = write(
      tmp_path, 'gpt2', 'qwen2', [*tokens, '<|im_end|>', '[PAD1]', '[PAD2]'],
      [*types, CONTROL, UNUSED, UNUSED], eos_token_id=len(tokens) - 2)
  tokenizer = tokenizer_from_gguf(path)
  assert tokenizer.stop_ids == (len(tokens) - 2, len(tokens))
  assert tokenizer.vocab_size == len(tokens) + 1


@pytest.mark.parametrize('change, words', [
    (dict(model='bert'), "of the kind .'bert', 'qwen2'., and only 'llama' and 'gpt2' with gpt-2"),
    (dict(pre='mpt'), "of the kind .'gpt2', 'mpt'.*name a Hugging Face folder"),
    (dict(eos_token_id=100_000), 'eos_token_id=100000, but .* tokens'),
    (dict(types=[1, 1]), 'tokens and 2 types'),
    (dict(tokens=['a', 'a'], types=[1, 1]), 'or one twice'),
    (dict(tokens=['a', 'b'], types=[1, 1], eos_token_id=1), 'cannot be made'),
    (dict(chat_template=None), 'names no token that ends a text'),
])
def test_what_cannot_be_read_is_named(change, words, tmp_path):
  tokens, types = byte_level()
  fields = dict(model='gpt2', pre='qwen2', tokens=tokens, types=types,
                eos_token_id=len(tokens) - 2) | change
  if 'chat_template' in change:
    del fields['eos_token_id'], fields['chat_template']
  with pytest.raises(UserError, match=words):
    tokenizer_from_gguf(write(tmp_path, **fields))
