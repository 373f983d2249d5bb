"""Wall time by name, for the `timing_s/` metrics."""
from collections.abc import Iterator
import contextlib
import time


class Stopwatch:
  """Adds up seconds by name.

      stopwatch = Stopwatch()
      with stopwatch('rollout'):
        ...
      stopwatch.pop()    # {'timing_s/rollout': 1.5}

  Dispatch to a device is asynchronous and time runs until the block ends: wait for results in it.
  """

  def __init__(self):
    self._seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Adds the time that the `with` block takes to `name`."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

  def pop(self) -> dict[str, float]:
    """{'timing_s/<name>': seconds} since the last call; resets all times to zero."""
    seconds, self._seconds = self._seconds, {}
    return {f'timing_s/{name}': value for name, value in seconds.items()}
