"""One owner of a folder: alive, dead, on this machine and on others."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from r1jax.errors import UserError
from r1jax.runtime import ownership
from r1jax.runtime.ownership import check, owned
from r1jax.runtime.storage import Path

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(params=['local', 'memory'])
def folder(request, tmp_path):
  return Path(tmp_path / 'run' if request.param == 'local' else f'memory://{uuid.uuid4().hex}/run')


@pytest.fixture
def quick(monkeypatch):
  """Owners on other machines are dead after a moment; heartbeats are those that a test gives."""
  monkeypatch.setattr(ownership, 'STALE_S', 0.3)
  monkeypatch.setattr(ownership, '_SETTLE_S', 0.0)


def refused(folder, *names, beside=()):
  """Another thread, which is no part of this run, is refused, and the sentence names these."""
  found = []

  def start():
    try:
      with owned(folder, beside=beside):
        found.append('owns it')
    except UserError as error:
      found.append(str(error))
  thread = threading.Thread(target=start)
  thread.start()
  thread.join()
  assert all(name in found[0] for name in (
      'is in use by another run', *map(str, names))) and '\n' not in found[0], found
  return True


def leave_owner(folder, **changes):
  """The file of an owner that has not given the folder up."""
  owner = ownership._this_process() | changes
  (folder / '.owner.json').write_text(json.dumps(owner))
  return owner


def test_pitfall_28_a_second_run_is_refused_by_name_and_nothing_stays_behind(folder):
  with owned(folder):
    owner = json.loads((folder / '.owner.json').read_text())
    assert refused(folder, folder, f'process {os.getpid()}', owner['host'], owner['since'],
                   'if it crashes, start again', f'after {ownership.STALE_S} s')
    check()
  assert list(folder.iterdir()) == []
  with pytest.raises(KeyError), owned(folder):
    raise KeyError
  with owned(folder):
    (folder / 'result').write_text('')
  assert [path.name for path in folder.iterdir()] == ['result']


def test_a_part_of_a_run_owns_what_the_run_owns(folder):
  with owned(folder), owned(folder / 'stage'), owned(folder):
    assert not (folder / 'stage').exists()
  assert not (folder / '.owner.json').exists()


def test_folders_beside_must_be_free_too(folder):
  for mine, other in ((folder, folder / 'stage'), (folder / 'stage', folder)):
    with owned(mine):
      assert refused(other, mine, beside=[mine]) and not (other / '.owner.json').exists()
    with owned(other, beside=[mine, folder.parent]):
      pass


CHILD = '''
import os, sys, time
from r1jax.runtime.ownership import owned
with owned(sys.argv[1]):
  fork = os.fork()
  if fork:
    os.waitpid(fork, 0)
    if os.fork():
      print('owns', flush=True)
    time.sleep(60)
os._exit(0)
'''


def test_the_death_of_a_process_frees_its_folder_whatever_its_forks_do(tmp_path):
  """One of two has ended within the block, and one lives on."""
  folder = tmp_path / 'run'
  process = subprocess.Popen([sys.executable, '-c', CHILD, folder], text=True,
                             stdout=subprocess.PIPE, env=os.environ | {'PYTHONPATH': str(ROOT)})
  assert process.stdout.readline() == 'owns\n'
  fork, = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
  assert refused(folder, f'process {process.pid}')
  process.kill()
  process.wait()
  assert (folder / '.owner.json').exists()
  with owned(folder):
    os.kill(int(fork), signal.SIGKILL)
  assert list(folder.iterdir()) == []


def test_in_a_bucket_a_process_of_this_machine_is_known_by_its_start(folder, quick, monkeypatch):
  if folder.is_local:    # as on a network disk without locks
    monkeypatch.setattr(ownership, '_lock', lambda folder: None)
    os.makedirs(folder)
  monkeypatch.setattr(ownership, 'STALE_S', 1e9)    # nothing is waited for
  init = ownership._start_of(1)
  leave_owner(folder, process=1, started=init)
  assert refused(folder, 'process 1 on host')
  for dead in (dict(process=1, started='7'), dict(process=2 ** 22 + 1), dict()):
    leave_owner(folder, **dead)
    with owned(folder):
      check()
  assert not (folder / '.owner.json').exists()


@pytest.mark.parametrize('changes', [
    dict(machine='another'), dict(machine='another', process=1), dict(namespace='of a container')])
def test_another_machine_is_dead_when_it_gives_no_sign_of_life(folder, quick, changes, capsys):
  if folder.is_local and 'namespace' in changes:
    pytest.skip('a lock tells')
  if folder.is_local:
    os.makedirs(folder)
  leave_owner(folder, host='far', **changes)
  with owned(folder):
    assert 'on host far' in capsys.readouterr().out
    check()

  leave_owner(folder, host='far', **changes)
  beat = threading.Timer(0.1, lambda: leave_owner(folder, host='far', beats=1, **changes))
  beat.start()
  assert refused(folder, 'on host far')
  beat.join()


@pytest.mark.parametrize('content', [b'', b'[]', b'{}', b'{"host": ', b'\xff', b'[' * 9999,
                                     b'{"process": "x", "machine": 3, "started": []}'])
def test_a_torn_file_of_an_owner_keeps_nobody_out(folder, quick, content):
  (folder / '.owner.json').write_bytes(content)
  with owned(folder):
    pass
  assert not (folder / '.owner.json').exists()


def test_a_run_whose_folder_was_taken_over_stops_and_touches_nothing(folder, quick):
  with pytest.raises(UserError, match=r'taken over by another run \(process 3 on host far') as told:
    with owned(folder):
      claim, = ownership._held.get()
      claim._renew()
      check()
      taken = leave_owner(folder, host='far', process=3, machine='another')
      claim._renew()
      check()
  assert '\n' not in str(told.value)
  assert json.loads((folder / '.owner.json').read_text()) == taken


def test_a_run_that_was_suspended_looks_before_it_goes_on(folder, quick, monkeypatch):
  with owned(folder):
    leave_owner(folder, host='far')
    claim, = ownership._held.get()
    check()
    claim._seen -= 100
    with pytest.raises(UserError, match='host far'):
      check()


def test_a_heartbeat_keeps_the_file_whatever_becomes_of_it(folder, quick):
  with owned(folder):
    claim, = ownership._held.get()
    before = (folder / '.owner.json').read_bytes()
    claim._renew()
    assert (folder / '.owner.json').read_bytes() != before
    (folder / '.owner.json').remove()
    (folder / 'result').write_text('')
    claim._renew()
    assert (folder / '.owner.json').exists()
    claim._renew()
    assert claim._new_owner is None


def test_of_two_that_take_a_bucket_over_at_once_one_gives_up(monkeypatch, quick):
  folder = Path(f'memory://{uuid.uuid4().hex}/run')
  leave_owner(folder, process=2 ** 22 + 1)
  monkeypatch.setattr(ownership.time, 'sleep', lambda _: leave_owner(folder, host='far'))
  assert refused(folder, 'host far')


def test_who_only_looks_holds_nobody_up(tmp_path):
  (tmp_path / '.owner.lock').touch()
  with open(tmp_path / '.owner.lock') as file:
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Timer(0.1, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
    with owned(tmp_path):
      pass
