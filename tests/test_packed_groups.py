"""Packed groups give what unpacked ones give: values, losses, gradients, whole runs."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)
from test_models_families import CONFIGS

from r1jax import metrics, models
from r1jax.records import Batch
from r1jax.runtime import sharding
from r1jax.stages import rl
from r1jax.stages.rl import programs as rl_programs
from r1jax.training import train_step
from r1jax.training.scalar_head import init_scalar

BYTES = {'bytes': (runs.by_bytes, 1.0)}
MESH = sharding.make_mesh(1, 1, jax.devices()[:1])


# Values, losses and gradients.


def settings_of(row_length=0, rows=1, **fields):
  return runs.merged(rl.DEFAULT, dict(group_size=4, packing=dict(
      row_length=row_length, rows=rows), sampling=dict(max_new_tokens=9)) | fields)


@pytest.fixture(scope='module')
def batch(prompts):
  """Four groups of four with lengths from 0 to 9, all scores given."""
  rng = np.random.default_rng(0)
  lengths = np.array([9, 3, 0, 1, 9, 9, 8, 7, 1, 1, 0, 2, 5, 9, 4, 6])

  def draw():
    return jnp.asarray(rng.normal(-3, 0.3, (16, 9)), jnp.float32)

  tokens = jnp.asarray(rng.integers(0, 40, (16, 9)), jnp.int32)
  return Batch(prompts.tokens, prompts.lengths, tokens,
               jnp.asarray(np.arange(9) < lengths[:, None], jnp.float32), draw(),
               jnp.asarray(rng.normal(size=16), jnp.float32), draw(), draw(), 3 + draw(),
               3 + draw())


def by_update(loss, params, batch, settings, **options):
  """(metrics, gradients) of `train_step.make_update`, whose optimiser only keeps the gradients."""
  keep = optax.GradientTransformation(lambda params: params, lambda grads, state, params: (
      jax.tree.map(jnp.zeros_like, grads), grads))
  normalizers = rl_programs.batch_normalizers(
      getattr(batch, 'batch', batch).completion_mask, 0.3,
      aggregation=settings['loss']['aggregation'], max_length=9)
  update = jax.jit(train_step.make_update(loss, keep, **options))
  state, measured = update(train_step.init_state(params, keep), batch, normalizers)
  return measured, state.optimizer


def assert_equal(got, want):
  for name in want[0]:
    assert float(got[0][name]) == pytest.approx(float(want[0][name]), rel=1e-5, abs=1e-5), name
  scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(want[1]))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a / scale, b / scale, atol=1e-5),
               got[1], want[1])


LOSSES = {
    'sequence_mean': dict(kl_coefficient=0.3),
    'token_mean': dict(loss=dict(aggregation='token_mean', entropy_coefficient=0.1,
                                 correction='sequence_mask', old_kl_coefficient=0.2)),
    'gspo': dict(loss=dict(ratio_level='sequence', aggregation='fixed_length')),
}


@pytest.fixture(scope='module')
def unpacked(tiny, batch):
  """case -> what `by_update` gives of the batch as it is."""
  @functools.cache
  def run(case):
    settings = settings_of(**LOSSES[case])
    return by_update(rl_programs.make_loss(tiny.model, settings), tiny.params, batch, settings)
  return run


@pytest.mark.parametrize('case', [
    pytest.param('sequence_mean', marks=pytest.mark.slow), 'token_mean', 'gspo'])
def test_packed_losses_and_gradients_equal_the_unpacked(tiny, batch, unpacked, case):
  settings = settings_of(24, 2, **LOSSES[case])
  loss = rl_programs.make_loss(tiny.model, settings)
  packed = rl_programs.pack(batch, settings, MESH)
  assert packed.packing.num_micro_batches > 1
  rows_of = [np.flatnonzero((packed.packing.segment_ids == 1 + b).any(-1)) for b in range(4)]
  assert max(map(len, rows_of)) > 1     # a group is split over rows
  got = by_update(loss, tiny.params, packed, settings, split=rl_programs.split)
  assert_equal(got, unpacked(case))


@pytest.fixture(scope='module')
def critic(tiny):
  head = np.random.default_rng(3).normal(size=tiny.model.config.width)
  return init_scalar(tiny.model, tiny.params) | {'head': jnp.asarray(head, jnp.float32)}


def test_a_packed_critic_learns_the_same(tiny, critic, batch):
  settings = settings_of(24, 2, advantage='gae')
  loss = rl_programs.make_value_loss(tiny.model, settings)
  packed = rl_programs.pack(batch, settings, MESH)
  got = by_update(loss, critic, packed, settings, split=rl_programs.split)
  assert_equal(got, by_update(loss, critic, batch, settings))


def test_packed_scores_stand_where_the_unpacked_do(tiny, prompts, batch, teacher_forced):
  settings = settings_of(20, 3)
  programs = rl_programs.make_programs(tiny.model, None, None, settings, (0,), lambda: False)
  packed = rl_programs.pack(batch, settings, MESH)
  want, _ = teacher_forced(tiny.params, prompts, batch.completion_tokens, 1.0)

  def score(packed):
    return np.where(
        batch.completion_mask, programs.score(tiny.params, packed), 0)

  np.testing.assert_allclose(score(packed), np.where(batch.completion_mask, want, 0), atol=2e-5)
  # What stands in the padding of prompts, completions and of slots changes nothing.
  other = dataclasses.replace(
      batch, prompt_tokens=jnp.where(jnp.arange(6) < prompts.lengths[:, None],
                                     batch.prompt_tokens, 39 - batch.prompt_tokens),
      completion_tokens=jnp.where(batch.completion_mask, batch.completion_tokens, 7))
  np.testing.assert_array_equal(score(dataclasses.replace(packed, batch=other)), score(packed))


FAMILIES = {
    'gemma3': dict(num_layers=2, layers=((('local', 'dense'), 1),)),
    'deepseek_v3': dict(num_layers=1, layers=((('experts',), 1),), prediction_head=False),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_windows_latents_and_experts_see_the_same_when_packed(family, batch, random_params):
  model = models.build(dataclasses.replace(CONFIGS[family], **FAMILIES[family]))
  params, settings = random_params(model), settings_of(24, 2)
  scores = []
  for packing in (dict(row_length=24, rows=2), dict(row_length=0)):
    programs = rl_programs.make_programs(
        model, None, None, settings | dict(packing=packing), (0,), lambda: False)
    given = rl_programs.pack(batch, settings, MESH) if packing['row_length'] else batch
    scores.append(np.where(batch.completion_mask, programs.score(params, given), 0))
  np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


def test_rows_on_four_devices_give_the_gradient_of_one(tiny, batch, unpacked):
  settings = settings_of(24, 1, kl_coefficient=0.3)
  loss = rl_programs.make_loss(tiny.model, settings)
  mesh = sharding.make_mesh(4, 1, jax.devices()[:4])
  with sharding.use(mesh):
    packed = rl_programs.pack(sharding.place(batch, mesh, batch=True), settings, mesh)
    assert packed.packing.segment_ids.shape[1] == 4
    params = jax.device_put(
        tiny.params, sharding.shardings(mesh, tiny.model.logical_axes, tiny.params))
    got = by_update(loss, params, packed, settings, split=rl_programs.split)
  assert_equal(got, unpacked('sequence_mean'))


# Whole runs.


PPO = dict(
    steps=4, prompts_per_batch=4, mini_batches=2, dynamic_sampling_rounds=1, checkpoint_every=10,
    advantage='gae',
    kl_coefficient=0.1, kl_place='reward', kl_estimator='k1', optimizer=dict(learning_rate=1e-6),
    critic=dict(optimizer=dict(learning_rate=1e-6)), sampling=dict(max_new_tokens=8, chunk=4))


def run_packed(base, workdir, should_stop=lambda: False, **packing):
  config = runs.rl_config(base, **PPO, packing=packing)
  return rl.run(config, {}, workdir, should_stop=should_stop, reward_functions=BYTES)


@pytest.fixture(scope='module')
def packed_run(base, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('packed')
  run_packed(base, workdir, row_length=48, rows=1)
  return workdir


@pytest.mark.slow
def test_a_packed_run_draws_the_same_rollouts_and_measures_the_same(packed_run, base, tmp_path):
  """A critic, the KL, dynamic sampling and mini-batches, all at once."""
  run_packed(base, tmp_path)
  packed, padded = (list(metrics.read_jsonl(workdir / 'rollouts'))
                    for workdir in (packed_run, tmp_path))
  assert packed == padded and len(packed) >= 16
  records = [metrics.read_metrics(workdir) for workdir in (packed_run, tmp_path)]
  assert len(records[0]) == 2
  for ours, theirs in zip(*records, strict=True):
    assert 0.3 < ours['packing/fill'] <= 1
    assert ours.keys() - theirs.keys() == {'packing/fill'}
    # The base's scores are so large that rounding alone moves them, and gradients, by 2e-5; what is
    # not a mean shows it.
    rounded = ('grad_norm', '/max')
    wrong = {name: (ours[name], value) for name, value in theirs.items()
             if not name.startswith(runs.TIMED) and ours[name] != pytest.approx(
                 value, rel=1e-4 if name.endswith(rounded) else 1e-5,
                 abs=1e-4 if name.endswith(rounded) else 1e-5)}
    assert not wrong


def test_pitfall_20_a_packed_run_that_was_stopped_ends_as_if_it_was_not(
    packed_run, base, tmp_path):
  _, (sentence,) = runs.finish(lambda should_stop: run_packed(
      base, tmp_path, should_stop, row_length=48, rows=1), (3,))
  assert 'step 1 ' in sentence     # between two updates
  runs.assert_same(packed_run, tmp_path)


REFUSED = {
    'room': (dict(row_length=39), 'packing.row_length must be at least .* = 40, or 0, got 39'),
    'negative': (dict(row_length=-1), 'packing.row_length must be at least 0, got -1'),
    'rows': (dict(row_length=64, rows=0), 'packing.rows must be at least 1, got 0'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_impossible_rows_are_refused_before_anything_is_loaded(case):
  packing, sentence = REFUSED[case]
  with pytest.raises(ValueError, match=f'zero.{sentence}'):
    rl.SETTINGS.check(runs.rl_config('base', packing=packing), 'zero')
  sentence = 'zero.micro_batches must be 1 with packing.row_length=64, where packing.rows .*got 2'
  with pytest.raises(ValueError, match=sentence):
    rl.SETTINGS.check(
        runs.rl_config('base', packing=dict(row_length=64), micro_batches=2), 'zero')
