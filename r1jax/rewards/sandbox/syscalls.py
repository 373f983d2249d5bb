"""Which system calls a program may make: numbers by architecture, and the filter that seccomp runs.

Everything is refused that is not listed here. What is listed suffices for an interpreter that
computes, reads its standard input, writes its standard output and runs threads. A call that is
refused fails with EPERM, and the program goes on; a call by the numbers of another architecture
kills it.

The filter is classic BPF: https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""
import errno
import platform
import struct
import sys

# Name: (x86_64, aarch64); None where an architecture lacks a call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    'alarm': (37, None),
    'brk': (12, 214),
    'capget': (125, 90),
    'capset': (126, 91),
    'clock_getres': (229, 114),
    'clock_gettime': (228, 113),
    'clock_nanosleep': (230, 115),
    'clone': (56, 220),
    'clone3': (435, 435),
    'close': (3, 57),
    'dup': (32, 23),
    'dup2': (33, None),
    'dup3': (292, 24),
    'exit': (60, 93),
    'exit_group': (231, 94),
    'fcntl': (72, 25),
    'fstat': (5, 80),
    'futex': (202, 98),
    'get_robust_list': (274, 100),
    'getcpu': (309, 168),
    'getegid': (108, 177),
    'geteuid': (107, 175),
    'getgid': (104, 176),
    'getitimer': (36, 102),
    'getpgid': (121, 155),
    'getpgrp': (111, None),
    'getpid': (39, 172),
    'getppid': (110, 173),
    'getrandom': (318, 278),
    'getresgid': (120, 150),
    'getresuid': (118, 148),
    'getrlimit': (97, 163),
    'getrusage': (98, 165),
    'getsid': (124, 156),
    'gettid': (186, 178),
    'gettimeofday': (96, 169),
    'getuid': (102, 174),
    'ioctl': (16, 29),
    'kill': (62, 129),
    'landlock_create_ruleset': (444, 444),
    'landlock_restrict_self': (446, 446),
    'lseek': (8, 62),
    'lstat': (6, None),
    'madvise': (28, 233),
    'membarrier': (324, 283),
    'memfd_create': (319, 279),
    'mmap': (9, 222),
    'mount': (165, 40),
    'mprotect': (10, 226),
    'mremap': (25, 216),
    'munmap': (11, 215),
    'nanosleep': (35, 101),
    'newfstatat': (262, 79),
    'open': (2, None),
    'openat': (257, 56),
    'pause': (34, None),
    'pivot_root': (155, 41),
    'poll': (7, None),
    'ppoll': (271, 73),
    'prctl': (157, 167),
    'pread64': (17, 67),
    'prlimit64': (302, 261),
    'pselect6': (270, 72),
    'read': (0, 63),
    'readlink': (89, None),
    'readlinkat': (267, 78),
    'readv': (19, 65),
    'restart_syscall': (219, 128),
    'rseq': (334, 293),
    'rt_sigaction': (13, 134),
    'rt_sigpending': (127, 136),
    'rt_sigprocmask': (14, 135),
    'rt_sigreturn': (15, 139),
    'rt_sigsuspend': (130, 133),
    'rt_sigtimedwait': (128, 137),
    'sched_getaffinity': (204, 123),
    'sched_yield': (24, 124),
    'seccomp': (317, 277),
    'select': (23, None),
    'set_robust_list': (273, 99),
    'set_tid_address': (218, 96),
    'setitimer': (38, 103),
    'setrlimit': (160, 164),
    'sigaltstack': (131, 132),
    'stat': (4, None),
    'statx': (332, 291),
    'tgkill': (234, 131),
    'time': (201, None),
    'times': (100, 153),
    'umount2': (166, 39),
    'uname': (63, 160),
    'unshare': (272, 97),
    'write': (1, 64),
    'writev': (20, 66),
}

_ALLOWED = (
    # input and output on descriptors that are open
    'read', 'write', 'readv', 'writev', 'pread64', 'lseek', 'close', 'fstat', 'dup', 'dup2', 'dup3',
    'poll', 'ppoll', 'select', 'pselect6',
    # memory
    'munmap', 'mremap', 'brk', 'madvise',
    # signals of its own
    'rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack', 'rt_sigsuspend',
    'rt_sigpending', 'rt_sigtimedwait', 'pause', 'restart_syscall', 'setitimer', 'getitimer',
    'alarm',
    # threads and the end of them
    'futex', 'set_robust_list', 'get_robust_list', 'set_tid_address', 'rseq', 'membarrier',
    'sched_yield', 'getcpu', 'exit', 'exit_group',
    # time and chance
    'nanosleep', 'clock_nanosleep', 'clock_gettime', 'clock_getres', 'gettimeofday', 'time',
    'times', 'getrandom',
    # what a process may know of itself
    'getpid', 'gettid', 'getppid', 'getuid', 'geteuid', 'getgid', 'getegid', 'getresuid',
    'getresgid', 'getpgrp', 'getpgid', 'getsid', 'getrusage', 'getrlimit', 'setrlimit', 'uname',
)

# Refused, with the error that a library expects when a file is out of reach or a call is unknown.
_ERRORS = {
    'open': errno.EACCES, 'openat': errno.EACCES, 'stat': errno.EACCES, 'lstat': errno.EACCES,
    'readlink': errno.EACCES, 'readlinkat': errno.EACCES, 'statx': errno.ENOSYS,
    'clone3': errno.ENOSYS,    # then a C library makes its threads by `clone`, whose flags show
    'ioctl': errno.ENOTTY,
}

_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN would send signals.
_FCNTL = (0, 1, 2, 3, 4, 1030)
# The flags of a thread made by glibc and by musl; a process, or a namespace, has others.
_CLONE = (0x3d0f00, 0x7d0f00)

_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7fff0000

_AUDIT_ARCH = {'x86_64': 0xc000003e, 'aarch64': 0xc00000b7}
_X32 = 0x40000000

# Operations of classic BPF.
_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06
# Offsets in struct seccomp_data; the low half of each argument, as both machines store it.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]    # code, jump if true, jump if false, operand


def architecture() -> str | None:
  """The architecture of this interpreter if the table above has it."""
  machine = platform.machine()
  known = sys.platform == 'linux' and sys.maxsize > 1 << 32 and machine in _AUDIT_ARCH
  return machine if known else None


def number(name: str, machine: str | None = None) -> int | None:
  """A system call's number on `machine` (this one unless given), None if it has no such call."""
  column = list(_AUDIT_ARCH).index(machine or platform.machine())
  return NUMBERS[name][column]


def _denied(error: int) -> Instruction:
  return (_RETURN, 0, 0, _ERRNO | error)


def _argument(index: int) -> Instruction:
  return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
  """Allows a call one of whose arguments is among `values`, and denies it otherwise."""
  tests = [(_EQUAL, len(values) - position, 0, value) for position, value in enumerate(values)]
  return [_argument(index), *tests, _denied(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _bit(index: int, bit: int, *, wanted: bool) -> list[Instruction]:
  """Allows a call one of whose arguments has a bit, or has it not."""
  allowed, denied = (_RETURN, 0, 0, _ALLOW), _denied(errno.EPERM)
  return [_argument(index), (_ANY_BIT, 0, 1, bit),
          *((allowed, denied) if wanted else (denied, allowed))]


def program_filter(pid: int, machine: str) -> bytes:
  """The filter of a program whose process is `pid`: an array of struct sock_filter."""
  checked = {
      'mmap': _bit(2, _PROT_EXEC, wanted=False),
      'mprotect': _bit(2, _PROT_EXEC, wanted=False),
      'newfstatat': _bit(3, _AT_EMPTY_PATH, wanted=True),
      'fcntl': _one_of(1, _FCNTL),
      'clone': _one_of(0, _CLONE),
      'kill': _one_of(0, (pid,)),
      'tgkill': _one_of(0, (pid,)),
      'prlimit64': _one_of(0, (0, pid)),
      'sched_getaffinity': _one_of(0, (0, pid)),
  }
  rules = {name: [(_RETURN, 0, 0, _ALLOW)] for name in _ALLOWED}
  rules |= {name: [_denied(error)] for name, error in _ERRORS.items()} | checked
  return assemble(rules, _denied(errno.EPERM), machine)


def assemble(rules: dict[str, list[Instruction]], otherwise: Instruction, machine: str) -> bytes:
  """A filter that follows the rule of the call that is made, or else `otherwise`."""
  instructions: list[Instruction] = [
      (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
      (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER)]
  if machine == 'x86_64':
    instructions += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
  for name, rule in rules.items():
    call = number(name, machine)
    if call is not None:
      instructions += [(_EQUAL, 0, len(rule), call), *rule]
  instructions.append(otherwise)
  return b''.join(struct.pack('=HBBI', *instruction) for instruction in instructions)
