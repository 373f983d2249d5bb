"""Whether arrays are finite: every place of a tree counts, in few reductions."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.training.finite import all_finite

PARAMS = dict(a=jnp.ones((3, 4)), b=[jnp.ones((3, 4)), jnp.ones(5)])


@pytest.mark.parametrize('params', [PARAMS, jnp.ones(3), [jnp.ones(2)]])
@pytest.mark.parametrize('optimizer', [
    optax.adam(1.0), optax.adafactor(1.0, min_dim_size_to_factor=2)])
def test_every_place_of_parameters_and_moments_counts(params, optimizer):
  tree = (params, optimizer.init(params))
  leaves, structure = jax.tree.flatten(tree)
  assert all_finite(tree, alike=params)
  for number, leaf in enumerate(leaves):
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      for fault in (np.nan, np.inf, -np.inf):
        broken = leaves.copy()
        broken[number] = leaf.at[(-1,) * leaf.ndim].set(fault)
        broken = jax.tree.unflatten(structure, broken)
        assert not all_finite(broken, alike=params) and not all_finite(broken)


def test_parameters_and_their_moments_are_reduced_together():
  tree = (PARAMS, optax.adam(1.0).init(PARAMS))
  program = jax.make_jaxpr(lambda tree: all_finite(tree, alike=PARAMS))(tree)
  # One for each of three parameters, one for the count of steps, one for all of these.
  assert str(program).count('reduce_and') == 5
