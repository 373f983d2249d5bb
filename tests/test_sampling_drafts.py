import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models_families import CONFIGS

from r1jax.models import ModelConfig, build
from r1jax.records import Prompts, Rollout
from r1jax.runtime import sharding
from r1jax.sampling.drafts import count_kept, look_up, metrics
from r1jax.sampling.draw import Sampling
from r1jax.sampling.sampler import Sampler

GREEDY = Sampling(temperature=0)


def looked_up(text, count=3, size=16):
  padded = np.full((1, size), 99)
  padded[0, :len(text)] = text
  drafts, found = look_up(jnp.asarray(padded), jnp.array([len(text)]), count)
  return drafts[0].tolist() if found[0] else None


@pytest.mark.parametrize('text, want', [
    ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
    ([5, 2, 3, 1, 2, 4, 7, 1, 2], [4, 7, 1]),         # two equal tokens, not the last 2 with one
    ([1, 2, 3, 9, 2, 4, 7, 1, 2], [3, 9, 2]),         # the longer one, not the later one
    ([1, 2, 5, 1, 2, 6, 1, 2], [6, 1, 2]),            # of equally long ones the last
    ([7, 7, 7], [7, 7, 7]),
    ([3, 8, 3, 8], [3, 8, 3]),                        # what has no tokens after it repeats
    ([1, 2, 3], None), ([4], None), ([99], None)])
def test_what_followed_the_same_text_before_is_drafted(text, want):
  assert looked_up(text) == want


def test_drafts_are_kept_as_long_as_they_are_what_is_drawn():
  drafts = jnp.array([[1, 2, 3]] * 4)
  drawn = jnp.array([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 3]])
  goes_on = jnp.array([[True] * 3] * 3 + [[True, False, True]])
  assert count_kept(drafts, drawn, goes_on).tolist() == [3, 1, 0, 1]


def rollouts(model, params, prompts, **settings):
  """(without drafts, with up to three)."""
  settings = dict(group_size=2, max_new_tokens=24, stop_ids=(39,), chunk=4) | settings
  plain = Sampler(model, **settings)(params, prompts, 0)
  drafted = Sampler(model, **settings, drafts=3)(params, prompts, 0)
  np.testing.assert_array_equal(drafted.mask, plain.mask)
  np.testing.assert_array_equal(drafted.finished, plain.finished)
  mask = np.asarray(plain.mask, bool)
  np.testing.assert_array_equal(np.asarray(drafted.tokens)[mask], np.asarray(plain.tokens)[mask])
  for name in ('behaviour_logprobs', 'truncated_logprobs'):
    np.testing.assert_allclose(getattr(drafted, name), getattr(plain, name), atol=2e-5)
  assert plain.drafts is None
  return plain, drafted


def continued(prompts, rollout, count):
  """The prompts, each with the first tokens of its first completion."""
  tokens, lengths = np.asarray(prompts.tokens), np.asarray(prompts.lengths)
  joined = np.pad(tokens, ((0, 0), (0, count)))
  np.put_along_axis(joined, lengths[:, None] + np.arange(count),
                    np.asarray(rollout.tokens)[::2, :count], 1)
  return Prompts(jnp.asarray(joined), prompts.lengths + count, prompts.example_ids)


def test_greedy_and_sampled_rows_keep_their_tokens_and_ends(tiny, prompts):
  plain, drafted = rollouts(tiny.model, tiny.params, prompts, sampling=GREEDY)
  drafts, kept = np.sum(drafted.drafts, 0)
  assert 0.3 * drafts < kept < drafts
  known = continued(prompts, plain, 20)
  last = np.asarray(plain.tokens)[:, 12:].ravel().tolist()
  stop = max(set(last), key=last.count)     # it ends rows in the middle of what is kept
  for sampling in (GREEDY, Sampling(temperature=0.5, top_k=9)):
    plain, drafted = rollouts(tiny.model, tiny.params, known, sampling=sampling,
                              stop_ids=(39, stop), slots=5)
    assert 0 < np.sum(plain.finished) < 8 and np.sum(drafted.drafts, 0)[1] > 5


@pytest.mark.parametrize('family', ['gemma3', 'deepseek_v3'])
def test_windows_and_latent_attention_keep_their_tokens(family, random_params, prompts):
  model = build(CONFIGS[family])
  _, drafted = rollouts(model, random_params(model), prompts, max_new_tokens=12,
                        sampling=Sampling(temperature=0.1))
  assert np.sum(drafted.drafts, 0)[1] > 3


def test_on_a_mesh_rows_keep_their_tokens(tiny, prompts):
  settings = dict(group_size=2, max_new_tokens=12, stop_ids=(39,), sampling=GREEDY, drafts=2)
  want = Sampler(tiny.model, **settings)(tiny.params, prompts, 0)
  with sharding.use(sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])):
    mesh = jax.sharding.get_mesh()
    got = Sampler(tiny.model, **settings, rollout_sharding='tensor')(
        sharding.place(tiny.params, mesh), sharding.place(prompts, mesh, batch=True), 0)
    for name in ('tokens', 'mask', 'drafts'):
      np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


def test_drafts_leave_the_distribution_as_it_is(random_params):
  """A chi-square test of all completions; a right sampler fails at one seed in 10,000."""
  config = ModelConfig(family='qwen3', vocab_size=3, width=8, num_layers=1, num_heads=2,
                       num_kv_heads=1, head_dim=4, mlp_width=8, qk_norm=True)
  model, count = build(config), 3000
  params = random_params(model)
  text = jnp.array([[0, 1, 1, 0, 1, 0, 0, 1]])
  rollout = Sampler(model, group_size=count, max_new_tokens=4, stop_ids=(2,), drafts=2)(
      params, Prompts(text, jnp.array([8]), jnp.array([0])), 0)
  every = np.array(list(itertools.product(range(3), repeat=4)))
  rows = jnp.concatenate([jnp.repeat(text, len(every), 0), every], 1)
  hidden, _, _ = model.apply(params, rows, positions=jnp.broadcast_to(
      jnp.arange(12), rows.shape), segment_ids=jnp.ones_like(rows))
  scores = jnp.take_along_axis(
      jax.nn.log_softmax(model.unembed(params, hidden[:, 7:-1])), every[..., None], -1)
  wanted, drawn = collections.Counter(), collections.Counter()
  for tokens, probability in zip(every.tolist(), np.exp(scores.sum((1, 2)))):
    wanted[tuple((tokens + [2])[:(tokens + [2]).index(2)])] += probability * count
  for tokens in np.where(rollout.mask, rollout.tokens, 2).tolist():
    drawn[tuple((tokens + [2])[:(tokens + [2]).index(2)])] += 1
  assert abs(sum(wanted.values()) - count) < 0.1 and np.sum(rollout.drafts, 0)[1] > 500
  rare = {key for key, number in wanted.items() if number < 5}
  pairs = [(drawn[key], number) for key, number in wanted.items() if key not in rare]
  pairs.append((sum(drawn[key] for key in rare), sum(wanted[key] for key in rare) + 1e-9))
  statistic = sum((found - number) ** 2 / number for found, number in pairs)
  assert jax.scipy.stats.chi2.sf(statistic, len(pairs) - 1) > 1e-4


def test_the_accepted_share_and_tokens_per_step_are_measured():
  def rollout(lengths, drafts):
    mask = np.arange(8) < np.array(lengths)[:, None]
    return Rollout(None, None, mask, None, None, None, drafts and jnp.array(drafts))
  found = metrics([rollout([8, 4], [[6, 3], [2, 1]]), rollout([3, 1], [[2, 1], [0, 0]])])
  assert found == pytest.approx({'drafts/accepted_share': 0.5, 'drafts/tokens_per_step': 16 / 11})
  assert metrics([rollout([2, 2], [[0, 0], [0, 0]])]) == {'drafts/tokens_per_step': 1}
  assert metrics([rollout([2, 2], None)]) == {}
