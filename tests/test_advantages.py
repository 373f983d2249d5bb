import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.advantages import group_relative

pytestmark = pytest.mark.usefixtures('strict_ranks')


@pytest.mark.parametrize('group_size', [2, 3, 8])
def test_group_relative_equals_float64_numpy(group_size):
  rewards = np.random.default_rng(group_size).normal(size=(5, group_size))
  centred = rewards - rewards.mean(1, keepdims=True)
  # The convention: squares are divided by G − 1, epsilon is added to the deviation.
  deviation = np.sqrt((centred ** 2).sum(1, keepdims=True) / (group_size - 1))
  got = group_relative(jnp.asarray(rewards, jnp.float32), epsilon=1e-2)
  assert got.shape == (5 * group_size,) and got.dtype == jnp.float32
  np.testing.assert_allclose(got, (centred / (deviation + 1e-2)).ravel(), atol=1e-5)
  got = group_relative(jnp.asarray(rewards, jnp.float32), scale='none')
  np.testing.assert_allclose(got, centred.ravel(), atol=1e-5)


@pytest.mark.parametrize('scale', ['std', 'none'])
@pytest.mark.parametrize('reward', [0.1, 1 / 3, -0.7, 1e6 + 0.1, 0.0])
def test_pitfall_07_equal_rewards_give_exactly_zero(reward, scale):
  rewards = jnp.full((3, 7), reward, jnp.float32).at[2, 0].add(1.0)
  got = group_relative(rewards, scale=scale).reshape(3, 7)
  np.testing.assert_array_equal(got[:2], np.zeros((2, 7)))
  assert got[2, 0] > 0 and np.all(got[2, 1:] < 0)


def test_pitfall_07_fractional_rewards_survive_and_integers_are_not_divided_as_such():
  got = group_relative(jnp.array([[0.25, 0.5, 0.75]]), epsilon=0.0)
  np.testing.assert_allclose(got, [-1, 0, 1], atol=1e-6)
  np.testing.assert_allclose(group_relative(jnp.array([[0, 0, 1]]), scale='none'),
                             [-1 / 3, -1 / 3, 2 / 3], atol=1e-6)


def test_pitfall_07_a_group_does_not_see_the_others():
  rewards = jax.random.normal(jax.random.key(0), (4, 6))
  alone = jnp.concatenate([group_relative(row[None]) for row in rewards])
  np.testing.assert_array_equal(group_relative(rewards), alone)


def test_advantages_carry_no_gradient():
  gradient = jax.grad(lambda r: jnp.sum(group_relative(r) * jnp.arange(6)))(
      jnp.array([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]))
  np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.parametrize('shape, scale, message', [
    ((3, 1), 'std', 'a group of 1 has no standard deviation'),
    ((6,), 'std', r'rewards have shape \(6,\): give \[B, G\]'),
    ((2, 3), 'mad', "scale='mad' is unknown: use 'std' or 'none'")])
def test_what_cannot_be_is_refused(shape, scale, message):
  with pytest.raises(ValueError, match=message):
    group_relative(jnp.zeros(shape), scale=scale)
