"""Routing against a version by hand, and what balances the load."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import Experts, ModelConfig, build, moe

SOFTMAX = Experts(count=6, per_token=3, width=4)
SIGMOID = Experts(count=8, per_token=3, width=4, routing='sigmoid', scale=2.5, groups=4,
                  groups_per_token=2)


def route_by_hand(config, logits, bias):
  """(experts, weights) of one token, in plain Python."""
  scores = (np.exp(logits) / np.exp(logits).sum() if config.routing == 'softmax'
            else 1 / (1 + np.exp(-logits)))
  choice, size = scores + bias, config.count // config.groups
  groups = [sorted(choice[g * size:(g + 1) * size])[-2:] for g in range(config.groups)]
  best = sorted(range(config.groups), key=lambda g: -sum(groups[g]))[:config.groups_per_token]
  allowed = [e for e in range(config.count) if e // size in best]
  experts = sorted(allowed, key=lambda e: -choice[e])[:config.per_token]
  weights = scores[experts]
  return experts, config.scale * weights / (weights.sum() if config.normalise else 1)


@pytest.mark.parametrize('config', [
    SOFTMAX, dataclasses.replace(SOFTMAX, normalise=False), SIGMOID,
    dataclasses.replace(SIGMOID, groups=1, groups_per_token=1, normalise=False)])
def test_tokens_are_routed_as_by_hand(config):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (40, config.count)).astype(np.float32)
  bias = rng.normal(0, 0.3, config.count) * (config.routing == 'sigmoid')
  experts, weights, _ = jax.jit(lambda logits: moe.route(config, logits, jnp.float32(bias)))(logits)
  moved = 0
  for i, row in enumerate(np.float64(logits)):
    want_experts, want_weights = route_by_hand(config, row, bias)
    np.testing.assert_array_equal(experts[i], want_experts)
    np.testing.assert_allclose(weights[i], want_weights, rtol=1e-5)
    moved += want_experts != route_by_hand(
        dataclasses.replace(config, groups=1, groups_per_token=1), row, 0 * bias)[0]
  assert moved > 5 or config.routing == 'softmax'       # groups and bias decide at times


CONFIG = ModelConfig(
    family='deepseek_v3', vocab_size=40, width=16, num_layers=5, num_heads=2, num_kv_heads=2,
    head_dim=8, mlp_width=16, experts=SIGMOID,
    layers=((('experts', 'dense', 'experts'), 1), (('experts',), 2)))


def test_routing_counts_real_tokens_in_the_layers_order(random_params):
  model = build(CONFIG)
  params = random_params(model)
  for i, stack in enumerate(('stack_0', 'stack_2', 'stack_3')):
    # A bias so large that the groups of experts 2i and 2i + 1 are always among those taken.
    bias = params['stacks'][stack]['mlp']['balancing_bias']
    params['stacks'][stack]['mlp']['balancing_bias'] = (0 * bias).at[:, 2 * i:2 * i + 2].set(9.0)
  tokens = np.random.default_rng(3).integers(0, 40, (2, 6))
  segments = np.int32(np.arange(6) < np.array([[6], [2]]))
  _, _, aux = jax.jit(lambda params: model.apply(
      params, tokens, positions=jnp.broadcast_to(jnp.arange(6), (2, 6)), segment_ids=segments)
  )(params)
  routing = aux['routing']
  assert routing.counts.shape == routing.probabilities.shape == (4, 2, 8)
  np.testing.assert_array_equal(routing.tokens, [[6, 2]] * 4)
  np.testing.assert_array_equal(jnp.sum(routing.counts, -1), 3 * routing.tokens)
  np.testing.assert_allclose(jnp.sum(routing.probabilities, -1), routing.tokens, rtol=1e-5)
  for layer, first in enumerate((0, 2, 4, 4)):
    np.testing.assert_array_equal(routing.counts[layer, :, first:first + 2], [[6, 6], [2, 2]])


def test_the_bias_moves_against_the_load_and_nothing_else_moves(random_params):
  config = dataclasses.replace(CONFIG, prediction_head=True)
  params = random_params(build(config))
  counts = np.random.default_rng(4).integers(0, 3, (5, 8)).astype(np.float32)
  moved = jax.jit(lambda p, c: moe.update_balance(config, p, c, 0.01))(params, counts)
  want = 0.01 * np.sign(counts.mean(-1, keepdims=True) - counts)
  def bias(block):
    return block['mlp']['balancing_bias']
  for stack, layers in (('stack_0', [0]), ('stack_2', [1]), ('stack_3', [2, 3])):
    change = bias(moved['stacks'][stack]) - bias(params['stacks'][stack])
    np.testing.assert_allclose(change, want[layers], atol=1e-6)
  change = bias(moved['prediction']['block']) - bias(params['prediction']['block'])
  np.testing.assert_allclose(change, want[4], atol=1e-6)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(moved)):
    assert path[-1].key == 'balancing_bias' or np.array_equal(a, b), path


def test_updates_of_the_bias_even_out_an_uneven_load():
  """A router that prefers few experts; the biases alone spread its tokens."""
  config = dataclasses.replace(SIGMOID, groups=1, groups_per_token=1)
  model = dataclasses.replace(CONFIG, experts=config, num_layers=1, layers=((('experts',), 1),))
  rng = np.random.default_rng(5)
  logits = (rng.normal(size=(400, 8)) + np.linspace(-2, 2, 8)).astype(np.float32)
  params = {'stacks': {'stack_0': {'mlp': {'balancing_bias': jnp.zeros((1, 8))}}}}

  @jax.jit
  def step(params):
    bias = params['stacks']['stack_0']['mlp']['balancing_bias'][0]
    chosen = moe.route(config, logits, bias)[0]
    load = jnp.bincount(chosen.reshape(-1), length=8)[None].astype(jnp.float32)
    return moe.update_balance(model, params, load, 0.02), load
  loads = []
  for _ in range(60):
    params, load = step(params)
    loads.append(np.max(load) / np.mean(load))
  assert loads[0] > 2 and loads[-1] < 1.25


def test_the_balance_loss_is_its_formula_and_one_where_the_load_is_even():
  rng = np.random.default_rng(6)
  tokens = np.float32([[4, 0, 7], [4, 0, 7]])
  counts = rng.integers(0, 5, (2, 3, 6)).astype(np.float32) * (tokens > 0)[..., None]
  probabilities = rng.random((2, 3, 6)).astype(np.float32) * (tokens > 0)[..., None]
  routing = moe.Routing(counts, probabilities, tokens)
  by_row = [6 * np.sum(counts[layer, n] / (3 * tokens[layer, n])
                       * probabilities[layer, n] / tokens[layer, n])
            for layer in range(2) for n in (0, 2)]
  np.testing.assert_allclose(moe.row_balance_loss(routing, 3), np.mean(by_row), rtol=1e-5)
  even = moe.Routing(np.full((1, 2, 6), 2.0), np.full((1, 2, 6), 4 / 6), np.full((1, 2), 4.0))
  np.testing.assert_allclose(moe.row_balance_loss(even, 3), 1, rtol=1e-6)
  routing = jax.tree.map(jnp.asarray, routing)
  slopes = jax.grad(moe.row_balance_loss)(routing, 3)
  assert np.all(np.isfinite(slopes.probabilities)) and np.any(slopes.probabilities)


@pytest.mark.parametrize('fields, message', [
    (dict(routing='top1'), "routing must be .* got 'top1'"),
    (dict(groups=3), 'count=8 experts cannot be divided into groups=3'),
    (dict(groups=8, groups_per_token=8), 'groups of at least two'),
    (dict(groups_per_token=5), 'groups_per_token must be at most groups=4, got 5'),
    (dict(per_token=5), 'per_token must be from 1 to 4, .* got 5')])
def test_experts_that_cannot_be_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SIGMOID, **fields)


def test_what_cannot_be_balanced_is_refused():
  plain = dataclasses.replace(CONFIG, experts=SOFTMAX)
  with pytest.raises(ValueError, match="no balancing bias.* use a balance loss"):
    moe.update_balance(plain, {}, jnp.zeros((4, 6)), 0.001)
  with pytest.raises(ValueError, match=r'counts must be .* = \(4, 8\), got \(3, 8\)'):
    moe.update_balance(CONFIG, {'stacks': {}}, jnp.zeros((3, 8)), 0.001)
