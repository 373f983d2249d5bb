"""The protocol that every stage follows.

A stage is a module or package beside this one that offers

    SETTINGS    its fields, and DEFAULT, a config of their defaults
    check_data(config, tokenizer)       reads the data, to see that it can be read
    run(config, inputs, workdir, *, stage, mesh, should_stop, console) -> Artifact
    shapes(config, mesh, shape_of, *, mean_length)      its device programs, for `r1jax.plan`

`run` is decorated with `owns_folder`. It calls `begin` first, which checks the config and finds out
what is in the folder, and last `leave_artifact` (or `leave_files`). In between it saves checkpoints
whose `meta` has the run's `resume_identity`, and raises `StopRequested` after it was asked to stop
and has saved its state.

A stage's folder holds

    stage.json       what it was begun with: its config, and the identities of its inputs
    checkpoints/     what it needs to go on
    evaluations/     one JSON file for each evaluation, with an identity of its own
    judge_cache/     what judges on servers have replied
    model/           the result, in Hugging Face form
    manifest.json    written last: with it the folder is an Artifact

How results are known is in `artifact.py`.
"""
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import math
from typing import Any, NoReturn

import jax

from r1jax import checkpoint, checks, metrics
from r1jax.errors import UserError
from r1jax.models import ModelConfig, huggingface
from r1jax.models.compute import Compute
from r1jax.prompting import templates
from r1jax.runtime import checksums, hosts, ownership, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.stages.artifact import (
  Artifact,
  evaluation_identity,
  identities,
  identity,
  resume_identity,
)
from r1jax.stages.config import (
  Config,
  Entries,
  Field,
  Section,
  changed_fields,
  check_mesh,
  plain,
  refuse,
)
from r1jax.stages.contents import contents
from r1jax.stages.fields import check_rewards
from r1jax.stages.loading import check_models
from r1jax.tokenization import Tokenizer
from r1jax.training import finite


class StopRequested(Exception):
  """A stage was asked to stop, has saved what it needs to go on, and says so."""


@dataclasses.dataclass(frozen=True)
class StageRun:
  """A run of a stage in its folder: what `begin` has found and checked."""
  kind: str
  name: str                              # in config.stages
  settings: Section
  config: dict[str, Any]
  inputs: Mapping[str, Artifact]
  workdir: Path
  mesh: jax.sharding.Mesh
  should_stop: Callable[[], bool]
  console: Any                           # a rich console; None is standard output
  finished: bool                         # the result is there, but perhaps not all evaluations
  functions: Mapping[str, str] = dataclasses.field(default_factory=dict)   # identities, by name
  contents: Mapping[str, str] = dataclasses.field(default_factory=dict)    # of files, by path

  @property
  def where(self) -> str:
    """The path of its config, for messages."""
    return f'config.stages.{self.name}'

  @property
  def identity(self) -> str:
    """What its result is known by."""
    return identity(self.settings, self.config, identities(self.inputs), self.functions,
                    self.contents)

  @property
  def resume_identity(self) -> str:
    """What its checkpoints are known by."""
    return resume_identity(self.settings, self.config, identities(self.inputs), self.contents)

  def stop(self, step: int) -> NoReturn:
    """Raises StopRequested; the state after `step` is saved."""
    raise StopRequested(f'stage {self.name!r} was asked to stop: its state after step {step} is '
                        f'saved in {self.workdir}; run the same command to go on')


def owns_folder(run: Callable[..., Artifact]) -> Callable[..., Artifact]:
  """Makes a stage's `run` own its `workdir`, where it is not part of the run of a chain.

  Then `run` also raises UserError if another run owns the folder or the one that it is in.
  """
  @functools.wraps(run)
  def owning(
      config: Any, inputs: Mapping[str, Artifact], workdir: str | Path, **options: Any) -> Artifact:
    with ownership.owned(workdir, beside=[Path(workdir).parent]):
      return run(config, inputs, workdir, **options)
  return owning


def begin(
    kind: str, settings: Section, config: Any, inputs: Mapping[str, Artifact],
    workdir: str | Path, *, stage: str, mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
    functions: Mapping[str, str] | None = None,
) -> StageRun:
  """Checks a config and the stage's folder, and notes there what the run is begun with.

  Arguments as of the stages' `run`; `functions` as for `artifact.identity`.

  Raises:
    FileNotFoundError, UserError: the config cannot run, a model is missing or does not fit it,
      the mesh does not divide its batches, the machine lacks what a reward needs, or the folder
      holds a run of something else.
  """
  config = plain(config)
  refuse(checks.name_faults([stage], 'config.stages'))
  settings.check(config, f'config.stages.{stage}')
  mesh = mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  check_mesh(config, mesh, f'config.stages.{stage}')
  check_models(config, inputs, mesh, f'config.stages.{stage}')
  folder = Path(workdir)

  def prepare() -> FolderState:
    found = look(settings, config, identities(inputs), folder, functions)
    if found.state in ('new', 'resumes'):
      (folder / 'manifest.json').remove()    # of a result that is extended
      (folder / 'stage.json').write_text(checksums.seal(to_json({
          'config': config, 'inputs': identities(inputs), 'contents': found.contents,
          'identity': found.wanted, 'resume_identity': resume_identity(
              settings, config, identities(inputs), found.contents)})))
    return found

  found = hosts.from_first(prepare)
  if found.state == 'differs':
    raise UserError(f'{folder} holds another run of stage {stage!r}{found.why}: use the config '
                     'that it was begun with, or another workdir')
  hosts.together(lambda: _check_shared(folder))
  if found.state != 'done':
    check_rewards(config, f'config.stages.{stage}')

  def stop_or_refuse() -> bool:
    ownership.check()
    return should_stop()
  return StageRun(kind, stage, settings, config, inputs, folder, mesh, stop_or_refuse, console,
                  finished=found.state in ('done', 'evaluates'), functions=functions or {},
                  contents=found.contents)


def _check_shared(folder: Path) -> None:
  if not ((folder / 'stage.json').exists() or (folder / 'manifest.json').exists()):
    raise UserError(f'host {hosts.index()} does not see what host 0 wrote to {folder}: give a '
                     'workdir that all hosts share, a bucket or a disk')


# What a folder holds.


@dataclasses.dataclass(frozen=True)
class FolderState:
  """What is in a stage's folder, compared with what a config asks for.

  Attributes:
    state: 'new' (nothing is there), 'resumes' (a run goes on), 'done', 'evaluates' (done, but for
      some evaluations), or 'differs' (another result, or a run of another one).
    why: what follows the state in a sentence.
    identity: of what is there, where it differs.
    wanted: the identity of the result that the config asks for.
    contents: of the files that it names, see `stages.contents`.
  """
  state: str
  why: str = ''
  identity: str = ''
  wanted: str = ''
  contents: Mapping[str, str] = dataclasses.field(default_factory=dict)


def look(
    settings: Section, config: Config, inputs: Mapping[str, str], folder: Path,
    functions: Mapping[str, str] | None = None,
) -> FolderState:
  """Compares a stage's folder with what a config asks for; nothing is written.

  Args:
    settings: the stage's.
    config: the stage's.
    inputs: the identities of its inputs by name.
    folder: the stage's.
    functions: as for `artifact.identity`.

  Raises:
    UserError: a file that says what is there is damaged; the message names it.
  """
  begun = _begun(folder)
  found = contents(settings, config, inputs, begun.get('contents'))
  wanted = identity(settings, config, inputs, functions, found)
  exported = _exported_as(settings, config, begun.get('config'))
  trained = identity(settings, exported, inputs, functions, found)
  state = _state(settings, config, inputs, folder, begun, wanted, trained, found)
  return dataclasses.replace(state, wanted=wanted, contents=found)


def _state(
    settings: Section, config: Config, inputs: Mapping[str, str], folder: Path,
    begun: Mapping[str, Any], wanted: str, trained: str, found: Mapping[str, str],
) -> FolderState:
  """As `look`, given what the stage was begun with, and what is asked for.

  `trained` is the identity that is asked for, but with the result exported as it was before.
  """
  manifest = checkpoint.read_manifest(folder) if (folder / 'manifest.json').exists() else None
  step, meta = _last_checkpoint(folder)
  if begun and step is not None and meta.get('identity') != begun['resume_identity']:
    raise UserError(f'{folder / "checkpoints" / step} is of another run than {folder}/stage.json '
                    'says: remove what does not belong there, or move the folder away')
  lost = ''
  if manifest and manifest.identity == wanted:
    lost = checksums.size_fault(folder, manifest.files)
    if not lost:
      return _missing_evaluations(settings, config, manifest.identity, inputs, folder)
  there = begun.get('resume_identity') or meta.get('identity', '')
  if there == resume_identity(settings, config, inputs, found):
    return _resume(settings, config, begun.get('config'), step,
                   finished=manifest is not None and not lost, lost=lost,
                   is_trained=manifest is not None and manifest.identity == trained)
  if manifest is None and step is None:    # nothing is lost by beginning again
    return FolderState('new')
  if begun:
    why = _difference(settings, config, inputs, begun, found)
  else:
    why = ': its config changed'
  return FolderState(
      'differs', why, manifest.identity if manifest else begun.get('identity', there))


def _begun(folder: Path) -> dict[str, Any]:
  """What `stage.json` holds; nothing where it is not there, or is torn and stands alone."""
  path = folder / 'stage.json'
  if not path.exists():
    return {}
  try:
    begun = checksums.unseal(path.read_bytes())
    if begun.keys() >= {'config', 'inputs', 'identity', 'resume_identity'}:
      return begun
    raise ValueError('is of another version of r1jax')
  except ValueError as error:
    if not (folder / 'manifest.json').exists() and _last_checkpoint(folder)[0] is None:
      return {}
    raise UserError(f'{path} {error}: remove it, and the stage goes on from what its manifest or '
                    'its last checkpoint says, or move the folder away') from None


def _last_checkpoint(folder: Path) -> tuple[int | None, dict[str, Any]]:
  with checkpoint.Checkpointer(folder / 'checkpoints') as checkpoints:
    step = checkpoints.latest_step()
    return step, {} if step is None else checkpoints.read_meta(step)


def _missing_evaluations(
    settings: Section, config: Config, trained: str, inputs: Mapping[str, str], folder: Path,
) -> FolderState:
  """The state of a finished stage: are there evaluations that it lacks?"""
  evaluations = wanted_evaluations(settings, config, trained, inputs, folder)
  missing = [name for name, wanted in evaluations.items()
             if read_evaluation(folder, name).get('identity') != wanted['identity']]
  return FolderState('evaluates', f': {", ".join(missing)}') if missing else FolderState('done')


def wanted_evaluations(
    settings: Section, config: Config, trained: str, inputs: Mapping[str, str], folder: Path,
) -> dict[str, dict[str, Any]]:
  """By the names of a stage's evaluations, as for `wanted_evaluation`."""
  entries = settings.fields.get('evaluations')
  if not isinstance(entries, Entries):
    return {}
  return {name: wanted_evaluation(entries.section, name, one, trained, inputs, folder)
          for name, one in config['evaluations'].items()}


def wanted_evaluation(
    section: Section, name: str, config: Config, trained: str, inputs: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
  """What an evaluation's file is to say of it: its `identity`, and the `contents` of its files.

  Args:
    section: the settings of an evaluation.
    name: of the evaluation.
    config: its config.
    trained: the identity of the stage whose model 'trained' is.
    inputs: identities of earlier stages by name.
    folder: of its stage.
  """
  found = contents(section, config, inputs, read_evaluation(folder, name).get('contents'))
  return {'identity': evaluation_identity(section, config, trained, inputs, found),
          'contents': found}


def read_evaluation(folder: Path, name: str) -> dict[str, Any]:
  """What an evaluation has left in a stage's folder; empty if there is nothing, or not all of it.

  Raises:
    UserError: its file is not as it was written.
  """
  folder = folder / 'evaluations'
  path = folder / f'{name}.json'
  if not path.exists():
    return {}
  try:
    found = checksums.unseal(path.read_bytes())
    if not found.keys() >= {'identity', 'contents', 'parameters', 'scores', 'compute', 'files'}:
      raise ValueError('is of another version of r1jax')
  except ValueError as error:
    raise UserError(f'{path} {error}: remove it, and the evaluation runs again') from None
  return {} if checksums.size_fault(folder, found['files']) else found


def write_evaluation(
    folder: Path, name: str, rows: Iterable[Mapping[str, Any]], found: Mapping[str, Any]) -> None:
  """Writes an evaluation's completions into a stage's folder, then what else was found."""
  folder = folder / 'evaluations'
  samples = ''.join(to_json(row) + '\n' for row in rows).encode('utf-8', 'backslashreplace')
  (folder / f'{name}.jsonl').write_bytes(samples)
  files = {f'{name}.jsonl': checksums.of_bytes(samples)}
  (folder / f'{name}.json').write_text(checksums.seal(to_json({**found, 'files': files})))


def _resume(
    settings: Section, config: Config, before: Config | None, step: int | None, *, finished: bool,
    lost: str, is_trained: bool,
) -> FolderState:
  """The state of a folder whose run differs at most in fields that may change while it goes on.

  `is_trained` says whether a finished one differs only in how its result is exported.
  """
  at, raised = ', no step is saved' if step is None else f' at step {step}', ''
  for name, field in settings.fields.items():
    if before and isinstance(field, Field) and field.extends:
      old, new = (value if isinstance(value := one.get(name) or math.inf, (int, float))
                  else math.inf for one in (before, config))
      if step is not None and new < step:
        return FolderState('differs', f': config.{name} was lowered from {before.get(name)} to '
                                      f'{config[name]}')
      if finished and new > old:
        raised = f', config.{name} was raised from {before.get(name)} to {config[name]}'
  if finished and step is None:
    return FolderState('differs', ': its checkpoints are not there')
  if finished and not raised and not is_trained:
    return FolderState('differs', ': its reward functions changed')
  if before and _exported_as(settings, config, before) != config:
    at += ', to export its result in another type'
  return FolderState('resumes', at + raised + (f', {lost}' if lost else ''))


def _exported_as(settings: Section, config: Config, before: Config | None) -> Config:
  """The config with the fields of another one that decide how the result is exported."""
  before = before or {}
  return {**config, **{name: before[name] for name, field in settings.fields.items()
                       if isinstance(field, Field) and field.exports and name in before}}


def _difference(
    settings: Section, config: Config, inputs: Mapping[str, str], begun: Mapping[str, Any],
    found: Mapping[str, str],
) -> str:
  changed = changed_fields(settings, begun['config'], config, 'config')
  if changed:
    reasons = {field.restart for name, field in settings.fields.items()
               if isinstance(field, Field) and field.restart and f'config.{name}' in changed}
    return f': {", ".join(changed)} changed' + ''.join(
        f' ({reason}, so it starts again)' for reason in sorted(reasons))
  before = begun.get('contents', {})
  other = [path for path in sorted(before.keys() | found) if before.get(path) != found.get(path)]
  if other:
    return f': what is in {", ".join(other)} changed'
  new = next((name for name in inputs if begun['inputs'].get(name) != inputs[name]), '')
  return f' because its input {new!r} is new' if new else ': its inputs changed'


# What every run does last.


def draw_curves(workdir: Path) -> None:
  """Draws `curves.png` of the metrics in `workdir`."""
  hosts.from_first(lambda: metrics.plot_curves(metrics.read_metrics(workdir),
                                               workdir / 'curves.png'))


def leave_artifact(
    run: StageRun, *, model: ModelConfig, params: Any, tokenizer: Tokenizer, template: str,
    scores: Mapping[str, Any], compute: Compute, dtype: str = 'float32',
    more_files: tuple[str, ...] = (),
) -> Artifact:
  """Exports the model to the folder's `model` in Hugging Face form, and writes the manifest.

  Args:
    run: of the stage.
    model: the model's shape.
    params: its parameters.
    tokenizer: exported with it; what ends a turn of the template becomes one of its stop ids.
    template: the name of the prompt template that it was trained with.
    scores: what was measured, by name.
    compute: what the stage took.
    dtype: of the exported weights.
    more_files: others that the manifest lists, which are in the folder already.

  Raises:
    UserError: the parameters are not finite.
  """
  folder = run.workdir
  if broken := finite.not_finite(params, dtype):
    raise UserError(
        f'stage {run.name!r} leaves no model: as {dtype} its parameters {", ".join(broken[:3])} '
        'hold NaN or infinity; train again with a lower learning rate, or from another model')
  hosts.from_first((folder / 'model').remove)
  tokenizer = tokenizer.stopping_at(templates.stop_ids(
      templates.PromptFormat(template, **run.config.get('prompt', {})), tokenizer))
  sums = huggingface.export(folder / 'model', model, params, tokenizer=tokenizer, dtype=dtype)
  return leave_files(
      run, files=more_files, summed={f'model/{name}': found for name, found in sums.items()},
      template=template, scores=scores, compute=compute, model=model.to_dict(),
      tokenizer=tokenizer.source)


def leave_files(
    run: StageRun, *, files: tuple[str, ...], template: str, scores: Mapping[str, Any],
    compute: Compute, summed: Mapping[str, checksums.Sum] | None = None, **more: Any,
) -> Artifact:
  """Writes the manifest, with which the folder is an Artifact.

  Args:
    run: of the stage.
    files: what it has left, relative to the folder.
    template: the name of the prompt template that it used.
    scores: what was measured, by name.
    compute: what the stage took.
    summed: other files that it has left, with their sums.
    more: other fields of the manifest.
  """
  ownership.check()
  manifest = checkpoint.Manifest(
      kind=run.kind, stage=run.name, identity=run.identity, parents=identities(run.inputs),
      template=template, prompt=run.config.get('prompt', {}), scores=dict(scores),
      compute=compute.to_dict(),
      files={**(summed or {}), **checksums.gathered(run.workdir, files)}, **more)
  hosts.from_first(lambda: checkpoint.write_manifest(run.workdir, manifest))
  return Artifact(run.workdir, manifest)
