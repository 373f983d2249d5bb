"""Programs as users compile them, with XLA's default optimisations: `pytest -m optimized`.

conftest.py turns optimisations off, for its own process and for those that tests start. Here tests
and programs run in processes that have them on.
"""
import os
import subprocess
import sys

import pytest
import runs

from r1jax import metrics

pytestmark = [pytest.mark.optimized, pytest.mark.slow]

TESTS = (
    'test_sampling_sampler.py::test_pitfall_11_recorded_logprobs_equal_teacher_forced_ones',
    'test_training_train_step.py::test_pitfall_01_micro_batches_update_as_the_whole_batch_does',
)


def run(*arguments, cwd=runs.ROOT, **variables):
  """Runs `python -m ARGUMENTS` without the flags of these tests; returns what it printed."""
  environment = {name: value for name, value in os.environ.items()
                 if name not in ('XLA_FLAGS', 'PJRT_NPROC', 'JAX_DISABLE_MOST_OPTIMIZATIONS')}
  done = subprocess.run([sys.executable, '-m', *arguments], env=environment | variables, cwd=cwd,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
  assert done.returncode == 0, done.stdout
  return done.stdout


def test_pitfall_36_sampling_agrees_with_teacher_forcing_and_micro_batches_with_the_whole():
  tests = [str(runs.ROOT / 'tests' / test) for test in TESTS]
  said = run('pytest', '-q', '-p', 'no:cacheprovider', *tests, R1JAX_TEST_OPTIMIZED='1')
  assert ' passed' in said and 'skipped' not in said


def test_r1_zero_runs_as_the_readme_says(tmp_path):
  run('r1jax.main', '--config=experiments/r1_zero.py:tiny,debug', f'--workdir={tmp_path}',
      '--compilation_cache=')
  assert (tmp_path / 'zero' / 'results.md').exists()
  rows = metrics.read_metrics(tmp_path / 'zero')
  assert rows and all(0 <= row['reward'] < 10 for row in rows if 'reward' in row)
