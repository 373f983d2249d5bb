"""A scalar head on a transformer: a critic that values every token, or a reward model.

Parameters are `{'backbone': the transformer's, 'head': [width] float32}`; the head begins at zero,
so that a new critic values everything at 0 and a new reward model prefers nothing.
"""
import jax
import jax.numpy as jnp

from r1jax.models import Model
from r1jax.records import Rows
from r1jax.training.logprobs import completion_hidden, completion_table, packed_hidden


def init_scalar(model: Model, backbone) -> dict:
  """Parameters of a scalar model on these transformer parameters, which are taken, not copied."""
  return {'backbone': backbone, 'head': jnp.zeros(model.config.width, jnp.float32)}


def scalar_axes(model: Model) -> dict:
  """Logical axes of the parameters, for `sharding.shardings`."""
  return {'backbone': model.logical_axes, 'head': (None,)}


def completion_rewards(
    model: Model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """The reward of each completion, read at its last token: [N] float32.

  Arguments as of `logprobs.completion_hidden`, of which the mask is 1 up to a completion's last
  token; that of an empty completion is read at its prompt's last token.
  """
  # A place more than there are tokens, for the state behind the last of them.
  room = lambda x: jnp.pad(x, ((0, 0), (0, 1)))
  values = completion_values(model, params, prompt_tokens, prompt_lengths,
                             room(completion_tokens), room(completion_mask))
  last = jnp.sum(completion_mask != 0, 1, dtype=jnp.int32)[:, None]
  return jnp.take_along_axis(values, last, 1)[:, 0]


def completion_values(
    model: Model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """V_t, the value of the state before completion token t: [N, C] float32.

  Arguments as of `logprobs.completion_hidden`; arbitrary where the mask is 0.
  """
  hidden, _ = completion_hidden(model, params['backbone'], prompt_tokens, prompt_lengths,
                                completion_tokens, completion_mask)
  return hidden.astype(jnp.float32) @ params['head']


def packed_values(model: Model, params, rows: Rows, length: int) -> jax.Array:
  """As `completion_values`, of a packed micro-batch: [R·M, C], C = `length`."""
  hidden, _ = packed_hidden(model, params['backbone'], rows)
  values = hidden.astype(jnp.float32) @ params['head']
  ends = jnp.take_along_axis(values, rows.prompt_ends, 1)
  return completion_table(ends, values, rows, length)
