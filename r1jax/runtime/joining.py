"""How the processes of a run join each other, and what is printed when one of them is lost.

Without help, every host is told the address of host 0, the number of hosts and its own number. TPU
slices, SLURM and Open MPI are recognised by `jax.distributed`. When another host dies, jax ends
this process from C++, with a long message that is hard to understand: a `CrashReporter` prints what
happened in one sentence.
"""
from collections.abc import Mapping
import dataclasses
import glob
import importlib.util
import ipaddress
import os
import re
import secrets
import socket
import time
from typing import Any

import jax

from r1jax.errors import UserError
from r1jax.runtime import fingerprint, handshake, hosts, run_secret
from r1jax.runtime.crash_reporter import CrashReporter
from r1jax.runtime.messages import sign

# All devices of this host. By default jax would use one for each task of SLURM and Open MPI.
_ALL_DEVICES: list[int] = []
_DISK_S = 90        # in which what one host wrote to a shared disk is seen by the others
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
    workdir: of the run, which all hosts share; host 0 leaves a secret there with which they know
      each other, unless the environment variable R1JAX_SECRET has one.

  Raises:
    JoinError: a value is invalid.
  """
  coordinator: str = ''
  num_hosts: int = 0
  host: int = -1
  wait_s: int = 300
  lost_s: int = 100
  workdir: str = ''

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


def join(joining: Joining, config: Mapping[str, Any] | None = None) -> 'CrashReporter | None':
  """Joins the other processes; call it before any computation.

  Args:
    joining: how.
    config: of the run, as dicts; it must be the same on all hosts, with the files that it names.

  Returns:
    What reports the loss of a host, to be closed at the end; None if this process is the only one.

  Raises:
    JoinError: the coordinator cannot be reached, its port is in use, a host did not answer in time,
      two hosts have the same number, or a host differs from host 0 in what must be the same.
  """
  if not joining.coordinator and not several_recognised():
    return None
  if not joining.workdir and not os.environ.get(run_secret.VARIABLE):
    raise JoinError('the hosts of a run need a secret: give all the same workdir, or set '
                    f'{run_secret.VARIABLE} to the same words on all')
  try:
    return _join(joining, fingerprint.fingerprint(config))
  finally:
    if joining.host == 0 or jax.distributed.is_initialized() and jax.process_index() == 0:
      run_secret.remove(joining.workdir)


def _join(joining: Joining, known: Mapping[str, str]) -> 'CrashReporter | None':
  session = _meet(joining, known) if joining.coordinator else ()
  reporter = CrashReporter(
      f'the hosts did not find each other within {joining.wait_s} s: start the same command on '
      'every host')
  options: dict[str, Any] = dict(
      initialization_timeout=joining.wait_s, heartbeat_timeout_seconds=joining.lost_s,
      shutdown_timeout_seconds=_SHUTDOWN_S)
  try:
    if joining.coordinator:
      jax.distributed.initialize(
          joining.coordinator, joining.num_hosts, joining.host, local_device_ids=_ALL_DEVICES,
          coordinator_bind_address=_bind_address_for_jax(joining), **options)
    else:
      jax.distributed.initialize(
          local_device_ids=_ALL_DEVICES if alone_on_its_node() else None, **options)
      session = _agree(joining, known)
  except ValueError as error:    # nothing was recognised after all
    reporter.close()
    if joining.coordinator or isinstance(error, UserError):
      raise
    return None
  except RuntimeError as error:
    reporter.close()
    raise JoinError(f'the hosts did not find each other: {error}') from error
  hosts.use_secret(sign(*session))
  reporter.set_message(
      f'host {jax.process_index()} of {jax.process_count()} ended because another host died (no '
      f'heartbeat for lost_s={joining.lost_s} s), or because it failed or was killed itself: run '
      'the same command again on all hosts, or on another number of them, to continue from the '
      'last checkpoint')
  reporter.hold_back_logs()
  return reporter


def _meet(joining: Joining, known: Mapping[str, str]) -> tuple[bytes, bytes]:
  """Finds the other hosts at the coordinator's address; returns (secret, session)."""
  if joining.host:
    return _report_to_coordinator(joining, known)
  with _listen(joining) as listener:
    secret, session = run_secret.leave(joining.workdir), secrets.token_hex(16)
    fault = handshake.Server(
        listener, secret, joining.num_hosts, known, joining.wait_s, session).wait()
  if fault:
    raise JoinError(fault)
  return secret, session.encode()


def _agree(joining: Joining, known: Mapping[str, str]) -> tuple[bytes, bytes]:
  """As `_meet`, through the service of jax, where jax has found the other hosts."""
  from jax._src import distributed  # jax has no public store without a device
  client: Any = distributed.global_state.client
  host, count, wait_ms = jax.process_index(), jax.process_count(), 1000 * joining.wait_s
  secret = run_secret.leave(joining.workdir) if host == 0 else None
  client.wait_at_barrier('r1jax/secret', timeout_in_ms=wait_ms)
  end = time.monotonic() + _DISK_S
  while secret is None:    # a shared disk may show a file later
    secret = run_secret.find(joining.workdir)
    if secret is None and time.monotonic() > end:
      raise JoinError(f'host {host} does not see the secret that host 0 left in workdir='
                      f'{joining.workdir!r}: give a workdir that all hosts share, a bucket or a '
                      f'disk, or set {run_secret.VARIABLE} to the same words on all')
    time.sleep(0 if secret else 0.3)

  def get(key: str) -> Any:
    line = client.blocking_key_value_get(f'r1jax/{key}', wait_ms).encode()
    body = handshake.verified(line.rstrip(), secret, key.encode())
    if body is None:
      raise JoinError('a host does not know the secret of this run: give all hosts the same '
                      'workdir')
    return body

  def put(key: str, body: dict[str, Any]) -> None:
    client.key_value_set(
        f'r1jax/{key}', handshake.signed(body, secret, key.encode()).decode())

  put(f'known/{host}', dict(known))
  if host == 0:
    faults = (fingerprint.difference(known, get(f'known/{other}'), other)
              for other in range(1, count))
    put('answer', {'fault': next(filter(None, faults), ''), 'session': secrets.token_hex(16)})
  answer = get('answer')
  if answer['fault']:
    raise JoinError(answer['fault'])
  return secret, answer['session'].encode()


def _listen(joining: Joining) -> socket.socket:
  """A server on host 0's port, at the address that the others were told where that is its own.

  Raises:
    JoinError: the port is in use, or may not be opened.
  """
  bind = bind_address(joining)
  dualstack = not bind and socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
        (bind, joining.address[1]), backlog=128 + joining.num_hosts, dualstack_ipv6=dualstack,
        family=socket.AF_INET6 if dualstack or ':' in bind else socket.AF_INET)
  except OSError as error:
    raise JoinError(f'host 0 cannot listen on port {joining.address[1]} ({error.strerror}): set '
                    '--coordinator to a free port') from None


def bind_address(joining: Joining) -> str:
  """The address to listen at: that of the coordinator, if it is one of this machine; else all, ''.

  A name other than localhost may be looked up otherwise by other hosts, so it means all addresses.
  """
  name = '127.0.0.1' if joining.address[0] == 'localhost' else joining.address[0]
  try:
    ipaddress.ip_address(name)
    with socket.socket(socket.AF_INET6 if ':' in name else socket.AF_INET) as probe:
      probe.bind((name, 0))
  except (OSError, ValueError):
    return ''
  return name


def _bind_address_for_jax(joining: Joining) -> str | None:
  bind = bind_address(joining)
  host = f'[{bind}]' if ':' in bind else bind
  return f'{host}:{joining.address[1]}' if bind else None


def _report_to_coordinator(joining: Joining, known: Mapping[str, str]) -> tuple[bytes, bytes]:
  """Another host tells host 0 about itself, and waits until all have done so."""
  end, why = time.monotonic() + joining.wait_s, ''
  while (left := end - time.monotonic()) > 0:
    secret, answer = run_secret.find(joining.workdir), None
    if secret is None:
      why = f'host 0 has left no secret in workdir={joining.workdir!r}'
    else:
      try:
        with socket.create_connection(joining.address, timeout=min(left, 10)) as connection:
          answer = handshake.report(    # host 0 may have started to wait a little later
              connection, secret, joining.host, joining.num_hosts, known, end + 10)
        why = 'who listens there does not know the secret of this run'
      except OSError as error:
        why = str(error.strerror or error or 'nobody listens there')
    if answer is not None:
      fault, session = answer
      if fault:
        raise JoinError(fault)
      return secret or b'', session.encode()
    time.sleep(min(0.3, max(0.0, end - time.monotonic())))
  raise JoinError(f'host {joining.host} cannot reach the coordinator {joining.coordinator} within '
                  f'join_wait_s={joining.wait_s} s ({why}): start host 0 there, open the port, and '
                  'give all hosts the same workdir')


def says_that_a_host_is_lost(error: Exception) -> bool:
  """Whether an error of jax says only that another host cannot be reached any more."""
  return isinstance(error, jax.errors.JaxRuntimeError) and bool(re.search(
      r'[Gg]loo|NCCL|[Cc]oordination|[Hh]eartbeat|Connection (closed|reset)|Socket closed',
      str(error)))
