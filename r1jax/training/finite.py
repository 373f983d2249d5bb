"""Whether parameters are numbers at all."""
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.runtime import sharding


def all_finite(tree: Any) -> jax.Array:
  """Whether all numbers of a tree of arrays are finite: a bool scalar on the devices."""
  return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def not_finite(params: Any, dtype: str = 'float32') -> list[str]:
  """The names of the arrays that hold NaN or an infinity once they are of this dtype."""
  @jax.jit
  def leaves_finite(params):
    return jax.tree.map(lambda x: all_finite(x.astype(dtype)), params)

  return [jax.tree_util.keystr(path, simple=True, separator='.') for path, is_finite
          in jax.tree_util.tree_leaves_with_path(sharding.to_host(leaves_finite(params)))
          if not is_finite]
