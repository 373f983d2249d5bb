import pytest
from test_tokenization import CHAT, make_tokenizer
import transformers

from r1jax.prompting import chat, templates


@pytest.mark.parametrize('text, message', [
    (None, 'has no chat template'),
    ('{% for %}', 'fails'),
    ('{{ raise_exception("no system") }}', 'fails .no system'),
    ('{{ messages.append(1) }}', 'fails'),
    ('{{ "\udcff" }}', 'writes what is not UTF-8'),
    (3, 'chat_template that is not a text but .3.'),
    ([{'name': 'default', 'template': []}], 'chat_template that is not a text'),
    ([3, {'name': 'tools'}], 'has no chat template'),
    ('{{ messages.__class__.__base__.__subclasses__() }}', 'fails'),
])
def test_failing_and_escaping_chat_templates_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': text})
    templates.render_prompt('chat', 'q', tokenizer)


# Templates with the constructs of published ones, by the family that uses them.
FAMILIES = {
    'offers': """{{ bos_token }}{{ eos_token }}{{ mask_token }}{{ dict(a="é") | tojson }}
{{- messages | tojson(indent=1) }}{% set s = namespace(n=0) %}
{% for m in messages %}{% set s.n = s.n + 1 %}{% break %}{% endfor %}{{ s.n }}""",
    'qwen2.5': """{%- if tools %}never{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {{- '<|turn|>system\n' + messages[0]['content'] + '<|turn|>\n' }}
{%- else %}
    {{- '<|turn|>system\nBe helpful.<|turn|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or
           (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|turn|>' + message.role + '\n' + message.content + '<|turn|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\n' }}{%- endif %}""",
    'qwen3': """{%- set ns = namespace(last=messages|length - 1, multi=true) %}
{%- for message in messages[::-1] %}
    {%- if ns.multi and message.role == "user" and message.content is string %}
        {%- set ns.multi = false %}{%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}{%- set thought = '' %}
    {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last and thought %}{{- '<think>' + thought.strip('\\n') }}{%- endif %}
    {{- '<|turn|>' + message.role + '\\n' + content + '<|turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    'deepseek-v3.1': """{% if not add_generation_prompt is defined %}
{% set add_generation_prompt = false %}{% endif %}
{% if not thinking is defined %}{% set thinking = false %}{% endif %}
{% set ns = namespace(system='', is_first=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
{%- set ns.system = ns.system + message['content'] %}{%- endif %}{%- endfor %}
{{ bos_token }}{{ ns.system }}{%- for message in messages %}{%- if message['role'] == 'user' %}
{{'<|User|>' + message['content']}}{%- elif message['role'] == 'assistant' %}
{{'<|Assistant|></think>' + message['content'] + eos_token}}{%- endif %}{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] == 'user' %}{{'<|Assistant|>'}}
{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{% endif %}""",
    'llama-3': """{{- bos_token }}
{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y")[:0] %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|head|>system\n" + date_string + "\n" + system + "<|turn|>" }}
{%- for message in messages %}
{{- '<|head|>' + message['role'] + '\n\n' + message['content'] | trim + '<|turn|>' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|head|>assistant\n\n' }}{%- endif %}""",
    'gemma': """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start>' + role + '\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}{{ 'parts' }}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<|turn|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start>model\n'}}{%- endif -%}""",
    'mistral': """{%- if messages[0]["role"] == "system" %}
{%- set system = messages[0]["content"] %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{{- bos_token }}{%- for message in rest %}{%- if message["role"] == "user" %}
{%- if loop.last and system is defined %}{{- "[INST] " + system + "\n\n" + message["content"] }}
{%- else %}{{- "[INST] " + message["content"] }}{%- endif %}{{- "[/INST]" }}
{%- else %}{{- " " + message["content"]|trim + eos_token }}{%- endif %}{%- endfor %}""",
    'smollm3': """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}
{%- endif -%}{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{%- set custom = messages[0].content.replace("/no_think", "").rstrip() if
        messages[0].role == "system" else "" -%}
<|turn|>system
{{ mode }} {{ custom }}
{% for message in messages %}{%- if message.role == "assistant" -%}
{% generation %}<|turn|>assistant
{{ message.content.lstrip("\n") }}<|turn|>{% endgeneration %}
{%- elif message.role == "user" -%}{% macro turn(role) %}<|turn|>{{ role }}{% endmacro -%}
{{ turn("user") }} {{ message.content }}{%- continue -%}{%- endif -%}{% endfor %}
{%- if add_generation_prompt %}<|turn|>assistant
{% if not enable_thinking %}<think>

</think>
{% endif %}{% endif %}""",
}
CHATS = [
    [('user', '<é> {{ 1 }} ')],
    [('system', 'Be brief.'), ('user', ' <think>why</think>? ')],
    [('user', 'a'), ('assistant', '<think>b</think>\n\nc'), ('user', 'd')],
]


@pytest.mark.parametrize('family', FAMILIES)
def test_chat_templates_are_rendered_as_by_transformers(family, tmp_path):
  config = {'bos_token': '<bos>', 'eos_token': '<eos>', 'mask_token': '<pad>',
            'chat_template': FAMILIES[family]}
  tokenizer = make_tokenizer(config=config)
  tokenizer.save(tmp_path)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
  for pairs in CHATS:
    messages = [{'role': role, 'content': content} for role, content in pairs]
    for options in ({}, {'enable_thinking': False}, {'thinking': False}):
      if set(options) - set(family_options(family)):
        continue
      for prompted in (True, False):
        assert tokenizer.render_chat(
            messages, add_generation_prompt=prompted, options=options) == (
                theirs.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=prompted,
                    **chat.DEFAULT_OPTIONS | options))


def family_options(family):
  return [name for name in chat.DEFAULT_OPTIONS if f' {name} ' in FAMILIES[family]]


def test_thinking_is_on_unless_an_option_says_otherwise():
  for family, name, opened, closed in (
      ('deepseek-v3.1', 'thinking', '<think>', '</think>'),
      ('qwen3', 'enable_thinking', 'assistant\n', '</think>\n\n')):
    tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': FAMILIES[family]})
    on, off = templates.PromptFormat('chat'), templates.PromptFormat('chat', options={name: False})
    assert templates.render_prompt(on, 'q', tokenizer).endswith(opened)
    assert templates.render_prompt(off, 'q', tokenizer).endswith(closed)
    assert templates.opens_think(on, tokenizer) == (family == 'deepseek-v3.1')
    assert not templates.opens_think(off, tokenizer)


def test_a_template_sees_a_day_that_does_not_change():
  tokenizer = make_tokenizer(config={
      'eos_token': '<eos>', 'chat_template': '{{ strftime_now("%d %B %Y") }}'})
  assert templates.render_prompt('chat', 'q', tokenizer) == '20 January 2025'
  dated = templates.PromptFormat('chat', date='2026-03-01')
  assert templates.render_prompt(dated, 'q', tokenizer) == '01 March 2026'


def test_options_and_system_messages_that_a_template_ignores_are_refused():
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': CHAT})
  with pytest.raises(ValueError, match="not use the option 'enable_thinkin' of prompt.options"):
    templates.render_prompt(
        templates.PromptFormat('chat', options={'enable_thinkin': False}), 'q', tokenizer)
  systemless = make_tokenizer(config={
      'eos_token': '<eos>', 'chat_template': '{{ messages[-1].content }}'})
  with pytest.raises(ValueError, match='does not show the system message'):
    templates.render_prompt(templates.PromptFormat('chat', system='Brief!'), 'q', systemless)


LOOP = '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'


@pytest.mark.parametrize('text, message', [
    (LOOP, 'of here fails .it takes more than 0.2 s: it may loop forever'),
    ('{{ 10 ** 999999999 }}', 'it takes more than'),
    ('{{ "a" * 10 ** 10 }}', 'bytes of memory'),
    ('{{ "%10000000000d" % 1 }}', 'here fails'),
    ('{% set s = namespace(t="abcdefgh") %}{% for i in range(28) %}{% set s.t = s.t ~ s.t %}'
     '{% endfor %}{{ s.t }}', 'it takes more than'),
    ('{% for a in range(99999) %}{{ "a" * 99 }}{% endfor %}', 'writes more than 1,0.* characters'),
    ('{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}', 'here fails'),
    ('{{ raise_exception("\x1b[2J\n" ~ "a" * 999) }}', r'fails \( \[2J a{195}\.\.\.\)'),
])
def test_templates_that_take_too_much_are_refused(text, message, monkeypatch):
  monkeypatch.setattr(chat, '_SECONDS', 0.2)
  tokenizer = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': text})
  with pytest.raises(ValueError, match=message):
    tokenizer.render_chat([{'role': 'user', 'content': 'q'}])
  whole = make_tokenizer(config={'eos_token': '<eos>', 'chat_template': CHAT})
  assert whole.render_chat([{'role': 'user', 'content': 'q'}]).startswith('<|user|>q')
