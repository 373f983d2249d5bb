"""Messages between hosts hold plain data, and cannot make a host run anything."""
import json
import pickle

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import Rewards
from r1jax.runtime import hosts, messages
from r1jax.stages.stage import FolderState, StopRequested

SECRET = b'of this run'


@pytest.mark.parametrize('value', [
    None, True, -1, 2 ** 80, 0.1, float('-inf'), 'é\ud800\n\x1b', b'\0\xff', [1, [2, ()]],
    (1, ('x', None)), {'a': {1: 2.5}, ('t', 1): []}, {'$': ['tuple', []]},
    [Completion('\ud800', 3, False)], FolderState('differs', ' why', 'id')])
def test_values_arrive_as_they_were_sent(value):
  found = messages.decode(messages.encode(value))
  assert found == value and type(found) is type(value)


def test_arrays_arrive_bit_by_bit():
  sent = Rewards(np.array([np.nan, 1e300, -0.0]), {'a': np.array([0.1])}, {'timeouts': 1})
  found = messages.decode(messages.encode(sent))
  assert found.total.tobytes() == sent.total.tobytes() and found.counters == sent.counters
  found.total[0] = 1.0    # not read-only
  for value in (np.float32(0.1), np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros((0, 3))):
    found = messages.decode(messages.encode(value))
    assert type(found) is type(value) and found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize('error', [
    UserError('a sentence'), StopRequested('stopped'), FileNotFoundError(2, 'not there', '/x'),
    ZeroDivisionError('by zero'), KeyError('name')])
def test_errors_keep_class_words_and_notes(error):
  error.add_note('of stage x')
  found = messages.decode(messages.encode(error))
  assert type(found) is type(error) and str(found) == str(error)
  assert found.__notes__ == ['of stage x']


def test_an_error_of_another_library_is_told_in_words():
  try:
    json.loads('{')
  except ValueError as error:
    found = messages.decode(messages.encode(error))
  assert type(found) is RuntimeError and str(found).startswith('JSONDecodeError: Expecting')


def test_what_is_not_plain_is_not_sent():
  for value in (object(), print, {1}, np.array([object()]), range(3)):
    with pytest.raises(TypeError, match='cannot be sent'):
      messages.encode(value)


class Planted:
  """What a pickle would run."""

  def __reduce__(self):
    return print, ('run',)


def record(name, **fields):
  return json.dumps({'$': ['record', name, fields]}).encode()


@pytest.mark.parametrize('content', [
    pickle.dumps(Planted()), b'', b'\xff', b'[' * 9000,
    b'{"r1jax": 1}', b'{"$": 1}', b'{"$": []}',
    b'{"$": ["nothing"]}', b'{"$": [["tuple"]]}', b'{"$": ["tuple"]}',
    b'{"$": ["dict", [[[], 1]]]}',
    b'{"$": ["array", "O", [1], "AAAAAAAAAAA=", false]}', b'{"$": ["bytes", "?"]}',
    b'{"$": ["array", "<f8", [1000000000000], "", false]}', b'{"$": ["array", 3, 4, 5, 6]}',
    record('subprocess:Popen', args='id'), record('r1jax.command:sys'), record('r1jax.nowhere:X'),
    record('r1jax.runtime.storage:Path', location='/etc/passwd'),
    record('r1jax.runtime.messages:json.decoder'), record(3),
    record('r1jax.rewards.completion:Completion', text='x', more=1),
    b'1' * 5000], ids=repr)
def test_foreign_bytes_are_refused_in_a_sentence(content, capsys):
  with pytest.raises(messages.MessageError, match='not one of r1jax'):
    messages.decode(content)
  assert not capsys.readouterr().out


def test_an_error_that_is_no_error_becomes_words():
  content = json.dumps({'$': ['error', 'builtins:exec', ['print(1)'], 'said', []]}).encode()
  assert str(messages.decode(content)) == 'exec: said'


def test_hosts_accept_only_what_is_signed_for_this_place(monkeypatch):
  monkeypatch.setattr(hosts, '_secret', SECRET)
  content = messages.encode({'a': 1})
  sent = hosts._signature(content, 3, 1) + content
  assert hosts._read(sent, 3, 1) == {'a': 1}
  for wrong, number, host in ((sent, 4, 1), (sent, 3, 0), (sent[:-1], 3, 1), (b'', 3, 1),
                              (sent + b' ', 3, 1), (content, 3, 1)):
    with pytest.raises(messages.MessageError, match='not signed with the secret'):
      hosts._read(wrong, number, host)
  monkeypatch.setattr(hosts, '_secret', b'of another run')
  with pytest.raises(messages.MessageError):
    hosts._read(sent, 3, 1)
