import json
import math
import os
import uuid

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.runtime import storage
from r1jax.runtime.storage import Path, Ranges, to_json


@pytest.fixture(params=['local', 'memory'])
def folder(request, tmp_path):
  return Path(tmp_path / 'run' if request.param == 'local' else f'memory://{uuid.uuid4().hex}/run')


def test_files_and_folders_behave_alike_everywhere(folder):
  assert not folder.exists() and list(folder.iterdir()) == []
  folder.remove()
  (folder / 'b' / 'c.txt').write_text('中\n')
  (folder / 'a').write_bytes(b'123')
  (folder / 'a').write_bytes(b'4567')
  assert [str(path) for path in folder.iterdir()] == [f'{folder}/a', f'{folder}/b']
  assert [path.name for path in folder.iterdir()] == ['a', 'b']
  assert (folder / 'b').exists() and (folder / 'b' / 'c.txt').read_text() == '中\n'
  assert folder.file_sizes() == {'a': 4, 'b/c.txt': 4}
  assert Path(Path(str(folder) + '/')).file_sizes() == folder.file_sizes()
  (folder / 'b').remove()
  assert folder.file_sizes() == {'a': 4} and not (folder / 'b').exists()


def test_a_file_is_read_by_ranges(folder, monkeypatch):
  monkeypatch.setattr(storage, '_REQUEST_BYTES', 100)
  content = np.random.default_rng(0).integers(0, 256, 1_050).astype(np.uint8)
  (folder / 'a').write_bytes(content.tobytes())
  ranges = Ranges(folder / 'a')
  assert ranges.size == 1_050
  for offset, count in ((0, 1_050), (0, 100), (99, 202), (1_000, 50), (7, 0)):
    out = np.zeros(count, np.uint8)
    assert ranges.fill(out, offset) == count
    np.testing.assert_array_equal(out, content[offset:offset + count])
  assert [ranges.fill(np.zeros(60, np.uint8), at) for at in (1_000, 1_050, 2_000)] == [50, 0, 0]
  (folder / 'a').write_bytes(content[:450].tobytes())    # of another file in its place
  if not ranges.is_local:    # an open one keeps the old content
    assert ranges.fill(out := np.zeros(300, np.uint8), 300) == 150
    np.testing.assert_array_equal(out[:150], content[300:450])
    monkeypatch.setattr(type(folder.fs), 'cat_ranges', lambda *_, **__: [bytes(40), bytes(100)])
    assert ranges.fill(np.zeros(200, np.uint8), 0) == 40    # nothing is put in a wrong place
    monkeypatch.setattr(type(folder.fs), 'cat_ranges', lambda *_, **__: [OSError('reset')])
    with pytest.raises(OSError, match='reset'):
      ranges.fill(out, 0)
  ranges.close()


def test_a_folder_is_moved_with_all_that_is_in_it(folder):
  (folder / 'a').write_bytes(b'1')
  (folder / 'b' / 'c').write_bytes(b'22')
  target = Path(f'{folder}.old')
  folder.move_to(target)
  assert target.file_sizes() == {'a': 1, 'b/c': 2} and (target / 'b' / 'c').read_bytes() == b'22'
  assert not folder.exists()


def test_a_move_in_a_bucket_that_is_cut_short_loses_nothing(monkeypatch):
  folder = Path(f'memory://{uuid.uuid4().hex}/run')
  for name in ('b/c', 'manifest.json', 'stage.json', 'z/y'):
    (folder / name).write_text(name)
  remove, removed = Path.remove, []

  def killed_in_the_third(path):
    if len(removed) == 2:
      raise KeyboardInterrupt
    removed.append(path.name)
    remove(path)

  monkeypatch.setattr(Path, 'remove', killed_in_the_third)
  with pytest.raises(KeyboardInterrupt):
    folder.move_to(Path(f'{folder}.old'))
  assert removed == ['c', 'y'] and set(folder.file_sizes()) == {'manifest.json', 'stage.json'}
  assert len(Path(f'{folder}.old').file_sizes()) == 4


@pytest.fixture
def synced(monkeypatch):
  """The paths that were written through to the disk; what is renamed into place must be."""
  synced, fsync, replace = [], os.fsync, os.replace

  def record(opened):
    fsync(opened)
    synced.append(os.readlink(f'/proc/self/fd/{opened}'))

  def check(source, target):
    assert os.path.isdir(source) or source in synced, source
    replace(source, target)
    del synced[:]
  monkeypatch.setattr(os, 'fsync', record)
  monkeypatch.setattr(os, 'replace', check)
  return synced


def test_what_is_renamed_into_place_is_on_the_disk_first_and_its_name_after(tmp_path, synced):
  (Path(tmp_path) / 'new' / 'folder' / 'file').write_text('content')
  assert synced == [f'{tmp_path}/new/folder']
  (Path(tmp_path) / 'new' / 'folder' / 'other' / 'file').write_parts([b'1', memoryview(b'2')])
  (Path(tmp_path) / 'new').move_to(Path(tmp_path) / 'old')
  assert synced == [str(tmp_path)]


def test_the_names_of_new_folders_are_on_the_disk(tmp_path, synced):
  storage.make_folder(f'{tmp_path}/a/b')
  assert synced == [str(tmp_path), f'{tmp_path}/a']
  (tmp_path / 'a' / 'b' / 'file').write_bytes(b'of a library')
  del synced[:]
  (Path(tmp_path) / 'a').sync()
  assert synced == [f'{tmp_path}/a/b/file', f'{tmp_path}/a/b', f'{tmp_path}/a', str(tmp_path)]


def test_copies_up_and_down(tmp_path):
  up, down = Path(f'memory://{uuid.uuid4().hex}'), Path(tmp_path / 'down')
  (Path(tmp_path) / 'x' / 'y').write_bytes(b'1')
  (Path(tmp_path) / 'x' / 'z' / 'y').write_bytes(b'22')
  (Path(tmp_path) / 'x').copy_to(up)
  up.copy_to(down)
  assert up.file_sizes() == down.file_sizes() == {'y': 1, 'z/y': 2}
  assert (down / 'z' / 'y').read_bytes() == b'22'


def test_local_paths_are_absolute_and_remote_ones_are_no_local_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert os.fspath(Path('x')) == str(Path(f'file://{tmp_path}/x')) == f'{tmp_path}/x'
  assert str(Path('~/x')) == os.path.expanduser('~/x')
  with pytest.raises(ValueError, match='memory://x is not on a local disk'):
    os.fspath(Path('memory://x'))
  with pytest.raises(ValueError, match='nosuch'):
    Path('nosuch://x')


@pytest.mark.parametrize('location, said', [
    ('', 'must not be empty'), (' \t', 'must not be empty'), ('a\0b', 'control characters'),
    ('W\x1b[2J', 'control characters'), ('W\u202e', 'control characters'), ('W\n', 'control char'),
    ('W::a', "has '::', which chains URLs"), ('memory://W::a', "has '::'"),
    ('simplecache::gs://b/w', "has '::'"), ('~nobody-of-this-name', 'a ~ that names no user')])
def test_a_path_that_means_another_place_is_refused(location, said):
  with pytest.raises(UserError, match=said) as refusal:
    Path(location)
  assert str(refusal.value).isprintable()


def test_one_place_has_one_path(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert {str(Path(name)) for name in ('~', '.', './', str(tmp_path), f'{tmp_path}/')} == {
      str(tmp_path)}
  assert {str(Path(name)) for name in ('~/a b', 'a b', './a b/', Path('a b'))} == {
      f'{tmp_path}/a b'}


@pytest.mark.parametrize('name', ['a::b', '~', '~x', 'a\nb', ' ', 'é'], ids=ascii)
def test_what_is_found_in_a_folder_may_have_any_name(folder, name):
  (folder / 'in' / name).write_text('x')
  (found,) = (folder / 'in').iterdir()
  assert found.name == name and found.read_text() == 'x' and str(found) == f'{folder}/in/{name}'


def test_a_file_that_cannot_be_written_is_named_and_its_old_content_stays(tmp_path):
  path = Path(tmp_path) / 'old'
  path.write_text('content')
  with pytest.raises(OSError, match='choose another workdir.*old/new'):
    (path / 'new').write_text('')
  assert path.read_text() == 'content'


def test_json_is_strict_and_keeps_numbers():
  value = {'a': [math.nan, math.inf, -math.inf, 1 / 3], 'b': np.float32(0.1), 'c': (True, None, 7),
           'd': jnp.arange(2), 2: 'NaN'}
  text = to_json(value)
  back = json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
  assert back == {'a': ['NaN', 'Infinity', '-Infinity', 1 / 3], 'b': float(np.float32(0.1)),
                  'c': [True, None, 7], 'd': [0, 1], '2': 'NaN'}
  assert to_json('中') == '"中"'
  with pytest.raises(TypeError, match='object'):
    to_json(object())
