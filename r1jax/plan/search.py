"""Settings with which stages fit: the mesh, micro-batches, rematerialisation, the rollout_sharding.

Candidates that arithmetic alone rules out are left out, the others ordered by what they are likely
to cost, and compiled until all stages fit on one mesh or a bounded number of meshes has been tried:
first without gathering weights at every token, which costs more than any other setting.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
import copy
import itertools
import math
import pathlib
from typing import Any

from r1jax.models import num_params
from r1jax.pipeline import KINDS
from r1jax.plan import estimate
from r1jax.plan.chips import Topology
from r1jax.runtime import sharding
from r1jax.stages import loading
from r1jax.stages.config import check_mesh

_MESHES = 6        # meshes that are tried at most
_TRIED = 4         # settings of a stage that are compiled at most, on one mesh
# StageShapes that micro-batches and rematerialisation make smaller.
_UPDATES = {'score', 'value', 'update', 'update of the critic'}


def search(
    config: Mapping[str, Any], names: Sequence[str], topology: Topology, *, mean_length: float = 0,
    cache: str | pathlib.Path = '', progress: Callable[[str], None] = lambda name: None,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
  """(what was compiled, in order; a config with which all the stages fit, or None).

  Of what was compiled: {stage, flags, resident (bytes), seconds (in turn), fits, last (the last
  program that was compiled)}. Other arguments as of `estimate.plan_stage`; `names` are the stages'.
  """
  found: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
  start = config

  def compiled(candidate, name: str) -> dict[str, Any]:
    """What there is to say of a candidate; compiled once."""
    flags = flags_between(start, candidate, name)
    key = name, tuple(flags)
    if key not in found:
      progress(f'{name}: {" ".join(flags)}')
      plan = estimate.plan_stage(candidate, name, topology, mean_length=mean_length, cache=cache,
                                 until_too_large=True)
      found[key] = {
          'stage': name, 'flags': flags, 'resident': max(one.resident for one in plan.estimates),
          'fits': plan.fits, 'seconds': plan.seconds('in_turn') if plan.fits else 0.0,
          'last': plan.estimates[-1].figures.name}
    return found[key]

  def fitting(config, name: str, gathered: bool) -> dict | None:
    """`config` with settings of the stage with which it fits this mesh."""
    tried, hopeless = 0, set()      # rollout_shardings with which drawing does not fit
    for candidate in _settings(config, name, topology, gathered):
      rollout_sharding = _rollout_sharding(candidate['stages'][name])
      if tried == _TRIED or rollout_sharding in hopeless:
        continue
      tried += 1
      plan = compiled(candidate, name)
      if plan['fits']:
        return candidate
      if plan['last'] not in _UPDATES:
        hopeless.add(rollout_sharding)
    return None

  order = list(names)
  for gathered in (False, True):
    for mesh in itertools.islice(_meshes(config, names, topology, gathered), _MESHES):
      candidate = {**config, 'mesh': mesh}
      for name in order:
        candidate = fitting(candidate, name, gathered)
        if candidate is None:
          order = [name, *(other for other in order if other != name)]    # the hardest first
          break
      else:
        return list(found.values()), candidate
  return list(found.values()), None


def _meshes(config, names, topology: Topology, gathered: bool) -> Iterator[dict[str, int]]:
  """Those on which every stage has settings that arithmetic does not rule out, the likeliest first.

  A mesh costs the more, the more of it splits rows and products of one row, and the more memory its
  tightest stage needs.
  """
  count, priced = len(topology.devices), []
  shapes = [_shape(config, name) for name in names]
  experts = [1] if not all(shape.experts for shape in shapes) else _powers(count)
  for expert, context, tensor in itertools.product(experts, _powers(count), _powers(count)):
    if count % (expert * context * tensor):
      continue
    fsdp = count // (expert * context * tensor)
    mesh = dict.fromkeys(config['mesh'], 1) | dict(
        fsdp=fsdp, expert=expert, context=context, tensor=tensor)
    candidate = {**config, 'mesh': mesh}
    tightest = [next(_settings(candidate, name, topology, gathered), None) for name in names]
    if None in tightest:
      continue
    filled = max(rough_bytes(one, name) for one, name in zip(tightest, names))
    # Tokens are gathered over an expert axis, and weights where there is none.
    whole = max(shape.experts.count / expert if shape.experts else 1 for shape in shapes)
    priced.append(((filled > topology.chip.memory, context * tensor ** 2 * whole), mesh))
  return (mesh for _, mesh in sorted(priced, key=lambda one: one[0]))


def _powers(most: int) -> list[int]:
  return [2 ** i for i in range(most.bit_length()) if 2 ** i <= most]


def _settings(config, name, topology: Topology, gathered: bool) -> Iterator[dict[str, Any]]:
  """The config with other settings of a stage, on its mesh.

  Those that a rough estimate says fit come first, of these the fewest micro-batches, and
  rematerialisation and weights that are gathered at every token, where these may be, last.
  """
  stage, candidates = config['stages'][name], []
  mesh = sharding.make_mesh(**config['mesh'], devices=topology.devices)
  try:
    loading.check_model_fits(_shape(config, name), mesh)
  except ValueError:
    return
  micros = [0]       # of a stage that trains nothing
  if 'micro_batches' in stage:
    rows = (stage.get('prompts_per_batch') or stage['rows']) // stage.get('mini_batches', 1)
    micros = [size for size in _powers(rows) if rows % size == 0]
  draws = mesh.size > 1 and ('sampling' in stage or stage.get('evaluations'))
  rollout_shardings = ('tensor', 'train')[:1 + gathered] if draws else ('',)
  for micro, remat, rollout_sharding in itertools.product(micros, (False, True), rollout_shardings):
    candidate = _changed(config, name, micro, remat, rollout_sharding)
    try:
      KINDS[stage['kind']].check(candidate['stages'][name], name)
      check_mesh(candidate['stages'][name], mesh, name)
    except ValueError:      # a batch or a length that this mesh does not divide
      continue
    rough = rough_bytes(candidate, name)
    if _least_bytes(candidate, name) <= topology.chip.memory:
      over = rough > topology.chip.memory
      candidates.append(((over, rough) if over else (over, micro, remat, rollout_sharding == 'train'),
                         candidate))
  yield from (one for _, one in sorted(candidates, key=lambda one: one[0]))


def _changed(config, name, micro_batches: int, remat: bool, rollout_sharding: str) -> dict:
  stage = copy.deepcopy(dict(config['stages'][name]))
  if micro_batches:
    stage['micro_batches'] = micro_batches
  (stage['model'] if 'model' in stage else stage)['remat'] = remat
  if rollout_sharding:
    for one in (stage, *stage.get('evaluations', {}).values()):
      if 'sampling' in one:
        one['sampling']['rollout_sharding'] = rollout_sharding
  return {**config, 'stages': {**config['stages'], name: stage}}


def flags_between(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> list[str]:
  """The overrides that make the mesh and a stage of `old` those of `new`."""
  flags = []

  def walk(path, before, after):
    if isinstance(after, Mapping):
      for key in after:
        walk(f'{path}.{key}', before[key], after[key])
    elif before != after:
      flags.append(f'--{path}={str(after).lower() if isinstance(after, bool) else after}')
  walk('config.mesh', old['mesh'], new['mesh'])
  walk(f'config.stages.{name}', old['stages'][name], new['stages'][name])
  return flags


def _shape(config, name):
  """Of the model of a stage."""
  stage = config['stages'][name]
  model = stage.get('model') or {'source': '', 'preset': stage['preset']}
  return estimate.shape_finder(config['stages'], name)(model)


def _rollout_sharding(stage: Mapping[str, Any]) -> str:
  """That of the first sampler of a stage, '' where it draws nothing."""
  samplers = [one['sampling'] for one in (stage, *stage.get('evaluations', {}).values())
              if 'sampling' in one]
  return samplers[0]['rollout_sharding'] if samplers else ''


def _least_bytes(config: Mapping[str, Any], name: str) -> float:
  """Of a chip, what a stage holds at the least: its state, and then gradients or a full cache."""
  stage, mesh, shape = config['stages'][name], config['mesh'], _shape(config, name)
  held = 4 * num_params(shape) / (math.prod(mesh.values()) / mesh['data'])
  hosted = stage.get('in_host_memory', ())
  reference = held * bool(stage.get('kl_coefficient') and 'reference' not in hosted)
  cache = _cache_bytes(stage, mesh, shape)
  if 'micro_batches' not in stage:
    return held + cache
  moments = 2 * held * ('sampling' in stage and 'optimizer' not in hosted)
  return max(4 * held + reference, held + reference + moments + cache)


def _cache_bytes(stage, mesh, shape) -> float:
  """Of a chip, at a rollout's end: keys and values, and the weights that a sampler reads.

  As the cache is made larger for the last chunk, half of it lies there twice, new and old.
  """
  if 'sampling' not in stage:      # evaluations alone, if any
    return max((_cache_bytes({**one, 'model': stage.get('model') or stage}, mesh, shape)
                for one in stage.get('evaluations', {}).values()), default=0.0)
  sampling = stage['sampling']
  width = 2 if stage['model']['compute_dtype'] == 'bfloat16' else 4
  shards = mesh['data'] * mesh['fsdp'] * mesh['expert']
  spread = shards * mesh['context'] * mesh['tensor'] / mesh['data']
  if sampling['rollout_sharding'] == 'tensor':
    spread, shards = mesh['tensor'] * mesh['expert'], shards * mesh['context']
  prompts = min(stage['prompts_per_batch'], stage.get('problems', stage['prompts_per_batch']))
  rows = prompts * (stage.get('group_size') or stage['completions_per_problem'])
  heads = shape.latent.rank + shape.latent.rope_dim if shape.latent else (
      2 * shape.num_kv_heads * shape.head_dim / mesh['tensor'])
  longest = sampling['max_new_tokens']
  old = max(0.0, 1 - sampling['chunk'] / longest) / 2
  largest = max((count for _, count in shape.layers), default=shape.num_layers)
  kept = rows * longest * heads * (shape.num_layers + old * largest)
  return width * (kept / min(shards, rows) + num_params(shape) / spread)


def rough_bytes(config: Mapping[str, Any], name: str) -> float:
  """Of a chip, by arithmetic alone: the state, and the activations of a micro-batch or a cache."""
  stage, mesh, shape = config['stages'][name], config['mesh'], _shape(config, name)
  least = _least_bytes(config, name)
  if 'micro_batches' not in stage:
    return least
  model, sampling = stage.get('model') or stage, stage.get('sampling')
  width = 2 if model['compute_dtype'] == 'bfloat16' else 4
  if sampling:
    rows, length = stage['prompts_per_batch'] * stage['group_size'], sampling['max_new_tokens']
  else:
    rows, length = stage['rows'], stage.get('row_length') or 2 * stage['max_tokens']
  pieces = stage['micro_batches'] * stage.get('mini_batches', 1)
  tokens = rows * length / pieces / (
      mesh['data'] * mesh['fsdp'] * mesh['expert'] * mesh['context'])
  working = 6 * shape.width + 3 * shape.mlp_width / mesh['tensor']
  if shape.experts:      # their rows are more than the tokens
    working += shape.experts.per_token * (shape.width + 3 * shape.experts.width / mesh['tensor'])
  kept = shape.width if model['remat'] else working
  held = 4 * num_params(shape) / (math.prod(mesh.values()) / mesh['data'])
  return max(least, 4 * held + width * tokens * (kept * shape.num_layers + 2 * working))
