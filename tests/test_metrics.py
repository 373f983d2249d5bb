import io
import json
import math
import sys
import uuid

import matplotlib.figure
import numpy as np
import pytest
import rich.console

from r1jax import metrics
from r1jax.metrics import (
  MetricWriter,
  Progress,
  RolloutWriter,
  Stopwatch,
  plot_curves,
  read_jsonl,
  read_metrics,
)
from r1jax.runtime import storage
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
  monkeypatch.setattr(metrics.JsonlParts.__init__, '__kwdefaults__', {'part_bytes': 10})
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


def test_steps_do_not_go_backwards(tmp_path):
  writer = MetricWriter(tmp_path, resume_step=0)
  writer.write(2, {})
  with pytest.raises(ValueError, match='step 1 comes after 2'):
    writer.write(1, {})
  writer.close()


def test_a_line_that_is_no_json_is_named(tmp_path):
  (tmp_path / 'metrics').mkdir()
  for text in ('{"step": 1}\n{"step"\n', '{"step": 1}\n{"step"', '{"step": 1}\n7\n'):
    (tmp_path / 'metrics' / 'part-0000000000.jsonl').write_text(text)
    with pytest.raises(ValueError, match='part-0000000000.jsonl, line 2, is no JSON object'):
      read_metrics(tmp_path)


def test_a_write_that_fails_half_way_loses_no_earlier_line(tmp_path, monkeypatch):
  def full_disk(path, mode):
    class Full(io.FileIO):
      def write(self, content):
        super().write(content[:9])
        raise OSError(28, 'No space left on device')
    return Full(path, mode)

  writer = RolloutWriter(tmp_path, resume_iteration=0)
  writer.write(0, [{'a': 1}])
  monkeypatch.setattr(storage, 'open', full_disk, raising=False)
  with pytest.raises(OSError, match='No space left on device.*part-0000000000.jsonl'):
    writer.write(1, [{'a': 2}])
  assert list(read_jsonl(tmp_path / 'rollouts')) == [{'iteration': 0, 'a': 1}]
  assert [path.name for path in (tmp_path / 'rollouts').iterdir()] == ['part-0000000000.jsonl']


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


def test_without_tensorboardx_one_warning_and_jsonl(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.warns(UserWarning, match='tensorboardX is not installed'):
    write_run(tmp_path, range(2))
  assert len(read_metrics(tmp_path)) == 2 and not (tmp_path / 'tensorboard').exists()


def test_pitfall_23_progress_shows_the_reward_first(monkeypatch):
  clock = iter([0.0, 100.0, 110.0, 130.0])
  monkeypatch.setattr(metrics.time, 'monotonic', lambda: next(clock))
  out = io.StringIO()
  with Progress(100, done=10, console=rich.console.Console(file=out, width=20)) as progress:
    shown = {'loss': 0.0, 'kl': 1.2e-5, 'reward': 0.5, 'completions/mean_length': 1234.5, 'odd': 1}
    progress.update(11, shown)
    progress.update(12, shown)
    progress.update(14, {'loss': 2.0})
  assert out.getvalue().splitlines() == [
      'reward 0.500  loss 0.000  length 1,234  kl 1.2e-05  step 11/100  2:28:20 left',
      'reward 0.500  loss 0.000  length 1,234  kl 1.2e-05  step 12/100  0:14:40 left',
      'loss 2.000  step 14/100  0:14:20 left']  # 10 s a step without the first, which compiled


def test_live_progress_on_a_terminal():
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=True, width=100)
  with Progress(3, console=console) as progress:
    progress.update(1, {'reward': 0.25})
    progress.show_samples([])
  assert 'reward 0.250  step 1/3' in out.getvalue() and '\x1b[' in out.getvalue()


@pytest.mark.parametrize('terminal', [True, False])
def test_pitfall_19_samples_are_shown_as_plain_text_whatever_a_model_wrote(terminal):
  hostile = '[b]x[/] [/no] :smile: \x1b[2J\x1b]0;t\x07 \r over \u202e \x9b \ud800 中 | {a}'
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=terminal, color_system=None, width=30)
  Progress(1, console=console).show_samples([{
      'example_id': 4, 'prompt': 'p' * 5000, 'completion': hostile,
      'rewards': {'accuracy': 1.0, 'format': None}}])
  text = out.getvalue()
  assert ('[b]x[/] [/no] :smile: \\x1b[2J\\x1b]0;t\\x07 \\r over \\u202e \\x9b \\ud800 中 | {a}\n'
          ) in text
  assert 'example 4: accuracy 1.000, format not judged' in text
  assert '[... 3000 characters ...]' in text
  ascii_only = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  Progress(1, console=rich.console.Console(file=ascii_only)).show_samples([
      {'example_id': 4, 'prompt': '', 'completion': hostile, 'rewards': {}}])
  ascii_only.seek(0)
  assert '\\ud800 \\u4e2d' in ascii_only.read()


def test_curves_are_drawn_for_the_metrics_there_are(workdir, monkeypatch):
  figures = []
  class Figure(matplotlib.figure.Figure):
    def savefig(self, *args, **kwargs):
      figures.append(self)
      super().savefig(*args, **kwargs)

  monkeypatch.setattr(matplotlib.figure, 'Figure', Figure)
  records = [{'step': step, 'reward': math.nan if step == 1 else step / 9, 'kl': 0.1, 'odd': 2.0,
              'completions/mean_length': 3.0} for step in range(9)]
  records[4]['entropy'] = 1.0
  plot_curves(records, Path(workdir) / 'curves.png')
  assert (Path(workdir) / 'curves.png').read_bytes().startswith(b'\x89PNG')
  (figure,) = figures
  titles = ['reward', 'mean length (tokens)', 'KL from the reference (nats)',
            'entropy (nats a token)']
  assert [axis.get_title() for axis in figure.axes] == titles
  steps, rewards = figure.axes[0].lines[0].get_data()
  np.testing.assert_array_equal(rewards, [record['reward'] for record in records])
  assert list(steps) == list(range(9)) and list(figure.axes[3].lines[0].get_xdata()) == [4]
  with pytest.raises(ValueError, match='none of the metrics reward'):
    plot_curves([{'step': 1, 'odd': 2.0}], 'unwritten.png')


def test_tables_show_intervals_and_gaps():
  rows = [{'model': 'base', 'pass@1': (0.25, 0.21, 0.29), 'length': 14.25, 'problems': 500},
          {'model': '[b]trained', 'pass@1': (0.9, 0.87, 0.93), 'tokens': 12345.6, 'length': None}]
  assert metrics.format_table(rows, 'R1-Zero') == '''**R1-Zero**

| model | pass@1 | length | problems | tokens |
| --- | ---: | ---: | ---: | ---: |
| base | 0.250 [0.210, 0.290] | 14.2 | 500 | – |
| [b]trained | 0.900 [0.870, 0.930] | – | – | 12,346 |
'''
  out = io.StringIO()
  metrics.print_table(rows, 'R1-Zero', console=rich.console.Console(file=out, width=120))
  for word in ('R1-Zero', 'pass@1', '0.900 [0.870, 0.930]', '[b]trained', '500'):
    assert word in out.getvalue()
  narrow = io.StringIO()
  metrics.print_table(rows, 'R1-Zero', console=rich.console.Console(file=narrow, width=40))
  assert narrow.getvalue().splitlines()[:4] == [
      'R1-Zero', 'base', '  pass@1    0.250 [0.210, 0.290]', '  length    14.2']


def test_stopwatch_adds_up_and_starts_again(monkeypatch):
  clock = iter([0.0, 2.0, 10.0, 11.5, 20.0, 24.0])
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: next(clock))
  stopwatch = Stopwatch()
  with stopwatch('rollout'):
    pass
  with stopwatch('rollout'):
    pass
  with pytest.raises(KeyError):
    with stopwatch('update'):
      raise KeyError
  assert stopwatch.pop() == {'timing_s/rollout': 3.5, 'timing_s/update': 4.0}
  assert stopwatch.pop() == {}
