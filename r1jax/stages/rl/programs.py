"""The device programs of the RL stage: sample, score, compute_advantages, update.

`compute_advantages` turns rewards into advantages: of whole completions (group-relative and its
relatives) or of tokens (REINFORCE++, GAE with a critic), with the KL to the reference inside the
reward if the config says so. Every policy loss is `losses.policy_loss` with the settings of
`config.loss`.
"""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import advantages, divergences, losses
from r1jax.data.group_packing import pack_groups
from r1jax.masked import masked_max, masked_sum
from r1jax.models import Model
from r1jax.models.moe import Routing
from r1jax.records import Batch, PackedBatch, Packing, Rollout, Rows
from r1jax.rollout import make_batch
from r1jax.runtime import compiling, sharding
from r1jax.sampling.sampler import Sampler
from r1jax.stages import auxiliary
from r1jax.stages.fields import sampler_options
from r1jax.training import train_step
from r1jax.training.logprobs import completion_logprobs
from r1jax.training.packed import micro_batch, packed_logprobs
from r1jax.training.scalar_head import completion_values, packed_values

# `config.advantage` -> f(rewards [B, G]) -> [B·G], for advantages of whole completions.
SEQUENCE_ADVANTAGES: dict[str, Callable[..., jax.Array]] = {
    'group_relative': advantages.group_relative,
    'mean_only': functools.partial(advantages.group_relative, scale='none'),
    'leave_one_out': advantages.leave_one_out,
    'batch_normalized': advantages.batch_normalized,
}
ADVANTAGES = (*SEQUENCE_ADVANTAGES, 'reinforce_pp', 'gae')
# `config.loss.correction`, besides `losses.CORRECTIONS`.
NO_CORRECTION, AUTO_CORRECTION = 'none', 'auto'


class DevicePrograms(NamedTuple):
  """The programs of the stage; without a critic, its two are never called.

  All but `sample` can be prepared. If the config packs, `score`, `value`, `normalizers` and the
  updates take a PackedBatch as `pack` makes it.

  Attributes:
    sample: (params, Prompts, iteration) -> Rollout; `begin` returns once it has begun.
    cut: (Rollout, length=C) -> the Batch of its first C columns.
    score: (params, Batch) -> log-probabilities [N, C].
    value: (the critic's params, Batch) -> values [N, C].
    compute_advantages: (Batch, rewards [N], KL coefficient) -> (Batch, metrics).
    take: (Batch, numbers of groups) -> the Batch of these groups.
    exchange: (Batch, other Batch, numbers of groups [B], from_other [B]) -> the Batch, but group b
      is that of this number in the other one where from_other[b].
    normalizers: (Batch, KL coefficient) -> Normalizers.
    update: (TrainState, Batch, Normalizers) -> (TrainState, metrics).
    update_critic: the same for the critic.
    copy: parameters -> a copy.
  """
  sample: Sampler
  cut: Callable
  score: Callable
  value: Callable
  compute_advantages: Callable
  take: Callable
  exchange: Callable
  normalizers: Callable
  update: Callable
  update_critic: Callable
  copy: Callable


class Normalizers(NamedTuple):
  """What a micro-batch needs to know of its whole batch; all are scalars.

  Attributes:
    loss: the divisor of the policy loss.
    token_count: the number of completion tokens.
    kl_coefficient: the present one.
    num_rows: the rows that go through the model, over which a balance loss is taken.
  """
  loss: jax.Array
  token_count: jax.Array
  kl_coefficient: jax.Array
  num_rows: jax.Array | float = 1.0


# What a loss is given: a part of a batch or, of a packed batch, rows and their completions.
MicroBatch = Batch | tuple[Rows, Batch]


def pack(
    batch: Batch, settings: Mapping[str, Any], mesh: jax.sharding.Mesh,
    lengths: Sequence[np.ndarray] | None = None,
) -> PackedBatch:
  """A batch with its packing by `config.packing`; the rows are a multiple of the mesh's parts.

  Args:
    batch: what is packed.
    settings: the stage's config.
    mesh: over which rows are split.
    lengths: of the prompts [B] and of the completions [N]; None: they come to the host, which
      waits for all that is dispatched.
  """
  prompts, completions = lengths or sharding.to_host(
      (batch.prompt_lengths, jnp.sum(batch.completion_mask != 0, 1)))
  longest = batch.prompt_tokens.shape[1] + batch.completion_tokens.shape[1]
  packing = pack_lengths(prompts, completions, longest, settings, mesh)
  return PackedBatch(batch, sharding.place(packing, mesh))


def pack_lengths(
    prompt_lengths: np.ndarray, completion_lengths: np.ndarray, longest: int,
    settings: Mapping[str, Any], mesh: jax.sharding.Mesh,
) -> Packing:
  """The packing of prompts and completions of these lengths.

  Args:
    prompt_lengths: [B].
    completion_lengths: [N].
    longest: as for `pack_groups`.
    settings: the stage's config.
    mesh: over which rows are split.
  """
  parts = sharding.num_batch_shards(mesh)
  return pack_groups(
      prompt_lengths, completion_lengths, row_length=settings['packing']['row_length'],
      num_rows=-(-settings['packing']['rows'] // parts) * parts, longest=longest)


@jax.jit
def packing_fill(packing: Packing) -> jax.Array:
  """The share of the places of its micro-batches that are not padding."""
  places = packing.num_micro_batches * packing.segment_ids[0].size
  return jnp.sum(packing.segment_ids != 0) / places


def micro_batch_logprobs(
    model: Model, params, given: MicroBatch, temperature: float,
) -> tuple[Batch, jax.Array, jax.Array, list[Routing]]:
  """(what the loss reads, log-probabilities, entropies, routings) of a micro-batch."""
  if isinstance(given, Batch):
    return given, *completion_logprobs(model, params, *_inputs(given), temperature=temperature)
  rows, batch = given
  return batch, *packed_logprobs(
      model, params, rows, batch.completion_tokens, temperature=temperature)


def micro_batch_values(model: Model, params, given: MicroBatch) -> tuple[Batch, jax.Array]:
  """(what the loss reads, a critic's values) of a micro-batch."""
  if isinstance(given, Batch):
    return given, completion_values(model, params, *_inputs(given))
  rows, batch = given
  return batch, packed_values(model, params, rows, batch.completion_tokens.shape[1])


def _inputs(batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  return (batch.prompt_tokens, batch.prompt_lengths, batch.completion_tokens,
          batch.completion_mask)


def sampler_differs(settings: Mapping[str, Any]) -> bool:
  """Whether tokens are drawn from another model than the trainer's, by the stage's config.

  It may be rounded, or that of an earlier iteration.
  """
  return any(settings['sampling'][name] for name in (
      'weight_dtype', 'cache_dtype', 'carry_over'))


def correction_of(settings: Mapping[str, Any]) -> str | None:
  """The correction of the policy loss that the config asks for; None: none."""
  chosen = settings['loss']['correction']
  if chosen == AUTO_CORRECTION:
    return 'token_truncate' if sampler_differs(settings) else None
  return None if chosen == NO_CORRECTION else chosen


def make_loss(model: Model, settings: Mapping[str, Any]) -> Callable:
  """loss(params, MicroBatch, Normalizers) for `train_step.make_update`.

  Args:
    model: the policy's.
    settings: the fields of `rl.DEFAULT`.
  """
  correction = correction_of(settings)
  options = dict(settings['loss']) | {'correction': correction or losses.CORRECTIONS[0]}
  options['dual_clip'] = options['dual_clip'] or None
  adapts_old = bool(options.pop('old_kl_coefficient'))

  def loss(params, given: MicroBatch, normalizers: Normalizers):
    batch, logprobs, entropies, routings = micro_batch_logprobs(
        model, params, given, settings['sampling']['temperature'])
    assert batch.advantages is not None, 'compute_advantages must run before an update'
    kl: dict[str, Any] = (
        {'old_kl_coefficient': normalizers.kl_coefficient} if adapts_old else {})
    if settings['kl_coefficient'] and settings['kl_place'] == 'loss':
      kl['kl_coefficient'] = _reference_coefficient(settings, normalizers.kl_coefficient)
    value, measured = losses.policy_loss(
        logprobs, batch.old_logprobs, batch.advantages, batch.completion_mask,
        normalizer=normalizers.loss, token_count=normalizers.token_count, entropies=entropies,
        reference_logprobs=batch.reference_logprobs, kl_estimator=settings['kl_estimator'],
        behaviour_logprobs=batch.behaviour_logprobs if correction else None,
        max_length=settings['sampling']['max_new_tokens'], **options, **kl)
    trainer = logprobs if batch.old_logprobs is None else batch.old_logprobs
    measured |= sampler_metrics(trainer - batch.behaviour_logprobs, batch.completion_mask,
                                normalizers.token_count)
    balancing, counted = auxiliary.balance(
        routings, None, model.config, settings['experts'], normalizers.num_rows)
    return value + balancing, jax.lax.stop_gradient(measured | counted)
  return loss


def sampler_metrics(
    log_ratios: jax.Array, mask: jax.Array, token_count: jax.Array) -> dict[str, jax.Array]:
  """How far the trainer's log-probabilities are from those that the sampler recorded.

  Args:
    log_ratios: [n, C], log π_trainer − log π_sampler of the sampled tokens.
    mask: [n, C], 0 on what is not counted.
    token_count: divides the sums; the tokens of the whole batch.

  Returns:
    The mean and the largest absolute difference, and KL(π_sampler ‖ π_trainer) per token by k3.
  """
  log_ratios = jnp.where(mask != 0, log_ratios, 0)
  difference = jnp.abs(log_ratios)
  return {
      'sampling/logprob_difference/mean': masked_sum(difference, mask) / token_count,
      'sampling/logprob_difference/max': masked_max(difference, mask),
      'sampling/kl_k3': masked_sum(divergences.exp_excess(log_ratios), mask) / token_count}


def make_value_loss(model: Model, settings: Mapping[str, Any]) -> Callable:
  """The critic's loss(params, MicroBatch, Normalizers).

  Args:
    model: the critic's backbone.
    settings: the fields of `rl.DEFAULT`.
  """
  def loss(params, given: MicroBatch, normalizers: Normalizers):
    batch, values = micro_batch_values(model, params, given)
    assert batch.returns is not None, 'compute_advantages must run before an update'
    return losses.value_loss(
        values, batch.returns, batch.completion_mask, old_values=batch.old_values,
        clip_epsilon=settings['critic']['clip_epsilon'], normalizer=normalizers.token_count)
  return loss


def make_compute_advantages(settings: Mapping[str, Any]) -> Callable:
  """compute_advantages(batch, rewards [N], kl_coefficient) -> (batch with advantages, metrics).

  Args:
    settings: the fields of `rl.DEFAULT`.
  """
  kind, critic = settings['advantage'], settings['critic']

  def compute_advantages(batch: Batch, rewards: jax.Array, kl_coefficient: jax.Array):
    mask = batch.completion_mask
    sampled = batch.behaviour_logprobs if batch.old_logprobs is None else batch.old_logprobs
    in_reward = settings['kl_coefficient'] and settings['kl_place'] == 'reward'
    reference = batch.reference_logprobs if in_reward else sampled
    assert reference is not None, 'a KL inside the reward needs reference_logprobs'
    options: dict[str, Any] = dict(
        kl_coefficient=_reference_coefficient(settings, kl_coefficient), kl_estimator='k1')
    if kind == 'reinforce_pp':
      found = advantages.reinforce_pp(rewards, sampled, reference, mask, **options)
      return dataclasses.replace(batch, advantages=found), {}
    per_token = advantages.token_rewards(rewards, sampled, reference, mask, **options)
    if kind == 'gae':
      return _with_critic_advantages(batch, per_token, ~jnp.isnan(rewards), critic)
    # An empty completion has no last token, but its reward counts.
    by_row = masked_sum(per_token, mask, 1) if in_reward else rewards.astype(jnp.float32)
    found = SEQUENCE_ADVANTAGES[kind](by_row.reshape(-1, settings['group_size']))
    return dataclasses.replace(batch, advantages=found), {}
  return compute_advantages


def _with_critic_advantages(
    batch: Batch, per_token: jax.Array, judged: jax.Array, critic: Mapping[str, Any],
) -> tuple[Batch, dict[str, jax.Array]]:
  """(the batch with the advantages of GAE and returns, metrics), from rewards by token [N, C].

  Rows that are not `judged` [N] take no part, see `advantages.gae`.
  """
  values, mask = batch.old_values, batch.completion_mask * judged[:, None]
  assert values is not None, 'GAE needs the values of the critic'
  if critic['whiten_rewards']:
    per_token = advantages.whiten(per_token, mask, shift_mean=False)
  found, returns = advantages.gae(per_token, values, mask, gamma=critic['gamma'],
                                  gae_lambda=critic['gae_lambda'])
  measured = {'critic/explained_variance': losses.explained_variance(values, returns, mask)}
  if critic['whiten_advantages']:
    found = advantages.whiten(found, mask)
  returns = jnp.where(judged[:, None], returns, jnp.nan)
  return dataclasses.replace(batch, advantages=found, returns=returns), measured


def _reference_coefficient(settings: Mapping[str, Any], adapted: jax.Array) -> Any:
  """The coefficient of the KL to the reference: the one that adapts, unless the old KL's does."""
  return settings['kl_coefficient'] if settings['loss']['old_kl_coefficient'] else adapted


def make_programs(
    model: Model, optimizer, critic_optimizer, settings: Mapping[str, Any],
    stops: tuple[int, ...], should_stop: Callable[[], bool],
) -> DevicePrograms:
  """The programs of a run.

  Args:
    model: the policy's, and the critic's backbone.
    optimizer: the policy's.
    critic_optimizer: the critic's.
    settings: the fields of `rl.DEFAULT`.
    stops: the ids of the tokens that end a completion.
    should_stop: called between chunks of sampling; when it returns True, `sample` raises
      `sampler.Interrupted`.
  """
  sample = Sampler(
      model, group_size=settings['group_size'], stop_ids=stops, seed=settings['seed'],
      compute_dtype=settings['model']['compute_dtype'], should_stop=should_stop,
      **sampler_options(settings['sampling']))
  packed = bool(settings['packing']['row_length'])
  in_micro_batches = _in_packed_micro_batches if packed else functools.partial(
      _in_micro_batches, count=settings['micro_batches'] * settings['mini_batches'])

  def logprobs(params, given: MicroBatch) -> jax.Array:
    return micro_batch_logprobs(model, params, given, settings['sampling']['temperature'])[1]

  def values(params, given: MicroBatch) -> jax.Array:
    return micro_batch_values(model, params, given)[1]

  def normalizers(given: Batch | PackedBatch, kl_coefficient: jax.Array) -> Normalizers:
    batch = given.batch if isinstance(given, PackedBatch) else given
    return batch_normalizers(
        batch.completion_mask, kl_coefficient, num_rows(given),
        aggregation=settings['loss']['aggregation'],
        max_length=settings['sampling']['max_new_tokens'])

  def update(loss, optimizer, after=None):
    return compiling.Program(train_step.make_update(
        loss, optimizer, num_micro_batches=settings['micro_batches'],
        split=split if packed else None, after=after), donate_argnums=0)

  return DevicePrograms(
      sample, compiling.Program(_cut, static_argnames='length'),
      in_micro_batches(logprobs), in_micro_batches(values),
      compiling.Program(make_compute_advantages(settings)), compiling.Program(_take),
      compiling.Program(_exchange), compiling.Program(normalizers),
      update(make_loss(model, settings), optimizer,
             auxiliary.after_update(model.config, settings['experts'])),
      update(make_value_loss(model, settings), critic_optimizer), compiling.Program(copied))


def copied(params):
  """A copy of parameters, when it is compiled."""
  return jax.tree.map(jnp.copy, params)


def _cut(rollout: Rollout, *, length: int) -> Batch:
  return sharding.constrain_rows(make_batch(rollout, length))


def _take(batch: Batch, groups: jax.Array) -> Batch:
  num_groups = batch.prompt_lengths.shape[0]

  def of_groups(x):
    return x.reshape(num_groups, -1, *x.shape[1:])[groups].reshape(-1, *x.shape[1:])
  return sharding.constrain_rows(jax.tree.map(of_groups, batch))


def _exchange(batch: Batch, other: Batch, groups: jax.Array, from_other: jax.Array) -> Batch:
  def exchange(x, taken):
    chosen = jnp.repeat(from_other, x.shape[0] // from_other.size)
    return jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), taken, x)
  return sharding.constrain_rows(jax.tree.map(exchange, batch, _take(other, groups)))


def _in_micro_batches(one: Callable, count: int) -> Callable:
  """The program (params, batch) -> [N, C] of one(params, micro-batch), for `count` in turn."""
  def whole(params, batch: Batch):
    parts = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
    parts = sharding.constrain_rows(parts, None)
    out = jax.lax.map(functools.partial(one, params), parts)
    return out.reshape(-1, out.shape[-1])
  return compiling.Program(whole)


def _in_packed_micro_batches(one: Callable) -> Callable:
  """The program (params, packed) -> [N, C] of one(params, micro-batch) -> [R·M, C]."""
  def whole(params, packed: PackedBatch):
    count, part = split(packed)

    def put(index, out):
      chosen = packed.packing.completions[index].reshape(-1)
      return out.at[chosen].set(one(params, part(index)), mode='drop')
    return jax.lax.fori_loop(0, count, put, jnp.zeros(packed.batch.completion_mask.shape))
  return compiling.Program(whole)


def split(packed: PackedBatch) -> tuple[jax.Array, Callable]:
  """(the number of micro-batches, the function from an index to one), for `make_update`."""
  return packed.packing.num_micro_batches, functools.partial(micro_batch, packed)


def batch_normalizers(
    mask, kl_coefficient, num_rows=1.0, *, aggregation, max_length) -> Normalizers:
  """The normalizers of a batch.

  Args:
    mask: [N, C], its completion mask.
    kl_coefficient: the present one.
    num_rows: see `Normalizers`.
    aggregation: as for `losses.loss_normalizer`.
    max_length: likewise.
  """
  return Normalizers(losses.loss_normalizer(mask, aggregation, max_length),
                     jnp.maximum(jnp.sum(mask), 1), jnp.float32(kl_coefficient),
                     jnp.float32(num_rows))


def num_rows(batch: Batch | PackedBatch) -> jax.Array | int:
  """Rows that go through the model in an update: prompts and completions, or packed rows."""
  if isinstance(batch, PackedBatch):
    return batch.packing.num_micro_batches * batch.packing.segment_ids.shape[1]
  return batch.prompt_tokens.shape[0] + batch.completion_tokens.shape[0]
