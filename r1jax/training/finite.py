"""Whether parameters are numbers at all."""
import functools
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.runtime import sharding


def all_finite(tree: Any, alike: Any = None) -> jax.Array:
  """Whether all numbers of a tree of arrays are finite: a bool scalar on the devices.

  Args:
    tree: the arrays.
    alike: a tree. Where the same structure occurs several times in `tree`, as that of parameters
      does in their moments, arrays at the same place of it that have the same shape are reduced
      together: a reduction for each array takes long to compile.
  """
  structure = jax.tree.structure(alike)

  def is_alike(x):
    return alike is not None and jax.tree.structure(x) == structure

  together: dict[tuple, list[jax.Array]] = {}
  for number, part in enumerate(jax.tree.leaves(tree, is_leaf=is_alike)):
    for place, x in enumerate(jax.tree.leaves(part)):
      together.setdefault((place, x.shape) if is_alike(part) else (number, ()), []).append(x)
  return jnp.stack([
      functools.reduce(jnp.logical_and, map(jnp.isfinite, arrays)).all()
      for arrays in together.values()]).all()


def not_finite(params: Any, dtype: str = 'float32') -> list[str]:
  """The names of the arrays that hold NaN or an infinity once they are of this dtype."""
  @jax.jit
  def leaves_finite(params):
    return jax.tree.map(lambda x: all_finite(x.astype(dtype)), params)

  return [jax.tree_util.keystr(path, simple=True, separator='.') for path, is_finite
          in jax.tree_util.tree_leaves_with_path(sharding.to_host(leaves_finite(params)))
          if not is_finite]
