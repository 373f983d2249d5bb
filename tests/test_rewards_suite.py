"""Rewards composed: weights, None, counters, errors, order."""

from fractions import Fraction
import math
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import REWARDS, Rewards, RewardSuite, named_rewards


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
def test_what_a_reward_cannot_judge_is_not_punished(a, b, total):
  columns = {'a': ([*a, 1, 0, 1, 0], 1.0), 'b': ([*b, 0, 0, 0, 0], 2.0),
             'logged': ([None, 1] * 4, 0.0)}
  rewards = compute({name: (lambda c, e, values=values: values[int(c.text)], weight)
                     for name, (values, weight) in columns.items()}, '01234567', group_size=4)
  np.testing.assert_array_equal(rewards.total, [*total, 1, 0, 1, 0])
  assert rewards.counters['unjudged/reward'] == np.isnan(total).sum()


def test_totals_that_overflow_are_refused_by_name():
  with pytest.raises(ValueError, match="^Reward 'big' of completion 1 is 1e.17, times its weight 1"
                     '000.0, which makes a total beyond 1e.18: lower the weight'):
    compute({'small': (lambda c, e: None, 1.0),
             'big': (lambda c, e: 1e17 * bool(c.text), 1000.0)}, ['', 'x'])


def test_the_rewards_of_the_table_by_name():
  good = '<think>a</think> <answer>42</answer>'
  rewards = compute(
      named_rewards({'format': 1.0, 'number': 1.0, 'gsm8k': 1.0, 'choice': 1.0, 'exact_match': 1,
                     'language_en': 1.0, 'language_zh': 1.0}),
      [good, good.removeprefix('<think>'), '42.'], ['42'] * 3)
  table = {'format': [1, 0, 0], 'number': [1, 1, 1], 'gsm8k': [1, 1, 1],
           'choice': [math.nan] * 3, 'exact_match': [1, 1, 0],
           'language_en': [1, 1, 1], 'language_zh': [1, 1, 1]}
  assert set(REWARDS) - set(table) == {
      'language', 'language_de', 'language_es', 'language_fr', 'skill'}
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


def test_pitfall_16_workers_answer_in_order_and_one_that_hangs_costs_only_itself():
  texts = [r'\sqrt{12}', '99^{98^{97}}', r'2\sqrt{3}+0', r'2\sqrt{5}', r'\sqrt{4}\sqrt{3}', '7']
  completions = [completion(f'<answer>{text}</answer>') for text in texts]
  examples = [{'answer': r'2\sqrt{3}'}] * 5 + [{'answer': '7'}]
  with RewardSuite(named_rewards({'number': 1.0}), num_workers=1, timeout_s=3.0) as suite:
    first = suite.submit(completions, examples)
    second = suite.submit(completions[2:], examples[2:])
    assert first.collect().components['number'].tolist() == [1, 0, 1, 0, 1, 1]
    none = {'unjudged/number': 0, 'unjudged/reward': 0, 'timeouts': 0, 'crashes': 0}
    assert first.collect().counters == none | {'timeouts': 1}
    assert second.collect().components['number'].tolist() == [1, 0, 1, 1]
    assert second.collect().counters == none


@pytest.mark.parametrize('value', [
    math.nan, math.inf, -math.inf, np.float32('nan'), '1', [1.0], 1j, np.zeros(2), 10**400],
    ids=lambda value: repr(value)[:20])
def test_pitfall_07_what_is_no_finite_number_is_refused_by_name(value):
  with pytest.raises(ValueError, match="^Reward function 'mine' returned .* for completion 1: let"):
    compute({'mine': (lambda c, e: value if c.text else 0.0, 1.0)}, ['', 'x', ''])


def test_numbers_of_any_kind_are_taken():
  values = (1, True, np.float32(0.5), np.int64(3), Fraction(1, 4), np.bool_(True))
  rewards = compute({'mine': (lambda c, e: values[int(c.text)], 1.0)}, list('012345'))
  assert rewards.total.tolist() == [1.0, 1.0, 0.5, 3.0, 0.25, 1.0]


def test_an_exception_is_told_with_its_cause():
  message = r"^Reward function 'mine' raised KeyError\('key'\) on completion 2: fix it"
  with pytest.raises(ValueError, match=message) as raised:
    compute({'mine': (lambda c, e: {'x': 1.0}[c.text], 1.0)}, ['x', 'x', 'key'])
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
  with pytest.raises(ValueError, match='needs at least one reward function'):
    RewardSuite({})
  with pytest.raises(ValueError, match="weight of reward 'format' is nan: give a finite"):
    RewardSuite(named_rewards({'format': math.nan}))
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
