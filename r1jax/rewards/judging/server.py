"""A model on a server with OpenAI's interface, asked over HTTP with the standard library alone.

The key comes from the environment, as R1JAX_JUDGE_KEY, or as OPENAI_API_KEY where it does not cross
a network in the clear. It is in no message. Redirects are not followed, proxies are those of the
environment, and of an answer at most a megabyte is read.
"""
from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import http.client
import json
import os
import random
import threading
import time
from typing import Any
import urllib.error
import urllib.parse
import urllib.request

from r1jax.errors import UserError, printable
from r1jax.rewards.judging.judge import Reply

KEY, GENERAL_KEY = 'R1JAX_JUDGE_KEY', 'OPENAI_API_KEY'
_LARGEST = 1024 ** 2                 # bytes of an answer
_PART = 64 * 1024
_TRANSIENT = 408, 409, 425, 429      # besides all from 500 on
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_LONGEST_SHOWN = 200                 # characters of what a server says of a fault


class Fault(Exception):
  """A request was not answered as it should be; the text says why.

  Attributes:
    passing: whether another try may help.
    status: of the server's answer; 0 without one, or where it is as it should be.
    retry_after_s: seconds that the server asks to wait.
  """

  def __init__(
      self, text: str, *, passing: bool = False, status: int = 0, retry_after_s: float = 0.0):
    super().__init__(text)
    self.passing, self.status, self.retry_after_s = passing, status, retry_after_s


@dataclasses.dataclass(frozen=True)
class Server:
  """A model on a server.

  Attributes:
    url: such as 'http://localhost:8000/v1'.
    model: the server's name of the model.
    temperature: of its replies.
    max_new_tokens: of a reply.
    options: more fields of each request.
    seed: of the run.
    timeout_s: seconds that one try of a request may take.
    first_wait_s: seconds before the second try, doubled before each further one.
    stopped: set when nothing is to be waited for any more.
  """
  url: str
  model: str
  temperature: float = 0.0
  max_new_tokens: int = 256
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0
  timeout_s: float = 60.0
  first_wait_s: float = _FIRST_WAIT_S
  stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

  def request(self, prompt: str, vote: int) -> dict[str, Any]:
    """The fields of a request; with the url they are all that a reply depends on."""
    fields = {'model': self.model, 'messages': [{'role': 'user', 'content': prompt}],
              'temperature': self.temperature, 'max_tokens': self.max_new_tokens}
    if self.temperature:
      digest = hashlib.sha256(f'{self.seed} {vote} {prompt}'.encode()).digest()
      fields['seed'] = int.from_bytes(digest[:4]) >> 1
    return fields | dict(self.options)

  def reply(self, request: Mapping[str, Any], deadline: float) -> Reply:
    """What the model replies; tries again after passing faults until the deadline.

    Args:
      request: of the method of that name.
      deadline: by `time.monotonic`.

    Raises:
      Fault: it was not answered.
      UserError: as `key`.
    """
    content = json.dumps(request).encode()
    for attempt in range(1 << 30):
      try:
        return _read_reply(self._send('/chat/completions', content, deadline))
      except Fault as fault:
        if not fault.passing:
          raise
        longest = min(_LONGEST_WAIT_S, self.first_wait_s * 2 ** min(attempt, 16))
        wait = max(fault.retry_after_s, longest * random.uniform(0.5, 1.0))
        if time.monotonic() + wait >= deadline or self.stopped.wait(wait):
          raise
    raise AssertionError('not reached')

  def check(self, name: str) -> str:
    """Refuses a server that is not there, or that refuses the key; returns a warning, or ''.

    Args:
      name: of the field with the url, for messages.

    Raises:
      UserError: no server answers, or not with this key.
    """
    try:
      content = self._send('/models', None, time.monotonic() + self.timeout_s)
    except Fault as fault:
      if fault.status in (401, 403):
        raise UserError(f'{name}={self.url!r} refuses the key ({fault}): set the environment '
                        f'variable {KEY}') from None
      if fault.status in (404, 405, 501):    # it does not list its models
        return ''
      raise UserError(f'{name}={self.url!r} does not answer ({fault}): start the server, or '
                      'correct the url') from None
    names = _model_names(content)
    if names and self.model not in names:
      return printable(f'{name}={self.url!r} does not list the model {self.model!r}, but '
                       f'{", ".join(map(repr, names[:5]))}')
    return ''

  def _send(self, path: str, content: bytes | None, deadline: float) -> bytes:
    """The body of the server's answer."""
    headers = {'Accept': 'application/json', 'Content-Type': 'application/json',
               'User-Agent': 'r1jax'}
    secret = key(self.url)
    if secret:
      headers['Authorization'] = f'Bearer {secret}'
    timeout = min(self.timeout_s, deadline - time.monotonic())
    if timeout <= 0 or self.stopped.is_set():
      raise Fault('the time for all requests was over')
    request = urllib.request.Request(
        self.url.rstrip('/') + path, content, headers, method='POST' if content else 'GET')
    end = time.monotonic() + timeout
    try:
      with _opener().open(request, timeout=timeout) as answer:
        return _read(answer.read1, end)
    except urllib.error.HTTPError as error:
      with error:
        raise _status_fault(error, end, secret) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
      reason = getattr(error, 'reason', error)
      shown = f'{type(reason).__name__}: {reason}' if str(reason) else type(reason).__name__
      raise Fault(_shown(shown, secret), passing=True) from None


def key(url: str) -> str:
  """The key for a server: that of the environment; '' for none.

  Raises:
    UserError: it cannot be sent.
  """
  name = KEY
  found = os.environ.get(KEY, '').strip()
  if not found:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == 'https' or parts.hostname in ('localhost', '127.0.0.1', '::1'):
      name, found = GENERAL_KEY, os.environ.get(GENERAL_KEY, '').strip()
  if not (found.isascii() and found.isprintable()):
    raise UserError(f'the environment variable {name} must hold printable ASCII characters only')
  return found


def _opener() -> urllib.request.OpenerDirector:
  """Opens http and https alone, over the environment's proxies, without redirects."""
  opener = urllib.request.OpenerDirector()
  for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(),
                  urllib.request.HTTPSHandler(), urllib.request.UnknownHandler(),
                  urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()):
    opener.add_handler(handler)
  return opener


def _read(read: Callable[[int], bytes], end: float) -> bytes:
  """All that is read until nothing comes.

  Raises:
    Fault: it is too much.
    TimeoutError: it is not over at `end`.
  """
  parts, size = [], 0
  while part := read(_PART):
    parts.append(part)
    size += len(part)
    if size > _LARGEST:
      raise Fault(f'its answer has more than {_LARGEST:,} bytes')
    if time.monotonic() > end:
      raise TimeoutError('its answer takes too long')
  return b''.join(parts)


def _status_fault(error: urllib.error.HTTPError, end: float, secret: str) -> Fault:
  try:
    body = error.read(_LONGEST_SHOWN).decode('utf-8', 'replace') if time.monotonic() < end else ''
  except (OSError, http.client.HTTPException):
    body = ''
  said = f': {_shown(body, secret)}' if body.strip() else ''
  try:
    wait = min(86_400.0, max(0.0, float(error.headers.get('Retry-After', '0'))))
  except ValueError:    # a date
    wait = 0.0
  return Fault(f'status {error.code}{said}', status=error.code, retry_after_s=wait,
               passing=error.code in _TRANSIENT or error.code >= 500)


def _shown(text: str, secret: str) -> str:
  """What a server says, in one short line without the key."""
  text = ' '.join(printable(text).split())
  return (text.replace(secret, '***') if secret else text)[:_LONGEST_SHOWN]


def _read_reply(content: bytes) -> Reply:
  """The reply in the body of an answer; raises Fault where there is none."""
  try:
    choice = json.loads(content)['choices'][0]
    text, reason = choice['message']['content'], choice.get('finish_reason')
  except (ValueError, RecursionError):
    raise Fault('its answer is not JSON') from None
  except (LookupError, TypeError, AttributeError):
    raise Fault('its answer has no choices[0].message.content') from None
  if not isinstance(text, str):
    raise Fault('its choices[0].message.content is not a text')
  return Reply(text, truncated=reason == 'length')


def _model_names(content: bytes) -> list[str]:
  """The models that a server lists; none if it has another form."""
  try:
    return [model['id'] for model in json.loads(content)['data'] if isinstance(model['id'], str)]
  except (ValueError, LookupError, TypeError, RecursionError):
    return []
