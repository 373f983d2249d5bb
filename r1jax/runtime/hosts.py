"""Several processes as one program: which host is first, exchanging values, stopping together.

`jax.distributed` joins the processes (`r1jax.runtime.joining`); here is what else the host side of
a run needs. Every function that says "on all hosts" must be called by all of them, in the same
order. With one process none of them communicates.

Only the first host writes metrics, rollouts, tables and manifests, and prints.
"""
from collections.abc import Callable
import itertools
import pickle
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np

# Seconds at a barrier: a host that is working is waited for, and one that dies ends the run anyway.
_BARRIER_S = 7 * 24 * 3600
_barrier_numbers = itertools.count()


def count() -> int:
  """How many hosts there are."""
  return jax.process_count()


def index() -> int:
  """The number of this host, from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Whether this host is the one that writes."""
  return jax.process_index() == 0


def barrier() -> None:
  """Returns on all hosts once all have called it. It needs no device: a wait may be long."""
  if count() > 1:
    from jax._src import distributed  # jax has no public barrier without a device
    client: Any = distributed.global_state.client
    client.wait_at_barrier(f'r1jax {next(_barrier_numbers)}', timeout_in_ms=1000 * _BARRIER_S)


def gather(value: Any) -> list:
  """The value of each host, in the order of hosts, on all hosts. Values must be picklable."""
  if count() == 1:
    return [value]
  content = np.frombuffer(pickle.dumps(value), np.uint8)
  barrier()
  with jax.transfer_guard_device_to_host('allow'):
    sizes = multihost_utils.process_allgather(np.int32(content.size))
    padded = 1 << int(sizes.max() - 1).bit_length()    # powers of two, so that few are compiled
    contents = multihost_utils.process_allgather(np.pad(content, (0, padded - content.size)))
  return [pickle.loads(row[:size].tobytes()) for row, size in zip(contents, sizes)]


class _Outcome(NamedTuple):
  value: Any
  error: Exception | None


def together(function: Callable[[], Any]) -> list:
  """The results of `function()` on each host, in the order of hosts, on all hosts.

  Raises:
    Exception: where the call failed, its own error; on the other hosts, that of the first host
      whose call failed.
  """
  if count() == 1:
    return [function()]
  try:
    own = _Outcome(function(), None)
  except Exception as error:
    own = _Outcome(None, error)
  outcomes = gather(_Outcome(own.value, _picklable(own.error)))
  if own.error is not None:
    raise own.error
  for outcome in outcomes:
    if outcome.error is not None:
      raise outcome.error
  return [outcome.value for outcome in outcomes]


def from_first(function: Callable[[], Any]) -> Any:
  """The result of `function()`, which only the first host calls, on all hosts.

  Raises:
    Exception: what the call raises, on all hosts.
  """
  return together(function if is_first() else lambda: None)[0]


def _picklable(error: Exception | None) -> Exception | None:
  """The error, or one with its message if other processes could not raise it."""
  try:
    pickle.loads(pickle.dumps(error))
    return error
  except Exception:
    return RuntimeError(str(error))


class StopNotice:
  """The `should_stop` of several hosts: a SIGTERM to one of them stops all at the same call.

  All hosts must call it equally often. A call does not communicate: jax passes the notice on in the
  background, and chooses a call that no host has reached yet.

  Attributes:
    asked: whether the run was asked to stop.
  """

  def __init__(self):
    self._calls = itertools.count()
    self.asked = False

  def __call__(self) -> bool:
    """Whether all hosts are to stop now."""
    reached = multihost_utils.reached_preemption_sync_point(next(self._calls))
    self.asked = self.asked or reached
    return self.asked
