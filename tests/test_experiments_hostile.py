"""A few of the random texts of experiments/benchmarks/hostile.py, without worker processes."""
import pytest

from r1jax.experiments.benchmarks import hostile
from r1jax.rewards import suite, workers


class Undecided:
  def equivalent(self, gold, answer):
    return (None, False, True)[len(answer) % 3]


@pytest.fixture
def undecided():
  before = workers.current_pool()
  workers.use_pool(Undecided())
  yield
  workers.use_pool(before)


def test_pitfall_15_no_text_makes_a_reward_raise_take_long_or_leave_its_range(undecided):
  rows = hostile.examine(600, seed=1, largest=20_000)
  assert {row['reward'] for row in rows} > set(suite.REWARDS)
  for row in rows:
    assert row['texts'] == 600 and not row['faults'], row
  assert any(0 < row['unjudged'] < 600 for row in rows)


def test_outliers_are_among_the_texts():
  kinds = {kind for kind, _, _ in hostile.hostile_texts(600, seed=0, largest=5000)}
  assert kinds > {kind.__name__ for kind in hostile.KINDS} and len(kinds) == len(hostile.KINDS) + 1


def test_faults_are_found(undecided, monkeypatch):
  def picky(completion, example):
    return 1 / (len(completion.text) % 2) + len(completion.text) // 1000

  monkeypatch.setattr(suite, 'REWARDS', {
      **suite.REWARDS, 'picky': picky, 'slow': lambda completion, example: 0.0})
  monkeypatch.setattr(hostile.calls, 'limits_of', lambda function: hostile.calls.Limits(
      1, -1.0 if function is suite.REWARDS['slow'] else 1e9))
  faults = {row['reward']: row['faults'] for row in hostile.examine(30, largest=3000)}
  assert any(fault.startswith('raised ZeroDivisionError') for fault in faults['picky'])
  assert any(fault.startswith('returned 3.0') or fault.startswith('returned 2.0')
             for fault in faults['picky'])
  assert len(faults['slow']) == 30 and faults['slow'][0].startswith('took 0.0 s on ')
  assert not faults['exact_match']
