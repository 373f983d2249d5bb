
import hypothesis
import hypothesis.strategies as st
import pytest
from test_tokenization import CHAT, SETTINGS, make_files, make_tokenizer

from r1jax import tokenization
from r1jax.prompting import templates


@SETTINGS
@hypothesis.given(st.text(min_size=1), st.sampled_from(sorted(templates.TEMPLATES)))
@hypothesis.example('{question} {{ 1 }} {% raw %} {0} %s \\1', 'chat')
@hypothesis.example('{question} {{ 1 }} {% raw %} {0} %s \\1', 'r1_zero')
def test_questions_are_inserted_literally(question, template):
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': CHAT})
  before, mark, after = templates.render_prompt(template, '\0', tokenizer).partition('\0')
  assert mark
  assert templates.render_prompt(template, question, tokenizer) == before + question + after


def test_template_texts():
  tokenizer = make_tokenizer(bos_rule=True)
  assert templates.render_prompt('miniature', 'q', tokenizer) == 'User: q\nAssistant:'
  assert templates.render_prompt('miniature_think', 'q', tokenizer) == (
      'User: q\nAssistant: <think>')
  assert templates.render_prompt('plain', 'q', tokenizer) == 'q'
  r1_zero = templates.render_prompt('r1_zero', 'q', tokenizer)
  assert r1_zero.endswith('\nUser: q\nAssistant:') and '<answer>' in r1_zero
  assert templates.render_prompt('r1_zero_think', 'q', tokenizer) == r1_zero + ' <think>'
  assert templates.encode_prompt('plain', 'q', tokenizer) == [256, *tokenizer.encode('q')]


def test_chat_template_brings_its_own_begin_token_and_end_of_turn():
  config = {'bos_token': '<bos>', 'eos_token': '<eos>', 'chat_template': '{{ bos_token }}' + CHAT}
  tokenizer = make_tokenizer(config=config, bos_rule=True)
  assert templates.encode_prompt('chat', 'q', tokenizer) == tokenizer.encode(
      '<bos><|user|>q<|turn|>\n<|assistant|>')
  assert templates.stop_ids('chat', tokenizer) == (257, 258)
  config['chat_template'] = CHAT
  without = make_tokenizer(config=config, bos_rule=True)
  assert templates.encode_prompt('chat', 'q', without) == without.encode(
      '<|user|>q<|turn|>\n<|assistant|>')
  assert templates.stop_ids('plain', tokenizer) == (257,)


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
  assert templates.opens_think(template, tokenizer) == opens


def test_unknown_template_names_the_nearest():
  for function in (templates.encode_prompt, templates.render_prompt):
    with pytest.raises(ValueError, match="'r1zero': did you mean 'r1_zero'"):
      function('r1zero', 'q', make_tokenizer())


def test_shots_are_turns_of_the_miniature_and_plain_text_elsewhere():
  shots = [('q1', ' a1'), ('q2', 'a2')]

  def few(template):
    return templates.few_shot_question(template, 'q {x}', shots)

  turns = 'q1\nAssistant: a1\nUser: q2\nAssistant: a2\nUser: q {x}'
  assert few('miniature') == few('miniature_think') == turns
  plain = 'Question: q1\nAnswer: a1\n\nQuestion: q2\nAnswer: a2\n\nQuestion: q {x}'
  assert few('chat') == few('r1_zero') == few('plain') == plain
  assert templates.few_shot_question('chat', 'q', ()) == 'q'
  chat = (('system', 's'), ('user', 'q {x}'))
  assert templates.few_shot_question('chat', chat, shots) == (('system', 's'), ('user', plain))


def test_the_end_of_a_turn_may_follow_white_space_or_be_no_control_token():
  silent = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': '<bos>'})
  assert templates.end_id('chat', silent) == 257
  for turn, end in ((' {{ eos_token }}', 257), ('\n<|turn|>\n', 258), ('\n\n', 257), ('', 257)):
    tokenizer = make_tokenizer(config={
        'eos_token': '<eos>', 'chat_template':
            '{% for m in messages %}{{ m.role }}: {{ m.content }}' + turn + '{% endfor %}'})
    assert templates.end_id('chat', tokenizer) == end
    assert templates.stop_ids('chat', tokenizer) == tuple(dict.fromkeys([257, end]))
