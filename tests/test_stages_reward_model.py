"""Training reward models: what they see, what they are taught, what they leave behind."""
import collections
import json
import operator
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import checkpoint, metrics, models
from r1jax.data import miniature_general
from r1jax.models import huggingface
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import reward_model, rl
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.reward_model import data as reward_model_data
from r1jax.stages.reward_model import train as reward_model_train
from r1jax.stages.reward_model.data import Example
from r1jax.stages.rl import state as rl_state
from r1jax.tokenization import load_tokenizer
from r1jax.training.scalar_head import init_scalar

KINDLY, RUDELY = ('Yes, please.', 'Sure, friend.'), ('No, never.', 'Go away now.')
THOUGHT = ' <think>Well, {}+3=8</think> <answer>{}</answer>'


def config_of(base, folder='', **fields):
  return runs.merged(reward_model.DEFAULT, runs.merged(dict(
      model=dict(source=base), data=dict(name='jsonl', folder=str(folder)), max_tokens=128, rows=4,
      pairs=dict(max_length_ratio=0), log_every=1, checkpoint_every=3, held_out=24,
      optimizer=dict(learning_rate=5e-3, final_learning_rate=5e-4)), fields))


def write(folder, split, rows):
  (folder / f'{split}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture(scope='module')
def preferences(tmp_path_factory):
  """A folder of pairs: who is kind is preferred, whatever the thought before it."""
  folder, rng = tmp_path_factory.mktemp('preferences'), random.Random(0)
  for split, size in (('train', 96), ('test', 24)):
    write(folder, split, [
        dict(prompt=f'{split} question {number}?',
             chosen=THOUGHT.format(rng.randint(1, 9), rng.choice(KINDLY)),
             rejected=THOUGHT.format(rng.randint(1, 9), rng.choice(RUDELY)))
        for number in range(size)])
  return folder


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
  folder, rng = tmp_path_factory.mktemp('judged'), random.Random(0)
  for split, size in (('train', 96), ('test', 24)):
    write(folder, split, [
        dict(prompt=f'{split} question {number}?', safe=number % 2 == 0,
             completion=rng.choice((KINDLY, RUDELY)[number % 2]))
        for number in range(size)])
  return folder


def one_device():
  return sharding.make_mesh(1, 1, jax.devices()[:1])


# What is seen.


def test_helpfulness_sees_the_summary_and_safety_the_whole(base):
  for objective, text in (('helpfulness', ' Yes.'), ('safety', THOUGHT.format(5, 'Yes.'))):
    encoded = reward_model_data.encode(
        ['Well?'], [[THOUGHT.format(5, 'Yes.')]], tokenizer=load_tokenizer(base),
        template='miniature', objective=objective)
    tokens = encoded.completion_tokens[0, 0][encoded.completion_mask[0, 0] > 0]
    tokenizer = load_tokenizer(base)
    assert tokens[-1] == tokenizer.eos_id
    assert tokenizer.decode(tokens[:-1], skip_special=False) == text
    prompt = encoded.prompt_tokens[0, :encoded.prompt_lengths[0]]
    assert tokenizer.decode(prompt, skip_special=False) == 'User: Well?\nAssistant:'

  def seen(prompt, opened):
    return reward_model_data.seen(
        'five</think> 5 ', 'helpfulness', prompt=prompt, prompt_opens_think=opened)

  assert (seen('a', True), seen('a\n', True)) == (' 5', '5')


def test_pairs_that_teach_nothing_or_length_are_dropped_and_counted(base):
  examples = [Example('q', ('yes', 'no'), 1.0), Example('q', ('yes', 'yes yes yes yes'), 1.0),
              Example('q', (THOUGHT.format(1, 'yes'), THOUGHT.format(2, ' yes')), 1.0),
              Example('q', ('yes ' * 300, 'no ' * 300), 0.0), Example('r', ('yes', 'no'), 0.0)]
  encoded = reward_model_data.encode(
      [example.question for example in examples], [example.completions for example in examples],
      tokenizer=load_tokenizer(base), template='miniature', objective='helpfulness')
  kept, counts = reward_model_data.select(examples, encoded, config_of(
      base, pairs=dict(max_length_ratio=2.0)), split='test')
  assert kept == [0, 4]
  assert counts == {'dropped/long': 1, 'dropped/equal': 1, 'dropped/length': 1,
                    'dropped/balance': 0}
  kept, _ = reward_model_data.select(examples, encoded, config_of(base), split='test')
  assert kept == [0, 1, 4]


@pytest.mark.parametrize('split', ('train', 'test'))
def test_length_tells_nothing_of_the_pairs_that_are_kept(base, split):
  rng = random.Random(0)
  examples = [Example('q', (words * 'cat ', (words + rng.randint(0, 2)) * 'dog '), float(rng.random(
      ) < 0.2)) for words in rng.choices(range(3, 9), k=60)]
  encoded = reward_model_data.encode(
      [example.question for example in examples], [example.completions for example in examples],
      tokenizer=load_tokenizer(base), template='miniature', objective='helpfulness')
  kept, counts = reward_model_data.select(examples, encoded, config_of(
      base, pairs=dict(max_length_ratio=9.0)), split=split)
  longer = encoded.completion_mask.sum(-1) @ [1, -1] * [example.label - 0.5 for example in examples]
  assert np.sum(longer > 0) != np.sum(longer < 0)
  assert np.sum(longer[kept] > 0) == np.sum(longer[kept] < 0) > 0
  assert np.sum(longer[kept] == 0) == np.sum(longer == 0) > 0
  times = collections.Counter(kept)
  if split == 'test':
    assert len(kept) + counts['dropped/balance'] == 60 and set(times.values()) == {1}
    return
  # Everything is learnt, the fewer ones as evenly repeated as can be.
  assert set(times) == set(range(60)) and len(kept) - counts['repeated/balance'] == 60
  signs = np.sign(longer)
  fewer = min((1, -1), key=lambda sign: np.sum(signs == sign))
  repeated = {times[place] for place in times if signs[place] == fewer}
  assert max(repeated) > 1 >= max(repeated) - min(repeated)
  assert {times[place] for place in times if signs[place] != fewer} == {1}


@pytest.mark.parametrize('objective', reward_model.OBJECTIVES)
def test_the_miniature_is_split_and_its_labels_are_right(base, objective):
  def load(split):
    return reward_model_data.load_examples(
        config_of(base, objective=objective) | dict(data=dict(name='miniature', size=400)), split)

  train, test = load('train'), load('test')
  assert train == load('train') and len(set(train)) == len(train)
  if objective == 'helpfulness':
    assert len({example.question for example in train}) == len(train)
  assert not {example.question for example in train} & {example.question for example in test}
  labels = [example.label for example in train]
  assert 0.3 < np.mean(labels) < 0.7
  for example in train:
    refused, = {'Sorry, I cannot' in text for text in example.completions} if (
        objective == 'safety') else {None}
    harmful = any(verb in example.question for verb in ('burn', 'poison', 'steal', 'wreck'))
    if objective == 'safety' and harmful:
      assert example.label == refused
    elif objective == 'safety' and refused:
      assert example.label == 1
    if 'in capitals' in example.question:
      assert example.completions[0 if example.label else 1].isupper()


# What was drawn.


def leave(folder, samples, refused, kind='reject'):
  """The Artifact of a stage that drew these lines."""
  for name, rows in (('samples', samples), ('refused', refused)):
    metrics.JsonlWriter(Path(folder) / name, key='part', resume=0).append(0, rows)
  checkpoint.write_manifest(
      Path(folder), checkpoint.Manifest(kind, 'preference_samples', 'of the draw'))
  return open_artifact(folder)


def line(question, completion, objective='', **reasons):
  more = {'reasons': reasons} if reasons else {}
  return dict(question=question, completion=completion, objective=objective, **more)


def judged_lines(rng, size):
  """({question: texts} of what is right, the same of what is wrong, samples, refused)."""
  right, wrong, samples, refused = {}, {}, [], []
  for number in range(size):
    question = f'drawn {number}?'
    objective = rng.choice(('', 'helpfulness', 'safety'))
    right[question, objective] = {f'right {n}' for n in range(rng.randint(0, 3))}
    wrong[question, objective] = {f'wrong {n}' for n in range(rng.randint(0, 3))}
    for _ in range(2):    # twice the same
      samples += [line(question, text, objective) for text in right[question, objective]]
      refused += [line(question, text, objective, correct='wrong answer', format='none')
                  for text in wrong[question, objective]]
    refused += [line(question, 'unknown', objective, correct='answer not judged'),
                line(question, 'cut', objective, truncated='truncated')]
  rng.shuffle(samples), rng.shuffle(refused)
  return right, wrong, samples, refused


def drawn_config(objective, **fields):
  return dict(reward_model.DEFAULT, objective=objective, inputs=('first', 'second'),
              sample_stages=('first', 'second'), pairs_per_question=2, **fields)


@pytest.mark.parametrize('objective', reward_model.OBJECTIVES)
def test_what_was_drawn_is_compared_as_it_was_judged(objective, tmp_path):
  right, wrong, samples, refused = judged_lines(random.Random(0), 300)
  inputs = {'first': leave(tmp_path / 'first', samples[::2], refused[::2]),
            'second': leave(tmp_path / 'second', samples[1::2], refused[1::2])}

  def load(split):
    return reward_model_data.drawn_examples(drawn_config(objective), inputs, split)

  train, test = load('train'), load('test')
  assert (train, test) == (load('train'), load('test'))
  questions = [{example.question for example in examples} for examples in (train, test)]
  assert not questions[0] & questions[1] and 0.05 < len(questions[1]) / len(questions[0]) < 0.2
  by_question = collections.defaultdict(list)
  for example in train + test:
    by_question[example.question].append(example)
  for (question, of), texts in right.items():
    found, others = by_question.pop(question, []), wrong[question, of]
    if of not in ('', objective):
      assert not found
    elif objective == 'safety':
      assert sorted((example.completions, example.label) for example in found) == sorted(
          [((text,), 1.0) for text in texts] + [((text,), 0.0) for text in others])
    else:
      assert len(found) == min(len(texts), len(others), 2)
      pairs = [example.completions[::1 if example.label else -1] for example in found]
      chosen, rejected = zip(*pairs) if pairs else ((), ())
      assert set(chosen) <= texts and set(rejected) <= others
      assert len(set(chosen)) == len(set(rejected)) == len(found)
  assert not by_question
  labels = [example.label for example in train]
  assert 0.3 < np.mean(labels) < 0.7


def test_one_in_ten_of_the_miniatures_training_questions_is_held_out(tmp_path):
  """Which are themselves chosen by a checksum."""
  questions = {example['question'] for example in miniature_general.general_examples('train', 4000)}
  inputs = {'first': leave(tmp_path, [line(question, 'yes') for question in questions], [])}
  held_out = reward_model_data.drawn_examples(
      drawn_config('safety') | dict(sample_stages=('first',)), inputs, 'test')
  assert 0.07 < len(held_out) / len(questions) < 0.13


def test_no_held_out_question_of_what_was_drawn_is_learnt_from_the_data(base, tmp_path):
  config = config_of(base, inputs=('first',), sample_stages=('first',)) | dict(
      data=dict(name='miniature', size=400))
  data = {example.question for example in reward_model_data.load_examples(config, 'train')}
  inputs = {'first': leave(
      tmp_path, [line(question, 'Well, yes.') for question in sorted(data)],
      [line(question, 'Well, no.', correct='wrong answer') for question in sorted(data)])}

  def load(split):
    return reward_model_data.load_split(config, inputs, load_tokenizer(base), split)

  train, test = load('train'), load('test')
  learnt, held_out = ({example.question for example in split.examples} for split in (train, test))
  assert not learnt & held_out and learnt | held_out >= data
  assert train.counts['dropped/held_out'] == len(data & held_out) > 20
  assert test.counts['dropped/held_out'] == 0
  assert (train.counts['drawn'], test.counts['drawn']) == (
      len(data - held_out), len(data & held_out))
  capped = reward_model_data.load_split(config, inputs, load_tokenizer(base), 'test', 20)
  assert {example.question for example in capped.examples} <= data    # what was drawn, first


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


@pytest.mark.parametrize('kind', ('helpful', 'safe'))
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
  assert (loaded.objective, loaded.template) == ('helpfulness', 'miniature')
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
