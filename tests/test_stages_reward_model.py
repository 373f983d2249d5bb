"""Training reward models: what they are taught, what they leave behind, what is refused."""
import dataclasses
import json
import operator
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reward_model_cases import (  # noqa: F401 (fixtures)
  KINDLY,
  RUDELY,
  THOUGHT,
  config_of,
  judged,
  leave,
  line,
  one_device,
  preferences,
  write,
)
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import checkpoint, metrics, models
from r1jax.errors import UserError
from r1jax.models import huggingface
from r1jax.runtime.storage import Path
from r1jax.stages import reward_model, rl
from r1jax.stages.artifact import Artifact
from r1jax.stages.reward_model import data as reward_model_data
from r1jax.stages.reward_model import train as reward_model_train
from r1jax.stages.reward_model.model import write_head
from r1jax.stages.rl import state as rl_state
from r1jax.tokenization import load_tokenizer
from r1jax.training.scalar_head import init_scalar

# What is taught.


def random_scalar(base, seed=0):
  model, rng = models.build(runs.SHAPE), np.random.default_rng(seed)
  params = init_scalar(model, huggingface.load_params(base, runs.SHAPE))
  return model, params | {'head': jnp.asarray(rng.normal(size=16), jnp.float32)}


def test_pitfall_01_order_of_sides_and_micro_batches_change_no_loss(base):
  """In value and gradient, which reaches the head."""
  model, params = random_scalar(base)
  pairs = [(f'q{n}', ('yes ' * n, 'no no'), float(n % 2), 0.5 * n) for n in range(1, 5)]
  config = config_of(base, pairs=dict(margin=0.7, centring_coefficient=0.1))

  def batch(rows):
    questions, sides, labels, margins = zip(*rows)
    encoded = reward_model_data.encode(questions, sides, tokenizer=load_tokenizer(base),
                                       template='miniature', objective='helpfulness')
    return encoded, np.asarray(labels, np.float32), np.asarray(margins, np.float32)
  gradient = jax.jit(jax.value_and_grad(reward_model_train.make_loss(model, config), has_aux=True))
  want = gradient(params, batch(pairs), np.float32(4))
  swapped = gradient(params, batch([(q, sides[::-1], 1 - label, margin)
                                    for q, sides, label, margin in pairs]), np.float32(4))
  halves = [gradient(params, jax.tree.map(operator.itemgetter(part), batch(pairs)), np.float32(4))
            for part in (slice(0, 2), slice(2, 4))]
  for other in (swapped, jax.tree.map(jnp.add, *halves)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), want, other)
  assert np.abs(want[1]['head']).max() > 1e-3
  turned = gradient(params, batch([(q, sides, 1 - label, margin)
                                   for q, sides, label, margin in pairs]), np.float32(4))
  assert abs(turned[0][0] - want[0][0]) > 1e-2 and turned[0][1]['accuracy'] == (
      1 - want[0][1]['accuracy'])


# The stage.


# Enough of data and epochs that other seeds, and other rounding, learn as much.
EPOCHS = {'helpful': 6, 'safe': 3}


def run_helpful(base, preferences, workdir, should_stop=lambda: False):
  config = config_of(base, preferences, epochs=EPOCHS['helpful'])
  return reward_model.run(config, {}, workdir, stage='helpful', should_stop=should_stop)


@pytest.fixture(scope='module')
def helpful(base, preferences, tmp_path_factory):
  return run_helpful(base, preferences, tmp_path_factory.mktemp('helpful'))


@pytest.fixture(scope='module')
def safe(base, judged, tmp_path_factory):
  return reward_model.run(config_of(base, judged, objective='safety', epochs=EPOCHS['safe']), {},
                          tmp_path_factory.mktemp('safe'), stage='safe')


@pytest.mark.parametrize('kind', [
    'helpful', pytest.param('safe', marks=pytest.mark.slow)])
def test_what_can_be_told_apart_is_learnt(kind, request):
  artifact = request.getfixturevalue(kind)
  scores = artifact.manifest.scores
  before, after = scores['before'], scores['after']
  assert before['accuracy'] == (0.5, 0.5, 0.5) and before['log_loss'] == pytest.approx(np.log(2))
  assert after['accuracy'][0] > 0.9 and after['log_loss'] < 0.5 and after['questions'] == 24
  assert {'calibration_error', 'brier'} <= after.keys()
  table = (artifact.folder / 'results.md').read_text()
  assert all(f'| {row} |' in table for row in ('before', 'after'))
  assert ('| the longer side |' in table) == (kind == 'helpful')
  assert json.loads((artifact.folder / 'results.json').read_text())['after']['examples'] == 24
  assert len(metrics.read_metrics(artifact.folder)) == 24 * EPOCHS[kind]
  for name in artifact.manifest.files:
    assert (artifact.folder / name).exists()


def test_a_flipped_bit_of_a_reward_model_is_refused_by_name(helpful, tmp_path):
  def load():
    reward_model.load_reward_model(str(tmp_path), {}, compute_dtype='float32', remat=False,
                                   mesh=one_device())
  for name in ('head.safetensors', 'reward_model.json', 'model/model.safetensors'):
    shutil.copytree(str(helpful.folder), tmp_path, dirs_exist_ok=True)
    runs.flip(tmp_path / name, 1 << 20, 2)
    with pytest.raises(UserError, match=f'is damaged .*{pathlib.Path(name).name} has other'):
      load()
  shutil.copytree(str(helpful.folder), tmp_path, dirs_exist_ok=True)
  params = {'head': np.array([1.0, np.nan], np.float32)}
  manifest = dataclasses.replace(helpful.manifest, files={})
  write_head(Path(tmp_path), params, 'helpfulness')
  checkpoint.write_manifest(tmp_path, manifest)
  with pytest.raises(UserError, match='head.safetensors has weights that are NaN or infinite'):
    load()


@pytest.mark.slow
def test_what_was_drawn_is_enough_to_learn_from(base, tmp_path):
  questions = [f'question {number}?' for number in range(120)]
  inputs = {'preference_samples': leave(
      tmp_path / 'drawn', [line(question, THOUGHT.format(2, KINDLY[0])) for question in questions],
      [line(question, THOUGHT.format(2, RUDELY[0]), correct='wrong answer')
       for question in questions])}
  config = config_of(base, inputs=('preference_samples',), sample_stages=('preference_samples',),
                     epochs=4) | dict(data={})
  artifact = reward_model.run(config, inputs, tmp_path / 'run')
  scores = artifact.manifest.scores
  assert scores['drawn'] == scores['examples'] == 120 - scores['after']['examples'] > 90
  assert scores['after']['accuracy'][0] > 0.9
  assert artifact.manifest.parents == {'preference_samples': 'of the draw'}


def test_pitfall_20_stopped_reward_model_equals_uninterrupted(base, preferences, helpful, tmp_path):
  def run(should_stop):
    return run_helpful(base, preferences, tmp_path, should_stop)

  _, (sentence,) = runs.finish(run, [5])
  assert 'run the same command to go on' in sentence
  runs.assert_same(tmp_path, helpful.folder)
  for name in ('head.safetensors', 'reward_model.json'):
    assert (tmp_path / name).read_bytes() == (helpful.folder / name).read_bytes()


def test_it_is_loaded_as_it_was_trained_and_judges_as_it_was_measured(helpful, preferences):
  mesh = one_device()
  settings = dict(compute_dtype='float32', remat=False, mesh=mesh)
  loaded = reward_model.load_reward_model('helpful', {'helpful': helpful}, **settings)
  by_folder = reward_model.load_reward_model(str(helpful.folder), {}, **settings)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, by_folder.params)
  assert (loaded.objective, loaded.template.template) == ('helpfulness', 'miniature')
  rewards = reward_model.make_rewards(loaded, rows=2, mesh=mesh)
  questions = ['test question 30?', 'test question 31?', 'test question 32?']
  found = rewards(questions, [[THOUGHT.format(1, KINDLY[0]), THOUGHT.format(2, KINDLY[0]),
                               THOUGHT.format(1, RUDELY[1])]] * 3)

  def tokens(text):
    return len(loaded.tokenizer.encode(text))

  assert found.compute.scored_tokens == 3 * (tokens(f'User: {questions[0]}\nAssistant:') + sum(
      1 + tokens(f' {answer}') for answer in (KINDLY[0], KINDLY[0], RUDELY[1])))
  found = found.rewards
  assert found.shape == (3, 3)
  np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)   # the thought is not seen
  assert np.all(found[:, 0] > found[:, 2])
  alone = reward_model.make_rewards(loaded, rows=1, mesh=mesh)(questions[2:], [[KINDLY[0]]])
  np.testing.assert_allclose(alone.rewards[0, 0], found[2, 0], rtol=1e-4)


def test_a_critic_begins_as_a_reward_model(base, helpful, tmp_path, monkeypatch):
  """Backbone and head; a critic that starts from another model has a new head."""
  class Begun(Exception):
    pass
  begun = []

  def begin(params, *_):
    begun.append(params)
    if len(begun) == 2:
      raise Begun
  monkeypatch.setattr(rl_state, 'init_train_state', begin)
  loaded = reward_model.load_reward_model(
      'helpful', {'helpful': helpful}, compute_dtype='float32', remat=False, mesh=one_device())
  assert np.any(loaded.params['head'])
  for source, want in (('helpful', loaded.params), (base, random_scalar(base)[1])):
    config = runs.rl_config(base, advantage='gae', inputs=('helpful',), critic=dict(source=source))
    begun.clear()
    with pytest.raises(Begun):
      rl.run(config, {'helpful': helpful}, tmp_path,
             reward_functions={'bytes': (runs.by_bytes, 1.0)})
    if source == base:
      want = want | {'head': np.zeros(16)}
    jax.tree.map(np.testing.assert_array_equal, begun[1], want)
  config['critic']['source'] = 'miniature'
  with pytest.raises(ValueError, match="critic.source='miniature' has another shape"):
    begun.clear()
    rl.run(config, {}, tmp_path, reward_functions={'bytes': (runs.by_bytes, 1.0)})


# Refusals.


def test_impossible_reward_models_are_refused(base, preferences, judged, helpful, tmp_path):
  for fields, sentence in (
      (dict(objective='helpful'), "objective must be .*got 'helpful': did you mean 'helpfulness'"),
      (dict(data=dict(name='jsnl')), "data.name must be .*got 'jsnl': did you mean 'jsonl'"),
      (dict(data=dict(foldr='x')), 'did you mean .*data.folder'),
      (dict(rows=3, micro_batches=2), 'rows must be a multiple of micro_batches = 2, got 3'),
      (dict(pairs=dict(max_length_ratio=0.5)),
       'max_length_ratio must be at least 1, or 0 .*got 0.5'),
      (dict(pairs=dict(margin=-1.0)), 'margin must be at least 0, got -1.0'),
      (dict(held_out=0), 'held_out must be at least 2, got 0'),
      (dict(pairs_per_question=0), 'pairs_per_question must be at least 1, got 0'),
      (dict(sample_stages=('preference_samples',)),
       r"sample_stages names 'preference_samples', which is not one of inputs=\[\]"),
      (dict(rows=128), 'the data fill 96 rows and a batch has rows=128'),
      (dict(max_tokens=4), r'no example left \(dropped/long 96, .*raise max_tokens'),
      (dict(objective='safety'), 'train.jsonl, line 1: the field "completion" is missing')):
    with pytest.raises(ValueError, match=sentence) as refusal:
      reward_model.run(config_of(base, preferences, **fields), {}, tmp_path / 'run')
    assert '\n' not in str(refusal.value)
  write(tmp_path, 'train', [dict(prompt='q', completion='a', safe=True)] * 4)
  with pytest.raises(ValueError, match='all 4 completions of the train split .* same judgement'):
    reward_model.run(config_of(base, tmp_path, objective='safety'), {}, tmp_path / 'run')
  with pytest.raises(ValueError, match='sample_stages must not be empty where data is'):
    reward_model.SETTINGS.check(config_of(base) | dict(data={}), 'config.stages.helpful')
  inputs = {'draw': leave(tmp_path / 'draw', [line('q', 'yes')], []),
            'rl': leave(tmp_path / 'rl', [], [], kind='rl')}
  drawn = config_of(base, inputs=('draw', 'rl')) | dict(data={})
  with pytest.raises(ValueError, match="the train split of stage 'draw' has no example of helpful"):
    reward_model.run(drawn | dict(sample_stages=('draw',)), inputs, tmp_path / 'run')
  sentence = "sample_stages='rl' is a stage of kind 'rl': name one of kind"
  with pytest.raises(ValueError, match=sentence):
    reward_model.run(drawn | dict(sample_stages=('rl',)), inputs, tmp_path / 'run')
  with pytest.raises(ValueError, match="'draw' is the Artifact of a stage of kind 'reject'"):
    manifest = checkpoint.Manifest('reject', 'draw', 'x')
    reward_model.load_reward_model('draw', {'draw': Artifact(tmp_path, manifest)},
                                   compute_dtype='float32', remat=False, mesh=one_device())
