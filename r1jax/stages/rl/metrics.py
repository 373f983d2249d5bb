"""The metrics of an iteration of RL, and the KL coefficient that follows from them."""
from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from r1jax import divergences
from r1jax import rollout as rollouts
from r1jax.models import ModelConfig, compute
from r1jax.rewards.suite import Rewards
from r1jax.stages.rl.batch import BatchSpec
from r1jax.stages.rl.dynamic_sampling import Round, lengths_of
from r1jax.tokenization import Tokenizer


def iteration_metrics(
    measured: Sequence[Mapping[str, float]], seconds: Mapping[str, float], *, updates_done: int,
    remat: bool, peak_flops: float | None,
) -> dict[str, float]:
  """The metrics of an iteration, with its seconds and its speed.

  Args:
    measured: the metrics of the rollout, then those of each update. Over the updates, metrics
      whose names end with '/max' are the greatest, the count of skipped updates is the last, and
      all others are means.
    seconds: by 'timing_s/<name>', of this process; 'timing_s/rollout' is absent if the run resumed
      after the rollout. Then 'tokens_per_second' is left out, too.
    updates_done: how many of the updates this process did; the utilisation is of its own work.
    remat: whether training computes activations twice, which does not count as useful work.
    peak_flops: floating-point operations that the devices can do in a second; None if they are
      not known, which leaves out 'model_flops_utilisation'.
  """
  rollout, *updates = measured
  result = dict(rollout)
  for name in updates[0]:
    values = [update[name] for update in updates]
    result[name] = (max(values) if name.endswith('/max') else
                    values[-1] if name.endswith('skipped_updates') else float(np.mean(values)))
  result |= seconds
  sampled = 'timing_s/rollout' in seconds
  if peak_flops is not None:
    useful = _useful_flops(
        rollout, sampled=sampled, trained=updates_done / len(updates), remat=remat)
    result['model_flops_utilisation'] = useful / seconds['timing_s/step'] / peak_flops
  if sampled:
    result['tokens_per_second'] = rollout['num_tokens'] / seconds['timing_s/step']
    result['timing_s/rollout_per_token'] = seconds['timing_s/rollout'] / rollout['num_tokens']
  return result


def _useful_flops(
    rollout: Mapping[str, float], *, sampled: bool, trained: float, remat: bool) -> float:
  """Floating-point operations of an iteration, without those of rematerialisation.

  Args:
    rollout: the metrics of the rollout.
    sampled: whether the rollout counts.
    trained: the share of the updates that counts.
    remat: whether training computes activations twice.
  """
  useful = trained * (3 / 4 if remat else 1) * rollout['compute/trained']
  return useful + sampled * (rollout['compute/sampled'] + rollout['compute/scored'])


def computed(
    rounds: Sequence[Round], groups: np.ndarray, shape: ModelConfig, config: Mapping[str, Any],
) -> compute.Compute:
  """The operations and tokens of an iteration.

  All completions are sampled, and judged by the reward models. Those of `groups` are scored by the
  models of the policy's shape, and trained on.

  Args:
    rounds: of the iteration.
    groups: the numbers of the groups that are trained on, counted over all rounds.
    shape: of the policy.
    config: the stage's.
  """
  spec = BatchSpec.of(config)
  prompts = np.concatenate([drawn.prompts.prompt_lengths for drawn in rounds])
  lengths = lengths_of(rounds, config['group_size'])
  trained = prompts[groups], lengths[groups]
  return (compute.sampling(shape, prompts, lengths)
          + compute.scoring(shape, *trained, passes=spec.num_scorings)
          + compute.training(shape, *trained, remat=config['model']['remat'],
                             times=config['epochs'] * spec.num_trained)
          + sum((drawn.judging for drawn in rounds), compute.Compute()))


def sample_rows(
    drawn: Round, rewards: Rewards, tokenizer: Tokenizer, group_size: int,
) -> list[dict[str, Any]]:
  """The completions of a round as rows of JSON, with the texts of their prompts."""
  texts = [tokenizer.decode(tokens[:size], skip_special=False) for tokens, size in zip(
      drawn.prompts.prompt_tokens, drawn.prompts.prompt_lengths)]
  return rollouts.sample_rows(drawn.prompts, texts, drawn.completions, rewards,
                                 group_size=group_size)


def next_kl_coefficient(
    config: Mapping[str, Any], coefficient: float, measured: Mapping[str, float],
) -> float:
  """The KL coefficient of the next iteration, by the controller of the config.

  It stays as it is if the controller's is not finite.

  Args:
    config: the stage's.
    coefficient: that of this iteration.
    measured: the metrics of this iteration.
  """
  settings = config['kl_controller']
  kl: Any = measured['kl_old' if config['loss']['old_kl_coefficient'] else 'kl']
  on_host: Any = np.float32(coefficient)
  controller = divergences.KLController(on_host)
  with np.errstate(over='ignore', invalid='ignore'):
    if settings['rule'] == 'double_or_halve':
      controller = divergences.double_or_halve(controller, kl, target=settings['target'])
    elif settings['rule'] == 'proportional':
      controller = divergences.proportional(
          controller, kl * measured['completions/mean_length'], target=settings['target'],
          horizon=settings['horizon'],
          num_samples=config['prompts_per_batch'] * config['group_size'])
  following = float(controller.coefficient)
  return following if math.isfinite(following) else coefficient
