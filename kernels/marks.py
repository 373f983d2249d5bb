"""Who sees whom in attention, told by numbers of tokens instead of a mask [T, S]."""
from typing import NamedTuple

import jax
import jax.numpy as jnp

_MOST = jnp.iinfo(jnp.int32).max


class Marks(NamedTuple):
  """What decides whom a token sees, and who sees it; None: it decides nothing. None is negative."""
  segments: jax.Array                  # [N, T] int32
  parents: jax.Array | None = None     # [N, T] int32, of queries only
  places: jax.Array | None = None      # [N, T] int32, of both sides or of none
  positions: jax.Array | None = None   # [N, T] int32, of both sides where there is a window


def sees(queries: Marks, keys: Marks, window: int | None) -> jax.Array:
  """May a query see a key: bool, of the shape to which their marks broadcast.

  It may where the key is of the query's segment, or of its parent where that is not 0; and stands
  at no later place; and its position is less than `window` before the query's.
  """
  seen = queries.segments == keys.segments
  if queries.parents is not None:
    seen |= (queries.parents == keys.segments) & (queries.parents != 0)
  if queries.places is not None:
    seen &= queries.places >= keys.places
  if window is not None:
    seen &= queries.positions - keys.positions < window
  return seen


def padded(marks: Marks, by: int, *, queries: bool) -> Marks:
  """With `by` more tokens in each row, which see nothing and which nothing sees."""
  values = Marks(-2, 0, 0, _MOST) if queries else Marks(-1, 0, _MOST, 0)
  pad = lambda x, value: None if x is None else jnp.pad(
      x, ((0, 0), (0, by)), constant_values=value)
  return Marks(*map(pad, marks, values))


def blocks_seen(queries: Marks, keys: Marks, window: int | None) -> jax.Array:
  """[..., Q, S] bool of marks in blocks, [..., Q, ·] and [..., S, ·]: may anybody see anybody?

  False is certain; true may be wrong where no more than the ranges of marks meet.
  """
  query, key = lambda x: x[..., :, None], lambda x: x[..., None, :]
  low, high = lambda x: jnp.min(x, -1), lambda x: jnp.max(x, -1)
  lowest = lambda x, at_least: low(jnp.where(x < at_least, _MOST, x))
  first, last = key(lowest(keys.segments, 0)), key(high(keys.segments))
  segments, parents = queries.segments, queries.parents
  seen = (query(lowest(segments, 0)) <= last) & (query(high(segments)) >= first)
  if parents is not None:
    seen |= (query(lowest(parents, 1)) <= last) & (query(high(parents)) >= first)
  if queries.places is not None:
    seen &= query(high(queries.places)) >= key(low(keys.places))
  if window is not None:
    seen &= query(low(queries.positions)) - key(high(keys.positions)) < window
  return seen


def seen_range(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first true place of the last axis and the one after the last, int32; 0 and 0: none is."""
  first = jnp.argmax(seen, -1)
  end = seen.shape[-1] - jnp.argmax(seen[..., ::-1], -1)
  return first.astype(jnp.int32), jnp.where(jnp.any(seen, -1), end, 0).astype(jnp.int32)
