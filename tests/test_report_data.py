"""The numbers of a made-up chain, against counts by hand and the evaluations' own scores."""
import chains
import numpy as np
import pytest
import runs

from r1jax.models import compute
from r1jax.report import data


@pytest.fixture(scope='module')
def artifacts(tmp_path_factory):
  return chains.make_chain(tmp_path_factory.mktemp('chain'))


def test_a_chain_adds_each_ancestor_once(artifacts):
  before = data.chain_compute(artifacts, chains.CONFIGS)
  assert {name: found.total for name, found in before.items()} == {
      'zero': 0, 'draw': 1, 'cold': 11, 'helpful': 0, 'all': 1111, 'rates': 0}
  path = data.read_trajectory(artifacts['all'], before['all'])
  assert path.computed[-1] == pytest.approx(1111 + 40 * 5e12)


def test_programs_have_no_votes(artifacts, monkeypatch):
  assert data.read_votes(artifacts['zero'])
  monkeypatch.setattr(data, 'WITHOUT_VOTES', {'reward'})    # the only one of the made-up chain
  assert data.read_votes(artifacts['zero']) is None


@pytest.mark.parametrize('count', [1, 5, 8])
def test_votes_and_budgets_are_those_of_the_samples(count):
  rows = chains.samples(0, 0.5, count)
  found, scores = data.votes_of(rows, runs.SHAPE), chains.scores_of(rows, count)
  assert list(found.by_votes) == {1: [1], 5: [1, 2, 4], 8: [1, 2, 4, 8]}[count]
  if count == 8:
    assert found.by_votes[8] == scores['majority@8']
    assert found.operations[8] == pytest.approx(
        compute.evaluating(runs.SHAPE, rows).evaluated / 20)
    assert found.tokens[8] == pytest.approx(8 * found.tokens[1])
  if count == 5:     # blocks are disjoint: the fifth sample has no part in a vote of four
    assert found.tokens[4] == pytest.approx(np.sum(
        [r['num_tokens'] for r in rows if r['sample'] < 4]) / 20)
  blocks = [rows[i * count + j] for i in range(20) for j in range(count)]
  for budget, value in found.by_budget.items():
    assert value[0] == pytest.approx(np.mean([
        r['rewards']['reward'] == 1 and not r['truncated'] and r['num_tokens'] <= budget
        for r in blocks]))
  assert max(found.by_budget) >= max(r['num_tokens'] for r in rows)


def test_a_reward_model_and_the_truth_are_compared_where_both_are_there(artifacts):
  trajectory = data.read_trajectory(artifacts['all'], compute.Compute())
  assert data.rewards_and_truth(trajectory) == {
      'helpful': [(step, step / 50, 1 - step / 50) for step in range(12, 41, 2)]}
  without = data.read_trajectory(artifacts['zero'], compute.Compute())
  assert data.rewards_and_truth(without) == {}
