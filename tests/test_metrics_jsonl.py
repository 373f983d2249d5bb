"""Rows in part files."""
import io

import pytest

from r1jax.errors import UserError
from r1jax.metrics import JsonlWriter, read_jsonl, read_metrics
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


def test_a_line_without_its_place_or_a_number_is_named(tmp_path):
  for line, why in ((b'{"loss": 1}', "has no 'step'"), (b'{"step": "2"}', "has step='2'"),
                    (b'{"step": true}', 'has step=True'), (b'{"step": -1}', 'has step=-1'),
                    (b'{"step": 1.5}', 'has step=1.5'), (b'\xff\xfe', 'is not a JSON object'),
                    (b'{"step": 2, "loss": "x"}', "has loss='x', not a number"),
                    (b'{"step": 2, "loss": null}', 'has loss=None'),
                    (b'{"step": 2, "loss": 1' + b'0' * 999 + b'}', 'has loss=1000'),
                    (b'{"step": 2, "loss": [1]}', r'has loss=\[1\]'),
                    (b'[' * 99_999, 'is not a JSON object')):
    (tmp_path / 'metrics').mkdir(exist_ok=True)
    (tmp_path / 'metrics' / 'part-0000000001.jsonl').write_bytes(b'{"step": 1}\n' + line + b'\n')
    with pytest.raises(UserError, match=f'part-0000000001.jsonl, line 2, {why}.*: remove that'):
      read_metrics(tmp_path)


def resumed(folder, content, resume):
  part = folder / 'part-0000000001.jsonl'
  part.write_bytes(content)
  JsonlWriter(folder, key='step', resume=resume)
  return part.read_bytes() if part.exists() else None


def test_what_a_crash_has_torn_is_removed_where_it_is_written_again(tmp_path):
  whole = b'{"step": 1, "a": 2}\n{"step": 2, "a": 3}\n'
  for torn in (b'{"step": 3, "a"', b'{"st', b'\xff', b'{"step": 3, "a": 1}\n{"step": 4, "\xe4'):
    assert resumed(tmp_path, whole + torn, 3) == whole
  assert resumed(tmp_path, whole + b'{"step": 3, "a"', 2) == whole[:20]
  assert resumed(tmp_path, b'{"st', 1) is None and resumed(tmp_path, b'', 3) is None
  assert resumed(tmp_path, b'{"a": 1, "step": 9}\n' + whole, 3) == whole
  (tmp_path / 'part-0000000007.jsonl').write_bytes(b'\xff')
  assert resumed(tmp_path, whole, 3) == whole and len([*tmp_path.iterdir()]) == 1


def test_damage_to_what_is_not_written_again_is_refused(tmp_path):
  for content in (b'{"step": 2, "a"\n{"step": 4}\n', b'{"a": 1}\n{"step": 4}\n',
                  b'{"step": 1}\n{"step": 3, "a"', b'{"step": 1}\n{"st'):
    with pytest.raises(UserError, match='part-0000000001.jsonl, line [12], .*: remove that line'):
      resumed(tmp_path, content, 4)
    assert (tmp_path / 'part-0000000001.jsonl').read_bytes() == content


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
