"""Which arrays a batch of the RL stage has, and their shapes."""
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax

from r1jax.records import Batch, Prompts, Rollout
from r1jax.stages import program_shapes
from r1jax.stages.rl import programs as rl_programs

SAMPLED = ('prompt_tokens', 'prompt_lengths', 'completion_tokens', 'completion_mask',
           'behaviour_logprobs')


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """What a batch holds besides what was sampled, by the fields of `rl.DEFAULT`.

  Attributes:
    old_logprobs: a rollout has several updates. With one, they are the policy's own, and the token
      rewards take those of the sampler, unless it differs.
    reference_logprobs: there is a KL to the reference.
    values: there is a critic; the batch has its values, and the returns that it learns.
    token_advantages: an advantage for each token [N, C], not for each completion [N].
  """
  old_logprobs: bool
  reference_logprobs: bool
  values: bool
  token_advantages: bool

  @classmethod
  def of(cls, config: Mapping[str, Any]) -> 'BatchSpec':
    """The one that the stage's config needs."""
    in_reward = config['kl_coefficient'] and config['kl_place'] == 'reward'
    return cls(
        old_logprobs=updates_per_rollout(config) > 1 or (
            in_reward and rl_programs.sampler_differs(config)),
        reference_logprobs=bool(config['kl_coefficient']),
        values=config['advantage'] == 'gae',
        token_advantages=config['advantage'] not in rl_programs.SEQUENCE_ADVANTAGES)

  @property
  def num_scorings(self) -> int:
    """How many models of the policy's shape score a batch before its updates."""
    return self.old_logprobs + self.reference_logprobs + self.values

  @property
  def num_trained(self) -> int:
    """How many models of the policy's shape are trained on a batch."""
    return 1 + self.values


def updates_per_rollout(config: Mapping[str, Any]) -> int:
  """Updates of the policy on the batch of one rollout."""
  return config['epochs'] * config['mini_batches']


def batch_shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, *, prompts: int, length: int,
) -> Batch:
  """The placed shapes of a batch that is ready for updates.

  Args:
    config: the stage's.
    mesh: over which its rows are split.
    prompts: prompts of the batch, or of a mini-batch.
    length: tokens of its completions, with padding.
  """
  spec, rows = BatchSpec.of(config), prompts * config['group_size']
  floats = functools.partial(program_shapes.table, mesh)
  ints = functools.partial(floats, dtype='int32')
  by_token = floats(rows, length)
  return Batch(
      prompt_tokens=ints(prompts, config['max_prompt_length']), prompt_lengths=ints(prompts),
      completion_tokens=ints(rows, length), completion_mask=by_token, behaviour_logprobs=by_token,
      advantages=by_token if spec.token_advantages else floats(rows),
      old_logprobs=by_token if spec.old_logprobs else None,
      reference_logprobs=by_token if spec.reference_logprobs else None,
      old_values=by_token if spec.values else None, returns=by_token if spec.values else None)


def rollout_shapes(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> Rollout:
  """The placed shapes of a rollout of one sampling pass; arguments as for `batch_shapes`."""
  batch = batch_shapes(config, mesh, prompts=config['prompts_per_batch'],
                       length=config['sampling']['max_new_tokens'])
  prompts = Prompts(batch.prompt_tokens, batch.prompt_lengths, batch.prompt_lengths)
  rows = batch.completion_tokens.shape[0]
  finished = program_shapes.table(mesh, rows, dtype='bool')
  drafts = program_shapes.table(mesh, rows, 2, dtype='int32')
  return Rollout(prompts, batch.completion_tokens, batch.completion_mask, batch.behaviour_logprobs,
                 batch.behaviour_logprobs, finished,
                 drafts if config['sampling']['drafts'] else None)


def as_sampled(batch: Batch) -> Batch:
  """The batch, or its shapes, with nothing but what was sampled."""
  return Batch(**{name: getattr(batch, name) for name in SAMPLED})
