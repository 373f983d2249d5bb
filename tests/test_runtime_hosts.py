"""Several processes on one machine do what one does; each that is lost ends the others."""
import dataclasses
import os
import re
import signal

import jax
import numpy as np
import pytest
import runs
from runs import compiled  # noqa: F401 (fixture)
from safetensors.numpy import load_file

from r1jax import metrics, pipeline
from r1jax.checkpoint import Checkpointer
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.stages import stage


@pytest.fixture(scope='module')
def base(tmp_path_factory, compiled):
  """The folder of a model whose key/value heads two devices can share out."""
  return runs.export_base(
      tmp_path_factory.mktemp('base'), dataclasses.replace(runs.SHAPE, num_kv_heads=2))


# One process.


@pytest.mark.parametrize('seed', range(5))
def test_every_group_is_judged_by_one_of_its_holders_and_all_get_as_many(seed):
  rng = np.random.default_rng(seed)
  sets = [set(rng.choice(6, rng.integers(1, 4), replace=False).tolist()) for _ in range(3)]
  lengths = rng.integers(1, 9, 3)
  holders = [one for one, length in zip(sets, lengths) for _ in range(length)]
  owners = sharding.share_out(holders)
  assert len(owners) == len(holders)
  assert all(owner in one for owner, one in zip(owners.tolist(), holders))
  if sets[0] != sets[1]:
    run = owners[:lengths[0]]
    counts = [np.sum(run == process) for process in sets[0]]
    assert max(counts) - min(counts) <= 1 and (np.diff(run) >= 0).all()


def test_one_process_owns_and_reads_all():
  mesh = sharding.make_mesh(4, 2)
  owners = sharding.owners(mesh, 3)
  assert owners.tolist() == [0, 0, 0] == sharding.owners(None, 3).tolist()
  rows = np.arange(12).reshape(6, 2)
  (read,) = sharding.own_rows((sharding.place(rows, mesh, batch=True),), mesh,
                              np.array([True, False, True]))
  np.testing.assert_array_equal(read, rows[[0, 1, 4, 5]])
  assert hosts.gather('x') == ['x'] and hosts.from_first(lambda: 3) == 3


def test_hosts_of_other_configs_or_with_a_disk_of_their_own_are_refused(monkeypatch, tmp_path):
  monkeypatch.setattr(hosts, 'count', lambda: 3)
  monkeypatch.setattr(hosts, 'gather', lambda value: [
      value, value, value | {'config.seed': '1'}])
  with pytest.raises(ValueError, match='host 2 was started with another config'):
    pipeline._check_same({'seed': 0})
  with pytest.raises(ValueError, match='host 0 does not see what host 0 wrote'):
    stage._check_shared(Path(tmp_path))
  (tmp_path / 'stage.json').write_text('{}')
  stage._check_shared(Path(tmp_path))


class Store:
  """A coordinator's store of keys and values."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value):
    self.values[key] = value

  def blocking_key_value_get(self, key, timeout_ms):
    return self.values[key]


def test_the_first_host_collects_what_is_signed(monkeypatch):
  store = Store()
  monkeypatch.setattr(jax._src.distributed.global_state, 'client', store)
  monkeypatch.setattr(hosts, 'count', lambda: 2)
  monkeypatch.setattr(hosts, '_secret', b'of the run')

  def collect(host, value):
    monkeypatch.setattr(hosts, 'index', lambda: host)
    monkeypatch.setattr(hosts, 'is_first', lambda: host == 0)
    return hosts.collect('sums', value)
  assert collect(1, '["b"]') == [] and collect(0, '["a"]') == ['["a"]', '["b"]']
  store.values['r1jax sums/1'] = store.values['r1jax sums/1'].replace('b"', 'c"')
  with pytest.raises(ValueError, match='what host 1 sent is not signed'):
    collect(0, '["a"]')


# Several.


def devices_each(count):
  return dict(XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={count}')


def kill(processes):
  for process in processes:
    process.kill()
    process.wait()


LAST_WORDS = 'r1jax: host 0 of 2 ended because another host died'


@pytest.fixture
def two_hosts(compiled):
  """start(end, lost_s) -> two hosts of `hosts_driver`, which have told each other what they say."""
  started = []

  def start(end, lost_s):
    port = runs.free_port()
    started.extend(runs.start('tests/hosts_driver.py', port, host, lost_s, end, compiled=compiled,
                              **devices_each(2)) for host in range(2))
    for process in started:
      read_until(process, 'ready')
    return started
  yield start
  kill(started)


@pytest.mark.slow
def test_a_silent_host_ends_the_rest_in_time(two_hosts):
  first, second = two_hosts('wait', lost_s=10)
  second.send_signal(signal.SIGSTOP)    # its sockets stay open, as those of a hung machine
  _, complaint = first.communicate(timeout=60)
  assert first.returncode != 0    # it would have waited for a minute
  assert complaint.strip().splitlines()[-1].startswith(LAST_WORDS), complaint


@pytest.mark.slow
def test_an_error_of_one_host_is_said_and_ends_the_other(two_hosts):
  first, second = two_hosts('fail alone', lost_s=100)
  complaints = [process.communicate(timeout=60)[1].strip().splitlines()
                for process in (first, second)]
  assert first.returncode != 0 != second.returncode
  own, last = complaints[0]
  assert own.startswith('r1jax: a fault of host 0 (') and last.startswith(LAST_WORDS)
  (last,) = complaints[1]    # host 0 was lost, and nothing of what jax logs is said
  assert last.startswith(LAST_WORDS.replace('host 0', 'host 1'))


def test_an_error_of_all_hosts_is_said_without_a_death(two_hosts):
  for process in two_hosts('fail alike', lost_s=100):
    (complaint,) = process.communicate(timeout=60)[1].strip().splitlines()
    assert complaint.startswith('r1jax: a fault of all hosts (') and process.returncode == 1


def start_run(base, workdir, compiled, num_hosts=1, devices=4, **mesh):
  port = runs.free_port()

  def join(host):
    return (f'--coordinator=127.0.0.1:{port}', f'--num_hosts={num_hosts}', f'--host={host}',
            '--lost_s=30') if num_hosts > 1 else ()
  return [runs.start(
      '-m', 'r1jax.main', f'--config=tests/hosts_config.py:{base}', f'--workdir={workdir}',
      f'--compilation_cache={compiled}', *join(host),
      *(f'--config.mesh.{axis}={size}' for axis, size in mesh.items()), compiled=compiled,
      MALLOC_TOP_PAD_='268435456', **devices_each(devices))
      for host in range(num_hosts)]


def read_until(process, words):
  lines = []
  for line in process.stdout:
    lines.append(line)
    if re.search(words, line):
      return
  raise AssertionError(f'{words!r} was not said: {"".join(lines)}{process.stderr.read()}')


@pytest.mark.slow
def test_two_hosts_do_what_one_does_stop_together_and_go_on_alone(
    base, compiled, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  started = start_run(base, one, compiled, fsdp=2, tensor=2)
  started += start_run(base, two, compiled, num_hosts=2, devices=2, fsdp=2, tensor=2)
  try:
    alone, first, second = started
    read_until(first, 'step 2/20')
    second.terminate()
    ends = [process.communicate(timeout=400) for process in (first, second)]
    assert [first.returncode, second.returncode] == [128 + signal.SIGTERM] * 2, ends
    stopped = re.search("stage 'zero' was asked to stop: its state after step (\\d+)", ends[0][0])
    assert Checkpointer(two / 'zero/checkpoints').latest_step() == int(stopped[1]) < 40
    assert not re.search('stage|step', ends[1][0])    # only one host speaks

    started += start_run(base, two, compiled, num_hosts=2, devices=2, fsdp=2, tensor=2)
    first, second = started[3:]
    read_until(first, r'step \d+/20')
    second.kill()
    _, complaint = first.communicate(timeout=120)    # lost_s and leave-taking, and room
    assert first.returncode != 0
    assert complaint.strip().splitlines()[-1].startswith(LAST_WORDS), complaint
    saved = Checkpointer(two / 'zero/checkpoints').latest_step()
    assert 0 < saved < 40

    started += start_run(base, two, compiled, fsdp=2, tensor=2)
    output, complaint = started[-1].communicate(timeout=400)
    assert started[-1].returncode == 0, complaint
    assert f'resumes at step {saved}' in output
    _, complaint = alone.communicate(timeout=400)
    assert alone.returncode == 0, complaint
  finally:
    kill(started)
  for part in ('draw/samples', 'draw/refused', 'zero/rollouts'):
    want, got = (list(metrics.read_jsonl(run / part)) for run in (one, two))
    assert want == got, part
  assert len({record['completion'] for record in got}) > 20
  for name, steps in (('sft', 3), ('zero', 40)):
    want, got = (metrics.read_metrics(run / name) for run in (one, two))
    assert got[-1]['step'] == steps
    for ours, theirs in zip(want, got, strict=True):
      assert untimed(theirs) == pytest.approx(untimed(ours), rel=1e-5, abs=1e-5)
  want, got = (load_file(run / 'zero/model/model.safetensors') for run in (one, two))
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=1e-5, err_msg=name)
  for name in ('zero/results.json', 'rates/pass_rates.jsonl'):
    assert (one / name).read_bytes() == (two / name).read_bytes()


def untimed(record):
  return {name: value for name, value in record.items() if not name.startswith(runs.TIMED)}
