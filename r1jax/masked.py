"""Masked reductions. Values under a zero mask, NaN and infinities included, never count.

Masks are 0/1 (or bool) and carry no gradient; an empty mask gives a finite zero, in value and in
gradient.
"""
import jax
import jax.numpy as jnp


def select(values: jax.Array, mask: jax.Array) -> jax.Array:
  """`values` where the mask is not 0, else 0; shapes broadcast.

  No gradient reaches a masked value, not even as 0·inf.
  """
  return jnp.where(mask if mask.dtype == bool else mask != 0, values, 0)


def masked_sum(values: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """Σ values·mask over `axis` (all axes when None)."""
  return jnp.sum(select(values, mask), axis)


def masked_mean(values: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """Σ values·mask / Σ mask over `axis`; 0 where the mask is empty."""
  count = jnp.sum(mask != 0, axis)
  return masked_sum(values, mask, axis) / jnp.maximum(count, 1)


def masked_max(values: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """The largest value over `axis` where the mask is not 0; 0 where the mask is empty."""
  largest = jnp.max(jnp.where(mask != 0, values, -jnp.inf), axis)
  return jnp.where(jnp.any(mask != 0, axis), largest, 0)
