"""Examples by the name of their dataset, and the prompts that stages make of them."""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.data import jsonl, miniature, reasoning_gym
from r1jax.data.prompts import PromptStream
from r1jax.runtime import sharding
from r1jax.stages.config import Field, Named, Section, Spec
from r1jax.stages.fields import prompt_format
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


def _jsonl(split, *, folder, columns):
  return jsonl.jsonl_source(folder and f'{folder}/{split}.jsonl', columns)


def _reasoning_gym(split, *, task, size, seed, settings):
  return reasoning_gym.reasoning_gym_source(task, size, 2 * seed + (split == 'test'), settings)


_SEED = Field(0, 'seed of the problems', at_least=0)
_SIZE = Field(10_000, 'problems of the split', at_least=1)
_FOLDER = Field('', 'where train.jsonl and test.jsonl are', names='splits')


def jsonl_section(*forms: jsonl.Form) -> Section:
  """The fields of data in JSONL files, of one of several forms."""
  return Section(
      dict(folder=_FOLDER, columns=columns_field()),
      pairs=lambda config: jsonl.column_faults(config['columns'], *forms))


def columns_field() -> Field:
  """The names of columns in JSONL files."""
  return Field({}, "names of columns by field, where they differ, such as "
                   "{'prompt': 'problem'}; the fields are those of `data.jsonl`")


# Name -> (loader of a split, its fields).
DATASETS: dict[str, tuple[Callable, Section]] = {
    'miniature': (_miniature, Section(dict(
        size=_SIZE, seed=_SEED,
        min_steps=Field(5, 'operations of a calculation', at_least=1),
        max_steps=Field(8, 'operations of a calculation', at_least=1),
        cache=Field('', 'folder that keeps the problems as a TFDS dataset; none if empty',
                    how=True)))),
    'miniature_general': (_miniature_general, Section(dict(
        size=_SIZE, seed=_SEED,
        tasks=Field((), 'of `data.miniature_general.GENERAL_TASKS`; all if empty'),
        bad_answer_share=Field(0.0, 'share of examples whose answer is a bad one', at_least=0,
                               at_most=1)))),
    'gsm8k': (_gsm8k, Section(dict(
        folder=_FOLDER,
        cache=Field('', "folder of the prepared TFDS dataset; '' for r1jax's in the user's cache",
                    how=True)))),
    'jsonl': (_jsonl, jsonl_section(jsonl.QUESTIONS)),
    'reasoning_gym': (_reasoning_gym, Section(dict(
        task=Field('chain_sum', 'of reasoning-gym', choices=reasoning_gym.TASKS),
        size=_SIZE, seed=_SEED,
        settings=Field({}, "the task's own settings, such as {'min_terms': 2, 'max_terms': 3}")),
        pairs=lambda config: reasoning_gym.setting_faults(config['task'], config['settings']))),
}


def data_field(meaning: str, *, required: bool = True, **more: Spec) -> Named:
  """The `data` part of a stage's settings; `more` fields are the same for every dataset."""
  return Named({name: dataclasses.replace(section, fields={**section.fields, **more})
                for name, (_, section) in DATASETS.items()}, meaning, required)


def load_examples(data: Mapping[str, Any], split: str):
  """A random-access source of {'question', 'answer', ...} by the `data` part of a config."""
  load, section = DATASETS[data['name']]
  return load(split, **section.default | {
      field: value for field, value in data.items() if field in section.fields})


class Problems(NamedTuple):
  """Examples, and the indices of those that a stage reads, ascending; None: all."""
  examples: Sequence[Mapping[str, Any]]
  indices: np.ndarray | None = None


def prompt_stream(
    config: Mapping[str, Any], tokenizer: Tokenizer, problems: Problems, *, shuffle: bool,
    at_most: int | None = None, shots: Sequence[tuple[str, str]] = (),
) -> PromptStream:
  """The prompts of problems, by the fields of a stage's config that are about prompts.

  A batch has no more than `at_most` prompts, and then no more than there are. `shuffle` and `shots`
  as of `PromptStream`.
  """
  examples, indices = problems
  prompts = config['prompts_per_batch']
  if at_most is not None:
    prompts = min(prompts, at_most, len(examples if indices is None else indices))
  return PromptStream(
      examples, tokenizer, template=prompt_format(config), prompts_per_batch=prompts,
      max_prompt_length=config['max_prompt_length'], seed=config['seed'], shuffle=shuffle,
      overlong=config['overlong'], shots=shots, indices=indices)


def prompts_at_a_time(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> int:
  """Those of a batch by which a stage draws `problems`: at most `prompts_per_batch`.

  So many that the mesh splits them evenly, as it does no others, where there are enough for that.
  """
  prompts = min(config['prompts_per_batch'], config['problems'])
  return prompts - prompts % sharding.num_batch_shards(mesh) or prompts
