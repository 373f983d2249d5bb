"""The pool of workers: answers, deaths and replacements. Stand-in programs die on command."""

import concurrent.futures
import os
import resource
import signal
import subprocess
import sys

import pytest

from r1jax.errors import UserError
from r1jax.rewards import workers

STAND_IN = '''
import json, os, signal, sys
def tell(**message):
  print(json.dumps(message), flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
tell(event='ready')
for line in sys.stdin:
  task = json.loads(line)
  tell(event='started')
  match task['gold']:
    case 'crash': os._exit(3)
    case 'once':
      if not os.path.exists(task['answer']): open(task['answer'], 'w'), os._exit(3)
      tell(event='done', verdict=True)
    case 'kill': os.kill(os.getpid(), signal.SIGKILL)
    case 'alarm': os.kill(os.getpid(), signal.SIGALRM); signal.pthread_sigmask(
        signal.SIG_UNBLOCK, [signal.SIGALRM])
    case 'hang': signal.pause()
    case 'garble': print('no message', flush=True)
    case 'stop': os.kill(os.getpid(), signal.SIGSTOP)
    case 'pid': tell(event='done', verdict=os.getpid())
    case _: tell(event='done', verdict=task['gold'] == task['answer'])
'''


def use(monkeypatch, program):
  monkeypatch.setattr(workers, '_COMMAND', (sys.executable, '-c', program))


@pytest.fixture
def stand_in(monkeypatch):
  use(monkeypatch, STAND_IN)


@pytest.mark.parametrize('death, timeouts', [
    ('crash', 0), ('kill', 0), ('alarm', 1), ('hang', 1)])
def test_pitfall_15_a_death_scores_0_is_counted_and_the_worker_replaced(
    stand_in, monkeypatch, death, timeouts):
  with workers.WorkerPool(num_workers=1, timeout_s=60.0) as pool:
    first = pool.equivalent('pid', '')
    if death == 'hang':  # where even the kernel's timer is held off
      monkeypatch.setattr(workers, '_GRACE_SECONDS', -59.9)
    assert pool.equivalent(death, '') is False
    monkeypatch.setattr(workers, '_GRACE_SECONDS', 0.0)
    assert (pool.timeouts, pool.crashes) == (timeouts, 1 - timeouts)
    with pytest.raises(ProcessLookupError):
      os.kill(first, 0)
    assert pool.equivalent('a', 'a') is True
    assert (pool.timeouts, pool.crashes) == (timeouts, 1 - timeouts)
    assert pool.equivalent('pid', '') != first


def test_a_question_whose_worker_crashed_is_asked_once_more(stand_in, tmp_path):
  with workers.WorkerPool(num_workers=1) as pool:
    assert pool.equivalent('once', str(tmp_path / 'asked')) is True
    assert pool.counters() == {'timeouts': 0, 'crashes': 0, 'retries': 1}
    assert pool.equivalent('crash', '') is False
    assert pool.counters() == {'timeouts': 0, 'crashes': 1, 'retries': 2}


@pytest.mark.slow
def test_the_time_limit_of_a_stopped_worker_holds(stand_in):
  """Before it begins the question is asked another worker; after that it has timed out."""
  with workers.WorkerPool(num_workers=1, timeout_s=3.0) as pool:
    pid = pool.equivalent('pid', '')
    os.kill(pid, signal.SIGSTOP)
    assert pool.equivalent('a', 'a') is True
    assert pool.counters() == {'timeouts': 0, 'crashes': 0, 'retries': 1}
    with pytest.raises(ProcessLookupError):
      os.kill(pid, 0)
    assert pool.equivalent('stop', '') is False
    assert pool.counters() == {'timeouts': 1, 'crashes': 0, 'retries': 1}


def test_equal_questions_get_one_answer(stand_in, monkeypatch):
  with workers.WorkerPool(num_workers=2) as pool:
    asked = workers.AskedOnce(pool)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
      pids = list(threads.map(lambda _: asked.equivalent('pid', ''), range(20)))
      assert len(set(pids)) == 1 and asked.repeats == 19
      pids = list(threads.map(lambda _: asked.equivalent('crash', ''), range(20)))
      assert set(pids) == {False} and pool.crashes == 1
    for _ in range(2):    # an answer that is an exception, too
      with pytest.raises(ValueError):
        asked.equivalent('garble', '')
    assert asked.equivalent('a', 'b') is False and asked.equivalent('b', 'b') is True


def test_a_worker_is_kept_while_it_is_healthy(stand_in):
  with workers.WorkerPool(num_workers=2) as pool:
    assert len({pool.equivalent('pid', '') for _ in range(5)}) == 1


def test_a_worker_that_died_while_idle_is_replaced_and_costs_no_reward(stand_in):
  with workers.WorkerPool(num_workers=1) as pool:
    pid = pool.equivalent('pid', '')
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pool.equivalent('a', 'a') is True
    assert (pool.timeouts, pool.crashes) == (0, 0)


def test_a_worker_is_replaced_after_a_conversation_that_broke_off(stand_in):
  with workers.WorkerPool(num_workers=1) as pool:
    pid = pool.equivalent('pid', '')
    with pytest.raises(ValueError):
      pool.equivalent('garble', '')
    assert pool.equivalent('pid', '') != pid


def test_threads_share_a_pool(stand_in):
  with workers.WorkerPool(num_workers=3) as pool:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
      answers = list(threads.map(
          lambda i: pool.equivalent('crash' if i % 10 == 9 else 'a', 'ab'[i % 2]), range(60)))
    assert answers == [i % 2 == 0 for i in range(60)]
    assert (pool.timeouts, pool.crashes) == (0, 6)


def test_a_closed_pool_has_no_processes_and_says_so(stand_in):
  pool = workers.WorkerPool(num_workers=1)
  pid = pool.equivalent('pid', '')
  pool.close()
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)
  with pytest.raises(RuntimeError, match='closed: make a new one'):
    pool.equivalent('a', 'a')


def test_a_worker_has_its_own_session_and_a_pipe_that_no_other_holds(stand_in):
  one, two = workers._Worker(), workers._Worker()
  try:
    pid = one.ask('pid', '', 60.0)
    assert os.getsid(pid) == pid
    one._process.stdin.close()
    assert one._process.wait(timeout=60) == 0
  finally:
    one.kill()
    two.kill()


def test_what_keeps_a_worker_from_starting_is_raised(monkeypatch):
  with workers.WorkerPool(num_workers=1) as pool:
    use(monkeypatch, 'raise SystemExit(1)')
    with pytest.raises(UserError, match='did not start: run'):
      pool.equivalent('a', 'a')
    use(monkeypatch, 'print(\'{"event": "failed", "reason": "No module"}\')')
    with pytest.raises(ImportError, match='needs math-verify .No module.: pip install'):
      pool.equivalent('a', 'a')
    use(monkeypatch, STAND_IN)
    assert pool.equivalent('a', 'a') is True
    assert (pool.timeouts, pool.crashes) == (0, 0)


def test_a_real_worker_answers_within_limits_of_memory_and_files():
  real = workers._Worker()
  try:
    assert real.ask('2x', 'x + x', 3.0) is True
    with pytest.raises(subprocess.TimeoutExpired):  # the clock stops with the task
      real._process.wait(timeout=3.5)
    pid = real._process.pid
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (2**31, 2**31)
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
  finally:
    real.kill()


@pytest.mark.parametrize('arguments', [(0, 1.0), (1, 0.0), (1, float('nan'))])
def test_an_impossible_pool_is_refused(arguments):
  with pytest.raises(ValueError, match='must be (at least 1, got|positive, got)'):
    workers.WorkerPool(*arguments)
