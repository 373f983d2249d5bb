"""TFDS builders of text rows in array_record, written and read without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import os

from r1jax.runtime import storage


def prepare_array_record(
    name: str,
    rows_by_split: Mapping[str, Iterable[Mapping[str, str]]],
    features: Sequence[str],
    data_dir: storage.Path | str,
    *,
    version: str = '1.0.0',
) -> str:
  """Writes a TFDS dataset of text rows, unless it is there already, and returns its folder.

  The rows keep their order: TFDS' shuffling on writing is off.

  Args:
    name: the dataset's name, in snake case. With `version` it says all about the content: rows
      made from a seed or a size carry these in the name.
    rows_by_split: the rows of each split; generators are not started when the dataset is there.
    features: the names of the rows' fields, all of them text.
    data_dir: the folder that holds `name/version/`, on a local disk.
    version: to be raised when the same name comes to mean other rows.

  Raises:
    ValueError: `data_dir` is not on a local disk.
    Whatever a generator in `rows_by_split` raises; nothing is prepared then.
  """
  import tensorflow_datasets as tfds

  class TextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
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

  tfds.disable_progress_bar()   # a bar for each split and shard, of what takes a moment
  TextBuilder.name = name
  builder = TextBuilder(data_dir=os.fspath(storage.Path(data_dir)), file_format='array_record')
  builder.download_and_prepare()
  return str(builder.data_path)


def read_array_record(folder: str, split: str) -> TextSource:
  """The rows of one split of a folder that `prepare_array_record` returned, in written order.

  Args:
    folder: the dataset's folder.
    split: a split or a slice of one, such as 'train[:100]'.

  Raises:
    ValueError: there is no such split.
  """
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  try:
    return TextSource(builder.as_data_source(split))
  except ValueError:
    raise ValueError(
        f'{folder} has no split {split!r}: it has {", ".join(builder.info.splits)}.') from None


class TextSource:
  """A random-access source of {field: text}, decoded from a TFDS data source's bytes."""

  def __init__(self, rows: Sequence[Mapping[str, bytes]]):
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(f'Row {index} of {len(self)}.')
    return {key: value.decode() for key, value in self._rows[index].items()}
