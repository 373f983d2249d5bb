"""The program of a reward worker: `python -m r1jax.rewards.worker`.

It reads tasks as JSON lines from standard input, `{"gold", "answer", "seconds"}`. It writes
`{"event": "ready"}` once (or `{"event": "failed", "reason"}` if math-verify is missing) and then,
for every task, `{"event": "started"}` and `{"event": "done", "verdict": true | false | null}`. It
exits when its standard input ends, and so with its parent. It imports neither jax nor anything else
from r1jax.

A task's time limit is a kernel timer that starts with the task. When it expires, the kernel kills
the process whatever it is doing; an exception could be swallowed by a library or delayed by C code.
Nothing that a model wrote is evaluated: sympy would read numbers with `eval`, which is replaced
by a parser of literals.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys

_MEMORY_BYTES = 2 << 30
_LITERAL = re.compile(r"(Integer|Float) \('?([0-9.]+)'? *\)")


def verdict(gold: str, answer: str) -> bool | None:
  """Whether two LaTeX formulas are equivalent, by math-verify; None if it cannot read the gold.

  This may run forever, because math-verify's own time limits are switched off: call it only in a
  process that can be killed.
  """
  from math_verify import LatexExtractionConfig, parse, verify
  # Only LaTeX is extracted: math-verify reads plain expressions with `eval`.
  parsed_gold, parsed_answer = (
      parse(rf'\boxed{{{text}}}', [LatexExtractionConfig()], fallback_mode='no_fallback',
            parsing_timeout=None)
      for text in (gold, answer))
  if not parsed_gold:
    return None
  return verify(*map(_with_imaginary_unit, (parsed_gold, parsed_answer)), timeout_seconds=None)


def _with_imaginary_unit(parsed: list) -> list:
  """What was parsed, with the imaginary unit for the letter `i`, which the parser keeps."""
  import sympy
  return [
      found.subs({symbol: sympy.I for symbol in found.free_symbols if symbol.name == 'i'})
      if isinstance(found, sympy.Basic | sympy.MatrixBase) else found for found in parsed]


def read_literal(code: str, local_dict=None, global_dict=None):
  """Replaces sympy's `eval_expr`: returns the sympy number that `code` constructs.

  Args:
    code: Python source such as `Integer (12)` or `Float ('0.5')`.
    local_dict: ignored, present for sympy.
    global_dict: ignored, present for sympy.

  Raises:
    ValueError: `code` is anything but a single number.
  """
  del local_dict, global_dict
  import sympy
  literal = _LITERAL.fullmatch(code)
  if literal is None:
    raise ValueError(f'{code!r} is not a number, and nothing else is evaluated.')
  kind, value = literal.groups()
  return getattr(sympy, kind)(int(value) if kind == 'Integer' else value)


def _prepare() -> None:
  """Imports what tasks need, then gives up rights and memory that they do not need."""
  from sympy.parsing import sympy_parser
  # On first use sympy imports modules and evaluates the names of units.
  verdict('x^2 + 2x + 1', '(x + 1)^2')
  sympy_parser.eval_expr = read_literal
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  limits = (
      (resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0))
  for limit, value in limits:
    with contextlib.suppress(ValueError, OSError):  # macOS rejects some of them
      resource.setrlimit(limit, (value, value))


def main() -> None:
  """Answers the tasks on standard input until it ends."""
  channel = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  # What a library prints goes to standard error, so that it cannot disturb the messages.
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

  def send(**message):
    channel.write(json.dumps(message) + '\n')
    channel.flush()

  try:
    _prepare()
  except ImportError as error:
    send(event='failed', reason=str(error))
    return
  send(event='ready')
  for line in sys.stdin:
    task = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, task['seconds'])
    send(event='started')
    result = verdict(task['gold'], task['answer'])
    signal.setitimer(signal.ITIMER_REAL, 0)
    send(event='done', verdict=result)


if __name__ == '__main__':
  main()
