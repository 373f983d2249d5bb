"""The reward `code`: the share of hidden tests that a completion's program passes, or all or none.

Programs run in a sandbox of our own (`rewards.sandbox`) or in a service (`service`). Inputs go in,
what a program printed or returned comes out, and is compared here: a program can neither see what
is expected nor say that it passed.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
import os
import re
import threading
from typing import Any, Literal, Protocol
import urllib.parse
import warnings

from r1jax.rewards import calls, parameters
from r1jax.rewards.code.fences import extract_program
from r1jax.rewards.code.problems import Problem, Test, read_problem
from r1jax.rewards.code.service import Service, ServiceFailure
from r1jax.rewards.completion import Completion
from r1jax.rewards.sandbox import Outcome, Program, Sandbox, layers

_AT_ONCE = 32           # threads that wait for programs
_LONGEST_S = 86_400.0   # of a completion: each of its tests has a limit of its own
_MOST_SECONDS, _MEMORY_MB = 3600, (32, 1 << 20)
_FOR_METHODS = 'from typing import *'    # as where such problems come from
_BY_NAME = '_r1jax_called_by_name'
_MOST_PROBLEMS = 256    # that are kept
_problems: dict[int, tuple[Mapping, Problem]] = {}    # by the identity of their examples
_lock = threading.Lock()
_runners: dict[tuple[float, int, str], 'Runner'] = {}    # by their settings
_told: list[RuntimeError | None] = []    # the failure that a warning has named


class Runner(Protocol):
  """What runs programs."""

  def run(self, program: Program, inputs: Sequence[str | tuple],
          stop_at: Callable[[Sequence[Outcome]], bool] | None = None) -> list[Outcome]:
    """As `Sandbox.run`."""


def _faults(settings: Mapping[str, Any]) -> Iterator[str]:
  """What is wrong with the settings of `code_reward`."""
  if not 0 < settings['timeout_s'] <= _MOST_SECONDS:
    yield f'timeout_s must be above 0 and at most {_MOST_SECONDS}, got {settings["timeout_s"]}'
  if not _MEMORY_MB[0] <= settings['memory_mb'] <= _MEMORY_MB[1]:
    yield (f'memory_mb must be from {_MEMORY_MB[0]} to {_MEMORY_MB[1]}, got '
           f'{settings["memory_mb"]}')
  if settings['max_tests'] < 0:
    yield f'max_tests must be at least 0, got {settings["max_tests"]}'
  if settings['sandbox']:
    url = urllib.parse.urlsplit(settings['sandbox'])
    if url.scheme not in ('http', 'https') or not url.hostname:
      yield ("sandbox must be '' for the one of this machine, or the URL of a service such as "
             f"'http://localhost:8080', got {settings['sandbox']!r}")


def _check_machine(settings: Mapping[str, Any]) -> None:
  """Raises UserError where this machine has to run programs and cannot confine them."""
  if not settings['sandbox']:
    layers()


@parameters.needs(_check_machine)
@parameters.checked(_faults)
@calls.limits(at_once=_AT_ONCE, timeout_s=_LONGEST_S)
def code_reward(
    completion: Completion, example: Mapping, *, score: Literal['all', 'share'] = 'all',
    timeout_s: float = 10.0, memory_mb: int = 512, max_tests: int = 0, sandbox: str = '',
    prompt_opens_think: bool = False,
) -> float | None:
  """1 if the program in a completion passes all tests of its example, else 0; or the share.

  The program is the one that `fences.extract_program` finds; a completion without one gets 0. The
  tests run in order, each in a process of its own. With 'all' the first that fails ends them; with
  'share' the first that takes too long does, and those after it count as failed.

  Args:
    completion: the completion to judge.
    example: its `'tests'` are in a form that `problems.read_problem` knows. Its `'prefix'`, such as
      imports, is put before the program; by default `from typing import *` before one with a
      method that is tested, as these are usually written without it.
    score: 'all' tests must pass, or the 'share' of them that do counts.
    timeout_s: seconds that a test may take.
    memory_mb: MiB of memory that a test may take.
    max_tests: how many tests are run, the first ones; 0 for all.
    sandbox: '' for the sandbox of this machine, else the URL of a service with SandboxFusion's
      protocol.
    prompt_opens_think: whether the prompt ended with `<think>`.

  Returns:
    The reward; None if the example has no tests, or if sandbox or service failed twice.

  Raises:
    UserError: the tests have no known form, or this machine cannot confine programs.
  """
  problem = _problem_of(example)
  if problem is None:
    return None
  source = extract_program(
      completion.text, truncated=completion.truncated, prompt_opens_think=prompt_opens_think)
  if source is None:
    return 0.0
  chosen = problem.tests[:max_tests or None]
  program, inputs = _program(source, problem, chosen, example.get('prefix'))
  passed = _run(_runner(timeout_s, memory_mb, sandbox), program, inputs, chosen,
                stop_at_failure=score == 'all')
  if passed is None:
    return None
  return float(sum(passed) == len(chosen)) if score == 'all' else sum(passed) / len(chosen)


def _problem_of(example: Mapping) -> Problem | None:
  """The problem of an example, read once for a group; None if it has no tests."""
  if example.get('tests') is None:
    return None
  known = _problems.get(id(example))
  if known is None or known[0] is not example:
    if len(_problems) >= _MOST_PROBLEMS:
      _problems.clear()
    known = example, read_problem(example['tests'], example)
    _problems[id(example)] = known
  return known[1]


def _runner(timeout_s: float, memory_mb: int, url: str) -> Runner:
  """What runs programs with these settings, one for all threads."""
  with _lock:
    if (timeout_s, memory_mb, url) not in _runners:
      _runners[timeout_s, memory_mb, url] = (
          Service(url, timeout_s=timeout_s, memory_mb=memory_mb) if url else
          Sandbox(min(_AT_ONCE, os.cpu_count() or 1), timeout_s, memory_mb << 20))
    return _runners[timeout_s, memory_mb, url]


def _program(
    source: str, problem: Problem, tests: Sequence[Test], prefix: str | None,
) -> tuple[Program, list[str | tuple]]:
  """What is run, and its inputs; arguments by name are handed over by a function of our own."""
  function = problem.function and _function_of(source, problem.function)
  if prefix is None and function and '.' in function:
    prefix = _FOR_METHODS
  source = f'{prefix}\n{source}' if prefix else source
  if not function or not any(test.named for test in tests):
    return Program(source, function), [test.given for test in tests]
  owner, _, name = function.rpartition('.')
  called = f'{owner}().{name}' if owner else name
  source += f'\n\ndef {_BY_NAME}(given, named):\n  return {called}(*given, **named)\n'
  return Program(source, _BY_NAME), [(test.given, dict(test.named)) for test in tests]


def _run(
    runner: Runner, program: Program, inputs: Sequence[str | tuple], tests: Sequence[Test], *,
    stop_at_failure: bool,
) -> list[bool] | None:
  """Whether each test that was run has passed; None if the sandbox failed twice, or the service."""
  failure: RuntimeError | None = None
  for _ in range(2):
    passed: list[bool] = []

    def ends(outcomes: Sequence[Outcome], passed: list[bool] = passed) -> bool:
      last = outcomes[-1]
      passed.append(last.kind == 'finished' and tests[len(passed)].passed(last.value))
      return not passed[-1] if stop_at_failure else last.kind == 'timeout'
    try:
      runner.run(program, inputs, ends)
      return passed
    except ServiceFailure as error:    # it has been asked again
      failure = error
      break
    except RuntimeError as error:
      failure = error
  if not _told:
    _told.append(failure)
    warnings.warn(
        f'A program could not be run ({failure}), so its completion is not judged. Such '
        'completions are counted in rewards/unjudged/code.', stacklevel=2)
  return None


def _function_of(source: str, function: str) -> str:
  """The function as a program has it: by itself, or as a method of its `class Solution`."""
  name = function.rpartition('.')[2]
  by_itself = re.search(rf'^(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b', source, re.MULTILINE)
  in_class = re.search(rf'^class[ \t]+{function.rpartition(".")[0] or "Solution"}\b', source,
                       re.MULTILINE)
  if '.' in function:
    return name if by_itself and not in_class else function
  return f'Solution.{name}' if in_class and not by_itself and re.search(
      rf'^[ \t]+def[ \t]+{re.escape(name)}\b', source, re.MULTILINE) else function
