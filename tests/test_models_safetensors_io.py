"""Safetensors files read by ranges: what is read for a region, damaged files and headers."""
import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from r1jax.models import safetensors_io
from r1jax.runtime import storage


def test_narrow_columns_are_read_row_by_row_and_equal_the_whole(monkeypatch, tmp_path):
  array = np.random.default_rng(0).standard_normal((5, 40_000)).astype(ml_dtypes.bfloat16)
  save_file({'a': array, 'b': array[0, :3]}, tmp_path / 'x')
  amount, preadv = [], os.preadv
  monkeypatch.setattr(
      os, 'preadv', lambda *args: amount.append(preadv(*args)) or amount[-1])
  with safetensors_io.File(tmp_path / 'x') as file:
    for columns, bytes_read in (((100, 4_100), 2 * 4_000 * 3), ((7, 9), 2 * 40_000 * 3),
                                ((0, 40_000), 2 * 40_000 * 3)):
      amount.clear()
      part = file.read('a', (1, 4), columns)
      np.testing.assert_array_equal(part, array[1:4, slice(*columns)])
      assert sum(amount) == bytes_read
    np.testing.assert_array_equal(file.read('b', (1, 3)), array[0, 1:3, None])


def test_of_a_bucket_whole_rows_are_fetched_some_at_a_time(monkeypatch):
  """One request per row would take longer than to read columns that are not needed."""
  array = np.random.default_rng(0).standard_normal((50, 40_000)).astype(ml_dtypes.bfloat16)
  path = storage.Path('memory://narrow/x')
  path.write_bytes(save({'a': array}))
  monkeypatch.setattr(safetensors_io, '_ROWS_BYTES', 800_000)
  asked, fill = [], storage.Ranges.fill
  monkeypatch.setattr(storage.Ranges, 'fill', lambda self, out, offset: asked.append(
      len(out)) or fill(self, out, offset))
  with safetensors_io.File(path) as file:
    for columns, requests in (((100, 4_100), [800_000] * 4 + [560_000]), ((7, 9), [800_000] * 4 + [
        560_000]), ((0, 40_000), [47 * 80_000])):
      asked.clear()
      part = file.read('a', (1, 48), columns)
      np.testing.assert_array_equal(part, array[1:48, slice(*columns)])
      assert asked == requests


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
  save_file({'a': np.ones((100, 10), np.float32)}, tmp_path / 'x')
  with safetensors_io.File(tmp_path / 'x') as file:
    os.truncate(tmp_path / 'x', 2_000)
    file.read('a', (0, 10))
    with pytest.raises(
        ValueError, match='x is truncated .*it ends after 2000 bytes.*: download it again'):
      file.read('a')


def text_header(text):
  return len(text).to_bytes(8, 'little') + text.encode()


def header(**tensors):
  return text_header(json.dumps(tensors))


ONE = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}


@pytest.mark.parametrize('content, words', [
    (b'', 'it ends after 0 bytes, within its header'),
    ((10**15).to_bytes(8, 'little') + b'{}', 'it ends after 10 bytes, within its header'),
    ((2).to_bytes(8, 'little') + b'[]', 'its header cannot be read'),
    ((9).to_bytes(8, 'little') + b'not  JSON', 'its header cannot be read'),
    (header(a={'dtype': 'F32'}) + bytes(8), 'its header cannot be read'),
    (header(a=ONE | {'shape': [3]}) + bytes(8), r'a of shape \[3\] has 8 bytes'),
    (header(a=ONE | {'shape': [-1, -2]}) + bytes(8), r'a has shape=\[-1, -2\]'),
    (header(a=ONE | {'shape': [float('inf')]}) + bytes(8), 'Infinity is not a number'),
    (header(a=ONE | {'shape': [float('nan')]}) + bytes(8), 'NaN is not a number'),
    (header(a=ONE | {'shape': [2.0]}) + bytes(8), r'a has shape=\[2.0\]'),
    (header(a=ONE | {'shape': [True, 2]}) + bytes(8), r'a has shape=\[True, 2\]'),
    (header(a=ONE | {'shape': [1] * 1000}) + bytes(8), r'a has shape=\[1, 1, .*'),
    (header(a=ONE | {'shape': [10 ** 30]}) + bytes(8), 'a has shape=.1000'),
    (header(a=ONE | {'data_offsets': [0, 8, 8]}) + bytes(8), r'a has data_offsets=\[0, 8, 8\]'),
    (header(a=ONE | {'data_offsets': [8, 0]}) + bytes(8), r'a of shape \[2\] has -8 bytes'),
    (header(a=ONE | {'dtype': ['F32']}) + bytes(8), 'its header cannot be read'),
    (text_header('{"a": 1, "a": 2}'), 'a key is repeated'),
    (text_header('{"a": %s}' % ('[' * 100_000)), 'its header cannot be read'),
    (text_header('{"a": %s}' % ('9' * 10_000)), 'its header cannot be read'),
    (header(a=ONE, b=ONE) + bytes(8), 'overlap or leave gaps'),
    (header(a=ONE | {'data_offsets': [4, 12]}) + bytes(12), 'overlap or leave gaps'),
    (header(a=ONE) + bytes(7), 'it has [0-9]+ bytes, but its header describes'),
    (header(a=ONE) + bytes(9), 'it has [0-9]+ bytes, but its header describes'),
])
def test_a_header_that_does_not_fit_its_file(content, words, tmp_path):
  (tmp_path / 'x').write_bytes(content)
  with pytest.raises(
      ValueError, match=f'x is truncated or not a safetensors file .*{words}.*: download it'):
    safetensors_io.File(tmp_path / 'x')
