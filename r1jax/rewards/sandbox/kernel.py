"""The system calls that Python's library lacks, by ctypes; they raise OSError where they fail."""
import ctypes
import errno
import fcntl
import os
import struct

from r1jax.rewards.sandbox import syscalls

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39

_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE_RULESET_VERSION = 1
_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2


def call(name: str, *arguments: int | bytes | None | ctypes.Array | ctypes._SimpleCData) -> int:
  """Makes the system call `name`.

  Args:
    name: one of `syscalls.NUMBERS`.
    *arguments: integers; bytes and arrays, of which the call gets the address; None for NULL.

  Returns:
    What the call returns.

  Raises:
    OSError: the call failed, or this architecture lacks it.
  """
  converted = [ctypes.c_long(argument) if isinstance(argument, int)
               else ctypes.c_char_p(argument) if isinstance(argument, bytes)
               else argument if argument is None else ctypes.byref(argument)
               for argument in arguments]
  number = syscalls.number(name)
  if number is None:
    raise OSError(errno.ENOSYS, f'{name}: {os.strerror(errno.ENOSYS)}')
  ctypes.set_errno(0)
  result = _libc.syscall(ctypes.c_long(number), *converted)
  if result == -1:
    error = ctypes.get_errno()
    raise OSError(error, f'{name}: {os.strerror(error)}')
  return result


def prctl(option: int, value: int = 0) -> int:
  """`prctl` with one argument."""
  return call('prctl', option, value, 0, 0, 0)


def parent_death_signal() -> int:
  """The signal that this process gets when its parent dies."""
  signal = ctypes.c_int()
  call('prctl', PR_GET_PDEATHSIG, signal, 0, 0, 0)
  return signal.value


def capabilities() -> tuple[int, ...]:
  """The effective, permitted and inheritable capabilities, in two words each."""
  data = (ctypes.c_uint32 * 6)()
  call('capget', struct.pack('=Ii', _CAPABILITY_VERSION_3, 0), data)
  return tuple(data)


def drop_capabilities() -> None:
  """Gives up every capability, and with them the ambient ones."""
  call('capset', struct.pack('=Ii', _CAPABILITY_VERSION_3, 0), bytes(24))


def install_filter(instructions: bytes) -> None:
  """Puts every later system call of this thread and its children through a seccomp filter."""
  code = ctypes.create_string_buffer(instructions, len(instructions))
  program = (ctypes.c_uint64 * 2)(len(instructions) // 8, ctypes.addressof(code))
  call('seccomp', _SECCOMP_SET_MODE_FILTER, 0, program)


def landlock_version() -> int:
  """The version of Landlock's interface, from 1."""
  return call('landlock_create_ruleset', None, 0, _LANDLOCK_CREATE_RULESET_VERSION)


def restrict_by_landlock() -> None:
  """Denies every access that this kernel's Landlock knows: files, TCP, abstract sockets, signals.

  https://docs.kernel.org/userspace-api/landlock.html
  """
  version = landlock_version()
  files = (1 << 13) - 1
  for since in (2, 3, 5):    # to move and link, to truncate, to control a device
    if version >= since:
      files = files << 1 | 1
  network = 0b11 if version >= 4 else 0    # to bind and to connect
  scopes = 0b11 if version >= 6 else 0    # abstract sockets, signals
  size = 24 if version >= 6 else 16 if version >= 4 else 8
  ruleset = call('landlock_create_ruleset', struct.pack('=3Q', files, network, scopes), size, 0)
  try:
    call('landlock_restrict_self', ruleset, 0)
  finally:
    os.close(ruleset)


def memory_file(content: bytes) -> int:
  """A descriptor of a file in memory that holds `content`, at its start; nobody can change it."""
  descriptor = call('memfd_create', b'r1jax', _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
  try:
    with open(descriptor, 'wb', closefd=False) as file:
      file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, (
        fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE))
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor
