"""Rewards composed: weights, None, counters, errors, order."""

import asyncio
from decimal import Decimal
from fractions import Fraction
import math
import random
import re
import subprocess
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rewards import workers
from r1jax.rewards.calls import limits
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import Rewards, RewardSuite, named_rewards


def completion(text):
  return Completion(text, len(text), False)


def compute(functions, texts, answers=None, group_size=1, **kwargs):
  examples = [{'answer': answer} for answer in answers or [''] * len(texts)]
  with RewardSuite(functions, **kwargs) as suite:
    return suite.submit(
        [completion(text) for text in texts], examples, group_size=group_size).collect()


def test_total_is_the_weighted_sum_of_what_was_judged():
  rng = random.Random(0)
  values = {name: [rng.choice((None, rng.uniform(-1, 1))) for _ in range(40)] for name in 'ab'}
  weights = {'a': 0.5, 'b': -2.0}
  rewards = compute(
      {name: (lambda c, e, name=name: values[name][int(c.text)], weights[name]) for name in 'ab'},
      [str(i) for i in range(40)])
  judged = [[n for n in 'ab' if values[n][i] is not None] for i in range(40)]
  expected = [sum(weights[n] * values[n][i] for n in names) if names else math.nan
              for i, names in enumerate(judged)]
  assert rewards.counters['unjudged/reward'] == judged.count([]) > 0
  np.testing.assert_allclose(rewards.total, expected, rtol=1e-12)
  assert rewards.total.dtype == np.float64
  for name in 'ab':
    as_nan = [math.nan if value is None else value for value in values[name]]
    np.testing.assert_array_equal(rewards.components[name], as_nan)
    assert rewards.counters[f'unjudged/{name}'] == values[name].count(None) > 0
  assert rewards.counters['timeouts'] == rewards.counters['crashes'] == 0


NAN = math.nan


@pytest.mark.parametrize('a, b, total', [
    ([1, 1, 1, None], [0, 0, 0, 0], [1, 1, 1, NAN]),    # cannot be compared with the others
    ([None] * 4, [0, 1, 0, 1], [0, 2, 0, 2]),           # says nothing of this group
    ([None, 1, 1, 1], [None, 1, 0, None], [NAN, 3, 1, NAN]),
    ([None] * 4, [None] * 4, [NAN] * 4),
    ([None] * 4, [None, 1, None, None], [NAN, 2, NAN, NAN])])
def test_pitfall_25_what_a_reward_cannot_judge_is_not_punished(a, b, total):
  columns = {'a': ([*a, 1, 0, 1, 0], 1.0), 'b': ([*b, 0, 0, 0, 0], 2.0),
             'logged': ([None, 1] * 4, 0.0)}
  rewards = compute({name: (lambda c, e, values=values: values[int(c.text)], weight)
                     for name, (values, weight) in columns.items()}, '01234567', group_size=4)
  np.testing.assert_array_equal(rewards.total, [*total, 1, 0, 1, 0])
  assert rewards.counters['unjudged/reward'] == np.isnan(total).sum()


def test_totals_that_overflow_are_refused_by_name():
  with pytest.raises(ValueError, match="^Reward 'big' of completion 1 is 1.*, times its weight "
                     '1000.0, which makes a total beyond 1e.15: lower the weight'):
    compute({'small': (lambda c, e: None, 1.0),
             'big': (lambda c, e: 1e14 * bool(c.text), 1000.0)}, ['', 'x'])


def test_the_rewards_of_the_table_by_name():
  good = '<think>a</think> <answer>42</answer>'
  rewards = compute(
      named_rewards({'format': 1.0, 'number': 1.0, 'gsm8k': 1.0, 'choice': 1.0, 'exact_match': 1,
                     'language_en': 1.0, 'language_zh': 1.0}),
      [good, good.removeprefix('<think>'), '42.'], ['42'] * 3)
  table = {'format': [1, 0, 0], 'number': [1, 1, 1], 'gsm8k': [1, 1, 1],
           'choice': [math.nan] * 3, 'exact_match': [1, 1, 0],
           'language_en': [1, 1, 1], 'language_zh': [1, 1, 1]}
  for name, column in table.items():
    np.testing.assert_array_equal(rewards.components[name], column)
  np.testing.assert_array_equal(rewards.total, [6, 5, 4])
  assert rewards.counters['unjudged/choice'] == 3
  inside = compute(
      named_rewards({'format': 2.0}, prompt_opens_think=True), [good, good[len('<think>'):]])
  np.testing.assert_array_equal(inside.total, [0, 2])


def test_an_unknown_name_is_told_the_nearest():
  with pytest.raises(ValueError, match="no reward named 'formatt': did you mean 'format'"):
    named_rewards({'formatt': 1.0})


def test_rewards_are_computed_while_the_caller_goes_on():
  gate = threading.Event()
  with RewardSuite({'gated': (lambda c, e: float(gate.wait(60)), 1.0)}) as suite:
    pending = suite.submit([completion('')], [{}])  # would block here if it were not
    gate.set()
    assert pending.collect().total.tolist() == [1.0]
    assert pending.collect().total.tolist() == [1.0]


STAND_IN = """
import json, signal, sys
def tell(**message):
  print(json.dumps(message), flush=True)
tell(event='ready')
for line in sys.stdin:
  task = json.loads(line)
  signal.setitimer(signal.ITIMER_REAL, task['seconds'])
  tell(event='started')
  if '9' in task['answer']:
    signal.pause()
  signal.setitimer(signal.ITIMER_REAL, 0)
  tell(event='done', verdict='log' in task['answer'])
"""


@pytest.fixture
def stand_in(monkeypatch):
  """Workers that find logarithms right, and hang where there is a 9."""
  monkeypatch.setattr(workers, '_COMMAND', (sys.executable, '-c', STAND_IN))


def test_pitfall_16_workers_answer_in_order_and_one_that_hangs_costs_only_itself(stand_in):
  texts = [r'\log_2 8+x', r'x+\log_9 729', r'x+\log_3 27', r'\sin(4)+x', r'x+\log_4 64', '7']
  completions = [completion(f'<answer>{text}</answer>') for text in texts]
  examples = [{'answer': 'x+3'}] * 5 + [{'answer': '7'}]
  with RewardSuite(named_rewards({'number': 1.0}), num_workers=1, timeout_s=1.0) as suite:
    first = suite.submit(completions, examples)
    second = suite.submit(completions[2:], examples[2:])
    assert first.collect().components['number'].tolist() == [1, 0, 1, 0, 1, 1]
    none = {'unjudged/number': 0, 'unjudged/reward': 0, 'timeouts/number': 0, 'timeouts': 0,
            'crashes': 0, 'retries': 0, 'repeats': 0}
    assert first.collect().counters == none | {'timeouts': 1}
    assert second.collect().components['number'].tolist() == [1, 0, 1, 1]
    assert second.collect().counters == none


class Unprintable:
  def __repr__(self):
    raise KeyError('no')


@pytest.mark.parametrize('value', [
    math.nan, math.inf, -math.inf, np.float32('nan'), '1', [1.0], 1j, np.zeros(2), 10**400,
    10**5000, -10**400, Decimal('sNaN'), Decimal('1e400'), Fraction(10**400), jnp.float32('inf'),
    jnp.ones(1), np.array('1'), np.str_('1'), np.array(1j), np.datetime64('2026-01-01'), b'1',
    Ellipsis, Unprintable()], ids=lambda value: type(value).__name__)
def test_pitfall_07_what_is_no_finite_number_is_refused_by_name(value):
  with pytest.raises(ValueError, match="^Reward function 'mine' returned .* for completion 1: let"):
    compute({'mine': (lambda c, e: value if c.text else 0.0, 1.0)}, ['', 'x', ''])


def test_numbers_of_any_kind_are_taken():
  torch = pytest.importorskip('torch', reason='torch is not installed')
  values = (1, True, np.float32(0.5), np.int64(3), Fraction(1, 4), np.bool_(True), Decimal('0.5'),
            np.array(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), jnp.array(True), np.array(2),
            torch.tensor(0.5, requires_grad=True), torch.tensor(3), 1e15)
  rewards = compute({'mine': (lambda c, e: values[int(c.text)], 1.0)},
                    [str(i) for i in range(len(values))])
  assert rewards.total.tolist() == [1, 1, 0.5, 3, 0.25, 1, 0.5, 0.5, 0.5, 0.5, 1, 2, 0.5, 3, 1e15]


@pytest.mark.parametrize('value', [1e39, -1e39, 10**38, np.float64(1e300), 2e15])
def test_a_number_that_float32_cannot_hold_is_refused_by_name(value):
  with pytest.raises(ValueError, match="^Reward function 'mine' returned .* for completion 0, "
                     'which is too large for the float32 of devices: let it return numbers from'):
    compute({'mine': (lambda c, e: value, 0.0)}, [''])


@pytest.mark.parametrize('name', ['reward', 'overlong', 'unjudged', 'workers', 'reward_model'])
def test_a_name_that_metrics_and_rollouts_use_is_refused(name):
  with pytest.raises(ValueError, match=f"must not be named '{name}', .*: name it 'my_{name}'"):
    RewardSuite({name: (lambda c, e: 1.0, 1.0)})


@pytest.mark.parametrize(
    'name', ['', ' ', 'a/b', 'reward_model/helpfulness', 'a\n', '\x1b[2J', 3, None])
def test_a_name_that_is_none_is_refused(name):
  with pytest.raises(ValueError, match='The name of a reward must be a text without slashes, got'):
    RewardSuite({name: (lambda c, e: 1.0, 1.0)})


# How functions are called.


def test_coroutines_are_awaited_together_and_threads_run_as_declared():
  barrier, arrived = threading.Barrier(8), []

  async def judge(c, e):
    arrived.append(c.text)
    while len(arrived) < 8:
      await asyncio.sleep(0)
    return float(c.text)

  @limits(at_once=8)
  def plain(c, e):
    barrier.wait(60)
    return -float(c.text)

  rewards = compute({'judge': (judge, 1.0), 'hidden': (lambda c, e: judge(c, e), 1.0),
                     'plain': (plain, 1.0)}, '01234567')
  assert rewards.components['judge'].tolist() == list(range(8))
  np.testing.assert_array_equal(rewards.total, np.arange(8.0))


def test_a_function_that_takes_too_long_is_none_counted_and_named_once():
  never = threading.Event()

  @limits(timeout_s=0.5)
  def slow(c, e):
    return float(never.wait(600)) if c.text == '1' else 2.0

  @limits(timeout_s=0.5)
  async def slow_task(c, e):
    return await asyncio.sleep(600 if c.text == '2' else 0, 3.0)

  with RewardSuite({'slow': (slow, 1.0), 'task': (slow_task, 1.0)}) as suite:
    with pytest.warns(UserWarning) as told:
      for _ in range(2):
        rewards = suite.submit([completion(text) for text in '0123'], [{}] * 4,
                               group_size=4).collect()
        np.testing.assert_array_equal(rewards.total, [5, NAN, NAN, 5])
        assert rewards.counters['timeouts/slow'] == rewards.counters['timeouts/task'] == 1
        assert rewards.counters['unjudged/slow'] == 1 and rewards.counters['timeouts'] == 0
  never.set()
  told = sorted(str(warning.message) for warning in told)
  assert len(told) == 2
  assert told[0].startswith("Reward function 'slow' took longer than 0.5 s for completion 1, which")
  assert "'task'" in told[1] and 'completion 2' in told[1]


@pytest.mark.parametrize('prefix', ['async ', ''])
def test_a_failure_is_told_by_its_first_completion(prefix):
  scope = {'limits': limits}
  exec(f'@limits(at_once=4)\n{prefix}def judge(c, e):\n  return 1 / (int(c.text) - 2)', scope)
  with pytest.raises(ValueError, match=r"'judge' raised ZeroDivisionError\(.*\) on completion 2: "):
    compute({'judge': (scope['judge'], 1.0)}, '0120123')


def test_equal_questions_of_a_batch_are_asked_once(stand_in):
  texts = [rf'<answer>{text}</answer>' for text in (r'\log_2 8+x', r'x+\log_3 27', r'\log_2 8+x')]
  with RewardSuite(named_rewards({'number': 1.0}), num_workers=1) as suite:
    for _ in range(2):    # of one batch, not of all
      rewards = suite.submit(
          [completion(text) for text in texts * 3], [{'answer': 'x+3'}] * 9).collect()
      assert rewards.total.tolist() == [1] * 9
      assert rewards.counters['repeats'] == 7


def test_an_exception_in_a_with_block_does_not_wait_for_rewards():
  never = threading.Event()
  with pytest.raises(KeyError):
    with RewardSuite({'hangs': (lambda c, e: float(never.wait(600)), 1.0)}) as suite:
      pending = suite.submit([completion('')] * 100, [{}] * 100)
      raise KeyError
  with pytest.raises(RuntimeError, match='abandoned'):
    pending.collect()
  never.set()


def test_an_exception_is_told_with_its_cause():
  message = r"^Reward function 'mine' raised KeyError\('key'\) on completion 2: fix it"
  with pytest.raises(ValueError, match=message) as raised:
    compute({'mine': (lambda c, e: {'x': 1.0}[c.text], 1.0)}, ['x', 'x', 'key'])
  assert re.search(rf' \({re.escape(__file__)}, line \d+\)\.$', str(raised.value))
  assert isinstance(raised.value.__cause__, KeyError)


def test_a_suite_goes_on_after_an_error():
  with RewardSuite({'mine': (lambda c, e: 1.0 if c.text else math.nan, 1.0)}) as suite:
    with pytest.raises(ValueError):
      suite.submit([completion('')], [{}]).collect()
    assert suite.submit([completion('x')], [{}]).collect().total.tolist() == [1.0]


def test_nothing_to_reward_is_an_empty_batch():
  rewards = compute(named_rewards({'format': 1.0}), [])
  assert rewards.total.shape == rewards.components['format'].shape == (0,)


def test_impossible_suites_and_batches_are_refused():
  for nothing in ({}, None, [len]):
    with pytest.raises(ValueError, match='needs at least one reward function'):
      RewardSuite(nothing)
  for pair in (len, (len,), (1.0, len), 'ab', (len, 1.0, 2.0)):
    with pytest.raises(ValueError, match="Reward 'mine' must be a pair of a function and its wei"):
      RewardSuite({'mine': pair})
  for weight in (math.nan, math.inf, 10**400, '1', None, jnp.ones(2)):
    with pytest.raises(ValueError, match="weight of reward 'format' is .*: give a finite"):
      RewardSuite(named_rewards({'format': weight}))
  assert RewardSuite(named_rewards({'format': jnp.float32(0.5)})).weights == {'format': 0.5}
  with RewardSuite(named_rewards({'format': 1.0})) as suite:
    with pytest.raises(ValueError, match='2 completions for 1 examples: give one example'):
      suite.submit([completion('')] * 2, [{}])
    with pytest.raises(ValueError, match='group_size must divide the 3 completions, got 2'):
      suite.submit([completion('')] * 3, [{}] * 3, group_size=2)


def test_the_rewards_room_never_imports_jax():
  program = (
      'import pkgutil, importlib, sys, r1jax.rewards as rewards\n'
      'for module in pkgutil.iter_modules(rewards.__path__):\n'
      '  importlib.import_module(f"r1jax.rewards.{module.name}")\n'
      'assert "r1jax.rewards.suite" in sys.modules\n'
      'print(sorted({"jax", "flax", "math_verify", "sympy"} & set(sys.modules)))\n')
  done = subprocess.run(
      (sys.executable, '-c', program), capture_output=True, text=True, timeout=120, check=True)
  assert done.stdout == '[]\n'


# Rewards joined and split.


def random_rewards(size, names, seed=0):
  rng = np.random.default_rng(seed)
  return Rewards(rng.normal(size=size), {name: rng.normal(size=size) for name in names},
                 {name: size for name in names})


def assert_same(one, other):
  np.testing.assert_array_equal(one.total, other.total)
  assert list(one.components) == list(other.components)
  for name, values in one.components.items():
    np.testing.assert_array_equal(values, other.components[name])


def test_rewards_of_several_passes_are_joined_and_split_again():
  parts = [random_rewards(4, 'ab', seed) for seed in range(3)]
  joined = Rewards.concatenate(parts)
  assert joined.counters == {'a': 12, 'b': 12}
  for part, want in zip(joined.split(3), parts, strict=True):
    assert_same(part, want)
    assert not part.counters


def test_concatenating_parts_judged_differently_adds_counters_and_keeps_every_value():
  parts = [random_rewards(size, names) for size, names in ((2, 'ab'), (3, 'bc'), (1, ''))]
  got = Rewards.concatenate(parts)
  assert got.counters == {'a': 2, 'b': 5, 'c': 3} and list(got.components) == ['a', 'b', 'c']
  for part, start in zip(parts, (0, 2, 5)):
    rows = slice(start, start + len(part.total))
    np.testing.assert_array_equal(got.total[rows], part.total)
    for name, values in got.components.items():
      want = part.components.get(name, np.full(len(part.total), np.nan))
      np.testing.assert_array_equal(values[rows], want)


def test_rewards_of_all_hosts_are_put_into_the_order_of_the_rows():
  whole = random_rewards(12, 'a')
  whole.components['a'][3] = np.nan
  owners = np.repeat([2, 0, 0, 3, 2, 3], 2)    # host 1 has none
  parts = [Rewards(whole.total[owners == host], {'a': whole.components['a'][owners == host]},
                   {'timeouts': host}) for host in range(4)]
  got = Rewards.concatenate(parts).scatter(owners)
  assert_same(got, whole)
  assert got.counters == {'timeouts': 6}


# Completions that come a few at a time.

def test_what_has_come_is_judged_before_the_rest_and_all_is_as_if_submitted_at_once():
  judged = threading.Event()

  def noting(given, example):
    judged.set()
    return len(given.text) / 8
  functions = {'noting': (noting, 1.0)} | named_rewards({'number': 2.0, 'format': 0.5})
  texts = [f'<think>so</think> <answer>{n % 3}</answer>' + 'a' * n for n in range(8)]
  examples = [{'answer': '1'}] * 8
  with RewardSuite(functions) as suite:
    want = suite.submit([completion(text) for text in texts], examples, group_size=4).collect()
    judged.clear()
    batch = suite.begin(group_size=4)
    for places in ([5, 2], [7], [0, 1, 3, 4, 6]):
      if places[0] == 7:
        assert judged.wait(60)    # though six are to come
      batch.add(places, [completion(texts[n]) for n in places], [examples[n] for n in places])
    got = batch.end().collect()
  np.testing.assert_array_equal(got.total, want.total)
  assert got.counters == want.counters and got.components.keys() == want.components.keys()
  for name, values in want.components.items():
    np.testing.assert_array_equal(got.components[name], values)


def test_a_failure_names_the_place_of_a_completion_that_came_early():
  def failing(given, example):
    return {'bad': math.nan}.get(given.text, 0.0)
  with RewardSuite({'failing': (failing, 1.0)}) as suite:
    batch = suite.begin()
    batch.add([2], [completion('bad')], [{}])
    batch.add([0, 1], [completion('good')] * 2, [{}] * 2)
    with pytest.raises(ValueError, match="'failing' returned nan for completion 2"):
      batch.end().collect()


@pytest.mark.parametrize('wait', [True, False])
def test_a_suite_closes_though_a_batch_has_not_ended(wait):
  suite = RewardSuite(named_rewards({'format': 1.0}) | {'one': (lambda *_: 1.0, 1.0)})
  suite.begin().add([1], [completion('x')], [{}])
  suite.close(wait=wait)
