"""The program of a reward worker: `python -m r1jax.rewards.worker`.

It reads tasks as JSON lines from standard input, `{"gold", "answer", "seconds"}`, and writes
`{"event": "ready"}` once, then for every task `{"event": "started"}` and
`{"event": "done", "verdict": true | false | null}`. It ends with its standard input, so with its
parent. It imports neither jax nor any other room of r1jax.

The clock of a task is a kernel timer set when the task starts. When it expires the kernel ends the
process, whatever it is doing: no exception that a library could swallow, nothing that C code could
keep waiting. Nothing that a model wrote is evaluated: sympy reads its numbers through `eval`,
which is replaced by a reader of literals.
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
  """Whether two LaTeX formulas are equivalent, by math-verify; None for an unreadable gold.

  It has no clock of its own and math-verify's are off: call it where it can be killed.
  """
  from math_verify import LatexExtractionConfig, parse, verify
  # Plain expressions are not among the targets: math-verify reads those with `eval`.
  gold, answer = (
      parse(rf'\boxed{{{text}}}', [LatexExtractionConfig()], fallback_mode='no_fallback',
            parsing_timeout=None)
      for text in (gold, answer))
  return verify(gold, answer, timeout_seconds=None) if gold else None


def read_literal(code: str, local_dict=None, global_dict=None):
  """In the place of sympy's `eval_expr`: the number that `code` writes out, nothing else.

  Raises:
    ValueError: `code` is not a single number.
  """
  del local_dict, global_dict
  import sympy
  literal = _LITERAL.fullmatch(code)
  if literal is None:
    raise ValueError(f'{code!r} is no number, and nothing else is read.')
  kind, value = literal.groups()
  return getattr(sympy, kind)(int(value) if kind == 'Integer' else value)


def _prepare() -> None:
  """Loads what tasks need, then gives up what they do not."""
  from sympy.parsing import sympy_parser
  verdict('x^2 + 2x + 1', '(x + 1)^2')  # sympy imports, and evaluates names of units, when used
  sympy_parser.eval_expr = read_literal
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  limits = (
      (resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0))
  for limit, value in limits:
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them
      resource.setrlimit(limit, (value, value))


def main() -> None:
  channel = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not be heard

  def tell(**message):
    channel.write(json.dumps(message) + '\n')
    channel.flush()

  try:
    _prepare()
  except ImportError as error:
    tell(event='failed', reason=str(error))
    return
  tell(event='ready')
  for line in sys.stdin:
    task = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, task['seconds'])
    tell(event='started')
    result = verdict(task['gold'], task['answer'])
    signal.setitimer(signal.ITIMER_REAL, 0)
    tell(event='done', verdict=result)


if __name__ == '__main__':
  main()
