"""Pre-training the miniature's base on its own corpus, tokenizer included."""
from collections.abc import Callable, Iterator, Mapping
import json
from typing import Any

import jax

from r1jax import models
from r1jax.data import miniature
from r1jax.data.packing import PackedRows, pack
from r1jax.models import ModelConfig
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, program_shapes, sft
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import Field, Section, plain
from r1jax.stages.fields import (
  COMPUTE_DTYPE,
  REMAT,
  checkpoints,
  common,
  divisible,
  evaluations,
)
from r1jax.stages.stage import begin, draw_curves, leave_artifact, owns_folder
from r1jax.tokenization import Tokenizer

_BLOCK = 10_000    # documents that are drawn from one seed


def _impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  yield from divisible(config, 'rows', 'micro_batches')
  if config['documents'] % _BLOCK:
    yield f'documents must be a multiple of {_BLOCK}, got {config["documents"]}'


SETTINGS = Section(common('pretrain') | dict(
    preset=Field('miniature', 'the shape of the model', choices=tuple(models.PRESETS)),
    compute_dtype=COMPUTE_DTYPE, remat=REMAT,
    documents=Field(400_000, "documents of the miniature's corpus", at_least=1),
    **sft.batches(rows=64, row_length=160),
    optimizer=sft.optimizer_section(3e-3, warmup_steps=50, final_learning_rate=1.5e-4,
                                    weight_decay=0.1),
    export_dtype=Field('bfloat16', 'type of the exported weights',
                       choices=models.huggingface.WRITTEN_TYPES, exports=True),
    **checkpoints(200, 'steps'),
    log_every=Field(20, 'steps between logged metrics', at_least=1, how=True),
    evaluations=evaluations(evaluate.SETTINGS)), 'pre-training', pairs=_impossible_pairs)

DEFAULT = SETTINGS.default


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """There is nothing to read: the corpus is made by rules."""
  del config, tokenizer


def miniature_tokenizer(seed: int, vocab_size: int) -> Tokenizer:
  """The miniature's tokenizer, learnt from its corpus."""
  settings = {'eos_token': miniature.END, 'pad_token': miniature.PAD}
  return Tokenizer({'tokenizer.json': miniature.train_tokenizer(seed, vocab_size).to_str(),
                    'tokenizer_config.json': json.dumps(settings)}, source='the miniature')


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'pretrain', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Trains a base from nothing; arguments and errors as for `stages.rl.run`."""
  config = plain(config)
  run = begin('pretrain', SETTINGS, config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  with sharding.use(run.mesh):
    if run.finished:
      return evaluate.complete(run)
    shape = models.PRESETS[config['preset']]
    tokenizer = miniature_tokenizer(config['seed'], shape.vocab_size)
    evaluate.check_sources(run, tokenizer)
    rows = _pack_corpus(config, tokenizer)
    model = models.build(shape, compute_dtype=config['compute_dtype'], remat=config['remat'],
                         token_mask=tokenizer.token_mask(shape.vocab_size))
    params = model.init(jax.random.key(config['seed']))
    params = sharding.put(params, sharding.shardings(run.mesh, model.logical_axes, params))
    untrained = loading.LoadedModel(model, params, tokenizer)
    trained = untrained.trained(
        sft.train_packed(run, untrained, rows), config['export_dtype'])
    table = evaluate.run_all(run, trained)
    draw_curves(run.workdir)
    return leave_artifact(
        run, model=shape, params=trained.params, tokenizer=tokenizer, template='miniature',
        scores=table, dtype=trained.dtype,
        compute=sft.computed(run, rows, shape, remat=config['remat']))


def _pack_corpus(config: Mapping[str, Any], tokenizer: Tokenizer) -> PackedRows:
  documents = [
      [*tokenizer.encode(miniature.document_text(*pair)), tokenizer.eos_id]
      for block in range(config['documents'] // _BLOCK)
      for pair in miniature.corpus(config['seed'], block, _BLOCK)]
  return pack(documents, row_length=config['row_length'], overlong='cut', pad_id=tokenizer.pad_id)


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """Those of SFT; arguments as for `rl.shapes`."""
  settings = {name: config[name] for name in ('preset', 'compute_dtype', 'remat')}
  return sft.shapes({**config, 'model': settings | {'source': ''}}, mesh, shape_of)
