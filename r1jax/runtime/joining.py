"""How the processes of a run find each other before jax starts, and what is said when one is lost.

By hand every host is told the address of host 0, their number and its own; TPU slices, SLURM and
Open MPI are recognised by `jax.distributed` itself. jax ends a process whose partner died from
C++, without a word that a person would understand: the `Witness` says it.
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

import jax

_ALL_DEVICES = []   # where jax would else take one for each task of SLURM and Open MPI
_FAREWELL_S = 10    # all hosts end within it, or one that ends ends the others


class JoinError(ValueError):
  """Hosts did not find each other; the sentence says why."""


@dataclasses.dataclass(frozen=True)
class Joining:
  """How to join; `coordinator=''` leaves it to what `jax.distributed` recognises.

  Attributes:
    coordinator: HOST:PORT, an address of host 0 that every host reaches, and a free port there.
    num_hosts: how many processes there are.
    host: this one's number, from 0.
    wait_s: how long hosts wait for each other.
    lost_s: a host that has not been heard of for so long is taken for dead.
  """
  coordinator: str = ''
  num_hosts: int = 0
  host: int = -1
  wait_s: int = 300
  lost_s: int = 100

  def __post_init__(self):
    if self.wait_s < 1 or self.lost_s < 1:
      raise JoinError(f'join_wait_s={self.wait_s} and lost_s={self.lost_s} are seconds: use at '
                      'least 1')
    if not self.coordinator:
      if self.num_hosts or self.host >= 0:
        raise JoinError('num_hosts and host need a coordinator: give --coordinator=HOST:PORT, an '
                        'address of host 0, too')
      return
    name, _, port = self.coordinator.rpartition(':')
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
      raise JoinError(f'coordinator={self.coordinator!r} is no address: give HOST:PORT of host 0, '
                      'as 10.0.0.2:8476')
    if self.num_hosts < 1:
      raise JoinError(f'num_hosts={self.num_hosts} hosts cannot run: give --num_hosts, how many '
                      'processes there are')
    if not 0 <= self.host < self.num_hosts:
      raise JoinError(f'host={self.host} is none of num_hosts={self.num_hosts} hosts: give each '
                      f'its own --host, from 0 to {self.num_hosts - 1}')

  @property
  def address(self) -> tuple[str, int]:
    name, _, port = self.coordinator.rpartition(':')
    return name.strip('[]'), int(port)


def several_recognised() -> bool:
  """Whether the environment is one in which `jax.distributed` finds hosts by itself."""
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
  """Whether SLURM or Open MPI has started no other task on this node: its devices are all ours."""
  tasks = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')    # as 8(x4),1
  return bool(tasks) and all(part.partition('(')[0] == '1' for part in tasks.split(',')) or (
      os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1')


def join(joining: Joining) -> 'Witness | None':
  """Joins the other processes, before any computation; None where this one is alone.

  Raises:
    JoinError: the coordinator cannot be reached, hosts did not answer in time, or two hosts say
      the same number.
  """
  if not joining.coordinator and not several_recognised():
    return None
  timeouts = dict(initialization_timeout=joining.wait_s, heartbeat_timeout_seconds=joining.lost_s,
                  shutdown_timeout_seconds=_FAREWELL_S)
  if joining.coordinator:
    (_call_roll if joining.host == 0 else _report)(joining)
  witness = Witness(f'the hosts did not find each other within {joining.wait_s} s: start the same '
                    'command on every one of them')
  try:
    if joining.coordinator:
      jax.distributed.initialize(joining.coordinator, joining.num_hosts, joining.host,
                                 local_device_ids=_ALL_DEVICES, **timeouts)
    else:
      jax.distributed.initialize(
          local_device_ids=_ALL_DEVICES if alone_on_its_node() else None, **timeouts)
  except ValueError:    # nothing was recognised after all
    if joining.coordinator:
      raise
    witness.dismiss()
    return None
  except RuntimeError as error:
    witness.dismiss()
    raise JoinError(f'the hosts did not find each other: {error}') from error
  witness.say(
      f'host {jax.process_index()} of {jax.process_count()} ended, since another host died (one is '
      f'taken for dead after lost_s={joining.lost_s} s) or this one failed or was killed: run the '
      'same command on all hosts again, on as many as there are; the run goes on from its last '
      'checkpoint')
  return witness


def _call_roll(joining: Joining) -> None:
  """Host 0 waits until every other host has said its number."""
  end = time.monotonic() + joining.wait_s
  missing, answered = set(range(1, joining.num_hosts)), []
  with contextlib.ExitStack() as stack:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
      server = stack.enter_context(socket.create_server(
          ('', joining.address[1]), family=family, backlog=joining.num_hosts,
          dualstack_ipv6=family == socket.AF_INET6))
    except OSError as error:
      raise JoinError(f'host 0 cannot listen on port {joining.address[1]} ({error.strerror}): name '
                      'a free port in --coordinator') from None
    fault = ''
    while missing and not fault:
      if not select.select([server], [], [], max(0.0, end - time.monotonic()))[0]:
        fault = (f'of num_hosts={joining.num_hosts} hosts {_some(sorted(missing))} did not answer '
                 f'within join_wait_s={joining.wait_s} s: start the same command on them, too')
        break
      client = stack.enter_context(server.accept()[0])
      said = _receive(client)
      if not isinstance(said, dict) or said.get('r1jax') != 1:
        continue    # a stranger
      if said['num_hosts'] != joining.num_hosts:
        fault = (f'host {said["host"]} says num_hosts={said["num_hosts"]} and host 0 says '
                 f'{joining.num_hosts}: give all the same')
      elif said['host'] not in missing:
        fault = f'two hosts say host={said["host"]}: give each its own --host'
      missing.discard(said['host'])
      answered.append(client)
    for client in answered:
      with contextlib.suppress(OSError):
        client.sendall(json.dumps({'fault': fault}).encode() + b'\n')
  if fault:
    raise JoinError(fault)


def _report(joining: Joining) -> None:
  """Another host says its number to host 0, and waits for the others."""
  end, why = time.monotonic() + joining.wait_s, 'nobody listens there'
  while (left := end - time.monotonic()) > 0:
    try:
      with socket.create_connection(joining.address, timeout=min(left, 10)) as client:
        client.sendall(json.dumps({
            'r1jax': 1, 'host': joining.host, 'num_hosts': joining.num_hosts}).encode() + b'\n')
        client.settimeout(left + 10)    # host 0 may have begun to wait a little later
        said = _receive(client)
    except OSError as error:
      why = str(error.strerror or error)
      said = None
    if said is not None:
      if said['fault']:
        raise JoinError(said['fault'])
      return
    time.sleep(min(0.3, max(0.0, left)))
  raise JoinError(f'host {joining.host} cannot reach the coordinator {joining.coordinator} within '
                  f'join_wait_s={joining.wait_s} s ({why}): start host 0 there, and open the port')


def _receive(client: socket.socket):
  """A line of JSON, or None where there is none to be had."""
  try:
    client.settimeout(client.gettimeout() or 10)
    with client.makefile('rb') as lines:
      return json.loads(lines.readline(10_000) or 'null')
  except (OSError, ValueError):
    return None


def _some(numbers: list[int]) -> str:
  shown = ', '.join(map(str, numbers[:8]))
  return shown + (f' and {len(numbers) - 8} more' if len(numbers) > 8 else '')


class Witness:
  """A process that says a last sentence for this one, should it end before it dismisses it."""

  _PROGRAM = ('import sys\nlast = ""\nfor line in sys.stdin: last = line.strip()\n'
              'if last: print("r1jax: " + last, file=sys.stderr, flush=True)')

  def __init__(self, sentence: str):
    self._process = subprocess.Popen(
        [sys.executable, '-ISc', self._PROGRAM], stdin=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, start_new_session=True)
    self.say(sentence)

  def say(self, sentence: str) -> None:
    """From now on this is the last sentence."""
    with contextlib.suppress(OSError):
      self._process.stdin.write(' '.join(sentence.split()) + '\n')
      self._process.stdin.flush()

  def dismiss(self) -> None:
    """This process ends in good order, or has said itself what is wrong."""
    with contextlib.suppress(OSError):
      self._process.stdin.write('\n')
      self._process.stdin.close()
    self._process.wait()
