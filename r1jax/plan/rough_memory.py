"""The memory that a stage takes on a chip, by arithmetic alone, without compiling anything.

The search uses it to leave out hopeless settings and to try promising ones first.
"""
from collections.abc import Mapping
import math
from typing import Any

from r1jax.models import ModelConfig, num_params
from r1jax.plan import estimate


def stage_shape(config: Mapping[str, Any], name: str) -> ModelConfig:
  """The shape of the model of a stage."""
  stage = config['stages'][name]
  model = stage.get('model') or {'source': '', 'preset': stage['preset']}
  return estimate.shape_finder(config['stages'], name)(model)


def least_bytes(config: Mapping[str, Any], name: str) -> float:
  """A lower bound: parameters and optimizer, and then gradients or a full cache."""
  stage, mesh, shape = config['stages'][name], config['mesh'], stage_shape(config, name)
  params = _parameter_bytes(mesh, shape)
  in_host_memory = stage.get('in_host_memory', ())
  reference = params * bool(stage.get('kl_coefficient') and 'reference' not in in_host_memory)
  cache = cache_bytes(stage, mesh, shape)
  if 'micro_batches' not in stage:
    return params + cache
  moments = 2 * params * ('sampling' in stage and 'optimizer' not in in_host_memory)
  return max(4 * params + reference, params + reference + moments + cache)


def cache_bytes(stage: Mapping[str, Any], mesh: Mapping[str, int], shape: ModelConfig) -> float:
  """During a rollout: keys, values, and the sampler's copy of the weights."""
  if 'sampling' not in stage:      # evaluations alone, if any
    return max((cache_bytes({**one, 'model': stage.get('model') or stage}, mesh, shape)
                for one in stage.get('evaluations', {}).values()), default=0.0)
  sampling = stage['sampling']
  width = _bytes_per_number(stage['model'])
  shards = mesh['data'] * mesh['fsdp'] * mesh['expert']
  weight_shards = shards * mesh['context'] * mesh['tensor'] / mesh['data']
  if sampling['rollout_sharding'] == 'tensor':
    weight_shards, shards = mesh['tensor'] * mesh['expert'], shards * mesh['context']
  prompts, rows = _prompts_and_rows(stage)
  slots = min(sampling['slots'] or rows, rows)
  per_token = shape.latent.rank + shape.latent.rope_dim if shape.latent else (
      2 * shape.num_kv_heads * shape.head_dim / mesh['tensor'])
  kept = slots * sampling['max_new_tokens'] * per_token * shape.num_layers
  return width * (kept / min(shards, prompts) + num_params(shape) / weight_shards)


def _prompts_and_rows(stage: Mapping[str, Any]) -> tuple[int, int]:
  """(prompts, completions) of a rollout, or of a batch of an evaluation."""
  prompts = min(stage['prompts_per_batch'], stage.get('problems') or stage['prompts_per_batch'])
  return prompts, prompts * (stage.get('group_size') or stage['completions_per_problem'])


def most_rows(stage: Mapping[str, Any]) -> int:
  """Completions of the largest rollout of a stage and its evaluations; 0 where nothing is drawn."""
  return max((_prompts_and_rows(one)[1] for one in (stage, *stage.get('evaluations', {}).values())
              if 'sampling' in one), default=0)


def is_packed(stage: Mapping[str, Any]) -> bool:
  """Whether a stage of RL trains on rows that are packed."""
  return bool(stage.get('packing', {}).get('row_length'))


def rough_bytes(config: Mapping[str, Any], name: str) -> float:
  """An estimate: `least_bytes`, or the state with the activations of a micro-batch if greater."""
  stage, mesh, shape = config['stages'][name], config['mesh'], stage_shape(config, name)
  least = least_bytes(config, name)
  if 'micro_batches' not in stage:
    return least
  model, sampling = stage.get('model') or stage, stage.get('sampling')
  if sampling:
    rows, length = stage['prompts_per_batch'] * stage['group_size'], sampling['max_new_tokens']
  else:
    rows, length = stage['rows'], stage.get('row_length') or 2 * stage['max_tokens']
  batches = stage['micro_batches'] * stage.get('mini_batches', 1)
  tokens = rows * length / batches
  if is_packed(stage):
    tokens = min(tokens, stage['packing']['rows'] * stage['packing']['row_length'])
  tokens /= mesh['data'] * mesh['fsdp'] * mesh['expert'] * mesh['context']
  per_layer = 6 * shape.width + 3 * shape.mlp_width / mesh['tensor']
  if shape.experts:      # each token is a row of several experts
    per_layer += shape.experts.per_token * (shape.width + 3 * shape.experts.width / mesh['tensor'])
  kept = shape.width if model['remat'] else per_layer
  activations = _bytes_per_number(model) * tokens * (kept * shape.num_layers + 2 * per_layer)
  return max(least, 4 * _parameter_bytes(mesh, shape) + activations)


def _parameter_bytes(mesh: Mapping[str, int], shape: ModelConfig) -> float:
  """Float32 parameters, split over all mesh axes but data."""
  return 4 * num_params(shape) / (math.prod(mesh.values()) / mesh['data'])


def _bytes_per_number(model: Mapping[str, Any]) -> int:
  return 2 if model['compute_dtype'] == 'bfloat16' else 4
