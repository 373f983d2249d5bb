"""Moves tensors between a checkpoint and the parameters on their devices, a little at a time.

The host's memory never holds a whole model, nor a whole large stacked parameter. An import reads
at most `READ_BYTES` of a tensor at once, only what a device of this process holds, and once for all
of them: small parameters are filled on the host and then put on devices, large ones are filled on
the devices. An export brings one tensor at a time to the host.
"""
from collections.abc import Callable, Iterator
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from r1jax.errors import UserError
from r1jax.models import families
from r1jax.models.config import ModelConfig
from r1jax.models.families import Tensor
from r1jax.runtime import sharding

# Bytes of float32 that an import reads at once; parameters up to this size are filled on the host.
READ_BYTES = 16 * 1024**2
# An export brings parameters up to this many bytes to the host whole.
_SMALL_BYTES = 1024**2

# A region of an array: (begin, end) along each axis.
Box = tuple[tuple[int, int], ...]
# read(name, rows, columns): these (begin, end) of a tensor [rows, columns], in any float type.
Read = Callable[[str, tuple[int, int], tuple[int, int]], np.ndarray]


def assemble(config: ModelConfig, expected: dict[str, Tensor], read: Read, *,
             mesh: jax.sharding.Mesh | None = None, source: str = 'the checkpoint') -> dict:
  """Makes float32 parameters on the devices of this process from a checkpoint's tensors.

  All processes of a mesh call this together.

  Args:
    config: the architecture.
    expected: what `families.tensors` returns.
    read: returns a region of the tensor of a name; a tensor with one axis has one column.
    mesh: where the parameters lie (see `sharding.RULES`); None for the default device.
    source: where the tensors are, for messages.

  Raises:
    UserError: a tensor has a weight that is NaN or infinite; the message names the tensor.
  """
  def read_finite(name: str, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    values = read(name, rows, columns)
    if not all_finite(values):
      raise UserError(f'The tensor {name} of {source} has weights that are NaN or infinite: take '
                      'another copy of the model, or another model.')
    return values

  by_path: dict[tuple[str, ...], dict[str, Tensor]] = {}
  for name, tensor in expected.items():
    by_path.setdefault(tensor.path, {})[name] = tensor
  shapes, logical_axes = families.shapes(config)
  shardings = (jax.tree.map(lambda _: None, shapes) if mesh is None else
               sharding.shardings(mesh, logical_axes, shapes))
  return jax.tree_util.tree_map_with_path(
      lambda path, shape, array_sharding: _parameter(
          shape.shape, array_sharding, by_path[families.keys(path)], read_finite),
      shapes, shardings)


def all_finite(values: np.ndarray) -> bool:
  """Whether an array of floats has neither NaN nor infinity."""
  if values.dtype == jnp.bfloat16:    # by its bits, five times as fast as NumPy's isfinite of it
    return not values.size or int(np.max(values.view(np.uint16) & 0x7fff)) < 0x7f80
  return bool(np.isfinite(values).all())


def _parameter(shape: tuple[int, ...], array_sharding: NamedSharding | None,
               tensors: dict[str, Tensor], read: Read) -> jax.Array:
  """One parameter, from the tensors that lie in it."""
  devices_of: dict[Box, list] = {}
  where: dict[Any, Any] = {None: (slice(None),) * len(shape)}
  if array_sharding is not None:
    where = dict(array_sharding.addressable_devices_indices_map(shape))
  for device, index in where.items():
    box = tuple(at.indices(size)[:2] for at, size in zip(index, shape))
    devices_of.setdefault(box, []).append(device)
  small = sum(_size(box) for box in devices_of) * 4 <= READ_BYTES
  shards = [(_OnHost if small else _OnDevice)(box, devices) for box, devices in devices_of.items()]
  for name, tensor in tensors.items():
    for box, values in _reads(name, tensor, shape, list(devices_of), read):
      for shard in shards:
        shard.write(box, values)
  arrays = [array for shard in shards for array in shard.arrays()]
  return arrays[0] if array_sharding is None else (
      jax.make_array_from_single_device_arrays(shape, array_sharding, arrays))


def _reads(name: str, tensor: Tensor, shape: tuple[int, ...], wanted: list[Box], read: Read
           ) -> Iterator[tuple[Box, np.ndarray]]:
  """Reads what the `wanted` boxes of a parameter hold of a tensor.

  Yields:
    (box in the parameter, its values with as many axes), at most `READ_BYTES` at a time.
  """
  whole = tensor.box(shape)
  overlaps = [box for box in (_overlap(whole, box) for box in wanted) if box]
  if not overlaps:
    return
  axes = tensor.axes(len(shape))
  sizes = [whole[axis][1] - whole[axis][0] for axis in axes]
  count = 1   # how many of the axes make the tensor's rows; the others make its columns
  while math.prod(sizes[:count]) < tensor.shape[0]:
    count += 1
  # Rows and columns are narrowed along the first axis of each: the others stay whole.
  box = list(whole)
  for axis in axes[:1] + axes[count:count + 1]:
    box[axis] = (min(o[axis][0] for o in overlaps), max(o[axis][1] for o in overlaps))
  rows_each, columns_each = math.prod(sizes[1:count]), math.prod(sizes[count + 1:])
  columns = (_span(box, whole, axes[count], columns_each) if count < len(axes) else (0, 1))
  first, (begin, end) = axes[0], box[axes[0]]
  step = max(1, READ_BYTES // (4 * rows_each * (columns[1] - columns[0])))
  order = axes + [axis for axis in range(len(shape)) if axis not in axes]
  for at in range(begin, end, step):
    box[first] = (at, min(at + step, end))
    values = read(name, _span(box, whole, first, rows_each), columns)
    values = values.reshape([box[axis][1] - box[axis][0] for axis in order])
    yield tuple(box), values.transpose(np.argsort(order))


def _span(box: list[tuple[int, int]], whole: Box, axis: int, each: int) -> tuple[int, int]:
  """(begin, end) of a tensor's rows or columns, `each` of them per index of this axis."""
  begin, end = (each * (at - whole[axis][0]) for at in box[axis])
  return begin, end


class _OnHost:
  """The shard of a small parameter: filled on the host, then put on each device that has it."""

  def __init__(self, box: Box, devices: list):
    self._box, self._devices = box, devices
    self._array = np.empty([end - begin for begin, end in box], np.float32)

  def write(self, box: Box, values: np.ndarray) -> None:
    if common := _overlap(self._box, box):
      self._array[_slices(common, self._box)] = values[_slices(common, box)]

  def arrays(self) -> list[jax.Array]:
    return [jax.device_put(self._array, device) for device in self._devices]


class _OnDevice:
  """The shard of a large parameter: filled on each device that has it."""

  def __init__(self, box: Box, devices: list):
    self._box, self._devices = box, devices
    shape = tuple(end - begin for begin, end in box)
    self._arrays = [_zeros(device)(shape) for device in devices]

  def write(self, box: Box, values: np.ndarray) -> None:
    if common := _overlap(self._box, box):
      update = np.ascontiguousarray(values[_slices(common, box)], np.float32)
      starts = np.array([at - origin for (at, _), (origin, _) in zip(common, self._box)], np.int32)
      self._arrays = [_insert(array, jax.device_put(update, device), starts)
                      for array, device in zip(self._arrays, self._devices)]
      jax.block_until_ready(self._arrays)   # otherwise updates would pile up in host memory

  def arrays(self) -> list[jax.Array]:
    return self._arrays


@functools.cache
def _zeros(device):
  """A function shape -> zeros, made on the device: jnp.zeros(device=) copies from another one."""
  device_sharding = None if device is None else jax.sharding.SingleDeviceSharding(device)
  return jax.jit(lambda shape: jnp.zeros(shape, jnp.float32), static_argnums=0,
                 out_shardings=device_sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(array, update, starts):
  return jax.lax.dynamic_update_slice(array, update, [starts[i] for i in range(array.ndim)])


def extract(params: Any, tensor: Tensor) -> np.ndarray:
  """Brings one tensor to the host, in the checkpoint's shape.

  Args:
    params: a tree of NumPy or JAX arrays. If arrays lie on devices of several processes, all of
      them call this together, and each gets the tensor.
    tensor: one of those that `families.tensors` returns.
  """
  array = params
  for name in tensor.path:
    array = array[name]
  box, axes = tensor.box(array.shape), tensor.axes(array.ndim)
  order = axes + [axis for axis in range(array.ndim) if axis not in axes]
  return _fetch(array, box).transpose(order).reshape(tensor.shape)


def small_on_host(params: Any) -> Any:
  """The tree with small arrays brought to the host, so that `extract` need not slice them there."""
  def fetch_small(array):
    whole = tuple((0, size) for size in array.shape)
    return array if array.nbytes > _SMALL_BYTES else _fetch(array, whole)
  return jax.tree.map(fetch_small, params)


def _fetch(array, box: Box) -> np.ndarray:
  """A region of an array. Devices slice it: a JAX array keeps a copy of what is fetched of it."""
  if isinstance(array, np.ndarray):
    return array[tuple(slice(*at) for at in box)]
  starts = np.array([begin for begin, _ in box], np.int32)
  slice_ = _slicer(array.sharding, array.is_fully_addressable)
  return sharding.to_host(slice_(array, starts, tuple(end - begin for begin, end in box)))


@functools.cache
def _slicer(array_sharding: jax.sharding.Sharding, addressable: bool):
  """A jitted function (array, starts, sizes) -> a slice, for arrays with this sharding.

  Each device slices its own shard: XLA would gather an array whole on all devices to slice it along
  a split axis. Of a split axis, a slice has either all, and stays split, or one index, which
  comes from the device that holds it. If not all devices are this process's (`addressable`), every
  device gets the whole slice.
  """
  if not isinstance(array_sharding, NamedSharding):
    return jax.jit(_slice, static_argnums=2)
  return jax.jit(functools.partial(_slice_sharded, array_sharding), static_argnums=2,
                 out_shardings=None if addressable else NamedSharding(array_sharding.mesh, P()))


def _slice(array, starts, sizes):
  return jax.lax.dynamic_slice(array, [starts[i] for i in range(array.ndim)], sizes)


def _slice_sharded(array_sharding: NamedSharding, array, starts, sizes):
  spec = [*array_sharding.spec, *[None] * (array.ndim - len(array_sharding.spec))]
  single = [bool(entry) and sizes[i] < array.shape[i] for i, entry in enumerate(spec)]
  if any(size > 1 for size, one in zip(sizes, single) if one):
    raise UserError(f'a slice {sizes} of {array.shape} cannot be taken along the split axes of '
                     f'{spec}: take all of such an axis, or one index')
  return jax.shard_map(
      functools.partial(_slice_shard, spec, single, sizes), mesh=array_sharding.mesh,
      check_vma=False, in_specs=(array_sharding.spec, P()),
      out_specs=P(*(None if one else entry for entry, one in zip(spec, single))))(array, starts)


def _slice_shard(spec: list, single: list[bool], sizes, shard, starts):
  """The slice on one device; where `single` says so, an axis is split and one index is taken."""
  begins, amounts = [], []
  mine: Any = True
  summed: tuple[str, ...] = ()
  for i, entry in enumerate(spec):
    begin, size = (0, shard.shape[i]) if entry else (starts[i], sizes[i])
    if single[i]:
      begin, size = starts[i] - jax.lax.axis_index(entry) * shard.shape[i], 1
      mine &= (begin >= 0) & (begin < shard.shape[i])
      summed += sharding.axes_of(entry)
    begins.append(begin)
    amounts.append(size)
  out = jax.lax.dynamic_slice(shard, begins, amounts)
  if not summed:
    return out
  bits = out.view(f'uint{8 * out.dtype.itemsize}')   # a sum of floats would turn -0 into 0
  return jax.lax.psum(jnp.where(mine, bits, 0), summed).view(out.dtype)


def _overlap(a: Box, b: Box) -> Box | None:
  common = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b))
  return common if all(begin < end for begin, end in common) else None


def _slices(box: Box, origin: Box) -> tuple[slice, ...]:
  """Where `box` lies in an array that begins where `origin` does."""
  return tuple(slice(begin - o, end - o) for (begin, end), (o, _) in zip(box, origin))


def _size(box: Box) -> int:
  return math.prod(end - begin for begin, end in box)
