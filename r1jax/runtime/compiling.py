"""Programs that are compiled ahead of their first call, side by side in threads.

XLA compiles without Python's lock, and much of it on one core: independent programs are compiled at
the same time, and while the device and the host are at work.

    with compiling.Threads() as threads:
      update = compiling.Program(function, donate_argnums=0)
      update.prepare(threads, *shapes)      # returns at once
      ...
      update(state, batch)                  # waits for the program if need be

A program is traced where it is prepared, so that the ambient mesh, `sharding.rules` and all
settings of JAX count as they do for a call. What a call computes does not depend on whether it was
prepared.
"""
from collections.abc import Callable
import concurrent.futures
import os
from typing import Any

import jax

from r1jax.runtime.device_time import dispatched

_MOST_THREADS = 8


class Threads:
  """Threads in which programs are compiled; they end when this is closed.

  Args:
    number: how many; None: as many as there are cores, at least 2 and at most 8.
  """

  def __init__(self, number: int | None = None):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    number = number or min(max(2, cores or 1), _MOST_THREADS)
    self._pool = concurrent.futures.ThreadPoolExecutor(number, thread_name_prefix='compile')
    self._has_spare = number > 2
    self._last: list[tuple[concurrent.futures.Future, Callable]] = []
    self._futures: list[concurrent.futures.Future] = []

  def __enter__(self) -> 'Threads':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Waits for what is being compiled; what has not begun is dropped, and compiled when called."""
    for future, _ in self._last:
      future.cancel()
    self._pool.shutdown(cancel_futures=True)

  def wait(self) -> None:
    """Waits until all is compiled; errors are raised by the calls."""
    self.begin_last()
    concurrent.futures.wait(self._futures)
    self._futures.clear()

  def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
    """Calls a function in one of the threads; the first submitted are called first."""
    future = self._pool.submit(function, *arguments)
    self._futures.append(future)
    return future

  def submit_last(self, function: Callable) -> concurrent.futures.Future:
    """As `submit`; of few threads none is taken before `begin_last` or `wait`."""
    if self._has_spare:
      return self.submit(function)
    future: concurrent.futures.Future = concurrent.futures.Future()
    self._last.append((future, function))
    return future

  def begin_last(self) -> None:
    """Begins what was submitted as last."""
    for future, function in self._last:
      if future.set_running_or_notify_cancel():
        self.submit(_fulfil, future, function)
    self._last.clear()


def _fulfil(future: concurrent.futures.Future, function: Callable) -> None:
  """Gives a future the result of a call, or its error."""
  try:
    future.set_result(function())
  except BaseException as error:
    future.set_exception(error)


class Prepared:
  """A program of a `Program` that is compiled for arguments of certain shapes.

  Attributes:
    arguments: the placed shapes.
    static: the static arguments.
  """

  def __init__(self, arguments: tuple, static: dict[str, Any],
               future: concurrent.futures.Future, threads: Threads):
    self.arguments, self.static = arguments, static
    self._future, self._threads = future, threads
    self._leaves, self._structure = _flat(arguments)

  def fits(self, arguments: tuple, static: dict[str, Any]) -> bool:
    """Whether a call with these arguments can use it."""
    leaves, structure = _flat(arguments)
    if self._future.cancelled() or static != self.static or structure != self._structure:
      return False
    return all(map(_fits, leaves, self._leaves))

  def compiled(self) -> jax.stages.Compiled:
    """The compiled program; waits for it, and raises what the compiler raised."""
    if not self._future.done():
      self._threads.begin_last()
    return self._future.result()

  def done(self) -> bool:
    """Whether the compiler has ended."""
    return self._future.done()

  def outputs(self) -> Any:
    """The placed shapes of what the program returns; waits until it is compiled."""
    compiled = self.compiled()
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        compiled.out_info, compiled.output_shardings)


class Program:
  """A jitted function that can be compiled ahead for the shapes that it will be called with.

  A call of other shapes, placements or static arguments is compiled by `jax.jit` as usual.

  Args:
    function: what to compile.
    **options: for `jax.jit`. Static arguments must be keyword-only: `static_argnames`.
  """

  def __init__(self, function: Callable, **options):
    self._jitted = jax.jit(function, **options)
    self._prepared: list[Prepared] = []

  def prepare(self, threads: Threads, *arguments, last: bool = False, **static) -> Prepared:
    """Traces the function, and compiles it in a thread; returns what will be used by calls.

    Args:
      threads: where to compile.
      *arguments: trees of arrays, or of their shapes (`jax.ShapeDtypeStruct`) with the shardings
        of all that will be committed to devices.
      last: it is not needed soon: few threads compile it when all else is done.
      **static: the static arguments.

    Raises:
      Exception: the function cannot be traced. An error of the compiler is raised by the call.
    """
    found = self._find(arguments, static)
    if found is not None:
      return found
    lowered = self._jitted.lower(*arguments, **static)
    arguments = jax.tree.map(_shape, arguments)
    submit = threads.submit_last if last else threads.submit
    prepared = Prepared(arguments, static, submit(lowered.compile), threads)
    self._prepared.append(prepared)
    return prepared

  def is_compiling(self, *arguments, **static) -> bool:
    """Whether a call would wait for one of the threads.

    For a caller that has another program with the same results. Of several hosts, which must make
    the same choice, each is told False.
    """
    prepared = self._find(arguments, static)
    return prepared is not None and not prepared.done() and jax.process_count() == 1

  def __call__(self, *arguments, **static):
    """Calls the function; raises what its compiler or `jax.jit` raises."""
    prepared = self._find(arguments, static)
    if prepared is not None:
      return dispatched(prepared.compiled()(*arguments))
    return dispatched(self._jitted(*arguments, **static))

  def _find(self, arguments: tuple, static: dict[str, Any]) -> Prepared | None:
    return next((prepared for prepared in self._prepared
                 if prepared.fits(arguments, static)), None)

  def lower(self, *arguments, **static) -> jax.stages.Lowered:
    """As that of a jitted function."""
    return self._jitted.lower(*arguments, **static)


def _flat(arguments) -> tuple[list, Any]:
  return jax.tree.flatten(arguments)


def _shape(x) -> jax.ShapeDtypeStruct:
  """The shape of an array or scalar, with its sharding if it is committed to it."""
  if isinstance(x, jax.ShapeDtypeStruct):
    return x
  aval = jax.typeof(x)
  where = x.sharding if isinstance(x, jax.Array) and x.committed else None
  return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type, sharding=where)


def _fits(given, shape: jax.ShapeDtypeStruct) -> bool:
  given = _shape(given)
  if (given.shape, given.dtype, given.weak_type) != (shape.shape, shape.dtype, shape.weak_type):
    return False
  if given.sharding is None or given.sharding == shape.sharding:
    return True
  if shape.sharding is None:    # compiled for wherever an array of a single device is
    return given.sharding.num_devices == 1
  return given.sharding.is_equivalent_to(shape.sharding, len(shape.shape))
