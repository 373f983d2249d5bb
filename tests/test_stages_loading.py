import dataclasses
import shutil

import jax
import numpy as np
import pytest
import runs
import tokenizers

from r1jax import checkpoint, models
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import loading, pretrain
from r1jax.stages.artifact import open_artifact
from r1jax.stages.fields import MODEL


@pytest.mark.parametrize('source', loading.MINIATURES)
def test_a_shipped_model_is_that_of_its_preset(source):
  folder = loading.find_model(source, {})
  assert folder == str(loading.MINIATURES[source])
  loaded = loading.load_model(source, {}, compute_dtype='float32', remat=False,
                             mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  assert loaded.model.config == models.PRESETS[source]
  assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == models.num_params(
      models.PRESETS[source])
  text = 'User: 5+3? 二十\nAssistant:'
  assert loaded.tokenizer.encode(text) == loading.find_tokenizer('miniature', {}).encode(text)
  assert pretrain.DEFAULT['preset'] in loading.MINIATURES


def test_ids_beyond_the_tokenizer_are_masked(tmp_path):
  settings = dict(compute_dtype='float32', remat=False,
                  mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  padded = runs.export_base(tmp_path, dataclasses.replace(runs.SHAPE, vocab_size=640))
  loaded = loading.load_model(padded, {}, **settings)
  np.testing.assert_array_equal(loaded.model.token_mask, np.arange(640) < 512)
  assert loading.load_model('miniature', {}, **settings).model.token_mask is None


def test_a_model_of_another_size_than_its_preset_is_refused():
  settings = dict(compute_dtype='float32', remat=False,
                  mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  loading.load_model('miniature', {}, preset='miniature', **settings)
  with pytest.raises(ValueError, match="preset='miniature_small' has .* parameters, and the model"):
    loading.load_model('miniature', {}, preset='miniature_small', **settings)
  sentence = "model.preset must be .*got 'qwen3_8': did you mean 'qwen3_8b'"
  with pytest.raises(ValueError, match=sentence):
    MODEL.check(MODEL.default | dict(preset='qwen3_8'), 'model')


def test_a_model_is_found_by_its_source(tmp_path):
  assert loading.find_model(str(tmp_path), {}) == str(tmp_path)
  (tmp_path / 'model').mkdir()
  checkpoint.write_manifest(tmp_path, checkpoint.Manifest('rl', 'zero', 'hash'))
  inputs = {'zero': open_artifact(tmp_path)}
  assert loading.find_model('zero', inputs) == str(Path(tmp_path) / 'model')
  with pytest.raises(FileNotFoundError, match='no folder .Qwen/Qwen3-8B.: .*`hf download Qwen/Q'):
    loading.find_model('Qwen/Qwen3-8B', inputs)
  for source in ('zeroo', '', str(tmp_path / 'other')):
    with pytest.raises(FileNotFoundError, match='There is no model .*: name an input stage'):
      loading.find_model(source, inputs)


def test_a_token_that_the_model_has_no_embedding_for_is_left_out(tmp_path):
  """Gemma 3 of 270M and 1B come with '<image_soft_token>', one id beyond their vocabulary."""
  folder = tmp_path / 'model'
  shutil.copytree(loading.MINIATURES['miniature'], folder)
  backend = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  count = models.PRESETS['miniature'].vocab_size
  backend.add_special_tokens([f'<{i}>' for i in range(count - backend.get_vocab_size())])
  backend.add_special_tokens(['<image_soft_token>'])
  backend.save(str(folder / 'tokenizer.json'))
  loaded = loading.load_model(str(folder), {}, compute_dtype='float32', remat=False,
                              mesh=sharding.make_mesh(1, 1, jax.devices()[:1]))
  assert loaded.tokenizer.vocab_size == count
  assert loading.find_tokenizer(str(folder), {}).encode('<image_soft_token>')[0] < count
