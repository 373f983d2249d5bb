"""Settings with which a stage fits: micro-batches, rematerialisation, the sizes of the mesh.

Candidates are ordered by a rough estimate of their memory and compiled, the stage's most likely
failures first, until one fits or a bounded number has been tried.
"""
from collections.abc import Callable, Iterator, Mapping
import copy
import itertools
import math
import pathlib
from typing import Any

from r1jax.models import num_params
from r1jax.pipeline import KINDS
from r1jax.plan import estimate
from r1jax.plan.chips import Topology

_TRIED = 8     # candidates that are compiled at most


def search(
    config: Mapping[str, Any], name: str, topology: Topology, *, mean_length: float = 0,
    cache: str | pathlib.Path = '', progress: Callable[[str], None] = lambda name: None,
    tried: int = _TRIED,
) -> list[dict[str, Any]]:
  """What was compiled, in order: {flags, resident (bytes), seconds (in turn), fits}.

  Arguments as of `estimate.plan_stage`; it ends with the first that fits, or after `tried`.
  """
  found = []
  for flags, candidate in _ordered(config, name, topology):
    if len(found) == tried:
      break
    progress(' '.join(flags))
    try:
      plan = estimate.plan_stage(candidate, name, topology, mean_length=mean_length, cache=cache)
    except ValueError:   # a batch or a length that this mesh does not divide
      continue
    found.append({
        'flags': flags, 'resident': max(one.resident for one in plan.estimates),
        'seconds': plan.seconds('in_turn') if plan.work else 0.0, 'fits': plan.fits})
    if plan.fits:
      break
  return found


def _ordered(config, name, topology) -> Iterator[tuple[list[str], dict]]:
  """Changed configs with their flags: those that a rough estimate says fit, cheapest change first.

  The cheapest are the candidates with the fewest micro-batches, without rematerialisation, on the
  mesh whose weights move least; where none is said to fit, those of the least memory come first.
  """
  candidates = []
  for change in _changes(config, name, len(topology.devices)):
    candidate = _changed(config, name, change)
    try:
      KINDS[candidate['stages'][name]['kind']].check(candidate['stages'][name], name)
    except ValueError:
      continue
    rough = rough_bytes(candidate, name)
    fits = rough <= topology.chip.memory
    price = (change['mesh'].get('tensor', 1), change['micro_batches'], change['remat'])
    candidates.append(((not fits, price if fits else (rough,)), change, candidate))
  for _, change, candidate in sorted(candidates, key=lambda one: one[0]):
    yield flags_of(config, name, change), candidate


def _changes(config, name, devices: int) -> Iterator[dict[str, Any]]:
  stage = config['stages'][name]
  rows = stage.get('prompts') or stage.get('rows') or 1
  rows //= stage.get('mini_batches', 1)
  micros = [0]    # of a stage that trains nothing
  if 'micro_batches' in stage:
    micros = [2 ** i for i in range(12) if rows % 2 ** i == 0]
  now = {axis: 1 for axis in config['mesh'] if isinstance(config['mesh'][axis], int)}
  for tensor in (2 ** i for i in range(7)):
    if devices % tensor:
      break
    mesh = now | {'fsdp': devices // tensor, 'tensor': tensor}
    for micro_batches, remat in itertools.product(micros, (False, True)):
      if not micro_batches or (rows // micro_batches) % (devices // tensor) == 0:
        yield {'mesh': mesh, 'micro_batches': micro_batches, 'remat': remat}


def _changed(config, name, change) -> dict:
  changed = copy.deepcopy(dict(config))
  stage = changed['stages'][name]
  changed['mesh'] |= change['mesh']
  if change['micro_batches']:
    stage['micro_batches'] = change['micro_batches']
  (stage['model'] if 'model' in stage else stage)['remat'] = change['remat']
  return changed


def flags_of(config: Mapping[str, Any], name: str, change: Mapping[str, Any]) -> list[str]:
  """The overrides that make `change`, without those that change nothing."""
  stage, flags = config['stages'][name], []
  for axis, count in change['mesh'].items():
    if config['mesh'][axis] != count:
      flags.append(f'--config.mesh.{axis}={count}')
  if change['micro_batches'] and stage['micro_batches'] != change['micro_batches']:
    flags.append(f'--config.stages.{name}.micro_batches={change["micro_batches"]}')
  where = f'{name}.model' if 'model' in stage else name
  if (stage['model'] if 'model' in stage else stage)['remat'] != change['remat']:
    flags.append(f'--config.stages.{where}.remat={str(change["remat"]).lower()}')
  return flags


def rough_bytes(config: Mapping[str, Any], name: str) -> float:
  """Of a chip, by arithmetic alone: state and gradients, activations of a micro-batch, a cache."""
  stage = config['stages'][name]
  if 'sampling' not in stage and 'rows' not in stage:    # several evaluations, each a rollout
    return max(rough_bytes({**config, 'stages': {**config['stages'], name: {
        **one, 'model': stage['model']}}}, name) for one in stage['evaluations'].values())
  shape_of = estimate.shape_finder(config['stages'], name)
  model = stage.get('model') or {}
  shape = shape_of(model if model else {'source': '', 'preset': stage['preset']})
  chips = math.prod(size for size in config['mesh'].values() if isinstance(size, int))
  numbers = num_params(shape)
  copies = 4 + bool(stage.get('kl_coefficient')) + 4 * (stage.get('advantage') == 'gae')
  if 'micro_batches' not in stage:
    copies = 1
  state = 4 * copies * numbers / chips + 2 * numbers / chips
  width = 2 if (model or stage)['compute_dtype'] == 'bfloat16' else 4
  sampling = stage.get('sampling')
  if sampling:
    group = stage.get('group_size') or stage['samples']
    rows = stage['prompts'] * group
    length = sampling['max_new_tokens']
  else:
    rows, length = stage['rows'], stage.get('row_length') or 2 * stage['max_tokens']
  tokens = rows * length / stage.get('micro_batches', 1) / chips
  kept = shape.width if (model or stage)['remat'] else 6 * shape.width + 3 * shape.mlp_width
  activations = width * tokens * kept * shape.num_layers if 'micro_batches' in stage else 0
  heads = shape.latent.rank + shape.latent.rope_dim if shape.latent else (
      2 * shape.num_kv_heads * shape.head_dim)
  cache = width * rows * length * heads * shape.num_layers / chips if sampling else 0
  return state + max(activations, 2 * cache)
