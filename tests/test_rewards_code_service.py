"""A service that runs programs, played by a server of this test."""
import http.server
import json
import subprocess
import sys
import threading

import pytest

from r1jax.rewards.code import reward, service
from r1jax.rewards.code.reward import code_reward
from r1jax.rewards.completion import Completion

ADD = ['assert add(1, 2) == 3', 'assert add(2, 2) == 4']
SUM = {'inputs': ['1 2\n', '3 4\n'], 'outputs': ['3\n', '7\n']}
PROGRAM = 'print(sum(map(int, input().split())))'


def judge(program, tests, **settings):
  return code_reward(Completion(f'```python\n{program}\n```', 9, False),
  {'tests': tests}, **settings)


class Handler(http.server.BaseHTTPRequestHandler):
  """Runs what it is sent, unless the server has other answers to give first."""

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    self.server.bodies.append((self.path, body))
    answer = self.server.answers.pop(0) if self.server.answers else self.run(body)
    self.send_response(answer if isinstance(answer, int) else 200)
    self.end_headers()
    self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

  def run(self, body):
    ran = subprocess.run([sys.executable, '-I', '-S', '-c', body['code']], input=body['stdin'],
                         capture_output=True, text=True)
    return {'status': 'Success', 'run_result': {
        'status': 'Finished', 'return_code': ran.returncode, 'stdout': ran.stdout,
        'stderr': ran.stderr}}

  def log_message(self, *_):
    pass


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setattr(service, '_PAUSES_S', (0.0, 0.0))
  monkeypatch.setattr(reward, '_told', [])
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.bodies, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.url = f'http://127.0.0.1:{server.server_address[1]}'
    yield server
    server.shutdown()
    thread.join()


def ran(**result):
  return {'status': 'Success', 'message': '', 'compile_result': None, 'run_result': {
      'status': 'Finished', 'return_code': 0, 'stdout': '3', 'stderr': '', **result}}


def test_a_service_runs_programs(server):
  secret = {'inputs': ['1 2\n'], 'outputs': ['3\n']}
  assert judge(PROGRAM, secret, sandbox=server.url, timeout_s=2.0, memory_mb=64) == 1.0
  (path, body), = server.bodies
  assert path == '/run_code' and body['code'] == PROGRAM and body['stdin'] == '1 2\n'
  assert (body['language'], body['run_timeout'], body['memory_limit_MB']) == ('python', 2.0, 64)
  assert judge('print(3)\nprint(7)', SUM, sandbox=f'{server.url}/run_code') == 0.0


@pytest.mark.parametrize('program, value', [
    ('class Solution:\n  def add(self, a, b):\n    return a + b', 1.0),
    ('def add(a, b):\n  print(3)\n  return a + b', 1.0),
    ('def add(a, b):\n  return str(a + b)', 0.0), ('import os\nos._exit(0)', 0.0),
    ('print(3)\nraise SystemExit', 0.0), ('import os\nos.write(1, b"3")\nos._exit(0)', 0.0),
    ('class A:\n  def __eq__(self, other): return True\ndef add(a, b): return A()', 0.0)])
def test_a_service_calls_functions(server, program, value):
  assert judge(program, ADD, sandbox=server.url) == value


def test_a_service_returns_values_of_any_type_and_gets_no_expected_one(server):
  value = ({1: ['\n"é\ud7ff', None, True]}, {2.5}, -10 ** 30)
  problem = [f'assert f({value!r}) == {value!r}', 'assert f(1) == 271828']
  assert judge('def f(x):\n    return x', problem, sandbox=server.url, score='share') == 0.5
  assert not any('271828' in json.dumps(body) for _, body in server.bodies)


@pytest.mark.parametrize('answer, value', [
    (ran(status='TimeLimitExceeded'), 0.0), (ran(return_code=1, stderr='Error'), 0.0),
    (ran(stdout='3' * (1 << 21)), 0.0), (ran(stdout=None), 0.0), (ran(), 1.0),
    ({**ran(return_code=1), 'status': 'Failed'}, 0.0)])
def test_answers_of_a_service_are_read(server, answer, value):
  server.answers = [500, answer]    # it is asked again after a failure
  problem = {'inputs': [''], 'outputs': ['3']}
  assert judge('print(3)', problem, sandbox=server.url) == value


@pytest.mark.parametrize('answer', [
    503, 404, b'<html>', b'[]', b'[' * 10 ** 5, {}, {'status': 'SandboxError', 'message': 'full'},
    {'status': 'Success'}, ran(status='Error'), {**ran(), 'status': None}, ran(stdout=3)])
def test_a_service_that_fails_judges_nothing(server, answer):
  server.answers = [answer] * 3
  with pytest.warns(UserWarning, match='could not be run'):
    assert judge('print(3)', SUM, sandbox=server.url) is None
  assert len(server.bodies) == 3


def test_a_service_that_is_not_there_judges_nothing(monkeypatch):
  monkeypatch.setattr(service, '_PAUSES_S', ())
  monkeypatch.setattr(reward, '_told', [])
  with pytest.warns(UserWarning, match='http://127.0.0.1:9/run_code cannot be reached'):
    assert judge('print(3)', SUM, sandbox='http://127.0.0.1:9') is None
