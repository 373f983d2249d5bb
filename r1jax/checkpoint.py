"""Checkpoints of a run, written with Orbax, and the manifest of an Artifact.

A checkpoint is the folder `<directory>/<step>`. Orbax writes the arrays, one sub-folder per item.
When they are complete, `checkpoint.json` is written with the caller's `meta`, the shape and type of
every leaf and the size of every file. A folder without that file is not a checkpoint, on a disk as
in a bucket, so a run that is killed while saving resumes from the step before, and damage is
noticed before anything is read.

A damaged checkpoint raises an error and is never skipped, because falling back silently would
repeat work under the same names. To use the step before it, remove the damaged folder, as the error
says.
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

from r1jax.errors import UserError
from r1jax.runtime.storage import Path, to_json

PyTree = Any
_MARKER = 'checkpoint.json'


class Checkpointer:
  """Saves and restores the checkpoints in a directory; restoring changes nothing there.

  `save` returns while files are still being written: call `wait`, or leave the `with` block, at the
  end.

  Args:
    directory: a local path, a `gs://` URL or another URL of fsspec. Orbax writes to the first two
      itself. For others, a step is written to a local folder and copied, by a single process.
    keep: number of checkpoints to keep; older ones are removed when a newer one is complete.

  Raises:
    UserError: `keep` is less than 1, or several processes share a `directory` that takes one.
  """

  def __init__(self, directory: str | Path, *, keep: int = 2):
    if keep < 1:
      raise UserError(f'keep={keep} would remove every checkpoint: keep at least 1')
    self.directory = Path(directory)
    self._staged = not self.directory.is_local and not str(self.directory).startswith('gs://')
    if self._staged and jax.process_count() > 1:
      raise UserError(f'{jax.process_count()} processes cannot share checkpoints in '
                       f'{self.directory}: use a gs:// path or a shared disk')
    self._keep = keep
    self._orbax: ocp.AsyncCheckpointer | None = None    # made by the first `save`
    self._thread = ThreadPoolExecutor(1, 'checkpoint')
    self._pending: Future | None = None

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def steps(self) -> list[int]:
    """The steps that have a complete checkpoint, in ascending order."""
    names = (path.name for path in self.directory.iterdir() if (path / _MARKER).exists())
    return sorted(int(name) for name in names if name.isdigit())

  def latest_step(self) -> int | None:
    """The step of the last complete checkpoint; None if there is none."""
    return max(self.steps(), default=None)

  def read_meta(self, step: int) -> dict:
    """The `meta` that was saved with a step.

    Raises:
      FileNotFoundError: there is no checkpoint of this step.
      UserError: the checkpoint is damaged.
    """
    return self._read_marker(step)['meta']

  def save(self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> None:
    """Starts saving a checkpoint, and returns when all arrays are copied off the devices.

    The arrays may then be donated or changed. Waits for the save before, and raises its error if it
    failed.

    Args:
      step: a step that has no checkpoint yet.
      items: pytrees of arrays, sharded ones and typed random keys included, by name. Each item can
        be restored without the others.
      meta: any values that JSON can hold.

    Raises:
      OSError: this or the previous checkpoint cannot be written; earlier ones are intact.
      TypeError: a leaf of an item is not an array.
      UserError: there is a checkpoint of this step.
    """
    self.wait()
    if step in self.steps():
      raise UserError(f'{self.directory} already has a checkpoint of step {step}: '
                       'resume from it, or use another workdir')
    marker = dict(meta=json.loads(to_json(meta)),
                  items={name: _leaf_types(tree) for name, tree in items.items()})
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
      self._remove_incomplete()    # folders left by a run that was killed
    stage = tempfile.TemporaryDirectory() if self._staged else None
    folder = Path(stage.name if stage else self.directory) / step
    args = {name: ocp.args.StandardSave({'tree': tree}) for name, tree in items.items()}
    try:
      with jax.transfer_guard_device_to_host('allow'):   # Orbax copies without device_get
        self._orbax.save(str(folder), args=ocp.args.Composite(**args))
    except Exception as error:
      raise self._write_error(step, error) from error
    self._pending = self._thread.submit(self._commit, self._orbax, step, folder, marker, stage)

  def wait(self) -> None:
    """Returns when the current save is complete; raises its OSError if it failed."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def close(self) -> None:
    """Calls `wait`, and ends the background threads."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      if self._orbax is not None:
        self._orbax.close()

  def restore(self, step: int, templates: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Reads the items named in `templates`, bit for bit as they were saved.

    Args:
      step: the step of the checkpoint.
      templates: for each item a pytree of arrays or `jax.ShapeDtypeStruct` with its structure,
        shapes, types and shardings, which may be on another mesh than the saved arrays. A leaf
        without sharding goes to the first device; the leaf of a NumPy array is a NumPy array.

    Returns:
      The items by name.

    Raises:
      FileNotFoundError: there is no checkpoint of this step.
      UserError: the checkpoint is damaged, has no such item, or does not fit a template.
    """
    marker = self._read_marker(step)
    folder = self.directory / step
    for name, template in templates.items():
      if name not in marker['items']:
        raise UserError(f'the checkpoint {folder} has no item {name!r}, only '
                         f'{", ".join(sorted(marker["items"]))}: ask for one of these')
      _check_fit(f'item {name!r} of the checkpoint {folder}', marker['items'][name],
                 _leaf_types(template))
      sizes = (folder / name).file_sizes()
      for file, size in marker['files'][name].items():
        if sizes.get(file) != size:
          raise self._damaged(step, f'{name}/{file} has {sizes.get(file, 0)} of its {size} bytes')
    return self._restore_items(step, templates)

  def _restore_items(self, step: int, templates: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Reads items of a checkpoint that has been checked."""
    folder = self.directory / step
    args = {name: ocp.args.StandardRestore({'tree': jax.tree.map(_restore_template, template)})
            for name, template in templates.items()}
    with tempfile.TemporaryDirectory() as stage:
      if self._staged:
        for name in templates:
          (folder / name).copy_to(Path(stage) / name)
        folder = Path(stage)
      try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
          restored = orbax.restore(str(folder), args=ocp.args.Composite(**args))
      except Exception as error:    # Orbax raises many types
        raise UserError(
            f'the checkpoint {self.directory / step} cannot be read ({_root_cause(error)}): fix '
            f'that or, if its files are damaged, {self._advice(step)}') from error
    return {name: restored[name]['tree'] for name in templates}

  def _read_marker(self, step: int) -> dict:
    """The content of a checkpoint's `checkpoint.json`."""
    path = self.directory / step / _MARKER
    if not path.exists():
      steps = ', '.join(map(str, self.steps())) or 'none'
      raise FileNotFoundError(f'{self.directory} has no checkpoint of step {step}: '
                              f'use one of its steps ({steps}) or another directory')
    try:
      marker = json.loads(path.read_text())
      return {key: marker[key] for key in ('meta', 'items', 'files')}
    except (ValueError, KeyError, TypeError) as error:
      raise self._damaged(step, f'{_MARKER} cannot be read') from error

  def _damaged(self, step: int, why: str) -> UserError:
    return UserError(f'the checkpoint {self.directory / step} is damaged ({why}): '
                      f'{self._advice(step)}')

  def _advice(self, step: int) -> str:
    """How to go on without the checkpoint of this step."""
    before = max((other for other in self.steps() if other < step), default=None)
    rest = 'start over' if before is None else f'resume from step {before}'
    return f'remove that folder to {rest}'

  def _commit(self, orbax: ocp.AsyncCheckpointer, step: int, folder: Path, marker: dict,
              stage: tempfile.TemporaryDirectory | None) -> None:
    """Waits for Orbax, writes the marker file and removes the oldest checkpoints.

    Runs in the background thread.
    """
    try:
      orbax.wait_until_finished()
      if jax.process_index() != 0:
        return
      marker['files'] = {name: (folder / name).file_sizes() for name in marker['items']}
      if stage:
        folder.copy_to(self.directory / step)
      (self.directory / step).sync()
      (self.directory / step / _MARKER).write_text(to_json(marker))
      for old in self.steps()[:-self._keep]:
        (self.directory / old / _MARKER).remove()
        (self.directory / old).remove()
    except Exception as error:
      raise self._write_error(step, error) from error
    finally:
      if stage:
        stage.cleanup()

  def _write_error(self, step: int, error: Exception) -> OSError:
    """Removes what was written of a failed save, and returns the error to raise."""
    with contextlib.suppress(OSError):    # Orbax may still be writing; the next save cleans up
      self._remove_incomplete()
    return OSError(f'the checkpoint of step {step} could not be written to {self.directory} '
                   f'({_root_cause(error)}): earlier checkpoints are intact, so fix that and run '
                   'again')

  def _remove_incomplete(self) -> None:
    """Removes the folders of saves that were never completed."""
    if jax.process_index() == 0:
      for path in self.directory.iterdir():
        if path.name.split('.')[0].isdigit() and not (path / _MARKER).exists():
          path.remove()


def _root_cause(error: BaseException) -> str:
  """The message of the innermost of chained errors, in one line."""
  while error.__cause__ is not None:
    error = error.__cause__
  code = re.search(r"os_error_code='(\d+)'", str(error))    # the end of a long TensorStore message
  if code:
    return os.strerror(int(code[1]))
  return (str(error).splitlines() or [type(error).__name__])[0]


def _leaf_types(tree: PyTree) -> dict[str, str]:
  """The type and shape of every leaf by its path, such as {'layers/w': 'float32[2,4]'}."""
  types = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if not hasattr(leaf, 'dtype'):
      raise TypeError(f'leaf {name!r} is {leaf!r} ({type(leaf).__name__}): '
                      'make it an array, or put it into meta')
    types[name] = f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
  return types


def _check_fit(what: str, saved: dict[str, str], template: dict[str, str]) -> None:
  """Raises UserError unless an item and its template have the same leaves (of `_leaf_types`)."""
  for leaf in sorted(saved.keys() | template.keys()):
    if saved.get(leaf) != template.get(leaf):
      raise UserError(
          f'{what} does not fit its template: leaf {leaf!r} is {saved.get(leaf, "missing")} in the '
          f'checkpoint and {template.get(leaf, "missing")} in the template; '
          'use the model and optimiser settings that it was saved with')


def _restore_template(leaf):
  """A leaf as Orbax takes it: a NumPy array, or a shape, type and sharding."""
  if isinstance(leaf, (np.ndarray, np.generic)):
    return leaf
  sharding = getattr(leaf, 'sharding', None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Describes an Artifact, the folder that a stage leaves behind, and where it came from."""
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
  """Writes `manifest.json`, which makes `folder` an Artifact.

  Args:
    folder: local or remote; must already contain the manifest's files.
    manifest: its description.

  Raises:
    FileNotFoundError: one of the files is missing.
  """
  folder = Path(folder)
  for name in manifest.files:
    if not (folder / name).exists():
      raise FileNotFoundError(f'{folder} lacks {name}, which its manifest lists: '
                              'write the files before the manifest')
  (folder / 'manifest.json').write_text(to_json(dataclasses.asdict(manifest)) + '\n')


def read_manifest(folder: str | Path) -> Manifest:
  """Reads the manifest of an Artifact.

  Raises:
    FileNotFoundError: `folder` is not an Artifact.
    UserError: the manifest is not JSON, or does not have the fields of `Manifest`.
  """
  path = Path(folder) / 'manifest.json'
  if not path.exists():
    raise FileNotFoundError(f'{folder} is not an Artifact, because it has no manifest.json: '
                            'let the stage that writes it finish')
  try:
    fields = json.loads(path.read_text())
    return Manifest(**(fields | {'files': tuple(fields['files'])}))
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is not the manifest of an Artifact ({error}): '
                     'run the stage that writes it again') from error
