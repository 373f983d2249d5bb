"""Chains stages: each reads earlier Artifacts by name and leaves its own in `workdir/<name>`.

A stage's result is known by its identity: the hash of its config and, where it reads other stages,
of their identities. So a change reaches all that depends on it, and nothing else. What a stage was
begun with is kept in `<name>/stage.json`; a result that a rerun replaces is moved to
`<name>.old-<identity>`. Data are known by their place alone: who changes a file in it and wants
the stage to run again moves the stage's folder away.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

from r1jax import checkpoint
from r1jax.report import data as report_data
from r1jax.report import page as report
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.stages import evaluate, pretrain, reject, reward_model, rl, sft
from r1jax.stages.config import check_choice, check_config, check_mesh, nearest, plain
from r1jax.stages.stage import Artifact, open_artifact

KINDS = {'pretrain': pretrain, 'sft': sft, 'reject': reject, 'reward_model': reward_model, 'rl': rl,
         'evaluate': evaluate}
# Each stage has its own seed, too.
_TOP = dict(seed=0, stages={}, mesh=dict.fromkeys(sharding.AXES, 1))


@dataclasses.dataclass(frozen=True)
class Planned:
  """What `run` would do with a stage."""
  name: str
  kind: str
  inputs: tuple[str, ...]
  identity: str                      # of the result that its config asks for
  state: str                         # 'done', 'resumes', 'runs', 'runs again' or 'left out'
  why: str = ''                      # what follows the state in a sentence
  replaces: str = ''                 # the identity of a result that is to be moved aside

  def __str__(self) -> str:
    return self.state + self.why


def check(config: Mapping[str, Any]) -> None:
  """Refuses a config that cannot run, before anything is loaded.

  Raises:
    ValueError: naming the field and what it could be.
  """
  config = {'seed': 0} | dict(config)
  if isinstance(config.get('mesh'), Mapping):
    config['mesh'] = _TOP['mesh'] | dict(config['mesh'])
  check_config(config, _TOP, 'config')
  stages = config['stages']
  if not stages:
    raise ValueError('config.stages is empty: name at least one stage')
  for name, stage in stages.items():
    if not isinstance(stage, Mapping):
      raise ValueError(f'config.stages.{name}={stage!r} is no stage: give it a kind and its fields')
    kind = stage.get('kind')
    check_choice(kind, KINDS, f'config.stages.{name}.kind')
    KINDS[kind].check(stage, f'config.stages.{name}')
    for needed in stage['inputs']:
      if needed not in stages:
        raise ValueError(f'config.stages.{name}.inputs names {needed!r}, which is no stage: did '
                         f'you mean {nearest(needed, stages)!r}?')
    for path, source in _sources(stage, f'config.stages.{name}'):
      if source in stages and source not in stage['inputs']:
        raise ValueError(f'{path}={source!r} is a stage that config.stages.{name}.inputs '
                         f'lacks: add it there')
  _in_order(stages)


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
    ValueError: they form a cycle.
  """
  order, rest = [], list(stages)
  while rest:
    name = next((name for name in rest if set(stages[name]['inputs']) <= set(order)), None)
    if name is None:
      path, name = [], rest[0]
      while name not in path:
        path.append(name)
        name = next(needed for needed in stages[name]['inputs'] if needed in rest)
      cycle = [*path[path.index(name):], name]
      reads = ', '.join(f'{one!r} reads {other!r}' for one, other in zip(cycle, cycle[1:]))
      raise ValueError(f'config.stages has a cycle ({reads}): take one of these inputs away')
    order.append(name)
    rest.remove(name)
  return order


def plan(
    config: Mapping[str, Any], workdir: str | Path, *, only: Sequence[str] = (), from_: str = '',
    until: str = '',
) -> list[Planned]:
  """What `run` would do with each stage, in order; nothing is loaded or written.

  Args:
    config: a whole config, as a dict or a ConfigDict.
    workdir: where the stages' folders are, local or remote.
    only: the stages to run, and no others; the inputs that they read must be there.
    from_: run this stage and those that depend on it.
    until: run this stage and those that it depends on.

  Raises:
    ValueError: the config cannot run, a name is no stage's, or a stage that is left out has not
      left what another one reads.
  """
  config = plain(config)
  check(config)
  stages = config['stages']
  only = list(filter(None, [only] if isinstance(only, str) else only))
  chosen = _choose(stages, only, from_, until)
  planned: dict[str, Planned] = {}
  for name in _in_order(stages):
    found = _look(name, stages[name], planned, Path(workdir) / name)
    if found.state != 'done' and name not in chosen:
      why = {'runs': 'not there', 'resumes': 'not finished'}.get(
          found.state, f'out of date{found.why}')
      found = dataclasses.replace(found, state='left out', why=f': {why}')
    planned[name] = found
  for stage in planned.values():
    for needed in stage.inputs:
      if stage.state not in ('done', 'left out') and planned[needed].state == 'left out':
        raise ValueError(f'stage {stage.name!r} reads {needed!r}, which is '
                         f'{planned[needed]}; run {needed!r}, too, or first')
  return list(planned.values())


def _choose(stages, only: Sequence[str], from_: str, until: str) -> set[str]:
  """The names of the stages that may run."""
  if only and (from_ or until):
    raise ValueError('only goes with neither from nor until: give the one or the others')
  for word, names in (('only', only), ('from', [from_]), ('until', [until])):
    for name in filter(None, names):
      check_choice(name, stages, word)
  needs: dict[str, set[str]] = {}
  for name in _in_order(stages):
    needs[name] = {name}.union(*(needs[needed] for needed in stages[name]['inputs']))
  chosen = {name for name in only or stages
            if (not from_ or from_ in needs[name]) and (not until or name in needs[until])}
  if not chosen:
    raise ValueError(f'until={until!r} does not depend on from={from_!r}: nothing would run')
  return chosen


def _look(name: str, stage, planned: Mapping[str, Planned], folder: Path) -> Planned:
  """What is to be done with a stage, by what is in its folder."""
  inputs = {needed: planned[needed].identity for needed in stage['inputs']}
  config_hash = checkpoint.config_hash(stage)
  make = lambda state, why='', replaces='': Planned(
      name, stage['kind'], tuple(inputs), _identity(config_hash, inputs), state, why, replaces)
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    step = checkpoints.latest_step()
    meta = {} if step is None else checkpoints.read_meta(step)
  finished = (folder / 'manifest.json').exists()
  manifest = checkpoint.read_manifest(folder) if finished else None
  if (folder / 'stage.json').exists():
    found = json.loads((folder / 'stage.json').read_text())
  elif finished:   # run without a pipeline, as from a notebook; so is the next
    found = {'config': None, 'inputs': dict(zip(inputs, manifest.parents))}
  elif meta:
    found = {'config': None, 'inputs': inputs, 'config_hash': meta['config_hash']}
  else:
    return make('runs')
  if finished:
    found['config_hash'] = manifest.config_hash
  replaces = _identity(found['config_hash'], found['inputs'])
  if found['config_hash'] != config_hash:
    changed = checkpoint.changed_fields(found['config'], json.loads(to_json(stage))) if (
        found['config']) else []
    return make('runs again', f': {", ".join(changed) or "its config"} changed', replaces)
  if found['inputs'] != inputs:
    new = next(needed for needed in inputs if found['inputs'].get(needed) != inputs[needed])
    return make('runs again', f' because its input {new!r} is new', replaces)
  if finished:
    return make('done')
  return make('resumes', ', no step is saved' if step is None else f' at step {step}')


def _identity(config_hash: str, inputs: Mapping[str, str]) -> str:
  return checkpoint.config_hash({'config': config_hash, 'inputs': inputs}) if inputs else config_hash


def listing(planned: Sequence[Planned]) -> str:
  """A plan as a table in plain text."""
  rows = [('stage', 'kind', 'inputs', 'state')] + [
      (stage.name, stage.kind, ', '.join(stage.inputs) or '-', str(stage)) for stage in planned]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def run(
    config: Mapping[str, Any], workdir: str | Path, *, only: Sequence[str] = (), from_: str = '',
    until: str = '', should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Artifact]:
  """Lists what the stages will do, runs them, and returns the Artifacts that are there by name.

  A stage whose Artifact is there already, of the same config and the same inputs, is not run
  again; one that was interrupted goes on; one of another config or other inputs is moved aside
  and run again. A chain that evaluates more than one stage ends with `report.write`. Arguments as
  of `plan`.

  Raises:
    ValueError, FileNotFoundError: in one sentence, what is wrong.
    stages.StopRequested: `should_stop` said so, and the stage has saved its state.
  """
  config = plain(config)
  _check_same(config)
  planned = hosts.from_first(lambda: plan(config, workdir, only=only, from_=from_, until=until))
  _say(listing(planned))
  mesh = sharding.make_mesh(**config['mesh'])
  for step in planned:
    if step.state not in ('done', 'left out'):
      check_mesh(config['stages'][step.name], mesh, f'config.stages.{step.name}')
  artifacts: dict[str, Artifact] = {}
  for step in planned:
    name, folder, stage = step.name, Path(workdir) / step.name, config['stages'][step.name]
    if step.state == 'left out':
      continue
    if step.state == 'done':
      artifacts[name] = open_artifact(folder)
      continue
    identities = {other.name: other.identity for other in planned if other.name in step.inputs}
    hosts.from_first(lambda: _begin(step, stage, identities, folder, workdir))
    hosts.together(lambda: _check_shared(folder))
    artifacts[name] = KINDS[step.kind].run(
        stage, {needed: artifacts[needed] for needed in step.inputs}, folder, stage=name, mesh=mesh,
        should_stop=should_stop)
  if len(report_data.scores(artifacts)) > 1:
    hosts.from_first(lambda: report.write(artifacts, workdir, stages=config['stages']))
  hosts.barrier()
  return artifacts


def _say(text: str) -> None:
  if hosts.is_first():
    print(text, flush=True)


def _check_same(config: Mapping[str, Any]) -> None:
  first, *others = hosts.gather(checkpoint.config_hash(config, exclude=()))
  for number, other in enumerate(others, start=1):
    if other != first:
      raise ValueError(f'host {number} was started with another config than host 0: give all hosts '
                       'the same command')


def _begin(
    step: Planned, stage: Mapping[str, Any], identities: Mapping[str, str], folder: Path,
    workdir: str | Path,
) -> None:
  """Moves an old result aside, and writes what the stage is begun with."""
  if step.replaces:
    old = _unused(workdir, f'{step.name}.old-{step.replaces[:8]}')
    folder.move_to(old)
    _say(f'stage {step.name!r} {step}; its old result is in {old}')
  _say(f'stage {step.name!r} ({step.kind}) in {folder}')
  (folder / 'stage.json').write_text(to_json({
      'config_hash': checkpoint.config_hash(stage), 'inputs': identities, 'config': stage}))


def _check_shared(folder: Path) -> None:
  if not (folder / 'stage.json').exists():
    raise ValueError(f'host {hosts.index()} does not see what host 0 wrote to {folder}: give a '
                     'workdir that all hosts share, a bucket or a disk')


def _unused(workdir: str | Path, name: str) -> Path:
  """A folder of that name, or with a number behind it, that is not there yet."""
  path, number = Path(workdir) / name, 2
  while path.exists():
    path, number = Path(workdir) / f'{name}-{number}', number + 1
  return path
