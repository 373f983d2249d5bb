import itertools
import math

import numpy as np
import pytest

from r1jax.data.prompts import PromptBatch
from r1jax.evaluate import (
  calibration,
  evaluate,
  majority_vote,
  mean_interval,
  pass_at_k,
  readable,
  scores,
  sign_accuracy,
  task_scores,
)
from r1jax.records import Rollout
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import RewardSuite


@pytest.mark.parametrize('n', [1, 2, 5, 7])
def test_pitfall_24_pass_at_k_is_the_mean_over_all_subsets(n):
  for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
    samples = [True] * correct + [False] * (n - correct)
    drawn = [any(subset) for subset in itertools.combinations(samples, k)]
    assert pass_at_k(n, correct, k) == pytest.approx(np.mean(drawn))


def test_pass_at_k_of_many_samples_neither_overflows_nor_loses_digits():
  want = 1 - math.comb(9_990, 100) / math.comb(10_000, 100)
  assert pass_at_k(10_000, 10, 100) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize('n, c, k', [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_what_pass_at_k_cannot_say_is_refused(n, c, k):
  with pytest.raises(ValueError, match=rf'pass@{k} of {c} correct among {n} samples is undefined'):
    pass_at_k(n, c, k)


@pytest.mark.parametrize('answers, correct, want', [
    (['4', '5', '4'], [1, 0, 1], 1.0),
    (['5', '4', '5'], [0, 1, 0], 0.0),                       # right once, outvoted
    (['4', '5'], [1, 0], 0.5),                               # a tie
    (['4', '5', '6', '6', '5', '4'], [0, 0, 1, 1, 0, 0], 1 / 3),
    ([None, None, None, '4'], [0, 0, 0, 1], 1.0),            # no answer is no vote
    ([None, None], [0, 0], 0.0)])
def test_pitfall_24_majority_vote_over_answers(answers, correct, want):
  assert majority_vote(answers, [bool(x) for x in correct]) == pytest.approx(want)


def test_intervals_hold_the_mean_as_often_as_they_say():
  rng = np.random.default_rng(0)
  values = rng.binomial(4, 0.3, (1_000, 50)) / 4
  intervals = np.array([mean_interval(row) for row in values])
  np.testing.assert_allclose(intervals[:, 0], values.mean(1))
  half = 1.96 * values.std(1, ddof=1) / math.sqrt(50)
  np.testing.assert_allclose(intervals[:, 2] - intervals[:, 0], half)
  # 950 are expected to; a standard deviation is 7, so that ±40 is missed once in 10⁸.
  covered = np.sum((intervals[:, 1] <= 0.3) & (0.3 <= intervals[:, 2]))
  assert 910 < covered < 990


@pytest.mark.parametrize('values, want', [
    ([1, 1, 1], (1, 1, 1)), ([0, 0, 0, 1], (0.25, 0, 0.74)), ([1], (1, 0, 1)),
    ([10, 14], (12, 8.08, 15.92)), ([7], (7, -math.inf, math.inf))])
def test_intervals_of_shares_stay_between_0_and_1(values, want):
  assert mean_interval(values) == pytest.approx(want)


def answering(*answers, reasoning='', truncated=False, num_tokens=5):
  return [Completion(f'<think>{reasoning}x</think><answer>{answer}</answer>', num_tokens, truncated)
          for answer in answers]


def test_scores_are_over_problems():
  completions = (
      answering('1,234', '1234.0', 'many', '7')       # two ways to write the winning answer
      + answering('1', '2', '2', '3', reasoning='wait, check. ', num_tokens=9))
  correct = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
  got = scores(completions, correct, [dict(question='What is it?')] * 2, num_samples=4,
               ks=(1, 2, 4, 8))
  means = {name: mean for name, (mean, _, _) in got.items()}
  assert means == pytest.approx({
      'pass@1': (0.5 + 0.25) / 2, 'pass@2': (5 / 6 + 0.5) / 2, 'pass@4': 1,
      'majority@2': ((1 + 0) / 2 + (0.5 + 0) / 2) / 2, 'majority@4': 0.5,
      'format': 1, 'mean_length': 7, 'reflective_words': 1, 'language_mixing': 0,
      'language_consistency': 1, 'readable': 1})
  assert got['pass@1'] == pytest.approx(mean_interval([0.5, 0.25]))      # of problems, not samples


def test_a_single_sample_has_no_majority():
  got = scores(answering('1', '2'), np.array([True, False]), [dict(question='?')] * 2,
               num_samples=1)
  assert 'majority@1' not in got and 'pass@8' not in got and got['pass@1'][0] == 0.5


def test_programs_have_no_votes():
  got = scores(answering('1', '2'), np.array([True, False]), [dict(question='?')], num_samples=2,
               has_votes=False)
  assert not any(name.startswith('majority') for name in got) and got['pass@1'][0] == 0.5
  with RewardSuite({'code': (lambda completion, example: 1.0, 1.0)}) as rewards:
    got, _ = evaluate(Streaming(always_1), None, Counting(), rewards, Numbers(), num_problems=2,
                      num_samples=2, stop_ids=(50,))
  assert got['pass@1'][0] == 1 and 'majority@2' not in got


class Numbers:
  """A tokenizer whose token t reads `<answer>t</answer>`."""

  def decode_completion(self, ids, stop_ids):
    return ''.join(f'<answer>{i}</answer>' for i in ids if i not in stop_ids)


class Streaming:
  """A sampler that draws a batch as `sample` does."""

  def __init__(self, sample):
    self.sample = sample

  def stream(self, params, batches, iteration):
    return (self.sample(params, prompts, iteration) for prompts in batches)


class Counting:
  """A stream of problems 0, 1, 2, ...; the right answer to each is its number."""

  def batch(self, counter):
    ids = np.arange(counter, counter + 2, dtype=np.int32)
    return PromptBatch(ids[:, None], np.ones(2, np.int32), ids,
                       [dict(question=f'q{i}', answer=i) for i in ids], counter + 2, 0)


def always_1(params, prompts, iteration):
  zeros = np.zeros((4, 2))
  return Rollout(prompts, np.full((4, 2), [1, 50]), np.ones((4, 2)), zeros, zeros, np.ones(4, bool))


def test_evaluate_draws_each_problem_and_judges_it_by_its_own_example():
  def sample(params, prompts, iteration):
    """Two completions a prompt: the right number, and the right one for even problems only."""
    assert (params, iteration) == ('params', 3)
    ids = np.asarray(prompts.example_ids)
    answers = np.stack([ids, np.where(ids % 2, 99, ids)], 1).reshape(-1)
    tokens = np.stack([answers, np.full(4, 50)], 1)
    zeros = np.zeros(tokens.shape)
    return Rollout(prompts, tokens, np.ones(tokens.shape), zeros, zeros, np.ones(4, bool))

  def right(completion, example):
    return float(completion.text == f'<answer>{example["answer"]}</answer>')

  with RewardSuite({'right': (right, 1.0)}) as rewards:
    got, records = evaluate(
        Streaming(sample), 'params', Counting(), rewards, Numbers(), num_problems=5, num_samples=2,
        stop_ids=(50,), iteration=3, ks=(1, 2))
  assert got['pass@1'][0] == pytest.approx(0.8) and got['pass@2'][0] == 1      # of 0, 1, 2, 3, 4
  assert [record['example_id'] for record in records] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
  assert [record['rewards']['reward'] for record in records] == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
  assert records[3] | {'rewards': None} == dict(
      example_id=1, sample=1, prompt='q1', completion='<answer>99</answer>', num_tokens=2,
      truncated=False, num_prompt_tokens=1, rewards=None)


def test_calibration_of_what_is_known():
  """Coins that are what they say are calibrated; the sure and wrong are not."""
  odds = np.log(3) * np.ones(400)
  labels = np.arange(400) % 4 != 0     # three of four
  got = calibration(odds, labels)
  assert got['calibration_error'] == pytest.approx(0, abs=1e-12)
  assert got['brier'] == pytest.approx(0.75 * 0.25)
  assert got['log_loss'] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
  sure = calibration(np.array([100.0, -1000.0]), np.array([0, 0]))
  assert sure['calibration_error'] == pytest.approx(0.5 * 1)
  assert sure['brier'] == pytest.approx(0.5) and sure['log_loss'] == pytest.approx(50)
  assert calibration(np.zeros(3), np.array([1, 0, 1])) == pytest.approx(
      {'calibration_error': 0, 'brier': 0.25, 'log_loss': np.log(2)})


def test_calibration_does_not_depend_on_which_label_is_called_1():
  rng = np.random.default_rng(0)
  odds, labels, turned = rng.normal(size=200), rng.random(200) < 0.7, rng.random(200) < 0.5
  flipped = calibration(np.where(turned, -odds, odds), labels ^ turned)
  assert flipped == pytest.approx(calibration(odds, labels))
  twice = calibration(np.repeat(odds, 2), np.repeat(labels, 2), weights=np.tile([0.2, 0.3], 200))
  assert twice == pytest.approx(calibration(odds, labels))
  np.testing.assert_array_equal(sign_accuracy(np.array([2.0, -2.0, 0.0, 2.0]), [1, 1, 1, 0]),
                                [1, 0, 0.5, 0])


def test_what_was_not_judged_is_neither_right_nor_wrong():
  text = {1: '<answer>1</answer>', 0: '<answer>2</answer>'}
  rows = [[1, 0, 1, 0], [np.nan] * 4, [1, 1, np.nan, 0]]
  completions = [Completion(text[int(verdict == 1)], 9, False) for row in rows for verdict in row]
  examples = [dict(question='5+3=?', task=task) for task in 'aab']
  got = scores(completions, np.ravel(rows), examples, num_samples=4, ks=(1, 4))
  assert got['pass@1'] == mean_interval([1 / 2, 2 / 3])
  assert got['pass@4'] == mean_interval([1])
  assert got['majority@2'][0] == pytest.approx((1 / 2 + 1) / 2)
  assert got['majority@4'] == mean_interval([1 / 2])
  assert got['judged'] == mean_interval([1, 0, 3 / 4])
  assert got['pass@1/a'][0] == 1 / 2 and got['pass@1/b'][0] == pytest.approx(2 / 3)
  whole = scores(completions[:4], rows[0], examples[:1], num_samples=4)
  assert 'judged' not in whole
  nothing = scores(completions[4:8], rows[1], examples[:1], num_samples=4)
  assert nothing['judged'][0] == 0 and not {'pass@1', 'majority@4'} & nothing.keys()


def test_skills_weigh_tasks_alike_whatever_their_sizes():
  tasks, shares = ['a'] * 4 + ['b'] * 2 + [None], [1, 0, 1, 0, 1, 0.5, 0]
  got = task_scores(tasks, shares)
  assert got.keys() == {'pass@1/a', 'pass@1/b', 'skills'}
  half = 1.96 * math.sqrt((1 / 3) / 4 + (1 / 8) / 2) / 2
  assert got['skills'] == pytest.approx((0.625, 0.625 - half, min(1, 0.625 + half)))
  assert got['pass@1/a'] == mean_interval(shares[:4])
  assert task_scores(['a'] * 7, shares) == {}
  assert task_scores(['a', 'b', 'b'], [1, 0, 0])['skills'] == (0.5, 0, 1)    # one value of a


@pytest.mark.parametrize('text, want', [
    ('<think>so 5+3=8</think> <answer>8</answer>', 1), ('so 5+3=8. 8', 0),
    ('<think>so 5+3=8, 然后 8+1=9</think> <answer>9</answer>', 0),
    ('<think>```x```</think> <answer>9</answer>', 0),
    (f'<think>{"so it is then " * 20}</think> <answer>9</answer>', 0)])
def test_what_is_readable(text, want):
  completions, examples = [Completion(text, 9, False)], [dict(question='What is it?')]
  assert readable(completions, examples) == [want]
  inside = [Completion(text.removeprefix('<think>'), 9, False)]
  assert readable(inside, examples, prompt_opens_think=True) == [want]


def test_language_consistency_is_over_what_can_be_judged():
  mixed = Completion('<think>then 然后</think> 8', 9, False)
  completions = [mixed] * 5 + [Completion('', 9, False)]
  examples = [dict(question='5+3=?'), *[dict(question='5+3=?', language='zh')] * 2]
  got = scores(completions, np.zeros(6, bool), examples, num_samples=2)
  assert got['language_consistency'][0] == pytest.approx((2 / 3 + (2 / 3 + 0) / 2) / 2)
  assert 'language_consistency' not in scores(
      completions[:2], np.zeros(2, bool), examples[:1], num_samples=2)
