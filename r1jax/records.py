"""The records that travel between device programs, with the shape of every field.

B prompts, G completions a prompt, N = B·G rows (row n belongs to prompt n // G), P prompt length,
C completion length. All are frozen dataclasses registered as pytrees.
"""
import dataclasses
import typing

import jax


@typing.dataclass_transform(frozen_default=True)
def pytree_dataclass(cls):
  """Makes `cls` a frozen dataclass and a pytree; all of its fields are children."""
  cls = dataclasses.dataclass(frozen=True)(cls)
  fields = [field.name for field in dataclasses.fields(cls)]
  return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])


@pytree_dataclass
class Prompts:
  """Prompts as a device program takes them, padded on the right."""
  tokens: jax.Array        # [B, P] int32; what stands after a prompt's length is never read
  lengths: jax.Array       # [B] int32, at least 1
  example_ids: jax.Array   # [B] int32; the sampler's random keys are folded from them


@pytree_dataclass
class Rollout:
  """What one sampling pass leaves behind."""
  prompts: Prompts
  tokens: jax.Array                  # [N, C] int32; arbitrary where the mask is 0
  mask: jax.Array                    # [N, C] float32: 1 up to and including the stop token
  behaviour_logprobs: jax.Array      # [N, C] float32: of the full distribution at the temperature
  truncated_logprobs: jax.Array      # [N, C] float32: of the top-k/top-p/min-p distribution sampled
  finished: jax.Array                # [N] bool: a stop token was sampled; else it was cut


@pytree_dataclass
class Batch:
  """What a loss eats."""
  prompt_tokens: jax.Array           # [B, P] int32
  prompt_lengths: jax.Array          # [B] int32
  completion_tokens: jax.Array       # [N, C] int32
  completion_mask: jax.Array         # [N, C] float32: 1 on trained tokens, the stop token included
  behaviour_logprobs: jax.Array      # [N, C] float32
  advantages: jax.Array | None = None          # [N] or [N, C] float32; None: not yet credited
  old_logprobs: jax.Array | None = None        # [N, C] float32; None: the policy's own (on-policy)
  reference_logprobs: jax.Array | None = None  # [N, C] float32; None: no KL term
  old_values: jax.Array | None = None          # [N, C] float32, of the critic; None: no critic
  returns: jax.Array | None = None             # [N, C] float32, what the critic learns


@pytree_dataclass
class Packing:
  """Where the tokens of a batch lie: K micro-batches of R rows of T places, by `data.group_packing`.

  A row has prompts, each with completions of it behind it, at most M of them in all. A completion
  lies whole in one row, a prompt in every row that has completions of it.
  """
  segment_ids: jax.Array        # [K, R, T] int32: 1 + b prompt b, 1 + B + n completion n, 0 padding
  positions: jax.Array          # [K, R, T] int32, in its prompt and completion
  completions: jax.Array        # [K, R, M] int32: n, in order of their places; N: none
  starts: jax.Array             # [K, R, M] int32: the place of its first token
  prompt_ends: jax.Array        # [K, R, M] int32: the place of its prompt's last token
  num_micro_batches: jax.Array  # int32 scalar: those with tokens; they come first


@pytree_dataclass
class PackedBatch:
  """A batch, and how the model sees it."""
  batch: Batch
  packing: Packing


@pytree_dataclass
class Rows:
  """A micro-batch of a packed batch, as a model takes it; fields as of `Packing` and `Batch`."""
  tokens: jax.Array        # [R, T] int32
  segment_ids: jax.Array   # [R, T] int32
  parent_ids: jax.Array    # [R, T] int32: in completions the segment of their prompt, else 0
  positions: jax.Array     # [R, T] int32
  starts: jax.Array        # [R, M] int32
  prompt_ends: jax.Array   # [R, M] int32


@pytree_dataclass
class TrainState:
  """What an optimiser step changes."""
  params: object           # float32 master weights
  optimizer: object        # optax state
  step: jax.Array          # int32: updates tried
  skipped_updates: jax.Array    # int32: updates skipped because they were not finite
