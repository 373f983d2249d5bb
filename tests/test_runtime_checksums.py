import os
import uuid

import numpy as np
import pytest

from r1jax.runtime import checksums
from r1jax.runtime.storage import Path


@pytest.fixture(params=['local', 'memory'])
def folder(request, tmp_path):
  folder = Path(str(tmp_path) if request.param == 'local' else f'memory://{uuid.uuid4().hex}')
  random = np.random.default_rng(0)
  for name, size in (('empty', 0), ('small', 5), ('deep/er/long', 3_000_000)):
    (folder / name).write_bytes(random.bytes(size))
  return folder


def test_sums_tell_every_file_that_is_not_as_it_was(folder, monkeypatch):
  monkeypatch.setattr(checksums, '_BUFFER_BYTES', 1 << 20)    # several reads of a file
  sums = checksums.gathered(folder, {'small', 'empty', 'deep/er/long'})
  assert list(sums) == ['deep/er/long', 'empty', 'small'] and sums['empty'] == (0, 0)
  assert checksums.fault(folder, sums) == '' == checksums.size_fault(folder, sums)
  content = (folder / 'deep/er/long').read_bytes()
  for position in (0, 1_500_000, 2_999_999):
    changed = bytearray(content)
    changed[position] ^= 4
    (folder / 'deep/er/long').write_bytes(changed)
    assert checksums.fault(folder, sums) == 'deep/er/long has other content than was written'
    assert checksums.size_fault(folder, sums) == ''
  (folder / 'deep/er/long').write_bytes(content[:-1])
  for fault in (checksums.fault, checksums.size_fault):
    assert fault(folder, sums) == 'deep/er/long has 2999999 of its 3000000 bytes'
  (folder / 'deep/er/long').remove()
  assert checksums.size_fault(folder, sums) == 'deep/er/long is missing'
  folder.remove()
  assert checksums.size_fault(folder, sums) == 'deep/er/long is missing'


def test_hosts_share_the_files_and_agree(folder, monkeypatch):
  names = ['a', 'b', 'c', 'd', 'e']
  monkeypatch.setattr(checksums.hosts, 'count', lambda: 2)
  shares = []
  for index in range(2):
    monkeypatch.setattr(checksums.hosts, 'index', lambda index=index: index)
    shares.append(checksums.share(names))
  assert sorted(sum(shares, [])) == names and all(shares)
  # The other host finds what this one does not read.
  monkeypatch.setattr(checksums.hosts, 'together', lambda function: [function(), 'b is torn'])
  assert checksums.fault(folder, {}) == 'b is torn'


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'x')

  def broken(*_):
    raise OSError(5, os.strerror(5))
  monkeypatch.setattr(os, 'preadv', broken)
  with pytest.raises(OSError, match='Input/output error') as caught:
    checksums.of_files(Path(str(tmp_path)), ['a'])
  assert caught.value.filename == str(tmp_path / 'a')


def test_sealed_json_comes_back_with_any_text():
  text = '{"a": "中\\ud800", "b": [1, {"c": null}]}'
  sealed = checksums.seal(text).encode()
  assert checksums.unseal(sealed) == checksums.unseal(sealed + b'\n')
  assert checksums.unseal(sealed)['b'] == [1, {'c': None}]
  for torn in (b'', b'{}', b'[]', b'null', sealed[:-3], sealed[:20], sealed + b'x'):
    with pytest.raises(ValueError, match='is not as it was written'):
      checksums.unseal(torn)


def test_a_folder_may_carry_its_own_sums(folder):
  assert checksums.folder_fault(folder) == ''
  checksums.write(folder, checksums.of_files(folder, ['small', 'deep/er/long']))
  (folder / 'another').write_bytes(b'x')
  assert checksums.folder_fault(folder) == ''
  (folder / 'small').write_bytes(b'other')
  assert checksums.folder_fault(folder) == 'small has other content than was written'
  for files in ('[]', '{"small": 3}', '{"small": [1, "2"]}', '{"small": [1, 2, 3]}', 'null'):
    (folder / checksums.FILE).write_text(checksums.seal(f'{{"files": {files}}}'))
    assert checksums.folder_fault(folder) == 'r1jax_checksums.json has no checksums of files'
  (folder / checksums.FILE).write_text('{"small": "a0b1"}')
  assert checksums.folder_fault(folder) == 'r1jax_checksums.json is not as it was written'
