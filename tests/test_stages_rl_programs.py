"""What the programs of RL do where the sampler is not quite the trainer's model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.models import build, huggingface, quantized
from r1jax.stages import rl
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl.batch import BatchSpec
from r1jax.training.logprobs import completion_logprobs

BYTES = {'bytes': (runs.by_bytes, 1.0)}
INT8 = dict(sampling=dict(weight_dtype='int8'))


@pytest.mark.parametrize('fields, want', [
    ({}, None), (INT8, 'token_truncate'),
    (dict(sampling=dict(cache_dtype='float8_e4m3fn')), 'token_truncate'),
    (INT8 | dict(loss=dict(correction='none')), None),
    (INT8 | dict(loss=dict(correction='sequence_mask')), 'sequence_mask'),
    (dict(loss=dict(correction='token_mask')), 'token_mask')])
def test_the_correction_is_truncated_importance_sampling_where_the_sampler_rounds(fields, want):
  assert rl_programs.correction_of(runs.rl_config('base', **fields)) == want


@pytest.mark.parametrize('fields, want', [
    ({}, False), (INT8, False), (dict(epochs=2), True),
    (dict(kl_coefficient=0.1, kl_place='reward'), False),
    (INT8 | dict(kl_coefficient=0.1), False),
    (INT8 | dict(kl_coefficient=0.1, kl_place='reward'), True)])
def test_old_logprobs_are_scored_where_those_of_the_sampler_would_bias_a_reward(fields, want):
  assert BatchSpec.of(runs.rl_config('base', **fields)).old_logprobs == want


def test_the_difference_of_sampler_and_trainer_is_measured():
  """By its mean, its maximum and the KL per token, which is 0 without one; masked tokens apart."""
  rng = np.random.default_rng(0)
  sampler, trainer = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(9))
  drawn = rng.choice(9, 200_000, p=sampler)
  ratios = jnp.asarray(np.log(trainer / sampler)[drawn], jnp.float32)[None]
  count = jnp.float32(drawn.size)
  found = rl_programs.sampler_metrics(ratios, jnp.ones_like(ratios), count)
  exact = np.sum(sampler * np.log(sampler / trainer))
  assert found['sampling/kl_k3'] == pytest.approx(exact, rel=0.02)
  assert found['sampling/logprob_difference/max'] == pytest.approx(np.max(np.abs(ratios)))
  assert found['sampling/logprob_difference/mean'] == pytest.approx(
      np.mean(np.abs(ratios)), rel=1e-4)
  padded = jnp.concatenate([ratios, jnp.full((1, 3), jnp.nan)], 1)
  again = rl_programs.sampler_metrics(padded, jnp.isfinite(padded), count)
  for name, value in found.items():
    assert float(again[name]) == pytest.approx(float(value), rel=1e-5)
  assert not any(rl_programs.sampler_metrics(0 * ratios, jnp.ones_like(ratios), count).values())


def test_ppo_in_packed_rows_learns_from_what_the_rounded_model_drew(base, tmp_path, monkeypatch):
  """Recorded are the log-probabilities of the model in int8; the loss weighs the difference."""
  config = runs.rl_config(
      base, steps=1, advantage='gae', kl_coefficient=0.1, kl_place='reward', kl_estimator='k1',
      packing=dict(row_length=64), **INT8)
  calls = []

  def wrapped(*arguments):
    programs = make_programs(*arguments)

    def noting(rollout, _):
      calls.append(rollout)
      return rollout
    return programs._replace(sample=runs.NotingSampler(programs.sample, drawn=noting))
  make_programs = rl_programs.make_programs
  monkeypatch.setattr(rl_programs, 'make_programs', wrapped)
  rl.run(config, {}, tmp_path, reward_functions=BYTES)
  (rollout,), (record,) = calls, metrics.read_metrics(tmp_path)

  model = build(runs.SHAPE)

  def logprobs(params):
    prompts = rollout.prompts
    found, _, _ = completion_logprobs(
        model, params, prompts.tokens, prompts.lengths, rollout.tokens, rollout.mask,
        temperature=1.0)
    return np.asarray(found) * np.asarray(rollout.mask)

  def rounded(path, x):
    axes = quantized.SUMMED_AXES.get(path[-1].key)
    return x if axes is None else quantized.dequantize(quantized.quantize(x, axes))
  params = huggingface.load_params(base, runs.SHAPE)
  in_int8 = logprobs(jax.tree_util.tree_map_with_path(rounded, params))
  recorded = np.asarray(rollout.behaviour_logprobs * rollout.mask)
  np.testing.assert_allclose(recorded, in_int8, atol=1e-4)
  ratios = (logprobs(params) - recorded)[np.asarray(rollout.mask) > 0]
  assert np.max(np.abs(ratios)) > 1e-3
  assert record['sampling/logprob_difference/mean'] == pytest.approx(
      np.mean(np.abs(ratios)), rel=0.05)
  assert record['sampling/kl_k3'] > 0
  assert record['correction/mean'] == pytest.approx(np.mean(np.exp(ratios)), rel=1e-4)
