"""Pre-training: a base model of the miniature's corpus."""
import json

import jax
import numpy as np
import pytest
import runs
from runs import base, compilations, compiled, no_curves  # noqa: F401 (fixtures)

from r1jax import metrics, models
from r1jax.data import miniature
from r1jax.models import huggingface
from r1jax.stages import loading, pretrain
from r1jax.tokenization import load_tokenizer


@pytest.fixture
def tiny_blocks(monkeypatch):
  shape = runs.SHAPE
  monkeypatch.setattr(pretrain, '_BLOCK', 40)
  monkeypatch.setitem(models.PRESETS, 'miniature', shape)
  return runs.merged(pretrain.DEFAULT, dict(
      documents=80, row_length=64, rows=4, checkpoint_every=100, log_every=1,
      optimizer=dict(warmup_steps=2), evaluations={'base': runs.evaluation_config()}))


def test_a_base_is_trained_from_nothing(tiny_blocks, compiled, tmp_path):
  artifact = pretrain.run(tiny_blocks, {}, tmp_path, stage='base')
  records = metrics.read_metrics(tmp_path)
  assert len(records) > 4 and records[-1]['loss'] < records[0]['loss']
  assert 'base' in artifact.manifest.scores
  exported = huggingface.load_params(artifact.model_folder, runs.SHAPE)
  config = json.loads((artifact.model_folder / 'config.json').read_text())
  assert config['torch_dtype'] == 'bfloat16'
  jax.tree.map(lambda x: np.testing.assert_array_equal(x, x.astype('bfloat16').astype('float32')),
               exported)
  shipped = load_tokenizer(loading.MINIATURES['miniature'])
  text = miniature.document_text(*miniature.corpus(0, 0, 1)[0])
  assert load_tokenizer(artifact.model_folder).encode(text) == shipped.encode(text)


def test_every_token_of_the_corpus_is_learnt_once_by_one_program(
    tiny_blocks, compiled, tmp_path, monkeypatch, compilations):
  packed, compiled_by = [], []
  train_packed, write = pretrain.sft.train_packed, metrics.MetricWriter.write

  def noting_write(*arguments):
    compiled_by.append(len(compilations))
    write(*arguments)
  monkeypatch.setattr(metrics.MetricWriter, 'write', noting_write)

  def noting(config, loaded, rows, *arguments, **keywords):
    packed.append(rows)
    return train_packed(config, loaded, rows, *arguments, **keywords)
  monkeypatch.setattr(pretrain.sft, 'train_packed', noting)
  pretrain.run(tiny_blocks | dict(evaluations={}), {}, tmp_path)
  tokenizer, texts = load_tokenizer(tmp_path / 'model'), []
  assert len(compiled_by) > 4 and len(set(compiled_by)) == 1
  rows, = packed
  for tokens, segments in zip(rows.tokens, rows.segment_ids):
    texts += [tokenizer.decode(tokens[segments == segment], skip_special=False)
              for segment in range(1, segments.max() + 1)]
  documents = [miniature.document_text(*pair) + miniature.END
               for block in (0, 1) for pair in miniature.corpus(0, block, 40)]
  whole = [text for text in documents if len(tokenizer.encode(text)) <= 64]
  assert len(texts) == len(documents) == 80 and set(whole) <= set(texts) and len(whole) > 60


def test_impossible_pre_training_is_refused(tiny_blocks):
  for fields, sentence in (
      (dict(documents=100), 'documents must be a multiple of 40, got 100'),
      (dict(preset='minature'), "preset must be .*got 'minature': did you mean 'miniature'"),
      (dict(rows=0), 'rows must be at least 1, got 0')):
    with pytest.raises(ValueError, match=sentence):
      pretrain.SETTINGS.check(tiny_blocks | fields, 'config.stages.base')
