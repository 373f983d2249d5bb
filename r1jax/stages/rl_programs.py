"""The device programs of the RL stage: sample, score, credit, update.

`credit` turns rewards into advantages: of whole completions (group-relative and its kin) or of
tokens (REINFORCE++, GAE with a critic), with the KL to the reference inside the reward where asked.
Every policy loss is `losses.policy_loss` with the settings of `config.loss`.
"""
from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r1jax import advantages, losses, sharding, train_step
from r1jax.logprobs import completion_logprobs
from r1jax.masked import masked_max, masked_sum
from r1jax.models import Model
from r1jax.records import Batch
from r1jax.reward_model import completion_values
from r1jax.sampler import Sampling, make_sampler

# `config.advantage` -> f(rewards [B, G]) -> [B·G], for advantages of whole completions.
SEQUENCE_ADVANTAGES = {
    'group_relative': advantages.group_relative,
    'mean_only': functools.partial(advantages.group_relative, scale='none'),
    'leave_one_out': advantages.leave_one_out,
    'batch_normalized': advantages.batch_normalized,
}
ADVANTAGES = (*SEQUENCE_ADVANTAGES, 'reinforce_pp', 'gae')
NO_CORRECTION = 'none'


class Programs(NamedTuple):
  """The device programs of the stage; those of a critic are None where there is none."""
  sample: Callable          # (params, Prompts, iteration) -> Rollout
  score: Callable           # (params, Batch) -> log-probabilities [N, C]
  value: Callable           # (critic's params, Batch) -> values [N, C]
  credit: Callable          # (Batch, rewards [N], KL coefficient) -> (Batch, metrics)
  take: Callable            # (Batch, group ids) -> Batch of these groups
  update: Callable          # (TrainState, Batch, normalizers) -> (TrainState, metrics)
  update_critic: Callable   # the same of the critic


class Normalizers(NamedTuple):
  """What a micro-batch needs to know of its whole batch; all scalars."""
  loss: jax.Array            # the divisor of the policy loss
  token_count: jax.Array     # the number of completion tokens
  kl_coefficient: jax.Array  # of the whole run, where it adapts


def make_loss(model: Model, settings: Mapping[str, Any]) -> Callable:
  """loss(params, batch, normalizers) for `train_step.make_update`, by fields of `rl.DEFAULT`."""
  options = dict(settings['loss'])
  corrected = options['correction'] != NO_CORRECTION
  if not corrected:
    del options['correction']
  options['dual_clip'] = options['dual_clip'] or None
  adapts_old = bool(options.pop('old_kl_coefficient'))

  def loss(params, batch: Batch, normalizers: Normalizers):
    logprobs, entropies = completion_logprobs(
        model, params, batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens,
        batch.completion_mask, temperature=settings['sampling']['temperature'])
    kl = {'old_kl_coefficient': normalizers.kl_coefficient} if adapts_old else {}
    if settings['kl_coefficient'] and settings['kl_place'] == 'loss':
      kl['kl_coefficient'] = (
          settings['kl_coefficient'] if adapts_old else normalizers.kl_coefficient)
    value, measured = losses.policy_loss(
        logprobs, batch.old_logprobs, batch.advantages, batch.completion_mask,
        normalizer=normalizers.loss, token_count=normalizers.token_count, entropies=entropies,
        reference_logprobs=batch.reference_logprobs, kl_estimator=settings['kl_estimator'],
        behaviour_logprobs=batch.behaviour_logprobs if corrected else None,
        max_length=settings['sampling']['max_new_tokens'], **options, **kl)
    trainer = logprobs if batch.old_logprobs is None else batch.old_logprobs
    difference = jnp.abs(trainer - batch.behaviour_logprobs)
    measured |= {
        'sampling/logprob_difference/mean':
            masked_sum(difference, batch.completion_mask) / normalizers.token_count,
        'sampling/logprob_difference/max': masked_max(difference, batch.completion_mask)}
    return value, jax.lax.stop_gradient(measured)
  return loss


def make_value_loss(model: Model, settings: Mapping[str, Any]) -> Callable:
  """The critic's loss(params, batch, normalizers), by fields of `rl.DEFAULT`."""
  def loss(params, batch: Batch, normalizers: Normalizers):
    values = completion_values(
        model, params, batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens,
        batch.completion_mask)
    return losses.value_loss(
        values, batch.returns, batch.completion_mask, old_values=batch.old_values,
        clip_epsilon=settings['critic']['clip_epsilon'], normalizer=normalizers.token_count)
  return loss


def make_credit(settings: Mapping[str, Any]) -> Callable:
  """credit(batch, rewards [N], kl_coefficient) -> (batch with advantages, metrics)."""
  kind, critic = settings['advantage'], settings['critic']

  def credit(batch: Batch, rewards: jax.Array, kl_coefficient: jax.Array):
    mask = batch.completion_mask
    sampled = batch.behaviour_logprobs if batch.old_logprobs is None else batch.old_logprobs
    in_reward = settings['kl_coefficient'] and settings['kl_place'] == 'reward'
    reference = batch.reference_logprobs if in_reward else sampled
    options = dict(kl_coefficient=kl_coefficient, kl_estimator='k1')
    if kind == 'reinforce_pp':
      found = advantages.reinforce_pp(rewards, sampled, reference, mask, **options)
      return dataclasses.replace(batch, advantages=found), {}
    per_token = advantages.token_rewards(rewards, sampled, reference, mask, **options)
    if kind != 'gae':
      # An empty completion has no last token; its reward counts all the same.
      by_row = masked_sum(per_token, mask, 1) if in_reward else rewards.astype(jnp.float32)
      found = SEQUENCE_ADVANTAGES[kind](by_row.reshape(-1, settings['group_size']))
      return dataclasses.replace(batch, advantages=found), {}
    if critic['whiten_rewards']:
      per_token = advantages.whiten(per_token, mask, shift_mean=False)
    found, returns = advantages.gae(per_token, batch.old_values, mask, gamma=critic['gamma'],
                                    gae_lambda=critic['gae_lambda'])
    measured = {'critic/explained_variance': losses.explained_variance(
        batch.old_values, returns, mask)}
    if critic['whiten_advantages']:
      found = advantages.whiten(found, mask)
    return dataclasses.replace(batch, advantages=found, returns=returns), measured
  return credit


def make_programs(
    model: Model, optimizer, critic_optimizer, settings: Mapping[str, Any],
    stops: tuple[int, ...], should_stop: Callable[[], bool],
) -> Programs:
  """The jitted programs of a run with these settings (fields of `rl.DEFAULT`).

  The critic's are for a model of the policy's shape, of which `reward_model` has the parameters.
  """
  sampling = dict(settings['sampling'])
  sample = make_sampler(
      model, group_size=settings['group_size'], max_new_tokens=sampling.pop('max_new_tokens'),
      chunk=sampling.pop('chunk'), placement=sampling.pop('placement'),
      sampling=Sampling(**sampling), stop_ids=stops,
      seed=settings['seed'], compute_dtype=settings['model']['compute_dtype'],
      should_stop=should_stop)
  pieces = settings['micro_batches'] * settings['mini_batches']

  def by_pieces(one):
    """one(params, batch) -> [n, C], run on pieces of the batch in turn, jitted."""
    @jax.jit
    def whole(params, batch: Batch):
      split = jax.tree.map(lambda x: x.reshape(pieces, x.shape[0] // pieces, *x.shape[1:]), batch)
      split = sharding.constrain_rows(split, None)
      out = jax.lax.map(functools.partial(one, params), split)
      return out.reshape(-1, out.shape[-1])
    return whole

  def inputs(batch: Batch):
    return (batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens,
            batch.completion_mask)

  score = by_pieces(lambda params, piece: completion_logprobs(
      model, params, *inputs(piece), temperature=settings['sampling']['temperature'])[0])
  value = by_pieces(lambda params, piece: completion_values(model, params, *inputs(piece)))

  @jax.jit
  def take(batch: Batch, groups):
    num_groups = batch.prompt_lengths.shape[0]
    of_groups = lambda x: x.reshape(num_groups, -1, *x.shape[1:])[groups].reshape(-1, *x.shape[1:])
    return sharding.constrain_rows(jax.tree.map(of_groups, batch))

  def update(loss, optimizer):
    return jax.jit(train_step.make_update(
        loss, optimizer, num_micro_batches=settings['micro_batches']), donate_argnums=0)

  return Programs(
      sample, score, value, jax.jit(make_credit(settings)), take,
      update(make_loss(model, settings), optimizer),
      update(make_value_loss(model, settings), critic_optimizer))


@functools.partial(jax.jit, static_argnames=('aggregation', 'max_length'))
def batch_normalizers(mask, kl_coefficient, *, aggregation, max_length) -> Normalizers:
  """Of a whole batch with this completion mask [N, C], for its micro-batches."""
  return Normalizers(losses.loss_normalizer(mask, aggregation, max_length),
                     jnp.maximum(jnp.sum(mask), 1), jnp.float32(kl_coefficient))
