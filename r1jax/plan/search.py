"""Looks for a mesh and settings with which stages fit.

The settings are micro-batches, rematerialisation, `rollout_sharding` and `slots`. Candidates that
arithmetic alone rules out are left out. The others are ordered by what they are likely to cost, and
compiled until all stages fit on one mesh, or until a bounded number of meshes has been tried. Fewer
slots are tried where more do not fit. Settings that gather the weights at every token of a rollout
(`rollout_sharding='train'`) are tried only if nothing else fits: they cost the most time.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
import copy
import itertools
import math
import operator
import pathlib
from typing import Any

from r1jax.errors import UserError
from r1jax.pipeline import settings_of
from r1jax.plan import estimate, rough_memory
from r1jax.plan.topology import Topology
from r1jax.runtime import sharding
from r1jax.stages import loading
from r1jax.stages.config import check_mesh

_MAX_MESHES = 6        # meshes that are tried
_MAX_FAILURES = 4      # of a stage on one mesh, to draw and to train
_LEAST_SLOTS = 1 / 32  # of the completions of a rollout
# Programs that more micro-batches and rematerialisation make smaller.
_TRAINING_PROGRAMS = {'score', 'value', 'update', 'update of the critic'}

Config = Mapping[str, Any]
_sort_key = operator.itemgetter(0)


def search(
    config: Config, names: Sequence[str], topology: Topology, *, mean_length: float = 0,
    cache: str | pathlib.Path = '', progress: Callable[[str], None] = lambda name: None,
) -> tuple[list[dict[str, Any]], Config | None]:
  """Looks for one mesh and settings with which all these stages fit.

  Args:
    config: the whole config, a dict that `pipeline.check` has accepted.
    names: the stages.
    topology: what to compile for.
    mean_length: mean tokens of a completion; 0: all have the greatest length.
    cache: a folder that keeps figures; '' for none.
    progress: is called with the stage and the settings before they are compiled.

  Returns:
    (tried, found): what was compiled, in order, as dicts {stage, flags, resident (bytes), seconds
    (in turn), fits, last (the last program that was compiled)}; and the config with which all
    stages fit, or None.
  """
  trials = _Trials(config, topology, mean_length, cache, progress)
  order = list(names)
  for gathered in (False, True):
    meshes = _meshes(config, names, topology, gathered)
    for mesh in itertools.islice(meshes, _MAX_MESHES):
      candidate: Config = {**config, 'mesh': mesh}
      for name in order:
        fitting = trials.fitting(candidate, name, gathered)
        if fitting is None:
          order = [name, *(other for other in order if other != name)]    # the hardest first
          break
        candidate = fitting
      else:
        return trials.tried, candidate
  return trials.tried, None


class _Trials:
  """Compiles candidates, each of them once."""

  def __init__(self, config: Config, topology: Topology, mean_length: float,
               cache: str | pathlib.Path, progress: Callable[[str], None]):
    self._config, self._topology, self._progress = config, topology, progress
    self._options: dict[str, Any] = dict(mean_length=mean_length, cache=cache)
    self._found: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}

  @property
  def tried(self) -> list[dict[str, Any]]:
    """What was compiled, in order."""
    return list(self._found.values())

  def fitting(self, config: Config, name: str, gathered: bool) -> Config | None:
    """The config with settings of a stage with which it fits on the config's mesh, or None.

    Args:
      config: with the mesh to try.
      name: the stage's.
      gathered: whether settings that gather the weights at every token are allowed.
    """
    failed: dict[Callable[..., bool], list[Mapping[str, Any]]] = {
        _trains_with_more: [], _draws_with_more: []}
    for candidate in _settings(config, name, self._topology, gathered):
      stage = candidate['stages'][name]
      if any(needs_more(old, stage) for needs_more, stages in failed.items() for old in stages):
        continue
      result = self._compile(candidate, name)
      if result['fits']:
        return candidate
      trains = result['last'] in _TRAINING_PROGRAMS
      too_large = failed[_trains_with_more if trains else _draws_with_more]
      too_large.append(stage)
      if len(too_large) == _MAX_FAILURES:
        return None
    return None

  def _compile(self, candidate: Config, name: str) -> dict[str, Any]:
    flags = flags_between(self._config, candidate, name)
    key = name, tuple(flags)
    if key not in self._found:
      self._progress(f'{name}: {" ".join(flags)}')
      plan = estimate.plan_stage(candidate, name, self._topology, until_too_large=True,
                                 **self._options)
      self._found[key] = {
          'stage': name, 'flags': flags, 'resident': max(one.resident for one in plan.estimates),
          'fits': plan.fits, 'seconds': plan.seconds('in_turn') if plan.fits else 0.0,
          'last': plan.estimates[-1].figures.name}
    return self._found[key]


def _meshes(config: Config, names: Sequence[str], topology: Topology,
            gathered: bool) -> Iterator[dict[str, int]]:
  """Meshes on which every stage may fit by arithmetic, the most promising first.

  A mesh is the more expensive the more of it splits the tokens and the products of one row.
  """
  count, priced = len(topology.devices), []
  shapes = [rough_memory.stage_shape(config, name) for name in names]
  experts = [1] if not all(shape.experts for shape in shapes) else _powers_of_two(count)
  powers = _powers_of_two(count)
  for expert, context, tensor in itertools.product(experts, powers, powers):
    if count % (expert * context * tensor):
      continue
    fsdp = count // (expert * context * tensor)
    mesh = dict.fromkeys(config['mesh'], 1) | dict(
        fsdp=fsdp, expert=expert, context=context, tensor=tensor)
    candidate = {**config, 'mesh': mesh}
    tightest = [next(_settings(candidate, name, topology, gathered), None) for name in names]
    if None in tightest:
      continue
    filled = max(rough_memory.rough_bytes(one, name)
                 for one, name in zip(tightest, names) if one is not None)
    # Along an expert axis tokens are gathered, and without one weights.
    gathered_experts = max(
        shape.experts.count / expert if shape.experts else 1 for shape in shapes)
    priced.append(((filled > topology.chip.memory, context * tensor ** 2 * gathered_experts), mesh))
  return (mesh for _, mesh in sorted(priced, key=_sort_key))


def _powers_of_two(most: int) -> list[int]:
  return [2 ** i for i in range(most.bit_length()) if 2 ** i <= most]


def _settings(config: Config, name: str, topology: Topology,
              gathered: bool) -> Iterator[dict[str, Any]]:
  """The config with other settings of a stage, on its mesh, the most promising first.

  Those that fit by a rough estimate come first, ordered by the number of micro-batches, then those
  without rematerialisation, then those that do not gather weights at every token, then those with
  more slots. The others are ordered by their estimated memory.
  """
  stage, candidates = config['stages'][name], []
  mesh = sharding.make_mesh(**config['mesh'], devices=topology.devices)
  try:
    loading.check_model_fits(rough_memory.stage_shape(config, name), mesh)
  except UserError:
    return
  micros = [(0, 0)]       # of a stage that trains nothing: micro-batches, rows of packed ones
  if rough_memory.is_packed(stage):
    shards = mesh.size // (config['mesh']['context'] * config['mesh']['tensor'])
    most = max(1, rough_memory.most_rows(stage) // shards)
    micros = [(1, shards * size) for size in reversed(_powers_of_two(most))]
  elif 'micro_batches' in stage:
    rows = (stage.get('prompts_per_batch') or stage['rows']) // stage.get('mini_batches', 1)
    micros = [(size, 0) for size in _powers_of_two(rows) if rows % size == 0]
  draws = mesh.size > 1 and ('sampling' in stage or stage.get('evaluations'))
  rollout_shardings = ('tensor', 'train')[:1 + gathered] if draws else ('',)
  rows = rough_memory.most_rows(stage)
  slots = [0, *(size for size in reversed(_powers_of_two(rows)) if rows > size >= max(
      8, rows * _LEAST_SLOTS))] if rows else [0]
  for (order_of_micro, micro), remat, rollout_sharding, (i, size) in itertools.product(
      enumerate(micros), (False, True), rollout_shardings, enumerate(slots)):
    candidate = _with_settings(config, name, micro, remat, rollout_sharding, size)
    try:
      settings_of(stage).check(candidate['stages'][name], name)
      check_mesh(candidate['stages'][name], mesh, name)
    except UserError:      # a batch or a length that this mesh does not divide
      continue
    if rough_memory.least_bytes(candidate, name) <= topology.chip.memory:
      rough = rough_memory.rough_bytes(candidate, name)
      over = rough > topology.chip.memory
      order = (over, rough) if over else (
          over, order_of_micro, remat, rollout_sharding == 'train', i)
      candidates.append((order, candidate))
  yield from (one for _, one in sorted(candidates, key=_sort_key))


def _with_settings(config: Config, name: str, micro: tuple[int, int], remat: bool,
                   rollout_sharding: str, slots: int) -> dict[str, Any]:
  """The config with these settings of a stage; 0 and '' leave a setting as it is.

  `micro` are micro-batches, and the rows of a packed one.
  """
  stage = copy.deepcopy(dict(config['stages'][name]))
  micro_batches, packed_rows = micro
  if micro_batches:
    stage['micro_batches'] = micro_batches
  if packed_rows:
    stage['packing']['rows'] = packed_rows
  (stage['model'] if 'model' in stage else stage)['remat'] = remat
  for one in (stage, *stage.get('evaluations', {}).values()):
    if 'sampling' in one:
      one['sampling']['rollout_sharding'] = rollout_sharding or one['sampling']['rollout_sharding']
      one['sampling']['slots'] = slots or one['sampling']['slots']
  return {**config, 'stages': {**config['stages'], name: stage}}


def flags_between(old: Config, new: Config, name: str) -> list[str]:
  """The command-line flags that turn the mesh and a stage of `old` into those of `new`."""
  return [*_changes('config.mesh', old['mesh'], new['mesh']),
          *_changes(f'config.stages.{name}', old['stages'][name], new['stages'][name])]


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
  if isinstance(after, Mapping):
    for key in after:
      yield from _changes(f'{path}.{key}', before[key], after[key])
  elif before != after:
    yield f'--{path}={str(after).lower() if isinstance(after, bool) else after}'


def _trains_with_more(failed: Mapping[str, Any], stage: Mapping[str, Any]) -> bool:
  """Whether a stage trains with as much memory as one that did not fit."""
  remat = [(one['model'] if 'model' in one else one)['remat'] for one in (failed, stage)]
  if rough_memory.is_packed(stage):
    larger = failed['packing']['rows'] <= stage['packing']['rows']
  else:
    larger = failed['micro_batches'] >= stage['micro_batches']
  return larger and remat[0] >= remat[1]


def _draws_with_more(failed: Mapping[str, Any], stage: Mapping[str, Any]) -> bool:
  """Whether a stage draws with as much memory as one that did not fit."""
  for old, new in zip(*map(_samplings, (failed, stage))):
    if old['rollout_sharding'] != new['rollout_sharding'] or 0 < new['slots'] < (
        old['slots'] or math.inf):
      return False
  return True


def _samplings(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """The settings of the samplers of a stage and its evaluations."""
  return [one['sampling'] for one in (stage, *stage.get('evaluations', {}).values())
          if 'sampling' in one]
