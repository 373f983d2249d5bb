"""Rows in part files."""
import io

import pytest

from r1jax.metrics import JsonlWriter, read_jsonl
from r1jax.runtime import storage


def test_steps_do_not_go_backwards(tmp_path):
  writer = JsonlWriter(tmp_path, key='step', resume=0)
  writer.append(2, [])
  with pytest.raises(ValueError, match='step 1 comes after 2'):
    writer.append(1, [])


def test_a_line_that_is_not_json_is_named(tmp_path):
  for text in ('{"step": 1}\n{"step"\n', '{"step": 1}\n{"step"', '{"step": 1}\n7\n'):
    (tmp_path / 'part-0000000000.jsonl').write_text(text)
    with pytest.raises(ValueError, match='part-0000000000.jsonl, line 2, is not a JSON object'):
      list(read_jsonl(tmp_path))


def test_a_write_that_fails_half_way_loses_no_earlier_line(tmp_path, monkeypatch):
  def full_disk(path, mode):
    class Full(io.FileIO):
      def write(self, content):
        super().write(content[:9])
        raise OSError(28, 'No space left on device')
    return Full(path, mode)

  writer = JsonlWriter(tmp_path, key='iteration', resume=0)
  writer.append(0, [{'a': 1}])
  monkeypatch.setattr(storage, 'open', full_disk, raising=False)
  with pytest.raises(OSError, match='No space left on device.*part-0000000000.jsonl'):
    writer.append(1, [{'a': 2}])
  assert list(read_jsonl(tmp_path)) == [{'iteration': 0, 'a': 1}]
  assert [path.name for path in tmp_path.iterdir()] == ['part-0000000000.jsonl']
