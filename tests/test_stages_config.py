"""Tables of settings: what they refuse, what they list, and what of them identifies a result."""
import math

import ml_collections
import pytest

from r1jax.stages import evaluate, pass_rate, pretrain, reject, reward_model, rl, sft
from r1jax.stages.artifact import identity
from r1jax.stages.config import (
    Entries,
    Field,
    Named,
    Section,
    Weights,
    changed_fields,
    describe,
    plain,
)

STAGES = {'rl': rl.SETTINGS, 'sft': sft.SETTINGS, 'pretrain': pretrain.SETTINGS,
          'reject': reject.SETTINGS, 'pass_rate': pass_rate.SETTINGS, 'evaluate': evaluate.SETTINGS,
          'evaluations': evaluate.SEVERAL_SETTINGS, 'reward_model': reward_model.SETTINGS}
PART = Section(dict(depth=Field(1, 'how deep', at_least=1), size=Field(2.0, 'how large', above=0)))
SETTINGS = Section(dict(
    count=Field(3, 'how many', at_least=1, at_most=9),
    rate=Field(0.5, 'how fast', below=1),
    word=Field('a', 'which', choices=('a', 'b')),
    names=Field((), 'who'),
    flag=Field(False, 'whether'),
    every=Field(5, 'how often', how=True),
    part=PART,
    watched=Section(dict(width=Field(80, 'columns')), how=True),
    data=Named({'x': PART, 'y': Section(dict(folder=Field('', 'where')))}, 'which data'),
    parts=Entries(PART, 'by name', partial=True),
    weights=Weights(('red', 'blue'), 'of colours')),
    pairs=lambda config: ['count must not be 7'] if config['count'] == 7 else [])
GOOD = SETTINGS.default | dict(data=dict(name='x'))


def paths(section, prefix=()):
  """(path, field) of every field of a section, at any depth."""
  for name, field in section.fields.items():
    yield (*prefix, name), field
    if isinstance(field, Section):
      yield from paths(field, (*prefix, name))


def changed(config, path, change):
  config = dict(config)
  if len(path) > 1:
    config[path[0]] = changed(config[path[0]], path[1:], change)
  else:
    change(config, path[0])
  return config


@pytest.mark.parametrize('kind', STAGES)
def test_every_default_is_allowed_but_for_what_must_be_given(kind):
  given = {'data': dict(name='miniature'), 'rewards': {'number': 1.0}, 'sample_stages': ('draw',),
           'inputs': ('draw',), 'evaluations': {'x': evaluate.DEFAULT | dict(
               data=dict(name='miniature'))}}
  config = STAGES[kind].default
  STAGES[kind].check(config | {name: given[name] for name in given if name in config}, 'config')


@pytest.mark.parametrize('kind', STAGES)
def test_each_field_of_a_stage_must_be_there_and_of_its_type(kind):
  wrong = {int: 'three', float: 'half', str: 7, bool: 1, tuple: 'ab', dict: 3}
  for path, field in paths(STAGES[kind]):
    dotted = '.'.join(('config', *path))

    def drop(part, name):
      del part[name]

    def misspell(part, name):
      part[f'{name}x'] = part.pop(name)

    def mistype(part, name, field=field):
      part[name] = wrong[type(field.default)] if isinstance(field, Field) else 3
    for change, sentence in ((drop, f'{dotted} is missing'),
                             (misspell, f'{dotted}x is not a field: did you mean {dotted}?'),
                             (mistype, f'{dotted} must ')):
      faults = list(STAGES[kind].faults(
          changed(STAGES[kind].default, path, change), 'config'))
      assert any(fault.startswith(sentence) for fault in faults), (sentence, faults)


def test_every_field_says_what_it_means():
  for settings in STAGES.values():
    for path, field in paths(settings):
      assert field.meaning or path[-1] == 'kl_controller', path


def test_what_fits_is_let_through():
  for fields in ({}, dict(rate=0), dict(names=['c']), dict(part=dict(depth=1, size=3)),
                 dict(data=dict(name='x', depth=4)), dict(parts=dict(one=dict(depth=2))),
                 dict(weights=dict(red=0, blue=-1.5))):
    SETTINGS.check(GOOD | fields, 'config')


@pytest.mark.parametrize('fields, sentence', [
    (dict(count=0), 'config.count must be at least 1 and at most 9, got 0'),
    (dict(count=10), 'config.count must be at least 1 and at most 9, got 10'),
    (dict(count=True), 'config.count must be an int such as 3, got True (a bool)'),
    (dict(rate=1.0), 'config.rate must be below 1, got 1.0'),
    (dict(rate=math.nan), 'config.rate must be below 1, got nan'),
    (dict(rate=-math.inf), 'config.rate must be below 1, got -inf'),
    (dict(word='bb'), "config.word must be one of 'a', 'b', got 'bb': did you mean 'b'?"),
    (dict(part=dict(depth=1, size=0.0)), 'config.part.size must be above 0, got 0.0'),
    (dict(part=3), 'config.part must hold the fields depth, size, got 3'),
    (dict(data={}), "config.data.name must be one of 'x', 'y', got None"),
    (dict(data=dict(name='y', depth=1)),
     'config.data.depth is not a field: did you mean config.data.folder?'),
    (dict(parts=dict(one=dict(depht=1))),
     'config.parts.one.depht is not a field: did you mean config.parts.one.depth?'),
    (dict(weights=dict(reed=1.0)),
     "config.weights.reed is not one of red, blue: did you mean 'red'?"),
    (dict(weights=dict(red=math.inf)), 'config.weights.red must be a finite number, got inf'),
    (dict(count=7), 'config.count must not be 7'),
])
def test_what_does_not_fit_is_refused_in_one_sentence(fields, sentence):
  with pytest.raises(ValueError) as refusal:
    SETTINGS.check(GOOD | fields, 'config')
  assert str(refusal.value) == sentence


def test_all_faults_are_found_at_once():
  with pytest.raises(ValueError) as refusal:
    SETTINGS.check(GOOD | dict(count=0, rate=2.0, flag='yes', weights=3), 'config')
  said = str(refusal.value)
  assert said.startswith('4 settings are wrong: (1) config.count must ') and '\n' not in said
  for field in ('count', 'rate', 'flag', 'weights'):
    assert f') config.{field} must ' in said


def test_a_result_is_identified_by_what_is_computed():
  computed = SETTINGS.computed(GOOD)
  assert 'every' not in computed and 'watched' not in computed
  assert computed['data'] == dict(name='x', depth=1, size=2.0)     # with the defaults
  for fields, named in (
      (dict(every=7), []), (dict(watched=dict(width=1)), []), (dict(names=[]), []),
      (dict(data=dict(name='x', depth=1)), []),
      (dict(count=4), ['config.count']), (dict(rate=0), ['config.rate']),
      (dict(part=dict(depth=2, size=2)), ['config.part.depth']),
      (dict(data=dict(name='y')), ['config.data.depth', 'config.data.folder', 'config.data.name',
                                   'config.data.size']),
      (dict(parts=dict(one={})), ['config.parts.one'])):
    assert changed_fields(SETTINGS, GOOD, GOOD | fields, 'config') == named
    assert changed_fields(SETTINGS, GOOD | fields, GOOD, 'config') == named


def test_a_config_of_another_version_has_other_fields():
  before = {name: value for name, value in GOOD.items() if name != 'rate'} | dict(speed=0.5)
  assert changed_fields(SETTINGS, before, GOOD, 'config') == ['config.rate', 'config.speed']


def test_an_int_where_a_float_is_meant_identifies_the_same_result():
  whole, same = (GOOD | dict(part=dict(depth=1, size=size)) for size in (2, 2.0))
  assert identity(SETTINGS, whole, {}) == identity(SETTINGS, same, {})
  whole, same = (GOOD | dict(weights=dict(red=weight)) for weight in (1, 1.0))
  assert identity(SETTINGS, whole, {}) == identity(SETTINGS, same, {})


def test_a_description_has_value_default_range_and_meaning():
  lines = describe(SETTINGS, GOOD | dict(count=4), 'config')
  assert lines[:2] == ['config.count = 4 (default 3)', '    how many; at least 1 and at most 9']
  assert 'config.every = 5 [how]' in lines and 'config.part.depth = 1' in lines
  assert '  config.data.depth = 1' in lines
  assert "    which; one of 'a', 'b'" in lines


def test_a_config_becomes_plain():
  config = ml_collections.ConfigDict(dict(stages=dict(zero=dict(inputs=('a', 'b'), steps=3))))
  config.stages.zero.twice = config.stages.zero.get_ref('steps') * 2
  want = dict(stages=dict(zero=dict(inputs=['a', 'b'], steps=3, twice=6)))
  assert plain(config) == want == plain(plain(config))


# Ranges of an RL run and of fine-tuning, each of which was once accepted.
NAN, INF = math.nan, math.inf
RL = rl.DEFAULT | dict(data=dict(name='miniature'), rewards={'number': 1.0}, group_size=2)
RANGES = [
    *[dict(optimizer=dict(learning_rate=value)) for value in (NAN, INF, -1e-6)],
    dict(optimizer=dict(beta1=2.0)), dict(optimizer=dict(beta2=1.0)),
    *[dict(optimizer=dict(weight_decay=value)) for value in (NAN, -0.1)],
    *[dict(kl_coefficient=value) for value in (NAN, -0.1)],
    dict(optimizer=dict(max_grad_norm=-1.0)), dict(optimizer=dict(warmup_steps=-5)),
    *[dict(loss=dict(clip_epsilon_low=value)) for value in (NAN, -0.1, 1.0)],
    *[dict(loss=dict(clip_epsilon_high=value)) for value in (NAN, -0.1)],
    *[dict(critic={field: value})
      for field in ('gamma', 'gae_lambda') for value in (-0.1, 1.1, NAN)],
    dict(loss=dict(entropy_coefficient=NAN)),
    dict(dynamic_sampling_rounds=-1), dict(reference_refresh=-1), dict(seed=-1),
    dict(loss=dict(correction_low=3.0)),
    dict(kl_controller=dict(target=0.0)), dict(kl_controller=dict(horizon=0.0)),
    dict(keep_checkpoints=0), dict(reward_workers=0), dict(reward_timeout_s=0.0),
    dict(max_prompt_length=0), *[dict(sampling=dict(temperature=value)) for value in (0.0, INF)],
    dict(overlong='cut'), dict(sampling=dict(max_new_tokens=100_000_000)),
    dict(rewards={'number': NAN}), dict(steps=3, mini_batches=2),
]


@pytest.mark.parametrize('fields', RANGES, ids=str)
def test_a_value_out_of_its_range_is_refused_before_a_model_is_loaded(
    fields, tmp_path, monkeypatch):
  from r1jax.stages import loading
  monkeypatch.setattr(loading, 'load_model', lambda *_, **__: pytest.fail('a model is loaded'))
  config = dict(RL)
  for name, value in fields.items():
    config[name] = config[name] | value if isinstance(value, dict) and name != 'rewards' else value
  (name, value), = [item for item in fields.items() if item[0] != 'mini_batches']
  path = name if not isinstance(value, dict) else f'{name}.{next(iter(value))}'
  with pytest.raises(ValueError, match=rf'^config.stages.rl.{path} must be .*, got ') as refusal:
    rl.run(config, {}, tmp_path / 'run')
  wrong = next(iter(value.values())) if isinstance(value, dict) else value
  assert f', got {wrong!r}' in str(refusal.value) and '\n' not in str(refusal.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('where, fields', [
    ('', dict(max_prompt_length=960)),
    ('.evaluations.x', dict(evaluations={'x': evaluate.DEFAULT | dict(
        data=dict(name='miniature'), max_prompt_length=960)}))])
def test_more_tokens_than_a_model_has_positions_are_refused_before_it_is_loaded(
    where, fields, tmp_path, monkeypatch):
  from r1jax.stages import loading
  monkeypatch.setattr(loading, 'load_model', lambda *_, **__: pytest.fail('a model is loaded'))
  sentence = (rf'config.stages.rl{where}.max_prompt_length \+ .*must be at '
              r"most the model's 1024 positions, got 960 \+ 128")
  with pytest.raises(ValueError, match=sentence):
    rl.run(RL | fields, {}, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
