"""Rules in worker processes: the outcomes are those of calls here, whatever functions do."""
import asyncio
import dataclasses
import datetime
import functools
import math
import os
import random
import re
import threading
import time

import pytest

from r1jax.errors import UserError
from r1jax.experiments.benchmarks import hostile
from r1jax.rewards import addresses, calls, outcomes, processes, rules, workers
from r1jax.rewards.completion import Completion
from r1jax.rewards.skills import by_check
from r1jax.rewards.suite import REWARDS, RewardSuite, named_rewards

FUNCTIONS = '''
import os, signal, time
from r1jax.rewards import workers
from r1jax.rewards.calls import limits

def note(completion, example):
  with open(example['notes'], 'a') as file:
    file.write(completion.text + '\\n')

def misbehaves(completion, example):
  note(completion, example)
  match completion.text:
    case 'exits': os._exit(3)
    case 'killed': os.kill(os.getpid(), signal.SIGKILL)
    case 'once':
      if not os.path.exists(example['notes'] + '.once'):
        open(example['notes'] + '.once', 'w').close()
        os._exit(3)
    case 'raises': return {}['a key']
    case 'odd': return 'a text'
    case 'prints': print('to be seen')
  return float(len(completion.text))

@limits(timeout_s=0.2)
def hangs(completion, example):
  note(completion, example)
  if completion.text == 'hangs':
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    while True:
      time.sleep(600)
  return float(len(completion.text))

def waits(completion, example):
  time.sleep(600)

def pid(completion, example, *, plus: int = 0):
  return os.getpid() + plus

def asks(completion, example):
  """Each answer leads to the next question."""
  found = 0
  while workers.current_pool().equivalent(str(found), completion.text):
    found += 1
  return found

@limits(at_once=2)
def waiting(completion, example): ...

async def awaited(completion, example): ...
'''


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """Loads a function of a user's file."""
  file = tmp_path_factory.mktemp('own') / 'own.py'
  file.write_text(FUNCTIONS)
  return lambda name: addresses.load(f'{file}:{name}')


def completions_of(texts):
  return [Completion(text, len(text), False) for text in texts]


def judged(functions, texts, notes='', **settings):
  with RewardSuite({name: (function, 1.0) for name, function in functions.items()},
                   num_workers=1, **settings) as suite:
    return suite.submit(completions_of(texts), [{'notes': str(notes)}] * len(texts)).collect()


class Formulas:
  """Stands in for the pool that compares formulas, with answers that look random."""
  num_workers = 2
  repeats = 0

  def equivalent(self, gold, answer):
    return random.Random(f'{gold} {answer}').choice((True, False, None))

  def note_repeats(self, count):
    self.repeats += count


def test_workers_give_the_rewards_that_functions_give_here(monkeypatch):
  """Of all rewards, for right answers and for random texts, in chunks of any size."""
  monkeypatch.setattr(rules, '_CHARACTERS', 2000)
  texts = [(text, rng) for _, text, rng in hostile.hostile_texts(120, seed=1, largest=3000)]
  completions = [Completion(text, len(text), rng.random() < 0.2) for text, rng in texts]
  examples = [dict(
      answer=rng.choice((*hostile.GOLDS, text)), question=rng.choice(('What is it?', '多少?')),
      check=rng.choice(hostile.CHECKS), answers=rng.choice(([], [r'\sqrt{2}', 'x+1', '42'])))
      for text, rng in texts]
  functions = {name: function for name, (function, _) in named_rewards(
      dict.fromkeys(REWARDS, 1.0), prompt_opens_think=True).items()}
  functions['checked'] = by_check(REWARDS['number'])
  found = [rule for name, function in functions.items() if (rule := rules.rule_of(name, function))]
  assert {'number', 'format', 'language', 'checked'} <= {rule.name for rule in found}
  formulas = Formulas()
  workers.use_pool(formulas)
  try:
    expected = {rule.name: [outcomes.of_value(rule.function(*pair))
                            for pair in zip(completions, examples)] for rule in found}
  finally:
    workers.use_pool(workers._shared_pool)
  caller = calls.Caller()
  judge = rules.Rules(found, 2, caller)
  try:
    assert judge.judge(completions, examples, formulas, math.inf) == expected
    odd = [example | dict(day=datetime.date(2025, 1, 20)) for example in examples]
    few = slice(20)    # in threads of this process
    assert judge.judge(completions[few], odd[few], formulas, math.inf) == {
        name: values[few] for name, values in expected.items()}
  finally:
    judge.close()
    caller.close()


def test_questions_that_follow_from_answers_are_asked_in_turn(own):
  class Counts(Formulas):
    def equivalent(self, gold, answer):
      return int(gold) < int(answer)
  judge = rules.Rules([rules.rule_of('asks', own('asks'))], 1, calls.Caller())
  try:
    got = judge.judge(completions_of('3033'), [{}] * 4, formulas := Counts(), math.inf)
    assert got == {'asks': [3.0, 0.0, 3.0, 3.0]} and formulas.repeats
  finally:
    judge.close()


@pytest.mark.parametrize('wrong, value, crashes, retries', [
    ('exits', math.nan, 1, 1), ('killed', math.nan, 1, 1), ('once', 4.0, 0, 1),
    ('prints', 6.0, 0, 0)])
def test_a_call_that_ends_its_process_is_made_once_more_and_the_others_once(
    own, tmp_path, wrong, value, crashes, retries):
  texts = ['a', 'bb', wrong, 'ccc', 'dd']
  rewards = judged({'mine': own('misbehaves')}, texts, tmp_path / 'notes')
  assert str(rewards.total.tolist()) == str([1.0, 2.0, value, 3.0, 2.0])
  assert rewards.counters == {
      'unjudged/mine': crashes, 'unjudged/reward': crashes, 'timeouts/mine': 0, 'timeouts': 0,
      'crashes': crashes, 'retries': retries, 'repeats': 0}
  again = texts[:2] + [wrong] * (1 + retries) + texts[3:]
  assert (tmp_path / 'notes').read_text().split() == again


def test_a_call_that_hangs_costs_its_limit_once_and_the_others_nothing(own, tmp_path):
  texts = ['a', 'hangs', 'bb', 'hangs', 'ccc']
  with pytest.warns(UserWarning, match="'slow' took longer than 0.2 s for completion 1, which") as (
      told):
    rewards = judged({'slow': own('hangs')}, texts, tmp_path / 'notes')
  assert len(told) == 1
  assert str(rewards.total.tolist()) == '[1.0, nan, 2.0, nan, 3.0]'
  assert rewards.counters['timeouts/slow'] == 2 and rewards.counters['retries'] == 0
  assert (tmp_path / 'notes').read_text().split() == texts


def test_a_stopped_worker_is_killed_after_the_limit(own, tmp_path, monkeypatch):
  """The kernel's timer does not end a process that is stopped."""
  monkeypatch.setattr(rules, '_GRACE_SECONDS', 0.1)
  file = tmp_path / 'stops.py'
  file.write_text('import os, signal\nfrom r1jax.rewards.calls import limits\n'
                  '@limits(timeout_s=0.2)\ndef stops(c, e):\n'
                  '  if c.text: os.kill(os.getpid(), signal.SIGSTOP)\n  return 1.0\n')
  with pytest.warns(UserWarning):
    rewards = judged({'stops': addresses.load(f'{file}:stops')}, ['', 'x', ''])
  assert str(rewards.total.tolist()) == '[1.0, nan, 1.0]'


def test_what_a_function_raises_is_told_with_its_line_its_completion_and_its_traceback(
    own, tmp_path):
  texts = ['a', 'raises', 'bb', 'raises']
  with pytest.raises(UserError, match=r"^Reward function 'mine' raised KeyError\('a key'\) on "
                     r'completion 1: fix it, .* \(/.*/own.py, line 19\)\.$') as raised:
    judged({'mine': own('misbehaves')}, texts, tmp_path / 'notes')
  assert "return {}['a key']" in str(raised.value.__cause__)
  assert (tmp_path / 'notes').read_text().split() == texts[:2]
  with pytest.raises(UserError, match="function 'mine' returned 'a text' for completion 0: let"):
    judged({'mine': own('misbehaves')}, ['odd'], tmp_path / 'notes')


def test_the_failure_of_the_first_completion_is_told_whichever_worker_is_faster(
    own, tmp_path, monkeypatch):
  monkeypatch.setattr(rules, '_CALLS', 1)
  found = [rules.rule_of(name, own('misbehaves')) for name in 'ab']
  judge = rules.Rules(found, 3, calls.Caller())
  try:
    got = judge.judge(completions_of(['x', 'raises', 'raises', 'odd'] * 5),
                      [{'notes': str(tmp_path / 'notes')}] * 20, Formulas(), math.inf)
  finally:
    judge.close()
  assert got['b'] == [None] * 20 and got['a'][1].shown == "KeyError('a key')"
  assert [outcome for outcome in got['a'] if outcome] == [got['a'][1]]


def test_what_the_deadline_leaves_unjudged_is_none_counted_and_told_once(own):
  """In processes, in threads and in tasks alike; each is told once."""
  never = threading.Event()

  async def task(completion, example):
    await asyncio.sleep(600)

  functions = {'in_process': own('waits'), 'in_thread': lambda c, e: float(never.wait(600)),
               'in_task': task, 'quick': lambda c, e: 1.0}
  with RewardSuite({name: (function, 1.0) for name, function in functions.items()},
                   num_workers=2, batch_timeout_s=0.5) as suite:
    with pytest.warns(UserWarning) as told:
      for _ in range(2):
        rewards = suite.submit(completions_of('abc'), [{}] * 3).collect()
        for name in ('in_process', 'in_thread', 'in_task'):
          assert rewards.counters[f'timeouts/{name}'] == rewards.counters[f'unjudged/{name}'] == 3
  never.set()
  said = [str(warning.message) for warning in told]
  assert len(said) == 4 and len(set(said)) == 4    # `quick` had no time left
  assert any('3 completions were not judged by reward \'in_process\' within the 0.5 s' in one
             and 'raise reward_batch_timeout_s' in one for one in said)


def test_comparisons_of_formulas_end_at_the_deadline(own, monkeypatch):
  """What was not compared is None, and not wrong."""
  class Slow:
    alive = True

    def ask(self, gold, answer, seconds):
      raise processes.Timeout

    def kill(self):
      pass
  monkeypatch.setattr(workers.WorkerPool, '_begin', lambda pool, worker: time.sleep(0.6) or Slow())
  with pytest.warns(UserWarning, match='reward_batch_timeout_s'):
    rewards = judged({'asks': own('asks')}, ['1', '2', '1'], batch_timeout_s=0.5)
  assert rewards.counters['timeouts/asks'] == 3 and rewards.counters['timeouts'] == 0


def test_nothing_is_left_of_a_suite_that_is_closed_in_the_midst_of_calls(own):
  suite = RewardSuite({'pid': (own('pid'), 1.0), 'waits': (own('waits'), 1.0)}, num_workers=1)
  first = suite.submit(completions_of([]), []).collect()
  assert first.total.shape == (0,)
  suite.warm()
  process, = suite._rules._idle
  pending = suite.submit(completions_of(['a']), [{}])
  while not suite._rules._busy:
    time.sleep(0.01)
  suite.close(wait=False)
  with pytest.raises(RuntimeError, match='abandoned'):
    pending.collect()
  with pytest.raises(ProcessLookupError):
    os.kill(process.pid, 0)


def test_a_process_is_kept_and_one_that_died_while_idle_is_replaced(own):
  plus = functools.partial(own('pid'), plus=1)
  with RewardSuite({'pid': (own('pid'), 1.0), 'plus': (plus, 0.0)}, num_workers=1) as suite:
    def pids():
      rewards = suite.submit(completions_of('ab'), [{}] * 2).collect()
      assert (rewards.components['plus'] == rewards.components['pid'] + 1).all()
      return {*rewards.components['pid']}
    first, = pids()
    assert first != os.getpid() and pids() == {first}
    os.kill(int(first), 9)
    os.waitid(os.P_PID, int(first), os.WEXITED | os.WNOWAIT)
    assert pids() != {first}


def test_a_worker_that_cannot_start_is_told(monkeypatch, own):
  monkeypatch.setattr(rules, '_COMMAND', (rules.sys.executable, '-c', 'raise SystemExit(1)'))
  with pytest.raises(UserError, match='did not start: run `python -m r1jax.rewards.rule_worker`'):
    judged({'pid': own('pid')}, ['a'])


def test_which_functions_workers_can_call(own):
  def local(completion, example):
    return 1.0
  for function in (REWARDS['number'], own('pid'), functools.partial(own('pid'), plus=3),
                   REWARDS['language_de'], by_check(REWARDS['number']), by_check(own('pid'))):
    assert rules.rule_of('it', function), function
  for function in (local, len, functools.partial(REWARDS['language'], target=object()),
                   functools.partial(own('pid'), plus=local), by_check(local),
                   functools.partial(own('pid'), 1), own('waiting'), own('awaited'),
                   by_check(own('waiting'))):
    assert rules.rule_of('it', function) is None, function


@pytest.mark.parametrize('address, message', [
    ('{}/none.py:f', 'there is no file .*none.py'), ('{}/own.py', 'must be named as'),
    ('{}/own.py:nothing', "names no function: .*own.py has no function 'nothing'"),
    ('{}/own.py:os.path', "has no function 'os.path'"), (':f', "as 'file.py:function' or"),
    ('r1jax.nowhere:f', "cannot be found: there is no module 'r1jax.nowhere'"),
    ('r1jax.rewards.format:x', "has no function 'x'")])
def test_addresses_that_name_no_function_are_refused(own, address, message):
  folder = os.path.dirname(own('pid').__code__.co_filename)
  with pytest.raises(UserError, match=message):
    addresses.load(address.format(folder))


def test_completions_travel_with_all_their_fields():
  """`rule_worker` makes them of tuples."""
  fields = [field.name for field in dataclasses.fields(Completion)]
  assert Completion(*fields) == Completion(**{name: name for name in fields})
  assert re.match('text', fields[0])
