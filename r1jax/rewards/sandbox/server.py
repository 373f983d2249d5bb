"""A fork server: it holds a warm interpreter, and forks a confined child for each run.

`main` makes two processes. The guardian watches the process that started it and the server, and
ends with either. The server never reads a program, an input or an output, and so no child inherits
those of another: for each run it gets descriptors and passes them on. From its standard input, a
Unix socket of packets, it reads

    {"address_space", "seconds"} as JSON, with five descriptors    run a program
    anything else                                                  kill it

It writes `{"ready": true}` once, and after each run `{"status", "seconds"}`: the child's status as
`waitpid` gives it, and the processor time that it took. If the layers do not hold, it writes
`{"refused": reason}` and ends.
"""
import builtins
import contextlib
import errno
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys

from r1jax.rewards.sandbox import jail, kernel, runner

# Modules that a program can import, besides those that these import. There are no files to import
# others from, so what the library imports only when it needs it is here, too.
MODULES = tuple('''
__future__ abc argparse array ast atexit base64 binascii bisect builtins bz2 cProfile calendar
cmath codecs collections collections.abc colorsys concurrent.futures concurrent.futures.thread
configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib
dis doctest enum errno fileinput fnmatch fractions functools gc getopt glob graphlib gzip hashlib
heapq hmac html html.parser inspect io ipaddress itertools json keyword linecache locale logging
lzma marshal math mmap numbers operator optparse os os.path pathlib pickle platform pprint pstats
queue random re reprlib resource sched secrets select shlex shutil signal stat statistics string
stringprep struct sys sysconfig tempfile textwrap threading time timeit token tokenize traceback
tracemalloc types typing unicodedata unittest urllib.parse uuid warnings weakref
xml.etree.ElementTree zlib zoneinfo
'''.split())
_INTERNAL = tuple('''
_blake2 _md5 _pydecimal _pylong _sha1 _sha2 _sha256 _sha3 _sha512 _sitebuiltins _strptime
_suggestions encodings.ascii encodings.base64_codec encodings.big5 encodings.cp1252
encodings.cp437 encodings.euc_jp encodings.gb18030 encodings.gbk encodings.hex_codec
encodings.idna encodings.latin_1 encodings.punycode encodings.raw_unicode_escape encodings.rot_13
encodings.shift_jis encodings.unicode_escape encodings.utf_16 encodings.utf_16_be
encodings.utf_16_le encodings.utf_32 encodings.utf_32_be encodings.utf_32_le encodings.utf_8
encodings.utf_8_sig
'''.split())

DESCRIPTORS = 5    # standard input, output and error, the report, the request
_POLL_SECONDS = 1.0
_NICENESS = 10    # so that programs take what the trainer leaves
# Nobody can change the first two; Python ignores the others, and so gets an error instead.
_KEPT_SIGNALS = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}
_LEAST_THREADS = 128


def main() -> None:
  """Runs the guardian, in a process of its own, and under it the server."""
  layers, trainer = tuple(sys.argv[1].split(',')), int(sys.argv[2])
  signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGCHLD])
  _reset_signals()
  os.nice(_NICENESS)
  resource.setrlimit(resource.RLIMIT_NOFILE, (jail.DESCRIPTORS, jail.DESCRIPTORS))
  control = socket.socket(fileno=os.dup(0))
  os.dup2(1, 0)    # /dev/null
  uid = 0
  try:
    if 'uid' in layers:
      uid = jail.free_uid(os.getpid())
    if 'namespaces' in layers:
      jail.enter_user_namespaces(root=os.getuid() == 0)
    server = os.fork()
  except (OSError, jail.JailError, ValueError) as error:
    _send(control, refused=f'{error}')
    return
  if server:
    control.close()
    _guard(server, trainer)
  try:
    _serve(control, layers, uid)
  finally:
    os._exit(1)


def _reset_signals() -> None:
  """Undoes what the trainer's process may have said of signals, and Python of interrupts."""
  for number in signal.valid_signals() - _KEPT_SIGNALS:
    signal.signal(number, signal.SIG_DFL)


def _guard(server: int, trainer: int) -> None:
  """Ends when the server does, and ends the server when the trainer is gone."""
  while True:
    signal.sigtimedwait([signal.SIGCHLD], _POLL_SECONDS)
    if os.waitpid(server, os.WNOHANG)[0]:
      os._exit(0)
    if os.getppid() != trainer:
      os.kill(server, signal.SIGKILL)
      os.waitpid(server, 0)
      os._exit(0)


def _send(control: socket.socket, **message) -> None:
  control.sendall(json.dumps(message).encode())


def _preload() -> None:
  for name in MODULES + _INTERNAL:
    with contextlib.suppress(ImportError):    # an interpreter may be built without some of them
      importlib.import_module(name)
  for name in ('exit', 'quit'):    # a bare interpreter lacks them
    setattr(builtins, name, sys.modules['_sitebuiltins'].Quitter(name, 'Ctrl-D (i.e. EOF)'))
  os.environ.clear()
  gc.collect()
  gc.freeze()


def _address_space() -> int:
  """Bytes of virtual memory that this process has already."""
  with open('/proc/self/statm') as file:
    return int(file.read().split()[0]) * resource.getpagesize()


def _threads_of_this_user() -> int:
  """The number of threads that the kernel counts for this process's user."""
  threads = 0
  for pid in filter(str.isdigit, os.listdir('/proc')):
    with contextlib.suppress(OSError):    # it has ended meanwhile, or is hidden
      if os.stat(f'/proc/{pid}').st_uid == os.getuid():
        threads += len(os.listdir(f'/proc/{pid}/task'))
  return threads


def _serve(control: socket.socket, layers: tuple[str, ...], uid: int) -> None:
  """Runs programs, one after another, until the other side closes `control`."""
  kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
  signal.pthread_sigmask(signal.SIG_SETMASK, [])
  try:
    _preload()
    base = _address_space()
    threads = _LEAST_THREADS + (0 if 'uid' in layers else _threads_of_this_user())
    if 'namespaces' in layers:
      jail.leave_files_behind()
    elif 'chroot' in layers:
      jail.enter_removed_folder()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
  except (OSError, jail.JailError, ValueError) as error:
    _send(control, refused=f'{error}')
    return
  children = _Children()
  _send(control, ready=True)
  while True:
    message, descriptors = _receive(control)
    if not message:
      return
    if len(descriptors) != DESCRIPTORS:    # to kill a program that has ended meanwhile
      continue
    task = json.loads(message)
    limits = jail.Limits(base + task['address_space'], task['seconds'], threads)
    server = os.getpid()
    child = os.fork()
    if not child:
      _become_program(descriptors, layers, uid, server, limits)
    for descriptor in descriptors:
      os.close(descriptor)
    status, used = children.wait(child, control)
    _send(control, status=status, seconds=used.ru_utime + used.ru_stime)


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
  message, descriptors, _, _ = socket.recv_fds(control, 4096, DESCRIPTORS)
  return message, descriptors


class _Children:
  """Waits for a child and for the word to kill it, at the same time."""

  def __init__(self):
    self._awake, self._wakes = socket.socketpair()
    self._wakes.setblocking(False)
    self._awake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(self._wakes.fileno())

  def wait(self, child: int, control: socket.socket) -> tuple[int, resource.struct_rusage]:
    poll = select.poll()
    poll.register(self._awake, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
      ended, status, used = os.wait4(child, os.WNOHANG)
      if ended:
        break
      for descriptor, _ in poll.poll():
        if descriptor == control.fileno():
          _kill(child)
          poll.unregister(control)    # what it says is read when the child is gone
        else:
          self._awake.recv(4096)
    with contextlib.suppress(ChildProcessError):
      os.waitpid(-1, os.WNOHANG)
      os._exit(1)    # somebody is left: nobody knows who
    return status, used


def _kill(child: int) -> None:
  with contextlib.suppress(ProcessLookupError):    # it has no session of its own yet
    os.killpg(child, signal.SIGKILL)
  os.kill(child, signal.SIGKILL)


def _become_program(descriptors: list[int], layers: tuple[str, ...], uid: int, server: int,
                    limits: jail.Limits) -> None:
  """Confines this process, runs the program, and never returns."""
  try:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _take(descriptors)
    jail.enter(layers, uid=uid, parent=server, limits=limits)
  except BaseException as error:
    with contextlib.suppress(OSError):
      os.write(runner.REPORT, runner.REFUSED + f'{error}'.encode()[:500])
    os._exit(1)
  os.write(runner.REPORT, runner.READY)
  runner.run()


def _take(descriptors: list[int]) -> None:
  """Makes `descriptors` those from 0 on, and closes every other."""
  # Out of the way first: a descriptor may have a number that another is to have.
  moved = [_above(descriptor) for descriptor in descriptors]
  for number, descriptor in enumerate(moved):
    os.dup2(descriptor, number)
  os.closerange(DESCRIPTORS, jail.DESCRIPTORS)
  try:
    os.fstat(min(moved))
  except OSError as error:
    if error.errno == errno.EBADF:
      return
  raise jail.JailError('closing descriptors has no effect here')


def _above(descriptor: int) -> int:
  return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 2 * DESCRIPTORS)
