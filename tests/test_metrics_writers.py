"""Metrics and rollouts on disk: resumed as uninterrupted, exact, in any text."""
import errno
import json
import math
import os
import sys
import uuid

import numpy as np
import pytest

from r1jax.metrics import MetricWriter, RolloutWriter, jsonl, read_jsonl, read_metrics
from r1jax.runtime import extras
from r1jax.runtime.storage import Path


@pytest.fixture(params=['local', 'memory'])
def workdir(request, tmp_path):
  return str(tmp_path) if request.param == 'local' else f'memory://{uuid.uuid4().hex}'


def write_run(workdir, steps, resume_step=0):
  writer = MetricWriter(workdir, resume_step=resume_step)
  for step in steps:
    writer.write(step, {'reward': math.sin(step), 'loss': float('nan')})
    if step % 4 == 0:
      writer.write(step, {'eval/pass@1': np.float32(step / 7)})
  writer.close()


def lines(workdir):
  return [json.dumps(record) for record in read_jsonl(Path(workdir) / 'metrics')]


def events(workdir):
  """(step, name, value) of every scalar in the TensorBoard files, sorted."""
  from tensorboardX.proto.event_pb2 import Event
  found = []
  for path in (Path(workdir) / 'tensorboard').iterdir():
    content, at = path.read_bytes(), 0
    while at < len(content):  # TFRecord: length, its checksum, the record, its checksum
      size = int.from_bytes(content[at:at + 8], 'little')
      event = Event.FromString(content[at + 12:at + 12 + size])
      found += [f'{event.step} {value.tag} {value.simple_value}' for value in event.summary.value]
      at += 16 + size
  return sorted(found)


def test_pitfall_20_resumed_metrics_equal_uninterrupted_ones(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(jsonl.JsonlWriter.__init__, '__kwdefaults__', {'part_bytes': 10})
  other = str(tmp_path / 'uninterrupted')
  write_run(other, range(10))
  write_run(workdir, range(8))
  assert len(list((Path(workdir) / 'metrics').iterdir())) == 8
  (Path(workdir) / 'tensorboard' / 'events.out.tfevents.0').write_bytes(b'of an earlier run')
  write_run(workdir, range(5, 10), resume_step=5)
  assert lines(workdir) == lines(other)
  assert len(events(other)) == 23 and events(workdir) == events(other)
  write_run(workdir, range(0))
  assert lines(workdir) == [] == events(workdir)


def test_metrics_of_a_step_are_joined_and_exact(workdir):
  values = {'third': 1 / 3, 'up': math.inf, 'down': -math.inf, 'nan': math.nan,
            'np': np.float32(0.1)}
  writer = MetricWriter(workdir, resume_step=3)
  writer.write(3, values)
  writer.write(3, {'more': 1})
  (record,) = read_metrics(workdir)  # on disk before any flush
  writer.close()
  assert list(record) == ['step', *values, 'more'] and record['step'] == 3
  np.testing.assert_array_equal([record[name] for name in values], list(values.values()))
  (part,) = (Path(workdir) / 'metrics').iterdir()
  for line in part.read_text().splitlines():
    json.loads(line, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))


@pytest.mark.parametrize('text', [
    '中文', '\ud800 lone', 'a\u2028b\x85c\r\n', '\\ud800', '\x00\x1b[2J', '"'])
def test_rollouts_keep_any_text(workdir, text):
  sample = {'example_id': 3, 'prompt': text, 'completion': text, 'truncated': False,
            'rewards': {'accuracy': None, 'format': 1.0}}
  writer = RolloutWriter(workdir, resume_iteration=0)
  writer.write(0, [sample, sample])
  writer.write(1, [sample])
  want = [{'iteration': i, **sample} for i in (0, 0, 1)]
  assert list(read_jsonl(Path(workdir) / 'rollouts')) == want
  RolloutWriter(workdir, resume_iteration=1)
  assert list(read_jsonl(Path(workdir) / 'rollouts')) == want[:2]


@pytest.mark.parametrize('method', ['write', 'flush', 'close'])
def test_a_full_disk_ends_the_run_wherever_events_meet_it(method, tmp_path, monkeypatch):
  from tensorboardX.record_writer import RecordWriter

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  writer = MetricWriter(tmp_path, resume_step=0)
  monkeypatch.setattr(RecordWriter, method, full)
  with pytest.raises(OSError, match='No space left.*another workdir') as raised:
    for step in range(20):    # tensorboardX's own writer waits forever after 11 scalars
      writer.write(step, {'reward': 1.0})
    writer.flush()
    writer.close()
  assert raised.value.filename == str(tmp_path / 'tensorboard')


def test_without_tensorboardx_one_sentence_and_jsonl(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  extras.available.cache_clear()
  write_run(tmp_path, range(2))
  assert capsys.readouterr().out == (
      'tensorboardX is not installed, so files for TensorBoard are not written: install r1jax with '
      "its extra 'tensorboard' to have them.\n")
  assert len(read_metrics(tmp_path)) == 2 and not (tmp_path / 'tensorboard').exists()
