"""Advantages against float64 numpy written with loops, and the properties that they must keep."""
import functools
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
from loss_cases import HOLES, MASK, float32
import numpy as np
import pytest

from r1jax import advantages
from r1jax.advantages import gae, group_relative, leave_one_out, reward_to_go, whiten

pytestmark = pytest.mark.usefixtures('strict_ranks')

RNG = np.random.default_rng(7)
TOKENS = {name: np.float32(RNG.normal(size=MASK.shape)) for name in ('rewards', 'values')}
GROUPED = np.float32(RNG.normal(size=(4, 3)))


# Groups.

@pytest.mark.parametrize('group_size', [2, 3, 8])
def test_group_relative_equals_float64_numpy(group_size):
  rewards = np.random.default_rng(group_size).normal(size=(5, group_size))
  centred = rewards - rewards.mean(1, keepdims=True)
  # The convention: squares are divided by G − 1, epsilon is added to the deviation.
  deviation = np.sqrt((centred ** 2).sum(1, keepdims=True) / (group_size - 1))
  got = group_relative(jnp.asarray(rewards, jnp.float32), epsilon=1e-2)
  assert got.shape == (5 * group_size,) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, (centred / (deviation + 1e-2)).ravel(), atol=1e-5)
  got = group_relative(jnp.asarray(rewards, jnp.float32), scale='none')
  np.testing.assert_allclose(got, centred.ravel(), atol=1e-5)
  got = group_relative(jnp.asarray(rewards, jnp.float32), scale='batch', epsilon=1e-2)
  np.testing.assert_allclose(got, (centred / (rewards.std(ddof=1) + 1e-2)).ravel(), atol=1e-5)


@pytest.mark.parametrize('group_size', [2, 3, 8])
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(group_size):
  rewards = np.random.default_rng(group_size).normal(size=(5, group_size))
  want = [r[i] - np.delete(r, i).mean() for r in rewards for i in range(group_size)]
  np.testing.assert_allclose(leave_one_out(jnp.asarray(rewards, jnp.float32)), want, atol=1e-5)


BASELINES = {
    'std': jax.jit(group_relative), 'leave_one_out': jax.jit(leave_one_out),
    'batch': jax.jit(functools.partial(group_relative, scale='batch')),
    'none': jax.jit(functools.partial(group_relative, scale='none')),
    'beta': jax.jit(advantages.beta_normalized)}


@pytest.mark.parametrize('baseline', BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize('reward', [0.1, 1 / 3, 0.7, 0.0, 1.0])
def test_pitfall_07_equal_rewards_give_exactly_zero(reward, baseline):
  rewards = np.full((3, 7), reward, np.float32)
  rewards[2, 0] += -0.1 if reward > 0.5 else 0.1
  got = np.reshape(baseline(rewards), (3, 7))
  np.testing.assert_array_equal(got[:2], np.zeros((2, 7)))
  assert np.all(got[2] != 0) and np.all(np.sign(got[2, 1:]) == -np.sign(got[2, 0]))


@pytest.mark.parametrize('reward', [1e6 + 0.1, -0.7])
def test_pitfall_07_equal_rewards_of_any_size_give_exactly_zero(reward):
  rewards = jnp.full((2, 7), reward, jnp.float32)
  for baseline in (group_relative, leave_one_out, advantages.batch_normalized):
    np.testing.assert_array_equal(baseline(rewards), np.zeros(14))
  np.testing.assert_array_equal(advantages.per_reward(rewards[..., None]), np.zeros(14))


def test_pitfall_07_fractional_rewards_survive_and_integers_are_not_divided_as_such():
  got = group_relative(jnp.array([[0.25, 0.5, 0.75]]), epsilon=0.0)
  np.testing.assert_allclose(got, [-1, 0, 1], atol=1e-6)
  np.testing.assert_allclose(group_relative(jnp.array([[0, 0, 1]]), scale='none'),
                             [-1 / 3, -1 / 3, 2 / 3], atol=1e-6)


@pytest.mark.parametrize('baseline', [BASELINES['std'], BASELINES['leave_one_out']])
def test_pitfall_07_a_group_does_not_see_the_others(baseline):
  rewards = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
  alone = np.concatenate([baseline(row[None]) for row in rewards])
  np.testing.assert_array_equal(baseline(rewards), alone)


@pytest.mark.parametrize('baseline', BASELINES.values(), ids=BASELINES)
def test_pitfall_07_what_could_not_be_judged_gets_zero_and_leaves_its_group_alone(baseline):
  rewards = np.float32([[0, 1, 1, 0], [1, 0, 0, 1]])
  unjudged = np.insert(rewards, 2, np.nan, 1)
  got = np.reshape(baseline(unjudged), (2, 5))
  np.testing.assert_array_equal(got[:, 2], [0, 0])
  np.testing.assert_allclose(np.delete(got, 2, 1).ravel(), baseline(rewards), rtol=1e-6)
  np.testing.assert_array_equal(
      baseline(np.float32([[np.nan, np.nan, np.nan], [1, np.nan, np.nan]])), np.zeros(6))


def test_batch_normalized_equals_float64_numpy():
  want = (GROUPED - GROUPED.mean(dtype=np.float64)) / GROUPED.std(dtype=np.float64)
  np.testing.assert_allclose(advantages.batch_normalized(GROUPED), want.ravel(), rtol=1e-5)
  with_nan = np.concatenate([GROUPED, np.full((1, 3), np.nan, np.float32)])
  np.testing.assert_allclose(
      advantages.batch_normalized(with_nan), np.append(want.ravel(), [0, 0, 0]), rtol=1e-5)


@pytest.mark.parametrize('weights', [None, float32([1.0, 0.3])])
def test_per_reward_equals_float64_numpy(weights):
  rewards = np.float32(RNG.normal(size=(4, 3, 2)))
  each = np.float64(rewards)
  scaled = (each - each.mean(1, keepdims=True)) / (each.std(1, ddof=1, keepdims=True) + 1e-6)
  total = np.sum(scaled * (1 if weights is None else np.float64(weights)), -1).ravel()
  np.testing.assert_allclose(advantages.per_reward(rewards, weights),
                             (total - total.mean()) / total.std(), atol=1e-5)


def test_per_reward_tells_apart_what_a_sum_does_not():
  """A rare reward against a common one, of equal sums: GDPO's point."""
  rewards = np.float32([[[1, 0], [0, 1], [0, 1], [0, 0]]])
  of_sum = group_relative(rewards.sum(-1))
  assert of_sum[0] == of_sum[1]
  apart = advantages.per_reward(rewards)
  assert apart[0] > apart[1] > apart[3]
  unjudged = rewards.copy()
  unjudged[0, 0, 1] = np.nan      # one of its rewards: the other still counts
  assert np.all(np.isfinite(advantages.per_reward(unjudged)))


def test_beta_normalized_equals_its_formula_and_has_its_special_cases():
  rewards = np.float32([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
  p = np.array([0.25, 0.5, 0.75, 0])
  mean, variance = p.mean(), p.var()
  size = mean * (1 - mean) / variance - 1
  alpha, beta = 1 + mean * size / 3, 1 + (1 - mean) * size / 3
  from math import gamma
  density = (p ** (alpha - 1) * (1 - p) ** (beta - 1) * gamma(alpha + beta)
             / gamma(alpha) / gamma(beta))
  want = (rewards - p[:, None])[:3] / density[:3, None]
  beta_normalized = jax.jit(advantages.beta_normalized, static_argnames='max_concentration')
  got = np.reshape(beta_normalized(rewards), (4, 4))
  np.testing.assert_allclose(got[:3], want, rtol=1e-5)
  np.testing.assert_array_equal(got[3], np.zeros(4))
  # Groups all right or all wrong are as far apart as can be: α = β = 1, REINFORCE with a baseline.
  flat = np.float32([[1, 0], [1, 1], [0, 0]])
  np.testing.assert_allclose(
      beta_normalized(flat, max_concentration=0.0), [0.5, -0.5, 0, 0, 0, 0], atol=1e-6)
  alike = np.asarray(beta_normalized(np.float32([[1, 0], [0, 1]])))     # no variance to divide by
  assert np.all(np.isfinite(alike)) and np.all(alike != 0)


# Tokens.

def reference_gae(rewards, values, mask, gamma, lam, final):
  out = np.zeros(rewards.shape)
  for n in range(len(rewards)):
    places = np.flatnonzero(mask[n])
    following, advantage = final[n], 0.0
    for t in places[::-1]:
      delta = np.float64(rewards[n, t]) + gamma * following - np.float64(values[n, t])
      advantage = delta + gamma * lam * advantage
      out[n, t], following = advantage, np.float64(values[n, t])
  return out


@pytest.mark.parametrize('mask', [MASK, HOLES])
@pytest.mark.parametrize('gamma, lam', [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_gae_equals_the_reference(mask, gamma, lam):
  for final in (None, np.float32(RNG.normal(size=len(mask)))):
    got, returns = gae(**TOKENS, completion_mask=mask, gamma=gamma, gae_lambda=lam,
                       final_values=final)
    want = reference_gae(**TOKENS, mask=mask, gamma=gamma, lam=lam,
                         final=np.zeros(len(mask)) if final is None else final)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(returns, want + TOKENS['values'] * mask, atol=1e-5)


def test_gae_at_lambda_1_is_return_less_value_and_at_0_the_temporal_difference():
  got, returns = gae(**TOKENS, completion_mask=MASK, gae_lambda=1.0)
  to_go = np.cumsum((TOKENS['rewards'] * MASK)[:, ::-1], 1)[:, ::-1]
  np.testing.assert_allclose(got, (to_go - TOKENS['values']) * MASK, atol=1e-5)
  np.testing.assert_allclose(returns, to_go * MASK, atol=1e-5)
  np.testing.assert_allclose(reward_to_go(TOKENS['rewards'], MASK), to_go * MASK, atol=1e-5)
  following = np.pad(TOKENS['values'] * MASK, ((0, 0), (0, 1)))[:, 1:]
  got, _ = gae(**TOKENS, completion_mask=MASK, gae_lambda=0.0, gamma=0.9)
  np.testing.assert_allclose(
      got, (TOKENS['rewards'] + 0.9 * following - TOKENS['values']) * MASK, atol=1e-5)


jitted_gae = jax.jit(functools.partial(gae, gae_lambda=0.9))


@hypothesis.settings(deadline=None, derandomize=True, max_examples=30)
@hypothesis.given(st.lists(st.integers(0, 8), min_size=5, max_size=5, unique=True))
def test_pitfall_04_padding_anywhere_changes_no_bit(places):
  """Five columns among nine, wherever: junk between and after them is not seen."""
  places = sorted(places)

  def moved(x, fill):
    wide = np.full((len(x), 9), fill, np.float32)
    wide[:, places] = x
    return wide

  junk = {name: moved(x, np.nan) for name, x in TOKENS.items()}
  jax.tree.map(
      lambda wide, x: np.testing.assert_array_equal(wide, moved(x, 0)),
      jitted_gae(**junk, completion_mask=moved(MASK, 0)),
      jitted_gae(**TOKENS, completion_mask=MASK))


def test_gae_equals_rlax():
  rlax = pytest.importorskip('rlax', reason='rlax is not installed')
  rewards, values = (jnp.asarray(TOKENS[name][0]) for name in ('rewards', 'values'))
  ones = jnp.ones((1, 5))
  want = rlax.truncated_generalized_advantage_estimation(
      rewards, jnp.full(5, 0.9), 0.8, jnp.append(values, 0.5))
  got, _ = gae(rewards[None], values[None], ones, gamma=0.9, gae_lambda=0.8,
               final_values=jnp.array([0.5]))
  np.testing.assert_allclose(got[0], want, rtol=1e-5)
  np.testing.assert_allclose(
      reward_to_go(rewards[None], ones, gamma=0.9)[0],
      rlax.discounted_returns(rewards, jnp.full(5, 0.9), jnp.zeros(5)), rtol=1e-5)


def test_process_relative_equals_float64_numpy():
  steps = np.zeros_like(MASK)
  steps[[0, 0, 1, 3, 3, 4, 5], [1, 4, 1, 0, 3, 0, 2]] = 1
  rewards = np.where(steps == 1, TOKENS['rewards'], np.nan)
  want = np.zeros(MASK.shape)
  for group in (range(0, 3), range(3, 6)):
    found = [np.float64(rewards[n, t]) for n in group for t in np.flatnonzero(steps[n])]
    mean, deviation = np.mean(found), np.std(found, ddof=1)
    for n in group:
      for t in range(5):
        want[n, t] = sum((rewards[n, s] - mean) / (deviation + 1e-6)
                         for s in np.flatnonzero(steps[n]) if s >= t)
  got = advantages.process_relative(rewards, steps, group_size=3)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.all(got[2] == 0) and np.all(got[0] != 0)
  with pytest.raises(ValueError, match='group_size must divide the 6 rows of step_rewards, got 4'):
    advantages.process_relative(rewards, steps, group_size=4)


@pytest.mark.parametrize('mask', [MASK, HOLES])
def test_whiten_equals_float64_numpy(mask):
  values, kept = TOKENS['values'], mask == 1
  mean, variance = np.float64(values)[kept].mean(), np.float64(values)[kept].var()
  want = np.where(kept, (values - mean) / np.sqrt(variance + 1e-3), 0)
  np.testing.assert_allclose(whiten(values, mask, epsilon=1e-3), want, atol=1e-5)
  np.testing.assert_allclose(whiten(values, mask, epsilon=1e-3, shift_mean=False),
                             np.where(kept, want + mean, 0), atol=1e-5)


def test_whiten_does_not_see_padding_and_leaves_equal_values_at_zero():
  values = np.where(MASK == 0, np.float32(np.nan), TOKENS['values'])
  order = np.random.default_rng(0).permutation(6)
  np.testing.assert_array_equal(whiten(values, MASK), whiten(TOKENS['values'], MASK))
  np.testing.assert_allclose(whiten(values[order], MASK[order]), whiten(values, MASK)[order],
                             rtol=1e-5)
  equal = np.full_like(MASK, 0.1)
  np.testing.assert_array_equal(whiten(equal, MASK), 0 * MASK)
  np.testing.assert_allclose(whiten(equal, MASK, shift_mean=False), equal * MASK, rtol=1e-6)
  np.testing.assert_array_equal(whiten(values, 0 * MASK), 0 * MASK)


@pytest.mark.parametrize('mask', [MASK, HOLES])
@pytest.mark.parametrize('estimator', ['k1', 'k3'])
def test_token_rewards_put_the_reward_on_the_last_token_and_the_kl_on_all(mask, estimator):
  rewards = np.float32(RNG.normal(size=6))
  new, reference = TOKENS['rewards'] - 2, TOKENS['values'] - 2
  got = advantages.token_rewards(rewards, np.where(mask == 0, np.float32(np.nan), new), reference,
                                 mask, kl_coefficient=0.1, kl_estimator=estimator)
  x = np.float64(new) - reference
  want = -0.1 * {'k1': x, 'k3': np.exp(-x) + x - 1}[estimator] * mask
  for n in range(6):
    if mask[n].any():
      want[n, np.flatnonzero(mask[n])[-1]] += rewards[n]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_reinforce_pp_is_the_whitened_return_of_the_token_rewards():
  rewards = np.float32(RNG.normal(size=6))
  new, reference = TOKENS['rewards'] - 2, TOKENS['values'] - 2
  got = advantages.reinforce_pp(rewards, new, reference, MASK, kl_coefficient=0.1)
  per_token = -0.1 * (np.float64(new) - reference) * MASK
  to_go = rewards[:, None] + np.cumsum(per_token[:, ::-1], 1)[:, ::-1]
  kept = to_go[MASK == 1]
  np.testing.assert_allclose(got, (to_go - kept.mean()) / kept.std() * MASK, atol=1e-5)


def test_reinforce_pp_with_baseline_subtracts_the_groups_mean_first():
  rewards = np.float32(RNG.normal(size=(2, 3)))
  got = advantages.reinforce_pp_baseline(rewards, MASK)
  centred = np.repeat((rewards - rewards.mean(1, keepdims=True, dtype=np.float64)).ravel(), 5)
  centred = centred.reshape(6, 5)
  kept = centred[MASK == 1]
  np.testing.assert_allclose(got, (centred - kept.mean()) / kept.std() * MASK, atol=1e-5)
  with pytest.raises(ValueError, match='completion_mask must have B·G = 12 rows, got 6'):
    advantages.reinforce_pp_baseline(GROUPED, MASK)


UNJUDGED = {
    'group_relative': lambda r, m: group_relative(r),
    'batch': lambda r, m: group_relative(r, scale='batch'),
    'none': lambda r, m: group_relative(r, scale='none'),
    'leave_one_out': lambda r, m: leave_one_out(r),
    'batch_normalized': lambda r, m: advantages.batch_normalized(r),
    'beta_normalized': lambda r, m: advantages.beta_normalized(jnp.where(r > 0, 1.0, 0.0 * r)),
    'per_reward': lambda r, m: advantages.per_reward(jnp.stack([r, 0.5 * r ** 2], -1)),
    'baseline': lambda r, m: advantages.reinforce_pp_baseline(r, m),
    'reinforce_pp': lambda r, m: advantages.reinforce_pp(
        r.reshape(-1), 0.5 * m, -0.1 * m, m, kl_coefficient=0.1),
    'gae': lambda r, m: gae(jnp.zeros_like(m).at[:, 0].set(r.reshape(-1)), 0.3 * m, m)[0],
    'to_go': lambda r, m: reward_to_go(jnp.zeros_like(m).at[:, 0].set(r.reshape(-1)), m),
    'group_filter': lambda r, m: advantages.group_filter(r)}


@pytest.mark.parametrize('call', [*map(jax.jit, UNJUDGED.values())], ids=UNJUDGED)
@hypothesis.settings(deadline=None, derandomize=True, max_examples=4)
@hypothesis.given(st.data())
def test_the_others_get_what_they_would_get_without_the_unjudged(call, data):
  """One completion of each group is not judged, any one of them."""
  rewards = np.float32(data.draw(st.lists(
      st.integers(-4, 4), min_size=12, max_size=12))).reshape(3, 4) / 4
  places = np.array(data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)))
  lengths = np.array(data.draw(st.lists(st.integers(1, 5), min_size=12, max_size=12)))
  mask = np.float32(np.arange(5) < lengths[:, None])
  gone = np.zeros((3, 4), bool)
  gone[np.arange(3), places] = True
  got = np.asarray(call(np.where(gone, np.nan, rewards), mask))
  want = call(rewards[~gone].reshape(3, 3), mask[~gone.ravel()])
  if got.dtype == bool:
    np.testing.assert_array_equal(got, want)
    return
  np.testing.assert_allclose(got[~gone.ravel()], want, rtol=2e-5, atol=1e-6)
  np.testing.assert_array_equal(got[gone.ravel()], 0 * got[gone.ravel()])


def test_a_critic_does_not_learn_from_what_was_not_judged():
  rewards = np.where(MASK == 1, TOKENS['rewards'], np.nan)
  rewards[0, 1] = np.nan
  found, returns = gae(rewards, TOKENS['values'], MASK)
  assert not np.any(found[0]) and np.isnan(returns[0][MASK[0] == 1]).all()
  whole, whole_returns = gae(TOKENS['rewards'], TOKENS['values'], MASK)
  np.testing.assert_array_equal(found[1:], whole[1:])
  np.testing.assert_array_equal(returns[1:], whole_returns[1:])


# DAPO's filter and penalty.

def test_group_filter_keeps_groups_with_some_right_and_some_wrong():
  correct = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
  for given in (correct, correct == 1, np.float32(correct), 2.0 * correct - 1):
    np.testing.assert_array_equal(advantages.group_filter(given), [False, True, True, False])
  unjudged = np.float32([[np.nan, 1, 1], [np.nan, 1, 0], [np.nan] * 3, [np.nan, 0, 0]])
  np.testing.assert_array_equal(
      advantages.group_filter(unjudged), [False, True, False, False])


def test_overlong_penalty_counts_tokens():
  lengths = np.array([0, 16_384, 16_385, 18_432, 20_480, 30_000])
  np.testing.assert_allclose(
      advantages.overlong_penalty(lengths, max_length=20_480, buffer=4096),
      [0, 0, -1 / 4096, -0.5, -1, -1], atol=1e-7)
  with pytest.raises(ValueError, match='buffer must be between 1 and .*, got 0'):
    advantages.overlong_penalty(lengths, max_length=10, buffer=0)


# All of them.

CALLS = {
    'group_relative': lambda x, y, m: group_relative(x[:, :3]),
    'batch': lambda x, y, m: group_relative(x[:, :3], scale='batch'),
    'leave_one_out': lambda x, y, m: leave_one_out(x[:, :3]),
    'batch_normalized': lambda x, y, m: advantages.batch_normalized(x[:, :3]),
    'per_reward': lambda x, y, m: advantages.per_reward(jnp.stack([x, y], -1)),
    'beta_normalized': lambda x, y, m: advantages.beta_normalized((x > 0).astype(jnp.float32)),
    'process_relative': lambda x, y, m: advantages.process_relative(x, m, group_size=3),
    'reward_to_go': lambda x, y, m: reward_to_go(x, m),
    'gae': lambda x, y, m: gae(x, y, m, gae_lambda=0.9)[0],
    'returns': lambda x, y, m: gae(x, y, m, gae_lambda=0.9)[1],
    'whiten': lambda x, y, m: whiten(x, m),
    'token_rewards': lambda x, y, m: advantages.token_rewards(
        x[:, 0], x, y, m, kl_coefficient=0.1),
    'reinforce_pp': lambda x, y, m: advantages.reinforce_pp(x[:, 0], x, y, m, kl_coefficient=0.1),
    'baseline': lambda x, y, m: advantages.reinforce_pp_baseline(x[:2, :3], m)}


@pytest.mark.parametrize('call', [*map(jax.jit, CALLS.values())], ids=CALLS)
def test_no_gradient_float32_from_bfloat16_and_the_same_on_eight_devices(call):
  x, y = TOKENS['rewards'], TOKENS['values']
  want = call(x, y, MASK)
  slope = np.arange(want.size, dtype=np.float32).reshape(want.shape)
  gradients = jax.jit(jax.grad(lambda x, y: jnp.sum(call(x, y, MASK) * slope), (0, 1)))(x, y)
  assert not np.any(gradients[0]) and not np.any(gradients[1])

  half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)
  got = call(*half, MASK)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, call(*(np.float32(z) for z in half), MASK), rtol=1e-5, atol=1e-6)

  if len(jax.devices('cpu')) == 8:
    mesh = jax.make_mesh((2,), ('rows',), devices=jax.devices('cpu')[:2],
                         axis_types=(jax.sharding.AxisType.Auto,))

    def place(x):
      return jax.device_put(x, jax.sharding.NamedSharding(
          mesh, jax.sharding.PartitionSpec('rows')))

    np.testing.assert_allclose(
        call(place(x), place(y), place(MASK)), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape, scale, message', [
    ((3, 1), 'std', "groups must have at least 2 rewards with scale='std', got 1"),
    ((6,), 'std', r'rewards must have shape \[B, G\], got \[6\]'),
    ((2, 3), 'mad', "scale='mad' is unknown: .*known: std, batch, none")])
def test_what_cannot_be_is_refused(shape, scale, message):
  with pytest.raises(ValueError, match=message):
    group_relative(jnp.zeros(shape), scale=scale)


@pytest.mark.parametrize('call, message', [
    (lambda: leave_one_out(jnp.zeros((3, 1))),
     'groups must have at least 2 rewards to leave one out, got 1'),
    (lambda: leave_one_out(cast(Any, [[1.0, 0.0]])),
     r'rewards must have shape \[B, G\], got a list'),
    (lambda: advantages.batch_normalized(jnp.zeros(3)), r'must have shape \[B, G\]'),
    (lambda: advantages.per_reward(jnp.zeros((2, 3))), r'must have shape \[B, G, K\]'),
    (lambda: advantages.per_reward(jnp.zeros((2, 3, 2)), jnp.ones(3)),
     r'weights must have shape .*, got \[3\]'),
    (lambda: advantages.per_reward(jnp.zeros((2, 1, 2))),
     'groups must have at least 2 completions, got 1'),
    (lambda: gae(MASK, MASK[:, :4], MASK), r'values must have shape \[6, 5\], got \[6, 4\]'),
    (lambda: gae(MASK, MASK, MASK, final_values=MASK),
     r'final_values must have shape .*, got \[6, 5\]'),
    (lambda: gae(MASK, jnp.ones((6, 5), jnp.int32), MASK),
     'values must have a floating-point dtype, got int32'),
    (lambda: gae(MASK, MASK, MASK, gamma=-1.0), 'gamma must be at least 0, got -1.0'),
    (lambda: reward_to_go(MASK[0], MASK[0]), r'rewards must have shape \[N, C\], got \[5\]'),
    (lambda: whiten(MASK, MASK[0]), r'mask must have shape \[6, 5\], got \[5\]'),
    (lambda: advantages.token_rewards(MASK, MASK, MASK, MASK, kl_coefficient=1.0),
     r'rewards must have shape \[6\], got \[6, 5\]'),
    (lambda: advantages.token_rewards(MASK[:, 0], MASK, MASK, MASK, kl_coefficient=1.0,
                                      kl_estimator='k4'), "kl_estimator='k4' is unknown"),
    (lambda: advantages.group_filter(jnp.zeros(3)),
     r'correct must have shape \[B, G\], got \[3\]')])
def test_what_does_not_fit_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
