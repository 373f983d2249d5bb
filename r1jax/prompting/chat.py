"""Chat templates, rendered by a worker process that is limited in time and memory."""
import atexit
from collections.abc import Mapping, Sequence
import functools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from r1jax.errors import UserError

# The day that templates see if they ask for it (`strftime_now`), so that prompts stay the same. It
# is that of DeepSeek-R1's release.
DATE = '2025-01-20'

# Reasoning is what r1jax trains, so templates with a switch for it get it switched on: Qwen3 and
# SmolLM3 call it enable_thinking, DeepSeek-V3.1 and Granite call it thinking.
DEFAULT_OPTIONS = {'enable_thinking': True, 'thinking': True}

# What a template gets besides its options.
RESERVED = ('messages', 'add_generation_prompt', 'tools', 'documents', 'strftime_now')

_COMMAND = (sys.executable, '-P', '-m', 'r1jax.prompting.chat_worker')
_SECONDS = 5.0           # of processor time that a text may take
_WAIT_SECONDS = 300.0    # by the clock, on a machine that is busy
_LONGEST_FAULT = 200     # characters


def render(
    template: str, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool,
    special_tokens: Mapping[str, str], options: Mapping[str, Any], date: str, source: str,
) -> str:
  """The text of a chat.

  Args:
    template: in Jinja.
    messages: as {'role': 'user', 'content': 'Hello'}.
    add_generation_prompt: end with the text that opens the assistant's turn.
    special_tokens: texts by name, such as 'bos_token'.
    options: the template's own, such as {'enable_thinking': False}, besides `DEFAULT_OPTIONS`.
    date: the day that it sees, as '2025-01-20'.
    source: where the template came from, for messages.

  Raises:
    UserError: the template fails, or takes too much time or memory, or does not use an option or
      the system message.
  """
  task = {'template': template, 'options': dict(options), 'date': date,
          'seconds': _SECONDS,
          'defaults': {name: value for name, value in DEFAULT_OPTIONS.items()
                       if name not in options},
          'variables': {
              **special_tokens, 'messages': [dict(message) for message in messages],
              'tools': None, 'documents': None, 'add_generation_prompt': add_generation_prompt}}
  try:
    answer = _ask(json.dumps(task).encode() + b'\n')
  except _DiedError as died:
    answer = {'fault': str(died)}
  fault = answer.get('fault')
  if fault is None and not _is_utf8(answer['text']):
    fault = 'it writes what is not UTF-8'
  if fault is None:
    for message in messages:
      if message['role'] == 'system' and message['content'].strip() not in answer['text']:
        fault = 'it does not show the system message'
  if fault is not None:
    raise UserError(f'The chat template of {source} fails ({_shown(fault)}): fix it or use another '
                    'prompt template.')
  return answer['text']


def _is_utf8(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def _shown(fault: str) -> str:
  """A template's message without line ends and terminal escapes, cut if it is long."""
  text = ''.join(letter if letter.isprintable() else ' ' for letter in fault)
  return text if len(text) <= _LONGEST_FAULT else f'{text[:_LONGEST_FAULT]}...'


class _DiedError(Exception):
  """The process ended instead of answering."""


class _Worker:
  """The process; any exception in `ask` kills it."""

  def __init__(self):
    path = [str(pathlib.Path(__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
    # A session of its own, so that a Ctrl-C meant for the trainer does not end it.
    self._process = subprocess.Popen(
        _COMMAND, bufsize=0, start_new_session=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, path))})
    self._pid = os.getpid()

  @property
  def alive(self) -> bool:
    """Whether it runs, and belongs to this process and not to one that this was forked from."""
    return self._pid == os.getpid() and self._process.poll() is None

  def ask(self, task: bytes) -> dict[str, str]:
    try:
      assert self._process.stdin is not None
      self._process.stdin.write(task)
      return json.loads(self._read_line())
    except BaseException:
      self.kill()
      raise

  def _read_line(self) -> bytes:
    """A line of the process, or the fault that ended it."""
    assert self._process.stdout is not None
    poll = select.poll()
    poll.register(self._process.stdout, select.POLLIN)
    deadline, line = time.monotonic() + _WAIT_SECONDS, b''
    while not line.endswith(b'\n'):
      left = deadline - time.monotonic()
      if left <= 0 or not poll.poll(1000 * left):
        raise TimeoutError
      block = os.read(self._process.stdout.fileno(), 1 << 16)
      if not block:
        raise EOFError
      line += block
    return line

  def kill(self) -> int:
    """Ends the process and returns its exit status."""
    if self._pid == os.getpid():
      self._process.kill()
    for pipe in (self._process.stdin, self._process.stdout):
      if pipe is not None:
        pipe.close()
    return self._process.wait() if self._pid == os.getpid() else 0


_lock = threading.Lock()
_workers: list[_Worker] = []    # at most one


@functools.lru_cache(maxsize=64)    # the end of a turn is asked for again and again
def _ask(task: bytes) -> dict[str, str]:
  """The worker's answer; raises `_DiedError` if it ends without one."""
  with _lock:
    if _workers and not _workers[0].alive:
      _workers.clear()
    if not _workers:
      _workers.append(_Worker())
    try:
      return _workers[0].ask(task)
    except (EOFError, TimeoutError, OSError):
      status = _workers.pop().kill()
      raise _DiedError(
          f'it takes more than {_SECONDS:g} s: it may loop forever' if status == -signal.SIGPROF
          else f'its process ended with status {status}, which may be for its memory') from None


@atexit.register
def _end() -> None:
  for worker in _workers:
    worker.kill()
