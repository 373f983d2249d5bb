"""Pre-training the miniature's base on its own corpus, tokenizer included."""
from collections.abc import Callable, Mapping
import json
from typing import Any

import jax

from r1jax import checkpoint, models
from r1jax.data import miniature
from r1jax.data.packing import pack
from r1jax.models import ModelConfig
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, program_shapes, sft, supervised
from r1jax.stages.config import check_choice, check_config, plain
from r1jax.stages.stage import Artifact, draw_curves, leave_artifact
from r1jax.tokenization import Tokenizer

_BLOCK = 10_000    # documents that are drawn from one seed

DEFAULT = dict(
    kind='pretrain', inputs=(), seed=0,
    preset='miniature', compute_dtype='float32', remat=False,
    documents=400_000,                 # of the miniature's corpus, a multiple of 10,000
    last_step=0,                       # stop here; 0: after the epochs
    row_length=160, rows=64, micro_batches=1, epochs=1,
    optimizer=sft.OPTIMIZER | dict(learning_rate=3e-3, warmup_steps=50, final_learning_rate=1.5e-4,
                                   weight_decay=0.1),
    export_dtype='bfloat16',
    checkpoint_every=200, keep_checkpoints=2, log_every=20,
    evaluations={},
)


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible settings before anything is computed."""
  check_config(config, DEFAULT, where)
  supervised.check_batches(config, where)
  check_choice(config['preset'], models.PRESETS, f'{where}.preset')
  if config['documents'] < _BLOCK or config['documents'] % _BLOCK:
    raise ValueError(f'{where}.documents={config["documents"]} is no multiple of {_BLOCK}: '
                     'make it one')
  for name, evaluation in config['evaluations'].items():
    evaluate.check(evaluation, f'{where}.evaluations.{name}')


def miniature_tokenizer(seed: int, vocab_size: int) -> Tokenizer:
  """The miniature's tokenizer, learnt from its corpus."""
  settings = {'eos_token': miniature.END, 'pad_token': miniature.PAD}
  return Tokenizer({'tokenizer.json': miniature.train_tokenizer(seed, vocab_size).to_str(),
                    'tokenizer_config.json': json.dumps(settings)}, source='the miniature')


def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'pretrain', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Trains a base from nothing; arguments and errors as of `stages.rl.run`."""
  config = plain(config)
  check(config, f'config.stages.{stage}')
  workdir, mesh = Path(workdir), mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    shape = models.PRESETS[config['preset']]
    tokenizer = miniature_tokenizer(config['seed'], shape.vocab_size)
    evaluate.check_sources(config['evaluations'], inputs, tokenizer)
    documents = [
        [*tokenizer.encode(miniature.document_text(*pair)), tokenizer.eos_id]
        for block in range(config['documents'] // _BLOCK)
        for pair in miniature.corpus(config['seed'], block, _BLOCK)]
    rows = pack(documents, row_length=config['row_length'], overlong='cut',
                pad_id=tokenizer.pad_id)
    model = models.build(shape, compute_dtype=config['compute_dtype'], remat=config['remat'])
    params = model.init(jax.random.key(config['seed']))
    params = sharding.put(params, sharding.shardings(mesh, model.logical_axes, params))
    loaded = loading.LoadedModel(model, params, tokenizer)
    params = sft.train_packed(config, loaded, rows, workdir, stage=stage, mesh=mesh,
                              should_stop=should_stop, console=console,
                              last_step=config['last_step'])
    # What is evaluated is what is shipped: the rounded weights.
    rounded = jax.tree.map(
        lambda x: x.astype(config['export_dtype']).astype('float32'), params)
    table = evaluate.run_all(
        config['evaluations'], inputs, workdir, mesh=mesh, should_stop=should_stop,
        trained=loading.LoadedModel(model, rounded, tokenizer), console=console)
    draw_curves(workdir)
    return leave_artifact(
        workdir, kind='pretrain', stage=stage, inputs=inputs,
        config_hash=checkpoint.config_hash(config), model=shape, params=params,
        tokenizer=tokenizer, template='miniature', scores=table, dtype=config['export_dtype'],
        compute=sft.computed(config, rows, shape, workdir, remat=config['remat'],
                             last_step=config['last_step']))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """Those of SFT; arguments as of `rl.shapes`."""
  settings = {name: config[name] for name in ('preset', 'compute_dtype', 'remat')}
  return sft.shapes(config | {'model': settings | {'source': ''}}, mesh, shape_of)
