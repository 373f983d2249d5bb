"""Renders chat templates, which are programs of strangers, in a process that may be killed.

    python -m r1jax.prompting.chat_worker

A task is a line of JSON on standard input, its result one on standard output: {'text'}, or
{'fault'} if the template fails. A task that takes too much processor time kills the process.
Templates run in jinja2's sandbox, with what `transformers` offers to them.
"""
import contextlib
import datetime
import functools
import json
import os
import random
import resource
import signal
import sys
from typing import Any

import jinja2
from jinja2 import nodes
import jinja2.ext
import jinja2.sandbox

MEMORY = 1024 ** 3      # bytes of the process
CHARACTERS = 1_000_000  # of a text, besides 10 times those of the messages


class _Generation(jinja2.ext.Extension):
  """`{% generation %}...{% endgeneration %}` marks what an assistant writes; it is just shown."""
  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body, lineno=line)


class _Dict:
  """`dict` without attributes other than `fromkeys`."""

  def __call__(self, *args, **kwargs):
    return dict(*args, **kwargs)

  def fromkeys(self, *args):
    return dict.fromkeys(*args)


def _raise_exception(message):
  raise jinja2.TemplateError(message)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                    sort_keys=sort_keys)


def _environment() -> jinja2.Environment:
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, 'jinja2.ext.loopcontrols'])
  environment.filters['tojson'] = _to_json
  environment.globals |= {'raise_exception': _raise_exception, 'dict': _Dict()}
  return environment


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
  return _environment().from_string(template)


@functools.lru_cache(maxsize=8)
def _names(template: str) -> set[str]:
  return {value for _, kind, value in _environment().lex(template) if kind == 'name'}


def _render(task: dict[str, Any]) -> dict[str, str]:
  template = task['template']
  unknown = sorted(set(task['options']) - _names(template))
  if unknown:
    return {'fault': f'it does not use the option {unknown[0]!r} of prompt.options'}
  day = datetime.datetime.fromisoformat(task['date'])
  limit = CHARACTERS + 10 * len(json.dumps(task['variables']))
  random.seed(0)    # templates may draw from lists; prompts must stay the same
  size, parts = 0, []
  for part in _compile(template).generate(
      **task['defaults'], **task['variables'], **task['options'], strftime_now=day.strftime):
    size += len(part)
    if size > limit:
      return {'fault': f'it writes more than {limit:,} characters'}
    parts.append(part)
  return {'text': ''.join(parts)}


def _answer(line: bytes) -> dict[str, str]:
  task = json.loads(line)
  signal.setitimer(signal.ITIMER_PROF, task['seconds'])    # its signal ends the process
  try:
    return _render(task)
  except MemoryError:
    return {'fault': f'it takes more than {MEMORY:,} bytes of memory'}
  except RecursionError:
    return {'fault': 'it is nested too deeply'}
  except Exception as error:    # a template may raise anything
    return {'fault': str(error) or type(error).__name__}
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
  """Answers tasks until standard input ends."""
  with contextlib.suppress(ValueError, OSError):    # not every system can limit it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  answers = os.fdopen(os.dup(1), 'wb', buffering=0)
  for line in sys.stdin.buffer:
    answers.write(json.dumps(_answer(line)).encode() + b'\n')


if __name__ == '__main__':
  main()
