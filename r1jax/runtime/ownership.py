"""One run owns a folder while it runs; a second one is refused, and a dead one is followed.

    with owned(workdir):
      ...

The owner's file `.owner.json` says who it is, and changes with every heartbeat. On a disk the owner
also holds a lock (`flock`) on `.owner.lock`, which the system releases when the process ends,
however it ends. So a process of this machine, in a container or not, is known to be alive or dead
at once. Of another machine, which may share the folder, only heartbeats are known: it counts as
dead when its file has not changed for STALE_S of this machine's own time, so clocks may differ.

A bucket has no locks. Two hosts that take it over at the same moment both write their file, and
read it again: the one that finds the other's gives up, at once or at its next heartbeat.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import contextvars
import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
from typing import Any
import uuid

from r1jax.errors import UserError, printable
from r1jax.runtime import hosts
from r1jax.runtime.storage import Path, make_folder, to_json

BEAT_S = 15       # seconds between heartbeats
STALE_S = 90      # seconds without one, after which an owner on another machine counts as dead
_SETTLE_S = 1.0   # seconds after which a file that was taken over in a bucket is read again
_GLANCE_S = 1.0   # seconds for which another process may hold a lock only to look
_FILE, _LOCK = '.owner.json', '.owner.lock'
_NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EBADF

_claims: dict[str, _Claim] = {}    # of this process, by folder
_claiming = threading.Lock()
# The claims around the present code: a stage that runs inside a chain's run is part of it.
_held: contextvars.ContextVar[tuple[_Claim, ...]] = contextvars.ContextVar('held', default=())


@contextlib.contextmanager
def owned(folder: str | Path, *, beside: Iterable[Path] = ()) -> Iterator[None]:
  """Owns a folder, for all hosts of a run; does nothing inside a run that owns it or one above.

  Args:
    folder: local or remote; it is made if it is not there.
    beside: other folders, which no other run may own; they need not exist.

  Raises:
    UserError: another run owns one of them; the message says which, and how to go on.
    OSError: nothing can be written there.
  """
  folder = Path(folder)
  if any(f'{folder}/'.startswith(f'{claim.folder}/') for claim in _held.get()):
    yield
    return
  claim, before = _Claim(folder), _held.get()
  try:
    hosts.from_first(lambda: claim.take(beside))
    _held.set((*before, claim))
    yield
  finally:
    _held.set(before)
    claim.release()


def check() -> None:
  """Refuses to go on in a folder that another run has taken over; called before what is written.

  Raises:
    UserError: saying who owns the folder now.
  """
  for claim in _held.get():
    claim.check()


class _Claim:
  """A folder that is owned, or is to be."""

  def __init__(self, folder: Path):
    self.folder = folder
    self._file = folder / _FILE
    self._lock: int | None = None    # an open file
    self._taken = self._made_folder = False
    self._beats = 0
    self.owner = _this_process()
    self._new_owner: dict[str, Any] | None = None
    self._seen = time.monotonic()    # when the file was last found to be this run's
    self._end, self._writing = threading.Event(), threading.Lock()
    self._thread = threading.Thread(target=self._beat, name='owner', daemon=True)

  def take(self, beside: Iterable[Path]) -> None:
    """Becomes the owner; `release` must follow, whatever this raises."""
    with _claiming:
      if str(self.folder) in _claims:
        raise _refusal(self.folder, _claims[str(self.folder)].owner)
      _claims[str(self.folder)] = self
    self._taken = True
    self._take_lock()
    self._write_first()
    for other in beside:
      if str(other) != str(self.folder):    # the top of a bucket is in itself
        _refuse_living(other)
    self._thread.start()

  def check(self) -> None:
    """Raises UserError if another run owns the folder now."""
    if self._taken and time.monotonic() - self._seen > STALE_S / 2:   # it was suspended, perhaps
      self._renew()
    if self._new_owner is not None:
      raise UserError(
          f'{self.folder} was taken over by another run ({_who(self._new_owner)}), as this one had '
          f'given no sign of life for {STALE_S} s: this one ends, and changes nothing there')

  def release(self) -> None:
    """Gives the folder up, if it was taken."""
    if not self._taken or self.owner['process'] != os.getpid():   # a fork owns nothing
      return
    self._end.set()
    with self._writing, contextlib.suppress(Exception):
      if _token(_read(self._file)) == self.owner['token']:
        self._file.remove()
    if self._lock is not None:
      with contextlib.suppress(OSError):
        if _is_at(self._lock, os.fspath(self.folder / _LOCK)):
          os.unlink(self.folder / _LOCK)
      os.close(self._lock)
      self._lock = None
    if self._made_folder:
      with contextlib.suppress(OSError):    # unless something is in it
        os.rmdir(self.folder)
    _claims.pop(str(self.folder), None)
    self._taken = False

  def forget(self) -> None:
    """In a fork of the process: lets the lock end with the parent."""
    if self._lock is not None:
      os.close(self._lock)

  def _take_lock(self) -> None:
    if not self.folder.is_local:
      return
    self._made_folder = not self.folder.exists()
    try:
      self._lock = _lock(self.folder)
    except BlockingIOError:
      raise _refusal(self.folder, _parse(_read(self._file))) from None

  def _write_first(self) -> None:
    """Writes the file, after an earlier owner is known to be dead."""
    before = _await_death(self.folder, locked=self._lock is not None)
    if self._lock is not None:
      self._write()
      return
    if before is not None and _read(self._file) == before:
      self._file.remove()
    with contextlib.suppress(FileExistsError):    # another run was faster
      self._file.create(self._content())
    if before is not None:
      time.sleep(_SETTLE_S)
    found = _read(self._file)
    if _token(found) != self.owner['token']:
      raise _refusal(self.folder, _parse(found))

  def _content(self) -> bytes:
    return to_json(self.owner | {'beats': self._beats}).encode()

  def _write(self) -> None:
    self._file.write_bytes(self._content())

  def _beat(self) -> None:
    while not self._end.wait(BEAT_S):
      self._renew()

  def _renew(self) -> None:
    """One heartbeat; finds out whether another run owns the folder."""
    with self._writing, contextlib.suppress(Exception):    # a network may fail for a while
      if self._end.is_set() or self._new_owner is not None:
        return
      found = _read(self._file)
      if found is not None and _token(found) != self.owner['token']:
        self._new_owner = _parse(found)
        return
      self._beats += 1
      if found is not None:
        self._write()
      elif self.folder.exists():
        self._file.create(self._content())
      self._seen = time.monotonic()


def _forget_all() -> None:
  for claim in _claims.values():
    claim.forget()
  _claims.clear()
  _held.set(())


os.register_at_fork(after_in_child=_forget_all)


# Locks on a disk.


def _lock(folder: Path) -> int | None:
  """The open and locked file of a folder, which is made; None where disks have no locks.

  Raises:
    BlockingIOError: another process holds the lock.
  """
  path, end = os.fspath(folder / _LOCK), time.monotonic() + _GLANCE_S
  while True:
    make_folder(os.fspath(folder))
    try:
      file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:    # the run that made the folder removes it now
      continue
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_at(file, path):
        return file
      os.close(file)    # it was removed by the run that gave it up
    except BlockingIOError:
      os.close(file)
      if time.monotonic() > end:
        raise
      time.sleep(0.02)
    except OSError as error:
      os.close(file)
      if error.errno in _NO_LOCKS:
        return None
      raise


def _is_at(file: int, path: str) -> bool:
  """Whether an open file is the one that a path names now."""
  try:
    return os.path.samestat(os.fstat(file), os.stat(path))
  except FileNotFoundError:
    return False


def _is_locked(folder: Path) -> bool | None:
  """Whether a process holds the lock of a folder; None if there is none, or disks know none."""
  if not folder.is_local:
    return None
  try:
    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
  except OSError:
    return None
  try:
    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return False
  except OSError as error:
    return True if isinstance(error, BlockingIOError) else None
  finally:
    os.close(file)


# Who is alive.


def _refuse_living(folder: Path) -> None:
  """Raises UserError if a run owns a folder."""
  if str(folder) in _claims:
    raise _refusal(folder, _claims[str(folder)].owner)
  locked = _is_locked(folder)
  if locked:
    raise _refusal(folder, _parse(_read(folder / _FILE)))
  with contextlib.suppress(OSError):    # a folder that this user must not read
    _await_death(folder, locked=locked is False)


def _await_death(folder: Path, *, locked: bool) -> bytes | None:
  """Returns the file of an owner once it is known to be dead; None if there is none.

  Args:
    folder: whose owner.
    locked: whether the owner would hold the lock if it were a living process of this machine, and
      does not.

  Raises:
    UserError: it is alive.
  """
  found = _read(folder / _FILE)
  if found is None:
    return None
  owner = _parse(found)
  runs = _runs(owner, locked)
  if runs:
    raise _refusal(folder, owner)
  if runs is None:
    print(printable(
        f'{folder} is owned by a run on another machine ({_who(owner)}): if that gives no sign of '
        f'life for {STALE_S} s, this run goes on from there'), flush=True)
    end = time.monotonic() + STALE_S
    while time.monotonic() < end:
      time.sleep(min(1.0, STALE_S / 10))
      now = _read(folder / _FILE)
      if now is None:
        return None
      if now != found:
        raise _refusal(folder, _parse(now))
  return found


def _runs(owner: dict[str, Any], locked: bool) -> bool | None:
  """Whether the process of an owner runs; None if that cannot be known here."""
  here = _this_process()
  if not here['machine'] or owner.get('machine') != here['machine']:
    return None
  if locked:
    return False
  if owner.get('namespace') != here['namespace']:
    return None
  if owner.get('process') == here['process'] and owner.get('started') == here['started']:
    return False    # of this process, where `_claims` knows who is alive
  process, started = owner.get('process'), None
  if isinstance(process, int):
    started = _start_of(process)
  return None if started is None else started == owner.get('started')


def _this_process() -> dict[str, Any]:
  return {'host': socket.gethostname(), 'process': os.getpid(),
          'since': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M:%S UTC'),
          'machine': _first_line('/proc/sys/kernel/random/boot_id'), 'namespace': _namespace(),
          'started': _start_of(os.getpid()), 'token': uuid.uuid4().hex}


def _namespace() -> str:
  try:
    return os.readlink('/proc/self/ns/pid')
  except OSError:
    return ''


def _first_line(path: str) -> str:
  try:
    with open(path) as file:
      return file.readline().strip()
  except OSError:
    return ''


def _start_of(process: int) -> str | None:
  """When a process started, in ticks since the machine did; '' if it is dead, None if unknown."""
  fields = _first_line(f'/proc/{process}/stat').rpartition(')')[2].split()
  if fields:
    return '' if fields[0] in 'ZX' else fields[19]
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return ''
  except (PermissionError, OverflowError):    # hidden from this user
    pass
  return None


# The owner's file.


def _read(file: Path) -> bytes | None:
  """The content of an owner's file; None if there is none."""
  try:
    return file.read_bytes()
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return None


def _parse(content: bytes | None) -> dict[str, Any]:
  """Who an owner's file names; nobody if it is torn."""
  try:
    owner = json.loads(content or b'')
  except (ValueError, RecursionError):
    return {}
  return owner if isinstance(owner, dict) else {}


def _token(content: bytes | None) -> Any:
  return _parse(content).get('token')


def _who(owner: dict[str, Any]) -> str:
  known = {name: str(owner.get(name, 'unknown')) for name in ('process', 'host', 'since')}
  return f'process {known["process"]} on host {known["host"]}, since {known["since"]}'


def _refusal(folder: Path, owner: dict[str, Any]) -> UserError:
  return UserError(
      f'{folder} is in use by another run ({_who(owner)}): let that end, stop it, or use another '
      'workdir; if it crashes, start again: on its own machine that goes on at once, on another '
      f'one after {STALE_S} s')
