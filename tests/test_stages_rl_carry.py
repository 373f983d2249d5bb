"""Runs that carry rows from one iteration into the next."""
import jax
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.stages import evaluate, pass_rate, reject, rl
from r1jax.stages.rl import carry, train
from r1jax.stages.stage import StopRequested


class Killed(BaseException):
  """Ends a run as a kill does: nothing is saved."""


@pytest.fixture(scope='module', autouse=True)
def many_stops():
  """Every twelfth token ends a completion: a random model draws the usual ones too rarely."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, 'stop_ids', lambda *_: tuple(range(5, 512, 12)))
    yield


def run(base, workdir, should_stop=lambda: False, **fields):
  """Four iterations of two updates; a checkpoint after the second and the fourth."""
  config = runs.merged(runs.rl_config(
      base, steps=8, mini_batches=2, rewards={}, checkpoint_every=2,
      sampling=dict(max_new_tokens=12, chunk=4, carry_over=True)), fields)
  return rl.run(config, {}, workdir, should_stop=should_stop,
                reward_functions={'bytes': (runs.by_bytes, 1.0)})


@pytest.fixture(scope='module')
def uninterrupted(base, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  run(base, workdir)
  return workdir


def test_tokens_are_carried_measured_and_corrected(uninterrupted):
  records = metrics.read_metrics(uninterrupted)
  assert records[0]['carry_over/stale_tokens'] == 0
  assert records[0]['carry_over/tokens'] > 0
  for record in records[1:]:
    assert record['carry_over/staleness/max'] == 1     # by default, at most
    assert 0 < record['carry_over/staleness/mean'] == record['carry_over/stale_tokens'] < 1
    assert record['sampling/logprob_difference/max'] > 1e-2 and record['correction/mean'] != 1


def test_each_example_is_trained_on_once_in_the_order_of_the_data(base, uninterrupted, tmp_path):
  run(base, tmp_path, sampling=dict(carry_over=False))
  orders = [[row['example_id'] for row in metrics.read_jsonl(folder / 'rollouts')][::2]
            for folder in (uninterrupted, tmp_path)]
  assert len(set(orders[0])) == len(orders[0]) == 8
  assert orders[0][:2] == orders[1][:2] and len(set(orders[0]) & set(orders[1])) >= 6


# should_stop is asked this often by each process before it is stopped, or killed.
STOPS = ((4, 'stop'), (6, 'kill'), (5, 'stop'), (2, 'stop'))


def test_a_run_that_was_stopped_or_killed_resumes_bit_for_bit(base, uninterrupted, tmp_path):
  for count, kind in STOPS:
    stop = runs.stop_at(count)

    def should_stop(stop=stop, kind=kind):
      if kind == 'kill' and stop():
        raise Killed
      return kind == 'stop' and stop()
    with pytest.raises((StopRequested, Killed)):
      run(base, tmp_path, should_stop)
  run(base, tmp_path)
  step, _, arrays = runs.last_checkpoint(tmp_path)
  assert step == 8
  carried = np.frombuffer(arrays["carried['tree']['lengths']"], np.int32)
  assert carried.any()
  runs.assert_same(tmp_path, uninterrupted)


@pytest.mark.parametrize('fields, sentence', [
    (dict(sampling=dict(drafts=2)), 'sampling.drafts must be 0 with .*, got 2'),
    (dict(dynamic_sampling_rounds=2), 'dynamic_sampling_rounds must be 0 with .*, got 2'),
    (dict(general_prompts=dict(prompts_per_batch=1, data=runs.DATA, rewards={'format': 1.0})),
     'general_prompts.prompts_per_batch must be 0 with .*, got 1'),
    (dict(sampling=dict(max_staleness=0)), 'max_staleness must be at least 1, got 0')])
def test_what_cannot_be_carried_over_is_refused(fields, sentence):
  config = runs.rl_config('base', **runs.merged(dict(sampling=dict(carry_over=True)), fields))
  with pytest.raises(ValueError, match=sentence):
    rl.SETTINGS.check(config, 'zero')


def test_several_hosts_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='must be False on several hosts, got True with 2'):
    carry.check_hosts(runs.rl_config('base', sampling=dict(carry_over=True)), 'zero')


@pytest.mark.parametrize('settings', [evaluate.SETTINGS, pass_rate.SETTINGS, reject.SETTINGS])
def test_nothing_is_carried_where_nothing_is_trained(settings):
  default = settings.default
  assert list(settings.pairs(default)) == []
  sampling = default['sampling'] | dict(carry_over=True)
  assert list(settings.pairs(default | dict(sampling=sampling))) == [
      'sampling.carry_over must be False where nothing is trained, got True']
