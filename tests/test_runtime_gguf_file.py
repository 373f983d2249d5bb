"""GGUF headers of strangers: each ends in one sentence, before memory is taken for what it says."""
import random
import struct
import tracemalloc

import pytest

from r1jax.errors import UserError
from r1jax.runtime.gguf_file import GgufFile

STRING, ARRAY, UINT32 = 8, 9, 4


def text(value):
  value = value.encode() if isinstance(value, str) else value
  return struct.pack('<Q', len(value)) + value


def field(name, kind, content):
  return text(name) + struct.pack('<I', kind) + content


def tensor(name, shape=(2,), kind=0, offset=0):
  return text(name) + struct.pack(f'<I{len(shape)}QIQ', len(shape), *shape, kind, offset)


def whole(fields=(), tensors=(), data=b'', *, num_fields=None, num_tensors=None, version=3):
  header = b'GGUF' + struct.pack(
      '<IQQ', version, len(tensors) if num_tensors is None else num_tensors,
      len(fields) if num_fields is None else num_fields) + b''.join([*fields, *tensors])
  return header + bytes(-len(header) % 32) + data


def array(item, count, content=b''):
  return struct.pack('<IQ', item, count) + content


GOOD = whole(
    [field('general.architecture', STRING, text('llama')),
     field('numbers', ARRAY, array(UINT32, 2, struct.pack('<II', 5, 6))),
     field('texts', ARRAY, array(STRING, 2, text('a') + text('é')))],
    [tensor('x.weight', (2, 3)), tensor('y.weight', (2,), 0, 32)], bytes(40))


def test_a_header_is_read_as_it_was_written(tmp_path):
  (tmp_path / 'a.gguf').write_bytes(GOOD)
  with GgufFile(tmp_path / 'a.gguf') as file:
    assert file.metadata == {
        'general.architecture': 'llama', 'numbers': [5, 6], 'texts': ['a', 'é']}
    assert {name: entry.shape for name, entry in file.entries.items()} == {
        'x.weight': (3, 2), 'y.weight': (2,)}
    assert file.rows('y.weight', 0, 1, 8).shape == (1, 8)


@pytest.mark.parametrize('content, words', [
    (b'GGML' + bytes(40), 'it does not begin with GGUF'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'is a pointer of git-LFS'),
    (whole(version=1), 'its version is 1'),
    (whole(num_fields=2 ** 60), f'too short for the {2 ** 60} fields'),
    (whole(num_tensors=2 ** 60), f'too short for the {2 ** 60} tensors'),
    (whole([field('a', STRING, struct.pack('<Q', 2 ** 62))]), 'within its header'),
    (whole([field('a', ARRAY, array(UINT32, 2 ** 62))]), 'within its header'),
    (whole([field('a', ARRAY, array(STRING, 2 ** 62))]), f'the {2 ** 62} strings'),
    (whole([field('a', ARRAY, array(ARRAY, 1) * 100_000)]), 'an array of the type 9'),
    (whole([field('a', 13, b'')]), 'a value of the type 13'),
    (whole([field('a', STRING, text(b'\xff'))]), 'a text that is not UTF-8'),
    (whole([field('a', UINT32, bytes(4))] * 2), "two fields 'a'"),
    (whole([field('general.alignment', UINT32, bytes(4))]), 'general.alignment=0'),
    (whole(tensors=[tensor('x')] * 2, data=bytes(8)), 'or is there twice'),
    (whole(tensors=[tensor('x', (0,))], data=bytes(8)), r'shape \[0\] at 0 does not fit'),
    (whole(tensors=[tensor('x', (1,) * 5)], data=bytes(8)), 'has 5 axes'),
    (whole(tensors=[tensor('x', (2 ** 40, 2 ** 40))], data=bytes(8)), 'does not fit'),
    (whole(tensors=[tensor('x', offset=2 ** 63)], data=bytes(8)), 'does not fit'),
])
def test_what_is_wrong_with_a_header_is_said(content, words, tmp_path):
  (tmp_path / 'a.gguf').write_bytes(content)
  tracemalloc.start()
  with pytest.raises(UserError, match=words):
    GgufFile(tmp_path / 'a.gguf')
  assert tracemalloc.get_traced_memory()[1] < 50_000_000
  tracemalloc.stop()


def test_a_folder_is_no_file(tmp_path):
  with pytest.raises(UserError, match='is a folder: name the .gguf file in it'):
    GgufFile(tmp_path)


def test_random_changes_of_a_header_end_in_a_sentence_or_are_read(tmp_path):
  rng, path = random.Random(0), tmp_path / 'a.gguf'
  refused = 0
  for _ in range(400):
    content = bytearray(GOOD[:rng.randrange(len(GOOD))] if rng.random() < 0.2 else GOOD)
    for _ in range(rng.randrange(1, 4)):
      if content:
        content[rng.randrange(len(content))] = rng.choice([0, 1, 8, 9, 127, 128, 255])
    path.write_bytes(content)
    try:
      GgufFile(path).__exit__()
    except UserError:
      refused += 1
  assert 100 < refused < 400
