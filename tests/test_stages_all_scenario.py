"""All-scenario RL: reward models as rewards, general prompts beside the reasoning prompts."""
import jax
import jax.numpy as jnp
from mixture_cases import (  # noqa: F401 (fixtures)
  OBJECTIVES,
  by_length,
  general,
  mixed_config,
  stand_ins,
  write_jsonl,
)
import numpy as np
import pytest
from rate_cases import KEPT, RATES
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.data import curriculum
from r1jax.metrics import labels
from r1jax.records import Batch
from r1jax.rewards.completion import Completion
from r1jax.rewards.suite import REWARDS
from r1jax.runtime import sharding
from r1jax.stages import reward_model, rl
from r1jax.stages.artifact import open_artifact
from r1jax.stages.rl import dynamic_sampling
from r1jax.stages.rl import programs as rl_programs
from r1jax.tokenization import load_tokenizer

CURRICULUM = dict(rule='learnability', floor=0.2)


def run_mixed(base, general, workdir, should_stop=lambda: False):
  config = mixed_config(
      base, general, steps=12, epochs=2, mini_batches=2, dynamic_sampling_rounds=1,
      checkpoint_every=2, sampling=dict(max_new_tokens=8, chunk=4),
      general_prompts=dict(from_step=4))
  config['data'] = runs.DATA | dict(
      filter=dict(source=f'{general}/rates', low=0.25, unknown='keep'), curriculum=CURRICULUM)
  with stand_ins(base):
    return rl.run(config, {}, workdir, should_stop=should_stop,
                  reward_functions={'bytes': (runs.by_bytes, 1.0)})


@pytest.fixture(scope='module')
def mixed(base, general, tmp_path_factory):
  """A run of three rollouts, general prompts from the second on: (workdir, shapes sampled)."""
  workdir, shapes = tmp_path_factory.mktemp('mixed'), set()
  make_programs = rl_programs.make_programs

  def noting(*arguments):
    programs = make_programs(*arguments)

    def begun(params, prompts, iteration):
      shapes.add(tuple(x.shape for x in jax.tree.leaves(prompts)))
    return programs._replace(sample=runs.NotingSampler(programs.sample, begun))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rl_programs, 'make_programs', noting)
    run_mixed(base, general, workdir)
  return workdir, shapes


def test_general_prompts_enter_at_from_step_and_no_earlier(mixed):
  workdir, shapes = mixed
  assert len(shapes) == 1    # nothing is compiled anew
  records = metrics.read_metrics(workdir)
  samples = list(metrics.read_jsonl(workdir / 'rollouts'))
  assert [record['step'] for record in records] == [4, 8, 12]
  for iteration, record in enumerate(records):
    drawn = [line for line in samples if line['iteration'] == iteration]
    rounds = int(record['dynamic_sampling/rounds'])
    new = [line for line in drawn if line['example_id'] >= 64]
    assert len(new) == (2 * rounds if iteration else 0) and len(drawn) == 8 * rounds
    assert all('How is it' in line['prompt'] for line in new)
    old = [line for line in drawn if line['example_id'] < 64]
    assert all('How is it' not in line['prompt'] for line in old)
    assert ('reward/general' in record) == ('rewards/length/mean' in record) == bool(iteration)
    for line in old:
      assert line['rewards']['reward'] == pytest.approx(line['rewards']['bytes'])
      assert not iteration or line['rewards']['length'] is None
    for line in new:
      rewards = line['rewards']
      judged = [name for name in OBJECTIVES if rewards[f'reward_model/{name}'] is not None]
      assert len(judged) == 1    # each question belongs to one objective
      assert rewards['length'] == by_length(Completion(line['completion'], 0, False), {})
      assert rewards['reward'] == pytest.approx(
          0.5 * rewards['bytes'] + 2 * rewards[f'reward_model/{judged[0]}'])
    for name in OBJECTIVES:    # what judged nothing has no mean
      values = [line['rewards'][f'reward_model/{name}'] for line in new]
      values, logged = [v for v in values if v is not None], f'rewards/reward_model/{name}/mean'
      assert (logged in record) == bool(values)
      assert record.get(logged, 0) == pytest.approx(np.mean(values or 0))
    policy = record['compute/trained_tokens'] / 2    # the old log-probabilities; two epochs
    assert record['compute/scored_tokens'] == policy + len(new)
    if iteration:
      for name, lines in (('reasoning', old), ('general', new)):
        assert record[f'reward/{name}'] == pytest.approx(
            np.mean([line['rewards']['reward'] for line in lines]))
      means = [line['rewards']['length'] for line in new]
      assert record['rewards/length/mean'] == pytest.approx(np.mean(means))


@pytest.mark.slow
def test_dynamic_sampling_keeps_the_mixture(base, general, tmp_path, monkeypatch):
  """Reasoning groups alone are unequal, and yet a general one is trained on in each rollout."""
  trained = []
  choose_groups = dynamic_sampling.choose_groups

  def noting(unequal, *arguments):
    chosen = choose_groups(unequal, *arguments)
    trained.append((len(unequal) // 4, unequal[chosen].tolist(), (chosen % 4 == 3).tolist()))
    return chosen
  monkeypatch.setattr(dynamic_sampling, 'choose_groups', noting)
  config = mixed_config(base, general, steps=1, dynamic_sampling_rounds=2,
                        general_prompts=dict(from_step=0))
  config['general_prompts'] |= dict(rewards={'same': 1.0}, reward_models={})
  monkeypatch.setitem(REWARDS, 'same', lambda completion, example: 1.0)
  rl.run(config, {}, tmp_path, reward_functions={'bytes': (runs.by_bytes, 1.0)})
  rounds, unequal, kinds = trained[-1]
  assert rounds == 3 and sum(kinds) == 1
  assert sum(different for different, kind in zip(unequal, kinds) if not kind) == 3
  assert not unequal[kinds.index(True)]


def test_both_positions_are_kept(mixed):
  workdir, _ = mixed
  rounds = [int(record['dynamic_sampling/rounds']) for record in metrics.read_metrics(workdir)]
  _, meta, _ = runs.last_checkpoint(workdir)
  assert meta['counter'] == 4 * rounds[0] + 3 * sum(rounds[1:])
  assert meta['general_counter'] == sum(rounds[1:]) > 0


def test_pitfall_20_a_mixed_run_that_was_stopped_ends_as_if_it_was_not(
    mixed, base, general, tmp_path):
  """Between updates of the second rollout, in the third one's, and between two iterations."""
  _, sentences = runs.finish(
      lambda should_stop: run_mixed(base, general, tmp_path, should_stop), (10, 2, 6))
  assert len(set(sentences)) > 1
  runs.assert_same(mixed[0], tmp_path)


# The curriculum, on the problems that a filter keeps.


def test_only_the_problems_that_were_kept_are_drawn_and_the_manifest_counts_them(mixed):
  workdir, _ = mixed
  drawn = {row['example_id'] for row in metrics.read_jsonl(workdir / 'rollouts')}
  assert drawn <= set(KEPT) | set(range(64, 64 + 11)) and len(drawn & set(KEPT)) > 8
  scores = open_artifact(workdir).manifest.scores
  assert (scores['problems'], scores['problems/kept'], scores['problems/below']) == (64, 56, 8)


def test_draws_follow_the_estimates_and_estimates_the_verdicts_of_all_rounds(mixed):
  """The rollouts on disk, and what the last checkpoint holds."""
  workdir, _ = mixed
  groups = {}
  for row in metrics.read_jsonl(workdir / 'rollouts'):
    if row['example_id'] < 64:
      groups.setdefault((row['iteration'], row['example_id']), []).append(
          row['rewards']['bytes'] >= 1)
  known = [4 if number < len(RATES) else 0 for number in KEPT]
  course = curriculum.begin(
      np.asarray(KEPT), judged=np.asarray(known), seed=0, decay=0.5, **CURRICULUM,
      passed=np.asarray([RATES[number] if number < len(RATES) else 0 for number in KEPT]))
  counter = 0
  for iteration in range(3):
    drawn = [number for of, number in groups if of == iteration]
    order = course.order(iteration, counter)
    assert drawn == [KEPT[order[counter + place]] for place in range(len(drawn))]
    counter += len(drawn)
    course = course.follow(
        np.asarray(drawn), np.asarray([groups[iteration, number] for number in drawn], float))
  _, _, arrays = runs.last_checkpoint(workdir)
  for name, value in course.state.items():
    assert arrays[f"curriculum['tree']['{name}']"] == value.tobytes()
  assert len(groups) == course.drawn.sum() > 8 and any(map(any, groups.values()))
  logged = metrics.read_metrics(workdir)[-1]
  assert {name: logged[name] for name in course.metrics()} == pytest.approx(course.metrics())


def test_two_reward_models_have_a_curve_each():
  names = [f'rewards/reward_model/{name}/mean' for name in OBJECTIVES]
  assert len(set(labels.reward_titles(names).values())) == 2


@pytest.mark.parametrize('advantage', ('group_relative', 'batch_normalized', 'gae'))
def test_the_loss_is_the_same_wherever_the_general_prompts_stand(tiny, advantage):
  rng = np.random.default_rng(0)

  def draw():
    return jnp.asarray(rng.normal(size=(8, 5)), jnp.float32)

  lengths = rng.integers(1, 6, 8)
  batch = Batch(
      jnp.asarray(rng.integers(0, 40, (4, 6)), jnp.int32), jnp.array([6, 1, 4, 5]),
      jnp.asarray(rng.integers(0, 40, (8, 5)), jnp.int32),
      jnp.asarray(np.arange(5) < lengths[:, None], jnp.float32), behaviour_logprobs=draw() - 3,
      old_logprobs=draw() - 3, reference_logprobs=draw() - 3, old_values=draw())
  rewards = jnp.asarray(rng.random(8), jnp.float32)
  settings = runs.merged(rl.DEFAULT, dict(advantage=advantage, group_size=2, kl_coefficient=0.1))

  @jax.jit
  def loss(batch, rewards):
    batch, _ = rl_programs.make_compute_advantages(settings)(batch, rewards, jnp.float32(0.1))
    normalizers = rl_programs.batch_normalizers(
        batch.completion_mask, 0.1, aggregation='sequence_mean', max_length=5)
    return rl_programs.make_loss(tiny.model, settings)(tiny.params, batch, normalizers)[0]
  want = loss(batch, rewards)
  for order in ((3, 0, 1, 2), (2, 3, 1, 0)):
    groups = np.asarray(order)
    def of_groups(x, groups=groups):
      return x.reshape(4, -1, *x.shape[1:])[groups].reshape(-1, *x.shape[1:])
    np.testing.assert_allclose(
        loss(jax.tree.map(of_groups, batch), of_groups(rewards)), want, rtol=1e-5)
  assert abs(loss(batch, rewards[::-1]) - want) > 1e-3


# The classic way: preferences, a reward model, RL against it.


@pytest.mark.slow
def test_a_policy_is_rewarded_by_a_reward_model_alone(base, tmp_path):
  write_jsonl(tmp_path / 'train.jsonl', [
      dict(prompt=f'Question {number}?', chosen=f'Yes {number}.', rejected='Go away now.')
      for number in range(8)])
  (tmp_path / 'test.jsonl').write_text((tmp_path / 'train.jsonl').read_text())
  helpful = reward_model.run(runs.merged(reward_model.DEFAULT, dict(
      model=dict(source=base), data=dict(name='jsonl', folder=str(tmp_path)), max_tokens=64,
      rows=4, pairs=dict(max_length_ratio=0), optimizer=dict(learning_rate=3e-2))), {},
      tmp_path / 'helpful')
  config = runs.rl_config(base, inputs=('helpful',), steps=1)
  config |= dict(rewards={}, reward_models={'good': dict(source='helpful', weight=2.0)})
  rl.run(config, {'helpful': helpful}, tmp_path / 'run')
  record, = metrics.read_metrics(tmp_path / 'run')
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  loaded = reward_model.load_reward_model(
      'helpful', {'helpful': helpful}, compute_dtype='float32', remat=False, mesh=mesh)
  judge = reward_model.make_rewards(loaded, rows=1, mesh=mesh)
  found, tokens, prompts = [], 0, load_tokenizer(base)
  for line in metrics.read_jsonl(tmp_path / 'run' / 'rollouts'):
    question = line['prompt'].removeprefix('User: ').removesuffix('\nAssistant:')
    scored = judge([question], [[line['completion']]])
    found.append(1 / (1 + np.exp(-scored.rewards[0, 0])))
    tokens += scored.compute.scored_tokens
    tokens -= len(prompts.encode(line['prompt'])) if line['sample'] else 0    # shared in the run
    assert line['rewards']['reward_model/good'] == pytest.approx(found[-1], rel=1e-3)
    assert line['rewards']['reward'] == pytest.approx(2 * found[-1], rel=1e-3)
  assert len(found) == 4 and np.std(found) > 1e-3
  assert record['rewards/reward_model/good/mean'] == pytest.approx(np.mean(found), rel=1e-3)
  assert record['compute/scored_tokens'] == tokens > 0 and record['compute/scored'] > 0


# Refusals.


def test_impossible_mixtures_and_reward_models_are_refused(base, general):
  missing = dict(reward_models={'good': dict(weight=1.0)})
  cases = {
      'general_prompts.prompts_per_batch must be below prompts_per_batch=4, got 4':
          dict(general_prompts=dict(prompts_per_batch=4)),
      'general_prompts.prompts_per_batch must be at least 0, got -1':
          dict(general_prompts=dict(prompts_per_batch=-1)),
      'general_prompts.from_step must be at most 2, .*got 3':
          dict(general_prompts=dict(from_step=3)),
      'general_prompts.from_step must be at least 0, got -1':
          dict(general_prompts=dict(from_step=-1)),
      'from_step must be at most 0, .*got 3':
          dict(steps=4, epochs=4, general_prompts=dict(from_step=3)),
      "general_prompts.data.name must be .*got 'jsnl': did you mean 'jsonl'":
          dict(general_prompts=dict(data=dict(name='jsnl'))),
      'general_prompts.data.foldr is not a field': dict(general_prompts=dict(data=dict(foldr='x'))),
      'general_prompts.prompts is not a field: did you mean .*general_prompts.prompts_per_batch':
          dict(general_prompts=dict(prompts=1)),
      "general_prompts.rewards.formt is not one of":
          dict(general_prompts=dict(rewards={'formt': 1.0})),
      'zero.reward_models.good.source must not be empty: name an input stage': missing,
      'zero.general_prompts.reward_models.good.source must not be empty':
          dict(general_prompts=missing),
      'reward_models.good.wieght is not a field: did you mean .*good.weight':
          dict(reward_models={'good': dict(source='x', wieght=1.0)}),
      "reward_models.good.weight must be a float .*got '1'": dict(
          reward_models={'good': dict(source='x', weight='1')}),
      'reward_models.good.weight must be a finite number, got nan': dict(
          reward_models={'good': dict(source='x', weight=float('nan'))}),
      "reward_models.good must hold the fields source, weight, got 'x'":
          dict(reward_models={'good': 'x'})}

  def with_known_rules(**fields):
    config = mixed_config(base, general)
    config['general_prompts']['rewards'] = {'format': 0.5}
    return runs.merged(config, fields)
  for sentence, fields in cases.items():
    config = with_known_rules(**fields)
    with pytest.raises(ValueError, match=sentence) as refusal:
      rl.SETTINGS.check(config, 'config.stages.zero')
    assert '\n' not in str(refusal.value)
  config = with_known_rules()
  config['general_prompts'] |= dict(rewards={}, reward_models={})
  sentence = 'general_prompts.rewards must not be empty: name at least one'
  with pytest.raises(ValueError, match=sentence):
    rl.SETTINGS.check(config, 'config.stages.zero')
  config['general_prompts']['prompts_per_batch'] = 0
  rl.SETTINGS.check(config | dict(rewards={}, reward_models={'good': dict(source='x')}), 'zero')


def test_a_source_that_is_no_reward_model_is_named_before_anything_is_computed(base, tmp_path):
  config = runs.rl_config(base, reward_models={'good': dict(source=str(tmp_path / 'nowhere'))})
  with pytest.raises(FileNotFoundError, match='nowhere'):
    rl.run(config, {}, tmp_path / 'run')
