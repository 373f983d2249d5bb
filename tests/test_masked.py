import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import masked

pytestmark = pytest.mark.usefixtures('strict_ranks')

VALUES = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32) - 3
MASK = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.float32)
JUNK = np.where(MASK == 0, np.array([np.nan, np.inf, -np.inf, 7, np.nan]), VALUES)
REFERENCES = {'masked_sum': np.sum, 'masked_mean': np.mean, 'masked_max': np.max}


@pytest.mark.parametrize('dtype', [np.float32, bool, np.int32])
@pytest.mark.parametrize('name', REFERENCES)
def test_reductions_see_unmasked_values_only(name, dtype):
  reduce, reference = getattr(masked, name), REFERENCES[name]
  mask = MASK.astype(dtype)
  by_row = [reference(row[keep == 1]) if keep.any() else 0 for row, keep in zip(VALUES, MASK)]
  np.testing.assert_allclose(reduce(JUNK, mask, 1), by_row, rtol=1e-6)
  np.testing.assert_allclose(reduce(JUNK, mask), reference(VALUES[MASK == 1]), rtol=1e-6)


@pytest.mark.parametrize('name', REFERENCES)
def test_pitfall_02_an_empty_mask_gives_zero_in_value_and_gradient(name):
  reduce = getattr(masked, name)
  value, gradient = jax.value_and_grad(
      lambda values: reduce(values, jnp.zeros_like(MASK)))(jnp.asarray(JUNK))
  assert value == 0
  np.testing.assert_array_equal(gradient, np.zeros_like(MASK))


def test_pitfall_02_no_gradient_reaches_a_masked_value():
  # exp overflows to inf under the mask; its slope times a zero cotangent would be NaN.
  values = jnp.where(MASK == 0, 1e4, VALUES)
  gradient = jax.grad(lambda x: masked.masked_sum(jnp.exp(masked.select(x, MASK)), MASK))(values)
  np.testing.assert_allclose(gradient, np.where(MASK == 0, 0, np.exp(VALUES)), rtol=1e-6)
