"""A server with OpenAI's interface in a thread, that replies as a test says, and keeps requests."""
import contextlib
import http.server
import json
import threading

import pytest

MODELS = {'data': [{'id': 'm'}, {'id': 'other'}]}


def reply(text, **more):
  """The body of an answer."""
  return {'choices': [{'message': {'role': 'assistant', 'content': text}} | more]}


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers with what `server.answer(number, request)` returns: (status, headers, body)."""

  def do_GET(self):  # noqa: N802
    self._send(*self.server.models)

  def do_POST(self):  # noqa: N802
    request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    with self.server.lock:
      number = len(self.server.requests)
      self.server.requests.append(request)
      self.server.seen_headers.append(dict(self.headers))
      self.server.paths.append(self.path)
    self._send(*self.server.answer(number, request))

  def _send(self, status, headers, body):
    with contextlib.suppress(ConnectionError):
      if body is None:    # hangs up
        return
      content = body if isinstance(body, bytes) else json.dumps(body).encode()
      self.send_response(status)
      for name, value in ({'Content-Length': str(len(content))} | headers).items():
        self.send_header(name, value)
      self.end_headers()
      self.wfile.write(content)

  def log_message(self, *_):
    """Prints nothing."""


@pytest.fixture
def server(monkeypatch):
  """A server at `server.url` that says 'Verdict: yes', without a proxy in between."""
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY', 'R1JAX_JUDGE_KEY',
               'OPENAI_API_KEY'):
    monkeypatch.delenv(name, raising=False)
  found = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  found.daemon_threads = True
  found.lock, found.requests, found.seen_headers, found.paths = threading.Lock(), [], [], []
  found.models = 200, {}, MODELS
  found.answer = lambda number, request: (200, {}, reply('Fine.\nVerdict: yes'))
  found.url = f'http://127.0.0.1:{found.server_port}/v1'
  thread = threading.Thread(target=found.serve_forever, kwargs=dict(poll_interval=0.01))
  thread.start()
  yield found
  found.shutdown()
  found.server_close()
  thread.join()
