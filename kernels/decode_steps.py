"""The blocks of cached keys and values that decoding rows read, as a list for a kernel.

Rows lie in tiles, whose queries and sums a chip holds at a time. For each tile the list has a step
for each block of columns that a row of the tile reads: of a row's own set, once for this row; of a
set with owners, once for all rows of the tile with this owner.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TILE_ROWS = 8             # rows of a tile
_BLOCK_BYTES = 2 ** 20    # of keys and values of a step: fetching them outlasts a step's overhead
_MOST_COLUMNS = 512       # of a block
_LANES = 128              # of a TPU's vector register
_MOST_SCALARS = 200_000   # integers of a list, of the 2 ** 18 that a TPU's scalar memory holds


def padded_columns(columns: int) -> int:
  """Columns that a set should have so that XLA stores it as the kernel reads it.

  The kernel takes any number of columns, but from other numbers XLA may copy the set at the
  beginning and the end of a program.
  """
  return -(-columns // _LANES) * _LANES


class SetShape(NamedTuple):
  """What is static about a set."""
  shared: bool          # whether it has owners
  columns: int          # S
  block: int            # columns of a block
  values_axis: int      # of the columns of a block of values [K, ·, ·]
  key_scales: bool      # whether there are any
  value_scales: bool

  @classmethod
  def of(cls, one):
    """Of a KeySet."""
    columns, e = one.values.shape[-2:]
    column_bytes = one.keys.shape[2] * sum(
        width * x.dtype.itemsize for width, x in ((one.keys.shape[3], one.keys), (e, one.values)))
    fit = max(1, _BLOCK_BYTES // (column_bytes * _LANES))
    block = min(columns, _MOST_COLUMNS, _LANES * 2 ** (fit.bit_length() - 1))
    return cls(one.owners is not None, columns, block, 2 if e % _LANES else 1,
               one.key_scales is not None, one.value_scales is not None)

  @property
  def num_blocks(self) -> int:
    """Blocks of all columns."""
    return -(-self.columns // self.block)


class Rows(NamedTuple):
  """A set's integers of rows, [N] each, padded to whole tiles; as in KeySet."""
  owners: Any
  firsts: Any
  counts: Any


class Steps(NamedTuple):
  """The steps of the grid, in order; they take up only the beginning of their arrays."""
  starts: Any           # [halves]: the first step of each half of the tiles, for chips of two cores
  counts: Any           # [halves]: steps of each half
  rows: Any             # [T]: the row that a step is for; of a shared set the owner's first
  kinds: Any            # [T]: the set that a step reads; the number of sets: none
  places: tuple         # of each set, [T]: m · blocks + block, of the block that it last read
  sets: tuple           # of each set, its Rows


def make_steps(num_rows: int, sets) -> tuple[Steps, ...]:
  """The steps of `decode_attention` for these sets; they do not depend on the layer.

  Args:
    num_rows: N.
    sets: of KeySet.

  Returns:
    One for each part of the rows, which has no more steps than fit into a TPU's scalar memory;
    nearly always one.
  """
  shapes = tuple(map(SetShape.of, sets))
  size = part_size(num_rows, shapes)
  return tuple(
      _make_steps(begin, min(size, num_rows - begin), sets, shapes)
      for begin in range(0, num_rows, size))


def part_size(num_rows: int, shapes: tuple[SetShape, ...]) -> int:
  """Rows whose steps fit into scalar memory."""
  per_row = (2 + len(shapes)) * (1 + sum(shape.num_blocks for shape in shapes))
  return min(num_rows, max(1, _MOST_SCALARS // (per_row * TILE_ROWS)) * TILE_ROWS)


def _make_steps(begin: int, num_rows: int, sets, shapes: tuple[SetShape, ...]) -> Steps:
  """The steps of some rows, beginning with this one."""
  tile = min(TILE_ROWS, num_rows)
  tiles = -(-num_rows // tile)

  def of_rows(x):
    return None if x is None else jnp.pad(
        x[begin:begin + num_rows].astype(jnp.int32), (0, tiles * tile - num_rows))
  of_sets = tuple(Rows(*map(of_rows, (one.owners, one.firsts, one.counts))) for one in sets)
  used = [_blocks_used(rows, shape, tile) for rows, shape in zip(of_sets, shapes)]
  flags = jnp.concatenate([jnp.zeros((tiles, 0), bool), *(x.reshape(tiles, -1) for x in used)], 1)
  # A tile that reads nothing has one step all the same: its tokens attend to themselves.
  flags = jnp.concatenate([flags, ~jnp.any(flags, 1, keepdims=True)], 1)
  width, size = flags.shape[1], flags.size
  candidates = jnp.sort(jnp.where(flags.reshape(-1), jnp.arange(size), size))
  within, rows = candidates % width, candidates // width * tile
  kinds, places, start = jnp.full(size, len(sets)), [], 0
  for i, (of_set, shape) in enumerate(zip(of_sets, shapes)):
    end = start + tile * shape.num_blocks
    own = (start <= within) & (within < end) & (candidates < size)
    kinds = jnp.where(own, i, kinds)
    rows = jnp.where(own, rows + (within - start) // shape.num_blocks, rows)
    owners = of_set.owners[jnp.where(own, rows, 0)] if shape.shared else begin + rows
    place = owners * shape.num_blocks + (within - start) % shape.num_blocks
    latest = jax.lax.cummax(jnp.where(own, jnp.arange(size), -1))
    places.append(jnp.where(latest < 0, 0, place[latest]))
    start = end
  starts, counts = _halves(jnp.cumsum(jnp.sum(flags, 1)))
  return jax.tree.map(lambda x: x.astype(jnp.int32), Steps(
      starts, counts, rows, kinds, tuple(places), of_sets))


def _blocks_used(rows: Rows, shape: SetShape, tile: int):
  """Which blocks a row reads, or of a shared set the owner's first row: [tiles, rows, blocks]."""
  first, count = rows.firsts[:, None], rows.counts[:, None]
  begin = jnp.arange(shape.num_blocks) * shape.block
  end = jnp.minimum(begin + shape.block, shape.columns)
  used = ((begin <= first) & (first < end) & (count > 0)) | (
      (begin - first) % shape.columns < count)
  used = used.reshape(-1, tile, shape.num_blocks)
  if not shape.shared:
    return used
  owners = rows.owners.reshape(-1, tile)
  same = owners[:, :, None] == owners[:, None]
  first = jnp.argmax(same, -1) == jnp.arange(tile)
  return jnp.any(same[..., None] & used[:, None], 2) & first[..., None]


def _halves(until):
  """(starts, counts) of two halves of about as many steps; of a single tile, of one.

  Args:
    until: [tiles], the steps of each tile and of those before it.
  """
  tiles = until.shape[0]
  if tiles == 1:
    return jnp.zeros(1), until
  middle = until[jnp.clip(jnp.argmax(2 * until >= until[-1]), 0, tiles - 2)]
  return jnp.stack([jnp.zeros_like(middle), middle]), jnp.stack([middle, until[-1] - middle])
