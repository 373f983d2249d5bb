"""Meshes, and the one table that says which mesh axis a logical axis of an array lies on."""
from collections.abc import Sequence
import contextlib
import functools
import itertools
import math

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

AXES = ('fsdp', 'tensor')

# Logical axis -> mesh axis. 'batch' is prompts or rows, always split by whole groups.
RULES = {
    'batch': 'fsdp',
    'embed': 'fsdp',
    'vocab': 'tensor',
    'kv_heads': 'tensor',
    'heads': 'tensor',
    'mlp': 'tensor',
    'rank': 'fsdp',
    'expert': None,     # every device has its slice of all experts
}


def make_mesh(fsdp: int = 1, tensor: int = 1, devices=None) -> jax.sharding.Mesh:
  """A mesh of `fsdp` × `tensor` devices; one size may be -1 and then takes all devices left.

  Raises ValueError where the sizes do not use up the devices exactly.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  sizes = [fsdp, tensor]
  others = -math.prod(sizes)
  if sizes.count(-1) == 1 and others > 0 and devices.size % others == 0:
    sizes[sizes.index(-1)] = devices.size // others
  if min(sizes) < 1 or math.prod(sizes) != devices.size:
    raise ValueError(
        f'mesh (fsdp={fsdp}, tensor={tensor}) does not fit {devices.size} device(s): '
        f'set sizes whose product is {devices.size}, or one of them to -1')
  return jax.sharding.Mesh(devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def partition_spec(logical_axes: tuple[str | None, ...]) -> P:
  """The PartitionSpec of an array whose axes have these logical names (None: not split)."""
  return P(*(RULES.get(axis) for axis in logical_axes))


def shardings(mesh: jax.sharding.Mesh, logical_axes, shapes=None):
  """NamedShardings for a tree of logical axes (tuples are leaves).

  With `shapes` (a tree of the same structure), an axis that its mesh axis does not divide is
  replicated instead: a vocabulary of 49,152 on 7 devices still runs.
  """
  is_axes = lambda x: isinstance(x, tuple)

  def one(axes, shape=None):
    return NamedSharding(mesh, partition_spec(axes) if shape is None else
                         spec_that_divides(mesh, shape.shape, axes))

  if shapes is None:
    return jax.tree.map(one, logical_axes, is_leaf=is_axes)
  return jax.tree.map(one, logical_axes, shapes, is_leaf=is_axes)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """States inside a jitted program how `x` lies on the ambient mesh; without a mesh, nothing."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec_that_divides(mesh, x.shape, logical_axes))


def spec_that_divides(mesh, shape: tuple[int, ...], logical_axes: tuple[str | None, ...]) -> P:
  """The PartitionSpec of an array of this shape, without mesh axes that do not divide it."""
  return P(*(name if name and size % mesh.shape[name] == 0 else None
             for name, size in zip(partition_spec(logical_axes), shape)))


def use(mesh: jax.sharding.Mesh | None):
  """The context in which jitted programs see `mesh`; a None mesh changes nothing."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def put(tree, placements):
  """Arrays put where `placements`, a tree of the same structure, says.

  Arrays of the host are the same on all hosts, each of which puts down what its devices hold.
  """
  return jax.tree.map(_put, tree, placements)


def place(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """Arrays put on the mesh: replicated, or with `batch` split along their first axis.

  The first axis stays whole where the mesh axis does not divide it.
  """
  return jax.tree.map(lambda x: _put(x, _by_rows(mesh, x.shape[0]) if batch and x.ndim
                                     else replicated(mesh)), tree)


def to_host(tree):
  """Device arrays brought to all hosts as numpy arrays, whole: the one place where they leave."""
  return jax.tree.map(_to_host, tree)


def owners(mesh: jax.sharding.Mesh | None, num_groups: int) -> np.ndarray:
  """[num_groups]: the process that reads and judges each group of a batch on this mesh.

  It holds the group. Groups that several processes hold are shared out among these, in blocks.
  Without a mesh the first owns all.
  """
  if mesh is None:
    return np.zeros(num_groups, int)
  held = _by_rows(mesh, num_groups).devices_indices_map((num_groups,))
  holders = [set() for _ in range(num_groups)]
  for device, (rows,) in held.items():
    for group in range(*rows.indices(num_groups)):
      holders[group].add(device.process_index)
  return share_out(holders)


def share_out(holders: Sequence[set[int]]) -> np.ndarray:
  """[B]: one of each group's holders; neighbours with the same holders are shared out in blocks."""
  found = []
  for processes, run in itertools.groupby(map(sorted, holders)):
    blocks = np.array_split(np.arange(len(list(run))), len(processes))
    found += np.repeat(processes, list(map(len, blocks))).tolist()
  return np.asarray(found)


def own_rows(tree, mesh: jax.sharding.Mesh, owned: np.ndarray):
  """The rows [M, ...] of device arrays [N, ...] that belong to the groups `owned` [B], bool.

  Only what this host holds leaves the devices; all hosts call this together.
  """
  rows = np.repeat(owned, jax.tree.leaves(tree)[0].shape[0] // owned.size)
  if jax.process_count() == 1:
    return jax.tree.map(lambda x: x[rows], to_host(tree))

  def one(x):
    x = _resharded(_by_rows(mesh, owned.size))(x)
    whole = np.zeros(x.shape, x.dtype)
    once = {shard.index[0].start: shard for shard in x.addressable_shards}
    for shard in once.values():
      whole[shard.index] = jax.device_get(shard.data)
    return whole[rows]
  return jax.tree.map(one, tree)


def _by_rows(mesh, size: int) -> NamedSharding:
  """How a first axis of this size, or one that is a multiple of it, lies on the mesh."""
  return NamedSharding(mesh, spec_that_divides(mesh, (size,), ('batch',)))


def _put(x, placement: NamedSharding):
  if placement.is_fully_addressable:
    return jax.device_put(x, placement)
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return _resharded(placement)(x)
  whole = np.asarray(jax.device_get(x))
  return jax.make_array_from_callback(whole.shape, placement, lambda index: whole[index])


def _to_host(x):
  if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
    return jax.device_get(x)
  with jax.transfer_guard_device_to_host('allow'):
    return multihost_utils.process_allgather(x, tiled=True)


@functools.lru_cache
def _resharded(placement: NamedSharding):
  return jax.jit(lambda x: x, out_shardings=placement)
