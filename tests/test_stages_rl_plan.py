"""The programs of RL that are compiled ahead: all that a run needs, and nothing later."""
import dataclasses

import jax
import numpy as np
import pytest
import runs
from runs import base, compilations, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.sampling.drawing import Drawing
from r1jax.stages import rl

LENGTHS = 64, 5, 40, 9, 33, 2     # the longest completion of each iteration
ENOUGH = 10                       # programs that any run compiles


def with_lengths(rollout, iteration):
  """The rollout, as if its completions had stopped by themselves at lengths of the iteration."""
  rows, columns = rollout.tokens.shape
  lengths = np.minimum(LENGTHS[iteration], 1 + np.arange(rows) * 21)
  lengths[-1] = LENGTHS[iteration]
  mask = (np.arange(columns) < lengths[:, None]).astype(np.float32)
  return dataclasses.replace(
      rollout, mask=jax.device_put(mask, rollout.mask.sharding),
      finished=jax.device_put(np.ones(rows, bool), rollout.finished.sharding))


def counted(run, monkeypatch, compilations):
  """What was compiled before the iteration after each line of metrics; `run` takes should_stop."""
  finish, write = Drawing.finish, metrics.MetricWriter.write
  lines, counts = [0], {}

  def forcing(drawing, on_rows=None):
    return with_lengths(finish(drawing), drawing._iteration)

  def noting_write(*arguments):
    lines[0] += 1
    write(*arguments)

  def should_stop():
    counts.setdefault(lines[0], len(compilations))
    return False
  with monkeypatch.context() as patch:
    patch.setattr(Drawing, 'finish', forcing)
    patch.setattr(metrics.MetricWriter, 'write', noting_write)
    run(should_stop)
  del counts[0]
  return list(counts.values())


@pytest.mark.parametrize('fields', [
    dict(steps=8, mini_batches=2, kl_coefficient=0.1, reference_refresh=4,
         dynamic_sampling_rounds=1),
    dict(steps=4, packing=dict(row_length=96, rows=1), advantage='gae'),
], ids=['padded', 'packed'])
def test_nothing_is_compiled_after_the_first_iteration_whatever_the_lengths(
    fields, base, tmp_path, monkeypatch, compilations):
  config = runs.rl_config(
      base, group_size=8, sampling=dict(max_new_tokens=64, chunk=64), **fields)    # 16 rows, or 8
  def run(should_stop, steps=config['steps']):
    rl.run(config | dict(steps=steps), {}, tmp_path, should_stop=should_stop,
           reward_functions={'bytes': (runs.by_bytes, 1.0)})
  counts = counted(run, monkeypatch, compilations)
  assert len(counts) == 4 and counts[0] > ENOUGH and len(set(counts)) == 1, counts
  # For two lengths, or for policy and critic; what was prepared was used.
  assert compilations.count('jit(update)') == compilations.count('jit(_decode_chunk)') == 2
  del compilations[:]
  counts = counted(lambda stop: run(stop, config['steps'] * 3 // 2), monkeypatch, compilations)
  assert len(counts) == 2 and counts[0] > ENOUGH and len(set(counts)) == 1, counts
