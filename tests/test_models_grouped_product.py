"""Grouped products against dense ones, and against those that a TPU takes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import grouped_product as module
from r1jax.models.grouped_product import grouped_product


@pytest.mark.parametrize('sizes', [
    [5, 0, 17, 8, 0, 1], [0, 0, 31, 0, 0, 0], [6, 5, 5, 5, 5, 5], [0, 0, 0, 0, 0, 31]])
def test_grouped_products_equal_dense_ones_in_value_and_gradient(sizes):
  rng = np.random.default_rng(1)
  rows, matrices, slope = (
      rng.normal(size=shape).astype(np.float32) for shape in ((31, 5), (6, 5, 7), (31, 7)))
  group = np.repeat(np.arange(6), sizes)

  def with_gradients(product):
    def run(rows, matrices, slope, sizes):
      out, back = jax.vjp(lambda x, w: product(x, w, sizes), rows, matrices)
      return out, back(slope)
    return jax.jit(run)(rows, matrices, slope, jnp.asarray(sizes))
  got = with_gradients(grouped_product)
  want = with_gradients(lambda x, w, _: jnp.einsum('ma,mab->mb', x, w[group]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


def test_grouped_products_equal_those_that_a_tpu_takes():
  rng = np.random.default_rng(2)
  rows, matrices, slope = (
      rng.normal(size=shape).astype(np.float32) for shape in ((20, 5), (4, 5, 7), (20, 7)))
  sizes = jnp.array([3, 0, 16, 1])
  np.testing.assert_allclose(module._blocked_product(rows, matrices, sizes),
                             jax.lax.ragged_dot(rows, matrices, sizes), atol=1e-5)
  np.testing.assert_allclose(module._blocked_outer(rows, slope, sizes),
                             module._ragged_outer(rows, slope, sizes), atol=1e-5)


def test_a_product_does_as_much_work_as_its_rows_need():
  """Blocks are at most a block a group more than the rows fill."""
  for sizes in ([100, 0, 3, 9], [28, 28, 28, 28], [112, 0, 0, 0]):
    count, size, _ = module._blocks(112, jnp.asarray(sizes))
    assert size == 32 and count == sum(-(-n // size) for n in sizes)
