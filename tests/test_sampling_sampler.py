import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from r1jax.records import Prompts
from r1jax.sampling import sampler as sampler_module
from r1jax.sampling.sampler import Interrupted, Sampling, draw, make_sampler, truncate

GREEDY = Sampling(temperature=0)
TRUNCATING = Sampling(temperature=0.6, top_k=9, top_p=0.9, min_p=0.05)
STOPS = (3, 8, 21, 30)


@pytest.fixture(scope='module')
def sampler(tiny):
  """make_sampler for the tiny model; equal settings share their compiled programs."""
  made = {}

  def make(**settings):
    settings = dict(group_size=2, max_new_tokens=6, stop_ids=STOPS, chunk=6,
                    sampling=Sampling(), seed=0) | settings
    key = tuple(settings.values())
    if key not in made:
      made[key] = make_sampler(tiny.model, **settings)
    return made[key]
  return make


def kept(rollout, name='tokens'):
  """A field of a rollout, zero outside its mask."""
  return np.where(rollout.mask, getattr(rollout, name), 0)


@pytest.mark.parametrize('sampling', [Sampling(), TRUNCATING, GREEDY])
def test_pitfall_11_recorded_logprobs_equal_teacher_forced_ones(
    sampling, sampler, tiny, prompts, teacher_forced):
  rollout = sampler(sampling=sampling)(tiny.params, prompts, 0)
  forced, _ = teacher_forced(
      tiny.params, prompts, rollout.tokens, sampling.temperature or 1.0)
  assert np.sum(rollout.mask) > 20
  np.testing.assert_allclose(
      kept(rollout, 'behaviour_logprobs'), np.where(rollout.mask, forced, 0), atol=1e-4)
  if not sampling.truncates:
    np.testing.assert_array_equal(rollout.truncated_logprobs, rollout.behaviour_logprobs)
  else:      # pitfall 5: both are kept, and what is sampled from has more mass on a token
    assert np.all(kept(rollout, 'truncated_logprobs') >= kept(rollout, 'behaviour_logprobs') - 1e-5)
    assert np.max(rollout.truncated_logprobs - rollout.behaviour_logprobs) > 0.05


def test_pitfall_12_fresh_randomness_that_resuming_repeats(sampler, tiny, prompts):
  first, again, other = (kept(sampler()(tiny.params, prompts, i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.sum(np.any(first != other, 1)) >= 6
  by_group = first.reshape(4, 2, -1)
  assert np.any(by_group[:, 0] != by_group[:, 1], 1).all()


def test_pitfall_12_greedy_depends_on_neither_seed_nor_iteration(sampler, tiny, prompts):
  first = kept(sampler(sampling=GREEDY)(tiny.params, prompts, 0))
  other = kept(sampler(sampling=GREEDY, seed=1)(tiny.params, prompts, 5))
  np.testing.assert_array_equal(first, other)
  np.testing.assert_array_equal(first[::2], first[1::2])


def test_pitfall_13_a_row_depends_on_its_own_key_and_prompt_alone(sampler, tiny, prompts):
  want = sampler()(tiny.params, prompts, 0)
  # The same prompts in another order, among others, padded wider, in larger groups.
  rng, places = np.random.default_rng(5), [4, 0, 5, 2]
  tokens, lengths, ids = rng.integers(0, 40, (6, 9)), np.full(6, 8), np.arange(20, 26)
  tokens[places, :6], lengths[places] = prompts.tokens, prompts.lengths
  ids[places] = prompts.example_ids
  other = Prompts(jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths), jnp.asarray(ids))
  got = sampler(group_size=3)(tiny.params, other, 0)
  for name, atol in (('tokens', 0), ('behaviour_logprobs', 1e-5)):
    rows = kept(got, name).reshape(6, 3, -1)[places, :2].reshape(8, -1)
    np.testing.assert_allclose(rows, kept(want, name), atol=atol)


def test_pitfall_14_the_sampler_uses_the_parameters_that_it_is_given(
    sampler, tiny, prompts, teacher_forced, random_params):
  before = kept(sampler()(tiny.params, prompts, 0))
  updated = random_params(tiny.model, seed=1)
  rollout = sampler()(updated, prompts, 0)
  forced, _ = teacher_forced(updated, prompts, rollout.tokens, 1.0)
  np.testing.assert_allclose(
      kept(rollout, 'behaviour_logprobs'), np.where(rollout.mask, forced, 0), atol=1e-4)
  assert np.any(kept(rollout) != before)
  np.testing.assert_array_equal(kept(sampler()(tiny.params, prompts, 0)), before)


def test_pitfall_03_the_stop_token_is_inside_the_mask_and_nothing_after_it(sampler, tiny, prompts):
  rollout = sampler()(tiny.params, prompts, 0)
  for tokens, mask, finished in zip(*map(np.asarray, (
      rollout.tokens, rollout.mask, rollout.finished))):
    stops = np.flatnonzero(np.isin(tokens, STOPS))
    length = stops[0] + 1 if stops.size else 6
    np.testing.assert_array_equal(mask, np.arange(6) < length)
    assert finished == bool(stops.size)
  assert 0 < np.sum(rollout.finished) < 8
  assert len({*np.asarray(rollout.tokens).ravel()} & {*STOPS}) > 1


def test_the_chunk_changes_no_token(sampler, tiny, prompts):
  want, got = (sampler(chunk=chunk)(tiny.params, prompts, 0) for chunk in (6, 4))
  np.testing.assert_array_equal(got.mask, want.mask)
  np.testing.assert_array_equal(kept(got), kept(want))


def test_it_stops_early_and_when_asked(sampler, tiny, prompts):
  calls, answers = [], [False, True]

  def should_stop():
    calls.append(None)
    return answers[len(calls) - 1]

  # Every token is a stop token: completions end with their first, and one of four chunks is run.
  sample = sampler(group_size=1, stop_ids=tuple(range(40)), max_new_tokens=12, chunk=3,
                   should_stop=should_stop)
  rollout = sample(tiny.params, prompts, 0)
  assert len(calls) == 1
  np.testing.assert_array_equal(rollout.mask, np.repeat(np.eye(12)[:1], 4, 0))
  assert rollout.tokens.shape == (4, 12) and np.all(rollout.finished)
  assert not np.any(rollout.behaviour_logprobs[:, 1:])      # nor are the chunk's other tokens
  with pytest.raises(Interrupted):
    sample(tiny.params, prompts, 0)


def test_no_recompilation_from_one_iteration_to_the_next(sampler, tiny, prompts, random_params):
  sample, updated = sampler(chunk=4), random_params(tiny.model, seed=1)
  sample(tiny.params, prompts, 0)
  other = Prompts(prompts.tokens[::-1], prompts.lengths[::-1], prompts.example_ids + 4)
  messages = []
  handler = logging.Handler()
  handler.emit = lambda record: messages.append(record.getMessage())
  logging.getLogger('jax').addHandler(handler)
  try:
    with jax.log_compiles():
      sample(updated, other, 1)
      compiled = [message for message in messages if message.startswith('Compiling')]
      jax.jit(lambda x: x + 1)(1)
  finally:
    logging.getLogger('jax').removeHandler(handler)
  assert not compiled
  assert any(message.startswith('Compiling') for message in messages)      # it would be seen


@pytest.mark.parametrize('settings, message', [
    (dict(group_size=0), 'group_size is 0: use at least 1'),
    (dict(max_new_tokens=0), 'max_new_tokens is 0'), (dict(chunk=0), 'chunk is 0'),
    (dict(stop_ids=()), 'the number of stop_ids is 0')])
def test_impossible_samplers_are_refused(settings, message, sampler):
  with pytest.raises(ValueError, match=message):
    sampler(**settings)


# Drawing one token.

draw_jitted = jax.jit(draw, static_argnames='sampling')


@pytest.mark.usefixtures('strict_ranks')
@pytest.mark.parametrize('vocab_size', [40, 150, 300])      # one block, and torn last blocks
@pytest.mark.parametrize('sampling', [
    Sampling(), Sampling(top_k=7), Sampling(top_p=0.7), Sampling(min_p=0.1), TRUNCATING])
def test_draws_follow_the_truncated_softmax(sampling, vocab_size):
  # Chi-square, seeded: a right sampler would fail one of these with a probability of 15e-6.
  rng, count = np.random.default_rng(vocab_size), 20_000
  logits = (2 * rng.normal(size=vocab_size)).astype(np.float32)
  keys = jax.random.split(jax.random.key(vocab_size), count)
  tokens, full, truncated = draw_jitted(
      keys, np.broadcast_to(logits, (count, vocab_size)), sampling=sampling)
  scaled = np.float64(logits) / sampling.temperature
  log_p = scaled - scipy.special.logsumexp(scaled)
  allowed = kept_by_hand(log_p, sampling)
  log_q = np.where(allowed, log_p - scipy.special.logsumexp(log_p[allowed]), -np.inf)
  seen = np.bincount(tokens, minlength=vocab_size)
  assert not seen[~allowed].any()
  # Tokens that are expected less than five times are counted together.
  rare = np.exp(log_q) * count < 5
  merge = lambda x: np.append(x[~rare], x[rare].sum())[:None if rare[allowed].any() else -1]
  expected = merge(np.exp(log_q) * count)
  assert scipy.stats.chisquare(merge(seen), expected, sum_check=False).pvalue > 1e-6
  np.testing.assert_allclose(full, log_p[tokens], atol=1e-4)
  np.testing.assert_allclose(truncated, log_q[tokens], atol=1e-4)


@pytest.mark.parametrize('vocab_size, possible, seed', [
    (300, 20, 0), (3_000, 40, 1), (20_000, 300, 2), (20_000, 20_000, 3)])
def test_impossible_tokens_are_never_drawn(vocab_size, possible, seed, monkeypatch):
  """On all boundaries between tokens, where the rounding of sums decides."""
  monkeypatch.setattr(jax.random, 'uniform', lambda key: key)      # keys are uniform numbers now
  rng = np.random.default_rng(seed)
  logits = np.full(vocab_size, -np.inf, np.float32)
  logits[rng.choice(vocab_size, possible, replace=False)] = 3 * rng.normal(size=possible)
  mass = np.exp(np.float64(logits) - logits.max())
  ends = np.cumsum(mass) / mass.sum()
  edges = np.float32(rng.choice(ends[mass > 0], min(possible, 300), replace=False))
  uniform = np.concatenate([np.nextafter(edges, np.float32(0)), edges, edges + np.float32(1e-7)])
  uniform = np.clip(np.append(uniform, 0), 0, np.float32(1 - 2 ** -23))
  tokens = np.asarray(jax.jit(sampler_module._inverse_cdf)(
      uniform, np.broadcast_to(logits, (len(uniform), vocab_size))))
  assert np.all(mass[tokens] > 0)
  # And each is the token whose share of [0, 1) holds the number, up to that rounding.
  starts = ends - mass / mass.sum()
  assert np.all((starts[tokens] - 2e-6 <= uniform) & (uniform <= ends[tokens] + 2e-6))


def kept_by_hand(log_p, sampling):
  """What top-k, top-p and min-p keep of distinct log-probabilities, token by token."""
  alive = list(np.argsort(-log_p))
  if sampling.top_k:
    alive = alive[:sampling.top_k]
  total, mass, likely = sum(np.exp(log_p[alive])), 0.0, []
  for token in alive:
    if mass < sampling.top_p * total:
      likely.append(token)
    mass += np.exp(log_p[token])
  least = log_p[likely[0]] + (np.log(sampling.min_p) if sampling.min_p else -np.inf)
  return np.isin(np.arange(log_p.size), [token for token in likely if log_p[token] >= least])


@pytest.mark.usefixtures('strict_ranks')
@pytest.mark.parametrize('sampling', [
    Sampling(top_k=1), Sampling(top_k=99), Sampling(top_p=1e-6), Sampling(top_p=0.99),
    Sampling(min_p=1.0), Sampling(top_k=12, top_p=0.8), Sampling(top_p=0.9, min_p=0.2),
    TRUNCATING])
def test_truncation_equals_the_filters_by_hand(sampling):
  logits = np.random.default_rng(0).normal(0, 2, (30, 25)).astype(np.float32)
  got = np.asarray(truncate(jnp.asarray(logits), sampling))
  want = np.array([kept_by_hand(np.float64(row), sampling) for row in logits])
  np.testing.assert_array_equal(got, np.where(want, logits, -np.inf))


def test_tokens_that_tie_with_the_last_one_kept_are_kept_too():
  got = truncate(jnp.array([0.0, 1.0, 2.0, 1.0]), Sampling(top_k=2))
  np.testing.assert_array_equal(np.isfinite(got), [False, True, True, True])


@pytest.mark.parametrize('name, value', [
    ('temperature', -1), ('temperature', float('nan')), ('temperature', '1'), ('top_p', 0),
    ('top_p', 1.5), ('top_p', None), ('min_p', 2), ('top_k', -1)])
def test_pitfall_13_settings_out_of_range_are_refused_and_never_greedy(name, value):
  with pytest.raises(ValueError, match=f'sampling: {name}={value!r}'):
    Sampling(**{name: value})
