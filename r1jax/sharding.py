"""Meshes, and the one table that says which mesh axis a logical axis of an array lies on."""
import contextlib
import math

import jax
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


def platform() -> str:
  """What a program is being compiled for: 'cpu', 'gpu' or 'tpu', by the ambient mesh if any."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def place(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """Arrays put on the mesh: replicated, or with `batch` split along their first axis.

  The first axis stays whole where the mesh axis does not divide it.
  """
  return jax.tree.map(lambda x: jax.device_put(x, _place_of(x, mesh, batch)), tree)


def abstract(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """As `place`, of shapes: nothing is made, and the devices need not be at hand."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=_place_of(x, mesh, batch)), tree)


def _place_of(x, mesh: jax.sharding.Mesh, batch: bool) -> NamedSharding:
  split = batch and x.ndim and x.shape[0] % mesh.shape[RULES['batch']] == 0
  return NamedSharding(mesh, P(RULES['batch']) if split else P())


def to_host(tree):
  """Device arrays brought to the host as numpy arrays: the one place where they leave."""
  return jax.device_get(tree)
