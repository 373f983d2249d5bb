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

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

# Axes of the mesh, outermost first: devices that are far apart on the network should exchange the
# least. The data axis communicates once per update, fsdp and expert once per layer, context and
# tensor several times per layer.
AXES = ('data', 'fsdp', 'expert', 'context', 'tensor')
_ROWS = ('data', 'fsdp', 'expert')

# Logical axis -> the mesh axes it is split over; a mesh axis is used once an array, by the first
# logical axis that names it. Parameters and moments: the first block. Activations, caches, batches:
# the second.
RULES = {
    'embed': ('fsdp', 'expert', 'context'),   # gathered a layer at a time: `gathered`
    'rank': ('fsdp', 'expert', 'context'),
    'vocab': ('tensor',),
    'kv_heads': ('tensor',),
    'heads': ('tensor',),
    'mlp': ('tensor',),
    'expert': ('expert',),

    'batch': _ROWS,                            # prompts or rows, always split by whole groups
    'sequence': ('context',),                  # the positions of a row
}

# While decoding: weights are whole but for tensor and expert axes, so that no token waits for a
# gather; the context axis, of no use to a token at a time, takes rows.
ROLLOUT_RULES = RULES | {
    'embed': (), 'rank': (), 'batch': (*_ROWS, 'context'), 'sequence': ()}
# What a sampler may be told of its copy of the weights.
ROLLOUT_SHARDINGS = {'train': RULES, 'tensor': ROLLOUT_RULES}
_rules = contextvars.ContextVar('rules', default=RULES)


def make_mesh(fsdp: int = 1, tensor: int = 1, devices=None, *, data: int = 1, expert: int = 1,
              context: int = 1) -> jax.sharding.Mesh:
  """A mesh of these sizes; one size may be -1 and then takes all devices left.

  Chips of a TPU are laid out so that an axis runs along links of their torus where it can.

  Raises ValueError where the sizes do not use up the devices exactly.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  given = dict(data=data, fsdp=fsdp, expert=expert, context=context, tensor=tensor)
  sizes = list(given.values())
  others = -math.prod(sizes)
  if sizes.count(-1) == 1 and others > 0 and devices.size % others == 0:
    sizes[sizes.index(-1)] = devices.size // others
  if min(sizes) < 1 or math.prod(sizes) != devices.size:
    named = ', '.join(f'{name}={size}' for name, size in given.items())
    raise ValueError(
        f'mesh ({named}) does not fit {devices.size} device(s): '
        f'set sizes whose product is {devices.size}, or one of them to -1')
  if devices.size > 1 and getattr(devices.flat[0], 'platform', '') == 'tpu':
    devices = mesh_utils.create_device_mesh(
        sizes, list(devices.flat), allow_split_physical_axes=True)
  return jax.sharding.Mesh(devices.reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_divides(mesh: jax.sharding.Mesh, logical_axis: str, size: int, what: str) -> None:
  """Refuses a size that the mesh axes of a logical axis do not divide.

  Raises:
    ValueError: naming `what` has this size, and of what it must be a multiple.
  """
  names = [name for name in RULES[logical_axis] if mesh.shape.get(name, 1) > 1]
  parts = math.prod(mesh.shape[name] for name in names)
  if size % parts:
    axes = ' × '.join(f'{name}={mesh.shape[name]}' for name in names)
    raise ValueError(f'{what}={size} cannot be split over the mesh axes {axes}: make it a multiple '
                     f'of {parts}, or these axes smaller')


def batch_parts(mesh: jax.sharding.Mesh) -> int:
  """Over how many devices the prompts or rows of a batch are split."""
  return math.prod(mesh.shape.get(name, 1) for name in RULES['batch'])


@contextlib.contextmanager
def rules(table: Mapping[str, tuple[str, ...]]):
  """The context in which a program is traced by another table than RULES.

  A jitted function is traced once, by the table of its first call: give each table its own.
  """
  token = _rules.set(table)
  try:
    yield
  finally:
    _rules.reset(token)


def shardings(mesh: jax.sharding.Mesh, logical_axes, shapes=None):
  """NamedShardings for a tree of logical axes (tuples are leaves).

  With `shapes` (a tree of the same structure), an axis that its mesh axis does not divide is
  replicated instead: a vocabulary of 49,152 on 7 devices still runs.
  """
  is_axes = lambda x: isinstance(x, tuple)

  def one(axes, shape=None):
    return NamedSharding(mesh, spec_that_divides(
        mesh, (None,) * len(axes) if shape is None else shape.shape, axes))

  if shapes is None:
    return jax.tree.map(one, logical_axes, is_leaf=is_axes)
  return jax.tree.map(one, logical_axes, shapes, is_leaf=is_axes)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def spread() -> bool:
  """Is a program being traced for more than one device?"""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and mesh.size > 1


def parts(logical_axis: str, size: int | None = None) -> int:
  """Over how many devices of the ambient mesh a logical axis is split; 1 without a mesh.

  Of an axis of this size, if one is given, only by the mesh axes that divide it.
  """
  mesh = jax.sharding.get_abstract_mesh()
  (entry,) = spec_that_divides(mesh, (size,), (logical_axis,))
  return math.prod(mesh.shape[name] for name in axes_of(entry))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """States inside a jitted program how `x` lies on the ambient mesh; without a mesh, nothing."""
  if not spread():
    return x
  mesh = jax.sharding.get_abstract_mesh()
  return jax.lax.with_sharding_constraint(x, spec_that_divides(mesh, x.shape, logical_axes))


def gathered(weight: jax.Array, *logical_axes: str | None) -> jax.Array:
  """A weight as its product reads it: whole but for tensor and expert axes (ROLLOUT_RULES).

  Inside the layer scan this gathers one layer at a time, and again in the backward pass. Its
  gradient lies as the weight does, so that it is reduced and scattered, never kept whole.
  """
  return _gathered(weight, logical_axes) if spread() else weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(weight, logical_axes):
  with rules(ROLLOUT_RULES):
    return constrain(weight, *logical_axes)


def _scattered(logical_axes, _, slope):
  # Stated whole first: or else activations may be moved about to make a part of it.
  return (constrain(_gathered(slope, logical_axes), *logical_axes),)


_gathered.defvjp(lambda weight, logical_axes: (_gathered(weight, logical_axes), None), _scattered)


def constrain_tree(tree, logical_axes):
  """`constrain` of every leaf by a tree of logical axes (tuples)."""
  return jax.tree.map(lambda x, axes: constrain(x, *axes), tree, logical_axes)


def constrain_rows(tree, *leading: None):
  """`constrain` of arrays whose first axis is rows, behind the axes `leading` of no split."""
  return jax.tree.map(lambda x: constrain(x, *leading, 'batch'), tree)


def spec_that_divides(mesh, shape: Sequence[int | None],
                      logical_axes: Sequence[str | None]) -> P:
  """The PartitionSpec of an array of this shape, without mesh axes that do not divide it.

  Of several mesh axes the first ones that divide are kept. A size of None is divided by all.
  """
  table, used, spec = _rules.get(), set(), []
  for axis, size in zip(logical_axes, shape):
    names = []
    for name in table[axis] if axis else ():
      parts = math.prod(mesh.shape[n] for n in names) * mesh.shape.get(name, 1)
      if name in used or mesh.shape.get(name, 1) == 1:
        continue
      if size is not None and size % parts:
        break
      names.append(name)
    used.update(names)
    spec.append(tuple(names) if len(names) > 1 else names[0] if names else None)
  return P(*spec)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes of one entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else entry or ()


def use(mesh: jax.sharding.Mesh | None):
  """The context in which jitted programs see `mesh`; a None mesh changes nothing."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def platform() -> str:
  """What a program is being compiled for: 'cpu', 'gpu' or 'tpu', by the ambient mesh if any."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def put(tree, placements):
  """Arrays put where `placements`, a tree of the same structure, says.

  Arrays of the host are the same on all hosts, each of which puts down what its devices hold.
  """
  return jax.tree.map(_put, tree, placements)


def place(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """Arrays put on the mesh: replicated, or with `batch` split along their first axis.

  The first axis stays whole where the mesh axes do not divide it.
  """
  return jax.tree.map(lambda x: _put(x, _place_of(x, mesh, batch)), tree)


def abstract(tree, mesh: jax.sharding.Mesh, *, batch: bool = False):
  """As `place`, of shapes: nothing is made, and the devices need not be at hand."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=_place_of(x, mesh, batch)), tree)


def _place_of(x, mesh: jax.sharding.Mesh, batch: bool) -> NamedSharding:
  return _by_rows(mesh, x.shape[0]) if batch and x.ndim else replicated(mesh)


HOST_MEMORY = 'pinned_host'


def check_host_memory(mesh: jax.sharding.Mesh, what: str) -> None:
  """Refuses to keep `what` in host memory where the backend cannot address it.

  Raises:
    ValueError: naming the memories there are.
  """
  device = mesh.devices.flat[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if HOST_MEMORY not in kinds:
    raise ValueError(f'{what}: {device.platform} devices have no memory {HOST_MEMORY!r} (they have '
                     f'{", ".join(kinds)}): leave it empty')


def in_host_memory(tree):
  """Device arrays moved to their hosts' memory, split as they were."""
  return _in_memory(tree, HOST_MEMORY)


def in_device_memory(tree):
  """Arrays in host memory moved back to their devices; those that are there stay."""
  return _in_memory(tree, 'device')


def _in_memory(tree, kind):
  return jax.device_put(tree, jax.tree.map(lambda x: x.sharding.with_memory_kind(kind), tree))


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
