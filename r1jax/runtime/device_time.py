"""How long the devices wait for the host: the share of time in which no program runs.

Each `compiling.Program` says what it has dispatched, and so can others:

    scores = dispatched(program(params, batch))

An `IdleMeter` measures, in one thread, when the outputs are ready. Where nobody measures, this
costs nothing.
"""
import queue
import threading
import time
from typing import Any, TypeVar

import jax

_Outputs = TypeVar('_Outputs')
_meters: list['IdleMeter'] = []


def dispatched(outputs: _Outputs) -> _Outputs:
  """The outputs of a program that was just dispatched, of which meters take note.

  Some or all may be donated to a later program, if that is noted, too.
  """
  for meter in _meters:
    meter.note(outputs)
  return outputs


class IdleMeter:
  """Measures the share of time in which this host's devices run no program.

      with IdleMeter() as meter:
        ...
        meter.pop()    # 0.07

  Programs run in the order of their dispatch, so each begins when it is dispatched or when the one
  before it has ended, and ends when its outputs are ready. Not seen:

  - programs that `dispatched` is not told of, such as placing arrays: their time counts as idle;
  - the way from dispatch to the device, and waiting for another host: they count as busy;
  - the exact end: this thread notices it once it gets the interpreter, up to 5 ms later where
    Python code runs. So a gap shorter than that may be missed;
  - on a CPU, programs so small that the call itself runs them: they count as idle.
  """

  def __init__(self) -> None:
    self._noted: queue.SimpleQueue = queue.SimpleQueue()
    self._lock = threading.Lock()
    self._popped = self._ended = time.perf_counter()
    self._begun: float | None = None    # since when a program runs
    self._busy = 0.0                    # seconds of the programs that have ended since `pop`
    self._thread = threading.Thread(target=self._watch, name='device time', daemon=True)

  def __enter__(self) -> 'IdleMeter':
    self._thread.start()
    _meters.append(self)
    return self

  def __exit__(self, *_: object) -> None:
    _meters.remove(self)
    self._noted.put(None)
    self._thread.join(timeout=1.0)

  def note(self, outputs: Any) -> None:
    """Takes note of a program that was just dispatched, by some of its outputs."""
    self._noted.put((time.perf_counter(), outputs))

  def pop(self) -> float:
    """The share of the time since the last call, or since the meter began, that was idle."""
    with self._lock:
      now = time.perf_counter()
      busy = self._busy + (0.0 if self._begun is None else now - max(self._begun, self._popped))
      idle = 1 - busy / (now - self._popped)
      self._popped, self._busy = now, 0.0
      return idle

  def _watch(self) -> None:
    while (noted := self._noted.get()) is not None:
      dispatched_at, outputs = noted
      with self._lock:
        self._begun = max(dispatched_at, self._ended)
      try:
        jax.block_until_ready(outputs)
      except Exception:    # they were donated, or have failed, which their reader gets to know
        pass
      del noted, outputs   # they may be large
      with self._lock:
        self._ended = time.perf_counter()
        self._busy += self._ended - max(self._begun, self._popped)
        self._begun = None
