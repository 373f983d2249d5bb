"""Balanced experts and the prediction head in a stage's loss and update."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from runs import compiled, no_curves  # noqa: F401

from r1jax import metrics, models
from r1jax.models import Experts, Latent, ModelConfig, huggingface
from r1jax.models.moe import Routing
from r1jax.records import Batch
from r1jax.stages import auxiliary, loading, rl, sft
from r1jax.stages.fields import EXPERTS
from r1jax.stages.rl import programs as rl_programs
from r1jax.tokenization import load_tokenizer
from r1jax.training import optimizers, train_step

SHAPE = ModelConfig(
    'deepseek_v3', vocab_size=512, width=16, num_layers=3, num_heads=2, num_kv_heads=2,
    head_dim=12, mlp_width=24, tied_embedding=False, layers=((('dense',), 1), (('experts',), 2)),
    experts=Experts(count=4, per_token=2, width=8, routing='sigmoid'),
    latent=Latent(rank=8, rope_dim=4, value_dim=6, query_rank=8), prediction_head=True)


@pytest.fixture(scope='module')
def model():
  return models.build(SHAPE)


@pytest.fixture(scope='module')
def params(model, random_params):
  return random_params(model)


def make_rows():
  """Four packed rows of two documents each and their loss weights."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 512, (4, 10))
  segments = np.repeat([[1, 2, 0]], 4, 0).repeat([4, 4, 2], 1)
  positions = np.tile(np.r_[0:4, 0:4, 0, 0], (4, 1))
  weights = (rng.random((4, 10)) * (segments > 0)).astype(np.float32)
  return tokens, segments, positions, weights


@pytest.fixture(scope='module')
def applied(model, params):
  """(hidden states, log-probabilities ahead, routing of the layers and of the head) of the rows."""
  tokens, segments, positions, _ = make_rows()

  @jax.jit
  def apply(params):
    places = dict(positions=positions, segment_ids=segments)
    hidden, _, aux = model.apply(params, tokens, **places)
    ahead, *_, head = model.predict_ahead(params, hidden, tokens, **places)
    routing = aux['routing'], head['routing']
    return hidden, jax.nn.log_softmax(model.unembed(params, ahead)), routing
  return apply(params)


def test_the_prediction_loss_is_that_of_the_token_after_the_next(model, params, applied):
  tokens, segments, _, weights = rows = make_rows()
  hidden, log_p, _ = applied
  found, routing = jax.jit(functools.partial(auxiliary.prediction_loss, model))(
      params, hidden, rows, jnp.float32(7))
  log_p = np.asarray(log_p)
  want = sum(-weights[n, t + 2] * log_p[n, t, tokens[n, t + 2]]
             for n in range(4) for t in range(8) if segments[n, t] == segments[n, t + 2] != 0)
  np.testing.assert_allclose(found, want / 7, rtol=1e-5)
  assert routing.counts.shape == (1, 4, 4)


def test_the_prediction_head_is_rematerialised(params):
  """As the layers are: the same loss and gradients, of which less is kept for the way back."""
  tokens, segments, positions, _ = rows = make_rows()

  def loss(remat):
    model = models.build(SHAPE, remat=remat)

    def loss(params):
      hidden = jnp.ones((*tokens.shape, SHAPE.width))
      return auxiliary.prediction_loss(model, params, hidden, rows, jnp.float32(7))[0]
    return loss
  kept = [sum(leaf.size for leaf in jax.tree.leaves(
      jax.eval_shape(lambda params, remat=remat: jax.vjp(loss(remat), params)[1], params)))
          for remat in (False, True)]
  width = tokens.size * SHAPE.width
  assert kept[1] < kept[0] - 5 * width
  plain, remade = (jax.jit(jax.value_and_grad(loss(remat)))(params) for remat in (False, True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-6), plain, remade)


def test_pitfall_01_micro_batches_add_up_with_balance_and_prediction(model, params):
  rows, experts = make_rows(), dict(balance_coefficient=0.5, bias_rate=0.25)
  optimizer = optax.sgd(1.0)
  after = auxiliary.after_update(SHAPE, experts)
  whole, pieces = (jax.jit(train_step.make_update(
      sft.make_loss(model, experts=experts, prediction_coefficient=0.3, micro_batches=count),
      optimizer, num_micro_batches=count, after=after))(
          train_step.init_state(params, optimizer), rows, jnp.float32(rows[3].sum()))
      for count in (1, 4))
  for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(pieces)):
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-4, err_msg=str(path))
  assert whole[1]['experts/balance_loss'] > 0.5 and whole[1]['prediction_loss'] > 0
  assert not any(np.ndim(value) for value in whole[1].values())


@pytest.mark.slow
def test_a_bias_moves_against_its_load_by_the_rate_and_by_nothing_else(model, params, applied):
  rows, optimizer = make_rows(), optimizers.make_optimizer(learning_rate=0.1, weight_decay=0.1)
  state = train_step.init_state(params, optimizer)

  def moved(rate):
    experts = dict(balance_coefficient=0.1, bias_rate=rate)
    update = train_step.make_update(
        sft.make_loss(model, experts=experts, prediction_coefficient=0.3), optimizer,
        after=auxiliary.after_update(SHAPE, experts))
    after, measured = jax.jit(update)(state, rows, jnp.float32(9))
    moved = [np.asarray(new['balancing_bias'] - old['balancing_bias']) for new, old in (
        (after.params['stacks']['stack_1']['mlp'], params['stacks']['stack_1']['mlp']),
        (after.params['prediction']['block']['mlp'], params['prediction']['block']['mlp']))]
    return moved, measured

  counts = [np.asarray(routing.counts).sum(1) for routing in applied[2]]
  found, measured = moved(0.01)
  for change, count in zip(found, counts):
    want = 0.01 * np.sign(count.mean(-1, keepdims=True) - count)
    np.testing.assert_allclose(change, want.reshape(change.shape), atol=1e-6)
  loads = np.concatenate(counts)
  np.testing.assert_allclose(measured['experts/max_violation'],
                             np.mean(loads.max(-1) / loads.mean(-1) - 1), rtol=1e-5)
  assert not np.any(moved(0.0)[0][0])


@pytest.mark.slow
def test_sft_trains_and_keeps_the_prediction_head(compiled, params, tmp_path):
  huggingface.export(tmp_path / 'base', SHAPE, params,
                     tokenizer=load_tokenizer(loading.MINIATURES['miniature']))
  own = tmp_path / 'own.jsonl'
  own.write_text('{"prompt": "1+1", "reasoning": "one and one", "summary": "2"}\n' * 4)
  config = runs.sft_config(
      str(tmp_path / 'base'), inputs=(), sample_stages=(), files=(str(own),), row_length=128,
      rows=1,
      experts=dict(bias_rate=0.001), prediction_coefficient=0.3)
  artifact = sft.run(config, {}, tmp_path / 'run')
  record = metrics.read_metrics(tmp_path / 'run')[-1]
  assert record['prediction_loss'] > 0 and record['experts/max_violation'] > 0
  shape = huggingface.read_config(artifact.folder / 'model', prediction_head=True)
  assert shape == SHAPE
  trained = huggingface.load_params(artifact.folder / 'model', shape)
  changed = jax.tree.map(lambda a, b: np.any(np.asarray(a) != np.asarray(b)), params, trained)
  assert all(jax.tree.leaves(changed))


@pytest.mark.slow
def test_pitfall_01_micro_batches_of_rl_add_up_with_balance(random_params, prompts):
  shape = models.PRESETS['tiny_deepseek_v3']
  model = models.build(shape)
  rng, optimizer = np.random.default_rng(2), optax.sgd(1.0)
  mask = np.float32(np.arange(5) < np.array([5, 2, 1, 4, 3, 5, 5, 2])[:, None])
  logprobs = rng.normal(-3, 1, (8, 5)).astype(np.float32)
  batch = Batch(prompts.tokens, prompts.lengths, rng.integers(0, 40, (8, 5)), mask, logprobs,
                advantages=rng.normal(size=8).astype(np.float32))
  state = train_step.init_state(random_params(model), optimizer)

  normalizers = rl_programs.batch_normalizers(
      mask, 0.0, rl_programs.num_rows(batch), aggregation='sequence_mean', max_length=5)

  def settings_of(count, coefficient):
    return rl.DEFAULT | dict(
        experts=dict(balance_coefficient=coefficient, bias_rate=0.25), micro_batches=count)

  def updated(count):
    settings = settings_of(count, 0.5)
    update = train_step.make_update(
        rl_programs.make_loss(model, settings), optimizer, num_micro_batches=count,
        after=auxiliary.after_update(shape, settings['experts']))
    return jax.jit(update)(state, batch, normalizers)
  whole, pieces = updated(1), updated(4)
  for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(pieces)):
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-4, err_msg=str(path))
  assert 0.5 < whole[1]['experts/balance_loss'] < 4
  unbalanced, _ = jax.jit(rl_programs.make_loss(model, settings_of(1, 0.0)))(
      state.params, batch, normalizers)
  assert abs(unbalanced - whole[1]['loss']) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize('row_length', [0, 64])
def test_rl_balances_experts_packed_or_not(row_length, compiled, tmp_path):
  config = runs.rl_config(
      'random', model=dict(source='random', preset='tiny_deepseek_v3'),
      experts=dict(bias_rate=0.01), packing=dict(row_length=row_length),
      sampling=dict(max_new_tokens=8))
  artifact = rl.run(config, {}, tmp_path, reward_functions={'bytes': (runs.by_bytes, 1.0)})
  assert [record['experts/max_violation'] > 0 for record in metrics.read_metrics(tmp_path)] == [
      True, True]
  shape = huggingface.read_config(artifact.folder / 'model')
  trained = huggingface.load_params(artifact.folder / 'model', shape)
  bias = np.asarray(trained['stacks']['stack_1']['mlp']['balancing_bias'])
  np.testing.assert_allclose(np.abs(bias) % 0.01, 0, atol=1e-7)
  assert np.abs(bias).max() > 0.005


def test_what_a_model_cannot_have_is_refused():
  dense = ModelConfig('qwen3', vocab_size=8, width=8, num_layers=1, num_heads=1, num_kv_heads=1,
                      head_dim=8, mlp_width=8)

  def settings(**fields):
    return dict(experts=EXPERTS.default | fields)

  auxiliary.check_model(settings(), dense, 'stage')
  with pytest.raises(ValueError, match='stage.experts=.*no experts: set both to 0'):
    auxiliary.check_model(settings(balance_coefficient=0.1), dense, 'stage')
  softmax = ModelConfig('qwen3_moe', vocab_size=8, width=8, num_layers=1, num_heads=1,
                        num_kv_heads=1, head_dim=8, mlp_width=8, layers=((('experts',), 1),),
                        experts=Experts(count=4, per_token=2, width=8))
  with pytest.raises(ValueError, match='stage.experts.bias_rate=0.1 is set, but the routing of'):
    auxiliary.check_model(settings(bias_rate=0.1), softmax, 'stage')
  with pytest.raises(ValueError, match='stage.experts.bias_rate must be at least 0, got -1'):
    EXPERTS.check(EXPERTS.default | dict(bias_rate=-1), 'stage.experts')
  with pytest.raises(ValueError, match='prediction_coefficient must be at least 0, got -0.1'):
    sft.SETTINGS.check(runs.sft_config('base', prediction_coefficient=-0.1), 'stage')


def test_no_counts_without_experts():
  empty = Routing(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 4)), jnp.zeros((1, 2)))
  assert auxiliary.balance([], None, SHAPE, EXPERTS.default, 2)[1] == {}
  value, measured = auxiliary.balance([empty], None, SHAPE, EXPERTS.default, 2)
  assert value == 0 and measured['experts/balance_loss'] == 0
