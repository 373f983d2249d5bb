import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import build
from r1jax.runtime import sharding
from r1jax.training.logprobs import completion_logprobs, token_logprobs

N, T, D, V = 3, 7, 8, 29


def naive(hidden, unembedding, targets, temperature):
  log_p = jax.nn.log_softmax(jnp.einsum('ntd,vd->ntv', hidden, unembedding) / temperature)
  return (jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0],
          -jnp.sum(jnp.exp(log_p) * log_p, -1))


def example(dtype=np.float32):
  rng = np.random.default_rng(0)
  hidden, unembedding = rng.normal(size=(N, T, D)), rng.normal(size=(V, D)).astype(np.float32)
  return jnp.asarray(hidden, dtype), unembedding, rng.integers(0, V, (N, T))


def with_gradient(function):
  """f(hidden, unembedding, targets, ...) -> (both outputs, gradients by hidden and unembedding).

  Each output has a cotangent of its own at every token.
  """
  weights = np.random.default_rng(1).normal(size=(2, N, T)).astype(np.float32)

  def scalar(*args, **kwargs):
    logprobs, entropies = function(*args, **kwargs)
    return jnp.sum(logprobs * weights[0] + entropies * weights[1]), (logprobs, entropies)

  gradient = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True),
                     static_argnames='max_logits')

  def run(*args, **kwargs):
    (_, values), gradients = gradient(*args, **kwargs)
    return values, gradients
  return run


ours, reference = with_gradient(token_logprobs), with_gradient(naive)


@pytest.mark.usefixtures('strict_ranks')
@pytest.mark.parametrize('temperature', [1.0, 0.6])
@pytest.mark.parametrize('at_once', [7, 4, 2, 0])      # positions; 0: there is no room for one
def test_pitfall_09_value_and_gradient_equal_the_naive_form(at_once, temperature):
  got = ours(*example(), temperature=temperature, max_logits=at_once * N * V)
  want = reference(*example(), temperature)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), got, want)


def test_pitfall_05_temperature_divides_the_logits_and_carries_no_gradient():
  hidden, unembedding, targets = example()
  cold, warm, by_hand = (
      token_logprobs(hidden * factor, unembedding, targets, temperature=temperature)
      for factor, temperature in ((1, 0.5), (1, 1.0), (2, 1.0)))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), cold, by_hand)
  assert np.max(np.abs(cold[0] - warm[0] / 0.5)) > 0.1
  assert np.all(cold[1] < warm[1])
  assert 0 == jax.grad(lambda temperature: jnp.sum(
      token_logprobs(hidden, unembedding, targets, temperature=temperature)[0]))(0.5)


def test_bfloat16_hidden_states_keep_float32_log_probabilities():
  hidden, unembedding, targets = example(jnp.bfloat16)
  unembedding = np.asarray(unembedding.astype(jnp.bfloat16), np.float32)    # exact in both
  got, gradients = ours(hidden, unembedding, targets, max_logits=2 * N * V)
  want, wanted = reference(hidden.astype(jnp.float32), unembedding, targets, 1.0)
  assert got[0].dtype == got[1].dtype == jnp.float32
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), got, want)
  assert gradients[0].dtype == jnp.bfloat16 and gradients[1].dtype == jnp.float32
  for a, b in zip(gradients, wanted):
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * np.max(np.abs(b)))


def test_a_token_that_is_impossible_spoils_nothing():
  hidden, unembedding, targets = example()
  hidden = hidden.at[..., 0].set(jnp.abs(hidden[..., 0]) + 2)
  impossible = np.zeros((1, D), np.float32)
  impossible[0, 0] = -3e38                                  # a logit of -inf
  got, gradients = ours(hidden, np.concatenate([unembedding, impossible]), targets)
  want, wanted = reference(hidden, unembedding, targets, 1.0)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), got, want)
  np.testing.assert_allclose(gradients[0], wanted[0], atol=2e-5)
  np.testing.assert_allclose(gradients[1][:-1], wanted[1], atol=2e-5)
  assert np.all(gradients[1][-1] == 0)


MASK = np.arange(V) < V - 3
MASK[5] = False     # a hole in the vocabulary


@pytest.mark.parametrize('at_once', [7, 2])
def test_ids_without_a_token_have_no_probability(at_once):
  hidden, unembedding, targets = example()
  kept = np.flatnonzero(MASK)
  targets = targets % len(kept)
  want, wanted = reference(hidden, unembedding[kept], targets, 0.6)
  score = functools.partial(token_logprobs, token_mask=MASK)
  got, gradients = with_gradient(score)(
      hidden, unembedding, kept[targets], temperature=0.6, max_logits=at_once * N * V)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), got, want)
  np.testing.assert_allclose(gradients[0], wanted[0], atol=2e-5)
  np.testing.assert_allclose(gradients[1][kept], wanted[1], atol=2e-5)
  assert np.all(gradients[1][~MASK] == 0)
  assert np.isfinite(score(hidden, unembedding, np.full_like(targets, 5))[0]).all()
  # Those of an unmasked model differ by the share of these ids, and by nothing else.
  whole = jax.nn.softmax(hidden @ unembedding.T)
  np.testing.assert_allclose(
      score(hidden, unembedding, kept[targets])[0] + jnp.log(jnp.sum(whole[..., kept], -1)),
      token_logprobs(hidden, unembedding, kept[targets])[0], atol=2e-5)


def test_a_vocabulary_over_devices_is_masked_alike():
  hidden, unembedding, targets = example()
  unembedding, mask = np.pad(unembedding, ((0, 3), (0, 0)), constant_values=3), np.arange(V + 3) < V
  one = jax.jit(functools.partial(token_logprobs, token_mask=mask))(hidden, unembedding, targets)
  mesh = sharding.make_mesh(1, 4, jax.devices()[:4])
  with sharding.use(mesh):
    table = jax.device_put(unembedding, jax.NamedSharding(mesh, jax.P('tensor')))
    four = jax.jit(functools.partial(token_logprobs, token_mask=mask))(hidden, table, targets)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), four, one)
  plain = token_logprobs(hidden, unembedding[:V], targets)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5), one, plain)


@pytest.mark.parametrize('shapes, message', [
    (((N, D), (V, D), (N,)), r'hidden must have shape \[N, T, D\], got \[3, 8\]'),
    (((N, T, D), (V, D), (N, T - 1)), r'targets must have shape \[3, 7\], got \[3, 6\]'),
    (((N, T, D), (D, V), (N, T)), r'unembedding must have shape \[8, 8\], got \[8, 29\]')])
def test_what_does_not_fit_is_refused_in_one_sentence(shapes, message):
  hidden, unembedding, targets = (jnp.zeros(shape) for shape in shapes)
  with pytest.raises(ValueError, match=message):
    token_logprobs(hidden, unembedding, targets.astype(jnp.int32))


def compiled_gradient(function, n, t, d, v, dtype=jnp.float32):
  def scalar(hidden, unembedding, targets):
    logprobs, entropies = function(hidden, unembedding, targets)
    return jnp.sum(logprobs) + jnp.sum(entropies)
  shapes = (jax.ShapeDtypeStruct((n, t, d), dtype), jax.ShapeDtypeStruct((v, d), jnp.float32),
            jax.ShapeDtypeStruct((n, t), jnp.int32))
  return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1))).lower(*shapes).compile()


@pytest.mark.parametrize('n, t, d, v, max_logits, share', [
    (4, 64, 16, 32_768, 2 ** 18, 1 / 8),
    (32, 128, 256, 151_936, 2 ** 24, 1 / 8)])      # Qwen's vocabulary, 4,096 tokens, the default
def test_pitfall_21_whole_logits_are_never_in_memory(n, t, d, v, max_logits, share):
  ours = compiled_gradient(
      functools.partial(token_logprobs, max_logits=max_logits), n, t, d, v)
  whole = compiled_gradient(functools.partial(naive, temperature=1.0), n, t, d, v)

  def bytes_of(compiled):
    return compiled.memory_analysis().temp_size_in_bytes

  assert bytes_of(whole) >= 4 * n * t * v
  assert bytes_of(ours) <= share * bytes_of(whole)
  assert f'[{n},{t},{v}]' in whole.as_text() and f'[{n},{t},{v}]' not in ours.as_text()


@pytest.fixture(scope='module')
def completions():
  """Three completions of each of the four prompts: (tokens, mask [12, 5])."""
  rng = np.random.default_rng(2)
  lengths = np.array([5, 1, 3, 5, 5, 2, 4, 1, 5, 3, 2, 5])
  return rng.integers(0, 40, (12, 5)), np.float32(np.arange(5) < lengths[:, None])


def shared(model, params, prompts, tokens, mask, temperature):
  return completion_logprobs(model, params, prompts.tokens, prompts.lengths, tokens, mask,
                             temperature=temperature)[:2]


def test_pitfall_04_shared_prompts_equal_the_unshared_naive_form_in_value_and_gradient(
    tiny, prompts, completions, teacher_forced):
  tokens, mask = completions
  weights = np.random.default_rng(3).normal(size=(2, *mask.shape)).astype(np.float32) * mask

  def with_gradient(function):
    def scalar(params):
      logprobs, entropies = function(params)
      return jnp.sum(logprobs * weights[0] + entropies * weights[1]), (logprobs, entropies)
    (_, values), gradient = jax.jit(jax.value_and_grad(scalar, has_aux=True))(tiny.params)
    return [np.where(mask, value, 0) for value in values], gradient

  got = with_gradient(lambda params: shared(tiny.model, params, prompts, tokens, mask, 0.7))
  want = with_gradient(lambda params: teacher_forced(params, prompts, tokens, 0.7))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), got, want)
  assert np.std(want[0][0][mask == 1]) > 0.5


def test_pitfall_04_what_stands_in_the_padding_changes_nothing(
    tiny, prompts, completions, teacher_forced):
  tokens, mask = completions

  def wide(x, width, fill):
    return np.pad(x, ((0, 0), (0, width)), constant_values=fill)

  padded = dataclasses.replace(prompts, tokens=wide(prompts.tokens, 3, 9))
  got = jax.jit(functools.partial(shared, tiny.model, temperature=0))(     # greedy counts as 1
      tiny.params, padded, wide(np.where(mask, tokens, 31), 2, 17), wide(mask, 2, 0))
  for a, b in zip(got, teacher_forced(tiny.params, prompts, tokens, 1.0)):
    np.testing.assert_allclose(np.where(mask, a[:, :5], 0), np.where(mask, b, 0), atol=1e-4)


def test_completions_of_a_single_token(tiny, prompts, completions, teacher_forced):
  tokens = completions[0][:, :1]
  got = jax.jit(functools.partial(shared, tiny.model, temperature=1.0))(
      tiny.params, prompts, tokens, np.ones((12, 1), np.float32))
  want = teacher_forced(tiny.params, prompts, tokens, 1.0)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, want)


def test_bfloat16_models_give_nearly_the_same_float32_log_probabilities(
    tiny, tiny_config, prompts, completions):
  tokens, mask = completions

  def score(model):
    return jax.jit(functools.partial(shared, model, temperature=1.0))(
        tiny.params, prompts, tokens, mask)[0]

  got, want = score(build(tiny_config, compute_dtype='bfloat16')), score(tiny.model)
  assert got.dtype == jnp.float32
  difference = np.abs(got - want)[mask == 1]
  assert 1e-4 < difference.max() and difference.mean() < 0.05
