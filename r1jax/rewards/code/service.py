"""A service that runs programs in place of the sandbox of this machine.

It speaks SandboxFusion's protocol (https://bytedance.github.io/SandboxFusion): `POST /run_code` of
source and standard input, which answers with what was printed. A function is called by a few lines
around the program, which print what it returned as plain data. What is expected is never sent.
"""
from collections.abc import Callable, Mapping, Sequence
import http.client
import json
import pathlib
import time
from typing import Any
import urllib.error
import urllib.parse
import urllib.request

from r1jax.rewards.sandbox import Outcome, Program, values

OUTPUT_BYTES = 1 << 20
_MOST_BYTES = 16 << 20    # of an answer
_PAUSES_S = (1.0, 3.0)    # before another try
_GRACE_S = 30.0           # a service's own time, and its queue's
_MESSAGE = 200

_CALL = '''\
import sys as _sys
_printed, _sys.stdout = _sys.stdout, _sys.stderr
_values = {{'__name__': 'values'}}
exec({values!r}, _values)
_program = {{'__name__': 'program'}}
_arguments = _values['decode']({arguments!r})
exec(compile({source!r}, 'program.py', 'exec'), _program)
_owner, _, _name = {function!r}.rpartition('.')
_called = getattr(_program[_owner](), _name) if _owner else _program[_name]
_value = _values['encode'](_called(*_arguments), {most})
_printed.buffer.write(b'\\n' + _value)
_printed.flush()
'''


class ServiceFailure(RuntimeError):
  """A service did not run a program, and says nothing of it."""


class Service:
  """Runs programs by a service, as `rewards.sandbox.Sandbox` does; threads may share it."""

  def __init__(self, url: str, *, timeout_s: float, memory_mb: int):
    """Connects to nothing yet.

    Args:
      url: of the service, with or without `/run_code` at its end.
      timeout_s: seconds that a run may take.
      memory_mb: MiB that a run may allocate.
    """
    self._url = url if url.rstrip('/').endswith('/run_code') else f'{url.rstrip("/")}/run_code'
    self._timeout_s, self._memory_mb = timeout_s, memory_mb

  def run(self, program: Program, inputs: Sequence[str | tuple],
          stop_at: Callable[[Sequence[Outcome]], bool] | None = None) -> list[Outcome]:
    """As `Sandbox.run`.

    Raises:
      ServiceFailure: the service cannot be reached, or fails again and again.
    """
    outcomes: list[Outcome] = []
    for given in inputs:
      outcomes.append(self._run(program, given))
      if stop_at is not None and stop_at(outcomes):
        break
    return outcomes

  def _run(self, program: Program, given: str | tuple) -> Outcome:
    code, stdin = program.source, given if isinstance(given, str) else ''
    if program.function is not None:
      code = _CALL.format(
          values=pathlib.Path(values.__file__).read_text(), arguments=values.encode(given),
          source=program.source, function=program.function, most=OUTPUT_BYTES)
    body = json.dumps({
        'code': code, 'language': 'python', 'stdin': stdin, 'run_timeout': self._timeout_s,
        'compile_timeout': self._timeout_s, 'memory_limit_MB': self._memory_mb, 'files': {},
        'fetch_files': []}).encode()
    for pause in (*_PAUSES_S, None):
      try:
        return _outcome(self._post(body), program.function is not None)
      except ServiceFailure:
        if pause is None:
          raise
        time.sleep(pause)
    raise AssertionError

  def _post(self, body: bytes) -> Mapping[str, Any]:
    """The service's answer to one request."""
    request = urllib.request.Request(
        self._url, body, {'Content-Type': 'application/json', 'Accept': 'application/json'})
    try:
      with urllib.request.urlopen(request, timeout=self._timeout_s + _GRACE_S) as answer:
        text = answer.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
      raise ServiceFailure(f'{self._url} answered {error.code} {error.reason}') from error
    except (OSError, http.client.HTTPException) as error:
      raise ServiceFailure(f'{self._url} cannot be reached: {error}') from error
    try:
      if len(text) > _MOST_BYTES:
        raise ValueError(f'more than {_MOST_BYTES} bytes')
      found = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise ServiceFailure(f'{self._url} answered no JSON: {error}') from error
    if not isinstance(found, dict):
      raise ServiceFailure(f'{self._url} answered {type(found).__name__} instead of an object')
    return found


def _outcome(answer: Mapping[str, Any], is_call: bool) -> Outcome:
  """What a run came to, by a service's answer."""
  run = answer.get('run_result')
  if answer.get('status') not in ('Success', 'Failed') or not isinstance(run, dict):
    raise ServiceFailure(
        f'the service failed: {answer.get("status")!r}, {str(answer.get("message"))[:_MESSAGE]}')
  if run.get('status') == 'TimeLimitExceeded':
    return Outcome('timeout')
  printed = run.get('stdout') or ''
  if run.get('status') != 'Finished' or not isinstance(printed, str):
    raise ServiceFailure(f'the service could not run a program: {run.get("status")!r}')
  if run.get('return_code') != 0:
    return Outcome('raised', message=str(run.get('stderr') or '')[-_MESSAGE:])
  if not is_call:
    return Outcome('output') if len(printed) > OUTPUT_BYTES else Outcome('finished', printed)
  try:
    text = printed.rpartition('\n')[2].encode('utf-8', 'surrogatepass')
    return Outcome('finished', values.decode(text))
  except values.NotPlain:
    return Outcome('crashed')
