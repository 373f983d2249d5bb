import jax
import ml_collections
import pytest

from r1jax import checkpoint, models
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import datasets, evaluate, loading, pretrain, reject, reward_model, rl, sft
from r1jax.stages.config import check_config, plain
from r1jax.stages.artifact import open_artifact

STAGES = {'rl': rl, 'sft': sft, 'pretrain': pretrain, 'reject': reject, 'evaluate': evaluate,
          'reward_model': reward_model}
DEFAULT = dict(count=3, rate=0.5, name='a', pair=(1, 2), flag=False, free={},
               part=dict(depth=1, size=2.0))


def paths(default, prefix=()):
  """Every field of nested dicts but those of free ones, as a path."""
  for name, value in default.items():
    yield (*prefix, name)
    if isinstance(value, dict):
      yield from paths(value, (*prefix, name))


def changed(config, path, change):
  config = dict(config)
  if len(path) > 1:
    config[path[0]] = changed(config[path[0]], path[1:], change)
  else:
    change(config, path[0])
  return config


def test_every_default_is_of_its_own_types():
  for stage in STAGES.values():
    check_config(stage.DEFAULT, stage.DEFAULT, 'config')


@pytest.mark.parametrize('kind', STAGES)
def test_each_field_of_a_stage_must_be_there_and_of_its_type(kind):
  default = STAGES[kind].DEFAULT
  wrong = {int: 'three', float: 'half', str: 7, bool: 1, tuple: 'ab', dict: 3}
  for path in paths(default):
    dotted = '.'.join(('config', *path))
    value = default
    for name in path:
      value = value[name]

    def drop(part, name):
      del part[name]

    def misspell(part, name):
      part[f'{name}x'] = part.pop(name)

    def mistype(part, name):
      part[name] = wrong[type(value)]
    for change, sentence in (
        (drop, f'{dotted} is missing'), (misspell, f'did you mean {dotted}[?]'),
        (mistype, f'{dotted}=.*')):
      with pytest.raises(ValueError, match=sentence) as refusal:
        check_config(changed(default, path, change), default, 'config')
      assert '\n' not in str(refusal.value)


def test_what_fits_is_let_through():
  for fields in ({}, dict(rate=1), dict(pair=[3]), dict(free=dict(anything=object())),
                 dict(part=dict(depth=1, size=3))):
    check_config(DEFAULT | fields, DEFAULT, 'config')


def test_a_config_becomes_plain():
  config = ml_collections.ConfigDict(dict(stages=dict(zero=dict(inputs=('a', 'b'), steps=3))))
  config.stages.zero.twice = config.stages.zero.get_ref('steps') * 2
  want = dict(stages=dict(zero=dict(inputs=['a', 'b'], steps=3, twice=6)))
  assert plain(config) == want == plain(plain(config))
  assert checkpoint.config_hash(plain(config)) == checkpoint.config_hash(want)


def test_every_dataset_is_checked_by_its_own_fields():
  for name, (_, fields) in datasets.DATASETS.items():
    datasets.check_data(dict(fields, name=name), 'data')
    with pytest.raises(ValueError, match='data.sede .*did you mean|is missing'):
      datasets.check_data(dict(fields, name=name, sede=1), 'data')
  with pytest.raises(ValueError, match="data.name='minature' is unknown: the nearest is 'minia"):
    datasets.check_data(dict(name='minature'), 'data')


def test_train_and_test_of_reasoning_gym_are_apart():
  pytest.importorskip('reasoning_gym')
  drawn = {(split, seed): [example['question'] for example in datasets.load_examples(
      dict(name='reasoning_gym', task='chain_sum', size=50, seed=seed), split)]
      for split in ('train', 'test') for seed in (0, 1)}
  assert len({tuple(questions) for questions in drawn.values()}) == 4


@pytest.mark.parametrize('source', loading.MINIATURES)
def test_a_shipped_model_is_that_of_its_preset(source):
  folder = loading.find_model(source, {})
  assert folder == str(loading.MINIATURES[source])
  loaded = loading.load_model(source, {}, compute_dtype='float32', remat=False,
                             mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  assert loaded.model.config == models.PRESETS[source]
  assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == models.num_params(
      models.PRESETS[source])
  text = 'User: 5+3? 二十\nAssistant:'
  assert loaded.tokenizer.encode(text) == loading.find_tokenizer('miniature', {}).encode(text)
  assert pretrain.DEFAULT['preset'] in loading.MINIATURES


def test_a_model_of_another_size_than_its_preset_is_refused():
  settings = dict(compute_dtype='float32', remat=False,
                  mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  loading.load_model('miniature', {}, preset='miniature', **settings)
  with pytest.raises(ValueError, match="preset='miniature_small' has .* parameters, and the model"):
    loading.load_model('miniature', {}, preset='miniature_small', **settings)
  with pytest.raises(ValueError, match="preset='qwen3_8' is unknown: the nearest is 'qwen3_8b'"):
    check_config(loading.MODEL | dict(preset='qwen3_8'), loading.MODEL, 'model')


def test_a_model_is_found_by_its_source(tmp_path):
  assert loading.find_model(str(tmp_path), {}) == str(tmp_path)
  (tmp_path / 'model').mkdir()
  checkpoint.write_manifest(tmp_path, checkpoint.Manifest('rl', 'zero', 'hash'))
  inputs = {'zero': open_artifact(tmp_path)}
  assert loading.find_model('zero', inputs) == str(Path(tmp_path) / 'model')
  for source in ('zeroo', '', str(tmp_path / 'other')):
    with pytest.raises(FileNotFoundError, match='There is no model .*: name an input stage'):
      loading.find_model(source, inputs)
