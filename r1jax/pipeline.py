"""Chains stages: each reads earlier Artifacts by name and leaves its own in `workdir/<name>`.

A stage's result is known by its identity (`stages.stage`), of which those of its inputs are a part.
So a change reaches all stages that depend on it, and no other. A result that another one replaces
is moved to `<name>.old-<identity>`. Files of data, and models that are named by their path, are
known by what is in them (`stages.contents`).
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any

import jax

from r1jax import checks, preflight
from r1jax.errors import UserError, printable
from r1jax.report.data import evaluation_scores
from r1jax.report.page import write_report
from r1jax.runtime import checksums, fingerprint, hosts, ownership, sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, pass_rate, pretrain, reject, reward_model, rl, sft
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import Field, Section, describe, plain, refuse
from r1jax.stages.stage import look

KINDS = {'pretrain': pretrain, 'sft': sft, 'reject': reject, 'pass_rate': pass_rate,
         'reward_model': reward_model, 'rl': rl, 'evaluate': evaluate}

MESH = Section({
    axis: Field(1, 'devices along this axis; -1: all that the others leave', at_least=-1, how=True)
    for axis in sharding.AXES}, 'how devices are arranged', how=True)
_SEED = Field(0, 'seed of all stages that have none of their own', at_least=0)


@dataclasses.dataclass(frozen=True)
class StageState:
  """What `run` would do with a stage."""
  name: str
  kind: str
  inputs: tuple[str, ...]
  identity: str                      # of the result that its config asks for
  state: str                         # a key of _DOES
  why: str = ''                      # what follows the state in a sentence
  replaces: str = ''                 # the identity of a result that is to be moved aside

  def __str__(self) -> str:
    return self.state + self.why

  @property
  def runs(self) -> bool:
    """Whether something is left to do, and is to be done."""
    return self.state not in ('done', 'left out')


# What is in a stage's folder (`stages.stage.FolderState`) -> what `run` does.
_DOES = {'new': 'runs', 'resumes': 'resumes', 'done': 'done', 'evaluates': 'evaluates',
         'differs': 'runs again'}


def settings_of(stage: Mapping[str, Any]) -> Section:
  """The settings of a stage, by its kind."""
  module = KINDS[stage['kind']]
  return module.settings(stage) if module is evaluate else module.SETTINGS


def check(config: Mapping[str, Any]) -> None:
  """Refuses a config that cannot run, before anything is loaded, naming all that is wrong.

  Raises:
    UserError: naming each field, its value and what it must be.
  """
  refuse(_faults({'seed': 0, 'mesh': {}} | dict(config)))
  _in_order(config['stages'])


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
  known = ('seed', 'mesh', 'stages')
  for name in config:
    if name not in known:
      yield f'config.{name} is not a field: did you mean config.{checks.nearest(name, known)}?'
  yield from _SEED.faults(config['seed'], 'config.seed')
  mesh = config['mesh']
  yield from MESH.faults(MESH.default | dict(mesh) if isinstance(mesh, Mapping) else mesh,
                         'config.mesh')
  stages = config.get('stages')
  if not isinstance(stages, Mapping) or not stages:
    yield f'config.stages must name at least one stage, got {stages!r}'
    return
  yield from checks.name_faults(stages, 'config.stages')
  yield from (f"config.stages must not have the name {name!r}, which is that of a chain's results"
              for name in stages if re.fullmatch(r'(?i)results\.\w+', str(name)))
  for name, stage in stages.items():
    yield from _stage_faults(stages, name, stage)


def _stage_faults(stages: Mapping[str, Any], name: str, stage: Any) -> Iterator[str]:
  path = f'config.stages.{name}'
  if not isinstance(stage, Mapping):
    yield f'{path} must hold a kind and its fields, got {stage!r}'
    return
  kind = stage.get('kind')
  if kind not in KINDS:
    yield (f'{path}.kind must be one of {", ".join(KINDS)}, got {kind!r}: did you mean '
           f'{checks.nearest(kind, KINDS)!r}?')
    return
  found = list(settings_of(stage).faults(stage, path))
  yield from found
  if found:
    return
  for needed in stage['inputs']:
    if needed not in stages:
      yield (f'{path}.inputs names {needed!r}, which is not a stage: did you mean '
             f'{checks.nearest(needed, stages)!r}?')
  for field, source in _sources(stage, path):
    if source in stages and source not in stage['inputs']:
      yield f'{field}={source!r} is a stage that {path}.inputs lacks: add it there'


def _sources(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
  """The fields `source` of a config, at any depth: (path, value)."""
  for field, value in config.items():
    if isinstance(value, Mapping):
      yield from _sources(value, f'{where}.{field}')
    elif field == 'source':
      yield f'{where}.{field}', value


def _in_order(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """The stages' names, each after its inputs.

  Raises:
    UserError: they form a cycle.
  """
  order: list[str] = []
  rest = list(stages)
  while rest:
    name = next((name for name in rest if set(stages[name]['inputs']) <= set(order)), None)
    if name is None:
      path, name = [], rest[0]
      while name not in path:
        path.append(name)
        name = next(needed for needed in stages[name]['inputs'] if needed in rest)
      cycle = [*path[path.index(name):], name]
      reads = ', '.join(f'{one!r} reads {other!r}' for one, other in zip(cycle, cycle[1:]))
      raise UserError(f'config.stages has a cycle ({reads}): take one of these inputs away')
    order.append(name)
    rest.remove(name)
  return order


def state(
    config: Mapping[str, Any], workdir: str | Path, *, only: Sequence[str] = (), from_: str = '',
    until: str = '',
) -> list[StageState]:
  """What `run` would do with each stage, in order; nothing is loaded or written.

  Args:
    config: a whole config, as a dict or a ConfigDict.
    workdir: where the stages' folders are, local or remote.
    only: the stages to run, and no others; the inputs that they read must be there.
    from_: run this stage and those that depend on it.
    until: run this stage and those that it depends on.

  Raises:
    UserError: the config cannot run, a name is not that of a stage, or a stage that is left out
      has not left what another one reads.
  """
  config = plain(config)
  check(config)
  stages = config['stages']
  only = list(filter(None, [only] if isinstance(only, str) else only))
  chosen = _choose(stages, only, from_, until)
  states: dict[str, StageState] = {}
  for name in _in_order(stages):
    found = _look(name, stages[name], states, Path(workdir) / name)
    if found.state != 'done' and name not in chosen:
      why = {'runs': 'not there', 'resumes': 'not finished',
             'evaluates': f'without evaluations{found.why}'}.get(
                 found.state, f'out of date{found.why}')
      found = dataclasses.replace(found, state='left out', why=f': {why}')
    states[name] = found
  for stage in states.values():
    for needed in stage.inputs:
      if stage.runs and states[needed].state == 'left out' and not _is_there(
          Path(workdir) / needed, states[needed].identity):
        raise UserError(f'stage {stage.name!r} reads {needed!r}, which is '
                         f'{states[needed]}; run {needed!r}, too, or first')
  return list(states.values())


def _is_there(folder: Path, wanted: str) -> bool:
  """Whether a folder has the result of this identity, perhaps not all evaluations."""
  if not (folder / 'manifest.json').exists():
    return False
  found = open_artifact(folder)
  return found.identity == wanted and not checksums.size_fault(folder, found.manifest.files)


def _choose(stages, only: Sequence[str], from_: str, until: str) -> set[str]:
  """The names of the stages that may run."""
  if only and (from_ or until):
    raise UserError('only goes with neither from nor until: give the one or the others')
  for word, names in (('only', only), ('from', [from_]), ('until', [until])):
    for name in filter(None, names):
      if name not in stages:
        raise UserError(f'{word}={name!r} is not a stage: {checks.did_you_mean(name, stages)}')
  needs: dict[str, set[str]] = {}
  for name in _in_order(stages):
    needs[name] = {name}.union(*(needs[needed] for needed in stages[name]['inputs']))
  chosen = {name for name in only or stages
            if (not from_ or from_ in needs[name]) and (not until or name in needs[until])}
  if not chosen:
    raise UserError(f'until={until!r} does not depend on from={from_!r}: nothing would run')
  return chosen


def _look(
    name: str, stage: Mapping[str, Any], states: Mapping[str, StageState], folder: Path,
) -> StageState:
  """What is to be done with a stage, by what is in its folder."""
  inputs = {needed: states[needed].identity for needed in stage['inputs']}
  settings = settings_of(stage)
  found = look(settings, stage, inputs, folder)
  return StageState(
      name, stage['kind'], tuple(inputs), found.wanted,
      _DOES[found.state], found.why, found.identity)


def listing(states: Sequence[StageState]) -> str:
  """What `state` returns, as a table in plain text."""
  rows = [('stage', 'kind', 'inputs', 'state')] + [
      (stage.name, stage.kind, ', '.join(stage.inputs) or '-', str(stage)) for stage in states]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def help_text(config: Mapping[str, Any]) -> str:
  """The fields of a whole config, with values, defaults and meanings."""
  config = plain(config)
  check(config)
  lines = ['[how]: changing it does not restart a run or invalidate a result.', '',
           f'config.seed = {config.get("seed", 0)!r}', f'    {_SEED.meaning}',
           *describe(MESH, MESH.default | config.get('mesh', {}), 'config.mesh')]
  for name, stage in config['stages'].items():
    settings = settings_of(stage)
    lines += ['', f'Stage {name!r} (kind {stage["kind"]!r}): {settings.meaning}.', '',
              *describe(settings, stage, f'config.stages.{name}')]
  return '\n'.join(lines)


def dry_run(
    config: Mapping[str, Any], workdir: str | Path, *, only: Sequence[str] = (), from_: str = '',
    until: str = '',
) -> str:
  """Checks all that `run` would check before it computes, and says what it would do.

  Nothing is written. Arguments and errors as for `run`.
  """
  config = plain(config)
  states = state(config, workdir, only=only, from_=from_, until=until)
  _preflight(config, states)
  settings = '\n'.join(line for name, stage in config['stages'].items()
                       for line in describe(settings_of(stage), stage, f'config.stages.{name}')
                       if not line.lstrip().startswith(' ') and ' = ' in line)
  return f'{settings}\n\n{listing(states)}'


def run(
    config: Mapping[str, Any], workdir: str | Path, *, only: Sequence[str] = (), from_: str = '',
    until: str = '', should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Artifact]:
  """Lists what the stages will do, runs them, and returns the Artifacts that are there by name.

  A stage whose Artifact is there already, with the same identity, is not run again, but for
  evaluations that it lacks; one that was interrupted goes on; one with another identity is moved
  aside and run again. A chain that evaluates more than one stage ends with `write_report`. The run
  owns `workdir` until it ends. Arguments as for `state`.

  Raises:
    UserError, FileNotFoundError: in one sentence, what is wrong, or who owns `workdir`.
    stages.stage.StopRequested: `should_stop` said so, and the stage has saved its state.
  """
  config = plain(config)
  _check_same(config)
  check(config)
  beside = [Path(workdir) / name for name in config['stages']]
  with ownership.owned(workdir, beside=beside):
    return _run(config, workdir, should_stop, only=only, from_=from_, until=until)


def _run(
    config: Mapping[str, Any], workdir: str | Path, should_stop: Callable[[], bool], **chosen: Any,
) -> dict[str, Artifact]:
  """What `run` does in a workdir that it owns."""
  states = hosts.from_first(lambda: state(config, workdir, **chosen))
  _say(listing(states))
  mesh = _preflight(config, states)
  artifacts: dict[str, Artifact] = {}
  for stage in states:
    if stage.state == 'left out' and not _is_there(Path(workdir) / stage.name, stage.identity):
      continue
    if not stage.runs:
      artifacts[stage.name] = open_artifact(Path(workdir) / stage.name)
      continue
    artifacts[stage.name] = _run_stage(
        config['stages'][stage.name], stage, artifacts, workdir, mesh, should_stop)
  if len(evaluation_scores(artifacts)) > 1:
    hosts.from_first(lambda: write_report(artifacts, workdir, stages=config['stages']))
  hosts.barrier()
  return artifacts


def _preflight(config: Mapping[str, Any], states: Sequence[StageState]) -> jax.sharding.Mesh:
  """Checks mesh, models and data of the stages that run; returns the mesh."""
  mesh = sharding.make_mesh(**config.get('mesh', {}))
  preflight.check(config['stages'], [stage.name for stage in states if stage.runs], KINDS, mesh)
  return mesh


def _run_stage(
    config: Mapping[str, Any], stage: StageState, artifacts: Mapping[str, Artifact],
    workdir: str | Path, mesh: jax.sharding.Mesh, should_stop: Callable[[], bool],
) -> Artifact:
  """Runs a stage, after moving an old result aside."""
  folder = Path(workdir) / stage.name
  hosts.from_first(lambda: _make_room(stage, folder, workdir))
  return KINDS[stage.kind].run(
      config, {needed: artifacts[needed] for needed in stage.inputs}, folder, stage=stage.name,
      mesh=mesh, should_stop=should_stop)


def _say(text: str) -> None:
  if hosts.is_first():
    print(printable(text), flush=True)


def _check_same(config: Mapping[str, Any]) -> None:
  if hosts.count() == 1:
    return
  first, *others = hosts.gather(fingerprint.fingerprint(config))
  for number, other in enumerate(others, start=1):
    if said := fingerprint.difference(first, other, number):
      raise UserError(said)


def _make_room(stage: StageState, folder: Path, workdir: str | Path) -> None:
  """Moves an old result aside, and says what runs."""
  if stage.replaces:
    old = _unused(workdir, f'{stage.name}.old-{stage.replaces[:8]}')
    folder.move_to(old)
    _say(f'stage {stage.name!r} {stage}; its old result is in {old}')
  _say(f'stage {stage.name!r} ({stage.kind}) in {folder}')


def _unused(workdir: str | Path, name: str) -> Path:
  """A folder of that name, or with a number behind it, that is not there yet."""
  path, number = Path(workdir) / name, 2
  while path.exists():
    path, number = Path(workdir) / f'{name}-{number}', number + 1
  return path
