"""A scalar head on a transformer: a critic that values every token, or a reward model.

Parameters are `{'backbone': the transformer's, 'head': [width] float32}`. The head starts at zero,
so a new critic values everything at 0 and a new reward model prefers nothing.
"""
import jax
import jax.numpy as jnp

from r1jax.models import Model
from r1jax.records import Rows
from r1jax.training.logprobs import completion_hidden
from r1jax.training.packed import completion_table, packed_hidden


def init_scalar(model: Model, backbone) -> dict:
  """Parameters of a scalar model on the transformer parameters `backbone`, which are not copied."""
  return {'backbone': backbone, 'head': jnp.zeros(model.config.width, jnp.float32)}


def scalar_axes(model: Model) -> dict:
  """Logical axes of the parameters, for `sharding.shardings`."""
  return {'backbone': model.logical_axes, 'head': (None,)}


def completion_rewards(
    model: Model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """The reward of each completion, read at its last token.

  Args:
    model: the transformer.
    params: of the scalar model.
    prompt_tokens: [B, P] int, padded on the right.
    prompt_lengths: [B] int, at least 1.
    completion_tokens: [N, C] int, N a multiple of B, a group's rows together.
    completion_mask: [N, C], 1 up to each completion's last token.

  Returns:
    [N] float32; that of an empty completion is read at its prompt's last token.
  """
  # One more place, for the state after the last token.
  values = completion_values(
      model, params, prompt_tokens, prompt_lengths, jnp.pad(completion_tokens, ((0, 0), (0, 1))),
      jnp.pad(completion_mask, ((0, 0), (0, 1))))
  last = jnp.sum(completion_mask != 0, 1, dtype=jnp.int32)[:, None]
  return jnp.take_along_axis(values, last, 1)[:, 0]


def completion_values(
    model: Model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """V_t, the value of the state before completion token t.

  Args:
    model: the transformer.
    params: of the scalar model.
    prompt_tokens: [B, P] int, padded on the right.
    prompt_lengths: [B] int, at least 1.
    completion_tokens: [N, C] int, N a multiple of B, a group's rows together.
    completion_mask: [N, C], 1 up to each completion's last token.

  Returns:
    [N, C] float32, arbitrary where the mask is 0.
  """
  hidden, _ = completion_hidden(model, params['backbone'], prompt_tokens, prompt_lengths,
                                completion_tokens, completion_mask)
  return hidden.astype(jnp.float32) @ params['head']


def packed_values(model: Model, params, rows: Rows, length: int) -> jax.Array:
  """V_t, the value of the state before completion token t, of a packed micro-batch.

  Args:
    model: the transformer.
    params: of the scalar model.
    rows: R rows with M completions each, from `packed.micro_batch`.
    length: C.

  Returns:
    [R·M, C] float32, arbitrary behind the end of each completion.
  """
  hidden, _ = packed_hidden(model, params['backbone'], rows)
  values = hidden.astype(jnp.float32) @ params['head']
  ends = jnp.take_along_axis(values, rows.prompt_ends, 1)
  return completion_table(ends, values, rows, length)
