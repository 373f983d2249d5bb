import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from r1jax.sampling import draw as draw_module
from r1jax.sampling.draw import Sampling, draw, truncate

TRUNCATING = Sampling(temperature=0.6, top_k=9, top_p=0.9, min_p=0.05)

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

  def merge(x):
    return np.append(x[~rare], x[rare].sum())[:None if rare[allowed].any() else -1]

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
  tokens = np.asarray(jax.jit(draw_module._inverse_cdf)(
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
  with pytest.raises(ValueError, match=f'sampling: {name} must be .*, got {value!r}'):
    Sampling(**{name: value})
