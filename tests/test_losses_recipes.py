"""The named losses: each against its paper's formula, and the cases in which they coincide."""
import functools

import jax
import jax.numpy as jnp
from loss_cases import MASK, chosen, example, reference_loss, value_and_grad
import numpy as np
import pytest

from r1jax import losses

pytestmark = pytest.mark.usefixtures('strict_ranks')

KEYS = ('logprobs', 'old_logprobs', 'advantages')
LOSSES = {
    'grpo': losses.grpo_loss, 'dr_grpo': functools.partial(losses.dr_grpo_loss, max_length=7),
    'dapo': losses.dapo_loss, 'bnpo': losses.bnpo_loss, 'gspo': losses.gspo_loss,
    'gspo_token': losses.gspo_token_loss, 'cispo': losses.cispo_loss, 'rloo': losses.rloo_loss,
    'reinforce_pp': losses.reinforce_pp_loss, 'ppo_clip': losses.ppo_clip_loss,
    'ppo_kl': functools.partial(losses.ppo_kl_loss, old_kl_coefficient=0.5)}


def plain(seed=0, shape=MASK.shape):
  return {name: x for name, x in example(seed, shape).items() if name in KEYS}


def full(x):
  """[N] to [N, C] of float64."""
  return np.repeat(np.float64(x)[:, None], MASK.shape[1], 1)


def mean(x, axis=None):
  return np.sum(x * MASK, axis) / np.maximum(np.sum(MASK, axis), 1)


def papers(name):
  """The loss as its paper writes it, of whole arrays, in float64."""
  args = plain()
  p, o, a = np.float64(args['logprobs']), np.float64(args['old_logprobs']), full(args['advantages'])
  r, x = np.exp(p - o), p - o

  def clipped(r, low, high):
    return np.minimum(r * a, np.clip(r, 1 - low, 1 + high) * a)

  def whole(rows):
    return np.exp(np.repeat(rows[:, None], 5, 1))

  def by_sequence(x):
    return np.mean(mean(x, 1))

  return -{
      'grpo': lambda: by_sequence(clipped(r, 0.2, 0.2)),
      'dr_grpo': lambda: np.sum(clipped(r, 0.2, 0.2) * MASK) / (6 * 7),
      'dapo': lambda: mean(clipped(r, 0.2, 0.28)),
      'bnpo': lambda: mean(clipped(r, 0.2, 0.2)),
      'gspo': lambda: by_sequence(clipped(whole(mean(x, 1)), 3e-4, 4e-4)),
      'gspo_token': lambda: by_sequence(clipped(whole(mean(x, 1)), 3e-4, 4e-4)),
      'cispo': lambda: mean(np.clip(r, 0, 5) * a * p),
      'rloo': lambda: by_sequence(clipped(whole(np.sum(x * MASK, 1)), 0.2, 0.2)),
      'reinforce_pp': lambda: mean(clipped(r, 0.2, 0.2)),
      'ppo_clip': lambda: mean(clipped(r, 0.2, 0.2)),
      'ppo_kl': lambda: mean(r * a - 0.5 * (r - 1 - x))}[name]()


@pytest.mark.parametrize('name', LOSSES)
def test_values_are_those_of_the_papers(name):
  value, metrics = LOSSES[name](**plain(), completion_mask=MASK)
  np.testing.assert_allclose(value, papers(name), rtol=2e-5)
  assert metrics['ratio/mean'] > 0


def test_reinforce_is_the_advantage_times_the_log_probability():
  args = plain()
  value, metrics = losses.reinforce_loss(args['logprobs'], args['advantages'], MASK)
  np.testing.assert_allclose(
      value, -mean(full(args['advantages']) * np.float64(args['logprobs'])), rtol=1e-5)
  assert metrics == {}


@pytest.mark.parametrize('name', LOSSES)
def test_pitfall_06_on_policy_every_gradient_is_the_policy_gradient(name):
  args = plain()
  aggregation = {
      'grpo': 'sequence_mean', 'gspo': 'sequence_mean', 'gspo_token': 'sequence_mean',
      'rloo': 'sequence_sum', 'dr_grpo': 'fixed_length'}.get(name, 'token_mean')
  _, want = value_and_grad(
      lambda logprobs, advantages, completion_mask, old_logprobs: losses.reinforce_loss(
          logprobs, advantages, completion_mask, aggregation=aggregation, max_length=7),
      args, MASK)
  assert np.abs(want).sum() > 0.1
  given = args | {'old_logprobs': args['logprobs']}
  _, gradient = value_and_grad(LOSSES[name], given, MASK)
  np.testing.assert_allclose(gradient, want, atol=1e-7)
  if name != 'ppo_kl':
    (value, metrics), gradient = value_and_grad(LOSSES[name], args | {'old_logprobs': None}, MASK)
    np.testing.assert_allclose(gradient, want, atol=1e-7)
    assert name == 'cispo' or metrics['ratio/mean'] == 1


def test_pitfall_06_on_policy_grpo_without_kl_is_reinforce_with_a_baseline():
  """The loss is about 0 and its gradient is Σ (r − b)/σ·∇log π (pitfalls 6 and 23)."""
  args, mask = plain(), np.ones_like(MASK)
  rewards = np.random.default_rng(1).normal(size=(2, 3))
  centred = rewards - rewards.mean(1, keepdims=True)
  args['advantages'] = np.float32((centred / rewards.std(1, ddof=1, keepdims=True)).ravel())
  (value, _), gradient = value_and_grad(losses.grpo_loss, args | {'old_logprobs': None}, mask)
  assert abs(value) < 1e-6
  np.testing.assert_allclose(gradient, -full(args['advantages']) / 30, atol=1e-7)


def equal(one, other, exactly=False):
  compare = np.testing.assert_array_equal if exactly else functools.partial(
      np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
  jax.tree.map(compare, one, other)


def test_gspo_at_length_one_is_grpo():
  args, mask = plain(shape=(6, 1)), np.float32([[1], [1], [0], [1], [1], [1]])
  clip = dict(clip_epsilon_low=0.1, clip_epsilon_high=0.3)
  want = value_and_grad(losses.grpo_loss, args, mask, **clip)
  for loss in (losses.gspo_loss, losses.gspo_token_loss, losses.rloo_loss):
    equal(value_and_grad(loss, args, mask, **clip), want)


def test_gspo_token_is_gspo_where_a_completions_advantages_are_equal():
  clip = dict(clip_epsilon_low=0.1, clip_epsilon_high=0.1)
  want = value_and_grad(losses.gspo_loss, plain(), MASK, **clip)
  assert want[0][1]['clip_ratio/low'] > 0 and np.any(want[1] != 0)
  equal(value_and_grad(losses.gspo_token_loss, plain(), MASK, **clip), want)
  args = plain() | {'advantages': np.float32(full(plain()['advantages']))}
  equal(value_and_grad(losses.gspo_token_loss, args, MASK, **clip), want)


def test_dual_clip_far_off_is_ppo():
  want = value_and_grad(losses.ppo_clip_loss, plain(), MASK)
  (value, metrics), gradient = value_and_grad(losses.ppo_clip_loss, plain(), MASK, dual_clip=1e6)
  assert metrics.pop('clip_ratio/dual') == 0
  equal(((value, metrics), gradient), want)


@pytest.mark.parametrize('delta', [1.3, 1.7, 4.0])
def test_dual_clip_is_the_two_sided_clip_of_delta(delta):
  """INTELLECT-2 writes min(min(ρ, δ)·A, clip(ρ)·A); the same wherever δ ≥ 1 + ε."""
  args = plain()
  value, _ = losses.ppo_clip_loss(**args, completion_mask=MASK, dual_clip=delta)
  r, a = np.exp(np.float64(args['logprobs']) - args['old_logprobs']), full(args['advantages'])
  want = -mean(np.minimum(np.minimum(r, delta) * a, np.clip(r, 0.8, 1.2) * a))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert delta > 2 or abs(value - losses.ppo_clip_loss(**args, completion_mask=MASK)[0]) > 1e-3


def test_ppos_clip_and_kl_forms_meet_without_clip_and_kl():
  wide = dict(clip_epsilon_low=1.0, clip_epsilon_high=1e6)
  want, gradient = value_and_grad(losses.ppo_kl_loss, plain(), MASK, old_kl_coefficient=0.0)
  got, other = value_and_grad(losses.ppo_clip_loss, plain(), MASK, **wide)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
  np.testing.assert_allclose(other, gradient, rtol=1e-6)


def test_ppos_kl_keeps_its_gradient_where_the_clip_has_none():
  args = dict(logprobs=jnp.ones((1, 1)), old_logprobs=jnp.zeros((1, 1)), advantages=jnp.ones(1))
  _, gradient = value_and_grad(losses.ppo_kl_loss, args, jnp.ones((1, 1)), old_kl_coefficient=0.5)
  np.testing.assert_allclose(gradient, [[-np.e + 0.5 * (np.e - 1)]], rtol=1e-6)


def test_cispos_bounds_are_absolute_and_its_weights_carry_no_gradient():
  ratios = jnp.array([[0.5], [1.0], [3.0], [7.0]])
  args = dict(logprobs=jnp.log(ratios), old_logprobs=jnp.zeros((4, 1)), advantages=jnp.ones(4))
  (_, metrics), gradient = value_and_grad(losses.cispo_loss, args, jnp.ones((4, 1)))
  np.testing.assert_allclose(gradient, -jnp.array([[0.5], [1], [3], [5]]) / 4, rtol=1e-6)
  assert metrics['clip_ratio/high'] == 0.25 and metrics['clip_ratio/low'] == 0
  (_, metrics), gradient = value_and_grad(
      losses.cispo_loss, args, jnp.ones((4, 1)), min_ratio=0.8, max_ratio=2.0)
  np.testing.assert_allclose(gradient, -jnp.array([[0.8], [1], [2], [2]]) / 4, rtol=1e-6)
  assert metrics['clip_ratio/high'] == 0.5 and metrics['clip_ratio/low'] == 0.25


def test_cispo_without_old_log_probabilities_is_reinforce():
  args = plain()
  want = losses.reinforce_loss(args['logprobs'], args['advantages'], MASK)
  equal(losses.cispo_loss(**args | {'old_logprobs': None}, completion_mask=MASK), want)


def test_dr_grpo_does_not_see_the_batchs_width():
  args = plain()
  wide = {name: np.pad(x, ((0, 0), (0, 3))) if x.ndim == 2 else x for name, x in args.items()}
  np.testing.assert_allclose(
      losses.dr_grpo_loss(**wide, completion_mask=np.pad(MASK, ((0, 0), (0, 3))), max_length=9)[0],
      losses.dr_grpo_loss(**args, completion_mask=MASK, max_length=9)[0], rtol=1e-6)
  with pytest.raises(TypeError, match='max_length'):
    losses.dr_grpo_loss(**args, completion_mask=MASK)


def test_what_makes_a_recipe_cannot_be_overridden():
  with pytest.raises(TypeError, match='aggregation'):
    losses.dapo_loss(**plain(), completion_mask=MASK, aggregation='sequence_mean')
  with pytest.raises(ValueError, match='max_ratio must be at least 1, got 0.5'):
    losses.cispo_loss(**plain(), completion_mask=MASK, max_ratio=0.5)


def test_options_reach_the_policy_loss():
  settings = dict(kl_coefficient=0.3, kl_estimator='k2')
  args = chosen(example(), settings | {'clip': 0})
  value, metrics = losses.grpo_loss(**args, completion_mask=MASK, **settings)
  np.testing.assert_allclose(
      value, reference_loss(**args, aggregation='sequence_mean', **settings), rtol=1e-5)
  assert 'kl' in metrics


# Against rlax, where it is installed.

def test_equal_to_rlax():
  rlax = pytest.importorskip('rlax', reason='rlax is not installed')
  args = {name: jnp.asarray(x[0]) for name, x in example(token_advantages=True).items()}
  ones, advantages = jnp.ones((1, 5)), args['advantages']
  row = {name: args[name][None] for name in KEYS}
  ratio = jnp.exp(args['logprobs'] - args['old_logprobs'])
  np.testing.assert_allclose(
      losses.ppo_clip_loss(**row, completion_mask=ones)[0],
      rlax.clipped_surrogate_pg_loss(ratio, advantages, 0.2), rtol=1e-6)
  logits = jax.random.normal(jax.random.key(0), (5, 7))
  actions = jnp.array([0, 6, 2, 3, 3])

  def ours(logits):
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[:, None], 1).T
    return losses.reinforce_loss(logprobs, row['advantages'], ones)[0]

  def theirs(logits):
    return rlax.policy_gradient_loss(logits, actions, advantages, jnp.ones(5))

  np.testing.assert_allclose(ours(logits), theirs(logits), rtol=1e-6)
  np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(theirs)(logits), atol=1e-7)
