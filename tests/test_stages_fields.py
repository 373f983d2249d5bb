import re

import pytest
import runs

from r1jax.prompting.templates import PromptFormat
from r1jax.stages import evaluate, fields, reject, reward_model, rl, sft


@pytest.mark.parametrize('template, prompt, message', [
    ('r1_zero', dict(system='Be brief.'), "prompt.system must be '' where template is not 'chat'"),
    ('r1_zero', dict(options=dict(thinking=False)), 'prompt.options must be {} where template is'),
    ('plain', dict(date='2026-01-01'), "prompt.date must be '2025-01-20' where template is"),
    ('chat', dict(date='20 January'), "prompt.date must be a day such as '2025-01-20', got '20 J"),
    ('chat', dict(options=dict(messages=[])), "options must name variables .* got 'messages'"),
    ('chat', {'options': {'no name': 1}}, "options must name variables .* got 'no name'"),
    ('chat', dict(options=dict(thinking=float('nan'))), 'options.thinking must be what JSON can'),
    ('chat', dict(sytem=''), 'prompt.sytem is not a field: did you mean .*prompt.system'),
])
def test_impossible_prompts_are_refused_in_every_stage(template, prompt, message):
  for settings in (rl.SETTINGS, sft.SETTINGS, reject.SETTINGS, evaluate.SETTINGS,
                   reward_model.SETTINGS):
    config = runs.merged(settings.default, dict(template=template, data=dict(name='miniature')))
    config['prompt'] = fields.PROMPT.default | prompt
    faults = ' '.join(settings.faults(config, 'config'))
    assert re.search(message, faults), faults


def test_what_decides_a_prompt_is_part_of_the_identity():
  config = evaluate.DEFAULT | dict(template='chat')
  other = config | dict(prompt=config['prompt'] | dict(options=dict(thinking=False)))
  assert evaluate.SETTINGS.computed(config) != evaluate.SETTINGS.computed(other)
  assert fields.prompt_format(other) == PromptFormat('chat', options=dict(thinking=False))
