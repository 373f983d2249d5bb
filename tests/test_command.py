"""What is said of wrong flags, and of errors that end a command."""
import importlib
import json
import sys

from absl import flags
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import pytest
import runs

from r1jax import command, metrics, pipeline
from r1jax.errors import UserError
from r1jax.runtime.storage import Path

TINY = runs.ROOT / 'experiments' / 'r1_zero.py:tiny,debug'
ZERO = '--config.stages.zero'


@pytest.mark.filterwarnings('ignore:the load_module')    # ml_collections reads files by it
@pytest.mark.parametrize('override, sentence', [
    (f'{ZERO}.stepz=2', f"{ZERO}.stepz=2 is not a field of the config: did you mean 'steps'?"),
    (f'{ZERO}.sampling.temprature=1', "is not a field of the config: did you mean 'temperature'?"),
    (f'{ZERO}.evaluations.other=1', f'{ZERO}.evaluations.other=1 is not a field of the config'),
    (f'{ZERO}.steps=two', f'{ZERO}.steps=two has the wrong type: it must be a whole number'),
    (f'{ZERO}.sampling.top_p=all',
     f'{ZERO}.sampling.top_p=all has the wrong type: it must be a number'),
    (f'{ZERO}.model.remat=perhaps', 'remat=perhaps has the wrong type: it must be true or false'),
    ('--config.stagez=1', "--config.stagez=1 is not a field of the config: did you mean 'stages'?"),
])
def test_a_wrong_override_is_told_as_a_person_would(override, sentence, monkeypatch):
  values, arguments = flags.FlagValues(), ['main', f'--config={TINY}', override]
  config_flags.DEFINE_config_file('config', flag_values=values)
  monkeypatch.setattr(sys, 'argv', arguments)
  with pytest.raises(Exception) as caught:
    values(arguments)
    getattr(values.config, 'stages', None)
  assert sentence in command.flag_sentence(caught.value, ())


FILES = {
    'return x[': "line 2: '[' was never closed",
    'return undefined': "line 2: NameError: name 'undefined' is not defined",
    'return [].nothing': "line 2: AttributeError: 'list' object has no attribute 'nothing'",
    'return {}["key"]': "line 2: KeyError: 'key'",
    'return None': 'must return a ConfigDict with `stages`, got None',
    'return [1]': 'must return a ConfigDict with `stages`, got list',
    'raise ValueError("mine: use b")': 'line 2: ValueError: mine: use b (',
    'return int("x")': "line 2: ValueError: invalid literal for int() with base 10: 'x'",
    'from r1jax.errors import UserError; raise UserError("use b")': 'r1jax: use b (',
}


@pytest.mark.parametrize('line', FILES)
def test_a_fault_in_an_experiment_file_is_told_with_its_line(line, tmp_path, monkeypatch, capsys):
  path = tmp_path / 'mine.py'
  path.write_text(f'def get_config(argument=""):\n  {line}\n')
  values = flags.FlagValues()
  flag = config_flags.DEFINE_config_file('config', flag_values=values)
  flags.mark_flag_as_required('config', flag_values=values)
  monkeypatch.setattr(flags, 'FLAGS', values)
  with pytest.raises(SystemExit) as ended:
    command.flags_parser(flag, '', ())(['main', f'--config={path}'])
  told = capsys.readouterr().err.splitlines()[-1]
  assert ended.value.code == 1 and FILES[line] in told
  assert ('line 2' in told) == (f'{path}, line 2: ' in told)


def test_what_goes_wrong_with_a_file_or_ends_in_a_note_is_one_sentence():
  error = OSError(28, 'No space left on device; free some', '/full/part-1.jsonl')
  assert command.sentence(error) == '/full/part-1.jsonl: No space left on device; free some'
  error = ValueError('It is wrong: fix it.')
  error.add_note('All is saved.')
  assert command.sentence(error) == 'It is wrong: fix it. All is saved.'


HOSTILE = 'a\x1b]0;title\x07\x9b2J\r\u202e\u2066b\x00\ud800'
ESCAPED = r'a\x1b]0;title\x07\x9b2J\r\u202e\u2066b\x00\ud800'


def test_what_strangers_wrote_reaches_no_terminal(capsys):
  command.print_error(f'the key {HOSTILE} is unknown')
  pipeline._say(HOSTILE)
  metrics.print_table([{'model': HOSTILE, HOSTILE: 1.0}], HOSTILE)
  said = capsys.readouterr()
  assert said.err.startswith(f'r1jax: the key {ESCAPED} is unknown (')
  assert said.out.startswith(f'{ESCAPED}\n')
  assert said.out.count(r'\x1b]0;title\x07') == 4
  assert not {'\x1b', '\x07', '\x9b', '\r', '\u202e', '\u2066', '\x00'} & set(said.out + said.err)


def raise_device_memory():
  jnp.zeros(1 << 44).block_until_ready()


def raise_host_memory():
  np.ones(1 << 46)


def raise_wrapped_memory():
  try:
    raise_device_memory()
  except Exception as error:
    raise UserError('the checkpoint cannot be read') from error


@pytest.mark.parametrize('fault, words', [
    (raise_device_memory, 'a device has too little memory (Out of memory allocating'),
    (raise_wrapped_memory, 'a device has too little memory (Out of memory allocating'),
    (raise_host_memory, 'this host has too little memory (Unable to allocate 512. TiB'),
    (lambda: json.loads('{'), ''),
    (lambda: [].pop(), ''),
    (lambda: importlib.import_module('r1jax.nothing'), ''),
    (lambda: importlib.import_module('nothing'), "No module named 'nothing'"),
    (lambda: Path('nosuch://bucket'), 'nosuch://bucket cannot be opened (Protocol not known'),
    (lambda: open('/nothing'), '/nothing: No such file or directory')])
def test_a_lack_of_memory_is_a_sentence_and_a_bug_is_not(fault, words, capsys):
  ends = SystemExit if words else Exception
  with pytest.raises(ends), command.errors_in_a_sentence():
    fault()
  (line,) = capsys.readouterr().err.splitlines() or ['']
  assert line.startswith(f'r1jax: {words}' if words else '')


LIBRARIES = """
import logging, sys, absl.logging, r1jax.command
absl.logging.use_absl_handler()    # as app.run does
r1jax.command.quieten_libraries()
def log(level, path, words):
  logging.getLogger('absl').handle(logging.LogRecord(
      'absl', level, f'/{path}/future.py', 1, words, (), None))
log(logging.ERROR, 'orbax', '[process=0] _SignalingThread.run() raised an exception: full')
log(logging.ERROR, 'orbax', 'Failed to run 4 Handler Commit operations in background save thread')
log(logging.WARNING, 'orbax', 'this option is deprecated')
log(logging.ERROR, 'grain', 'a worker raised an exception')
absl.logging.info('a note')
absl.logging.warning('no GPU was found')
class Torn:
  def __init__(self, words): self.words = words
  def __del__(self): raise RuntimeError(self.words)
Torn('Event loop is closed')
Torn('a bug in a finaliser')
sys.exit('the sentence')
"""


def test_libraries_leave_the_complaint_to_the_last_sentence_and_say_all_else():
  process = runs.start('-c', LIBRARIES, compiled='')
  _, said = process.communicate()
  shown = [line.partition('] ')[2] or line for line in said.splitlines()]
  assert shown[0].startswith('WARNING: Logging before flag parsing')    # of absl
  assert shown[1:4] == ['this option is deprecated', 'a worker raised an exception',
                       'no GPU was found']
  assert shown[-2:] == ['RuntimeError: a bug in a finaliser', 'the sentence']
  assert 'Event loop' not in said and 'a note' not in said
