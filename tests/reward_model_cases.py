"""Preferences and judgements to train reward models on, and a config that does."""
import json
import random

import jax
import pytest
import runs

from r1jax import checkpoint, metrics
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import reward_model
from r1jax.stages.artifact import open_artifact

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
