"""How the processes of a run join each other, and what is printed when one of them is lost.

Without help, every host is told the address of host 0, the number of hosts and its own number. TPU
slices, SLURM and Open MPI are recognised by `jax.distributed`. When another host dies, jax ends
this process from C++, with a long message that is hard to understand: a `CrashReporter` prints what
happened in one sentence.
"""
import contextlib
import dataclasses
import glob
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import Any

import jax

from r1jax.errors import UserError

# All devices of this host. By default jax would use one for each task of SLURM and Open MPI.
_ALL_DEVICES: list[int] = []
_SHUTDOWN_S = 10    # seconds in which all hosts must end together; otherwise one ends the others


class JoinError(UserError):
  """The hosts could not join; the message says why."""


@dataclasses.dataclass(frozen=True)
class Joining:
  """How to join the other hosts.

  Attributes:
    coordinator: HOST:PORT, an address of host 0 that every host can reach, with a free port; ''
      leaves it to `jax.distributed` to recognise the cluster.
    num_hosts: how many processes there are.
    host: this one's number, from 0.
    wait_s: seconds for which hosts wait for each other.
    lost_s: seconds after which a host that sends no heartbeat counts as dead.

  Raises:
    JoinError: a value is invalid.
  """
  coordinator: str = ''
  num_hosts: int = 0
  host: int = -1
  wait_s: int = 300
  lost_s: int = 100

  def __post_init__(self):
    if self.wait_s < 1 or self.lost_s < 1:
      raise JoinError('join_wait_s and lost_s must be at least 1 second, got '
                      f'join_wait_s={self.wait_s} and lost_s={self.lost_s}')
    if not self.coordinator:
      if self.num_hosts or self.host >= 0:
        raise JoinError('num_hosts and host need a coordinator: set --coordinator=HOST:PORT to an '
                        'address of host 0')
      return
    name, _, port = self.coordinator.rpartition(':')
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
      raise JoinError(f'coordinator={self.coordinator!r} is not an address: set it to HOST:PORT of '
                      'host 0, such as 10.0.0.2:8476')
    if self.num_hosts < 1:
      raise JoinError(f'num_hosts must be at least 1, got {self.num_hosts}: set --num_hosts to the '
                      'number of processes')
    if not 0 <= self.host < self.num_hosts:
      raise JoinError(f'host must be from 0 to {self.num_hosts - 1}, got {self.host}: set --host '
                      'to a different number on each host')

  @property
  def address(self) -> tuple[str, int]:
    """(host name, port) of the coordinator."""
    name, _, port = self.coordinator.rpartition(':')
    return name.strip('[]'), int(port)


def several_recognised() -> bool:
  """Whether the environment is one in which `jax.distributed` finds several hosts by itself."""
  env = os.environ
  step = {'SLURM_STEP_NODELIST', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_JOB_ID'} <= env.keys()
  numbers = [env.get('MEGASCALE_NUM_SLICES'), env.get('SLURM_NTASKS') if step else None,
             env.get('OMPI_COMM_WORLD_SIZE') if 'OMPI_MCA_orte_hnp_uri' in env else None]
  if any(int(number or 1) > 1 for number in numbers):
    return True
  chips = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
  on_tpu = bool(chips) and importlib.util.find_spec('libtpu') is not None
  return on_tpu and 'TPU_SKIP_MDS_QUERY' not in env and env.get('JAX_PLATFORMS', 'tpu') == 'tpu'


def alone_on_its_node() -> bool:
  """Whether SLURM or Open MPI started only this task on its node, which then has all devices."""
  tasks = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')    # such as 8(x4),1
  return bool(tasks) and all(count.partition('(')[0] == '1' for count in tasks.split(',')) or (
      os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1')


def join(joining: Joining) -> 'CrashReporter | None':
  """Joins the other processes; call it before any computation.

  Returns:
    What reports the loss of a host, to be closed at the end; None if this process is the only one.

  Raises:
    JoinError: the coordinator cannot be reached, a host did not answer in time, or two hosts have
      the same number.
  """
  if not joining.coordinator and not several_recognised():
    return None
  if joining.coordinator:
    if joining.host == 0:
      _wait_for_hosts(joining)
    else:
      _report_to_coordinator(joining)
  reporter = CrashReporter(
      f'the hosts did not find each other within {joining.wait_s} s: start the same command on '
      'every host')
  options: dict[str, Any] = dict(
      initialization_timeout=joining.wait_s, heartbeat_timeout_seconds=joining.lost_s,
      shutdown_timeout_seconds=_SHUTDOWN_S)
  try:
    if joining.coordinator:
      jax.distributed.initialize(joining.coordinator, joining.num_hosts, joining.host,
                                 local_device_ids=_ALL_DEVICES, **options)
    else:
      jax.distributed.initialize(
          local_device_ids=_ALL_DEVICES if alone_on_its_node() else None, **options)
  except ValueError:    # nothing was recognised after all
    if joining.coordinator:
      raise
    reporter.close()
    return None
  except RuntimeError as error:
    reporter.close()
    raise JoinError(f'the hosts did not find each other: {error}') from error
  reporter.set_message(
      f'host {jax.process_index()} of {jax.process_count()} ended because another host died (no '
      f'heartbeat for lost_s={joining.lost_s} s), or because it failed or was killed itself: run '
      'the same command again on all hosts, or on another number of them, to continue from the '
      'last checkpoint')
  return reporter


def _wait_for_hosts(joining: Joining) -> None:
  """Host 0 waits until every other host has reported, and answers all with what is wrong."""
  end = time.monotonic() + joining.wait_s
  missing = set(range(1, joining.num_hosts))
  with contextlib.ExitStack() as stack:
    server, clients, fault = stack.enter_context(_listen(joining)), [], ''
    while missing and not fault:
      if not select.select([server], [], [], max(0.0, end - time.monotonic()))[0]:
        fault = (f'of num_hosts={joining.num_hosts} hosts {_some(sorted(missing))} did not answer '
                 f'within join_wait_s={joining.wait_s} s: start the same command on them')
        break
      client = stack.enter_context(server.accept()[0])
      report = _receive(client)
      if not isinstance(report, dict) or report.get('r1jax') != 1:
        continue    # not one of this run's hosts
      fault = _report_fault(joining, report, missing)
      missing.discard(report['host'])
      clients.append(client)
    for client in clients:
      with contextlib.suppress(OSError):
        client.sendall(json.dumps({'fault': fault}).encode() + b'\n')
  if fault:
    raise JoinError(fault)


def _report_fault(joining: Joining, report: dict[str, Any], missing: set[int]) -> str:
  """What is wrong with a host's report, or ''."""
  if report['num_hosts'] != joining.num_hosts:
    return (f'host {report["host"]} has num_hosts={report["num_hosts"]} and host 0 has '
            f'num_hosts={joining.num_hosts}: set the same number on all')
  if report['host'] not in missing:
    return f'two hosts have host={report["host"]}: set a different --host on each'
  return ''


def _listen(joining: Joining) -> socket.socket:
  """A server on host 0's port.

  Raises:
    JoinError: the port is in use, or may not be opened.
  """
  dualstack = socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
        ('', joining.address[1]), family=socket.AF_INET6 if dualstack else socket.AF_INET,
        backlog=joining.num_hosts, dualstack_ipv6=dualstack)
  except OSError as error:
    raise JoinError(f'host 0 cannot listen on port {joining.address[1]} ({error.strerror}): set '
                    '--coordinator to a free port') from None


def _report_to_coordinator(joining: Joining) -> None:
  """Another host tells host 0 its number, and waits until all have done so."""
  end, why = time.monotonic() + joining.wait_s, 'nobody listens there'
  while (left := end - time.monotonic()) > 0:
    try:
      with socket.create_connection(joining.address, timeout=min(left, 10)) as client:
        client.sendall(json.dumps({
            'r1jax': 1, 'host': joining.host, 'num_hosts': joining.num_hosts}).encode() + b'\n')
        client.settimeout(left + 10)    # host 0 may have started to wait a little later
        answer = _receive(client)
    except OSError as error:
      why = str(error.strerror or error)
      answer = None
    if answer is not None:
      if answer['fault']:
        raise JoinError(answer['fault'])
      return
    time.sleep(min(0.3, max(0.0, left)))
  raise JoinError(f'host {joining.host} cannot reach the coordinator {joining.coordinator} within '
                  f'join_wait_s={joining.wait_s} s ({why}): start host 0 there, and open the port')


def _receive(client: socket.socket) -> Any:
  """A line of JSON, or None if none arrives."""
  try:
    client.settimeout(client.gettimeout() or 10)
    with client.makefile('rb') as lines:
      return json.loads(lines.readline(10_000) or 'null')
  except (OSError, ValueError):
    return None


def _some(numbers: list[int]) -> str:
  """The first few of these numbers, as text."""
  shown = ', '.join(map(str, numbers[:8]))
  return shown + (f' and {len(numbers) - 8} more' if len(numbers) > 8 else '')


class CrashReporter:
  """A separate process that prints a message if this process ends without closing it.

  Args:
    message: what it prints, one sentence.
  """

  _PROGRAM = ('import sys\nlast = ""\nfor line in sys.stdin: last = line.strip()\n'
              'if last: print("r1jax: " + last, file=sys.stderr, flush=True)')

  def __init__(self, message: str):
    self._process = subprocess.Popen(
        [sys.executable, '-ISc', self._PROGRAM], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True)
    assert self._process.stdin is not None
    self._pipe = self._process.stdin
    self.set_message(message)

  def set_message(self, message: str) -> None:
    """Replaces the message."""
    with contextlib.suppress(OSError):
      self._pipe.write(' '.join(message.split()) + '\n')
      self._pipe.flush()

  def close(self) -> None:
    """Ends the reporter without a message: this process ends normally, or has printed an error."""
    with contextlib.suppress(OSError):
      self._pipe.write('\n')
      self._pipe.close()
    self._process.wait()
