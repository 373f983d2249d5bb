import re
from typing import Literal

import pytest
import runs

from r1jax.prompting.templates import PromptFormat
from r1jax.rewards import parameters, suite
from r1jax.rewards.completion import Completion
from r1jax.stages import evaluate, fields, reject, reward_model, rl, sft
from r1jax.stages.config import describe


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


# Settings of rewards.


def _odd(settings):
  if settings['size'] % 2 == 0:
    yield f'size must be odd, got {settings["size"]}'


@parameters.checked(_odd)
def sized(completion, example, *, size: int = 1, word: Literal['a', 'b'] = 'a',
          prompt_opens_think: bool = False):
  """Judges by a size.

  Args:
    size: of what.
  """
  return 10.0 * prompt_opens_think + size


@pytest.fixture
def with_sized(monkeypatch):
  monkeypatch.setitem(suite.REWARDS, 'sized', sized)


def judged_by_sized(settings, given):
  return runs.merged(settings.default, dict(
      data=dict(name='miniature'), **(dict(rewards={'sized': 1.0}) if 'rewards' in settings.fields
                                      else dict(correctness_reward='sized')),
      reward_settings=given))


@pytest.mark.parametrize('given, message', [
    (dict(sized=dict(size=3, word='b')), ''),
    (dict(sized=dict(size='3')), r'config.reward_settings.sized.size must be an int such as 1, got '
                                 r"'3' \(a str\)"),
    (dict(sized=dict(siez=3)), 'config.reward_settings.sized.siez is not a field: did you mean '
                               r'config.reward_settings.sized.size\?'),
    (dict(sized=dict(prompt_opens_think=True)), 'sized.prompt_opens_think is not a field'),
    (dict(sized=dict(word='c')), "config.reward_settings.sized.word must be one of 'a', 'b', got"),
    (dict(sized=dict(size=2)), 'config.reward_settings.sized.size must be odd, got 2'),
    (dict(sized=3), 'config.reward_settings.sized must hold the fields size, word, got 3'),
    (dict(sizde={}), r"config.reward_settings.sizde is not one of .*: did you mean 'sized'\?"),
    (dict(format={}), 'config.reward_settings.format must be left out where (rewards|'
                      "correctness_reward) does not name 'format', got {}"),
    (3, 'config.reward_settings must hold names, each with its settings, got 3')])
def test_settings_of_rewards_are_checked_in_every_stage_that_judges(with_sized, given, message):
  for settings in (rl.SETTINGS, reject.SETTINGS, evaluate.SETTINGS):
    faults = [*settings.faults(judged_by_sized(settings, given), 'config')]
    assert len(faults) == bool(message) and re.search(message, ' '.join(faults)), faults


def test_settings_of_rewards_are_checked_for_general_prompts_too(with_sized):
  general = dict(prompts_per_batch=1, data=dict(name='miniature'), rewards={'sized': 1.0})
  for given, message in ((dict(sized=dict(size=0)), 'general_prompts.reward_settings.sized.size'),
                         (dict(number={}), 'general_prompts.reward_settings.number must be left')):
    config = runs.merged(judged_by_sized(rl.SETTINGS, {}), dict(
        general_prompts=general | dict(reward_settings=given)))
    faults = [*rl.SETTINGS.faults(config, 'config')]
    assert len(faults) == 1 and faults[0].startswith(f'config.{message}'), faults


def test_settings_of_rewards_are_part_of_the_identity_and_are_listed(with_sized):
  """One that is given with its default value is known as that."""
  def computed(given):
    return evaluate.SETTINGS.computed(judged_by_sized(evaluate.SETTINGS, given))
  assert computed(dict(sized=dict(size=3))) != computed({})
  assert computed(dict(sized=dict(size=1))) == computed(dict(sized=dict(word='a')))
  lines = describe(rl.SETTINGS, judged_by_sized(rl.SETTINGS, dict(sized=dict(size=3))), 'config')
  place = lines.index("config.reward_settings = {'sized': {'size': 3}} (default {})")
  assert lines[place + 1].endswith('; of sized: size, word')
  assert lines[place + 2:place + 4] == [
      '  config.reward_settings.sized.size = 3 (default 1)', '      of what']


def test_settings_reach_the_rewards_of_a_suite(with_sized):
  functions = suite.named_rewards({'sized': 2.0}, settings={'sized': dict(size=3)},
                                  prompt_opens_think=True)
  with suite.RewardSuite(functions) as rewards:
    assert rewards.submit([Completion('', 0, False)], [{}]).collect().total.tolist() == [26.0]
