"""Checks of a stage's config, before anything is loaded."""
from collections.abc import Iterable, Mapping
import math
from typing import Any

import jax

from r1jax import divergences, losses, tokenization
from r1jax.checks import nearest
from r1jax.models import PRESETS
from r1jax.runtime import sharding
from r1jax.sampling.sampler import Sampling

# What a field may say, wherever it stands in a config.
CHOICES = {
    'compute_dtype': ('float32', 'bfloat16'), 'preset': ('', *PRESETS),
    'template': tuple(tokenization.TEMPLATES),
    'overlong': ('skip', 'error', 'cut'), 'aggregation': losses.AGGREGATIONS,
    'kl_estimator': tuple(divergences.ESTIMATORS), 'kl_place': ('loss', 'reward'),
    'rule': ('fixed', 'double_or_halve', 'proportional'), 'ratio_level': losses.RATIO_LEVELS,
    'clip': losses.CLIPS, 'rollout_sharding': tuple(sharding.ROLLOUT_SHARDINGS)}


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
  del settings['rollout_sharding']
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
    field = 'rows' if 'rows' in config else 'prompts_per_batch'
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


def plain(config: Any) -> Any:
  """A config (ConfigDict or dict) as dicts, lists and numbers."""
  config = config.to_dict() if hasattr(config, 'to_dict') else config
  if isinstance(config, Mapping):
    return {key: plain(value) for key, value in config.items()}
  return [plain(value) for value in config] if isinstance(config, (list, tuple)) else config
