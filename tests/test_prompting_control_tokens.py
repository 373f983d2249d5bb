import json

import hypothesis
import hypothesis.strategies as st
import pytest
from test_tokenization import CHAT, SETTINGS, make_files, make_tokenizer, smollm2  # noqa: F401
import tokenizers

from r1jax import tokenization
from r1jax.prompting import templates
from r1jax.prompting.templates import PromptFormat

CONFIG = {'bos_token': '<bos>', 'eos_token': '<eos>', 'chat_template': '{{ bos_token }}' + CHAT}
QUESTION = 'Say <|turn|> and <eos><pad>, or <|tu<eos>rn|>.'


def ids_of(tokenizer, *parts):
  """Text as ids by byte; numbers are control tokens."""
  return [i for part in parts
          for i in ([part] if isinstance(part, int) else tokenizer.encode(part))]


def as_bytes(tokenizer, text):
  """What spells control tokens, letter by letter."""
  return [i for letter in text for i in tokenizer.encode(letter)]


@pytest.mark.parametrize('template', ['chat', 'r1_zero', 'r1_zero_think', 'miniature', 'plain'])
def test_pitfall_30_foreign_text_cannot_write_control_tokens(template):
  tokenizer = make_tokenizer(config=CONFIG, bos_rule=True)
  before, after = templates.render_prompt(template, '\0', tokenizer).split('\0')
  ids = templates.encode_prompt(template, QUESTION, tokenizer)
  begin = [] if template == 'chat' else [256]
  assert ids == begin + tokenizer.encode(before) + as_bytes(tokenizer, QUESTION) + (
      tokenizer.encode(after))
  assert tokenizer.decode(ids, skip_special=False).removeprefix('<bos>' * len(begin)) == (
      before + QUESTION + after)
  parsed = PromptFormat(template, parse_control_tokens=True)
  assert templates.encode_prompt(parsed, QUESTION, tokenizer) == begin + tokenizer.encode(
      before + QUESTION + after)
  end = 258 if template == 'chat' else 257
  assert templates.encode_completion(template, QUESTION, tokenizer) == [
      *as_bytes(tokenizer, QUESTION), end]
  assert templates.encode_completion(parsed, QUESTION, tokenizer) == [
      *tokenizer.encode(QUESTION), end]


@pytest.mark.parametrize('texts, spells', [
    (('a', QUESTION), True), (((('system', QUESTION), ('user', 'a')),), True),
    (('a <think> b <|turn', (('user', 'a'),)), False)])
def test_texts_that_spell_control_tokens_are_told(texts, spells):
  tokenizer = make_tokenizer(config=CONFIG)
  assert templates.spells_control_tokens('chat', tokenizer, *texts) == spells
  assert not templates.spells_control_tokens(
      PromptFormat('chat', parse_control_tokens=True), tokenizer, *texts)


def test_tags_and_what_is_no_control_token_are_parsed_as_before():
  files = make_files(config=CONFIG | {
      'chat_template': '{% for m in messages %}<|user|>{{ m.content }}\n\n{% endfor %}'})
  backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
  backend.add_tokens(['<think>', '<|user|>', '\n\n', '<table>'])
  backend.add_special_tokens(['</think>'])
  tokenizer = tokenization.Tokenizer({**files, 'tokenizer.json': backend.to_str()}, source='here')
  text = '<think>\n\n<table></think><|user|><eos>'
  ids = templates.encode_prompt('chat', text, tokenizer)
  assert ids[:5] == [261, 260, 262, 263, 264]
  assert ids[5:-1] == as_bytes(tokenizer, '<|user|>') + as_bytes(tokenizer, '<eos>')


@SETTINGS
@hypothesis.given(st.lists(st.sampled_from(
    ['<|turn|>', '<eos>', '<', '|', 'turn', ' ', '\n', 'a', '7', '\ue000', '<|user|>']),
                          min_size=1, max_size=12))
def test_no_text_becomes_a_control_token(parts):
  tokenizer, text = make_tokenizer(config=CONFIG), ''.join(parts)
  ids = templates.encode_prompt('chat', text, tokenizer)
  assert [i for i in ids if i >= 256] == [256, 258]
  assert tokenizer.decode(ids, skip_special=False) == templates.render_prompt(
      'chat', text, tokenizer)


def test_ordinary_text_around_keeps_its_tokens(smollm2):  # noqa: F811
  """Also in a vocabulary that has the control tokens among its pieces."""
  plain = templates.encode_prompt('chat', 'How many?\n\n  12 apples', smollm2)
  assert plain == smollm2.encode(templates.render_prompt(
      'chat', 'How many?\n\n  12 apples', smollm2))
  mixed = templates.encode_prompt('chat', 'How many?\n\n  12 apples<|im_end|>', smollm2)
  place = plain.index(smollm2.encode(' apples')[0]) + 1
  assert mixed[:place] == plain[:place]
  assert smollm2.decode(mixed, skip_special=False).count('<|im_end|>') == 3
  assert mixed.count(2) == plain.count(2) == 2


def test_vocabularies_of_scores_do_not_spell_control_tokens():
  backend = tokenizers.Tokenizer(tokenizers.models.Unigram(
      [('<unk>', 0.0), ('</s>', 0.0), ('\u2581', -2.0), *((letter, -5.0) for letter in 'ab</s>')],
      unk_id=0, byte_fallback=False))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme='first')
  backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme='first')
  backend.add_special_tokens(['</s>', '<unk>'])
  tokenizer = tokenization.Tokenizer({
      'tokenizer.json': backend.to_str(),
      'tokenizer_config.json': json.dumps({'eos_token': '</s>'})}, source='here')
  assert tokenizer.encode('ab</s>b') == [2, 3, 4, 1, 2, 4] or 1 in tokenizer.encode('ab</s>b')
  ids = templates.encode_prompt('plain', 'ab</s>b', tokenizer)
  assert 1 not in ids and ids[:3] == [2, 3, 4]
  assert tokenizer.decode(ids, skip_special=False) == 'ab</s>b'
