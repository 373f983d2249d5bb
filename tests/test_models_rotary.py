"""Rotary positions: what a rotation keeps."""
import jax.numpy as jnp
import numpy as np

from r1jax.models import rotary


def test_rotation_keeps_lengths_and_tells_distances_alone():
  rng = np.random.default_rng(0)
  query, key = rng.normal(size=(2, 1, 1, 1, 1, 8)).astype(np.float32)
  frequencies = rotary.frequencies(8, 100.0, None)

  def at(x, position):
    angles = jnp.full((1, 1, 1), position) * frequencies
    return rotary.rotate(x, jnp.sin(angles), jnp.cos(angles))
  near, far, other = (jnp.sum(at(query, q) * at(key, k)) for q, k in ((5, 3), (105, 103), (5, 4)))
  np.testing.assert_allclose(near, far, rtol=1e-4)
  assert abs(near - other) > 0.01
  np.testing.assert_allclose(jnp.linalg.norm(at(query, 7)), np.linalg.norm(query), rtol=1e-5)
