"""The metrics of an RL iteration."""
import pytest

from r1jax.stages.rl import metrics

ROLLOUT = {'num_tokens': 100.0, 'compute/sampled': 2e9, 'compute/scored': 1e9,
           'compute/trained': 4e9}
UPDATE = {'skipped_updates': 0.0, 'loss': 1.0}
SECONDS = {'timing_s/step': 2.0, 'timing_s/rollout': 1.0}


@pytest.mark.parametrize('remat, operations', [(False, 7e9), (True, 6e9)])
def test_utilisation_is_of_the_peak_without_rematerialisation(remat, operations):
  found = metrics.iteration_metrics(
      [ROLLOUT, UPDATE], SECONDS, updates_done=1, remat=remat, peak_flops=1e10)
  assert found['model_flops_utilisation'] == pytest.approx(operations / 2 / 1e10)


def test_without_a_known_peak_there_is_no_utilisation():
  found = metrics.iteration_metrics(
      [ROLLOUT, UPDATE], SECONDS, updates_done=1, remat=False, peak_flops=None)
  assert 'model_flops_utilisation' not in found
  assert found['tokens_per_second'] == 50


@pytest.mark.parametrize('updates, operations', [(4, 4e9), (1, 1e9), (0, 0)])
def test_what_an_interrupted_process_did_is_not_counted_again(updates, operations):
  found = metrics.iteration_metrics(
      [ROLLOUT, *[UPDATE] * 4], {'timing_s/step': 0.5}, updates_done=updates, remat=False,
      peak_flops=1e10)
  assert found['model_flops_utilisation'] == pytest.approx(operations / 0.5 / 1e10)
  assert 'tokens_per_second' not in found
