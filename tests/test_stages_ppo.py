"""The RL stage beyond plain GRPO: a critic, KL in the reward, dynamic sampling, length penalty."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import advantages, metrics
from r1jax.records import Batch
from r1jax.stages import rl
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl import rewards as rl_rewards
from r1jax.training import train_step
from r1jax.training.scalar_head import completion_values, init_scalar

PPO = dict(
    steps=8, epochs=2, mini_batches=2, checkpoint_every=1, advantage='gae', kl_coefficient=0.1,
    kl_place='reward', kl_estimator='k1',
    kl_controller=dict(rule='proportional', target=0.5, horizon=20.0),
    loss=dict(entropy_coefficient=0.01), critic=dict(gae_lambda=0.95, whiten_rewards=True,
                                                     optimizer=dict(learning_rate=1e-2)),
    sampling=dict(max_new_tokens=8, chunk=4))
BYTES = {'bytes': (runs.by_bytes, 1.0)}


def run_ppo(base, workdir, should_stop=lambda: False):
  return rl.run(runs.rl_config(base, **PPO), {}, workdir, stage='ppo', should_stop=should_stop,
                reward_functions=BYTES)


@pytest.fixture(scope='module')
def ppo(base, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('ppo')
  run_ppo(base, workdir)
  return workdir


def test_ppo_measures_policy_critic_and_controller(ppo):
  first, second = metrics.read_metrics(ppo)
  for record in (first, second):
    for name in ('critic/loss', 'critic/grad_norm', 'critic/value/mean', 'critic/value/error',
                 'critic/explained_variance', 'critic/skipped_updates', 'entropy', 'kl',
                 'kl_coefficient', 'clip_ratio/low'):
      assert np.isfinite(record[name]), name
  assert first['kl_coefficient'] == pytest.approx(0.1) != second['kl_coefficient']
  # The first rollout's KL is under the target: β falls by a fifth at most, times n/horizon.
  assert second['kl_coefficient'] == pytest.approx(0.1 * (1 - 0.2 * 4 / 20), rel=1e-5)
  _, _, arrays = runs.result_of(ppo)['checkpoint']
  assert {name.split('[')[0] for name in arrays} == {'params', 'rest', 'critic', 'critic_rest'}


@pytest.mark.slow
def test_pitfall_20_ppo_that_was_stopped_anywhere_ends_as_if_it_was_not(ppo, base, tmp_path):
  """In a rollout, between updates, and between two iterations; critic and controller included."""
  runs.finish(lambda should_stop: run_ppo(base, tmp_path, should_stop), (2, 4, 3, 2))
  runs.assert_same(ppo, tmp_path)


def test_a_critic_begins_as_its_source(base, tmp_path):
  config = runs.rl_config(base, **PPO)
  config['critic']['source'] = f'{tmp_path}/nowhere'
  with pytest.raises(FileNotFoundError, match='There is no model .*/nowhere'):
    rl.run(config, {}, tmp_path / 'run', reward_functions=BYTES)


# Credit.


@pytest.fixture
def batch():
  """Two groups of two, of lengths 4, 2, 0 and 3."""
  rng = np.random.default_rng(0)
  mask = np.float32(np.arange(4) < np.array([4, 2, 0, 3])[:, None])

  def draw():
    return jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)

  return Batch(jnp.ones((2, 3), jnp.int32), jnp.array([3, 2]), jnp.ones((4, 4), jnp.int32),
               jnp.asarray(mask), behaviour_logprobs=draw(), old_logprobs=draw(),
               reference_logprobs=draw(), old_values=draw())


REWARDS = jnp.array([1.0, 0.5, 0.25, 2.0])


def compute_advantages(batch, **fields):
  settings = runs.merged(rl.DEFAULT, dict(group_size=2) | fields)
  return rl_programs.make_compute_advantages(settings)(batch, REWARDS, jnp.float32(0.3))


def test_ppo_credits_each_token_with_its_future(batch):
  """Against sums written out: R_t = Σ_{s≥t} r_s, r the KL's price and the reward on the last."""
  got, measured = compute_advantages(batch, advantage='gae', kl_coefficient=0.3, kl_place='reward',
                         critic=dict(whiten_advantages=False))
  lengths = np.asarray(batch.completion_mask.sum(1), int)
  kl = np.asarray(batch.old_logprobs - batch.reference_logprobs)
  for n, length in enumerate(lengths):
    paid = -0.3 * kl[n, :length]
    paid[length - 1:] += float(REWARDS[n])
    returns = np.cumsum(paid[::-1])[::-1]
    np.testing.assert_allclose(got.returns[n, :length], returns, atol=1e-5)
    np.testing.assert_allclose(
        got.advantages[n, :length], returns - batch.old_values[n, :length], atol=1e-5)
    assert not np.any(got.advantages[n, length:])
  assert np.isfinite(measured['critic/explained_variance'])
  whitened, _ = compute_advantages(batch, advantage='gae', kl_coefficient=0.3, kl_place='reward')
  counted = np.asarray(whitened.advantages)[np.asarray(batch.completion_mask) > 0]
  assert abs(counted.mean()) < 1e-6 and counted.std() == pytest.approx(1, abs=1e-3)


def test_the_kl_is_in_the_reward_or_in_the_loss_and_never_in_both(batch, tiny):
  rewarded, _ = compute_advantages(batch, kl_coefficient=0.3, kl_place='reward')
  plain, _ = compute_advantages(batch, kl_coefficient=0.3)
  paid = REWARDS - 0.3 * jnp.sum(
      (batch.old_logprobs - batch.reference_logprobs) * batch.completion_mask, 1)
  paid = paid.at[2].set(0)     # an empty completion has no token to be paid on
  np.testing.assert_allclose(rewarded.advantages, advantages.group_relative(paid.reshape(2, 2)),
                             atol=1e-5)
  np.testing.assert_array_equal(plain.advantages, advantages.group_relative(REWARDS.reshape(2, 2)))

  normalizers = rl_programs.batch_normalizers(
      batch.completion_mask, 0.3, aggregation='sequence_mean', max_length=4)
  values = {}
  for place in ('loss', 'reward'):
    for coefficient in (0.3, 0.0):
      settings = runs.merged(rl.DEFAULT, dict(kl_coefficient=coefficient, kl_place=place))
      values[place, coefficient], measured = rl_programs.make_loss(tiny.model, settings)(
          tiny.params, plain, normalizers)
      assert measured['kl'] > 0
  assert values['loss', 0.3] != values['loss', 0.0] == values['reward', 0.3]


@pytest.mark.parametrize('kind', rl_programs.ADVANTAGES)
def test_pitfall_07_every_advantage_is_finite_and_zero_for_equal_rewards(batch, kind):
  got, _ = compute_advantages(batch, advantage=kind)
  assert np.all(np.isfinite(got.advantages)) and np.any(got.advantages)
  if kind != 'gae':   # whose baseline is the critic, not the batch
    settings = runs.merged(rl.DEFAULT, dict(group_size=2, advantage=kind))
    whole = dataclasses.replace(batch, completion_mask=jnp.ones((4, 4)))
    equal, _ = rl_programs.make_compute_advantages(settings)(
        whole, jnp.full(4, 0.7), jnp.float32(0))
    assert not np.any(equal.advantages)


@pytest.mark.parametrize('kind', [*rl_programs.ADVANTAGES, 'in the reward'])
def test_what_was_not_judged_gets_nothing_and_changes_nothing(batch, kind):
  """Of four completions of a group, against the batch without it; the critic is not taught it."""
  fields: dict = dict(advantage=kind)
  if kind == 'in the reward':
    fields = dict(advantage='leave_one_out', kl_coefficient=0.3, kl_place='reward')
  whole = dataclasses.replace(batch, completion_mask=batch.completion_mask.at[2].set(1))

  def credit(batch, rewards, group_size):
    settings = runs.merged(rl.DEFAULT, fields | dict(group_size=group_size))
    return rl_programs.make_compute_advantages(settings)(batch, rewards, jnp.float32(0.3))

  kept = jnp.array([0, 2, 3])
  got, measured = credit(whole, REWARDS.at[1].set(jnp.nan), 4)
  rest = jax.tree.map(lambda x: x[kept] if x.shape[0] == 4 else x, whole)
  want, wanted = credit(rest, REWARDS[kept], 3)
  np.testing.assert_allclose(got.advantages[kept], want.advantages, rtol=1e-5, atol=1e-6)
  assert not np.any(got.advantages[1])
  if kind == 'gae':
    np.testing.assert_allclose(got.returns[kept], want.returns, rtol=1e-5, atol=1e-6)
    assert np.isnan(got.returns[1]).all()
    assert float(measured['critic/explained_variance']) == pytest.approx(
        float(wanted['critic/explained_variance']), rel=1e-5)


def test_a_kl_inside_the_reward_has_its_own_price_where_another_one_adapts(batch):
  """0.3 is the coefficient of the KL to the old policy then."""
  fields = dict(advantage='gae', kl_place='reward', critic=dict(whiten_advantages=False))
  got, _ = compute_advantages(
      batch, kl_coefficient=0.1, loss=dict(old_kl_coefficient=0.3), **fields)
  settings = runs.merged(rl.DEFAULT, dict(group_size=2, kl_coefficient=0.1) | fields)
  want, _ = rl_programs.make_compute_advantages(settings)(batch, REWARDS, jnp.float32(0.1))
  np.testing.assert_allclose(got.advantages, want.advantages, rtol=1e-6)


@pytest.mark.slow
def test_a_critic_learns_returns(tiny, prompts):
  """Sixty updates on one batch take nine tenths of the squared error, shared prompts and all."""
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(0, 40, (8, 4)), jnp.int32)
  mask = jnp.ones((8, 4)).at[3, 2:].set(0)
  inputs = prompts.tokens, prompts.lengths, tokens, mask
  params = init_scalar(tiny.model, tiny.params)
  assert not np.any(completion_values(tiny.model, params, *inputs))
  returns = rng.normal(size=(8, 4)).astype(np.float32)
  returns[1::2, 0] = returns[::2, 0]     # a group's first state is one state
  batch = Batch(*inputs, behaviour_logprobs=mask, returns=jnp.asarray(returns))
  settings = runs.merged(rl.DEFAULT, dict(critic=dict(clip_epsilon=0.2)))
  optimizer = optax.adam(3e-3)
  update = jax.jit(train_step.make_update(
      rl_programs.make_value_loss(tiny.model, settings), optimizer, num_micro_batches=2))
  normalizers = rl_programs.Normalizers(jnp.float32(8), jnp.sum(mask), jnp.float32(0))
  state = train_step.init_state(params, optimizer)
  errors = []
  for _ in range(60):
    state, measured = update(state, batch, normalizers)
    errors.append(float(measured['value/error']))
  assert errors[-1] < errors[0] / 10


# Dynamic sampling and the length penalty.


def seldom(completion, example):
  """Equal in two groups of three, by the question alone; else the completions differ."""
  return 0.0 if len(example['question']) % 3 else runs.by_bytes(completion, example)


@pytest.mark.slow
def test_dynamic_sampling_fills_the_batch_with_unequal_groups(base, tmp_path):
  """Pitfall 19's share of equal groups is what it is for; nothing is discarded silently."""
  config = runs.rl_config(base, prompts_per_batch=4, steps=3, dynamic_sampling_rounds=6)
  rl.run(config, {}, tmp_path, reward_functions={'seldom': (seldom, 1.0)})
  records = metrics.read_metrics(tmp_path)
  rollouts = list(metrics.read_jsonl(tmp_path / 'rollouts'))
  assert any(record['dynamic_sampling/rounds'] > 1 for record in records)
  for iteration, record in enumerate(records):
    rounds = int(record['dynamic_sampling/rounds'])
    drawn = [line for line in rollouts if line['iteration'] == iteration]
    assert len(drawn) == rounds * 4 * 2 and 1 <= rounds <= 7
    assert record['num_tokens'] == sum(line['num_tokens'] for line in drawn)
    groups = [drawn[i:i + 2] for i in range(0, len(drawn), 2)]
    unequal = sum(a['rewards']['reward'] != b['rewards']['reward'] for a, b in groups)
    kept = 4 - record['dynamic_sampling/equal_kept']
    assert kept == min(4, unequal) and record['dynamic_sampling/surplus'] == unequal - kept
    assert record['dynamic_sampling/equal_dropped'] == len(groups) - unequal - (4 - kept)
    if rounds < 7:
      assert kept == 4
    assert record['num_trained_tokens'] < record['num_tokens'] or rounds == 1


def test_dynamic_sampling_looks_at_rewards_with_the_length_penalty(base, tmp_path, monkeypatch):
  def penalise(rewards, completions, **_):
    penalty = np.array([runs.by_bytes(completion, {}) for completion in completions])
    return dataclasses.replace(rewards, total=rewards.total + penalty)
  monkeypatch.setattr(rl_rewards, 'penalise_overlong', penalise)
  config = runs.rl_config(base, steps=1, prompts_per_batch=4, dynamic_sampling_rounds=3,
                          overlong_buffer=7)
  rl.run(config, {}, tmp_path, reward_functions={'same': (lambda completion, example: 1.0, 1.0)})
  record, = metrics.read_metrics(tmp_path)
  totals = [line['rewards']['reward'] for line in metrics.read_jsonl(tmp_path / 'rollouts')]
  unequal = sum(a != b for a, b in zip(totals[::2], totals[1::2]))
  assert unequal >= 4 and record['dynamic_sampling/rounds'] < 4
  assert record['dynamic_sampling/equal_kept'] == 0


def seldom_judged(completion, example):
  return None if len(completion.text) % 2 else runs.by_bytes(completion, example)


@pytest.mark.parametrize('advantage, row_length', [
    pytest.param('group_relative', 0, marks=pytest.mark.slow), ('gae', 96)])
def test_a_run_goes_on_where_a_reward_cannot_judge(base, tmp_path, advantage, row_length):
  """Of some completions, and of none at all in the second rollout."""
  calls = []

  def reward(completion, example):
    calls.append(seldom_judged(completion, example) if len(calls) < 8 else None)
    return calls[-1]

  config = runs.rl_config(base, advantage=advantage, steps=2, group_size=4, kl_coefficient=0.1,
                          packing=dict(row_length=row_length, rows=8))
  rl.run(config, {}, tmp_path, reward_functions={'seldom': (reward, 1.0)})
  first, second = metrics.read_metrics(tmp_path)
  judged = [value for value in calls if value is not None]
  assert first['rewards/unjudged/seldom'] == first['rewards/unjudged/reward'] == 8 - len(judged) > 0
  assert first['reward'] == first['rewards/seldom/mean'] == pytest.approx(np.mean(judged))
  assert 'reward' not in second and second['rewards/unjudged/reward'] == 8
  for record in (first, second):
    assert record['skipped_updates'] == 0 and all(map(np.isfinite, record.values()))
  rewards = [line['rewards'] for line in metrics.read_jsonl(tmp_path / 'rollouts')]
  assert [each['reward'] for each in rewards] == [each['seldom'] for each in rewards] == calls


def test_the_length_penalty_is_a_reward_beside_the_others(base, tmp_path):
  config = runs.rl_config(base, steps=1, overlong_buffer=4)
  rl.run(config, {}, tmp_path, reward_functions=BYTES)
  record, = metrics.read_metrics(tmp_path)
  penalties = []
  for line in metrics.read_jsonl(tmp_path / 'rollouts'):
    penalties.append(line['rewards']['overlong'])
    assert penalties[-1] == pytest.approx(-max(0, line['num_tokens'] - 4) / 4)
    assert line['rewards']['reward'] == pytest.approx(line['rewards']['bytes'] + penalties[-1])
  assert np.mean(penalties) < 0
  assert record['rewards/overlong/mean'] == pytest.approx(np.mean(penalties))
