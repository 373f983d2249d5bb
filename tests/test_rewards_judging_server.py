"""Servers: what is sent, what is tried again and how long, and that nothing else comes in."""
import threading
import time

from judge_server import reply, server  # noqa: F401 (a fixture)
import pytest
import runs

from r1jax.errors import UserError
from r1jax.rewards.judging.judge import Reply
from r1jax.rewards.judging.server import Fault, Server, key

SECRET = 'sk-very-secret'


def ask(at, seconds=5.0, **settings):
  settings = dict(model='m', first_wait_s=0.001, timeout_s=5.0) | settings
  made = Server(at.url, **settings)
  return made.reply(made.request('Is it?', 0), time.monotonic() + seconds)


def test_a_request_has_openais_fields_and_a_seed_that_tells_votes_apart():
  made = Server('http://x/v1', 'm', temperature=0.5, max_new_tokens=9, options={'top_p': 0.9})
  first, second = made.request('Is it?', 0), made.request('Is it?', 1)
  assert first.pop('seed') != second.pop('seed')
  assert first == second == dict(
      model='m', messages=[dict(role='user', content='Is it?')], temperature=0.5, max_tokens=9,
      top_p=0.9)
  assert 'seed' not in Server('http://x/v1', 'm').request('Is it?', 0)


def test_a_reply_is_read_and_a_cut_one_is_known(server):  # noqa: F811
  assert ask(server) == Reply('Fine.\nVerdict: yes')
  server.answer = lambda *_: (200, {}, reply('Verdict: 1', finish_reason='length'))
  assert ask(server).truncated and server.paths == ['/v1/chat/completions'] * 2


@pytest.mark.parametrize('status', (429, 500, 503, 529, 408))
def test_passing_faults_are_tried_again(server, status):  # noqa: F811
  server.answer = lambda number, _: (
      (status, {'Retry-After': '0.01'}, b'busy') if number < 3 else (200, {}, reply('late')))
  assert ask(server).text == 'late' and len(server.requests) == 4


def test_a_connection_that_breaks_is_tried_again(server):  # noqa: F811
  server.answer = lambda number, _: (200, {}, reply('late') if number == 2 else None)
  assert ask(server).text == 'late' and len(server.requests) == 3


@pytest.mark.parametrize('headers', ({'Retry-After': '3600'}, {'Retry-After': 'nan'}, {
    'Retry-After': 'Wed, 21 Oct 2015 07:28:00 GMT'}, {'Retry-After': '-1'}))
def test_trying_again_ends_at_the_deadline(server, headers):  # noqa: F811
  server.answer = lambda *_: (429, headers, b'busy')
  with pytest.raises(Fault, match='status 429|timed out|time for all requests was over'):
    ask(server, seconds=0.1)


@pytest.mark.parametrize('status', (400, 401, 404, 422))
def test_other_refusals_are_final(server, status):  # noqa: F811
  server.answer = lambda *_: (status, {}, b'no such\x1b[2J\nmodel')
  with pytest.raises(Fault, match=rf'status {status}: no such\\x1b\[2J model') as fault:
    ask(server)
  assert len(server.requests) == 1 and not fault.value.passing and fault.value.status == status


def test_a_redirect_is_not_followed(server):  # noqa: F811
  for status in (301, 302, 307, 308):
    server.answer = lambda *_, status=status: (status, {'Location': 'file:///etc/passwd'}, b'')
    with pytest.raises(Fault, match=f'status {status}'):
      ask(server)
    server.answer = lambda *_, status=status: (status, {'Location': server.url + '/models'}, b'')
    with pytest.raises(Fault, match=f'status {status}'):
      ask(server)
  assert len(server.requests) == 8


@pytest.mark.parametrize('body, says', [
    (b'', 'not JSON'), (b'<html>', 'not JSON'), (b'[' * 100_000, 'not JSON'),
    (b'{"choices": ' + b'1' * 10_000 + b'}', 'not JSON'), (b'\xff\xfe\x00', 'not JSON'),
    ([], 'has no choices'), ({}, 'has no choices'), ({'choices': []}, 'has no choices'),
    ({'choices': None}, 'has no choices'), ({'choices': [1]}, 'has no choices'),
    ({'choices': [{'message': None}]}, 'has no choices'), (reply(None), 'is not a text'),
    (reply(['Verdict: yes']), 'is not a text'), (b'x' * 3_000_000, 'more than 1,048,576 bytes')])
def test_an_answer_of_another_form_is_a_fault(server, body, says):  # noqa: F811
  server.answer = lambda *_: (200, {}, body)
  with pytest.raises(Fault, match=says):
    ask(server)
  assert len(server.requests) == 1


def test_an_answer_without_end_is_left(server):  # noqa: F811
  ended = threading.Event()

  def drip(self, status, headers, body):
    self.send_response(200)
    self.end_headers()
    while not ended.wait(0.02):
      try:
        self.wfile.write(b' ')
      except ConnectionError:
        return
  handler = type('Dripping', (server.RequestHandlerClass,), {'_send': drip})
  server.RequestHandlerClass = handler
  with pytest.raises(Fault, match='takes too long|timed out|time for all requests was over'):
    ask(server, seconds=0.2)
  ended.set()


def test_a_server_that_is_not_there_is_refused_in_one_sentence(server):  # noqa: F811
  nobody = Server(f'http://127.0.0.1:{runs.free_port()}/v1', 'm', timeout_s=1.0)
  with pytest.raises(UserError, match=r"judges.x.url='http.*' does not answer \(Connection.*start"):
    nobody.check('judges.x.url')
  made = Server(server.url, 'm')
  assert made.check('judges.x.url') == ''
  assert "does not list the model 'n', but 'm', 'other'" in Server(server.url, 'n').check('url')
  for status, body in ((404, b''), (405, b''), (200, b'what?'), (200, {'data': [1]}), (200, [])):
    server.models = status, {}, body
    assert made.check('judges.x.url') == ''
  for status in (401, 403):
    server.models = status, {}, b'who are you'
    with pytest.raises(UserError, match=r'refuses the key .*who are you.*R1JAX_JUDGE_KEY'):
      made.check('judges.x.url')
  server.models = 502, {}, b'upstream'
  with pytest.raises(UserError, match='does not answer .status 502: upstream'):
    made.check('judges.x.url')
  assert server.requests == []


def test_the_key_is_sent_and_never_shown(server, monkeypatch):  # noqa: F811
  monkeypatch.setenv('R1JAX_JUDGE_KEY', f' {SECRET}\n')
  server.answer = lambda *_: (400, {}, f'the key {SECRET} is wrong'.encode())
  with pytest.raises(Fault, match=r'the key \*\*\* is wrong') as fault:
    ask(server)
  assert server.seen_headers[0]['Authorization'] == f'Bearer {SECRET}'
  assert SECRET not in str(fault.value) and SECRET not in repr(Server(server.url, 'm'))
  for bad in ('a\nb', 'schlüssel', 'a\r\nX-Evil: 1'):
    monkeypatch.setenv('R1JAX_JUDGE_KEY', bad)
    with pytest.raises(UserError, match='R1JAX_JUDGE_KEY must hold printable') as error:
      ask(server)
    assert bad not in str(error.value)


def test_the_general_key_does_not_cross_a_network_in_the_clear(monkeypatch):
  monkeypatch.delenv('R1JAX_JUDGE_KEY', raising=False)
  monkeypatch.setenv('OPENAI_API_KEY', SECRET)
  assert key('https://host/v1') == key('http://localhost:1/v1') == key('http://[::1]/') == SECRET
  assert key('http://host/v1') == key('http://localhost.evil.com/v1') == ''
  monkeypatch.setenv('R1JAX_JUDGE_KEY', 'own')
  assert key('https://host/v1') == key('http://host/v1') == 'own'
