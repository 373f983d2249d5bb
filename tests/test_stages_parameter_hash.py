import jax
import jax.numpy as jnp
import numpy as np

from r1jax.runtime import sharding
from r1jax.stages.parameter_hash import parameter_hash


def test_parameters_are_told_apart_and_the_mesh_is_not(tiny):
  known = parameter_hash(tiny.params)
  assert known == parameter_hash(jax.tree.map(jnp.array, tiny.params)) and len(known) == 16
  mesh = sharding.make_mesh(8, 1)
  placed = sharding.put(
      tiny.params, sharding.shardings(mesh, tiny.model.logical_axes, tiny.params))
  assert parameter_hash(placed) == known
  leaves, structure = jax.tree.flatten(tiny.params)
  for number in range(len(leaves)):
    changed = [np.array(leaf) for leaf in leaves]
    changed[number].flat[0] = np.nextafter(changed[number].flat[0], np.float32(9))
    assert parameter_hash(jax.tree.unflatten(structure, changed)) != known
  x = jnp.asarray([[1., 2.], [3., 4.]])
  others = [x.T, x[::-1], x.reshape(4), x.reshape(1, 4), -x, x.astype(jnp.bfloat16), 0 * x]
  assert len({parameter_hash({'x': other}) for other in [x, *others]}) == 8
  assert parameter_hash({'x': x, 'y': -x}) != parameter_hash({'x': -x, 'y': x})
