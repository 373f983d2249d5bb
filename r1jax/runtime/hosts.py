"""Several processes as one program: who is first, what all know, and when all stop.

`jax.distributed` joins the processes (`r1jax.joining`); here is what the host side of a run needs
besides. Every function that says "on all hosts" must be called by all of them, in the same order.
With one process each does nothing more than it says.

The first host alone writes metrics, rollouts, tables and manifests, and prints.
"""
from collections.abc import Callable
import itertools
import pickle
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np

_WAIT_S = 7 * 24 * 3600    # a host that works is waited for; one that dies ends the run itself
_numbers = itertools.count()


def count() -> int:
  return jax.process_count()


def index() -> int:
  return jax.process_index()


def is_first() -> bool:
  """Whether this host is the one that writes."""
  return jax.process_index() == 0


def barrier() -> None:
  """Returns on all hosts once all have called it, without a device: a wait may be long."""
  if count() > 1:
    from jax._src import distributed  # jax has no public barrier that needs no device
    distributed.global_state.client.wait_at_barrier(
        f'r1jax {next(_numbers)}', timeout_in_ms=1000 * _WAIT_S)


def gather(value: Any) -> list:
  """[each host's value, by host] on all hosts; a value is anything that pickle takes."""
  if count() == 1:
    return [value]
  content = np.frombuffer(pickle.dumps(value), np.uint8)
  barrier()
  with jax.transfer_guard_device_to_host('allow'):
    sizes = multihost_utils.process_allgather(np.int32(content.size))
    room = 1 << int(sizes.max() - 1).bit_length()    # few sizes, so that few are ever compiled
    contents = multihost_utils.process_allgather(np.pad(content, (0, room - content.size)))
  return [pickle.loads(row[:size].tobytes()) for row, size in zip(contents, sizes)]


class _Outcome(NamedTuple):
  value: Any
  error: Exception | None


def together(function: Callable[[], Any]) -> list:
  """[what `function()` gives on each host] on all hosts.

  Raises:
    Exception: what the first of the hosts raised whose call failed, on all hosts.
  """
  if count() == 1:
    return [function()]
  try:
    own = _Outcome(function(), None)
  except Exception as error:
    own = _Outcome(None, error)
  outcomes = gather(_Outcome(own.value, _travelling(own.error)))
  if own.error is not None:
    raise own.error
  for outcome in outcomes:
    if outcome.error is not None:
      raise outcome.error
  return [outcome.value for outcome in outcomes]


def from_first(function: Callable[[], Any]) -> Any:
  """What `function()` gives on the first host, which alone calls it, on all hosts.

  Raises:
    Exception: what it raises, on all hosts.
  """
  return together(function if is_first() else lambda: None)[0]


def _travelling(error: Exception | None) -> Exception | None:
  """The error as another process can raise it."""
  try:
    pickle.loads(pickle.dumps(error))
    return error
  except Exception:
    return RuntimeError(str(error))


class StopNotice:
  """`should_stop` of several hosts: a SIGTERM at one of them stops all at the same question.

  All hosts ask equally often. A question costs no communication: jax passes the notice on in the
  background, and names a question that no host has reached yet.
  """

  def __init__(self):
    self._questions = itertools.count()
    self.asked = False

  def __call__(self) -> bool:
    reached = multihost_utils.reached_preemption_sync_point(next(self._questions))
    self.asked = self.asked or reached
    return self.asked
