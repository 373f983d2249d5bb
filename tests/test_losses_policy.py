"""The policy loss against a float64 reference in loops, and the properties that it must keep."""
import functools
import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
from loss_cases import (
  ARRAYS,
  HOLES,
  LENGTHS,
  MASK,
  C,
  N,
  chosen,
  example,
  finite_differences,
  reference_loss,
  value_and_grad,
)
import numpy as np
import pytest

from r1jax.divergences import ESTIMATORS
from r1jax.losses import (
  AGGREGATIONS,
  CLIPS,
  CORRECTIONS,
  RATIO_LEVELS,
  loss_normalizer,
  policy_loss,
)

pytestmark = pytest.mark.usefixtures('strict_ranks')

KL: dict[str, Any] = dict(kl_coefficient=0.3)
FULL: dict[str, Any] = dict(old_kl_coefficient=0.2, entropy_coefficient=0.1, **KL)
# Every level with every clip, the aggregations in turn; every estimator, correction, bound.
CASES: list[dict[str, Any]] = [
    dict(ratio_level=level, clip=clip, aggregation=aggregation) for (level, clip), aggregation
    in zip(itertools.product(RATIO_LEVELS, CLIPS), itertools.cycle(AGGREGATIONS))]
CASES += [dict(clip='ppo', aggregation=aggregation, clip_epsilon_low=0.1, clip_epsilon_high=0.28,
               **KL) for aggregation in AGGREGATIONS]
CASES += [dict(clip='ppo', kl_estimator=name, **FULL) for name in ESTIMATORS]
CASES += [dict(clip=clip, ratio_level=level, correction=name, correction_low=0.6,
               correction_high=1.5)
          for name, clip, level in zip(CORRECTIONS, ('ppo', 'none', 'cispo', 'ppo'), RATIO_LEVELS)]
CASES += [dict(clip='ppo', ratio_level=level, dual_clip=dual)
          for level, dual in zip(RATIO_LEVELS, (1.05, 1.3, 1.3, 1.3))]
CASES += [dict(clip='cispo', clip_epsilon_low=1.0, clip_epsilon_high=0.5),
          dict(clip='ppo', aggregation='fixed_length', max_length=9)]
# Together these touch every line.
RICH: list[dict[str, Any]] = [
    dict(clip='ppo', aggregation='sequence_mean', dual_clip=1.3, correction='token_truncate',
         correction_high=1.2, kl_estimator='k3_corrected', **FULL),
    dict(clip='ppo', ratio_level='sequence', aggregation='token_mean',
         correction='sequence_mask', **FULL),
    dict(clip='ppo', ratio_level='sequence_token', aggregation='fixed_length', max_length=9,
         kl_estimator='k2', **FULL),
    dict(clip='cispo', aggregation='sequence_sum', correction='token_mask',
         correction_low=0.7, **FULL),
    dict(clip='none', ratio_level='product', aggregation='token_mean', **FULL)]


def word(settings):
  return '-'.join(str(x).replace('_', '') for x in settings.values() if isinstance(x, str))


def check_against_reference(args, mask, settings):
  args = chosen(args, settings)

  def of(logprobs):
    return reference_loss(
        **args | {'logprobs': logprobs}, mask=mask, now=args['logprobs'], **settings)

  (value, _), gradient = value_and_grad(policy_loss, args, mask, **settings)
  np.testing.assert_allclose(value, of(args['logprobs']), rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(
      gradient, finite_differences(of, args['logprobs']), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('settings', CASES, ids=word)
def test_value_and_gradient_equal_the_reference(settings):
  check_against_reference(example(), MASK, settings)
  if 'old_kl_coefficient' not in settings:     # the batch's first update
    check_against_reference(example() | {'old_logprobs': None}, MASK, settings)


@pytest.mark.parametrize('settings', [
    case for case in CASES if case.get('ratio_level', 'token') in ('token', 'sequence_token')],
    ids=word)
def test_advantages_may_be_given_per_token(settings):
  check_against_reference(example(token_advantages=True), HOLES, settings)


@hypothesis.settings(deadline=None, derandomize=True, max_examples=40)
@hypothesis.given(st.sampled_from(CASES), st.integers(0, 10_000), st.integers(0, 2 ** (N * C) - 1))
def test_value_and_gradient_equal_the_reference_for_any_mask(settings, seed, bits):
  mask = np.float32([bits >> i & 1 for i in range(N * C)]).reshape(N, C)
  with jax.numpy_rank_promotion('raise'):
    check_against_reference(example(seed), mask, settings)


@pytest.mark.parametrize('settings', RICH, ids=word)
def test_metrics_are_means_over_tokens(settings):
  args, kept = example(), MASK == 1
  (_, metrics), _ = value_and_grad(policy_loss, chosen(args, settings), MASK, **settings)
  exact = {name: np.float64(x) for name, x in args.items()}
  x = exact['logprobs'] - exact['old_logprobs']
  mean = np.repeat([row[keep].mean() if keep.any() else 0 for row, keep in zip(x, kept)], C)
  log_ratio = {'token': x, 'product': mean.reshape(N, C) * LENGTHS[:, None]}.get(
      settings.get('ratio_level', 'token'), mean.reshape(N, C))
  ratio, sign = np.exp(log_ratio)[kept], np.repeat(np.sign(args['advantages']), LENGTHS)
  want = {'ratio/mean': ratio.mean(), 'ratio/max': ratio.max(),
          'entropy': args['entropies'][kept].mean()}
  clip = settings['clip']
  if clip != 'none':
    want |= {'clip_ratio/low': np.mean((ratio < 0.8) & ((sign < 0) | (clip == 'cispo'))),
             'clip_ratio/high': np.mean((ratio > 1.2) & ((sign > 0) | (clip == 'cispo')))}
  if 'dual_clip' in settings:
    want['clip_ratio/dual'] = np.mean((ratio > 1.3) & (sign < 0))
  want['kl_old'] = np.mean(np.exp(x) - 1 - x, where=kept)
  y = exact['reference_logprobs'] - exact['logprobs']
  k3 = np.exp(y) - 1 - y
  want['kl'] = np.mean({'k2': y * y / 2, 'k3_corrected': np.exp(x) * k3}.get(
      settings.get('kl_estimator'), k3), where=kept)
  if 'correction' in settings:
    w = exact['old_logprobs'] - exact['behaviour_logprobs']
    if 'sequence' in settings['correction']:
      w = np.repeat(np.sum(w, 1, where=kept), C).reshape(N, C)
    w, high = np.exp(w)[kept], settings.get('correction_high', 2.0)
    cut = (w > high) | (w < settings.get('correction_low', 0.0))
    want |= {'correction/share': cut.mean(), 'correction/mean': np.mean(
        np.minimum(w, high) if 'truncate' in settings['correction'] else w * ~cut)}
  assert metrics.keys() == want.keys() and sum(x > 0 for x in want.values()) >= len(want) - 1
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)


def test_metrics_of_clips_with_advantages_per_token():
  args = example(token_advantages=True)
  (_, metrics), _ = value_and_grad(
      policy_loss, chosen(args, {'clip': 0}), MASK, dual_clip=1.5)
  ratio = np.exp(np.float64(args['logprobs']) - args['old_logprobs'])
  for name, acts in {'low': (ratio < 0.8) & (args['advantages'] < 0),
                     'high': (ratio > 1.2) & (args['advantages'] > 0),
                     'dual': (ratio > 1.5) & (args['advantages'] < 0)}.items():
    np.testing.assert_allclose(metrics[f'clip_ratio/{name}'], np.mean(acts, where=MASK == 1),
                               rtol=1e-6, err_msg=name)


@pytest.mark.parametrize('settings', RICH, ids=word)
def test_pitfall_01_padding_and_order_change_nothing(settings):
  args = chosen(example(), settings)
  (value, metrics), gradient = value_and_grad(policy_loss, args, HOLES, **settings)

  def moved(places, fill):
    """Columns at `places` of wider rows, the rest filled."""
    def of(x):
      wide = np.full((len(x), 9), fill, np.float32)
      wide[:, places] = x
      return wide
    return of

  for places in (np.arange(5), np.arange(4, 9), np.array([0, 2, 3, 6, 8])):
    padded = {name: moved(places, np.nan)(x) if x.ndim == 2 else x for name, x in args.items()}
    (wide_value, wide_metrics), wide_gradient = value_and_grad(
        policy_loss, padded, moved(places, 0)(HOLES), **settings)
    np.testing.assert_allclose(wide_value, value, rtol=1e-5)
    np.testing.assert_allclose(wide_gradient, moved(places, 0)(gradient), rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), wide_metrics, metrics)

  order = np.random.default_rng(3).permutation(N)
  (other_value, other_metrics), other_gradient = value_and_grad(
      policy_loss, {name: x[order] for name, x in args.items()}, HOLES[order], **settings)
  np.testing.assert_allclose(other_value, value, rtol=1e-5)
  np.testing.assert_allclose(other_gradient, gradient[order], rtol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), other_metrics, metrics)


@pytest.mark.parametrize('settings', RICH, ids=word)
def test_pitfall_01_micro_batches_add_up_to_the_batch(settings):
  args = chosen(example(), settings)
  (value, metrics), gradient = value_and_grad(policy_loss, args, MASK, **settings)
  whole = dict(token_count=MASK.sum(), normalizer=loss_normalizer(
      MASK, settings['aggregation'], settings.get('max_length')))
  # Micro-batches of 7, 4 and 6 tokens: plain means would not add up.
  pieces = [value_and_grad(policy_loss, {name: x[part] for name, x in args.items()}, MASK[part],
                           **settings, **whole) for part in np.split(np.arange(N), 3)]
  np.testing.assert_allclose(sum(piece[0][0] for piece in pieces), value, rtol=1e-5)
  np.testing.assert_allclose(np.concatenate([piece[1] for piece in pieces]), gradient, rtol=1e-5)
  for name in metrics:
    merge = max if name.endswith('/max') else sum
    np.testing.assert_allclose(merge(piece[0][1][name] for piece in pieces), metrics[name],
                               rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('settings', RICH, ids=word)
def test_pitfall_01_devices_change_nothing_and_neither_does_jit(settings):
  if len(jax.devices('cpu')) != 8:
    pytest.skip(f'needs 8 CPU devices and has {len(jax.devices("cpu"))}')
  args = chosen(example(shape=(8, 6)), settings)
  mask = np.float32(np.arange(6) < np.array([6, 2, 0, 4, 1, 6, 3, 5])[:, None])
  want = value_and_grad(policy_loss, args, mask, **settings)
  mesh = jax.make_mesh((4, 2), ('rows', 'tokens'), devices=jax.devices('cpu'),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2)

  def place(x):
    return jax.device_put(x, jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(*('rows', 'tokens')[:x.ndim])))

  got = jax.jit(functools.partial(value_and_grad, policy_loss, **settings))(
      jax.tree.map(place, args), place(mask))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)


@pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize('settings', RICH, ids=word)
def test_pitfall_02_nothing_under_the_mask_reaches_value_or_gradient(settings, junk):
  args = chosen(example(), settings)
  clean = value_and_grad(policy_loss, args, HOLES, **settings)
  spoilt = {name: np.where(HOLES == 0, np.float32(junk), x) if x.ndim == 2 else x
            for name, x in args.items()}
  spoilt['advantages'] = np.where(LENGTHS == 0, np.float32(junk), args['advantages'])
  jax.tree.map(np.testing.assert_array_equal,
               value_and_grad(policy_loss, spoilt, HOLES, **settings), clean)
  assert np.isfinite(clean[0][0]) and np.all(clean[1][HOLES == 0] == 0)


def test_pitfall_02_junk_in_advantages_per_token_stays_out_as_well():
  args = chosen(example(token_advantages=True), {'clip': 0})
  for level in ('token', 'sequence_token'):
    clean = value_and_grad(policy_loss, args, HOLES, ratio_level=level)
    spoilt = args | {'advantages': np.where(HOLES == 0, np.float32(np.nan), args['advantages'])}
    jax.tree.map(np.testing.assert_array_equal,
                 value_and_grad(policy_loss, spoilt, HOLES, ratio_level=level), clean)


@pytest.mark.parametrize('settings', RICH, ids=word)
@pytest.mark.parametrize('dtype', [np.float32, bool, np.int32])
def test_pitfall_02_an_empty_batch_gives_zero_in_value_and_gradient(settings, dtype):
  args = {name: np.full_like(x, np.nan) for name, x in chosen(example(), settings).items()}
  (value, metrics), gradient = value_and_grad(
      policy_loss, args, np.zeros((N, C), dtype), **settings)
  assert value == 0 and all(metric == 0 for metric in metrics.values())
  np.testing.assert_array_equal(gradient, np.zeros((N, C)))


@pytest.mark.parametrize('settings', RICH + [dict(clip='ppo', ratio_level='product')], ids=word)
@pytest.mark.parametrize('distance', [50.0, -50.0, 1000.0, -1000.0])
def test_nothing_overflows_at_large_log_ratios(settings, distance):
  args = example()
  for name in ARRAYS[1:4]:     # each other policy on its own far side, one token after another
    args[name] = args['logprobs'] - np.float32(distance) * np.float32(
        np.random.default_rng(len(name)).choice([-1, 1], (N, C)))
  # The miniature of a real batch: 1,000 times as many tokens would still not overflow.
  (value, metrics), gradient = value_and_grad(
      policy_loss, chosen(args, settings), MASK, **settings)
  assert np.isfinite(value * np.float32(1e6)) and np.all(np.isfinite(gradient))
  assert all(np.isfinite(metric) for metric in metrics.values())
  assert np.all(gradient[MASK == 0] == 0)


def test_bfloat16_arguments_are_computed_in_float32():
  settings = RICH[0]
  args = {name: jnp.asarray(x, jnp.bfloat16) for name, x in chosen(example(), settings).items()}
  (value, metrics), gradient = value_and_grad(policy_loss, args, MASK, **settings)
  exact = {name: np.asarray(x, np.float32) for name, x in args.items()}
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  assert all(metric.dtype == jnp.float32 for metric in metrics.values())
  np.testing.assert_allclose(value, reference_loss(**exact, **settings), rtol=1e-5)


def test_pitfall_06_only_logprobs_and_entropies_carry_a_gradient():
  args = example()

  def loss(args):
    value, metrics = policy_loss(**args, completion_mask=MASK, correction_high=1.2, **FULL)
    return value, sum(metrics.values())

  gradients = jax.grad(lambda args: loss(args)[0])(args)
  np.testing.assert_allclose(gradients.pop('entropies'), -0.1 * MASK / MASK.sum(), rtol=1e-6)
  assert np.any(gradients.pop('logprobs') != 0)
  of_metrics = jax.grad(lambda args: loss(args)[1])(args)
  for name, gradient in (*gradients.items(), *of_metrics.items()):
    np.testing.assert_array_equal(gradient, np.zeros(args[name].shape), err_msg=name)


@pytest.mark.parametrize('advantage, ratio, acts', [
    (1, 1.5, 'high'), (1, 1.21, 'high'), (1, 1.19, None), (1, 0.9, None), (1, 0.5, None),
    (1, 9.0, 'high'), (-1, 0.5, 'low'), (-1, 0.69, 'low'), (-1, 0.71, None), (-1, 1.1, None),
    (-1, 2.9, None), (-1, 3.1, 'dual')])
@pytest.mark.parametrize('level', RATIO_LEVELS)
def test_pitfall_06_the_clip_acts_only_where_the_ratio_has_gone_far_enough(
    level, advantage, ratio, acts):
  args = dict(logprobs=jnp.log(jnp.full((1, 1), ratio)), old_logprobs=jnp.zeros((1, 1)),
              advantages=jnp.full(1, advantage, jnp.float32))
  (value, metrics), gradient = value_and_grad(
      policy_loss, args, np.ones((1, 1), np.float32), clip_epsilon_low=0.3, clip_epsilon_high=0.2,
      dual_clip=3.0, ratio_level=level)
  np.testing.assert_allclose(gradient[0, 0], 0 if acts else -advantage * ratio, rtol=1e-5)
  bound = {'high': 1.2, 'low': 0.7, 'dual': 3.0, None: ratio}[acts]
  np.testing.assert_allclose(value, -advantage * bound, rtol=1e-5)
  for side in ('low', 'high', 'dual'):
    assert metrics[f'clip_ratio/{side}'] == (side == acts)


def test_the_dual_clip_leaves_positive_advantages_alone():
  args = dict(logprobs=jnp.log(jnp.full((1, 1), 1.15)), old_logprobs=jnp.zeros((1, 1)),
              advantages=jnp.ones(1))
  (value, metrics), gradient = value_and_grad(
      policy_loss, args, np.ones((1, 1), np.float32), dual_clip=1.1)
  np.testing.assert_allclose((value, gradient[0, 0]), (-1.15, -1.15), rtol=1e-6)
  assert metrics['clip_ratio/dual'] == 0


def test_a_ratio_on_its_bound_still_has_its_gradient():
  args = dict(logprobs=np.zeros((2, 1), np.float32), old_logprobs=None,
              advantages=np.float32([1, -1]))
  _, gradient = value_and_grad(policy_loss, args, np.ones((2, 1), np.float32),
                               clip_epsilon_low=0.0, clip_epsilon_high=0.0)
  np.testing.assert_array_equal(gradient, [[-0.5], [0.5]])


@pytest.mark.parametrize('estimator, slope', [
    ('k1', lambda x: 1), ('k2', lambda x: -x), ('k3', lambda x: 1 - np.exp(x))])
def test_pitfall_08_a_group_without_advantage_still_gets_the_kl_gradient(estimator, slope):
  args = chosen(example(), KL | {'clip': 0})
  args['advantages'][:] = 0
  _, gradient = value_and_grad(policy_loss, args, MASK, kl_estimator=estimator, **KL)
  x = args['reference_logprobs'] - args['logprobs']      # log π_ref/π
  np.testing.assert_allclose(gradient, 0.3 * slope(x) * MASK / MASK.sum(), atol=1e-6)


def test_coefficients_and_bounds_may_be_traced():
  args = chosen(example(), FULL | {'clip': 0})
  traced = jax.jit(lambda **numbers: policy_loss(**args, completion_mask=MASK, **numbers)[0])
  numbers = FULL | dict(clip_epsilon_low=0.1, clip_epsilon_high=0.3)
  np.testing.assert_allclose(traced(**numbers), reference_loss(**args, **numbers), rtol=1e-5)


def test_normalizers_are_those_of_the_docstring():
  assert loss_normalizer(MASK, 'fixed_length') == 30
  assert loss_normalizer(MASK, 'fixed_length', 10) == 60
  assert loss_normalizer(MASK, 'token_mean') == 17
  assert loss_normalizer(MASK == 1, 'token_mean') == 17
  assert loss_normalizer(MASK, 'sequence_mean') == 6      # the empty completion counts
  assert loss_normalizer(MASK, 'sequence_sum') == 6


def test_the_correction_makes_the_behaviour_policys_tokens_the_old_policys():
  """On a policy small enough to enumerate: expectations over what the behaviour policy samples."""
  policy, behaviour = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
  gains = np.float32(np.random.default_rng(1).normal(size=7))
  sampled = jax.nn.softmax(behaviour)
  every = np.ones((7, 1), np.float32)

  def loss(logits):
    logprobs = jax.nn.log_softmax(logits)[:, None]
    # Each token a completion of its own, weighed by how often it is sampled.
    return policy_loss(logprobs, None, gains * sampled, every, aggregation='sequence_sum',
                       behaviour_logprobs=jax.nn.log_softmax(behaviour)[:, None],
                       correction_high=1e9, normalizer=1.0)[0]

  want = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * gains))(policy)
  np.testing.assert_allclose(jax.grad(loss)(policy), want, atol=1e-6)


GOOD = chosen(example(), FULL | {'clip': 0, 'correction': 0}) | {'completion_mask': MASK}


@pytest.mark.parametrize('change, message', [
    (dict(logprobs=np.zeros(5)), r'logprobs must have shape \[N, C\], got \[5\]'),
    (dict(logprobs=[[0.0]]), r'logprobs must have shape \[N, C\], got a list'),
    (dict(logprobs=np.zeros((6, 5), np.int32)),
     'logprobs must have a floating-point dtype, got int32'),
    (dict(completion_mask=MASK[:, :4]), r'completion_mask must have shape \[6, 5\], got \[6, 4\]'),
    (dict(advantages=np.zeros(5)), r'advantages must have shape \[6\] or \[6, 5\], got \[5\]'),
    (dict(advantages=np.zeros((6, 1))), r'advantages must have shape .*, got \[6, 1\]'),
    (dict(advantages=np.zeros((6, 5)), ratio_level='sequence'),
     r"use 'sequence_token' for advantages per token"),
    (dict(old_logprobs=np.zeros((6, 4))), r'old_logprobs must have shape \[6, 5\], got \[6, 4\]'),
    (dict(reference_logprobs=np.zeros((5,))), r'reference_logprobs must have shape .*, got \[5\]'),
    (dict(behaviour_logprobs=np.zeros((6,))), r'behaviour_logprobs must have shape .*, got \[6\]'),
    (dict(entropies=np.zeros((6, 1))), r'entropies must have shape .*, got \[6, 1\]'),
    (dict(kl_coefficient=0.1, reference_logprobs=None), 'kl_coefficient=0.1 needs reference_log'),
    (dict(entropy_coefficient=0.1, entropies=None), 'entropy_coefficient=0.1 needs entropies'),
    (dict(old_kl_coefficient=0.1, old_logprobs=None), 'old_kl_coefficient=0.1 needs old_logprobs'),
    (dict(kl_estimator='k4'), "kl_estimator='k4' is unknown: .*known: k1, k2, k3"),
    (dict(ratio_level='row'), "ratio_level='row' is unknown: .*known: token, sequence"),
    (dict(clip='both'), "clip='both' is unknown: .*known: ppo, cispo, none"),
    (dict(correction='mask'), "correction='mask' is unknown: .*known: token_truncate"),
    (dict(correction_high=0.5, correction_low=0.6),
     'correction_high must be at least 0.6, got 0.5'),
    (dict(dual_clip=1.0), 'dual_clip must be greater than 1, got 1.0'),
    (dict(dual_clip=3.0, clip='none'), "dual_clip=3.0 needs clip='ppo', got 'none'"),
    (dict(clip_epsilon_low=-0.1), 'clip_epsilon_low must be at least 0, got -0.1'),
    (dict(aggregation='mean'), "aggregation='mean' is unknown: .*known: sequence_mean, token")])
def test_what_does_not_fit_is_refused_in_one_sentence(change, message):
  with pytest.raises(ValueError, match=message) as caught:
    policy_loss(**GOOD | change)
  assert '\n' not in str(caught.value)
