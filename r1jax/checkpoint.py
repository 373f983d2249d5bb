"""Checkpoints of a run, written with Orbax, and the manifest of an Artifact.

A checkpoint is the folder `<directory>/<step>`. Orbax writes the arrays, one sub-folder per item.
When they are complete, `checkpoint.json` is written with the caller's `meta`, the shape and type of
every leaf, and the size and checksum of every file and of itself. A folder without that file is not
a checkpoint, on a disk as in a bucket, so a run that is killed while saving resumes from the step
before. What is restored is compared with its checksums first, and refused by the name of the file
if a single bit of it has changed.

What does not change from checkpoint to checkpoint is written once, to a folder of the same form
beside them: `<directory>/<name>-<version>`. It stays as long as a checkpoint names it.

A damaged checkpoint raises an error and is never skipped, because falling back silently would
repeat work under the same names. To use the step before it, remove the damaged folder, as the error
says.
"""
from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
import itertools
import json
import os
import re
import tempfile
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from r1jax.errors import UserError
from r1jax.runtime import checksums, hosts
from r1jax.runtime.storage import Path, to_json

PyTree = Any
_MARKER = 'checkpoint.json'
_CONSTANT = re.compile(r'.+-\d+($|\.)')    # the folder of one, or what Orbax is writing of it
_save_numbers = itertools.count()    # equal on all hosts, which save together


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

  def save(
      self, step: int, items: Mapping[str, PyTree], meta: Mapping[str, Any],
      constants: Mapping[str, tuple[int, PyTree]] | None = None,
  ) -> None:
    """Starts saving a checkpoint, and returns when all arrays are copied off the devices.

    The arrays may then be donated or changed. Waits for the save before, and raises its error if it
    failed. A constant of a version that is not saved yet is written whole before this returns.

    Args:
      step: a step that has no checkpoint yet.
      items: pytrees of arrays, sharded ones and typed random keys included, by name. Each item can
        be restored without the others.
      meta: any values that JSON can hold.
      constants: items that rarely change, as (version, pytree) by name. One is written only where
        no checkpoint that is kept has it in this version.

    Raises:
      OSError: this or the previous checkpoint cannot be written; earlier ones are intact.
      TypeError: a leaf of an item is not an array.
      UserError: there is a checkpoint of this step.
    """
    self.wait()
    if step in self.steps():
      raise UserError(f'{self.directory} already has a checkpoint of step {step}: '
                       'resume from it, or use another workdir')
    versions = {name: f'{name}-{version}' for name, (version, _) in (constants or {}).items()}
    marker = _marker(items, meta) | {'constants': versions}
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
      self._remove_incomplete()    # folders left by a run that was killed
    for name, (_, tree) in (constants or {}).items():
      if not hosts.from_first((self.directory / versions[name] / _MARKER).exists):
        self._write(versions[name], {name: tree}, _marker({name: tree}, {}))
        hosts.together(self.wait)    # a checkpoint that names it comes after it
    self._write(str(step), items, marker)

  def _write(self, name: str, items: Mapping[str, PyTree], marker: dict) -> None:
    """Starts writing a folder of this name."""
    assert self._orbax is not None
    stage = tempfile.TemporaryDirectory() if self._staged else None
    folder = Path(stage.name if stage else self.directory) / name
    args = {item: ocp.args.StandardSave({'tree': tree}) for item, tree in items.items()}
    try:
      with jax.transfer_guard_device_to_host('allow'):   # Orbax copies without device_get
        self._orbax.save(str(folder), args=ocp.args.Composite(**args))
    except Exception as error:
      raise self._write_error(name, error) from error
    self._pending = self._thread.submit(
        self._commit, self._orbax, name, folder, marker, stage, next(_save_numbers))

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

    All hosts call this together. Their files are read twice: to compare them with their checksums,
    of which each host does its share, and then by Orbax.

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
    known = marker['items'].keys() | marker['constants'].keys()
    for name in templates:
      if name not in known:
        raise UserError(f'the checkpoint {self.directory / step} has no item {name!r}, only '
                         f'{", ".join(sorted(known))}: ask for one of these')
    by_folder: dict[str, dict[str, PyTree]] = {}
    for name, template in templates.items():
      by_folder.setdefault(marker['constants'].get(name, str(step)), {})[name] = template
    restored: dict[str, PyTree] = {}
    for folder, wanted in by_folder.items():
      of_folder = marker if folder == str(step) else self._read_constant(step, folder)
      for name, template in wanted.items():
        _check_fit(f'item {name!r} of the checkpoint {self.directory / folder}',
                   of_folder['items'][name], _leaf_types(template))
      restored |= self._restore_items(step, folder, of_folder['files'], wanted)
    return restored

  def _restore_items(
      self, step: int, name: str, sums: checksums.Sums, templates: Mapping[str, PyTree],
  ) -> dict[str, PyTree]:
    """Compares items of a folder, a step's or one that it names, with their sums; reads them."""
    folder = self.directory / name
    args = {item: ocp.args.StandardRestore({'tree': jax.tree.map(_restore_template, template)})
            for item, template in templates.items()}
    with tempfile.TemporaryDirectory() as stage:
      if self._staged:
        folder.copy_to(Path(stage))
        folder = Path(stage)
      damage = checksums.fault(folder, {file: found for file, found in sums.items()
                                        if '/' not in file or file.split('/')[0] in templates})
      if damage:
        raise self._damaged(step, name, damage)
      try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
          restored = orbax.restore(str(folder), args=ocp.args.Composite(**args))
      except Exception as error:    # Orbax raises many types
        raise UserError(
            f'the checkpoint {self.directory / name} cannot be read ({_root_cause(error)}): fix '
            f'that or {self._advice(step, name)}') from error
    return {item: restored[item]['tree'] for item in templates}

  def _read_marker(self, step: int) -> dict:
    """The content of a checkpoint's `checkpoint.json`."""
    path = self.directory / step / _MARKER
    if not path.exists():
      steps = ', '.join(map(str, self.steps())) or 'none'
      raise FileNotFoundError(f'{self.directory} has no checkpoint of step {step}: '
                              f'use one of its steps ({steps}) or another directory')
    try:
      return _unsealed(path)
    except ValueError as error:
      raise self._damaged(step, str(step), f'{_MARKER} {error}') from None

  def _read_constant(self, step: int, name: str) -> dict:
    """The content of the `checkpoint.json` of a constant that a step names."""
    try:
      return _unsealed(self.directory / name / _MARKER)
    except FileNotFoundError:
      raise self._damaged(step, name, f'{_MARKER} is missing') from None
    except ValueError as error:
      raise self._damaged(step, name, f'{_MARKER} {error}') from None

  def _damaged(self, step: int, name: str, why: str) -> UserError:
    return UserError(f'the checkpoint {self.directory / name} is damaged ({why}): '
                      f'{self._advice(step, name)}')

  def _advice(self, step: int, name: str) -> str:
    """How to go on without a folder that is needed for this step."""
    needing = {other for other in self.steps() if name in self._needed_by(other)} | {step}
    before = max((other for other in self.steps() if other < min(needing)), default=None)
    rest = 'start over' if before is None else f'resume from step {before}'
    folders = [name] if name == str(step) else [name, *map(str, sorted(needing))]
    if len(folders) == 1:
      return f'remove that folder to {rest}'
    return (f'remove the folders {", ".join(folders[:-1])} and {folders[-1]} in {self.directory} '
            f'to {rest}')

  def _needed_by(self, step: int) -> set[str]:
    """The folders that a checkpoint needs; only its own if its `checkpoint.json` is damaged."""
    with contextlib.suppress(ValueError):
      return {str(step), *_unsealed(self.directory / step / _MARKER)['constants'].values()}
    return {str(step)}

  def _commit(self, orbax: ocp.AsyncCheckpointer, name: str, folder: Path, marker: dict,
              stage: tempfile.TemporaryDirectory | None, number: int) -> None:
    """Waits for Orbax, writes the marker file and removes what is not kept.

    Runs in the background thread.
    """
    try:
      orbax.wait_until_finished()
      marker['files'] = _sums(folder, f'checkpoint {number}')
      if not hosts.is_first():
        return
      if stage:
        folder.copy_to(self.directory / name)
      (self.directory / name).sync()
      (self.directory / name / _MARKER).write_text(checksums.seal(to_json(marker)))
      if name.isdigit():
        for old in self.steps()[:-self._keep]:
          self._remove(str(old))
        self._remove_constants()
    except Exception as error:
      raise self._write_error(name, error) from error
    finally:
      if stage:
        stage.cleanup()

  def _write_error(self, name: str, error: Exception) -> OSError:
    """Removes what was written of a failed save, and returns the error to raise."""
    with contextlib.suppress(OSError):    # Orbax may still be writing; the next save cleans up
      self._remove_incomplete()
    what = f'step {name}' if name.isdigit() else name
    return OSError(f'the checkpoint of {what} could not be written to {self.directory} '
                   f'({_root_cause(error)}): earlier checkpoints are intact, so fix that and run '
                   'again')

  def _remove_incomplete(self) -> None:
    """Removes the folders of saves that were never completed."""
    if hosts.is_first():
      for path in self.directory.iterdir():
        if path.name.split('.')[0].isdigit() and not (path / _MARKER).exists():
          path.remove()
      self._remove_constants()

  def _remove_constants(self) -> None:
    """Removes the folders beside the checkpoints that none of them names."""
    named = set().union(*map(self._needed_by, self.steps()))
    for path in self.directory.iterdir():
      if _CONSTANT.match(path.name) and path.name not in named:
        self._remove(path.name)

  def _remove(self, name: str) -> None:
    (self.directory / name / _MARKER).remove()    # first, so that a kill leaves no half of it
    (self.directory / name).remove()


def _marker(items: Mapping[str, PyTree], meta: Mapping[str, Any]) -> dict:
  return dict(meta=json.loads(to_json(meta)),
              items={name: _leaf_types(tree) for name, tree in items.items()}, constants={})


def _unsealed(path: Path) -> dict:
  """The content of a `checkpoint.json`; raises ValueError if it is damaged."""
  marker = checksums.unseal(path.read_bytes())
  if not marker.keys() >= {'meta', 'items', 'constants', 'files'}:
    raise ValueError('is of another version of r1jax')
  return marker


def _sums(folder: Path, key: str) -> dict[str, checksums.Sum]:
  """The sums of all files of a folder, on the first host; each host reads its share."""
  try:
    own = to_json(checksums.of_files(folder, checksums.share(folder.file_sizes())))
  except Exception as error:    # the first host waits for an answer
    own = to_json(_root_cause(error))
  sums: dict[str, checksums.Sum] = {}
  for part in map(json.loads, hosts.collect(key, own)):
    if isinstance(part, str):
      raise OSError(part)
    sums |= part
  return sums


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
  prompt: dict = dataclasses.field(default_factory=dict)  # its other settings, of `fields.PROMPT`
  files: Mapping[str, checksums.Sum] = dataclasses.field(default_factory=dict)   # by their paths
  scores: dict = dataclasses.field(default_factory=dict)  # measured, by name
  compute: dict = dataclasses.field(default_factory=dict)  # fields of `compute.Compute`


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
  """Writes `manifest.json`, which makes `folder` an Artifact.

  Args:
    folder: local or remote; must already contain the manifest's files.
    manifest: its description.

  Raises:
    FileNotFoundError: one of the files is missing, or has another size.
  """
  folder = Path(folder)
  fault = checksums.size_fault(folder, manifest.files)
  if fault:
    raise FileNotFoundError(f'{folder} is not what its manifest says ({fault}): write the files '
                            'before the manifest')
  fields = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest)}
  (folder / 'manifest.json').write_text(checksums.seal(to_json(fields)) + '\n')


def read_manifest(folder: str | Path) -> Manifest:
  """Reads the manifest of an Artifact.

  Raises:
    FileNotFoundError: `folder` is not an Artifact.
    UserError: the manifest is not as it was written, or does not have the fields of `Manifest`.
  """
  path = Path(folder) / 'manifest.json'
  if not path.exists():
    raise FileNotFoundError(f'{folder} is not an Artifact, because it has no manifest.json: '
                            'let the stage that writes it finish')
  try:
    fields = checksums.unseal(path.read_bytes())
    return Manifest(**(fields | {'files': checksums.read_sums(fields.get('files'))}))
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is not the manifest of an Artifact ({error}): '
                     'remove it, and run the stage that writes it') from None
