"""How host 0 and the others tell each other who they are, before jax connects them.

Both sides prove that they know the secret of the run, without sending it:

    host 0 → host I    a challenge: random bytes
    host I → host 0    its report, signed together with the challenge
    host 0 → host I    what is wrong, or '', signed together with random bytes of the report

A message is a line: a signature, and JSON. A line is read as JSON only after its signature was
checked, so a stranger can neither run, nor break, nor replay anything. Sockets that are silent,
slow or many cost host 0 no time: it serves all at once, each for a few seconds.
"""
from collections.abc import Mapping
import contextlib
import dataclasses
import hmac
import json
import re
import secrets
import selectors
import socket
import time
from typing import Any

from r1jax.runtime.fingerprint import difference
from r1jax.runtime.messages import sign

_HELLO = b'r1jax'
_MAX_BYTES = 1 << 20       # of a report
_CLIENT_S = 10             # seconds that a connection may take to report
_MAX_STRANGERS = 64        # connections that have not reported yet; the oldest make room


@dataclasses.dataclass
class _Client:
  """A connection to host 0."""
  socket: socket.socket
  address: str
  challenge: bytes
  end: float                 # when it must have reported
  buffer: bytes = b''
  report: dict[str, Any] | None = None


class Server:
  """Host 0's side.

  Args:
    listener: a socket that listens.
    secret: of the run.
    num_hosts: how many hosts there are.
    known: what all hosts must know the same of, from `fingerprint`.
    wait_s: seconds for which host 0 waits.
    session: what all are told if nothing is wrong.
  """

  def __init__(self, listener: socket.socket, secret: bytes, num_hosts: int,
               known: Mapping[str, str], wait_s: float, session: str):
    self._listener, self._secret, self._session = listener, secret, session
    self._wait_s, self._end = wait_s, time.monotonic() + wait_s
    self._num_hosts, self._known = num_hosts, known
    self._missing = set(range(1, num_hosts))
    self._clients: dict[socket.socket, _Client] = {}
    self._refused: dict[str, None] = {}      # addresses of those that do not know the secret
    self._selector = selectors.DefaultSelector()

  def wait(self) -> str:
    """Waits for all hosts, and tells them and returns what is wrong; '' if nothing is."""
    self._listener.setblocking(False)
    self._selector.register(self._listener, selectors.EVENT_READ)
    fault = ''
    try:
      while self._missing and not fault:
        left = self._end - time.monotonic()
        if left <= 0:
          fault = self._missing_fault()
          break
        for key, _ in self._selector.select(min(left, 1.0)):
          fault = fault or self._serve(key.fileobj)
        self._drop_late()
      self._answer(fault)
    finally:
      for client in list(self._clients.values()):
        self._drop(client)
      self._selector.close()
    return fault

  def _missing_fault(self) -> str:
    strangers = some(list(self._refused), 3)
    known = f' (connections from {strangers} did not know the secret of this run)' * bool(strangers)
    return (f'of num_hosts={self._num_hosts} hosts {some(sorted(self._missing))} did not answer '
            f'within join_wait_s={self._wait_s} s{known}: start the same command on them, with the '
            'same workdir')

  def _serve(self, ready: Any) -> str:
    """Takes a connection, or what one has sent; returns what is wrong."""
    if ready is self._listener:
      self._accept()
      return ''
    client = self._clients.get(ready)
    if client is None:    # dropped since
      return ''
    try:
      more = client.socket.recv(1 << 16)
    except BlockingIOError:
      return ''
    except OSError:
      more = b''
    if not more or client.report is not None or len(client.buffer) + len(more) > _MAX_BYTES:
      self._drop(client)
      return ''
    client.buffer += more
    if b'\n' not in more:
      return ''
    return self._read_report(client)

  def _accept(self) -> None:
    try:
      connection, address = self._listener.accept()
    except OSError:    # it is gone again, or there are too many open files
      return
    strangers = [client for client in self._clients.values() if client.report is None]
    if len(strangers) >= _MAX_STRANGERS:
      self._drop(strangers[0])
    connection.setblocking(False)
    client = _Client(connection, str(address[0]).removeprefix('::ffff:'), secrets.token_bytes(16),
                     time.monotonic() + _CLIENT_S)
    self._clients[connection] = client
    self._selector.register(connection, selectors.EVENT_READ)
    try:
      connection.send(_HELLO + b' ' + client.challenge.hex().encode() + b'\n')
    except OSError:
      self._drop(client)

  def _read_report(self, client: _Client) -> str:
    body = verified(client.buffer.partition(b'\n')[0], self._secret, b'report', client.challenge)
    report = None if body is None else _as_report(body)
    if report is None:
      if len(self._refused) < 100:
        self._refused[client.address] = None
      self._drop(client)
      return ''
    client.report = report
    host = report['host']
    if report['num_hosts'] != self._num_hosts:
      return (f'host {host} has num_hosts={report["num_hosts"]} and host 0 has '
              f'num_hosts={self._num_hosts}: set the same number on all')
    if host not in self._missing:
      return f'two hosts have host={host}: set a different --host on each'
    self._refused.pop(client.address, None)
    self._missing.discard(host)
    return difference(self._known, report['known'], host)

  def _drop(self, client: _Client) -> None:
    """Closes a connection; a host that had reported on it is missing again."""
    del self._clients[client.socket]
    with contextlib.suppress(OSError, KeyError, ValueError):
      self._selector.unregister(client.socket)
    client.socket.close()
    if client.report is not None and 0 < client.report['host'] < self._num_hosts:
      self._missing.add(client.report['host'])

  def _drop_late(self) -> None:
    now = time.monotonic()
    for client in list(self._clients.values()):
      if client.report is None and client.end < now:
        self._drop(client)

  def _answer(self, fault: str) -> None:
    for client in self._clients.values():
      if client.report is not None:
        with contextlib.suppress(OSError):
          client.socket.settimeout(1)
          client.socket.sendall(signed(
              {'fault': fault, 'session': self._session}, self._secret, b'answer',
              client.report['nonce'].encode()))


def report(connection: socket.socket, secret: bytes, host: int, num_hosts: int,
           known: Mapping[str, str], end: float) -> tuple[str, str] | None:
  """Another host's side: reports to host 0; returns what is wrong ('' if nothing) and `session`.

  Args:
    connection: to host 0.
    secret: of the run.
    host: this host's number.
    num_hosts: how many hosts there are.
    known: from `fingerprint`.
    end: of `time.monotonic`, until when host 0 may take to answer.

  Returns:
    None: whoever answered there does not know the secret.

  Raises:
    OSError: the connection broke, or `end` has passed.
  """
  hello = _read_line(connection, min(end, time.monotonic() + _CLIENT_S), 200)
  found = re.fullmatch(_HELLO + rb' ([0-9a-f]{32})', hello)
  if found is None:
    return None
  nonce = secrets.token_hex(16)
  connection.sendall(signed(
      {'host': host, 'num_hosts': num_hosts, 'nonce': nonce, 'known': dict(known)}, secret,
      b'report', bytes.fromhex(found[1].decode())))
  body = verified(_read_line(connection, end, _MAX_BYTES), secret, b'answer', nonce.encode())
  return None if body is None else (str(body['fault']), str(body['session']))


def _read_line(connection: socket.socket, end: float, limit: int) -> bytes:
  """A line; what there is of it where the other side closes the connection, or at the limit."""
  line = b''
  while b'\n' not in line and len(line) < limit:
    connection.settimeout(max(0.01, end - time.monotonic()))
    more = connection.recv(1 << 16)
    if not more:
      break
    line += more
    if time.monotonic() > end:
      raise TimeoutError('it is too slow')
  return line.partition(b'\n')[0]


def signed(body: dict[str, Any], secret: bytes, *context: bytes) -> bytes:
  """A line that only those can write who know the secret, for this context."""
  content = json.dumps(body).encode()
  return sign(secret, *context, content).hex().encode() + b' ' + content + b'\n'


def verified(line: bytes, secret: bytes, *context: bytes) -> Any:
  """What `signed` wrote for this context and secret, or None."""
  signature, _, content = line.partition(b' ')
  if not hmac.compare_digest(signature, sign(secret, *context, content).hex().encode()):
    return None
  try:
    return json.loads(content)
  except (ValueError, RecursionError):
    return None


def _as_report(body: Any) -> dict[str, Any] | None:
  """A report in its form, or None."""
  if not isinstance(body, dict) or body.keys() != {'host', 'num_hosts', 'nonce', 'known'}:
    return None
  numbers = type(body['host']) is int and type(body['num_hosts']) is int
  known = body['known']
  words = isinstance(body['nonce'], str) and isinstance(known, dict) and all(
      isinstance(value, str) for value in known.values())
  return body if numbers and words else None


def some(items: list, count: int = 8) -> str:
  """The first few of these, as text."""
  shown = ', '.join(map(str, items[:count]))
  return shown + (f' and {len(items) - count} more' if len(items) > count else '')
