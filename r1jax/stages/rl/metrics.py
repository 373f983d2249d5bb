"""The record of an iteration of RL, and the KL coefficient that follows from it."""
from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from r1jax import divergences
from r1jax.runtime import sharding


def iteration_record(
    measured: Sequence[Mapping[str, float]], seconds: Mapping[str, float], *, remat: bool,
    peak_flops: float | None,
) -> dict[str, float]:
  """What was measured of an iteration, with its seconds and its speed.

  Args:
    measured: the metrics of the rollout, then those of each update. The record has the mean over
      updates, of names that end with '/max' the greatest, and the last count of refused updates.
    seconds: by 'timing_s/<name>'; 'timing_s/rollout' is absent after a resumed rollout.
    remat: whether training computes activations twice, which is no useful work.
    peak_flops: floating-point operations per second that the devices can do; where it is None
      there is no 'model_flops_utilisation'.
  """
  rollout, *updates = measured
  record = dict(rollout)
  for name in updates[0]:
    values = [update[name] for update in updates]
    record[name] = max(values) if name.endswith('/max') else float(np.mean(values))
  record['skipped_updates'] = updates[-1]['skipped_updates']
  record |= seconds | {
      'tokens_per_second': rollout['num_tokens'] / seconds['timing_s/step']}
  if peak_flops is not None:
    record['model_flops_utilisation'] = (
        _work(rollout, remat=remat) / seconds['timing_s/step'] / peak_flops)
  if 'timing_s/rollout' in seconds:
    record['timing_s/rollout_per_token'] = seconds['timing_s/rollout'] / rollout['num_tokens']
  return record


def _work(rollout: Mapping[str, float], *, remat: bool) -> float:
  """Floating-point operations of an iteration, without those of rematerialisation."""
  useful = 3 / 4 if remat else 1
  return (rollout['compute/sampled'] + rollout['compute/scored']
          + useful * rollout['compute/trained'])


def next_kl_coefficient(
    config: Mapping[str, Any], coefficient: float, record: Mapping[str, float],
) -> float:
  """The KL coefficient of the next iteration, by the controller of the config.

  It stays where the controller's is not finite.
  """
  settings = config['kl_controller']
  kl = record['kl_old' if config['loss']['old_kl_coefficient'] else 'kl']
  controller = divergences.KLController(jnp.float32(coefficient))
  if settings['rule'] == 'double_or_halve':
    controller = divergences.double_or_halve(controller, kl, target=settings['target'])
  elif settings['rule'] == 'proportional':
    controller = divergences.proportional(
        controller, kl * record['completions/mean_length'], target=settings['target'],
        horizon=settings['horizon'], num_samples=config['prompts_per_batch'] * config['group_size'])
  following = float(sharding.to_host(controller.coefficient))
  return following if math.isfinite(following) else coefficient
