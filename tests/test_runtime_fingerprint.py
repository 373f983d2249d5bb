"""What a host knows of itself, and how a difference is said."""
import importlib.metadata
import os
import platform

import pytest

from r1jax.runtime.fingerprint import difference, fingerprint


@pytest.fixture
def config(tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  for path in (data / 'train.jsonl', tmp_path / 'more.jsonl'):
    path.write_text('{"prompt": "1"}\n')
  (tmp_path / 'rewards.py').write_text('def one(): return 1\n')
  return {'seed': 0, 'stages': {'zero': {
      'data': {'name': 'jsonl', 'folder': str(data)}, 'layers': (1, 2),
      'more_files': [f'{tmp_path}/more.jsonl'],
      'reward': f'{tmp_path}/rewards.py:one', 'template': 'x' * 500,
      'model': {'source': 'miniature'}}}}


def test_the_same_is_known_twice(config):
  known = fingerprint(config)
  assert known == fingerprint(config) and difference(known, fingerprint(config), 1) == ''
  assert known['jax'] == importlib.metadata.version('jax')
  assert known['Python'] == platform.python_version() and len(known['the code of r1jax']) == 16
  assert all(len(value) < 200 for value in known.values())


@pytest.mark.parametrize('name', ['data/train.jsonl', 'more.jsonl', 'rewards.py'])
def test_other_bytes_at_the_same_path_are_told_by_name(config, tmp_path, name):
  known, path = fingerprint(config), tmp_path / name
  path.write_text(path.read_text().replace('1', '2'))
  said = difference(known, fingerprint(config), 3)
  assert said.startswith(f'file {path} is ') and 'on host 3' in said and 'the same data' in said
  os.remove(path)
  assert f'file {path} is none on host 3' in difference(known, fingerprint(config), 3)


@pytest.mark.parametrize('change, said', [
    ({'seed': 1},
     'host 2 has config.seed=1 and host 0 has 0: host 2 was started with another config'),
    ({'\x1b[2J': '\u202e'}, r"host 2 has config.\x1b[2J='\u202e' and host 0 has none"),
    ({'seed': 'a' * 500}, "host 2 has config.seed='aaa")])
def test_another_setting_is_told_by_name(config, change, said):
  found = difference(fingerprint(config), fingerprint(config | change), 2)
  assert found.startswith(said) and len(found) < 300


def test_other_code_or_versions_are_told(config):
  known = fingerprint(config)
  for name, other in (('the code of r1jax', 'ffff'), ('numpy', '1.0'), ('jax_enable_x64', 'True')):
    said = difference(known, known | {name: other, 'Python': known['Python']}, 1)
    assert said == (f'host 1 has {name} {other} and host 0 has {known[name]}: install the same on '
                    'all hosts')


def test_of_a_large_file_blocks_are_compared(config, tmp_path, monkeypatch):
  monkeypatch.setattr('r1jax.runtime.fingerprint._WHOLE', 1000)
  monkeypatch.setattr('r1jax.runtime.fingerprint._SAMPLE', 8)
  path = tmp_path / 'data/model.safetensors'
  path.write_bytes(bytes(100_000))
  known = fingerprint(config)
  for place in (0, 99_999):
    content = bytearray(100_000)
    content[place] = 1
    path.write_bytes(content)
    assert str(path) in difference(known, fingerprint(config), 1)
