"""Signals that ask a run to stop: at the first its state is saved, the second ends it at once.

A handler written in Python runs in the main thread, between two steps of the interpreter: not while
a program is compiled, or a model read, in C++. But Python's own handler, which is in C, writes each
signal to a pipe at once. A thread reads it there if the main thread does not: functions in C that
let no other thread run, such as a regular expression, look for signals themselves.
"""
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from typing import Any

_SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
_HEARD = ('r1jax: asked to stop: the state is saved once what runs now is done, a chunk of '
          'completions or an update (loading, compiling and exporting are waited for); ask again '
          'to stop at once')
_MAIN_THREAD_S = 0.1      # in which it reads a signal itself, if it can
_AT_ONCE = 'r1jax: stopped at once; what was saved before is there'


class StopSignals:
  """Listens to SIGTERM, SIGINT and SIGHUP; SIGHUP stays ignored where it is (nohup).

      with StopSignals() as signals:
        run(should_stop=signals.asked)

  Attributes:
    received: the signals so far, at most one: the second ends the process, with its exit status.
  """

  def __init__(self, *, several_hosts: bool = False):
    """Begins to listen; call it in the main thread.

    Args:
      several_hosts: whether jax listens for SIGTERM, to tell all hosts. Then any of the signals is
        passed on to jax.
    """
    self.received: list[int] = []
    self._passed_on = _own_handler(signal.SIGTERM) if several_hosts else None
    self._pipe, self._written = os.pipe()
    for end in self._pipe, self._written:
      os.set_blocking(end, False)
    self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
    self._before: dict[int, Any] = {
        number: signal.signal(number, self._handle) for number in _SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
    threading.Thread(target=self._watch, name='stop signals', daemon=True).start()

  def __enter__(self) -> 'StopSignals':
    return self

  def __exit__(self, *exception) -> None:
    """Listens no more: what is left to do is not worth waiting for."""
    signal.set_wakeup_fd(-1)
    for number, handler in self._before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    os.close(self._written)

  def asked(self) -> bool:
    """Whether the run was asked to stop; call it in the main thread."""
    signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)   # event loops take it away
    return bool(self.received)

  def _watch(self) -> None:
    while self._read():
      select.select([self._pipe], [], [])
      time.sleep(_MAIN_THREAD_S)
    os.close(self._pipe)

  def _handle(self, number: int, frame: Any) -> None:
    if signal.set_wakeup_fd(self._written, warn_on_full_buffer=False) != self._written:
      os.write(self._written, bytes([number]))   # it went to an event loop
    self._read()

  def _read(self) -> bool:
    """Reads the signals that have come; False once the pipe is closed."""
    with contextlib.suppress(BlockingIOError):
      numbers = os.read(self._pipe, 64)
      for number in numbers:
        if number in _SIGNALS:
          self._receive(number)
      return bool(numbers)
    return True

  def _receive(self, number: int) -> None:
    self.received.append(number)
    if number == signal.SIGHUP:    # the terminal is gone, and to print there would be an error
      for stream in self._terminals:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    if len(self.received) > 1:
      _print(_AT_ONCE)
      os._exit(128 + number)
    _print(_HEARD)
    if self._passed_on is not None:
      self._passed_on(signal.SIGTERM)


def _print(message: str) -> None:
  """Prints on standard error, in whatever the main thread is interrupted."""
  with contextlib.suppress(OSError):
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f'{message}\n'.encode())


def _own_handler(number: int) -> Any:
  """The handler of a signal that a library has set in C, as a function; None if it set none."""
  set_handler = ctypes.CDLL(None).signal
  set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
  handler = set_handler(number, None)      # None, or 0, is the default
  return ctypes.CFUNCTYPE(None, ctypes.c_int)(handler) if handler not in (None, 1) else None
