"""TFDS builders of text rows in array_record, written and read without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib
import tempfile

from r1jax.errors import UserError
from r1jax.runtime import storage


def prepare_array_record(
    name: str,
    rows_by_split: Mapping[str, Iterable[Mapping[str, str]]],
    features: Sequence[str],
    data_dir: storage.Path | str,
    *,
    version: str = '1.0.0',
) -> str:
  """Writes a TFDS dataset of text rows unless it exists already, and returns its folder.

  The rows keep their order: TFDS does not shuffle them. Any number of processes and hosts may
  prepare a dataset at once: each writes a folder of its own, and the first to finish moves it to
  the dataset's place.

  Args:
    name: the dataset's name, in snake case. `name` and `version` must identify the content: if the
      rows depend on a seed or a size, these must be part of the name.
    rows_by_split: the rows of each split. Generators are not started if the dataset exists.
    features: the names of the rows' fields, all of them text.
    data_dir: the folder that contains `name/version/`, on a local disk.
    version: to be increased when the same name stands for other rows.

  Raises:
    UserError: `data_dir` is not on a local disk.
    Exception: whatever a generator in `rows_by_split` raises; no dataset is written then.
  """
  import tensorflow_datasets as tfds

  class TextBuilder(  # type: ignore[call-arg]    # the base class is Any to mypy
      tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(version)

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self,
          features=tfds.features.FeaturesDict({key: tfds.features.Text() for key in features}),
          disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(rows) for split, rows in rows_by_split.items()}

    def _generate_examples(self, rows):
      yield from enumerate(rows)

  parent = pathlib.Path(os.fspath(storage.Path(data_dir)), name)
  folder = parent / version
  if folder.is_dir():
    return str(folder)
  tfds.disable_progress_bar()    # it would show one bar per split and shard
  TextBuilder.name = name
  parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='.preparing-', dir=parent) as private:
    builder = TextBuilder(data_dir=private, file_format='array_record')
    builder.download_and_prepare()
    storage.Path(builder.data_path).sync()
    try:
      storage.rename(str(builder.data_path), str(folder))
    except OSError:
      if not folder.is_dir():    # else another process was faster
        raise
  return str(folder)


def user_cache() -> storage.Path:
  """The folder of r1jax in the user's cache, `~/.cache` or `$XDG_CACHE_HOME`."""
  given = os.environ.get('XDG_CACHE_HOME', '')
  return storage.Path(given if os.path.isabs(given) else '~/.cache') / 'r1jax'


def read_array_record(folder: str, split: str) -> TextSource:
  """The rows of one split, in the order they were written.

  Args:
    folder: a dataset's folder, as `prepare_array_record` returns it.
    split: a split or a slice of one, such as 'train[:100]'.

  Raises:
    UserError: there is no such split.
  """
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  try:
    return TextSource(builder.as_data_source(split))
  except ValueError:
    raise UserError(
        f'{folder} has no split {split!r}: use one of {", ".join(builder.info.splits)}.') from None


class TextSource:
  """A random-access source of {field: text}, decoded from the bytes of a TFDS data source."""

  def __init__(self, rows: Sequence[Mapping[str, bytes]]):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)} rows')
    return {key: value.decode() for key, value in self._rows[index].items()}
