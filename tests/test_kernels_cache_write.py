"""Writing a token of each row into a cache: both forms against a loop over rows."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import cache_write, cache_write_tpu

FORMS = dict(
    scatter=cache_write.write_tokens,
    kernel=functools.partial(cache_write_tpu.write_tokens, interpret=True))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shape, axis, dtype', [
    ((3, 6, 2, 8, 300), -1, 'float32'),       # keys, three tiles of columns
    ((3, 6, 2, 300, 128), -2, 'bfloat16'),    # values
    ((3, 6, 2, 40, 24), -2, 'int8'),          # values whose columns a TPU stores last
    ((3, 6, 1, 40, 128), -2, 'float8_e4m3fn'),
    ((3, 6, 2, 140), -1, 'float32'),          # scales
    ((1, 5, 1, 1, 1), -1, 'float32'),
], ids=str)
def test_each_row_gets_its_column_in_all_layers(shape, axis, dtype, form, monkeypatch):
  """Rows beyond those given stay, and rows whose column is outside."""
  monkeypatch.setattr(cache_write_tpu, '_BLOCK_BYTES', 40_000)    # two layers of some shapes
  rng = np.random.default_rng(0)
  rest = list(shape[2:])
  size = rest.pop(axis)

  def draw(*shape):
    return jnp.asarray(rng.integers(-100, 100, shape), 'float32').astype(dtype)
  stack, new = draw(*shape), draw(shape[0], 5, *rest)
  columns = np.array([size - 1, 0, -1, size, min(size - 1, 130)])
  want = np.array(stack)
  for row, column in enumerate(columns):
    if 0 <= column < size:
      np.moveaxis(want, axis, 2)[:, row, column] = new[:, row]
  got = jax.jit(functools.partial(FORMS[form], axis=axis))(stack, new, jnp.asarray(columns))
  assert got.dtype == stack.dtype
  np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(want, np.float32))


def test_in_a_loop_nothing_of_the_stack_is_copied():
  """Besides the token itself; of a program that is compiled as users compile it, on this CPU."""
  stack, new = jnp.zeros((2, 8, 2, 16, 256)), jnp.ones((2, 8, 2, 16))

  @functools.partial(jax.jit, donate_argnums=0)
  def loop(stack, new, columns):
    return jax.lax.fori_loop(0, 9, lambda i, stack: cache_write.write_tokens(
        stack, new * i, columns + i, axis=-1), stack)
  compiled = loop.lower(stack, new, jnp.arange(8)).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 3 * new.nbytes < stack.nbytes / 10


def test_on_tpu_it_is_the_kernel_and_elsewhere_not():
  traced = jax.jit(functools.partial(cache_write.write_tokens, axis=-1)).trace(
      jnp.zeros((1, 2, 1, 8, 128)), jnp.ones((1, 2, 1, 8)), jnp.arange(2))

  def calls(platform):
    return traced.lower(lowering_platforms=(platform,)).as_text().count('tpu_custom_call')
  assert calls('tpu') == 1
  assert calls('cpu') == calls('cuda') == 0


@pytest.mark.parametrize('change', [
    dict(axis=-2), dict(axis=0), dict(new=jnp.ones((2, 4, 2, 8))), dict(columns=jnp.arange(2)),
    dict(new=jnp.ones((2, 3, 2, 9)))], ids=str)
def test_what_does_not_fit_is_refused(change):
  arguments = dict(stack=jnp.zeros((2, 3, 2, 8, 16)), new=jnp.ones((2, 3, 2, 8)),
                   columns=jnp.arange(3), axis=-1) | change
  with pytest.raises(ValueError, match=r'new .* and columns .* do not match the stack'):
    cache_write.write_tokens(**arguments)
