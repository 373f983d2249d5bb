import dataclasses
import math
import resource
import threading
import traceback

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics, models
from r1jax.checkpoint import Checkpointer
from r1jax.models import huggingface
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, rl
from r1jax.stages.rl import programs as rl_programs
from r1jax.stages.rl.prompts import PromptMixture
from r1jax.tokenization import load_tokenizer

BYTES = {'bytes': (runs.by_bytes, 1.0)}


def in_bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


class Recorder:
  """Wraps a run's device programs: what each was called with, parameters as bytes.

  `events` has in their order what was dispatched and what was written.
  """

  def __init__(self, monkeypatch):
    self.samples, self.iterations, self.scores = [], [], []
    self.updates, self.measured, self.events = [], [], []
    for writer in (metrics.RolloutWriter, metrics.MetricWriter):
      monkeypatch.setattr(writer, 'write', self._noted(writer.__name__, writer.write))
    make_programs = rl_programs.make_programs

    def wrapped(*arguments):
      programs = make_programs(*arguments)

      def begun(params, prompts, iteration):
        self.events.append('rollout')
        self.samples.append([in_bytes(params)])
        self.iterations.append(iteration)

      def drawn(rollout, iteration):
        self.samples[-1].append(rollout)
        return rollout

      def score(params, batch):
        logprobs = programs.score(params, batch)
        self.scores.append((in_bytes(params), np.asarray(logprobs)))
        return logprobs

      def update(state, batch, normalizers):
        self.events.append('update')
        before = in_bytes(state.params)
        kept = jax.tree.map(np.asarray, batch)
        state, measured = programs.update(state, batch, normalizers)
        self.updates.append((before, kept, in_bytes(state.params)))
        self.measured.append(jax.device_get(measured))
        return state, measured

      return programs._replace(sample=runs.NotingSampler(programs.sample, begun, drawn),
                               score=score, update=update)
    monkeypatch.setattr(rl_programs, 'make_programs', wrapped)

  def _noted(self, event, function):
    def call(*arguments):
      self.events.append(event)
      return function(*arguments)
    return call


# What a run leaves.


@pytest.fixture(scope='module')
def notebook(base, tmp_path_factory):
  """A run as from a notebook: (workdir, its calls, what the reward saw, its Artifact)."""
  workdir, seen = tmp_path_factory.mktemp('notebook'), []

  def noting(completion, example):
    seen.append((completion.num_tokens, example['answer']))
    return runs.by_bytes(completion, example)

  config = ml_collections.ConfigDict(runs.rl_config(base, rewards={}))
  with pytest.MonkeyPatch.context() as patch:
    calls = Recorder(patch)
    artifact = rl.run(config, {}, workdir, reward_functions={'noting': (noting, 2.0)})
  return workdir, calls, seen, artifact


def test_a_stage_runs_from_a_notebook_with_a_closure_as_reward(notebook):
  workdir, calls, seen, artifact = notebook
  assert len(seen) == 8 and all(tokens <= 8 and answer for tokens, answer in seen)
  records = metrics.read_metrics(workdir)
  assert [record['step'] for record in records] == [1, 2] and calls.iterations == [0, 1]
  for record in records:
    assert record['reward'] == pytest.approx(2 * record['rewards/noting/mean'])
  assert artifact.manifest.kind == 'rl' and artifact.manifest.template == 'miniature'
  assert huggingface.read_config(artifact.model_folder) == runs.SHAPE


def test_the_host_logs_while_the_next_program_runs(notebook):
  assert notebook[1].events == [
      'rollout', 'update', 'RolloutWriter', 'rollout', 'MetricWriter', 'update', 'RolloutWriter',
      'MetricWriter']


def test_what_the_next_rollout_lacks_is_said_once_the_iteration_is_saved(
    base, tmp_path, monkeypatch):
  batch = PromptMixture.batch

  def failing_batch(self, counters, *arguments):
    if counters.reasoning:
      raise OSError('the file of the prompts is gone')
    return batch(self, counters, *arguments)
  monkeypatch.setattr(PromptMixture, 'batch', failing_batch)
  with pytest.raises(OSError, match='the file of the prompts is gone'):
    rl.run(runs.rl_config(base, rewards={}), {}, tmp_path, reward_functions=BYTES)
  assert [record['step'] for record in metrics.read_metrics(tmp_path)] == [1]
  assert runs.last_checkpoint(tmp_path)[0] == 1


def test_the_exported_model_is_the_last_checkpoint(notebook, base):
  workdir = notebook[0]
  exported = huggingface.load_params(workdir / 'model', runs.SHAPE)
  saved = Checkpointer(workdir / 'checkpoints').restore(2, {'params': exported})['params']
  jax.tree.map(np.testing.assert_array_equal, exported, saved)
  assert in_bytes(exported) != in_bytes(huggingface.load_params(base, runs.SHAPE))


def test_one_update_a_rollout_needs_neither_old_nor_reference(notebook):
  workdir, calls, _, _ = notebook
  assert len(calls.updates) == 2 and not calls.scores
  for _, batch, _ in calls.updates:
    assert batch.old_logprobs is None and batch.reference_logprobs is None
  saved = {path.name for path in Path(workdir / 'checkpoints' / '2').iterdir()}
  assert 'params' in saved and 'reference' not in saved
  for record in metrics.read_metrics(workdir):
    assert 'kl' not in record and record['ratio/mean'] == pytest.approx(1, abs=1e-6)
    assert record['sampling/logprob_difference/max'] < 1e-3


@pytest.mark.slow
def test_a_mesh_of_four_devices_draws_the_same_rollouts_and_learns_the_same(base, tmp_path):
  # Adam's first update divides each gradient by itself: at a high rate the rounding of the smallest
  # ones would decide the second update.
  config = runs.rl_config(base, rewards={}, optimizer=dict(learning_rate=1e-4))
  for name, size in (('one', 1), ('four', 2)):
    mesh = sharding.make_mesh(fsdp=size, context=size, devices=jax.devices()[:size ** 2])
    rl.run(config, {}, tmp_path / name, mesh=mesh, reward_functions=BYTES)
  one, four = (list(metrics.read_jsonl(tmp_path / name / 'rollouts')) for name in ('one', 'four'))
  assert one == four
  records = [metrics.read_metrics(tmp_path / name) for name in ('one', 'four')]
  assert records[0][0]['loss'] != records[0][1]['loss']
  for a, b in zip(*records, strict=True):
    for key in ('loss', 'grad_norm', 'entropy'):
      assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key


# What is wrong is said in one sentence, before anything is computed.


REFUSED = {
    'unknown field': (dict(stepz=2),
                      'zero.stepz is not a field: did you mean config.stages.zero.steps[?]'),
    'unknown field within': (dict(sampling=dict(top_q=1)), 'sampling.top_q .*sampling.top_[pk]'),
    'wrong type': (dict(group_size=2.5),
                   r'group_size must be an int such as 16, got 2.5 \(a float\)'),
    'wrong type within': (dict(optimizer=dict(beta1='0.9')), "beta1 must be a float .*got '0.9'"),
    'a flag is no number': (dict(steps=True), 'steps must be an int .*got True'),
    'a number is no flag': (dict(model=dict(remat=1)), 'remat must be a bool .*got 1'),
    'no fields': (dict(optimizer=3), 'optimizer must hold the fields learning_rate, .*got 3'),
    'nothing to do': (dict(steps=0), 'steps must be at least 1, got 0'),
    'a group of one': (dict(group_size=1),
                       "group_size must be at least 2 .*'reinforce_pp' or 'gae'"),
    'none to leave out': (dict(group_size=1, advantage='leave_one_out'),
                          'group_size must be at least 2 .*got 1'),
    'parts of groups': (dict(prompts_per_batch=6, mini_batches=2, micro_batches=2),
                        'prompts_per_batch must be a multiple of .* = 4, got 6'),
    'reward': (dict(rewards={'formt': 1.0}), "rewards.formt is not one of .*did you mean 'format'"),
    'no reward': (dict(rewards={}), 'rewards must not be empty'),
    'dataset': (dict(data=dict(name='gsm8')),
                "data.name must be one of .*got 'gsm8': did you mean 'gsm8k'"),
    'field of a dataset': (dict(data=dict(name='gsm8k', foldr='')), 'foldr .*data.folder'),
    'template': (dict(template='r1zero'),
                 "template must be .*got 'r1zero': did you mean 'r1_zero'"),
    'type of numbers': (dict(model=dict(compute_dtype='float16')),
                        "compute_dtype must be one of .*got 'float16'"),
    'aggregation': (dict(loss=dict(aggregation='mean')),
                    "aggregation must be one of .*token_mean.*got 'mean'"),
    'estimator': (dict(kl_estimator='k4'), "kl_estimator must be one of .*k3.*got 'k4'"),
    'advantage': (dict(advantage='gea'), "advantage must be .*got 'gea': did you mean 'gae'"),
    'a ratio a completion': (dict(advantage='gae', loss=dict(ratio_level='sequence')),
                             "ratio_level must be .*'sequence_token' .*got 'sequence'"),
    'a critic that is not asked for': (dict(critic=dict(source='miniature')),
                                       "critic.source must be empty .*got 'miniature'"),
    'dual clip': (dict(loss=dict(dual_clip=0.5)), 'dual_clip must be above 1 .*got 0.5'),
    'no old policy': (dict(loss=dict(old_kl_coefficient=0.1)), 'raise epochs or mini_batches'),
    'no KL for the reward': (dict(kl_place='reward'),
                             "kl_place must be 'loss' where kl_coefficient is 0"),
    'nothing to adapt': (dict(kl_controller=dict(rule='proportional')),
                         "kl_controller.rule must be 'fixed' where"),
    'penalty everywhere': (dict(overlong_buffer=8),
                           'overlong_buffer must be below .*max_new_tokens=8, got 8'),
    'temperature': (dict(sampling=dict(temperature=-1.0)), 'temperature must be above 0, got -1.0'),
    'length': (dict(sampling=dict(max_new_tokens=0)), 'max_new_tokens must be at least 1 .*got 0'),
    'refresh': (dict(reference_refresh=4),
                'reference_refresh must be 0 without a reference, got 4'),
    'evaluation': (dict(evaluations={'x': dict(evaluate.DEFAULT, data=runs.DATA, sample=2)}),
                   'evaluations.x.sample .*evaluations.x.sampling'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_an_impossible_config_is_refused_before_anything_is_loaded(case):
  fields, sentence = REFUSED[case]
  config = runs.merged(runs.rl_config('base'), fields)
  config |= {name: fields[name] for name in ('rewards', 'data', 'evaluations') if name in fields}
  with pytest.raises(ValueError, match=sentence) as refusal:
    rl.SETTINGS.check(config, 'config.stages.zero')
  assert '\n' not in str(refusal.value)


def test_the_default_lacks_data_and_rewards_alone():
  with pytest.raises(ValueError, match="data.name must be one of .*got None"):
    rl.SETTINGS.check(rl.DEFAULT, 'zero')
  rl.SETTINGS.check(rl.DEFAULT | dict(data=runs.DATA, rewards={'number': 1.0}), 'zero')
  config = dict(rl.DEFAULT, data=runs.DATA, rewards={'number': 1.0})
  del config['steps']
  with pytest.raises(ValueError, match='zero.steps is missing'):
    rl.SETTINGS.check(config, 'zero')


@pytest.fixture
def no_compute(monkeypatch):
  def refuse(*_):
    raise AssertionError('something is about to be computed')
  monkeypatch.setattr(rl_programs, 'make_programs',
                      lambda *_: rl_programs.DevicePrograms(
                          *[refuse] * len(rl_programs.DevicePrograms._fields)))


def unfitting_base(base, folder):
  """A model whose vocabulary is smaller than its tokenizer's."""
  shape = dataclasses.replace(runs.SHAPE, vocab_size=300)
  huggingface.export(folder, shape, models.build(shape).init(jax.random.key(0)))
  load_tokenizer(base).save(folder)
  return str(folder)


def test_missing_or_unfit_sources_are_named_before_anything_is_computed(
    base, tmp_path, no_compute):
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'train.jsonl').write_text('{"prompt": "1+1?", "answer": 2}\n[]\n')
  tested = dict(name='jsonl', folder=str(tmp_path / 'data'))
  short = runs.merged(evaluate.DEFAULT, dict(data=runs.DATA | dict(size=3), prompts_per_batch=4))
  cases = {
      'There is no model .*/nowhere': dict(model=dict(source=str(tmp_path / 'nowhere'))),
      "does not fit the model: its token .* has the id .* has 300": dict(
          model=dict(source=unfitting_base(base, tmp_path / 'unfitting'))),
      'train.jsonl, line 2: this is a JSON list': dict(data=tested),
      'There is no file .*/none/train.jsonl': dict(data=tested | dict(folder='/none')),
      'Only 0 of the 64 prompts have at most max_prompt_length=2': dict(max_prompt_length=2),
      'prompt of example 0 has .* tokens and the limit is 2': dict(
          max_prompt_length=2, overlong='error'),
      'prompts_per_batch=65 does not suit a source of 64': dict(prompts_per_batch=65),
      'There is no file .*/data/test.jsonl': dict(evaluations={'x': dict(short, data=tested)}),
      'problems=500, but the test split of .miniature. has only 3 prompts .*lower problems to 3':
          dict(evaluations={'x': short}),
      'There is no model .*/elsewhere': dict(evaluations={
          'x': runs.evaluation_config(model=dict(source='/elsewhere'))}),
      'has no chat template': dict(template='chat'),
  }
  for number, (sentence, fields) in enumerate(cases.items()):
    config = runs.rl_config(base, **fields) | {
        name: fields[name] for name in ('data', 'evaluations') if name in fields}
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as refusal:
      rl.run(config, {}, tmp_path / str(number), reward_functions=BYTES)
    assert '\n' not in str(refusal.value)


def test_a_reward_that_is_no_number_leaves_the_last_checkpoint(base, tmp_path):
  config = runs.rl_config(base, rewards={}, steps=3)
  judged = []

  def failing(completion, example):
    judged.append(completion)
    return math.nan if len(judged) > 4 else runs.by_bytes(completion, example)
  with pytest.raises(ValueError, match="'bytes' returned nan for completion 0: let it return a"):
    rl.run(config, {}, tmp_path, reward_functions={'bytes': (failing, 1.0)})
  assert runs.last_checkpoint(tmp_path)[0] == 1
  rl.run(config, {}, tmp_path, reward_functions=BYTES)
  assert [record['step'] for record in metrics.read_metrics(tmp_path)] == [1, 2, 3]


def test_a_reward_that_fails_between_two_checkpoints_costs_no_iteration(base, tmp_path):
  config = runs.rl_config(base, rewards={}, steps=3, checkpoint_every=10)
  judged = []

  def failing(completion, example):
    judged.append(completion)
    return 1 / 0 if len(judged) > 8 else runs.by_bytes(completion, example)
  with pytest.raises(ValueError, match='raised ZeroDivisionError') as caught:
    rl.run(config, {}, tmp_path / 'failed', reward_functions={'bytes': (failing, 1.0)})
  assert caught.value.__notes__ == [
      f'The state after step 2 is saved in {tmp_path}/failed: the same call continues from there.']
  assert runs.last_checkpoint(tmp_path / 'failed')[0] == 2
  for name in ('failed', 'whole'):
    rl.run(config, {}, tmp_path / name, reward_functions=BYTES)
  runs.assert_same(tmp_path / 'failed', tmp_path / 'whole')


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')    # of TensorStore
def test_a_full_disk_during_a_save_loses_nothing_that_was_saved(base, tmp_path, monkeypatch):
  """The limit on a file's size acts as a full disk; it is lifted before the run goes on."""
  config = runs.rl_config(base, rewards={}, steps=3)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  save = Checkpointer.save

  def filling_save(self, step, *arguments):
    self.wait()
    if step == 2:
      resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
    save(self, step, *arguments)
  try:
    with monkeypatch.context() as patch, pytest.raises(
        OSError, match='step 2 could not be written .*intact, so fix') as caught:
      patch.setattr(Checkpointer, 'save', filling_save)
      rl.run(config, {}, tmp_path / 'full', reward_functions=BYTES)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(caught.value)
  assert runs.last_checkpoint(tmp_path / 'full')[0] == 1
  for name in ('full', 'whole'):
    rl.run(config, {}, tmp_path / name, reward_functions=BYTES)
  runs.assert_same(tmp_path / 'full', tmp_path / 'whole')


def test_a_workdir_of_another_config_or_a_torn_checkpoint_is_refused(base, tmp_path):
  config = runs.rl_config(base, steps=1)
  rl.run(config, {}, tmp_path, reward_functions=BYTES)
  before = runs.result_of(tmp_path)
  other = runs.merged(config, dict(optimizer=dict(learning_rate=2e-2)))
  sentence = 'another run of stage .rl.: config.optimizer.learning_rate changed: use the config'
  with pytest.raises(ValueError, match=sentence):
    rl.run(other, {}, tmp_path, reward_functions=BYTES)
  assert runs.result_of(tmp_path) == before
  (tmp_path / 'manifest.json').unlink()
  largest = max((tmp_path / 'checkpoints' / '1' / 'params').rglob('*'),
                key=lambda path: path.stat().st_size * path.is_file())
  largest.write_bytes(largest.read_bytes()[:-1])
  with pytest.raises(
      ValueError, match='checkpoints/1 is damaged .*remove that folder to start over'):
    rl.run(config, {}, tmp_path, reward_functions=BYTES)


# Policy, old policy and reference.


@pytest.fixture(scope='module')
def four_updates(base, tmp_path_factory):
  """The calls of a run with two rollouts of four updates each, and no reference."""
  sampling = dict(temperature=0.6, top_p=0.9)
  with pytest.MonkeyPatch.context() as patch:
    calls = Recorder(patch)
    rl.run(runs.rl_config(base, steps=8, epochs=2, mini_batches=2, sampling=sampling), {},
           tmp_path_factory.mktemp('four_updates'), reward_functions=BYTES)
  return calls


def test_pitfall_14_each_rollout_samples_with_the_weights_of_the_last_update(four_updates):
  calls = four_updates
  assert (len(calls.samples), len(calls.updates)) == (2, 8)
  assert calls.samples[0][0] == calls.updates[0][0]
  assert calls.samples[1][0] == calls.updates[3][2] != calls.samples[0][0]
  for before, _, after in calls.updates:
    assert before != after
  for (_, _, after), (before, _, _) in zip(calls.updates, calls.updates[1:]):
    assert after == before


def test_pitfall_14_old_means_the_weights_that_sampled(four_updates):
  calls = four_updates
  assert len(calls.scores) == 2    # once a rollout, and no reference
  for iteration, ((sampling, rollout), (scoring, old)) in enumerate(
      zip(calls.samples, calls.scores)):
    assert sampling == scoring
    mask = np.asarray(rollout.mask) > 0
    np.testing.assert_allclose(old[mask], np.asarray(rollout.behaviour_logprobs)[mask], atol=1e-4)
    rows = sorted(row.tobytes() for row in old)
    for epoch in range(2):   # which sees every row once, with the same old log-probabilities
      parts = calls.updates[4 * iteration + 2 * epoch:][:2]
      seen = [row.tobytes() for _, batch, _ in parts for row in batch.old_logprobs]
      assert sorted(seen) == rows


def test_pitfall_05_policy_and_old_are_at_the_temperature_of_the_sampler(four_updates):
  calls = four_updates
  for iteration, (_, rollout) in enumerate(calls.samples):
    measured = calls.measured[4 * iteration]     # of the update that begins with the old policy
    for name, want in {'ratio/mean': 1, 'ratio/max': 1, 'clip_ratio/low': 0, 'clip_ratio/high': 0,
                       'sampling/logprob_difference/max': 0}.items():
      np.testing.assert_allclose(measured[name], want, atol=1e-4, err_msg=name)
    # What top-p left to draw from is another distribution, and kept apart.
    mask, old = np.asarray(rollout.mask) > 0, calls.scores[iteration][1]
    assert np.max(np.abs(old - rollout.truncated_logprobs)[mask]) > 0.05


def test_the_reference_is_a_copy_that_is_replaced_every_few_steps(base, tmp_path, monkeypatch):
  calls = Recorder(monkeypatch)
  config = runs.rl_config(base, steps=5, kl_coefficient=0.1, reference_refresh=2,
                          sampling=dict(temperature=0.6))
  rl.run(config, {}, tmp_path, reward_functions=BYTES)
  policies = [params for params, _ in calls.samples]
  assert len(set(map(repr, policies))) == 5
  # Of iterations 0 to 4; the reference is replaced after steps 2 and 4.
  assert [params for params, _ in calls.scores] == [
      policies[0], policies[0], policies[2], policies[2], policies[4]]
  kl = [record['kl'] for record in metrics.read_metrics(tmp_path)]
  assert kl[1] > 1e-5 and kl[3] > 1e-5     # a step away from the reference
  np.testing.assert_allclose([kl[0], kl[2], kl[4]], 0, atol=1e-6)    # on it


# The device programs.


def test_only_to_host_brings_arrays_to_the_host(base, tmp_path, monkeypatch):
  """What jax.transfer_guard_device_to_host refuses on an accelerator; on a CPU it lets all pass.

  So its refusal is acted here: it knows explicit transfers from implicit ones, and obeys 'allow'.
  """
  implicit, explicit = [], [False]
  main, array = threading.main_thread(), type(jnp.zeros(1))
  device_get, value = jax.device_get, array._value

  def note(x):
    allowed = jax.config.jax_transfer_guard_device_to_host == 'allow' or explicit[0]
    if isinstance(x, array) and threading.current_thread() is main and not allowed:
      implicit.append(''.join(traceback.format_stack(limit=12)))

  def explicit_device_get(tree):
    explicit[0] = True
    try:
      return device_get(tree)
    finally:
      explicit[0] = False

  def noted(function):
    def call(x, *arguments, **keywords):
      note(x)
      return function(x, *arguments, **keywords)
    return call
  monkeypatch.setattr(jax, 'device_get', explicit_device_get)
  monkeypatch.setattr(array, '_value', property(noted(value.fget)))
  monkeypatch.setattr(array, 'copy_to_host_async', noted(array.copy_to_host_async))
  for name in ('asarray', 'array'):
    monkeypatch.setattr(np, name, noted(getattr(np, name)))
  with jax.transfer_guard_device_to_host('disallow'):
    float(jnp.ones(()))
    np.asarray(jnp.ones(()))
    assert len(implicit) == 2    # this guard guards
    implicit.clear()
    config = runs.rl_config(base, mini_batches=2, steps=4, kl_coefficient=0.1, reference_refresh=2,
                            evaluations={'trained': runs.evaluation_config()})
    rl.run(config, {}, tmp_path, reward_functions=BYTES)
  assert not implicit, '\n'.join(implicit)
