"""What a finished stage leaves, and how results are known.

A result is known by its *identity*: a hash of the settings that decide what is computed, of the
identities of the inputs that they name, and of what is in the files that they name. All other
settings, the mesh and the evaluations are not part of it; each evaluation has an identity of its
own. The *resume identity* also leaves out what may change while a run goes on: fields that may be
raised (`steps`), the type of exported weights, and functions from a notebook.
"""
from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import json
from typing import Any

from r1jax import checkpoint
from r1jax.errors import UserError
from r1jax.runtime import checksums
from r1jax.runtime.storage import Path
from r1jax.stages.config import Config, Field, Section, plain

TRAINED = 'trained'   # as an evaluation's `model.source`: the model that the stage has trained


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A finished stage's folder and what its manifest says."""
  folder: Path
  manifest: checkpoint.Manifest

  @property
  def model_folder(self) -> Path:
    """Where the stage's model is, in Hugging Face form."""
    return self.folder / 'model'

  @property
  def identity(self) -> str:
    """What the result is known by."""
    return self.manifest.identity

  def check(self, part: str) -> None:
    """Compares files with the manifest's checksums; all hosts call this together.

    Args:
      part: the file, or the folder of the files, such as 'model'.

    Raises:
      UserError: one is not as the stage has written it.
    """
    files = {name: found for name, found in self.manifest.files.items()
             if name == part or name.startswith(f'{part}/')}
    fault = checksums.fault(self.folder, files)
    if fault:
      raise UserError(f'the result of stage {self.manifest.stage!r} in {self.folder} is damaged '
                      f'({fault}): remove {self.folder / part} and run the same command, which '
                      'writes it again')


def open_artifact(folder: str | Path) -> Artifact:
  """The Artifact in a folder; raises as `checkpoint.read_manifest` does."""
  return Artifact(Path(folder), checkpoint.read_manifest(folder))


def identities(inputs: Mapping[str, Artifact]) -> dict[str, str]:
  """The identities of Artifacts by name."""
  return {name: artifact.identity for name, artifact in inputs.items()}


def identity(
    settings: Section, config: Config, inputs: Mapping[str, str],
    functions: Mapping[str, str] | None = None, contents: Mapping[str, str] | None = None,
) -> str:
  """The identity of the result that a config asks for.

  Args:
    settings: the stage's.
    config: the stage's.
    inputs: identities of earlier stages by name.
    functions: identities of functions that stand in for settings, by name.
    contents: of files that the config names, see `stages.contents`.
  """
  computed = settings.computed(config)
  used = _used_inputs(settings, config, inputs)
  computed['inputs'] = sorted(used)
  given = {name: dict(value) for name, value in (
      ('functions', functions), ('contents', contents)) if value}
  return _hash({'config': computed, 'inputs': used} | given)


def resume_identity(
    settings: Section, config: Config, inputs: Mapping[str, str],
    contents: Mapping[str, str] | None = None,
) -> str:
  """As `identity`, without what may change while a run goes on: some fields, and functions.

  A reward function that failed can be fixed, and the run goes on from its last checkpoint.
  """
  extends = {name for name, field in settings.fields.items()
             if isinstance(field, Field) and (field.extends or field.exports)}
  return identity(settings, {name: value for name, value in config.items() if name not in extends},
                  inputs, contents=contents)


def evaluation_identity(
    section: Section, config: Config, trained: str, inputs: Mapping[str, str],
    contents: Mapping[str, str] | None = None,
) -> str:
  """The identity of an evaluation.

  Args:
    section: the settings of an evaluation.
    config: its config.
    trained: the identity of the stage whose model 'trained' is.
    inputs: identities of earlier stages by name.
    contents: as for `identity`.
  """
  source = config['model']['source']
  given = {'contents': dict(contents)} if contents else {}
  return _hash({'config': section.computed(config),
                'model': trained if source == TRAINED else inputs.get(source, source)} | given)


def _used_inputs(
    settings: Section, config: Config, inputs: Mapping[str, str],
) -> dict[str, str]:
  """The inputs without those that only evaluations name."""
  computed = set(_words(settings.computed(config) | {'inputs': ()}))
  measured = set(_words(config.get('evaluations', {})))
  return {name: found for name, found in inputs.items() if name in computed or name not in measured}


def _words(value: Any) -> Iterator[str]:
  """All strings of a config, at any depth."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping):
    for item in value.values():
      yield from _words(item)
  elif isinstance(value, (list, tuple)):
    for item in value:
      yield from _words(item)


def _hash(value: Any) -> str:
  """16 hexadecimal digits of the SHA-256 of canonical JSON; TypeError for what is not JSON."""
  canonical = json.dumps(plain(value), sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(canonical.encode()).hexdigest()[:16]
