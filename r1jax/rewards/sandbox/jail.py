"""What a process gives up before it runs a program, layer by layer.

Every step is checked where the kernel can tell, and any that fails raises: then no program is run.
`docs/sandbox.md` says what each layer is for.
"""
import dataclasses
import errno
import os
import resource
import signal
import tempfile

from r1jax.rewards.sandbox import kernel, syscalls

# The sets of layers that suffice, the best first. A machine gets the first that works.
AS_ROOT = (
    ('namespaces', 'chroot', 'uid', 'landlock', 'seccomp'),
    ('chroot', 'uid', 'landlock', 'seccomp'),
    ('namespaces', 'chroot', 'uid', 'seccomp'),
    ('chroot', 'uid', 'seccomp'),
)
AS_USER = (
    ('namespaces', 'chroot', 'landlock', 'seccomp'),
    ('landlock', 'seccomp'),
)

_STACK_BYTES = 64 << 20
DESCRIPTORS = 64    # no process of the sandbox ever has one of a higher number
_THREADS = 128
_FIRST_UID = 0x70000000    # far from the ids of people and services
_FIRST_UID_OF_A_CONTAINER = 20000    # containers without root of their own have ids up to 65535


class JailError(Exception):
  """A layer that does not hold, though the kernel did not complain."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a process may use, for good.

  Attributes:
    address_space: bytes of virtual memory, with what the interpreter has before it starts.
    seconds: of processor time, whole.
    threads: of the process's user, in all of their processes.
  """

  address_space: int
  seconds: int
  threads: int


def _require(holds: bool, step: str) -> None:
  if not holds:
    raise JailError(f'{step} has no effect here')


def enter_user_namespaces(*, root: bool) -> None:
  """The namespaces that this process's children are to live in: of processes, and of users."""
  if root:
    kernel.call('unshare', kernel.CLONE_NEWPID)
    return
  uid, gid = os.getuid(), os.getgid()
  kernel.call('unshare', kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
  for file, text in (('setgroups', 'deny'), ('uid_map', f'{uid} {uid} 1'),
                     ('gid_map', f'{gid} {gid} 1')):
    with open(f'/proc/self/{file}', 'w') as opened:
      opened.write(text)


def leave_files_behind() -> None:
  """Makes an empty, read-only file system the root of namespaces of this process's own.

  In its namespaces there are also no networks, no sockets and no queues.
  """
  _require(os.getpid() == 1, 'a namespace of processes')
  kernel.call('unshare', kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC
              | kernel.CLONE_NEWUTS)
  kernel.call('mount', None, b'/', None, kernel.MS_REC | kernel.MS_PRIVATE, None)
  # Any folder can be covered; this one is there on every machine.
  flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
  kernel.call('mount', b'r1jax', b'/dev', b'tmpfs', flags, b'size=4k,mode=555')
  os.chdir('/dev')
  kernel.call('pivot_root', b'.', b'.')
  kernel.call('umount2', b'.', kernel.MNT_DETACH)
  os.chdir('/')
  _require(os.listdir('/') == [], 'a file system of its own')


def enter_removed_folder() -> None:
  """Makes the working folder one that is empty, and has been removed: no file can be made in it."""
  folder = tempfile.mkdtemp(prefix='r1jax')
  os.chmod(folder, 0o555)
  os.chdir(folder)
  os.rmdir(folder)


def limit_process(limits: Limits) -> None:
  """Sets the resource limits, soft and hard; only the stack may still be raised."""
  stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
  soft = _STACK_BYTES if stack == resource.RLIM_INFINITY else min(stack, _STACK_BYTES)
  resource.setrlimit(resource.RLIMIT_STACK, (soft, stack))
  for name, value in (
      ('AS', limits.address_space), ('CPU', limits.seconds), ('FSIZE', 0), ('CORE', 0),
      ('NOFILE', DESCRIPTORS), ('NPROC', limits.threads)):
    which = getattr(resource, f'RLIMIT_{name}')
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))
    _require(resource.getrlimit(which) == (value, value), f'the limit {name}')


def change_root() -> None:
  """Makes the working folder, which is empty, the root."""
  inside = os.stat('.')
  os.chroot('.')
  os.chdir('/')
  root = os.stat('/')
  _require((root.st_dev, root.st_ino) == (inside.st_dev, inside.st_ino), 'chroot')
  _require(os.listdir('/') == [], 'chroot into an empty folder')


def free_uid(number: int) -> int:
  """A user id that nobody has and that is told from others by `number`, a process id."""
  with open('/proc/self/uid_map') as file:
    ranges = [tuple(map(int, line.split())) for line in file]
  wanted = _FIRST_UID + number
  if any(first <= wanted < first + count for first, _, count in ranges):
    return wanted
  return _FIRST_UID_OF_A_CONTAINER + number % _FIRST_UID_OF_A_CONTAINER


def become(uid: int) -> None:
  """Becomes a user that owns nothing and is in no group."""
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)
  _require(os.getresuid() == (uid,) * 3 and os.getresgid() == (uid,) * 3, 'setresuid')
  _require(os.getgroups() == [], 'setgroups')


def drop_bounding_set() -> None:
  """Gives up the capabilities that a program which is executed could get.

  Without the right to do so (CAP_SETPCAP) there is no need: nothing can be executed.
  """
  for capability in range(64):
    try:
      kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
    except OSError as error:
      if error.errno in (errno.EINVAL, errno.EPERM):    # past the last one; no right
        return
      raise
    _require(not kernel.prctl(kernel.PR_CAPBSET_READ, capability), 'dropping capabilities')


def give_up_privileges(parent: int) -> None:
  """No capability, now or later; no tracing by others; and death with the process `parent`."""
  kernel.drop_capabilities()
  _require(not any(kernel.capabilities()), 'dropping capabilities')
  # A change of user resets these two.
  kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
  _require(kernel.prctl(kernel.PR_GET_DUMPABLE) == 0, 'PR_SET_DUMPABLE')
  kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
  _require(kernel.parent_death_signal() == signal.SIGKILL, 'PR_SET_PDEATHSIG')
  _require(os.getppid() == parent, 'a living parent')
  kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
  _require(kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) == 1, 'PR_SET_NO_NEW_PRIVS')


def enter_landlock() -> None:
  """Denies every access to files."""
  kernel.restrict_by_landlock()
  _require(_error_of(os.open, '/', os.O_RDONLY) == errno.EACCES, 'Landlock')


def enter_seccomp() -> None:
  """Denies every system call that a program does not need."""
  kernel.install_filter(syscalls.program_filter(os.getpid(), os.uname().machine))
  # Calls that would succeed, or fail in another way, without the filter.
  _require(_error_of(kernel.prctl, kernel.PR_GET_DUMPABLE) == errno.EPERM
           and _error_of(kernel.call, 'unshare', 0) == errno.EPERM
           and _error_of(os.open, '/', os.O_RDONLY) == errno.EACCES, 'seccomp')


def _error_of(function, *arguments) -> int | None:
  try:
    function(*arguments)
  except OSError as error:
    return error.errno
  return None


def enter(layers: tuple[str, ...], *, uid: int, parent: int, limits: Limits) -> None:
  """Confines this process, which has one thread, for good.

  Args:
    layers: one of `AS_ROOT` or `AS_USER`. 'namespaces' are those that the process was born in.
    uid: the user that it becomes.
    parent: the process that it dies with.
    limits: what it may use.

  Raises:
    OSError, JailError, ValueError: a step failed; the process must end.
  """
  os.setsid()
  _require(os.getsid(0) == os.getpid(), 'setsid')
  limit_process(limits)
  if 'chroot' in layers:
    change_root()
  drop_bounding_set()
  if 'uid' in layers:
    become(uid)
  give_up_privileges(parent)
  if 'landlock' in layers:
    enter_landlock()
  enter_seccomp()
