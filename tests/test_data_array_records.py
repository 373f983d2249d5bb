import os
import pathlib

import pytest

from r1jax.data import array_records
from r1jax.runtime import storage

pytest.importorskip('tensorflow_datasets')


def rows(n):
  return [{'question': f'{i}: wie groß? 多少？', 'answer': str(i)} for i in range(n)]


def test_rows_keep_their_order_and_text(tmp_path):
  folder = array_records.prepare_array_record(
      'sums', {'train': rows(50), 'test': rows(3)}, ('question', 'answer'), tmp_path)
  source = array_records.read_array_record(folder, 'train')
  assert list(source) == [source[i] for i in range(len(source))] == rows(50)
  with pytest.raises(IndexError):
    source[50]
  tail = array_records.read_array_record(folder, 'test[1:]')
  assert [tail[i] for i in range(len(tail))] == rows(3)[1:]
  with pytest.raises(ValueError, match="'val': use one of .*train"):
    array_records.read_array_record(folder, 'val')


def test_rows_are_made_once(tmp_path):
  def broken():
    yield rows(1)[0]
    raise ValueError('line 2 is torn')

  def prepare(generator):
    return array_records.prepare_array_record(
        'sums', {'train': generator}, ('question', 'answer'), tmp_path)

  with pytest.raises(ValueError, match='line 2 is torn'):
    prepare(broken())
  folder = prepare(iter(rows(4)))
  assert prepare(broken()) == folder
  assert len(array_records.read_array_record(folder, 'train')) == 4
  newer = array_records.prepare_array_record(
      'sums', {'train': rows(5)}, ('question', 'answer'), tmp_path, version='1.1.0')
  assert len(array_records.read_array_record(newer, 'train')) == 5


def test_only_a_local_disk_will_do():
  with pytest.raises(ValueError, match='local disk'):
    array_records.prepare_array_record('sums', {'train': rows(1)}, ('answer',), 'memory://data')


def test_the_first_of_several_that_prepare_at_once_wins(tmp_path):
  def prepare(rows):
    return array_records.prepare_array_record(
        'sums', {'train': rows}, ('question', 'answer'), tmp_path)

  def slow():
    yield from rows(2)
    prepare(rows(5))    # another process, which is done before this one

  folder = prepare(slow())
  assert len(array_records.read_array_record(folder, 'train')) == 5
  # Neither parts nor TFDS's folder of downloads are left.
  assert [path.name for path in tmp_path.iterdir()] == ['sums']
  assert [path.name for path in (tmp_path / 'sums').iterdir()] == ['1.0.0']


def test_the_default_folder_is_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert str(array_records.user_cache()) == str(tmp_path / 'r1jax')
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert str(array_records.user_cache()) == str(tmp_path / '.cache/r1jax')


def test_a_dataset_is_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
  synced, fsync, rename = set(), os.fsync, storage.rename

  def record(opened):
    fsync(opened)
    synced.add(os.readlink(f'/proc/self/fd/{opened}'))

  def look(source, target):
    assert synced >= {str(path) for path in pathlib.Path(source).rglob('*')}
    rename(source, target)
  monkeypatch.setattr(os, 'fsync', record)
  monkeypatch.setattr(storage, 'rename', look)
  folder = array_records.prepare_array_record(
      'sums', {'train': rows(3)}, ('question', 'answer'), tmp_path)
  assert str(pathlib.Path(folder).parent) in synced
