"""Runs that no longer learn stop with a sentence, and leave nothing that looks like a result."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from runs import base, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics
from r1jax.errors import UserError
from r1jax.models.compute import Compute
from r1jax.records import TrainState
from r1jax.stages import loading, rl, sft
from r1jax.stages.loop import TrainingLoop
from r1jax.stages.stage import begin, leave_artifact

OVERFLOW = dict(learning_rate=1e39)     # infinite as a float32


def train_rl(base, workdir, **fields):
  config = runs.rl_config(base, **dict(steps=4, checkpoint_every=2) | fields)
  rl.run(config, {}, workdir, stage='zero', reward_functions={'bytes': (runs.by_bytes, 1.0)})


def train_sft(base, workdir, **fields):
  own = workdir.with_suffix('.jsonl')
  own.write_text('{"prompt": "1+1", "reasoning": "one and one", "summary": "2"}\n' * 8)
  config = runs.sft_config(base, inputs=(), sample_stages=(), files=(str(own),), row_length=128,
                           rows=1, epochs=2, log_every=2, **fields)
  sft.run(config, {}, workdir, stage='zero')


@pytest.mark.parametrize('train, fields, path', [
    (train_rl, dict(optimizer=OVERFLOW), 'optimizer'),
    # Finite for one update:
    pytest.param(train_rl, dict(optimizer=dict(learning_rate=1e30)), 'optimizer',
                 marks=pytest.mark.slow),
    pytest.param(train_rl, dict(advantage='gae', critic=dict(optimizer=OVERFLOW)),
                 'critic.optimizer', marks=pytest.mark.slow),
    (train_sft, dict(optimizer=OVERFLOW), 'optimizer')])
def test_a_run_whose_updates_are_all_skipped_stops_each_time(
    train, fields, path, base, tmp_path, capsys):
  for _ in range(4):      # it goes on for a few updates at most
    with pytest.raises(UserError, match=r"stage 'zero' stopped after step \d: its last updates"
                                        r' \(\d\) were not finite') as stopped:
      train(base, tmp_path / 'zero', **fields)
    assert f'config.stages.zero.{path}.learning_rate=1e+3' in str(stopped.value)
    assert f'is saved in {tmp_path}/zero' in str(stopped.value)
  assert not (tmp_path / 'zero' / 'manifest.json').exists()
  assert ('critic skipped' if 'critic' in path else 'skipped') in capsys.readouterr().out
  step, _, arrays = runs.last_checkpoint(tmp_path / 'zero')
  assert step == metrics.read_metrics(tmp_path / 'zero')[-1]['step'] == 4
  assert all(np.isfinite(np.frombuffer(array, np.float32)).all()
             for name, array in arrays.items() if 'step' not in name)


@pytest.mark.parametrize('skipped, step, ends', [(4, 8, False), (5, 8, True), (4, 12, False)])
def test_how_many_skipped_updates_end_a_run(skipped, step, ends, base, tmp_path, capsys):
  run = begin('rl', rl.SETTINGS, runs.rl_config(base, max_skipped_updates=5), {}, tmp_path,
              stage='zero')
  params, saved = {'layer': {'w': jnp.float32([1, jnp.nan])}, 'other': jnp.ones(2)}, []
  state = TrainState(params, {}, *map(jnp.int32, (step, 6, skipped)))
  with TrainingLoop(run) as loop:
    if ends:
      with pytest.raises(UserError, match='The parameters layer.w hold NaN or infinity.* raise '
                                          'config.stages.zero.max_skipped_updates=5'):
        loop.stop_if_dead(step, 12, lambda: saved.append(step), {'optimizer': state})
    else:
      loop.stop_if_dead(step, 12, lambda: saved.append(step), {'optimizer': state})
  assert saved == [step] * ends
  said = capsys.readouterr().err
  assert ("warning: stage 'zero': its last updates (4) were not finite" in said) == (step == 12)


@pytest.mark.parametrize('dtype, factor', [('float32', np.inf), ('bfloat16', 3.4e38)])
def test_no_model_of_nan_is_left(dtype, factor, base, tmp_path):
  run = begin('rl', rl.SETTINGS, runs.rl_config(base), {}, tmp_path, stage='zero')
  loaded = loading.load_model(mesh=run.mesh, inputs={}, **run.config['model'])
  params = loaded.params | {'final_norm': jax.tree.map(
      lambda x: jnp.full_like(x, factor), loaded.params['final_norm'])}
  with pytest.raises(UserError, match=f'no model: as {dtype} its parameters final_norm.scale hold'):
    leave_artifact(run, model=loaded.model.config, params=params, tokenizer=loaded.tokenizer,
                   template='miniature', scores={}, compute=Compute(), dtype=dtype)
  assert not (tmp_path / 'manifest.json').exists() and not (tmp_path / 'model').exists()
