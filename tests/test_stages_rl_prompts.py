"""Reasoning and general prompts mixed, each read in its own order."""
from mixture_cases import general, mixed_config  # noqa: F401 (fixture)
import numpy as np
import pytest
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax.stages import datasets
from r1jax.stages.rl import prompts as rl_prompts
from r1jax.tokenization import load_tokenizer


def problems_of(config):
  return datasets.Problems(datasets.load_examples(config['data'], 'train'))


@pytest.fixture(scope='module')
def mixture(base, general):
  config = mixed_config(base, general)
  return rl_prompts.PromptMixture(config, load_tokenizer(base), problems_of(config)), config


def test_each_source_is_read_in_its_own_order_whatever_is_mixed_in(mixture, base):
  mix, config = mixture
  stream = datasets.prompt_stream(config, load_tokenizer(base), problems_of(config), shuffle=True)
  order = np.concatenate([stream.batch(4 * number).example_ids for number in range(8)])
  counters, reasoning, generals = rl_prompts.Counters(), [], []
  for num_general in (0, 1, 1, 0, 1, 1, 1):
    batch, counters = mix.batch(counters, num_general)
    assert batch.prompt_tokens.shape == (4, 32) and len(batch.examples) == 4
    split = 4 - num_general
    assert all('objective' in example for example in batch.examples[split:])
    assert not any('objective' in example for example in batch.examples[:split])
    reasoning += batch.example_ids[:split].tolist()
    generals += batch.example_ids[split:].tolist()
  np.testing.assert_array_equal(reasoning, order[:len(reasoning)])
  assert counters == (len(reasoning), len(generals)) == (23, 5)
  assert len(set(generals)) == 5


def test_no_two_prompts_share_an_id_and_with_it_their_keys(mixture):
  mix, _ = mixture
  counters, seen = rl_prompts.Counters(), {}
  for _ in range(30):
    batch, counters = mix.batch(counters, 1)
    for number, example in zip(batch.example_ids.tolist(), batch.examples):
      assert seen.setdefault(number, example['question']) == example['question']
  assert sorted(seen) == list(range(64 + 11)) and len(set(seen.values())) > 60
