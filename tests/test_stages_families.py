"""R1-Zero on a tiny model of every family: two updates, sampler and trainer agreeing."""
import jax
import numpy as np
import pytest
import runs
from runs import compiled, no_curves  # noqa: F401

from r1jax import metrics, models
from r1jax.models import families, huggingface
from r1jax.stages import rl
from r1jax.stages.config import plain

TINY = [name for name in models.PRESETS if name.startswith('tiny_')]


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY)
def test_r1_zero_runs_on_every_family(name, compiled, tmp_path):
  """The completions' log-probabilities as sampled are those that the trainer finds, to 1e-4."""
  shape = models.PRESETS[name]
  base = runs.export_base(tmp_path / 'base', shape)
  params = huggingface.load_params(base, shape)
  config = runs.rl_config(base, kl_coefficient=0.1, sampling=dict(max_new_tokens=12))
  artifact = rl.run(config, {}, tmp_path / 'run', reward_functions={'bytes': (runs.by_bytes, 1.0)})
  records = metrics.read_metrics(tmp_path / 'run')
  assert [record['step'] for record in records] == [1, 2]
  for record in records:
    assert record['skipped_updates'] == 0 and record['grad_norm'] > 0
    assert record['sampling/logprob_difference/max'] < 1e-4
  trained = huggingface.load_params(artifact.folder / 'model', shape)
  changed = jax.tree.map(lambda a, b: np.any(np.asarray(a) != np.asarray(b)), params, trained)
  still = {path[-1].key for path, moved in jax.tree_util.tree_leaves_with_path(changed)
           if not moved}
  assert still <= {'balancing_bias'}     # state that no gradient trains


def test_there_is_a_tiny_model_of_every_family():
  as_others = {'mistral', 'ministral'}   # Llama's layers with Gemma 3's windows
  assert {models.PRESETS[name].family for name in TINY} == set(families.FAMILIES) - as_others


@pytest.mark.slow
def test_a_random_model_runs_with_the_tokenizer_of_the_miniature(compiled, tmp_path):
  settings = dict(source='random', preset='tiny_qwen3')
  config = runs.rl_config('random', model=settings, sampling=dict(max_new_tokens=4))
  artifact = rl.run(config, {}, tmp_path)
  assert artifact.manifest.model['width'] == models.PRESETS['tiny_qwen3'].width
  with pytest.raises(ValueError, match="model.preset must name the shape of model.source='random'"):
    rl.run(plain(config) | dict(model=config['model'] | dict(preset='')), {}, tmp_path / '2')
