"""The table of system calls, and what the filter that is made of it says to each call."""
import errno
import functools
import json
import pathlib
import re
import struct

import pytest

from r1jax.errors import UserError
from r1jax.rewards.sandbox import Program, Sandbox, layers, syscalls

PID = 4242
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7fff0000
ARCHITECTURES = {'x86_64': 0xc000003e, 'aarch64': 0xc00000b7}
HEADERS = {'x86_64': '/usr/include/x86_64-linux-gnu/asm/unistd_64.h',
           'aarch64': '/usr/include/asm-generic/unistd.h'}


@functools.cache
def instructions(machine):
  return list(struct.iter_unpack('=HBBI', syscalls.program_filter(PID, machine)))


def decide(machine, call, *arguments, architecture=None):
  """Runs the filter as the kernel does."""
  data = struct.pack('=iIQ6Q', call, architecture or ARCHITECTURES[machine], 0,
                     *(arguments + (0,) * (6 - len(arguments))))
  program = instructions(machine)
  accumulator = place = 0
  while True:
    code, if_true, if_false, operand = program[place]
    place += 1
    if code == 0x06:
      return operand
    if code == 0x20:
      accumulator = struct.unpack_from('=I', data, operand)[0]
    else:
      holds = {0x15: accumulator == operand, 0x35: accumulator >= operand,
               0x45: accumulator & operand != 0}[code]
      place += if_true if holds else if_false


def denied(verdict):
  return verdict & 0xffff0000 == ERRNO and verdict & 0xffff != 0


@pytest.mark.parametrize('machine', HEADERS)
def test_numbers_are_those_of_the_kernel(machine):
  path = pathlib.Path(HEADERS[machine])
  if not path.exists():
    pytest.skip(f'{path} is not installed')
  defined = {name: int(number) for name, number in re.findall(
      r'^#define __NR(?:3264)?_(\w+) (\d+)$', path.read_text(), re.MULTILINE)}
  defined.setdefault('newfstatat', defined.get('fstatat'))
  assert {name: syscalls.number(name, machine) for name in syscalls.NUMBERS} == {
      name: defined.get(name) for name in syscalls.NUMBERS}


@pytest.mark.parametrize('machine', ARCHITECTURES)
def test_only_what_is_listed_is_allowed(machine):
  allowed = {call for call in range(-1, 600) if decide(machine, call, PID) == ALLOW}
  by_number = {syscalls.number(name, machine): name for name in syscalls.NUMBERS}
  assert {by_number.get(call, call) for call in allowed} <= {
      *syscalls._ALLOWED, 'kill', 'tgkill', 'mmap', 'mprotect', 'fcntl', 'prlimit64',
      'sched_getaffinity'}
  for name in ('unshare', 'mount', 'memfd_create', 'prctl', 'seccomp', 'capset', 'open', 'openat',
               'clone3', 'ioctl'):
    if syscalls.number(name, machine) is not None:
      assert denied(decide(machine, syscalls.number(name, machine)))


@pytest.mark.parametrize('machine, other', [('x86_64', 'aarch64'), ('aarch64', 'x86_64')])
def test_the_numbers_of_another_architecture_kill(machine, other):
  for call in (0, 39, 63, 172):
    for architecture in (ARCHITECTURES[other], 0x40000003, 0x40000028):    # i386, arm
      assert decide(machine, call, architecture=architecture) == KILL
  if machine == 'x86_64':
    assert decide(machine, 0x40000000 | 39) == KILL    # x32
    assert decide(machine, -1) == KILL


@pytest.mark.parametrize('machine', ARCHITECTURES)
@pytest.mark.parametrize('name, good, bad', [
    ('mmap', [(0, 0, 3), (0, 0, 0)], [(0, 0, 7), (0, 0, 4), (0, 0, 5 | 1 << 40)]),
    ('mprotect', [(0, 0, 3)], [(0, 0, 5)]),
    ('clone', [(0x3d0f00,), (0x7d0f00,)],
     [(0,), (0x11,), (0x1200011,), (0x3d0f00 | 0x20000000,), (0x10000000,), (0x4111,)]),
    ('kill', [(PID, 9)], [(0, 9), (1, 9), (2**32 - 1, 9), (2**32 - PID, 9), (PID + 1, 0)]),
    ('tgkill', [(PID, 7, 9)], [(0, 7, 9), (PID - 1, 7, 9)]),
    ('fcntl', [(0, 3), (1, 4), (2, 1030)], [(1, 8), (1, 10), (1, 1031), (1, 1033), (1, 15)]),
    ('prlimit64', [(0,), (PID,)], [(1,), (PID + 1,)]),
    ('newfstatat', [(0, 0, 0, 0x1000)], [(0, 0, 0, 0), (0, 0, 0, 0x100)]),
], ids=lambda value: value if isinstance(value, str) else '')
def test_some_calls_depend_on_their_arguments(machine, name, good, bad):
  call = syscalls.number(name, machine)
  assert {decide(machine, call, *arguments) for arguments in good} == {ALLOW}
  assert all(denied(decide(machine, call, *arguments)) for arguments in bad)


TRY_EVERY_CALL = '''
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
skipped = set(json.loads(input()))
answers = {}
for call in range(1024):
  if call not in skipped:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(call), *[ctypes.c_long(0)] * 6)
    answers[call] = [result, ctypes.get_errno()]
print(json.dumps(answers))
'''


def test_the_kernel_refuses_every_other_call():

  try:
    layers()
  except UserError as error:
    pytest.skip(str(error))
  machine = syscalls.architecture()
  listed = [syscalls.number(name) for name in (
      *syscalls._ALLOWED, 'kill', 'tgkill', 'mmap', 'mprotect', 'prlimit64', 'sched_getaffinity',
      'fcntl')]
  if machine == 'x86_64':
    listed += [335, 336]    # of probes: not for filters, and the kernel kills other callers
  with Sandbox(workers=1, timeout_s=30.0) as sandbox:
    outcome = sandbox.run(Program(TRY_EVERY_CALL), [json.dumps(listed)])[0]
  answers = json.loads(outcome.value)
  assert len(answers) == 1024 - len({call for call in listed if call is not None}), machine
  assert {tuple(answer) for answer in answers.values()} <= {
      (-1, error) for error in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTTY)}
