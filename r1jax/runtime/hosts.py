"""Several processes as one program: which host is first, exchanging values, stopping together.

`jax.distributed` joins the processes (`r1jax.runtime.joining`); here is what else the host side of
a run needs. Every function that says "on all hosts" must be called by all of them, in the same
order. With one process none of them communicates.

Only the first host writes metrics, rollouts, tables and manifests, and prints.
"""
from collections.abc import Callable
import hmac
import itertools
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from r1jax.runtime import messages

# Seconds at a barrier: a host that is working is waited for, and one that dies ends the run anyway.
_BARRIER_S = 7 * 24 * 3600
_barrier_numbers = itertools.count()
_gather_numbers = itertools.count()
_MAX_MESSAGE = 1 << 30     # bytes that a host may send at a time
_secret = b''


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


def use_secret(secret: bytes) -> None:
  """Signs what `gather` sends with the secret of the run, and accepts nothing else."""
  global _secret
  _secret = secret


def gather(value: Any) -> list:
  """The value of each host, in the order of hosts, on all hosts.

  Args:
    value: plain data, as `messages.encode` takes it.

  Raises:
    MessageError: a message is not that of a host of this run.
  """
  return [value] if count() == 1 else _exchange(messages.encode(value))


def _exchange(content: bytes) -> list:
  """The values that all hosts have encoded, on all hosts."""
  number = next(_gather_numbers)
  sent = np.frombuffer(_signature(content, number, index()) + content, np.uint8)
  barrier()
  with jax.transfer_guard_device_to_host('allow'):
    sizes = multihost_utils.process_allgather(np.int32(sent.size))
    if not 0 < sizes.max() <= _MAX_MESSAGE:
      raise messages.MessageError(f'a host sends {sizes.max():,} bytes at a time, and at most '
                                  f'{_MAX_MESSAGE:,} can be sent: make the batches smaller')
    padded = 1 << int(sizes.max() - 1).bit_length()    # powers of two, so that few are compiled
    received = multihost_utils.process_allgather(np.pad(sent, (0, padded - sent.size)))
  return [_read(row[:size].tobytes(), number, host)
          for host, (row, size) in enumerate(zip(received, sizes))]


def _signature(content: bytes, number: int, host: int) -> bytes:
  return messages.sign(_secret, b'gather', f'{number} {host}'.encode(), content)


def _read(sent: bytes, number: int, host: int) -> Any:
  """What a host sent to the gather of this number, if it was one of this run's."""
  signature, content = sent[:messages.MAC_BYTES], sent[messages.MAC_BYTES:]
  if not hmac.compare_digest(signature, _signature(content, number, host)):
    raise _not_signed(host)
  return messages.decode(content)


def _not_signed(host: int) -> messages.MessageError:
  return messages.MessageError(f'what host {host} sent is not signed with the secret of this run: '
                               'start the same command on all hosts')


def together(function: Callable[[], Any]) -> list:
  """The results of `function()` on each host, in the order of hosts, on all hosts.

  Raises:
    Exception: where the call failed, its own error; on the other hosts, that of the first host
      whose call failed.
  """
  if count() == 1:
    return [function()]
  error = None
  try:
    content = messages.encode((function(), None))
  except Exception as own:
    error, content = own, messages.encode((None, own))
  outcomes = _exchange(content)
  if error is not None:
    raise error
  for _, other in outcomes:
    if other is not None:
      raise other
  return [value for value, _ in outcomes]


def collect(key: str, value: str) -> list[str]:
  """The value of each host, in the order of hosts, on the first host; nothing on the others.

  Needs no device and no order: threads in the background may call it.

  Args:
    key: the same on all hosts, and never used before.
    value: any text.
  """
  if count() == 1:
    return [value]
  from jax._src import distributed  # jax has no public store of keys and values
  client: Any = distributed.global_state.client
  def signature(host: int, text: str) -> str:
    return messages.sign(_secret, b'collect', f'{key} {host}'.encode(), text.encode()).hex()

  def read(host: int) -> str:
    sent = client.blocking_key_value_get(f'r1jax {key}/{host}', 1000 * _BARRIER_S)
    signed, text = sent[:2 * messages.MAC_BYTES], sent[2 * messages.MAC_BYTES:]
    if not hmac.compare_digest(signed.encode(), signature(host, text).encode()):
      raise _not_signed(host)
    return text

  client.key_value_set(f'r1jax {key}/{index()}', signature(index(), value) + value)
  return [read(host) for host in range(count())] if is_first() else []


def from_first(function: Callable[[], Any]) -> Any:
  """The result of `function()`, which only the first host calls, on all hosts.

  Raises:
    Exception: what the call raises, on all hosts.
  """
  return together(function if is_first() else lambda: None)[0]


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
