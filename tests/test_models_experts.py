"""The forms in which one device computes its experts give the same values and gradients."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import experts


@pytest.mark.parametrize('load', ['even', 'all on one', 'none at hand'])
def test_the_rows_of_some_experts_by_blocks_are_those_at_once(load, monkeypatch):
  """Experts 2 to 4 of 8, in value and in all gradients, whatever the load."""
  rng = np.random.default_rng(7)
  x, gate_up, down = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                      for shape in ((4, 10, 6), (3, 6, 2, 5), (3, 5, 6)))
  weights = jnp.asarray(rng.random((4, 10, 2)), jnp.float32)
  chosen = {'even': rng.integers(0, 8, (4, 10, 2)), 'all on one': np.full((4, 10, 2), 3),
            'none at hand': rng.integers(5, 8, (4, 10, 2))}[load]
  slope = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

  def run(x, weights, gate_up, down):
    out = experts.run_experts(x, chosen, weights, gate_up, down, 'silu', first=2, share=8)
    return jnp.sum(out * slope), out
  def gradient():
    return jax.jit(jax.grad(run, (0, 1, 2, 3), has_aux=True))(x, weights, gate_up, down)
  at_once = gradient()
  monkeypatch.setattr(experts, 'MIN_BLOCK', 24)      # of 80 rows
  by_blocks = gradient()
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, by_blocks, at_once)
  assert np.any(at_once[1]) == (load != 'none at hand')


@pytest.mark.parametrize('first', [None, 6])
def test_few_tokens_pass_through_all_experts_on_a_tpu(first, monkeypatch):
  """As through their own, in value and in all gradients; what others overflow to is not seen."""
  rng = np.random.default_rng(8)
  x, gate_up, down = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                      for shape in ((4, 10, 6), (5, 6, 2, 5), (5, 5, 6)))
  gate_up = gate_up.at[3].multiply(1e30)
  weights = jnp.asarray(rng.random((4, 10, 2)), jnp.float32)
  others = [] if first is None else [-1, 5]
  chosen = rng.choice([0, 1, 2, 4, *others], (4, 10, 2)) + (first or 0)
  slope = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

  def run(x, weights, gate_up, down):
    out = experts.run_experts(x, chosen, weights, gate_up, down, 'silu', first=first, share=2)
    return jnp.sum(out * slope), out
  def gradient():
    return jax.jit(jax.grad(run, (0, 1, 2, 3), has_aux=True))(x, weights, gate_up, down)
  by_expert = gradient()
  monkeypatch.setattr(experts.sharding, 'platform', lambda: 'tpu')
  seen, all_experts = [], experts._all_experts
  monkeypatch.setattr(
      experts, '_all_experts', lambda *args: (seen.append(1), all_experts(*args))[1])
  at_once = gradient()
  assert seen
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, at_once, by_expert)
  monkeypatch.setattr(experts, 'FEW_TOKENS', 39)
  seen.clear()
  gradient()
  assert not seen
