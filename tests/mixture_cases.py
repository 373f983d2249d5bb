"""General prompts beside reasoning prompts, and stand-ins for their reward models."""
import contextlib
import json

import numpy as np
import pytest
from rate_cases import RATES, leave_rates
import runs

from r1jax.models import compute
from r1jax.rewards.suite import REWARDS
from r1jax.stages import reward_model
from r1jax.stages.rl import rewards as rl_rewards
from r1jax.tokenization import load_tokenizer

OBJECTIVES = reward_model.OBJECTIVES


def by_length(completion, example):
  return len(completion.text) % 5 / 4


def write_jsonl(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture(scope='module')
def general(tmp_path_factory):
  """The folder of eleven general questions of both objectives, and of pass rates of others."""
  folder = tmp_path_factory.mktemp('general')
  leave_rates(folder / 'rates', RATES)
  write_jsonl(folder / 'train.jsonl', [
      dict(prompt=f'How is it, {"a" * number}?', answer='well', objective=OBJECTIVES[number % 2])
      for number in range(11)])
  return str(folder)


def mixed_config(base, folder, /, **fields):
  """Four prompts a rollout, one of them general from the second rollout on."""
  return runs.rl_config(base, **runs.merged(dict(
      prompts_per_batch=4, steps=3, rewards={'format': 1.0},
      general_prompts=dict(data=dict(name='jsonl', folder=folder), prompts_per_batch=1, from_step=1,
                   rewards={'bytes': 0.5, 'length': 0.0},
                   reward_models={name: dict(source=name, weight=2.0) for name in OBJECTIVES})),
      fields))


def stand_in(objective):
  """Scores that tell texts and objectives apart; a completion costs one token."""
  def rewards(questions, completions):
    assert len(questions) == len(completions)
    sizes = np.asarray([[sum(text.encode()) % 13 for text in group] for group in completions])
    scores = (sizes.astype(np.float32) - 6) / (1 + OBJECTIVES.index(objective))
    return reward_model.Scored(
        scores, compute.Compute(scored=10.0 * sizes.size, scored_tokens=sizes.size))
  return rewards


@contextlib.contextmanager
def stand_ins(base):
  """Rules `bytes` and `length`, and reward models by the names of their objectives."""
  tokenizer = load_tokenizer(base)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(REWARDS, 'bytes', runs.by_bytes)
    patch.setitem(REWARDS, 'length', by_length)
    patch.setattr(rl_rewards, 'load_reward_model', lambda source, **_: reward_model.RewardModel(
        None, None, tokenizer, 'miniature', source))
    patch.setattr(rl_rewards, 'make_rewards',
                  lambda loaded, *, rows, mesh: stand_in(loaded.objective))
    yield patch
