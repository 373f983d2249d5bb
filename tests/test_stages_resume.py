"""A run that was stopped or killed ends as one that was not, bit for bit (pitfall 20)."""
import signal
import uuid

import jax
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax.checkpoint import Checkpointer
from r1jax.models import huggingface
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import loading
from r1jax.stages.artifact import open_artifact
from r1jax.stages.stage import StopRequested

# How a process ends, and the last checkpoint's step then. Each goes on from where the one before it
# died; six questions an iteration, see `runs.run_resumable`.
KILLS = (
    ('asked', 10, None),     # between two updates of the second rollout
    ('saving', 1, None),     # during the first save: of the reference
    ('saving', 2, None),     # and of the checkpoint that needs it
    ('saved', 1, 8),         # just after it
    ('asked', 2, 8),         # in the third rollout, between its chunks
    ('asked', 10, 12),       # in the second evaluation
)

# should_stop says True at the n-th question of each process; what the sentence says then.
STOPS = (
    (2, 'step 0 '),          # in the first rollout
    (4, 'step 2 '),          # between two updates of it
    (7, 'step 7 '),          # before the last update of the second rollout
    (1, 'step 8 '),          # between two iterations, just after a checkpoint was begun
    (9, 'an evaluation '),   # in the second evaluation
)


@pytest.fixture(scope='module')
def uninterrupted(base, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  runs.run_resumable(base, workdir)
  return workdir


def test_the_run_tells_its_parts_apart(uninterrupted):
  """Else equal results would prove little."""
  result = runs.result_of(uninterrupted)
  assert [float(record['step']) for record in result['metrics']] == [4, 8, 12]
  assert all(float(record['kl']) > 0 for record in result['metrics'])
  assert len({record['reward'] for record in result['metrics']}) > 1
  assert len({record['completion'] for record in result['rollouts']}) == 12
  assert len({record['example_id'] for record in result['rollouts']}) == 6
  step, meta, arrays = result['checkpoint']
  assert (step, meta['iteration'], meta['counter']) == (12, 3, 6)
  assert {name.split('[')[0] for name in arrays} == {'params', 'reference', 'rest'}


@pytest.mark.slow
def test_pitfall_20_killed_at_any_moment_and_resumed_equals_uninterrupted(
    uninterrupted, base, compiled, tmp_path):
  for moment, count, saved in (*KILLS, ('never', 0, 12)):
    process = runs.start('tests/kill_driver.py', tmp_path, base, moment, count, compiled=compiled)
    _, complaint = process.communicate()
    wanted = 0 if moment == 'never' else -signal.SIGKILL
    assert process.returncode == wanted, (moment, count, complaint)
    assert Checkpointer(tmp_path / 'checkpoints').latest_step() == saved, (moment, count)
    if moment == 'saving':
      assert list(Path(tmp_path / 'checkpoints').iterdir())    # files without their seal
    assert (tmp_path / 'manifest.json').exists() == (moment == 'never')
  assert {path.name for path in (tmp_path / 'checkpoints').iterdir()} == {
      '8', '12', 'reference-8', 'reference-12'}
  runs.assert_same(tmp_path, uninterrupted)


def test_pitfall_20_stopped_at_any_moment_and_resumed_in_a_bucket(uninterrupted, base):
  workdir = f'memory://{uuid.uuid4().hex}'
  for count, place in STOPS:
    with pytest.raises(StopRequested, match=place) as stopped:
      runs.run_resumable(base, workdir, runs.stop_at(count))
    assert 'run the same command to go on' in str(stopped.value)
    if place == 'step 2 ':    # the rollout under way is kept, and the place in it
      step, meta, arrays = runs.last_checkpoint(workdir)
      assert (step, meta['iteration'], meta['update'], len(meta['measured'])) == (2, 0, 2, 3)
      assert "batch['tree']['old_logprobs']" in arrays
  artifact = runs.run_resumable(base, workdir)
  runs.assert_same(workdir, uninterrupted)
  assert open_artifact(workdir).manifest.files == artifact.manifest.files
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  loaded = loading.load_model('zero', {'zero': artifact}, compute_dtype='float32', remat=False,
                             mesh=mesh)
  trained = huggingface.load_params(Path(uninterrupted) / 'model', runs.SHAPE)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, trained)
