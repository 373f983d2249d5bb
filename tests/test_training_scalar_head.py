"""The scalar head read as a reward: at the last token, whatever stands around it."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.training.scalar_head import completion_rewards, init_scalar

LENGTHS = np.array([3, 5, 0, 1, 5, 2, 4, 4])


@pytest.fixture(scope='module')
def params(tiny):
  head = np.random.default_rng(3).normal(size=tiny.model.config.width)
  return init_scalar(tiny.model, tiny.params) | {'head': jnp.asarray(head, jnp.float32)}


@pytest.fixture(scope='module')
def completions():
  """(tokens [8, 5], mask [8, 5]) of four groups of two, one completion of them empty."""
  tokens = np.random.default_rng(2).integers(0, 40, (8, 5)).astype(np.int32)
  return tokens, (np.arange(5) < LENGTHS[:, None]).astype(np.float32)


@pytest.fixture(scope='module')
def rewards(tiny, prompts, params, completions):
  program = jax.jit(lambda *arguments: completion_rewards(tiny.model, *arguments))
  return program, program(params, prompts.tokens, prompts.lengths, *completions)


def test_pitfall_04_rewards_are_read_at_the_last_token_alone_in_its_row(
    tiny, prompts, params, completions, rewards):
  """Each completion by itself: its prompt and it in one row, no padding, no sharing."""
  apply = jax.jit(lambda row: tiny.model.apply(
      params['backbone'], row[None], positions=jnp.arange(len(row), dtype=jnp.int32)[None],
      segment_ids=jnp.ones((1, len(row)), jnp.int32))[0][0, -1] @ params['head'])
  for n, (tokens, length) in enumerate(zip(completions[0], LENGTHS)):
    prompt = np.asarray(prompts.tokens)[n // 2, :int(prompts.lengths[n // 2])]
    alone = apply(np.concatenate([prompt, tokens[:length]]).astype(np.int32))
    np.testing.assert_allclose(rewards[1][n], alone, rtol=1e-4, atol=1e-4)


def test_pitfall_03_what_stands_in_the_padding_changes_no_reward(
    prompts, params, completions, rewards):
  program, want = rewards
  tokens, mask = completions
  other = np.where(mask > 0, tokens, 39 - tokens)
  wider = np.pad(np.asarray(prompts.tokens), ((0, 0), (0, 3)), constant_values=5)

  def room(x, fill):
    return np.pad(x, ((0, 0), (0, 4)), constant_values=fill)

  for arguments in ((prompts.tokens, prompts.lengths, other, mask),
                    (wider, prompts.lengths, room(tokens, 7), room(mask, 0))):
    np.testing.assert_allclose(program(params, *arguments), want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_shared_prompt_is_as_good_as_one_each(tiny, prompts, params, completions, rewards):
  """In value and in gradient, which reaches the head and the backbone."""
  program, _ = rewards
  weights = np.random.default_rng(4).normal(size=8).astype(np.float32)
  gradient = jax.jit(jax.value_and_grad(lambda *arguments: jnp.sum(weights * program(*arguments))))
  shared = gradient(params, prompts.tokens, prompts.lengths, *completions)
  unshared = gradient(params, jnp.repeat(prompts.tokens, 2, 0), jnp.repeat(prompts.lengths, 2),
                      *completions)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
               shared, unshared)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(shared[1]['backbone']['stacks']))
  # A new head prefers nothing and can learn; the backbone follows it.
  value, slope = gradient(init_scalar(tiny.model, tiny.params), prompts.tokens, prompts.lengths,
                          *completions)
  assert value == 0 and np.abs(slope['head']).max() > 0.1
  np.testing.assert_allclose(slope['head'], shared[1]['head'], rtol=1e-4, atol=1e-5)
