"""Supervised fine-tuning on prompts and completions, packed, with loss on completions only.

`train_packed` is also what pre-training runs, with loss on every token.
"""
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import checkpoint, losses
from r1jax.data.curation import readable_completion
from r1jax.data.jsonl import reasoning_source
from r1jax.data.packing import PackedRows, pack
from r1jax.masked import masked_sum
from r1jax.models import Model, ModelConfig, compute
from r1jax.rewards import extract
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import (
  auxiliary,
  datasets,
  evaluate,
  loading,
  program_shapes,
  supervised,
  supervised_program_shapes,
)
from r1jax.stages.config import check_config, plain
from r1jax.stages.stage import Artifact, draw_curves, leave_artifact
from r1jax.tokenization import Tokenizer, opens_think, render_prompt
from r1jax.training.logprobs import token_logprobs

OPTIMIZER = dict(learning_rate=5e-5, warmup_steps=0, final_learning_rate=5e-6, weight_decay=0.0,
                 max_grad_norm=1.0, beta1=0.9, beta2=0.95)

DEFAULT = dict(
    kind='sft', inputs=(), seed=0,
    model=loading.MODEL,
    sample_stages=(),              # the input stages (of kind 'reject') that drew them
    files=(),                # one's own: JSONL of prompt, reasoning, summary, in the template
    data={},                 # name and fields of `stages.datasets.DATASETS`; examples with reasoning
    template='miniature',    # of files, data and the manifest; samples hold whole prompts
    row_length=128, rows=64, micro_batches=1, epochs=2, overlong='skip',
    last_step=0,             # stop here; 0: after the epochs
    optimizer=OPTIMIZER,     # cosine from learning_rate to final_learning_rate over the run
    experts=auxiliary.EXPERTS,
    prediction_coefficient=0.0,   # of DeepSeek-V3's prediction head, read if it is above 0
    checkpoint_every=200, keep_checkpoints=2,      # steps, checkpoints
    log_every=10,                                  # steps
    evaluations={},
)

_TAGS = (
    extract.THINK_OPENING, extract.THINK_CLOSING, extract.ANSWER_OPENING, extract.ANSWER_CLOSING)


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible settings before anything is loaded."""
  check_config(config, DEFAULT, where)
  supervised.check_batches(config, where)
  supervised.check_sample_stages(config, where, 'files', 'data')
  auxiliary.check_experts(config['experts'], f'{where}.experts')
  if not 0 <= config['prediction_coefficient'] < float('inf'):
    raise ValueError(f'{where}.prediction_coefficient={config["prediction_coefficient"]} is no '
                     'share: set it to 0 or above')
  if config['data']:
    datasets.check_data(config['data'], f'{where}.data')
  for name, evaluation in config['evaluations'].items():
    evaluate.check(evaluation, f'{where}.evaluations.{name}')


def own_samples(
    files: Iterable[str], template: str, tokenizer: Tokenizer,
) -> list[dict[str, str]]:
  """Prompts and completions of one's own JSONL files, in the readable pattern of `curation`.

  Raises:
    FileNotFoundError, ValueError: as `data.jsonl.reasoning_source`.
  """
  return [_sample(row['question'], row['reasoning'], row['summary'], template, tokenizer)
          for path in files for row in reasoning_source(path)]


def data_samples(
    data: Mapping[str, Any], template: str, tokenizer: Tokenizer,
) -> list[dict[str, str]]:
  """Prompts and completions of the train split of a dataset, its answers being the summaries.

  Raises:
    FileNotFoundError, ValueError: the data cannot be read, or an example has no `reasoning`, or a
      tag in it or in its answer.
  """
  samples, examples = [], datasets.load_examples(data, 'train')
  for index in range(len(examples)):
    example = examples[index]
    reasoning, summary = str(example.get('reasoning') or ''), str(example['answer'])
    where = f'example {index} of the data {data["name"]!r}'
    if not reasoning.strip():
      raise ValueError(f'{where} has no reasoning to learn: give it one, or take other data')
    for tag in _TAGS:
      if tag in reasoning + summary:
        raise ValueError(f'{where} holds {tag}: leave tags out of reasoning and answer, they are '
                         'added')
    samples.append(_sample(example['question'], reasoning, summary, template, tokenizer))
  return samples


def _sample(
    question: str, reasoning: str, summary: str, template: str, tokenizer: Tokenizer,
) -> dict[str, str]:
  prompt = render_prompt(template, question, tokenizer)
  completion = readable_completion(
      reasoning, summary, prompt=prompt, opened=opens_think(template, tokenizer))
  return {'prompt': prompt, 'completion': completion}


def read_sources(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer,
) -> dict[str, list[Mapping[str, str]]]:
  """Prompts and completions of all that a stage learns from, by its source.

  The sources are 'files', 'data' and 'stage <name>'; errors as of `own_samples`, `data_samples`.
  """
  sources = {}
  if config['files']:
    sources['files'] = own_samples(config['files'], config['template'], tokenizer)
  if config['data']:
    sources['data'] = data_samples(config['data'], config['template'], tokenizer)
  return sources | {f'stage {name}': supervised.read_drawn(inputs, name)
                    for name in config['sample_stages']}


def pack_samples(
    samples: Iterable[Mapping[str, str]], tokenizer: Tokenizer, row_length: int, overlong: str,
) -> PackedRows:
  """Prompts and completions, each ended by the end token, packed; only completions are learnt."""
  documents, weights = [], []
  for sample in samples:
    prompt = tokenizer.encode(sample['prompt'], add_special=True)
    completion = [*tokenizer.encode(sample['completion']), tokenizer.eos_id]
    documents.append(prompt + completion)
    weights.append([0.0] * len(prompt) + [1.0] * len(completion))
  return pack(documents, weights, row_length=row_length, overlong=overlong,
              pad_id=tokenizer.pad_id)


def make_loss(
    model: Model, *, experts: Mapping[str, float] = auxiliary.EXPERTS,
    prediction_coefficient: float = 0.0, micro_batches: int = 1,
) -> Callable:
  """loss(params, (tokens, segment_ids, positions, weights), Σ weights) of packed rows [R, T].

  Args:
    model: with a prediction head if `prediction_coefficient` is above 0.
    experts, prediction_coefficient: see `auxiliary`.
    micro_batches: of the batch whose micro-batches the loss is given.
  """
  def loss(params, rows, normalizer):
    tokens, segment_ids, positions, weights = rows
    hidden, _, aux = model.apply(params, tokens, positions=positions, segment_ids=segment_ids)
    # The last place predicts none, by its weight: lengths stay what tiles of memory divide.
    logprobs, entropies = token_logprobs(
        hidden, model.unembedding(params), jnp.roll(tokens, -1, 1))
    weights = jnp.pad(weights[:, 1:], ((0, 0), (0, 1)))
    value, _ = losses.supervised_loss(logprobs, weights, normalizer=normalizer)
    measured, head = {'entropy': masked_sum(entropies * weights, weights) / normalizer}, None
    if prediction_coefficient:
      ahead, head = auxiliary.prediction_loss(model, params, hidden, rows, normalizer)
      value += prediction_coefficient * ahead
      measured['prediction_loss'] = ahead
    balancing, counted = auxiliary.balance(
        [aux['routing']] if aux else [], head, model.config, experts,
        tokens.shape[0] * micro_batches)
    return value + balancing, measured | counted
  return loss


def loss_and_after(
    config: Mapping[str, Any], model: Model) -> tuple[Callable, Callable | None]:
  """What `train_step.make_update` takes, by a stage that trains on packed rows."""
  extra = {field: config[field] for field in ('experts', 'prediction_coefficient')
           if field in config}
  loss = make_loss(model, micro_batches=config['micro_batches'], **extra)
  return loss, auxiliary.after_update(model.config, config.get('experts', auxiliary.EXPERTS))


def train_packed(
    config: Mapping[str, Any], loaded: loading.LoadedModel, rows: PackedRows, workdir: Path, *,
    stage: str, mesh: jax.sharding.Mesh, should_stop: Callable[[], bool], console=None,
    last_step: int | None = None,
) -> Any:
  """Trains on packed rows; arguments and errors as of `supervised.train`."""
  arrays = rows.tokens, rows.segment_ids, rows.positions, rows.weights
  loss, after = loss_and_after(config, loaded.model)
  return supervised.train(
      config, loaded.params, arrays, workdir, loss=loss, after=after,
      normalizer=lambda batch: max(1e-8, batch[3][:, 1:].sum()),
      logical_axes=loaded.model.logical_axes, stage=stage, mesh=mesh, should_stop=should_stop,
      console=console, last_step=last_step)


def computed(
    config: Mapping[str, Any], rows: PackedRows, shape: ModelConfig, workdir: Path, *, remat: bool,
    last_step: int | None = None,
) -> compute.Compute:
  """What a whole run of `train_packed` took, and the stage's evaluations."""
  times = supervised.times_trained(config, len(rows.segment_ids), last_step)
  return compute.training_rows(shape, rows.segment_ids, remat=remat, times=times) + (
      evaluate.computed(config['evaluations'], workdir))


def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'sft', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Fine-tunes a model on samples; arguments and errors as of `stages.rl.run`.

  Besides evaluations the manifest's scores have `samples/<source>`, how many each source gave
  (those too long for a row included); for the sources see `read_sources`.
  """
  config = plain(config)
  check(config, f'config.stages.{stage}')
  workdir, mesh = Path(workdir), mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    loaded = loading.load_model(inputs=inputs, mesh=mesh, **config['model'],
                               prediction_head=config['prediction_coefficient'] > 0)
    auxiliary.check_model(config, loaded.model.config, f'config.stages.{stage}')
    evaluate.check_sources(config['evaluations'], inputs, loaded.tokenizer)
    sources = read_sources(config, inputs, loaded.tokenizer)
    rows = pack_samples(itertools.chain(*sources.values()), loaded.tokenizer,
                        config['row_length'], config['overlong'])
    params = train_packed(config, loaded, rows, workdir, stage=stage, mesh=mesh,
                          should_stop=should_stop, console=console, last_step=config['last_step'])
    trained = loading.LoadedModel(loaded.model, params, loaded.tokenizer)
    table = evaluate.run_all(config['evaluations'], inputs, workdir, trained=trained, mesh=mesh,
                             should_stop=should_stop, console=console)
    draw_curves(workdir)
    return leave_artifact(
        workdir, kind='sft', stage=stage, config_hash=checkpoint.config_hash(config),
        inputs=inputs, model=loaded.model.config, params=params, tokenizer=loaded.tokenizer,
        template=config['template'], scores=table | {
            f'samples/{source}': len(samples) for source, samples in sources.items()},
        compute=computed(config, rows, loaded.model.config, workdir,
                         remat=config['model']['remat'], last_step=config['last_step']))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """The update on packed rows, and the memory of an evaluation; see `rl.shapes`."""
  shape = dataclasses.replace(
      shape_of(config['model']), prediction_head=config.get('prediction_coefficient', 0) > 0)
  model = program_shapes.model_of(config['model'], shape)
  work = yield from supervised_program_shapes.packed_update(
      config, mesh, model, *loss_and_after(config, model))
  yield from evaluate.largest_programs(config, mesh, shape_of, program_shapes.params_of(model, mesh))
  return work
