"""The settings of reward functions: what their keyword-only parameters say."""
from collections.abc import Mapping
import functools
from typing import Literal

import pytest

from r1jax.errors import UserError
from r1jax.rewards import parameters
from r1jax.rewards.accepted import any_accepted
from r1jax.rewards.calls import limits
from r1jax.rewards.parameters import Parameter
from r1jax.rewards.suite import REWARDS


def _faults(settings):
  if settings['most'] < settings['least']:
    yield f'most must be at least least={settings["least"]}, got {settings["most"]}'


@limits(at_once=2)
@parameters.checked(_faults)
@any_accepted
def picky(completion, example: Mapping, *, least: int = 1, most: int = 5, share: float = 0.5,
          score: Literal['all', 'share'] = 'all', language: str | None = None,
          names: tuple[str, ...] = (), prompt_opens_think: bool = False) -> float:
  """One of many parameters.

  Args:
    completion: is judged.
    least: words at least. No more is said.
    share: of words,
      in two lines.

  Returns:
    A number: no parameter.
  """
  return float(prompt_opens_think) + least + most


def test_keyword_only_parameters_are_settings_with_types_choices_and_meanings():
  assert parameters.settings_of(picky) == {
      'least': Parameter(1, int, (), 'words at least'),
      'most': Parameter(5, int, (), 'a setting'),
      'share': Parameter(0.5, float, (), 'of words, in two lines'),
      'score': Parameter('all', str, ('all', 'share'), 'a setting'),
      'language': Parameter(None, str, (), 'a setting'),
      'names': Parameter((), tuple, (), 'a setting')}
  assert list(parameters.faults_of(picky)({'least': 3, 'most': 2})) == [
      'most must be at least least=3, got 2']


def test_what_a_partial_has_set_is_no_setting_any_more():
  partial = functools.partial(functools.partial(picky, least=2), most=4)
  assert list(parameters.settings_of(partial)) == ['share', 'score', 'language', 'names']
  assert [*parameters.faults_of(partial)({'least': 2, 'most': 1})]


@pytest.mark.parametrize('function', [len, lambda c, e: 0.0, lambda c, e, d=1: 0.0, dict])
def test_functions_without_keyword_only_parameters_have_none(function):
  assert parameters.settings_of(function) == {}
  assert [*parameters.faults_of(function)({})] == []
  assert parameters.bind(function, {}, prompt_opens_think=True) is function


def test_a_parameter_without_a_default_is_refused():
  with pytest.raises(UserError, match="parameter 'least' of .* has no default: give it one"):
    parameters.settings_of(lambda c, e, *, least: 0.0)


def test_settings_and_what_the_prompt_opens_reach_the_function():
  assert parameters.bind(picky, {'least': 2}, prompt_opens_think=True)(None, {'answer': ''}) == 8
  assert parameters.bind(picky, {'most': 1}, prompt_opens_think=False)(None, {'answer': ''}) == 2


def test_every_setting_of_the_table_is_described_and_has_a_default_that_is_allowed():
  for name, function in REWARDS.items():
    settings = parameters.settings_of(function)
    for setting, parameter in settings.items():
      assert parameter.meaning != 'a setting', (name, setting)
      assert parameter.type is not object, (name, setting)
    assert not [*parameters.faults_of(function)(
        {setting: parameter.default for setting, parameter in settings.items()})], name
