"""The data that travel between device programs: frozen dataclasses registered as pytrees.

B prompts, G completions per prompt, N = B·G rows (row n belongs to prompt n // G), P prompt length,
C completion length.
"""
import dataclasses
import typing

import jax


@typing.dataclass_transform(frozen_default=True)
def pytree_dataclass(cls):
  """Class decorator: a frozen dataclass that is a pytree, with all its fields as children."""
  cls = dataclasses.dataclass(frozen=True)(cls)
  fields = [field.name for field in dataclasses.fields(cls)]
  return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])


@pytree_dataclass
class Prompts:
  """Prompts as device programs take them, padded on the right."""
  tokens: jax.Array        # [B, P] int32; never read beyond a prompt's length
  lengths: jax.Array       # [B] int32, at least 1
  example_ids: jax.Array   # [B] int32; the sampler's random keys are folded from them


@pytree_dataclass
class Rollout:
  """The result of one sampling pass."""
  prompts: Prompts
  tokens: jax.Array                  # [N, C] int32; arbitrary where the mask is 0
  mask: jax.Array                    # [N, C] float32: 1 up to and including the stop token
  behaviour_logprobs: jax.Array      # [N, C] float32: of the full distribution at the temperature
  truncated_logprobs: jax.Array      # [N, C] float32: of the truncated distribution sampled from
  finished: jax.Array                # [N] bool: ended by a stop token; else it was cut
  drafts: jax.Array | None = None    # [N, 2] int32: tokens drafted and kept; None: without drafts


@pytree_dataclass
class Batch:
  """What a loss is computed from."""
  prompt_tokens: jax.Array           # [B, P] int32
  prompt_lengths: jax.Array          # [B] int32
  completion_tokens: jax.Array       # [N, C] int32
  completion_mask: jax.Array         # [N, C] float32: 1 on trained tokens, the stop token included
  behaviour_logprobs: jax.Array      # [N, C] float32
  advantages: jax.Array | None = None          # [N] or [N, C] float32; None: not computed yet
  old_logprobs: jax.Array | None = None        # [N, C] float32; None: the policy's own (on-policy)
  reference_logprobs: jax.Array | None = None  # [N, C] float32; None: no KL term
  old_values: jax.Array | None = None          # [N, C] float32, of the critic; None: no critic
  returns: jax.Array | None = None             # [N, C] float32, what the critic learns


@pytree_dataclass
class Packing:
  """Where the tokens of a batch are: K micro-batches of R rows of T places (`data.group_packing`).

  A row holds prompts, each followed by some of its completions, at most M completions in all. A
  completion is whole in one row; a prompt is in every row that has completions of it.
  """
  segment_ids: jax.Array        # [K, R, T] int32: 1 + b prompt b, 1 + B + n completion n, 0 padding
  positions: jax.Array          # [K, R, T] int32: of the token, from its prompt's first token
  completions: jax.Array        # [K, R, M] int32: n, in order of their places; N: an empty slot
  starts: jax.Array             # [K, R, M] int32: the place of its first token
  prompt_ends: jax.Array        # [K, R, M] int32: the place of its prompt's last token
  num_micro_batches: jax.Array  # int32 scalar: the first ones, which have tokens


@pytree_dataclass
class PackedBatch:
  """A batch, and how it is packed for the model."""
  batch: Batch
  packing: Packing


@pytree_dataclass
class Rows:
  """A micro-batch of a packed batch, as a model takes it."""
  tokens: jax.Array        # [R, T] int32
  segment_ids: jax.Array   # [R, T] int32, as in `Packing`
  parent_ids: jax.Array    # [R, T] int32: in completions the segment of their prompt, else 0
  positions: jax.Array     # [R, T] int32
  starts: jax.Array        # [R, M] int32: the place of each completion's first token
  prompt_ends: jax.Array   # [R, M] int32: the place of its prompt's last token


@pytree_dataclass
class TrainState:
  """What an optimiser step changes."""
  params: object           # float32 master weights
  optimizer: object        # optax state
  step: jax.Array          # int32: updates tried
  skipped_updates: jax.Array   # int32: those skipped because they were not finite
  skipped_in_a_row: jax.Array  # int32: how many of these are the last ones
