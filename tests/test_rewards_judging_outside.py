"""Judges on servers: rewards in the background, votes, faults that are told once, deadlines."""
import threading
import time
import warnings

from judge_server import reply, server  # noqa: F401 (a fixture)
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.rewards.completion import Completion
from r1jax.rewards.judging.cache import ReplyCache
from r1jax.rewards.judging.judge import Judge
from r1jax.rewards.judging.outside import OutsideJudge, OutsideJudges
from r1jax.rewards.judging.server import Server
from r1jax.runtime.storage import Path

EXAMPLE = dict(question='6*7?', answer='42')


@pytest.fixture
def judges(server, tmp_path):  # noqa: F811
  """Makes judges 'judge/x' on the server, which are closed at the end."""
  made = []

  def make(judge=None, temperature=0.0, first_wait_s=0.001, cache=tmp_path / 'cache', **settings):
    made.append(OutsideJudges({'judge/x': OutsideJudge(
        2.0, judge or Judge(), Server(server.url, 'm', temperature=temperature, timeout_s=5.0,
                                      first_wait_s=first_wait_s),
        ReplyCache(Path(cache)), **{'deadline_s': 5.0} | settings)}))
    return made[-1]
  yield make
  for one in made:
    one.close(wait=False)


def rewards_of(judges, *texts):
  return judges.submit([Completion(text, 1, False) for text in texts], [EXAMPLE] * len(texts),
                       group_size=1).collect()


def text_of(request):
  return request['messages'][0]['content']


def by_answer(number, request):
  """Says yes where the answer holds 42, nothing to be read where it holds ?, else no."""
  answer = text_of(request).partition('<answer-')[2].partition('</answer-')[0]
  said = 'yes' if '42' in answer else 'or not' if '?' in answer else 'no'
  return 200, {}, reply(f'Verdict: {said}')


def test_completions_that_come_early_are_asked_about_at_once(server, judges):  # noqa: F811
  asked = threading.Event()

  def answer(number, request):
    asked.set()
    return by_answer(number, request)
  server.answer = answer
  batch = judges().begin()
  batch.add([3, 1], [Completion(text, 1, False) for text in ('is it?', 'no')], [EXAMPLE] * 2)
  assert asked.wait(60)
  texts = 'It is 42', 'It is 42', 'no'
  batch.add([0, 2, 4], [Completion(text, 1, False) for text in texts], [EXAMPLE] * 3)
  got = batch.end().collect()
  np.testing.assert_array_equal(got.components['judge/x'], [1, 0, 1, np.nan, 0])
  assert len(server.requests) == got.counters['asked/judge/x'] == 3


def test_rewards_are_verdicts_and_equal_answers_are_asked_about_once(server, judges):  # noqa: F811
  server.answer = by_answer
  got = rewards_of(judges(), 'It is 42', 'no', 'It is 42', 'is it?', '')
  np.testing.assert_array_equal(got.components['judge/x'], [1, 0, 1, np.nan, 0])
  np.testing.assert_array_equal(got.total, [2, 0, 2, np.nan, 0])
  assert len(server.requests) == 3
  assert {name: count for name, count in got.counters.items() if count} == {
      'asked/judge/x': 3, 'unread/judge/x': 1, 'unjudged/judge/x': 1, 'unjudged/reward': 1}


def test_a_resumed_run_asks_nothing_twice_and_another_run_does_not_see_faults(
    server, judges):  # noqa: F811
  server.answer = lambda number, request: (
      by_answer(number, request) if 'bad' not in text_of(request) else (400, {}, b''))
  with warnings.catch_warnings(record=True):
    first = rewards_of(judges(), '42', 'no', 'bad')
  server.answer = by_answer
  second = rewards_of(judges(), '42', 'no', 'bad')
  np.testing.assert_array_equal(first.components['judge/x'], [1, 0, np.nan])
  np.testing.assert_array_equal(second.components['judge/x'], [1, 0, 0])
  assert len(server.requests) == 4


def test_votes_are_asked_with_seeds_of_their_own(server, judges):  # noqa: F811
  server.answer = lambda number, request: (
      200, {}, reply('Verdict: yes' if request['seed'] % 2 else 'Verdict: no'))
  got = rewards_of(judges(temperature=1.0, votes=8), 'It is 42', 'It is 41')
  seeds = [request['seed'] for request in server.requests]
  assert len(set(seeds)) == 16 and 0 < got.components['judge/x'].mean() < 1
  assert got.components['judge/x'].mean() == np.mean([seed % 2 for seed in seeds])


def test_faults_are_not_judged_counted_and_told_once(server, judges):  # noqa: F811
  server.answer = lambda number, request: (
      (200, {}, b'garbage') if '41' in text_of(request) else by_answer(number, request))
  made = judges()
  with pytest.warns(UserWarning, match=r'judge/x: of 2 requests .* 1, the first because of its a'):
    got = rewards_of(made, 'It is 42', 'It is 41')
  np.testing.assert_array_equal(got.components['judge/x'], [1, np.nan])
  assert got.counters['faults/judge/x'] == got.counters['unjudged/judge/x'] == 1
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert rewards_of(made, '41 or').counters['faults/judge/x'] == 1


def test_a_server_that_refuses_every_request_ends_the_run(server, judges):  # noqa: F811
  server.answer = lambda *_: (404, {}, b'no model m')
  with pytest.raises(UserError, match=r'refuses every request \(status 404: no model m\)'):
    rewards_of(judges(), '42', '41')


def test_a_batch_ends_at_its_deadline_whatever_the_server_does(server, judges):  # noqa: F811
  ended = threading.Event()
  server.answer = lambda number, request: (
      ended.wait(20), {}, b'') if 'slow' in text_of(request) else by_answer(number, request)
  begun = time.monotonic()
  with pytest.warns(UserWarning, match='did not answer'):
    got = rewards_of(judges(deadline_s=1.5, at_once=2), '42', *[f'slow {n}' for n in range(20)])
  assert time.monotonic() - begun < 10
  np.testing.assert_array_equal(got.components['judge/x'], [1] + [np.nan] * 20)
  assert got.counters['faults/judge/x'] == 20 and len(server.requests) < 20
  ended.set()


def test_a_server_whose_headers_never_end_is_left_at_the_deadline(server, judges):  # noqa: F811
  ended = threading.Event()

  def drip(self, status, headers, body):
    self.wfile.write(b'HTTP/1.1 200 OK\r\n')
    while not ended.wait(0.02):
      try:
        self.wfile.write(b'X')
      except ConnectionError:
        return
  server.RequestHandlerClass = type('Dripping', (server.RequestHandlerClass,), {'_send': drip})
  begun = time.monotonic()
  with pytest.warns(UserWarning, match='did not answer 1, the first because of'):
    got = rewards_of(judges(deadline_s=0.3), '42')
  assert np.isnan(got.total).all() and time.monotonic() - begun < 5    # seconds of a try
  ended.set()


def test_only_so_many_requests_run_at_once(server, judges):  # noqa: F811
  running, most, lock = [], [], threading.Lock()

  def answer(number, request):
    with lock:
      running.append(number)
      most.append(len(running))
    time.sleep(0.005)
    with lock:
      running.remove(number)
    return by_answer(number, request)
  server.answer = answer
  rewards_of(judges(at_once=3), *map(str, range(12)))
  assert max(most) <= 3 and len(server.requests) == 12


def test_closing_does_not_wait_for_the_server(server, judges):  # noqa: F811
  server.answer = lambda *_: (503, {'Retry-After': '60'}, b'')
  made = judges(deadline_s=600.0)
  pending = made.submit([Completion('42', 1, False)], [EXAMPLE])
  while not server.requests:
    time.sleep(0.005)
  begun = time.monotonic()
  made.close(wait=False)
  with pytest.raises(RuntimeError, match='abandoned'):
    pending.collect()
  for thread in threading.enumerate():
    if thread.name == 'reward':
      thread.join(10)
  assert time.monotonic() - begun < 10


def test_replies_that_cannot_be_kept_are_told_of_once(server, judges, tmp_path):  # noqa: F811
  (tmp_path / 'file').write_text('')
  made = judges(cache=tmp_path / 'file')
  with pytest.warns(UserWarning, match='replies cannot be kept'):
    rewards_of(made, '42')
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    rewards_of(made, '43')
