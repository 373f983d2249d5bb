"""What parameters are known by where no folder says it: a hash that their devices compute."""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.runtime import sharding


def parameter_hash(params: Mapping[str, Any]) -> str:
  """Hexadecimal digits that other parameters hardly have; the mesh does not matter.

  Each element's bits are mixed with its place, and all are added modulo 2^32, in any order.

  Args:
    params: a tree of arrays on devices; all hosts call this together.
  """
  return ''.join(f'{int(found):08x}' for found in jax.tree.leaves(
      sharding.to_host(jax.jit(_two_sums)(params))))


def _two_sums(params: Any) -> tuple[jax.Array, ...]:
  leaves = jax.tree.leaves(params)
  sums = [sum(_sum(leaf, seed + number) for number, leaf in enumerate(leaves))
          for seed in (1, 1 << 20)]
  return tuple(jnp.asarray(found, jnp.uint32) for found in sums)


def _sum(leaf: jax.Array, seed: int) -> jax.Array:
  bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}').astype(jnp.uint32)
  place = jnp.full(leaf.shape, seed, jnp.uint32)
  for axis in range(leaf.ndim):
    place = _mix(place) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
  return jnp.sum(_mix(bits + _mix(place)), dtype=jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
  """The finaliser of MurmurHash3, a bijection of 32 bits."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)
