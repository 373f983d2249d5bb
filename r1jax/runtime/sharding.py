"""Meshes, and the one table that says which mesh axes a logical axis of an array is split over.

There are two kinds of names. A *mesh axis* is a dimension of the device grid: one of `AXES`, and a
field of `config.mesh`. A *logical axis* says what a dimension of an array means: a key of `RULES`,
whose value lists mesh axes. Models annotate arrays with logical axes only. Only `'expert'` is both:
the logical axis of experts is split over the mesh axis of that name. The positions of a row are the
logical axis `'sequence'`, which is split over the mesh axis `'context'`.
"""
from collections.abc import Mapping, Sequence
import contextlib
import contextvars
import functools
import itertools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from r1jax.errors import UserError

# Axes of the mesh, outermost first: devices that are far apart on the network should exchange the
# least. The data axis communicates once per update, fsdp and expert once per layer, context and
# tensor several times per layer.
AXES = ('data', 'fsdp', 'expert', 'context', 'tensor')
_ROWS = ('data', 'fsdp', 'expert')

Rules = dict[str, tuple[str, ...]]

# Logical axis -> the mesh axes it is split over. An array uses a mesh axis once, for the first of
# its logical axes that names it. The first block is for parameters and moments, the second for
# activations, caches and batches.
RULES: Rules = {
    'embed': ('fsdp', 'expert', 'context'),   # gathered one layer at a time, by `gathered`
    'rank': ('fsdp', 'expert', 'context'),
    'vocab': ('tensor',),
    'kv_heads': ('tensor',),
    'heads': ('tensor',),
    'mlp': ('tensor',),
    'expert': ('expert',),

    'batch': _ROWS,                            # prompts or rows; whole groups stay together
    'sequence': ('context',),                  # the positions of a row
}

# While decoding, weights are split over tensor and expert axes only, so that no token waits for a
# gather. The context axis cannot split a single token: it takes rows.
ROLLOUT_RULES = RULES | {
    'embed': (), 'rank': (), 'batch': (*_ROWS, 'context'), 'sequence': ()}
# By the value of `sampling.rollout_sharding`: the rules for the sampler's copy of the weights.
ROLLOUT_SHARDINGS = {'train': RULES, 'tensor': ROLLOUT_RULES}
_rules: contextvars.ContextVar[Rules] = contextvars.ContextVar('rules', default=RULES)


def make_mesh(fsdp: int = 1, tensor: int = 1, devices=None, *, data: int = 1, expert: int = 1,
              context: int = 1) -> jax.sharding.Mesh:
  """A mesh with these axis sizes; see `AXES`.

  TPU chips are laid out so that mesh axes run along links of their torus where possible.

  Args:
    fsdp: size of this axis. One of the sizes may be -1: all devices that the others leave.
    tensor: size of this axis.
    devices: those of the mesh; None: all devices there are.
    data: size of this axis.
    expert: size of this axis.
    context: size of this axis.

  Raises:
    UserError: the product of the sizes is not the number of devices.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  requested = dict(data=data, fsdp=fsdp, expert=expert, context=context, tensor=tensor)
  sizes = list(requested.values())
  others = -math.prod(sizes)
  if sizes.count(-1) == 1 and others > 0 and devices.size % others == 0:
    sizes[sizes.index(-1)] = devices.size // others
  if min(sizes) < 1 or math.prod(sizes) != devices.size:
    named = ', '.join(f'{name}={size}' for name, size in requested.items())
    raise UserError(
        f'mesh ({named}) does not fit {devices.size} device(s): '
        f'set sizes whose product is {devices.size}, or one of them to -1')
  if devices.size > 1 and getattr(devices.flat[0], 'platform', '') == 'tpu':
    devices = mesh_utils.create_device_mesh(
        sizes, list(devices.flat), allow_split_physical_axes=True)
  return jax.sharding.Mesh(devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_divides(mesh: jax.sharding.Mesh, logical_axis: str, size: int, what: str) -> None:
  """Checks that the mesh axes of a logical axis divide a size.

  Args:
    mesh: the mesh.
    logical_axis: a key of `RULES`.
    size: of the logical axis.
    what: the config field that has this size, for the error message.

  Raises:
    UserError: they do not; it names the field and the number that it must be a multiple of.
  """
  names = [name for name in RULES[logical_axis] if mesh.shape.get(name, 1) > 1]
  shards = math.prod(mesh.shape[name] for name in names)
  if size % shards:
    axes = ' × '.join(f'{name}={mesh.shape[name]}' for name in names)
    raise UserError(f'{what}={size} cannot be split over the mesh axes {axes}: make it a multiple '
                     f'of {shards}, or these axes smaller')


def num_batch_shards(mesh: jax.sharding.Mesh) -> int:
  """Into how many shards this mesh splits the prompts or rows of a batch."""
  return math.prod(mesh.shape.get(name, 1) for name in RULES['batch'])


@contextlib.contextmanager
def rules(table: Rules):
  """A context in which programs are traced with another table than RULES.

  A jitted function is traced once, with the table of its first call: use one function per table.
  """
  token = _rules.set(table)
  try:
    yield
  finally:
    _rules.reset(token)


def shardings(mesh: jax.sharding.Mesh, logical_axes, shapes=None):
  """NamedShardings for a tree of logical axes.

  Args:
    mesh: the mesh.
    logical_axes: a tree whose leaves are tuples of logical axes.
    shapes: a tree of arrays or shapes with the same structure. With it, an axis that its mesh axes
      do not divide is replicated instead: a vocabulary of 49,152 still runs on 7 devices.
  """
  def one(axes, shape=None):
    return NamedSharding(mesh, spec_that_divides(
        mesh, (None,) * len(axes) if shape is None else shape.shape, axes))

  if shapes is None:
    return jax.tree.map(one, logical_axes, is_leaf=_is_tuple)
  return jax.tree.map(one, logical_axes, shapes, is_leaf=_is_tuple)


def _is_tuple(x) -> bool:
  return isinstance(x, tuple)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The sharding of an array that all devices hold whole."""
  return NamedSharding(mesh, P())


def is_multi_device() -> bool:
  """Whether a program is being traced for more than one device."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.size > 1


def num_shards(logical_axis: str, size: int | None = None) -> int:
  """Into how many shards the ambient mesh splits a logical axis; 1 without a mesh.

  With a size, only mesh axes that divide it count.
  """
  mesh = jax.sharding.get_abstract_mesh()
  (entry,) = spec_that_divides(mesh, (size,), (logical_axis,))
  return math.prod(mesh.shape[name] for name in axes_of(entry))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Constrains, inside a jitted program, how `x` is sharded on the ambient mesh.

  Without a mesh, or on one device, it returns `x`.

  Args:
    x: the array.
    *logical_axes: one for each of its dimensions; None for a dimension that is not split.
  """
  if not is_multi_device():
    return x
  mesh = jax.sharding.get_abstract_mesh()
  return jax.lax.with_sharding_constraint(x, spec_that_divides(mesh, x.shape, logical_axes))


def gathered(weight: jax.Array, *logical_axes: str | None) -> jax.Array:
  """A weight gathered for a matrix product: split over tensor and expert axes only.

  Inside the layer scan this gathers one layer at a time, and again in the backward pass. The
  gradient is sharded as the weight is: it is reduce-scattered, and never whole on a device.
  """
  return _gathered(weight, logical_axes) if is_multi_device() else weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(weight, logical_axes):
  with rules(ROLLOUT_RULES):
    return constrain(weight, *logical_axes)


def _gathered_forward(weight, logical_axes):
  return _gathered(weight, logical_axes), None


def _gathered_backward(logical_axes, _, gradient):
  # Gathered first: otherwise XLA may move activations between devices to make a shard of it.
  return (constrain(_gathered(gradient, logical_axes), *logical_axes),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def constrain_tree(tree, logical_axes):
  """Applies `constrain` to every leaf, with a tree of logical axes (tuples)."""
  return jax.tree.map(lambda x, axes: constrain(x, *axes), tree, logical_axes)


def constrain_rows(tree, *leading: None):
  """Applies `constrain` to arrays of rows, which `leading` axes that are not split precede."""
  return jax.tree.map(lambda x: constrain(x, *leading, 'batch'), tree)


def spec_that_divides(mesh, shape: Sequence[int | None],
                      logical_axes: Sequence[str | None]) -> P:
  """The PartitionSpec of an array of this shape, without mesh axes that do not divide it.

  Args:
    mesh: the mesh, concrete or abstract.
    shape: of the array; every mesh axis divides a size of None.
    logical_axes: of the array; None for a dimension that is not split. Of the mesh axes of a
      logical axis, those before the first that does not divide are kept.
  """
  table = _rules.get()
  used: set[str] = set()
  spec: list[str | tuple[str, ...] | None] = []
  for axis, size in zip(logical_axes, shape):
    names: list[str] = []
    for name in table[axis] if axis else ():
      shards = math.prod(mesh.shape[n] for n in names) * mesh.shape.get(name, 1)
      if name in used or mesh.shape.get(name, 1) == 1:
        continue
      if size is not None and size % shards:
        break
      names.append(name)
    used.update(names)
    spec.append(tuple(names) if len(names) > 1 else names[0] if names else None)
  return P(*spec)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes of one entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else entry or ()


def use(mesh: jax.sharding.Mesh | None):
  """A context in which `mesh` is the ambient mesh of jitted programs; None changes nothing."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def platform() -> str:
  """What programs are compiled for: 'cpu', 'gpu' or 'tpu'; by the ambient mesh if there is one."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def put(tree, placements):
  """Arrays with the shardings of `placements`, a tree of the same structure.

  NumPy arrays must be the same on all hosts; each host transfers what its devices hold.
  """
  return jax.tree.map(_put, tree, placements)


def place(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """Arrays on the mesh: replicated, or with `batch` split along their first axis.

  The first axis stays whole where the mesh axes do not divide it.
  """
  return jax.tree.map(lambda x: _put(x, _default_sharding(x, mesh, batch)), tree)


def shapes_on(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """The shapes of what `place` would return, with their shardings.

  No array is made, and the devices need not exist.
  """
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=_default_sharding(x, mesh, batch)), tree)


def _default_sharding(x, mesh: jax.sharding.Mesh, batch: bool) -> NamedSharding:
  return _by_rows(mesh, x.shape[0]) if batch and x.ndim else replicated(mesh)


HOST_MEMORY = 'pinned_host'


def check_host_memory(mesh: jax.sharding.Mesh, what: str) -> None:
  """Checks that the devices can address host memory.

  Args:
    mesh: of the devices.
    what: the config field and its value, for the error message.

  Raises:
    UserError: they cannot; it names the memories that they have.
  """
  device = mesh.devices.flat[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if HOST_MEMORY not in kinds:
    raise UserError(f'{what}: {device.platform} devices have no memory {HOST_MEMORY!r} (they have '
                     f'{", ".join(kinds)}): set it to ()')


def in_host_memory(tree):
  """Device arrays moved to their hosts' memory, with the same sharding."""
  return _in_memory(tree, HOST_MEMORY)


def in_device_memory(tree):
  """Arrays in host memory moved to their devices; those already there stay."""
  return _in_memory(tree, 'device')


def _in_memory(tree, kind):
  return jax.device_put(tree, jax.tree.map(lambda x: x.sharding.with_memory_kind(kind), tree))


def to_host(tree):
  """Device arrays as whole NumPy arrays, on all hosts.

  Implicit transfers are disallowed while a stage runs: arrays leave the devices here and in
  `own_rows`.
  """
  return jax.tree.map(_to_host, tree)


def owners(mesh: jax.sharding.Mesh | None, num_groups: int) -> np.ndarray:
  """[num_groups]: the process that reads each group of a batch on this mesh and rewards it.

  The owner is one of the processes whose devices hold the group; see `share_out`. Without a mesh
  process 0 owns all groups.
  """
  if mesh is None:
    return np.zeros(num_groups, int)
  held: Mapping[Any, Any] = _by_rows(mesh, num_groups).devices_indices_map((num_groups,))
  holders: list[set[int]] = [set() for _ in range(num_groups)]
  for device, (rows,) in held.items():
    for group in range(*rows.indices(num_groups)):
      holders[group].add(device.process_index)
  return share_out(holders)


def share_out(holders: Sequence[set[int]]) -> np.ndarray:
  """[B]: for each group one of the processes that hold it.

  Consecutive groups with the same holders are shared out among them in blocks of equal size.
  """
  found: list[int] = []
  for processes, run in itertools.groupby(map(sorted, holders)):
    blocks = np.array_split(np.arange(len(list(run))), len(processes))
    found += np.repeat(processes, list(map(len, blocks))).tolist()
  return np.asarray(found)


def own_rows(tree, mesh: jax.sharding.Mesh | None, owned: np.ndarray):
  """The rows of device arrays that belong to some of their groups, as NumPy arrays.

  Only what this host holds leaves the devices. All hosts must call this together.

  Args:
    tree: arrays [N, ...], N / B rows for each group.
    mesh: the mesh that they are on; None: one device.
    owned: [B], bool: the groups of this host, from `owners`.
  """
  rows = np.repeat(owned, jax.tree.leaves(tree)[0].shape[0] // owned.size)
  if jax.process_count() == 1:
    return jax.tree.map(lambda x: x[rows], to_host(tree))

  def one(x):
    x = _resharded(_by_rows(mesh, owned.size))(x)
    whole = np.zeros(x.shape, x.dtype)
    distinct = {shard.index[0].start: shard for shard in x.addressable_shards}
    for shard in distinct.values():
      whole[shard.index] = jax.device_get(shard.data)
    return whole[rows]
  return jax.tree.map(one, tree)


def _by_rows(mesh, size: int) -> NamedSharding:
  """The sharding of a first axis of this size, or of a multiple of it."""
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
