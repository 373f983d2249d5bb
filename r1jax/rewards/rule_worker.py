"""The program that judges completions by rules: `python -m r1jax.rewards.rule_worker`.

It reads messages from standard input: 8 bytes of length, then what `marshal` has made of
`(functions, completions, examples, calls)`. It writes a line of JSON when it begins and one for
each call, in their order, as soon as it is done (see `outcomes.to_plain`). It exits when its
standard input ends, and so with its parent. It imports no jax.

A call's time limit is a kernel timer that starts with the call. When it expires, the kernel kills
the process whatever it is doing. What functions print goes to standard error. The process has the
lowest priority: where a rollout keeps every core busy, calls take what it leaves.
"""
from collections.abc import Callable
import contextlib
import functools
import json
import marshal
import os
import resource
import signal
import sys
from typing import Any

from r1jax.rewards import addresses, outcomes
from r1jax.rewards.completion import Completion

BEGUN = b'true'
_NICENESS = 19


def main() -> None:
  """Answers the messages on standard input until it ends."""
  channel = os.dup(sys.stdout.fileno())
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  _give_way()
  while header := sys.stdin.buffer.read(8):
    _judge(channel, *marshal.loads(sys.stdin.buffer.read(int.from_bytes(header))))


def _give_way() -> None:
  """Lets a rollout on the same cores go first: by the priority in a session, and of the session."""
  os.nice(_NICENESS)
  with contextlib.suppress(OSError), open('/proc/self/autogroup', 'w') as file:
    file.write(str(_NICENESS))


def _judge(channel: int, functions: list, completions: list, examples: list, calls: list) -> None:
  """Makes the calls of a message, up to the first that fails.

  Args:
    channel: where lines are written.
    functions: (as for `_load`, seconds that a call may take).
    completions: (text, number of tokens, whether it was truncated).
    examples: one for each completion.
    calls: (place of the completion, place of the function, answers that are known).
  """
  try:
    loaded = [(_load(*described), seconds) for described, seconds in functions]
  except BaseException as error:
    _write(channel, json.dumps(outcomes.to_plain(outcomes.Raised.of(error))).encode())
    return
  _write(channel, BEGUN)
  read = [Completion(*completion) for completion in completions]
  for place, which, answers in calls:
    function, seconds = loaded[which]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    outcome = outcomes.of_call(function, read[place], examples[place], answers)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _write(channel, json.dumps(outcomes.to_plain(outcome)).encode())
    if outcomes.is_failure(outcome):
      return


def _load(address: str, keywords: dict[str, Any], functions: dict[str, tuple]) -> Callable:
  """The function at an address, with keywords; some of these are functions themselves."""
  return functools.partial(addresses.load(address), **keywords, **{
      name: _load(*described) for name, described in functions.items()})


def _write(channel: int, line: bytes) -> None:
  line += b'\n'
  while line:
    line = line[os.write(channel, line):]


if __name__ == '__main__':
  main()
