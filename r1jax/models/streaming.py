"""Between a checkpoint's tensors and the parameters on their devices, piece by piece.

Neither way is a model, nor a large stacked parameter, ever whole in the host's memory. An import
reads each tensor in pieces of some `PIECE_BYTES`, only where a device of this process wants them
and once for all of them, and each device keeps its own part: small parameters are filled on the
host and put there, large ones grow on the device. An export fetches one tensor at a time.
"""
from collections.abc import Callable, Iterator
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from r1jax.models import families
from r1jax.models.config import ModelConfig
from r1jax.models.families import Tensor
from r1jax.runtime import sharding

PIECE_BYTES = 16 * 1024**2   # float32; what an import reads at once, and what counts as small
_FETCHED_WHOLE = 1024**2     # bytes of a parameter that an export fetches in one go

# The part of an array that is meant: (begin, end) along each axis.
Box = tuple[tuple[int, int], ...]
# read(name, rows, columns): these (begin, end) of a tensor [rows, columns], in any float type.
Read = Callable[[str, tuple[int, int], tuple[int, int]], np.ndarray]


def assemble(config: ModelConfig, expected: dict[str, Tensor], read: Read, *,
             mesh: jax.sharding.Mesh | None = None) -> dict:
  """Float32 parameters, on the devices of this process; all processes of a mesh take part.

  Args:
    config: the model's shape.
    expected: what `families.tensors` says.
    read: gives parts of the tensor of a name; a tensor of one axis is one column.
    mesh: where the parameters lie (see `sharding.RULES`); None: on the default device.
  """
  by_path: dict[tuple[str, ...], dict[str, Tensor]] = {}
  for name, tensor in expected.items():
    by_path.setdefault(tensor.path, {})[name] = tensor
  shapes, logical_axes = families.abstract(config)
  placements = (jax.tree.map(lambda _: None, shapes) if mesh is None else
                sharding.shardings(mesh, logical_axes, shapes))
  return jax.tree_util.tree_map_with_path(
      lambda path, shape, placement: _parameter(
          shape.shape, placement, by_path[families.keys(path)], read),
      shapes, placements)


def _parameter(shape, placement, tensors: dict[str, Tensor], read: Read) -> jax.Array:
  """One parameter of the tensors that lie in it."""
  devices_of: dict[Box, list] = {}
  where = {None: (slice(None),) * len(shape)} if placement is None else (
      placement.addressable_devices_indices_map(shape))
  for device, index in where.items():
    box = tuple(at.indices(size)[:2] for at, size in zip(index, shape))
    devices_of.setdefault(box, []).append(device)
  small = sum(_size(box) for box in devices_of) * 4 <= PIECE_BYTES
  shards = [(_OnHost if small else _OnDevice)(box, devices) for box, devices in devices_of.items()]
  for name, tensor in tensors.items():
    for box, values in _pieces(name, tensor, shape, list(devices_of), read):
      for shard in shards:
        shard.take(box, values)
  arrays = [array for shard in shards for array in shard.arrays()]
  return arrays[0] if placement is None else (
      jax.make_array_from_single_device_arrays(shape, placement, arrays))


def _pieces(name: str, tensor: Tensor, shape, wanted: list[Box], read: Read
            ) -> Iterator[tuple[Box, np.ndarray]]:
  """The parts of a tensor that some box wants: (where in the parameter, values of as many axes)."""
  whole = tensor.box(shape)
  overlaps = [box for box in (_overlap(whole, box) for box in wanted) if box]
  if not overlaps:
    return
  axes = tensor.axes(len(shape))
  sizes = [whole[axis][1] - whole[axis][0] for axis in axes]
  count = 1   # the number of axes that make the rows; the others make the columns
  while math.prod(sizes[:count]) < tensor.shape[0]:
    count += 1
  # Rows and columns are narrowed along the first axis of each: the others stay whole.
  box = list(whole)
  for axis in axes[:1] + axes[count:count + 1]:
    box[axis] = (min(o[axis][0] for o in overlaps), max(o[axis][1] for o in overlaps))
  rows, columns = math.prod(sizes[1:count]), math.prod(sizes[count + 1:])
  within = lambda axis, unit: tuple(unit * (at - whole[axis][0]) for at in box[axis])
  of_columns = within(axes[count], columns) if count < len(axes) else (0, 1)
  first, (begin, end) = axes[0], box[axes[0]]
  step = max(1, PIECE_BYTES // (4 * rows * (of_columns[1] - of_columns[0])))
  order = axes + [axis for axis in range(len(shape)) if axis not in axes]
  for at in range(begin, end, step):
    box[first] = (at, min(at + step, end))
    values = read(name, within(first, rows), of_columns)
    values = values.reshape([box[axis][1] - box[axis][0] for axis in order])
    yield tuple(box), values.transpose(np.argsort(order))


class _OnHost:
  """A device's part of a small parameter, filled on the host and put on each device that has it."""

  def __init__(self, box: Box, devices: list):
    self._box, self._devices = box, devices
    self._array = np.empty([end - begin for begin, end in box], np.float32)

  def take(self, box: Box, values: np.ndarray) -> None:
    if common := _overlap(self._box, box):
      self._array[_slices(common, self._box)] = values[_slices(common, box)]

  def arrays(self) -> list[jax.Array]:
    return [jax.device_put(self._array, device) for device in self._devices]


class _OnDevice:
  """A device's part of a large parameter, which grows on each device that has it."""

  def __init__(self, box: Box, devices: list):
    self._box, self._devices = box, devices
    shape = tuple(end - begin for begin, end in box)
    self._arrays = [_zeros(device)(shape) for device in devices]

  def take(self, box: Box, values: np.ndarray) -> None:
    if common := _overlap(self._box, box):
      piece = np.ascontiguousarray(values[_slices(common, box)], np.float32)
      starts = np.array([at - origin for (at, _), (origin, _) in zip(common, self._box)], np.int32)
      self._arrays = [_insert(array, jax.device_put(piece, device), starts)
                      for array, device in zip(self._arrays, self._devices)]
      jax.block_until_ready(self._arrays)   # else pieces would wait in the host's memory

  def arrays(self) -> list[jax.Array]:
    return self._arrays


@functools.cache
def _zeros(device):
  """`jnp.zeros` of a shape, made where it stays: its `device` argument copies from another one."""
  placement = None if device is None else jax.sharding.SingleDeviceSharding(device)
  return jax.jit(lambda shape: jnp.zeros(shape, jnp.float32), static_argnums=0,
                 out_shardings=placement)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(array, piece, starts):
  return jax.lax.dynamic_update_slice(array, piece, [starts[i] for i in range(array.ndim)])


def extract(params, tensor: Tensor) -> np.ndarray:
  """One tensor in the checkpoint's shape, brought to the host.

  Args:
    params: a tree of NumPy or JAX arrays; where arrays lie on the devices of several processes, all
      of these take part and each gets the tensor.
  """
  array = params
  for name in tensor.path:
    array = array[name]
  box, axes = tensor.box(array.shape), tensor.axes(array.ndim)
  order = axes + [axis for axis in range(array.ndim) if axis not in axes]
  return _fetch(array, box).transpose(order).reshape(tensor.shape)


def small_on_host(params):
  """The tree with its small arrays on the host, so that `extract` needs not cut them."""
  return jax.tree.map(lambda array: array if array.nbytes > _FETCHED_WHOLE else _fetch(
      array, tuple((0, size) for size in array.shape)), params)


def _fetch(array, box: Box) -> np.ndarray:
  """A part of an array. Cut on the devices: a JAX array keeps what was once fetched of it."""
  if isinstance(array, np.ndarray):
    return array[tuple(slice(*at) for at in box)]
  starts = np.array([begin for begin, _ in box], np.int32)
  cut = _cutter(array.sharding, array.is_fully_addressable)
  return sharding.to_host(cut(array, starts, tuple(end - begin for begin, end in box)))


@functools.cache
def _cutter(placement, addressable: bool):
  """A program of (array, starts, sizes): a part of an array that lies so.

  Each device cuts what it holds: sliced along a split axis, an array would be gathered whole on all
  devices. Of a split axis a part has all, and stays split, or one index, which comes from the
  device that holds it. Where not all devices are this process' (`addressable`), all get the part.
  """
  mesh = placement.mesh if isinstance(placement, jax.sharding.NamedSharding) else None

  def cut(array, starts, sizes):
    if mesh is None:
      return jax.lax.dynamic_slice(array, [starts[i] for i in range(array.ndim)], sizes)
    spec = [*placement.spec, *[None] * (array.ndim - len(placement.spec))]
    split = [bool(entry) for entry in spec]
    single = [split[i] and sizes[i] < array.shape[i] for i in range(array.ndim)]
    if any(size > 1 for size, one in zip(sizes, single) if one):
      raise ValueError(f'{sizes} of {array.shape} cannot be cut along the split axes of {spec}: '
                       'take all of such an axis, or one index')

    def local(held, starts):
      at, amount, mine, summed = [], [], True, ()
      for i, entry in enumerate(spec):
        start, size = (0, held.shape[i]) if split[i] else (starts[i], sizes[i])
        if single[i]:
          start, size = starts[i] - jax.lax.axis_index(entry) * held.shape[i], 1
          mine &= (start >= 0) & (start < held.shape[i])
          summed += sharding.axes_of(entry)
        at.append(start)
        amount.append(size)
      part = jax.lax.dynamic_slice(held, at, amount)
      if not summed:
        return part
      bits = part.view(f'uint{8 * part.dtype.itemsize}')   # a sum of floats would lose a -0
      return jax.lax.psum(jnp.where(mine, bits, 0), summed).view(part.dtype)
    return jax.shard_map(
        local, mesh=mesh, check_vma=False, in_specs=(placement.spec, P()),
        out_specs=P(*(None if one else entry for entry, one in zip(spec, single))))(array, starts)
  return jax.jit(cut, static_argnums=2,
                 out_shardings=None if addressable else sharding.replicated(mesh))


def _overlap(a: Box, b: Box) -> Box | None:
  common = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b))
  return common if all(begin < end for begin, end in common) else None


def _slices(box: Box, origin: Box) -> tuple[slice, ...]:
  """Where `box` lies in an array that begins where `origin` does."""
  return tuple(slice(begin - o, end - o) for (begin, end), (o, _) in zip(box, origin))


def _size(box: Box) -> int:
  return math.prod(end - begin for begin, end in box)
