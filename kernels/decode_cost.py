"""What one call of the decoding kernel costs, which depends on how many columns rows read."""
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class SetCost:
  """Of a set of keys and values.

  Attributes:
    shared: whether rows share it; otherwise each row has its own.
    readers: how many times its blocks are fetched: by each row, or each time that rows which lie
      together share it.
    columns: that it has.
    block: columns that are fetched at a time.
    column_bytes: of the keys, values and scales of one column.
  """
  shared: bool
  readers: int
  columns: int
  block: int
  column_bytes: int

  def bytes(self, columns: float) -> float:
    """That are fetched where rows read this many columns on average; at most all.

    Numbers of columns are taken as spread evenly, so that half of a row's last block is not needed.
    """
    if not columns:
      return 0.0
    fetched = min(self.columns, columns + self.block / 2)
    return self.readers * fetched * self.column_bytes


@dataclasses.dataclass(frozen=True)
class DecodeCost:
  """Of one call of `decode_tpu.decode_attention`.

  Attributes:
    rows: N.
    column_flops: operations of a row with one column that it reads.
    fixed_bytes: that are moved whatever rows read: queries, the tokens' own keys and values, the
      result.
    sets: of the sets.
  """
  rows: int
  column_flops: int
  fixed_bytes: int
  sets: tuple[SetCost, ...]

  def total(self, own: float | None = None, shared: float | None = None) -> tuple[int, int]:
    """(operations, bytes between memory and chip) of a call.

    Args:
      own: columns of its own sets that a row reads on average; at most those that each has. None:
        all of them.
      shared: columns that a row reads on average of each set that rows share; None: all.
    """
    flops, moved = 0.0, float(self.fixed_bytes)
    for one in self.sets:
      columns = shared if one.shared else own
      columns = one.columns if columns is None else min(columns, one.columns)
      flops += self.rows * columns * self.column_flops
      moved += one.bytes(columns)
    return int(flops), int(moved)

  def to_json(self) -> dict[str, Any]:
    """As `from_json` reads it."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, content: dict[str, Any]) -> 'DecodeCost':
    """Of what `to_json` returned."""
    return cls(**content | {'sets': tuple(SetCost(**one) for one in content['sets'])})
