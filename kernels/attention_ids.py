"""Which query may attend to which key, given by a few integers per token, not by a mask [T, S]."""
from typing import NamedTuple

import jax
import jax.numpy as jnp

_INT32_MAX = jnp.iinfo(jnp.int32).max


class AttentionIds(NamedTuple):
  """The integers of each token that `may_attend` compares; a field that is None restricts nothing.

  All values are at least 0. `order` is given for queries and keys, or for neither.
  """
  segment_ids: jax.Array                # [N, T] int32
  parent_ids: jax.Array | None = None   # [N, T] int32, of queries only: a second segment; 0 is none
  order: jax.Array | None = None        # [N, T] int32: causal order within a row
  positions: jax.Array | None = None    # [N, T] int32, of both where attention has a window


def may_attend(queries: AttentionIds, keys: AttentionIds, window: int | None) -> jax.Array:
  """Whether a query may attend to a key: bool, of the shape to which their ids broadcast.

  All of these must hold: the key's segment is the query's, or the query's parent (unless that is
  0); the key's `order` is not greater than the query's; the key's position is greater than the
  query's position − `window`.

  Args:
    queries: ids of queries.
    keys: ids of keys, broadcastable against those of the queries.
    window: number of positions that a query sees, including its own; None for all.
  """
  visible = queries.segment_ids == keys.segment_ids
  if queries.parent_ids is not None:
    visible |= (queries.parent_ids == keys.segment_ids) & (queries.parent_ids != 0)
  if queries.order is not None:
    assert keys.order is not None
    visible &= queries.order >= keys.order
  if window is not None:
    assert queries.positions is not None and keys.positions is not None
    visible &= queries.positions - keys.positions < window
  return visible


def pad(ids: AttentionIds, count: int, *, queries: bool) -> AttentionIds:
  """Ids with `count` more tokens per row that attend to nothing and that nothing attends to.

  Args:
    ids: of queries or of keys, [N, T].
    count: number of tokens to append to each row.
    queries: whether these are queries; they and keys are padded with different values.
  """
  values = (-2, 0, 0, _INT32_MAX) if queries else (-1, 0, _INT32_MAX, 0)

  def pad_field(field, value):
    return None if field is None else jnp.pad(
        field, ((0, 0), (0, count)), constant_values=value)
  return AttentionIds(*map(pad_field, ids, values))


def block_may_attend(queries: AttentionIds, keys: AttentionIds, window: int | None) -> jax.Array:
  """Whether any query of a block may attend to any key of a block: bool [..., Q, S].

  Compares ranges of ids only, so it may be true where no pair is visible; false is certain.

  Args:
    queries: ids in Q blocks, [..., Q, tokens of a block].
    keys: ids in S blocks, [..., S, tokens of a block].
    window: number of positions that a query sees, including its own; None for all.
  """
  first, last = _of_keys(_min_from(keys.segment_ids, 0)), _of_keys(_max(keys.segment_ids))
  visible = (_of_queries(_min_from(queries.segment_ids, 0)) <= last) & (
      _of_queries(_max(queries.segment_ids)) >= first)
  if queries.parent_ids is not None:
    visible |= (_of_queries(_min_from(queries.parent_ids, 1)) <= last) & (
        _of_queries(_max(queries.parent_ids)) >= first)
  if queries.order is not None:
    visible &= _of_queries(_max(queries.order)) >= _of_keys(_min(keys.order))
  if window is not None:
    visible &= _of_queries(_min(queries.positions)) - _of_keys(_max(keys.positions)) < window
  return visible


def block_range(visible: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(first, end) int32 of the true entries along the last axis; (0, 0) where there are none."""
  first = jnp.argmax(visible, -1)
  end = visible.shape[-1] - jnp.argmax(visible[..., ::-1], -1)
  return first.astype(jnp.int32), jnp.where(jnp.any(visible, -1), end, 0).astype(jnp.int32)


def _of_queries(x):
  return x[..., :, None]


def _of_keys(x):
  return x[..., None, :]


def _min(x):
  return jnp.min(x, -1)


def _max(x):
  return jnp.max(x, -1)


def _min_from(x, least: int):
  """The smallest value that is at least `least`; smaller ones are padding, or mean "none"."""
  return _min(jnp.where(x < least, _INT32_MAX, x))
