"""How processes find each other: what is checked and recognised, and who is missing."""
import contextlib
import os
import re
import socket
import threading
import time

import jax
import pytest
import runs

from r1jax.runtime import handshake, joining


@pytest.mark.parametrize('fields, said', [
    (dict(coordinator='10.0.0.2', num_hosts=2, host=0), "coordinator='10.0.0.2' is not an address"),
    (dict(coordinator='a:70000', num_hosts=2, host=0), 'HOST:PORT'),
    (dict(coordinator='a:1', host=0), 'num_hosts must be at least 1, got 0'),
    (dict(coordinator='a:1', num_hosts=2, host=2), 'from 0 to 1'),
    (dict(num_hosts=2, host=0), '--coordinator=HOST:PORT'),
    (dict(coordinator='a:1', num_hosts=2, host=0, lost_s=0), 'lost_s=0')])
def test_how_to_join_is_checked(fields, said):
  with pytest.raises(joining.JoinError, match=re.escape(said)):
    joining.Joining(**fields)


@pytest.mark.parametrize('environment, several', [
    ({}, False),
    (dict(SLURM_JOB_ID='1', SLURM_STEP_NODELIST='a[1-2]', SLURM_NTASKS='2', SLURM_PROCID='0',
          SLURM_LOCALID='0'), True),
    (dict(SLURM_JOB_ID='1', SLURM_NTASKS='2'), False),     # an allocation, but no srun
    (dict(SLURM_JOB_ID='1', SLURM_STEP_NODELIST='a', SLURM_NTASKS='1', SLURM_PROCID='0',
          SLURM_LOCALID='0'), False),
    (dict(OMPI_MCA_orte_hnp_uri='1.0;tcp://10.0.0.1:1', OMPI_COMM_WORLD_SIZE='4'), True),
    (dict(MEGASCALE_NUM_SLICES='2'), True)])
def test_what_is_recognised(monkeypatch, environment, several):
  for name in list(os.environ):
    if name.startswith(('SLURM', 'OMPI', 'MEGASCALE')):
      monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert joining.several_recognised() == several


@pytest.mark.parametrize('tasks, alone', [
    ('1', True), ('1(x4)', True), ('8(x2)', False), ('1(x2),8', False), ('', False)])
def test_a_single_task_of_a_node_takes_all_its_devices(monkeypatch, tasks, alone):
  monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', tasks)
  assert joining.alone_on_its_node() == alone


KNOWN = {'jax': '0.10.2', 'file /data/train.jsonl': '12 bytes (a)'}


def wait_for_hosts(workdir, *told, num_hosts=2, wait_s=1, beside=lambda address: None):
  """What each process says that is told (its number, how many there are, what else it knows).

  `beside(address)` is called while host 0 waits.
  """
  said, port = [None] * len(told), runs.free_port()

  def tell(place, host, count, **other):
    how = joining.Joining(f'127.0.0.1:{port}', count, host, wait_s, workdir=str(workdir))
    try:
      (secret, session) = joining._meet(how, KNOWN | other)
      assert len(secret) == 64 and len(session) == 32
    except joining.JoinError as error:
      said[place] = str(error)
  threads = [threading.Thread(target=tell, args=(place, *one[:2]), kwargs=dict(*one[2:]))
             for place, one in enumerate(told)]
  for thread in threads:
    thread.start()
  beside(('127.0.0.1', port))
  for thread in threads:
    thread.join(30)
  return said


def test_hosts_that_all_report_find_each_other(tmp_path):
  assert wait_for_hosts(tmp_path, (1, 3), (0, 3), (2, 3), wait_s=10) == [None] * 3
  (secret,) = tmp_path.iterdir()
  assert secret.stat().st_mode & 0o777 == 0o600
  before = secret.read_text()
  assert wait_for_hosts(tmp_path, (0, 2), (1, 2), wait_s=10) == [None] * 2
  assert secret.read_text() != before    # each start has its own


def test_those_who_are_missing_are_named_to_all(tmp_path):
  said = wait_for_hosts(tmp_path, (0, 4), (2, 4))
  assert said[0] == said[1] and 'num_hosts=4 hosts 1, 3 did not answer' in said[0]
  assert 'within join_wait_s=1 s: start the same command on them' in said[0]


def test_two_hosts_of_one_number_and_other_counts_are_refused(tmp_path):
  assert all('two hosts have host=1' in one
             for one in wait_for_hosts(tmp_path, (0, 3), (1, 3), (1, 3), wait_s=10))
  assert all('has num_hosts=3 and host 0 has num_hosts=2' in one
             for one in wait_for_hosts(tmp_path, (0, 2), (1, 3)))


@pytest.mark.parametrize('name, value, said', [
    ('jax', '0.12.0', 'host 1 has jax 0.12.0 and host 0 has 0.10.2: install the same'),
    ('file /data/train.jsonl', '12 bytes (b)',
     'file /data/train.jsonl is 12 bytes (b) on host 1 and 12 bytes (a) on host 0: give all'),
    ('config.seed', '\x1b[2J', r'host 1 has config.seed=\x1b[2J and host 0 has none')])
def test_pitfall_33_hosts_that_differ_are_refused_by_name(tmp_path, name, value, said):
  for one in wait_for_hosts(tmp_path, (0, 2), (1, 2, {name: value}), wait_s=10):
    assert one.startswith(said)


def test_a_coordinator_that_nobody_reaches_is_named(tmp_path):
  (said,) = wait_for_hosts(tmp_path, (1, 2))
  assert re.search(r'host 1 cannot reach the coordinator 127.0.0.1:\d+ within join_wait_s=1', said)
  assert f'host 0 has left no secret in workdir={str(tmp_path)!r}' in said
  (tmp_path / '.join_secret').write_text('of an earlier start')
  (said,) = wait_for_hosts(tmp_path, (1, 2))
  assert '(Connection refused)' in said


def test_a_port_in_use_is_told_at_once(tmp_path):
  with socket.create_server(('', 0)) as other:
    how = joining.Joining(f'127.0.0.1:{other.getsockname()[1]}', 2, 0, 300, workdir=str(tmp_path))
    with pytest.raises(joining.JoinError, match='cannot listen .*already in use.*free port'):
      joining._meet(how, KNOWN)


@pytest.mark.parametrize('name, bind', [
    ('127.0.0.1', '127.0.0.1'), ('localhost', '127.0.0.1'), ('192.0.2.1', ''), ('a-host', '')])
def test_host_0_listens_where_it_was_told_to(name, bind):
  how = joining.Joining(f'{name}:1', 2, 0)
  assert joining.bind_address(how) == bind
  assert joining._bind_address_for_jax(how) == (f'{bind}:1' if bind else None)


FOREIGN = [b'', b'{"r1jax": 1}\n', b'{"host": [1], "num_hosts": 2}\n', b'[' * 9000 + b'\n',
           b'\xff\x00\n', b'GET / HTTP/1.1\r\n\r\n', b'0' * 64 + b' {"host": 1}\n', b'x' * 100_000]


def strangers(address):
  """Sends what hosts do not send, and a report with another secret; keeps all sockets open."""
  time.sleep(0.2)
  opened = [socket.create_connection(address, 5) for _ in range(200)]
  for connection, content in zip(opened, FOREIGN * 25):
    with contextlib.suppress(OSError):
      connection.sendall(content)
  with socket.create_connection(address, 5) as connection:
    assert handshake.report(connection, b'guessed', 1, 2, KNOWN, time.monotonic() + 5) is None
  return opened


def test_strangers_neither_stop_nor_delay_host_0(tmp_path):
  kept = []
  said = wait_for_hosts(tmp_path, (0, 2), wait_s=2, beside=lambda at: kept.extend(strangers(at)))
  assert 'within join_wait_s=2 s (connections from 127.0.0.1 did not know' in said[0]

  def then_host_1(address):
    kept.extend(strangers(address))
    how = joining.Joining(f'127.0.0.1:{address[1]}', 2, 1, 20, workdir=str(tmp_path))
    joining._meet(how, KNOWN)
  assert wait_for_hosts(tmp_path, (0, 2), wait_s=30, beside=then_host_1) == [None]


def test_a_report_that_was_overheard_is_of_no_use(tmp_path):
  ours, theirs = socket.socketpair()
  with ours, theirs:
    ours.sendall(b'r1jax ' + b'0' * 32 + b'\n')
    overheard = []
    thread = threading.Thread(target=lambda: overheard.append(ours.recv(1 << 20)) or ours.close())
    thread.start()
    assert handshake.report(theirs, b'secret', 1, 2, KNOWN, time.monotonic() + 5) is None
    thread.join()
  with socket.create_server(('127.0.0.1', 0)) as listener:
    server = handshake.Server(listener, b'secret', 2, KNOWN, 1, '')
    with socket.create_connection(listener.getsockname()) as connection:
      connection.sendall(overheard[0])
      assert 'did not answer' in server.wait()


@pytest.mark.parametrize('body', [
    {}, [], 1, None, {'host': [1], 'num_hosts': 2, 'nonce': '', 'known': {}},
    {'host': True, 'num_hosts': 2, 'nonce': '', 'known': {}},
    {'host': 1, 'num_hosts': 2, 'nonce': 1, 'known': {}},
    {'host': 1, 'num_hosts': 2, 'nonce': '', 'known': []},
    {'host': 1, 'num_hosts': 2, 'nonce': '', 'known': {'jax': 1}}])
def test_reports_have_a_form(body):
  assert handshake._as_report(body) is None
  line = handshake.signed({'x': body}, b'secret', b'report')
  assert handshake.verified(line.rstrip(), b'secret', b'report') == {'x': body}
  assert handshake.verified(line.rstrip(), b'secret', b'answer') is None


def test_what_jax_says_of_a_lost_host_is_known():
  for words, lost in (('FAILED_PRECONDITION: Gloo AllGather: Connection closed by peer', True),
                      ('UNAVAILABLE: Socket closed', True), ('RESOURCE_EXHAUSTED: memory', False)):
    assert joining.says_that_a_host_is_lost(jax.errors.JaxRuntimeError(words)) == lost
  assert not joining.says_that_a_host_is_lost(ValueError('Gloo'))


class Store:
  """The service of jax with which `_agree` speaks, for hosts in threads."""

  def __init__(self, count):
    self.barrier, self.values, self.changed = threading.Barrier(count), {}, threading.Condition()

  def wait_at_barrier(self, name, timeout_in_ms):
    self.barrier.wait(10)

  def key_value_set(self, key, value):
    with self.changed:
      self.values[key] = value
      self.changed.notify_all()

  def blocking_key_value_get(self, key, timeout_ms):
    with self.changed:
      assert self.changed.wait_for(lambda: key in self.values, 10)
      return self.values[key]


def agree(monkeypatch, workdir, *known):
  """What hosts say that jax has connected, and that know this."""
  store, numbers = Store(len(known)), threading.local()
  monkeypatch.setattr('jax._src.distributed.global_state.client', store)
  monkeypatch.setattr(joining.jax, 'process_index', lambda: numbers.own)
  monkeypatch.setattr(joining.jax, 'process_count', lambda: len(known))
  said = [None] * len(known)

  def tell(host):
    numbers.own = host
    try:
      said[host] = joining._agree(joining.Joining(workdir=str(workdir)), known[host])
    except joining.JoinError as error:
      said[host] = str(error)
  threads = [threading.Thread(target=tell, args=(host,)) for host in range(len(known))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  return said


def test_hosts_that_jax_has_connected_are_compared_too(monkeypatch, tmp_path):
  first, second, third = agree(monkeypatch, tmp_path, KNOWN, KNOWN, KNOWN)
  assert first == second == third and len(first[0]) == 64 and len(first[1]) == 32
  said = agree(monkeypatch, tmp_path, KNOWN, KNOWN, KNOWN | {'jax': '0.12.0'})
  assert said[0] == said[1] == said[2] and said[0].startswith('host 2 has jax 0.12.0')


def test_a_run_of_several_hosts_needs_something_to_know_each_other_by(monkeypatch):
  monkeypatch.delenv('R1JAX_SECRET', raising=False)
  with pytest.raises(joining.JoinError, match='same workdir, or set R1JAX_SECRET'):
    joining.join(joining.Joining('127.0.0.1:1', 2, 0))
