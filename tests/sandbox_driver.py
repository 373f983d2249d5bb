"""Attacks the sandbox on a machine of some kind: `python tests/sandbox_driver.py MACHINE WHAT`.

MACHINE is 'as it is', or one that root can pretend to be on:
  container                    without what containers usually forbid: namespaces, mounts, and most
                               capabilities
  container without Landlock   the same on an old kernel, or in gVisor
  rootless container           as root of 65,536 users, none of them root of the machine
  nobody                       as a user without privileges
  nobody in a container        the same where there are no namespaces of users

WHAT is 'attacks' or 'failures'. What was found is printed as one JSON object.
"""
import contextlib
import errno
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from sandbox_attacks import ATTACKS

from r1jax.errors import UserError
from r1jax.rewards.sandbox import Program, Sandbox, kernel, layers, pool, syscalls

NOBODY = 65534
# Docker's default, by number: all but those of administration, tracing, networks and modules.
CONTAINER_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)

# Of the calls that are made to fail, those that the sandbox does not know by number.
NUMBERS = {
    'chroot': (161, 51), 'close_range': (436, 436), 'setgroups': (116, 159), 'setns': (308, 268),
    'setresgid': (119, 149), 'setresuid': (117, 147), 'setsid': (112, 157)}


def refuse(**errors):
  """Lets system calls fail from now on; with the error 0 they seem to succeed and do nothing."""
  rules = {name: [(0x06, 0, 0, 0x00050000 | error)] for name, error in errors.items()}
  kernel.install_filter(syscalls.assemble(rules, (0x06, 0, 0, 0x7fff0000), os.uname().machine))


def enter_container(**errors):
  forbidden = ('unshare', 'mount', 'umount2', 'pivot_root', 'setns')
  refuse(**dict.fromkeys(forbidden, errno.EPERM), **errors)
  for capability in range(64):
    if capability not in CONTAINER_CAPABILITIES:
      with contextlib.suppress(OSError):    # there are fewer
        kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
  kept = sum(1 << capability for capability in CONTAINER_CAPABILITIES)
  words = b''.join(word.to_bytes(4, 'little') for word in (kept, kept, 0, 0, 0, 0))
  kernel.call('capset', (0x20080522).to_bytes(4, 'little') + bytes(4), words)


def enter_rootless_container():
  """Becomes the root of a namespace of 65,536 users, none of whom is root outside."""
  ready, said = os.pipe()
  trainer = os.getpid()
  helper = os.fork()
  if not helper:
    os.read(ready, 1)
    for kind in 'uid', 'gid':
      pathlib.Path(f'/proc/{trainer}/{kind}_map').write_text('0 100000 65536')
    os._exit(0)
  kernel.call('unshare', kernel.CLONE_NEWUSER)
  os.write(said, b'.')
  if os.waitpid(helper, 0)[1]:
    raise OSError('users cannot be mapped here')
  os.setgroups([])
  os.setresgid(0, 0, 0)
  os.setresuid(0, 0, 0)


def pretend(machine):
  if machine == 'container':
    enter_container()
  if machine == 'container without Landlock':
    enter_container(landlock_create_ruleset=errno.ENOSYS)
  if machine == 'rootless container':
    enter_rootless_container()
  if machine == 'nobody in a container':
    refuse(unshare=errno.EPERM)
  if machine.startswith('nobody'):
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


VICTIM = '''
import ctypes, os, sys, time
hidden = (sys.argv[1] * 3)[8:24]
secret = ctypes.create_string_buffer(hidden.encode())
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
'''


class Host:
  """What there is to attack, and what attacks leave behind."""

  def __init__(self, exits):
    self.folder = pathlib.Path(tempfile.mkdtemp())
    exits.callback(shutil.rmtree, self.folder)
    secret_folder = pathlib.Path(tempfile.mkdtemp())
    exits.callback(shutil.rmtree, secret_folder)
    secret_file = secret_folder / 'secret'
    secret_file.write_text('a secret of this machine')
    secret_file.chmod(0o600)
    self.descriptor = os.open(secret_file, os.O_RDONLY)
    os.set_inheritable(self.descriptor, True)
    hidden = '0123456789abcdef'
    victim = exits.enter_context(subprocess.Popen(
        [sys.executable, '-c', VICTIM, hidden], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={'HIDDEN': hidden}))
    exits.callback(victim.kill)
    abstract = f'r1jax-{os.getpid()}'
    self.listeners = [socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX)]
    self.listeners[0].bind(('127.0.0.1', 0))
    self.listeners[1].bind('\0' + abstract)
    self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self.datagrams.bind(('127.0.0.1', 0))
    for listener in self.listeners:
      listener.listen()
      listener.setblocking(False)
    self.datagrams.setblocking(False)
    self.known = {
        'secret_file': str(secret_file), 'secret': secret_file.read_text(), 'hidden': hidden,
        'folder': str(self.folder), 'tcp': self.listeners[0].getsockname()[1],
        'udp': self.datagrams.getsockname()[1], 'abstract': abstract, 'victim': victim.pid,
        'address': int(victim.stdout.readline())}

  def effects(self):
    """What attacks have done since the last call."""
    found = [path.name for path in self.folder.iterdir()]
    for path in self.folder.iterdir():
      path.rmdir() if path.is_dir() else path.unlink()
    for listener in self.listeners:
      with contextlib.suppress(BlockingIOError):
        listener.accept()[0].close()
        found.append('connected')
    with contextlib.suppress(BlockingIOError):
      self.datagrams.recv(100)
      found.append('sent')
    return found


def control(attack, host):
  """Whether an attack succeeds with no sandbox, as a child of a shell."""
  process = subprocess.Popen(
      ['/bin/sh', '-c', '"$@"; true', 'sh', sys.executable, '-I', '-S', '-c', attack.program],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=host.folder,
      start_new_session=True, pass_fds=[host.descriptor])
  process.stdin.write(json.dumps(host.known).encode() + b'\n')
  process.stdin.close()
  if attack.name == 'outlive a request to end':
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.1)
    succeeded = bool(processes_in(process.pid))
  else:
    succeeded = b'SUCCEEDED' in process.stdout.read()
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  process.stdout.close()
  return succeeded


def processes_in(session):
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      fields = path.read_text().rpartition(')')[2].split()
      if int(fields[3]) == session and fields[0] != 'Z':
        found.append(int(path.parent.name))
  return found


def attacks():
  """For each attack whether it succeeded, without the sandbox and in it."""
  found = {}
  with contextlib.ExitStack() as exits:
    host = Host(exits)
    sandbox = exits.enter_context(Sandbox(workers=1, timeout_s=30.0, memory_bytes=128 << 20))
    hasty = exits.enter_context(Sandbox(workers=1, timeout_s=0.5))
    for attack in ATTACKS.values():
      succeeded = control(attack, host)
      host.effects()
      where = hasty if attack.name == 'outlive a request to end' else sandbox
      outcome = where.run(Program(attack.program), [json.dumps(host.known) + '\n'])[0]
      effects = host.effects()
      found[attack.name] = {
          'without': succeeded, 'outcome': [outcome.kind, outcome.value, outcome.message],
          'effects': effects}
    time.sleep(0.6)    # for what may have been left behind
    found['at last'] = {'effects': host.effects(), 'honest': sandbox.run(
        Program('print(sum(map(int, input().split())))'), ['1 2'])[0].value}
  return found


FAILURES = [(name, error) for name in (
    'prctl', 'setresuid', 'setresgid', 'setgroups', 'chroot', 'capset', 'capget', 'prlimit64',
    'landlock_create_ruleset', 'landlock_restrict_self', 'seccomp', 'setsid', 'close_range', 'dup2')
    for error in (errno.EPERM, 0)]


def failures():
  """What comes of a program when a step of the jail fails, or only seems to succeed."""
  found = {}
  if os.geteuid() == 0:
    os.setgroups([1, 2])    # for the sandbox to leave
  for name, error in FAILURES:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
      try:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)    # without which a filter needs a capability
        refuse(**{name: error})
        with Sandbox(workers=1) as sandbox:
          outcome = sandbox.run(pool._PROBE, [pool._PROBE_INPUT])[0]
        said = 'confined' if outcome.value == pool._PROBE_OUTPUT else f'open: {outcome}'
      except (OSError, RuntimeError) as refusal:
        said = f'refused: {refusal}'
      os.write(writer, said.encode())
      os._exit(0)
    os.close(writer)
    with open(reader) as file:
      found[f'{name}, {"fails" if error else "lies"}'] = file.read()
    os.waitpid(child, 0)
  return found


if __name__ == '__main__':
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  syscalls.NUMBERS.update(NUMBERS)
  pretend(sys.argv[1])
  try:
    confined = layers()
  except UserError as error:
    print(json.dumps({'layers': [], 'reason': str(error)}))
  else:
    print(json.dumps({'layers': confined, 'found': globals()[sys.argv[2]]()}))
