"""Rotary positions (RoPE, arXiv:2104.09864) and the ways in which families stretch them."""
import math

import jax
import jax.numpy as jnp

from r1jax.models.config import LinearScaling, ModelConfig, RopeScaling, YarnScaling


def frequencies(
    width: int, theta: float, scaling: RopeScaling | LinearScaling | YarnScaling | None
) -> jax.Array:
  """Rotary frequencies theta^(−2i/width), i = 0, 1, ..., stretched by `scaling`: [width / 2].

  Args:
    width: numbers of a head that are rotated; even.
    theta: base of the frequencies.
    scaling: None leaves the frequencies as they are.
  """
  plain = theta ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width)
  if scaling is None:
    return plain
  if isinstance(scaling, LinearScaling):
    return plain / scaling.factor
  if isinstance(scaling, YarnScaling):
    low = _index_of_turns(scaling.fast_turns, width, theta, scaling)
    high = _index_of_turns(scaling.slow_turns, width, theta, scaling)
    if scaling.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    smooth = 1 - (jnp.arange(width // 2) - low) / max(high - low, 0.001)
  else:
    turns = scaling.original_max_length * plain / (2 * jnp.pi)
    smooth = (turns - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor)
  smooth = jnp.clip(smooth, 0, 1)
  return plain * (smooth + (1 - smooth) / scaling.factor)


def _index_of_turns(turns: float, width: int, theta: float, scaling: YarnScaling) -> float:
  """Index of the frequency that makes this number of turns within the original length."""
  return width * math.log(
      scaling.original_max_length / (turns * 2 * math.pi)) / (2 * math.log(theta))


def tables(
    config: ModelConfig, positions: jax.Array, *, local: bool = False
) -> tuple[jax.Array, jax.Array]:
  """(sines, cosines), both [N, T, rotated width / 2].

  Args:
    config: the architecture.
    positions: [N, T] int.
    local: for layers of kind 'local', which with a theta of their own are not stretched.
  """
  width = config.latent.rope_dim if config.latent else config.head_dim
  theta, scaling = config.rope_theta, config.rope_scaling
  if local and config.local_rope_theta is not None:
    theta, scaling = config.local_rope_theta, None
  angles = positions[..., None].astype(jnp.float32) * frequencies(width, theta, scaling)
  sines, cosines = jnp.sin(angles), jnp.cos(angles)
  if isinstance(scaling, YarnScaling):
    size = scaling.attention_factor
    if size is None:
      size = yarn_mscale(scaling, scaling.mscale) / yarn_mscale(scaling, scaling.mscale_all_dim)
    sines, cosines = sines * size, cosines * size
  return sines, cosines


def query_factors(config: ModelConfig, positions: jax.Array) -> jax.Array | None:
  """1 + query_growth·ln(1 + ⌊position / original length⌋): [N, T]; None where it is always 1.

  Args:
    config: the architecture.
    positions: [N, T] int.
  """
  scaling = config.rope_scaling
  if not isinstance(scaling, YarnScaling) or not scaling.query_growth:
    return None
  turns = jnp.floor(positions / scaling.original_max_length)
  return 1 + scaling.query_growth * jnp.log(1 + turns)


def yarn_mscale(scaling: YarnScaling, mscale: float) -> float:
  """0.1·mscale·ln(factor) + 1, or 1 where the factor stretches nothing (arXiv:2309.00071)."""
  return 0.1 * mscale * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0


def rotate(
    x: jax.Array, sines: jax.Array, cosines: jax.Array, *, interleaved: bool = False
) -> jax.Array:
  """Rotates pairs of numbers of each head by the angles of their positions.

  Args:
    x: [N, T, K, h, D], queries or keys.
    sines: [N, T, D/2].
    cosines: [N, T, D/2].
    interleaved: pair neighbours, not the two halves as Hugging Face does. The result is ordered as
      halves all the same, alike for queries and keys.

  Returns:
    [N, T, K, h, D] in the dtype of `x`.
  """
  x32 = x.astype(jnp.float32)
  first, second = (
      (x32[..., 0::2], x32[..., 1::2]) if interleaved else jnp.split(x32, 2, axis=-1))
  sines, cosines = sines[:, :, None, None], cosines[:, :, None, None]    # [N, T, 1, 1, D/2]
  return jnp.concatenate([first * cosines - second * sines,
                          second * cosines + first * sines], -1).astype(x.dtype)
