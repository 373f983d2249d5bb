"""Runs programs that nobody trusts, several at once."""
from collections.abc import Callable, Sequence

from r1jax.rewards.sandbox.programs import Outcome, Program


def layers() -> tuple[str, ...]:
  """What confines a program on this machine, tried once by each process that asks.

  Raises:
    UserError: too little holds here; no program is run.
  """
  raise NotImplementedError


class Sandbox:
  """Runs programs in child processes that can do nothing but compute."""

  def __init__(self, workers: int = 2, timeout_s: float = 6.0, memory_bytes: int = 512 << 20,
               output_bytes: int = 1 << 20):
    """Makes the sandbox without starting a process.

    Args:
      workers: how many programs run at once, at least 1.
      timeout_s: seconds that a run may take.
      memory_bytes: bytes that a run may allocate.
      output_bytes: bytes that a run may write to standard output, or return.

    Raises:
      UserError: an argument is out of range.
    """
    raise NotImplementedError

  def run(self, program: Program, inputs: Sequence[str | tuple],
          stop_at: Callable[[Sequence[Outcome]], bool] | None = None) -> list[Outcome]:
    """Runs a program once for each input, each in a process of its own, and returns the outcomes.

    Threads may call this at the same time; they share the workers.

    Args:
      program: what is run.
      inputs: for each run the text on standard input, or for a function the tuple of its
        arguments, made of None, bool, int, float, str, list, tuple, dict and set.
      stop_at: called with the outcomes so far after each run; when it returns True the other
        inputs are not run, and the list that is returned is shorter than `inputs`.

    Raises:
      UserError: an input does not fit the program, or nothing here can confine a program.
      RuntimeError: the sandbox is closed, or a process of it fails again and again.
    """
    raise NotImplementedError

  def close(self) -> None:
    """Ends every process of the sandbox; runs that are under way raise RuntimeError."""
    raise NotImplementedError

  def __enter__(self) -> 'Sandbox':
    return self

  def __exit__(self, *exception) -> None:
    self.close()
