"""A scalar head on a transformer: a critic that values every token, or a reward model.

Parameters are `{'backbone': the transformer's, 'head': [width] float32}`; the head begins at zero,
so that a new critic values everything at 0 and a new reward model prefers nothing.
"""
import jax
import jax.numpy as jnp

from r1jax.logprobs import completion_hidden
from r1jax.models import Model


def init_scalar(model: Model, backbone) -> dict:
  """Parameters of a scalar model on these transformer parameters, which are taken, not copied."""
  return {'backbone': backbone, 'head': jnp.zeros(model.config.width, jnp.float32)}


def scalar_axes(model: Model) -> dict:
  """Logical axes of the parameters, for `sharding.shardings`."""
  return {'backbone': model.logical_axes, 'head': (None,)}


def completion_values(
    model: Model, params, prompt_tokens: jax.Array, prompt_lengths: jax.Array,
    completion_tokens: jax.Array, completion_mask: jax.Array,
) -> jax.Array:
  """V_t, the value of the state before completion token t: [N, C] float32.

  Arguments as of `logprobs.completion_hidden`; arbitrary where the mask is 0.
  """
  hidden = completion_hidden(model, params['backbone'], prompt_tokens, prompt_lengths,
                             completion_tokens, completion_mask)
  return hidden.astype(jnp.float32) @ params['head']
