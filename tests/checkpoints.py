"""What the tests of checkpoints share."""
import jax
import numpy as np

from r1jax.models import build


def random_params(config):
  """Parameters of this shape, drawn alike every time."""
  shapes = jax.eval_shape(build(config).init, jax.random.key(0))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def assert_equal(params, expected):
  jax.tree.map(np.testing.assert_array_equal, params, expected)
