"""The settings of judges: impossible ones are refused, and only some decide a result."""
import pytest

from r1jax.rewards.judging.judge import Judge
from r1jax.rewards.judging.rubric import Criterion
from r1jax.stages import judges, rl
from r1jax.stages.artifact import identity

URL = 'http://localhost:8000/v1'
RUBRIC = ({'criterion': 'is kind'}, {'criterion': 'boasts', 'weight': -1})


def faults_of(**settings):
  return list(judges.JUDGES.faults({'good': settings}, 'judges'))


@pytest.mark.parametrize('settings', [
    dict(source='miniature'), dict(url=URL, model='m'), dict(url='https://[::1]/', model='m'),
    dict(source='x', votes=3, temperature=0.7, combine_votes='majority'),
    dict(source='x', criterion='', rubric=RUBRIC), dict(source='x', criterion=''),
    dict(url=URL, model='m', options={'top_p': 0.9}), dict(source='x', weight=-1.0)])
def test_possible_settings(settings):
  assert faults_of(**settings) == []


@pytest.mark.parametrize('settings, says', [
    (dict(), 'source or url must be set, and not both'),
    (dict(source='x', url=URL, model='m'), 'source or url must be set, and not both'),
    (dict(source='x', model='m'), "model must be empty with source='x', got 'm'"),
    (dict(url=URL), 'model must name the server'),
    (dict(url=URL, model='m', template='chat'), 'template must be empty with url='),
    (dict(url='localhost:8000', model='m'), 'url must be that of a server'),
    (dict(url='file:///etc/passwd', model='m'), 'url must be that of a server'),
    (dict(url='http://', model='m'), 'url must be that of a server'),
    (dict(url='http://host:0/v1', model='m'), 'url must be that of a server'),
    (dict(url='http://host:99999/v1', model='m'), 'url must be that of a server'),
    (dict(url='http://[::1/v1', model='m'), 'url must be that of a server'),
    (dict(url='http://host/v1?key=secret', model='m'), 'url must be that of a server'),
    (dict(url='http://host/v1\r\nX: y', model='m'), 'url must be that of a server'),
    (dict(source='x', votes=3), 'temperature must be above 0 with votes=3'),
    (dict(source='x', combine_votes='majority'), "combine_votes must be 'mean' with votes=1"),
    (dict(source='x', votes=0), 'votes must be at least 1'),
    (dict(source='x', scale='stars'), "scale must be one of 'yes_no', 'one_to_ten'"),
    (dict(source='x', question='Is it right?'), 'question must have the place {answer}'),
    (dict(source='x', rubric=({'weight': 1},)), r'rubric[0] must be'),
    (dict(source='x', criterion=' ', own_rubrics=False), 'criterion must not be empty'),
    (dict(source='x', weight=float('inf')), 'weight must be a finite number'),
    (dict(source='x', key='secret'), 'judges.good.key is not a field')])
def test_impossible_settings_are_refused(settings, says):
  assert any(says in fault for fault in faults_of(**settings)), faults_of(**settings)


def test_a_password_in_the_url_is_refused_and_not_shown():
  (fault,) = faults_of(url='http://me:secret@host/v1', model='m')
  assert 'R1JAX_JUDGE_KEY' in fault and 'secret' not in fault


def test_a_judge_alone_is_reward_enough_and_none_is_not():
  config = rl.DEFAULT | dict(data=dict(name='miniature'), rewards={})
  rl.SETTINGS.check(config | dict(judges=dict(good=dict(source='miniature'))), 'zero')
  general = rl.DEFAULT['general_prompts'] | dict(
      prompts_per_batch=1, data=dict(name='miniature_general'))
  faults = [*rl.SETTINGS.faults(config | dict(general_prompts=general), 'zero')]
  assert len(faults) == 2 and all('or a judge in judges' in fault for fault in faults)


def test_what_decides_a_verdict_is_part_of_the_identity_and_how_it_is_run_is_not():
  def known(**settings):
    given = dict(url=URL, model='m') | settings
    return identity(rl.SETTINGS, rl.DEFAULT | dict(judges=dict(good=given)), {})
  for field, value in dict(rows=7, at_once=3, timeout_s=1.0, deadline_s=2.0, cache='x').items():
    assert known(**{field: value}) == known()
  for field, value in dict(
      url=URL + '/', model='n', criterion='kind', rubric=RUBRIC, own_rubrics=False, votes=2,
      question='{answer} {criterion}', scale='one_to_ten', temperature=0.5, max_new_tokens=1,
      options={'a': 1}, objective='safety', shows_thinking=True, shows_reference=False,
      max_characters=100, weight=2.0, max_prompt_length=9).items():
    assert known(**{field: value}) != known(), field


def test_a_judge_is_made_of_its_settings():
  made = judges.make_judge(judges.filled(dict(source='x')))
  assert made == Judge()
  made = judges.make_judge(judges.filled(dict(
      source='x', rubric=RUBRIC, criterion=' ', scale='one_to_ten', objective='safety')))
  assert made == Judge(criterion='', rubric=(Criterion('is kind'), Criterion('boasts', -1.0)),
                       scale='one_to_ten', objective='safety')
