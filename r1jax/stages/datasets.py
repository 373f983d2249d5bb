"""Examples by the name of their dataset, and the prompts that stages make of them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from r1jax.data import miniature
from r1jax.data.prompts import PromptStream
from r1jax.runtime import sharding
from r1jax.stages.config import check_choice, check_config, nearest
from r1jax.tokenization import Tokenizer


def _miniature(split, *, size, cache, **settings):
  if not cache:    # made anew in memory, which takes less time than reading
    return miniature.calculations(split, size, **settings)
  from r1jax.data.miniature_records import calculations_source
  return calculations_source(split, size, data_dir=cache, **settings)


def _miniature_general(split, **settings):
  from r1jax.data.miniature_general import general_examples
  return general_examples(split, **settings)


def _gsm8k(split, *, folder, cache):
  from r1jax.data.gsm8k import load_gsm8k
  return load_gsm8k(folder, split, cache)


def _jsonl(split, *, folder):
  from r1jax.data.jsonl import jsonl_source
  return jsonl_source(f'{folder}/{split}.jsonl')


def _reasoning_gym(split, *, task, size, seed):
  from r1jax.data.reasoning_gym import reasoning_gym_source
  return reasoning_gym_source(task, size, 2 * seed + (split == 'test'))


# Name -> (loader of a split, the fields that `data` may have besides its name, with defaults).
DATASETS: dict[str, tuple[Callable, dict[str, Any]]] = {
    'miniature': (_miniature, dict(size=10_000, seed=0, min_steps=5, max_steps=8, cache='')),
    'miniature_general': (_miniature_general, dict(size=10_000, seed=0, tasks=(), bad_answer_share=0.0)),
    'gsm8k': (_gsm8k, dict(folder='', cache='')),
    'jsonl': (_jsonl, dict(folder='')),
    'reasoning_gym': (_reasoning_gym, dict(task='chain_sum', size=10_000, seed=0)),
}


def check_data(data: Mapping[str, Any], where: str) -> None:
  """Refuses a `data` part with an unknown name or field.

  Raises:
    ValueError: naming the nearest.
  """
  check_choice(data.get('name'), DATASETS, f'{where}.name')
  fields = {field: value for field, value in data.items() if field != 'name'}
  known = DATASETS[data['name']][1]
  for field in fields:
    if field not in known:
      raise ValueError(f'{where}.{field} is no field of the data {data["name"]!r}: did you mean '
                       f'{where}.{nearest(field, known)}? (its fields: {", ".join(known)})')
  check_config(known | fields, known, where)


def load_examples(data: Mapping[str, Any], split: str):
  """A random-access source of {'question', 'answer', ...} by the `data` part of a config."""
  load, defaults = DATASETS[data['name']]
  return load(split, **defaults | {
      field: value for field, value in data.items() if field != 'name'})


def prompt_stream(
    config: Mapping[str, Any], tokenizer: Tokenizer, split: str, at_most: int | None = None,
    shots: Sequence[tuple[str, str]] = (),
) -> PromptStream:
  """The prompts of a stage: fields data, template, prompts_per_batch, max_prompt_length, overlong, seed.

  A batch has no more than `at_most` prompts, and then no more than there are. `shots` as of
  `PromptStream`.
  """
  examples, prompts = load_examples(config['data'], split), config['prompts_per_batch']
  if at_most is not None:
    prompts = min(prompts, at_most, len(examples))
  return PromptStream(
      examples, tokenizer, template=config['template'], prompts_per_batch=prompts,
      max_prompt_length=config['max_prompt_length'], seed=config['seed'],
      shuffle=split == 'train', overlong=config['overlong'], shots=shots)


def prompts_at_a_time(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> int:
  """Those of a batch by which a stage draws `problems`: at most `prompts_per_batch`.

  So many that the mesh splits them evenly, as it does no others, where there are enough for that.
  """
  prompts = min(config['prompts_per_batch'], config['problems'])
  return prompts - prompts % sharding.batch_parts(mesh) or prompts
