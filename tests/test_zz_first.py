import sys, time
sys.path.insert(0, 'tests')
from runs import *
from r1jax.stages import rl
import pytest
def test_x(base, tmp_path):
  for i in range(3):
    t = time.time()
    rl.run(rl_config(base, mini_batches=2, steps=4, kl_coefficient=0.1, evaluations={'trained': evaluation_config()}), {}, tmp_path / str(i))
    print('run', i, time.time() - t)
  assert_same(tmp_path / '0', tmp_path / '1')
  r = result_of(tmp_path / '0')
  print(r.keys(), r['metrics'][0], r['rollouts'][0], r['checkpoint'][:2], list(r['checkpoint'][2]))
