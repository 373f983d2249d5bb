"""Checkpoints of a run (Orbax), and the manifest of the Artifact that a stage leaves behind.

A checkpoint is the folder `<directory>/<step>`. Orbax writes the arrays, one sub-folder an item;
when all is in place, `checkpoint.json` is written: the caller's `meta`, every leaf's shape and
type, every file's size. Only with that file is the folder a checkpoint, on a disk as in a bucket,
so a kill at any moment leaves the step before it in force, and a torn folder is known unread.

A torn checkpoint is refused, never passed over: falling back silently would repeat work under the
same names. Who wants the step before it removes the torn folder, as the message says.
"""
from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
import json
import os
import re
import tempfile
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from r1jax.runtime.storage import Path, to_json

PyTree = Any
_MARKER = 'checkpoint.json'


class Checkpointer:
  """Saves and restores the checkpoints in `directory`; reading changes nothing there.

  Args:
    directory: local, `gs://`, or another URL of fsspec. Orbax writes to the first two itself; for
      others a step is written to a local folder and copied, which takes one process.
    keep: how many of the latest checkpoints stay; older ones are removed once a newer is complete.

  `save` returns while files are being written; call `wait` (or leave the `with` block) at the end.
  """

  def __init__(self, directory: str | Path, *, keep: int = 2):
    if keep < 1:
      raise ValueError(f'keep={keep} would leave no checkpoint to resume from: keep at least 1')
    self.directory = Path(directory)
    self._staged = not self.directory.is_local and not str(self.directory).startswith('gs://')
    if self._staged and jax.process_count() > 1:
      raise ValueError(f'{jax.process_count()} processes cannot share checkpoints in '
                       f'{self.directory}: use a gs:// path or a shared disk')
    self._keep = keep
    self._orbax = None
    self._thread = ThreadPoolExecutor(1, 'checkpoint')
    self._pending: Future | None = None

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def steps(self) -> list[int]:
    """The steps with a complete checkpoint, ascending."""
    names = (path.name for path in self.directory.iterdir() if (path / _MARKER).exists())
    return sorted(int(name) for name in names if name.isdigit())

  def latest_step(self) -> int | None:
    """The last complete checkpoint's step, or None."""
    return max(self.steps(), default=None)

  def read_meta(self, step: int) -> dict:
    """The `meta` that was saved with this step."""
    return self._record(step)['meta']

  def save(self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> None:
    """Begins to save a checkpoint, and returns once everything is copied off the devices.

    Waits for the save before it, and raises what went wrong there. The arrays may be donated or
    changed when this returns.

    Args:
      step: a step that has no checkpoint yet.
      items: pytrees of arrays (sharded ones and typed random keys included), each of which can be
        restored without the others.
      meta: what JSON can hold.

    Raises OSError where something cannot be written; the checkpoints before it are then intact.
    """
    self.wait()
    if step in self.steps():
      raise ValueError(f'{self.directory} has a checkpoint of step {step} already: '
                       'resume from it, or choose another workdir')
    record = dict(meta=json.loads(to_json(meta)),
                  items={name: _describe(tree) for name, tree in items.items()})
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
      self._clean()  # what a killed run left
    stage = tempfile.TemporaryDirectory() if self._staged else None
    folder = Path(stage.name if stage else self.directory) / step
    args = {name: ocp.args.StandardSave({'tree': tree}) for name, tree in items.items()}
    try:
      with jax.transfer_guard_device_to_host('allow'):   # Orbax copies without device_get
        self._orbax.save(str(folder), args=ocp.args.Composite(**args))
    except Exception as error:
      raise self._failure(step, error) from error
    self._pending = self._thread.submit(self._commit, step, folder, record, stage)

  def wait(self) -> None:
    """Returns when the save under way is complete; raises what went wrong in it."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Waits as `wait` does, and ends the background threads."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      if self._orbax is not None:
        self._orbax.close()

  def restore(self, step: int, templates: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Reads the items named in `templates`, bit for bit as they were saved.

    Args:
      step: the checkpoint's step.
      templates: per item a pytree of arrays or of `jax.ShapeDtypeStruct`, which says structure,
        shapes, types, and on which sharding to put each leaf: it may be another mesh than the one
        saved from. Without sharding a leaf goes to the first device; NumPy's stay NumPy's.

    Raises FileNotFoundError where there is no such checkpoint; ValueError where it is torn, or
    where a template does not fit, naming the leaf.
    """
    record = self._record(step)
    folder = self.directory / step
    for name, template in templates.items():
      if name not in record['items']:
        raise ValueError(f'the checkpoint {folder} has no item {name!r}, only '
                         f'{", ".join(sorted(record["items"]))}: ask for one of these')
      _check_fit(f'item {name!r} of the checkpoint {folder}', record['items'][name],
                 _describe(template))
      sizes = (folder / name).file_sizes()
      for file, size in record['files'][name].items():
        if sizes.get(file) != size:
          raise self._torn(step, f'{name}/{file} has {sizes.get(file, 0)} of its {size} bytes')
    args = {name: ocp.args.StandardRestore({'tree': jax.tree.map(_abstract, template)})
            for name, template in templates.items()}
    with tempfile.TemporaryDirectory() as stage:
      if self._staged:
        for name in templates:
          (folder / name).copy_to(Path(stage) / name)
        folder = Path(stage)
      try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
          restored = orbax.restore(str(folder), args=ocp.args.Composite(**args))
      except Exception as error:   # Orbax raises no narrower one
        raise ValueError(
            f'the checkpoint {self.directory / step} cannot be read ({_cause(error)}): mend that '
            f'or, if its files are damaged, {self._without(step)}') from error
    return {name: restored[name]['tree'] for name in templates}

  def _record(self, step: int) -> dict:
    path = self.directory / step / _MARKER
    if not path.exists():
      steps = ', '.join(map(str, self.steps())) or 'none'
      raise FileNotFoundError(f'{self.directory} has no checkpoint of step {step}: '
                              f'choose among its steps ({steps}) or another directory')
    try:
      record = json.loads(path.read_text())
      return {key: record[key] for key in ('meta', 'items', 'files')}
    except (ValueError, KeyError, TypeError) as error:
      raise self._torn(step, f'{_MARKER} cannot be read') from error

  def _torn(self, step: int, why: str) -> ValueError:
    return ValueError(f'the checkpoint {self.directory / step} is torn ({why}): '
                      f'{self._without(step)}')

  def _without(self, step: int) -> str:
    before = max((other for other in self.steps() if other < step), default=None)
    rest = 'start anew' if before is None else f'go on from step {before}'
    return f'remove that folder to {rest}'

  def _commit(self, step: int, folder: Path, record: dict, stage) -> None:
    """In the background: waits for Orbax, makes the folder a checkpoint, removes the oldest."""
    try:
      self._orbax.wait_until_finished()
      if jax.process_index() != 0:
        return
      record['files'] = {name: (folder / name).file_sizes() for name in record['items']}
      if stage:
        folder.copy_to(self.directory / step)
      (self.directory / step / _MARKER).write_text(to_json(record))
      for old in self.steps()[:-self._keep]:
        (self.directory / old / _MARKER).remove()
        (self.directory / old).remove()
    except Exception as error:
      raise self._failure(step, error) from error
    finally:
      if stage:
        stage.cleanup()

  def _failure(self, step: int, error: Exception) -> OSError:
    with contextlib.suppress(OSError):   # where Orbax still writes; the next save cleans up
      self._clean()
    return OSError(f'the checkpoint of step {step} could not be written to {self.directory} '
                   f'({_cause(error)}): those before it are intact, so mend that and run again')

  def _clean(self) -> None:
    """Removes the folders of saves that were never completed."""
    if jax.process_index() == 0:
      for path in self.directory.iterdir():
        if path.name.split('.')[0].isdigit() and not (path / _MARKER).exists():
          path.remove()


def _cause(error: BaseException) -> str:
  """What the innermost of chained errors says, in short."""
  while error.__cause__ is not None:
    error = error.__cause__
  code = re.search(r"os_error_code='(\d+)'", str(error))   # as TensorStore ends a long story
  return os.strerror(int(code[1])) if code else (
      str(error).splitlines() or [type(error).__name__])[0]


def _describe(tree: PyTree) -> dict[str, str]:
  """Every leaf's type and shape by its path, as in {'layers/w': 'float32[2,4]'}."""
  described = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if not hasattr(leaf, 'dtype'):
      raise TypeError(f'leaf {name!r} is {leaf!r} ({type(leaf).__name__}): '
                      'make it an array, or put it into meta')
    described[name] = f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
  return described


def _check_fit(what: str, saved: dict[str, str], template: dict[str, str]) -> None:
  for leaf in sorted(saved.keys() | template.keys()):
    if saved.get(leaf) != template.get(leaf):
      raise ValueError(
          f'{what} does not fit its template: leaf {leaf!r} is {saved.get(leaf, "missing")} in the '
          f'checkpoint and {template.get(leaf, "missing")} in the template; '
          'use the model and optimiser settings it was saved with')


def _abstract(leaf):
  if isinstance(leaf, (np.ndarray, np.generic)):
    return leaf
  sharding = getattr(leaf, 'sharding', None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What an Artifact, the folder that a stage leaves behind, is and where it came from."""
  kind: str                          # the stage's kind: 'pretrain', 'rl', ...
  stage: str                         # its name in config.stages
  identity: str                      # of `stages.stage.identity`
  parents: dict = dataclasses.field(default_factory=dict)   # identities of its inputs by name
  model: dict = dataclasses.field(default_factory=dict)   # the model's configuration
  tokenizer: str = ''
  template: str = ''                 # the prompt template's name
  files: tuple[str, ...] = ()        # relative to the Artifact's folder
  scores: dict = dataclasses.field(default_factory=dict)  # measured, by name
  compute: dict = dataclasses.field(default_factory=dict)  # fields of `compute.Compute`


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
  """Writes `manifest.json`, which makes `folder` an Artifact: all its files must be there.

  Raises FileNotFoundError naming the file that is not.
  """
  folder = Path(folder)
  for name in manifest.files:
    if not (folder / name).exists():
      raise FileNotFoundError(f'{folder} lacks {name}, which its manifest lists: '
                              'write the files before the manifest')
  (folder / 'manifest.json').write_text(to_json(dataclasses.asdict(manifest)) + '\n')


def read_manifest(folder: str | Path) -> Manifest:
  """Reads an Artifact's manifest.

  Raises FileNotFoundError where `folder` is no Artifact, ValueError where its manifest is no JSON
  or has other fields than `Manifest`.
  """
  path = Path(folder) / 'manifest.json'
  if not path.exists():
    raise FileNotFoundError(f'{folder} is no Artifact, for it has no manifest.json: '
                            'let the stage that writes it finish')
  try:
    fields = json.loads(path.read_text())
    return Manifest(**(fields | {'files': tuple(fields['files'])}))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is not the manifest of an Artifact ({error}): '
                     'run the stage that writes it again') from error
