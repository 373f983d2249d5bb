"""Losses against a float64 reference written with loops, and the properties they must keep."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import AGGREGATIONS, grpo_loss, loss_normalizer, supervised_loss

pytestmark = pytest.mark.usefixtures('strict_ranks')

LENGTHS = np.array([5, 2, 0, 4, 1, 5])
MASK = (np.arange(5) < LENGTHS[:, None]).astype(np.float32)
ESTIMATORS = (None, 'k1', 'k2', 'k3')
CLIPS = ((0.2, 0.2), (0.1, 0.28))


def example(seed=0, shape=MASK.shape):
  """Arguments of grpo_loss, float32; ratios from 0.5 to 2, clipped and unclipped of both signs."""
  rng = np.random.default_rng(seed)
  old = rng.normal(-2, 1, shape)
  return {name: np.float32(value) for name, value in dict(
      logprobs=old + rng.uniform(-0.7, 0.7, shape), old_logprobs=old,
      advantages=rng.normal(size=shape[0]), reference_logprobs=old + rng.normal(0, 0.5, shape),
  ).items()}


def reference_loss(logprobs, old_logprobs, advantages, reference_logprobs, mask=MASK, *, clip,
                   aggregation, kl_estimator=None, beta=0.0, max_length=None):
  """The formulas of recipe and papers, token by token, in float64."""
  by_row, tokens = [], 0
  for n, row in enumerate(np.asarray(logprobs, np.float64)):
    terms = []
    for t in np.flatnonzero(mask[n]):
      ratio = np.exp(row[t] - np.float64(old_logprobs[n, t]))
      advantage = np.float64(advantages[n] if advantages.ndim == 1 else advantages[n, t])
      bounded = min(max(ratio, 1 - clip[0]), 1 + clip[1])
      term = -min(ratio * advantage, bounded * advantage)
      if kl_estimator:
        x = np.float64(reference_logprobs[n, t]) - row[t]
        term += beta * {'k1': -x, 'k2': x * x / 2, 'k3': np.exp(x) - x - 1}[kl_estimator]
      terms.append(term)
    by_row.append(terms)
    tokens += len(terms)
  total = sum(sum(terms) for terms in by_row)
  if aggregation == 'sequence_mean':
    return sum(sum(terms) / len(terms) for terms in by_row if terms) / len(by_row)
  if aggregation == 'token_mean':
    return total / tokens
  return total / (len(by_row) * (max_length or mask.shape[1]))


def finite_differences(function, x, step=1e-6):
  gradient = np.zeros(x.shape)
  for at in np.ndindex(x.shape):
    moved = [np.array(x, np.float64) for _ in range(2)]
    moved[0][at] -= step
    moved[1][at] += step
    gradient[at] = (function(moved[1]) - function(moved[0])) / (2 * step)
  return gradient


@functools.partial(jax.jit, static_argnames=(
    'clip_epsilon_low', 'clip_epsilon_high', 'aggregation', 'max_length', 'kl_coefficient',
    'kl_estimator'))
def loss_and_gradient(args, mask, **settings):
  """((loss, metrics), gradient by logprobs)."""
  def loss(logprobs, args):
    return grpo_loss(logprobs, args['old_logprobs'], args['advantages'], mask,
                     reference_logprobs=args.get('reference_logprobs'), **settings)
  return jax.value_and_grad(loss, has_aux=True)(args['logprobs'], args)


def settings_of(aggregation, clip=(0.2, 0.2), kl_estimator=None):
  kl = dict(kl_estimator=kl_estimator, kl_coefficient=0.3) if kl_estimator else {}
  return dict(aggregation=aggregation, clip_epsilon_low=clip[0], clip_epsilon_high=clip[1],
              max_length=9 if aggregation == 'fixed_length' else None, **kl)


@pytest.mark.parametrize('clip', CLIPS)
@pytest.mark.parametrize('kl_estimator', ESTIMATORS)
@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_value_and_gradient_equal_the_reference(aggregation, kl_estimator, clip):
  args, settings = example(), settings_of(aggregation, clip, kl_estimator)
  of = lambda logprobs: reference_loss(
      **args | {'logprobs': logprobs}, clip=clip, aggregation=aggregation, beta=0.3,
      kl_estimator=kl_estimator, max_length=settings['max_length'])
  given = args if kl_estimator else args | {'reference_logprobs': None}
  (value, metrics), gradient = loss_and_gradient(given, MASK, **settings)
  np.testing.assert_allclose(value, of(args['logprobs']), rtol=1e-5)
  np.testing.assert_allclose(gradient, finite_differences(of, args['logprobs']), atol=1e-6)
  assert ('kl' in metrics) == (kl_estimator is not None)


def test_metrics_are_means_over_tokens():
  args, (low, high) = example(), (0.1, 0.28)
  (_, metrics), _ = loss_and_gradient(args, MASK, **settings_of('token_mean', (low, high), 'k3'))
  kept = MASK == 1
  ratio = np.exp(np.float64(args['logprobs']) - args['old_logprobs'])[kept]
  advantages = np.repeat(args['advantages'], LENGTHS)
  x = (np.float64(args['reference_logprobs']) - args['logprobs'])[kept]
  want = {'clip_ratio/low': np.mean((ratio < 1 - low) & (advantages < 0)),
          'clip_ratio/high': np.mean((ratio > 1 + high) & (advantages > 0)),
          'ratio/mean': ratio.mean(), 'ratio/max': ratio.max(), 'kl': np.mean(np.exp(x) - x - 1)}
  assert min(want.values()) > 0 and metrics.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_advantages_may_be_given_per_token():
  args = example()
  spread = args | {'advantages': np.repeat(args['advantages'][:, None], 5, 1)}
  settings = settings_of('sequence_mean')
  jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(args, MASK, **settings),
               loss_and_gradient(spread, MASK, **settings))
  varied = args | {'advantages': np.float32(np.random.default_rng(4).normal(size=MASK.shape))}
  np.testing.assert_allclose(
      loss_and_gradient(varied, MASK, **settings)[0][0],
      reference_loss(**varied, clip=(0.2, 0.2), aggregation='sequence_mean'), rtol=1e-5)


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_pitfall_01_padding_and_order_change_nothing(aggregation):
  args, settings = example(), settings_of(aggregation, kl_estimator='k3')
  (value, metrics), gradient = loss_and_gradient(args, MASK, **settings)

  wide = lambda x, fill: np.pad(x, ((0, 0), (0, 3)), constant_values=fill) if x.ndim == 2 else x
  padded = {name: wide(x, np.nan) for name, x in args.items()}
  (wide_value, wide_metrics), wide_gradient = loss_and_gradient(padded, wide(MASK, 0), **settings)
  np.testing.assert_allclose(wide_value, value, rtol=1e-6)
  np.testing.assert_allclose(wide_gradient, wide(np.asarray(gradient), 0), rtol=1e-6)

  order = np.random.default_rng(3).permutation(len(MASK))
  shuffled = {name: x[order] for name, x in args.items()}
  (other_value, other_metrics), other_gradient = loss_and_gradient(
      shuffled, MASK[order], **settings)
  np.testing.assert_allclose(other_value, value, rtol=1e-6)
  np.testing.assert_allclose(other_gradient, gradient[order], rtol=1e-6)
  for other in (wide_metrics, other_metrics):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), other, metrics)


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_pitfall_01_micro_batches_add_up_to_the_batch(aggregation):
  args, settings = example(), settings_of(aggregation, kl_estimator='k2')
  (value, metrics), gradient = loss_and_gradient(args, MASK, **settings)
  whole = dict(normalizer=loss_normalizer(MASK, aggregation, settings['max_length']),
               token_count=MASK.sum())
  # Micro-batches of 9, 5 and 4 tokens (with sizes 4 and 1, 1): plain means would not add up.
  pieces = [loss_and_gradient({name: x[part] for name, x in args.items()}, MASK[part],
                              **settings, **whole) for part in np.split(np.arange(6), [3, 4])]
  np.testing.assert_allclose(sum(piece[0][0] for piece in pieces), value, rtol=1e-5)
  np.testing.assert_allclose(np.concatenate([piece[1] for piece in pieces]), gradient, rtol=1e-5)
  for name in metrics:
    merge = max if name.endswith('/max') else sum
    np.testing.assert_allclose(merge(piece[0][1][name] for piece in pieces), metrics[name],
                               rtol=1e-5, err_msg=name)


def test_fixed_length_divides_by_a_constant_or_by_the_width():
  args = example()
  value = lambda **kwargs: loss_and_gradient(args, MASK, aggregation='fixed_length', **kwargs)[0][0]
  np.testing.assert_allclose(value(max_length=10) * 2, value(), rtol=1e-6)
  assert loss_normalizer(MASK, 'fixed_length') == 30
  assert loss_normalizer(MASK, 'fixed_length', 10) == 60
  assert loss_normalizer(MASK, 'token_mean') == 17
  assert loss_normalizer(MASK, 'sequence_mean') == 6      # the empty completion counts


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_pitfall_06_on_policy_the_loss_is_about_zero_and_the_gradient_is_not(aggregation):
  args = example(seed=1, shape=(6, 5))
  args['advantages'] -= args['advantages'].mean()
  mask, settings = np.ones((6, 5), np.float32), dict(aggregation=aggregation)
  given = args | {'old_logprobs': args['logprobs']}
  omitted = args | {'old_logprobs': None}
  (value, metrics), gradient = loss_and_gradient(omitted, mask, **settings)
  assert abs(value) < 1e-6
  # The policy gradient −A·∇log π, its weights being those of the mean.
  np.testing.assert_allclose(gradient, np.repeat(-args['advantages'][:, None] / 30, 5, 1),
                             atol=1e-7)
  assert metrics['ratio/mean'] == 1 and metrics['clip_ratio/low'] == 0
  jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(given, mask, **settings),
               ((value, metrics), gradient))


def test_pitfall_06_only_the_policys_logprobs_carry_a_gradient():
  args = example()

  def loss(args):
    return grpo_loss(**args, completion_mask=MASK, kl_coefficient=0.3)[0]

  gradients = jax.grad(loss)({name: jnp.asarray(x) for name, x in args.items()})
  assert np.any(gradients.pop('logprobs') != 0)
  for name, gradient in gradients.items():
    np.testing.assert_array_equal(gradient, np.zeros(args[name].shape), err_msg=name)


@pytest.mark.parametrize('advantage, ratio, acts', [
    (1, 1.5, True), (1, 1.21, True), (1, 1.19, False), (1, 0.9, False), (1, 0.5, False),
    (-1, 0.5, True), (-1, 0.69, True), (-1, 0.71, False), (-1, 1.1, False), (-1, 1.5, False)])
def test_pitfall_06_the_clip_acts_only_where_the_ratio_has_gone_far_enough(advantage, ratio, acts):
  args = dict(logprobs=jnp.log(jnp.full((1, 1), ratio)), old_logprobs=jnp.zeros((1, 1)),
              advantages=jnp.full(1, advantage, jnp.float32))
  (value, metrics), gradient = loss_and_gradient(
      args, np.ones((1, 1), np.float32), clip_epsilon_low=0.3, clip_epsilon_high=0.2)
  np.testing.assert_allclose(gradient[0, 0], 0 if acts else -advantage * ratio, rtol=1e-5)
  bound = 1.2 if advantage > 0 else 0.7
  np.testing.assert_allclose(value, -advantage * (bound if acts else ratio), rtol=1e-5)
  assert metrics['clip_ratio/high'] == (acts and advantage > 0)
  assert metrics['clip_ratio/low'] == (acts and advantage < 0)


@pytest.mark.parametrize('estimator, slope', [
    ('k1', lambda x: 1), ('k2', lambda x: -x), ('k3', lambda x: 1 - np.exp(x))])
def test_pitfall_08_a_group_without_advantage_still_gets_the_kl_gradient(estimator, slope):
  args = example()
  args['advantages'][:] = 0
  _, gradient = loss_and_gradient(args, MASK, **settings_of('token_mean', kl_estimator=estimator))
  x = args['reference_logprobs'] - args['logprobs']      # log π_ref/π
  np.testing.assert_allclose(gradient, 0.3 * slope(x) * MASK / MASK.sum(), atol=1e-6)


@pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_pitfall_02_nothing_under_the_mask_reaches_value_or_gradient(aggregation, junk):
  args, settings = example(), settings_of(aggregation, kl_estimator='k3')
  (value, metrics), gradient = loss_and_gradient(args, MASK, **settings)
  spoilt = {name: np.where(MASK == 0, np.float32(junk), x) if x.ndim == 2 else x
            for name, x in args.items()}
  spoilt['advantages'] = np.where(LENGTHS == 0, np.float32(junk), args['advantages'])
  jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(spoilt, MASK, **settings),
               ((value, metrics), gradient))
  assert np.isfinite(value) and np.all(gradient[MASK == 0] == 0)


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_pitfall_02_an_empty_batch_gives_zero_in_value_and_gradient(aggregation):
  args = {name: np.full_like(x, np.nan) for name, x in example().items()}
  (value, metrics), gradient = loss_and_gradient(
      args, np.zeros_like(MASK), **settings_of(aggregation, kl_estimator='k3'))
  assert value == 0 and all(metric == 0 for metric in metrics.values())
  np.testing.assert_array_equal(gradient, np.zeros_like(MASK))


def test_bfloat16_arguments_are_computed_in_float32():
  args = {name: jnp.asarray(x, jnp.bfloat16) for name, x in example().items()}
  (value, _), gradient = loss_and_gradient(args, MASK, **settings_of('token_mean'))
  exact = {name: np.asarray(x, np.float32) for name, x in args.items()}
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(
      value, reference_loss(**exact, clip=(0.2, 0.2), aggregation='token_mean'), rtol=1e-5)


@pytest.mark.parametrize('change, message', [
    (dict(logprobs=np.zeros(5)), r'logprobs \(5,\) and completion_mask \(6, 5\) do not fit'),
    (dict(completion_mask=MASK[:, :4]), r'completion_mask \(6, 4\) do not fit'),
    (dict(advantages=np.zeros(5)), r'advantages have shape \(5,\): give \[6\] or \[6, 5\]'),
    (dict(advantages=np.zeros((6, 1))), r'advantages have shape \(6, 1\)'),
    (dict(old_logprobs=np.zeros((6, 4))), r'old_logprobs have shape \(6, 4\): give \[6, 5\]'),
    (dict(reference_logprobs=np.zeros((5,))), r'reference_logprobs have shape \(5,\)'),
    (dict(kl_coefficient=0.1, reference_logprobs=None), 'kl_coefficient=0.1 needs reference_log'),
    (dict(kl_estimator='k4'), "kl_estimator='k4' is unknown: use one of k1, k2, k3"),
    (dict(aggregation='mean'), "aggregation='mean' is unknown: use one of sequence_mean, token")])
def test_what_does_not_fit_is_refused_in_one_sentence(change, message):
  with pytest.raises(ValueError, match=message) as caught:
    grpo_loss(**example() | {'completion_mask': MASK} | change)
  assert '\n' not in str(caught.value)


def test_supervised_loss_equals_the_reference_in_value_and_gradient():
  rng = np.random.default_rng(5)
  logprobs = np.float32(rng.normal(-2, 1, MASK.shape))
  weights = np.float32(MASK * rng.uniform(0.1, 2, MASK.shape))
  value, gradient = jax.value_and_grad(lambda x: supervised_loss(x, weights)[0])(logprobs)
  np.testing.assert_allclose(
      value, -np.sum(np.float64(logprobs) * weights) / np.sum(np.float64(weights)), rtol=1e-6)
  np.testing.assert_allclose(gradient, -weights / weights.sum(), rtol=1e-6)
  halves = sum(supervised_loss(logprobs[part], weights[part], normalizer=weights.sum())[0]
               for part in (slice(0, 2), slice(2, 6)))
  np.testing.assert_allclose(halves, value, rtol=1e-6)


def test_pitfall_02_supervised_loss_ignores_what_has_no_weight():
  logprobs = np.float32(np.where(MASK == 0, -np.inf, -1.5))
  value, gradient = jax.value_and_grad(lambda x: supervised_loss(x, MASK)[0])(logprobs)
  assert value == 1.5
  np.testing.assert_allclose(gradient, -MASK / MASK.sum(), rtol=1e-6)
  value, gradient = jax.value_and_grad(lambda x: supervised_loss(x, 0 * MASK)[0])(logprobs)
  assert value == 0 and np.all(gradient == 0)
  with pytest.raises(ValueError, match=r'logprobs \(6, 5\) and weights \(6, 4\) differ'):
    supervised_loss(logprobs, MASK[:, :4])
