"""Supervised fine-tuning on prompts and completions, packed, with loss on completions only.

`train_packed` is also what pre-training runs, with loss on every token.
"""
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses
from r1jax.data import jsonl
from r1jax.data.packing import PackedRows, pack
from r1jax.data.readable import readable_completion
from r1jax.errors import UserError
from r1jax.masked import masked_sum
from r1jax.metrics.terminal import warn
from r1jax.models import Model, ModelConfig, compute
from r1jax.prompting.templates import (
  SPELT,
  PromptFormat,
  Question,
  asked,
  check_question,
  encode_completion,
  encode_prompt,
  opens_think,
  render_prompt,
  spells_control_tokens,
)
from r1jax.rewards import extract
from r1jax.runtime import sharding
from r1jax.runtime.storage import Path
from r1jax.stages import (
  auxiliary,
  difficulty,
  evaluate,
  loading,
  program_shapes,
  supervised,
)
from r1jax.stages.artifact import Artifact
from r1jax.stages.config import Field, Section, Spec, plain
from r1jax.stages.datasets import Problems, columns_field, data_field
from r1jax.stages.fields import (
  EXPERTS,
  EXPORT_DTYPE,
  MAX_TOKENS,
  MODEL,
  PROMPT,
  TEMPLATE,
  checkpoints,
  common,
  divisible,
  evaluations,
  optimizer,
  prompt_faults,
  prompt_format,
)
from r1jax.stages.stage import StageRun, begin, draw_curves, leave_artifact, owns_folder
from r1jax.tokenization import Tokenizer
from r1jax.training.logprobs import token_logprobs

NO_EXPERTS = EXPERTS.default
TOTAL = 'the learning rate follows a cosine over all epochs'


def optimizer_section(learning_rate: float, **defaults: float) -> Section:
  """AdamW with a cosine from `learning_rate` over the whole run; `defaults` replace others."""
  fields = optimizer(learning_rate) | dict(
      final_learning_rate=Field(learning_rate / 10, 'at the end of the cosine', at_least=0))
  return Section({name: dataclasses.replace(field, default=defaults.get(name, field.default))
                  for name, field in fields.items()}, 'AdamW, and its cosine')


def batches(rows: int, row_length: int) -> dict[str, Spec]:
  """How packed rows become batches."""
  return dict(
      row_length=Field(row_length, 'tokens of a packed row', at_least=2, at_most=MAX_TOKENS),
      rows=Field(rows, 'packed rows of a batch', at_least=1),
      micro_batches=Field(1, 'parts of a batch whose gradients are accumulated', at_least=1,
                          how=True),
      epochs=Field(1, 'passes over the data', at_least=1, restart=TOTAL),
      last_step=Field(0, 'the run stops after this step; 0: after all epochs', at_least=0,
                      extends=True))


def sources_are_missing(config: Mapping[str, Any], *fields: str) -> Iterator[str]:
  """Faults where `sample_stages` are not inputs, or neither they nor the other `fields` are set."""
  for name in config['sample_stages']:
    if name not in config['inputs']:
      yield (f'sample_stages names {name!r}, which is not one of inputs={list(config["inputs"])}: '
             'add it there')
  if not any(config[field] for field in ('sample_stages', *fields)):
    yield (f'sample_stages must not be empty where {" and ".join(fields)} '
           f'{"are" if len(fields) > 1 else "is"}: give the stage something to learn from')


def _impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  yield from divisible(config, 'rows', 'micro_batches')
  yield from sources_are_missing(config, 'files', 'data')
  yield from jsonl.column_faults(config['columns'], jsonl.WORKED)
  yield from prompt_faults(config)


SETTINGS = Section(common('sft') | dict(
    model=MODEL,
    sample_stages=Field((), "input stages of kind 'reject' whose samples are learnt"),
    files=Field((), 'JSONL files of prompt, reasoning and summary', names='files'),
    columns=columns_field(),
    data=data_field('examples with reasoning', required=False, filter=difficulty.FILTER),
    template=TEMPLATE, prompt=PROMPT,
    **batches(rows=64, row_length=128) | dict(epochs=Field(
        2, 'passes over the data', at_least=1, restart=TOTAL)),
    overlong=Field('skip', 'what becomes of samples that are longer than a row',
                   choices=('skip', 'error', 'cut')),
    optimizer=optimizer_section(5e-5),
    experts=EXPERTS,
    prediction_coefficient=Field(
        0.0, "times the loss of DeepSeek-V3's prediction head, which is loaded if this is above 0",
        at_least=0),
    **checkpoints(200, 'steps'), export_dtype=EXPORT_DTYPE,
    log_every=Field(10, 'steps between logged metrics', at_least=1, how=True),
    evaluations=evaluations(evaluate.SETTINGS)), 'supervised fine-tuning', pairs=_impossible_pairs)

DEFAULT = SETTINGS.default


class Sample(NamedTuple):
  """What is learnt of one prompt.

  Attributes:
    prompt: its ids.
    completion: the ids after it, ended by what ends completions of its template.
    spells_control: whether question or completion spell control tokens that are encoded as text.
  """
  prompt: list[int]
  completion: list[int]
  spells_control: bool = False


def own_samples(
    files: Iterable[str], columns: Mapping[str, str], template: PromptFormat, tokenizer: Tokenizer,
) -> list[Sample]:
  """Samples of one's own JSONL files, in the readable pattern of `curation`.

  Raises:
    FileNotFoundError, UserError: as `data.jsonl.reasoning_source`.
  """
  samples = []
  for path in files:
    for index, row in enumerate(jsonl.reasoning_source(path, columns)):
      check_question(template, asked(row), f'{path}: the question of example {index}')
      samples.append(_sample(asked(row), row['reasoning'], row['summary'], template, tokenizer))
  return samples


def data_samples(
    problems: Problems, name: str, template: PromptFormat, tokenizer: Tokenizer) -> list[Sample]:
  """Samples of examples of the dataset `name`, their answers being the summaries.

  Raises:
    UserError: an example has no `reasoning` or no answer, or a tag in one of them.
  """
  samples, (examples, indices) = [], problems
  for index in range(len(examples)) if indices is None else indices.tolist():
    example = examples[index]
    reasoning, summary = str(example.get('reasoning') or ''), str(example.get('answer', ''))
    where = f'example {index} of the data {name!r}'
    check_question(template, asked(example), f'the question of {where}')
    for field, text in (('reasoning', reasoning), ('answer', summary)):
      if not text.strip():
        raise UserError(f'{where} has no {field} to learn: give it one, or take other data')
    for tag in extract.TAGS:
      if tag in reasoning + summary:
        raise UserError(f'{where} holds {tag}: leave tags out of reasoning and answer, they are '
                         'added')
    samples.append(_sample(asked(example), reasoning, summary, template, tokenizer))
  return samples


def _sample(
    question: Question, reasoning: str, summary: str, template: PromptFormat, tokenizer: Tokenizer,
) -> Sample:
  completion = readable_completion(
      reasoning, summary, prompt=render_prompt(template, question, tokenizer),
      prompt_opens_think=opens_think(template, tokenizer))
  return _encoded(question, completion, template, tokenizer)


def _encoded(
    question: Question, completion: str, template: PromptFormat, tokenizer: Tokenizer) -> Sample:
  return Sample(encode_prompt(template, question, tokenizer),
                encode_completion(template, completion, tokenizer),
                spells_control_tokens(template, tokenizer, question, completion))


def drawn_samples(
    inputs: Mapping[str, Artifact], name: str, tokenizer: Tokenizer) -> list[Sample]:
  """Samples that a stage of kind 'reject' has left, after the prompts that they were drawn with.

  Where this tokenizer's chat template would write another prompt, or it has none, the text of the
  prompt is learnt as it was written.
  """
  rows, manifest = supervised.read_drawn(inputs, name), inputs[name].manifest
  template = PromptFormat(manifest.template, **manifest.prompt)
  written = PromptFormat('plain', parse_control_tokens=True)
  ended = template if template.text is not None or tokenizer.chat_template else written
  samples = []
  for row in rows:
    question = asked(row)
    sample = _encoded(question, row['completion'], ended, tokenizer)
    if ended is written or render_prompt(template, question, tokenizer) != row['prompt']:
      sample = sample._replace(prompt=encode_prompt(written, row['prompt'], tokenizer))
    samples.append(sample)
  return samples


def read_sources(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], tokenizer: Tokenizer,
    problems: Problems,
) -> dict[str, list[Sample]]:
  """All that a stage learns from, by its source.

  The sources are 'files', 'data' (the examples `problems`) and 'stage <name>'; errors as for
  `own_samples`, `data_samples`.
  """
  sources: dict[str, list[Sample]] = {}
  if config['files']:
    sources['files'] = own_samples(
        config['files'], config['columns'], prompt_format(config), tokenizer)
  if config['data']:
    sources['data'] = data_samples(
        problems, config['data']['name'], prompt_format(config), tokenizer)
  for name in config['sample_stages']:
    sources[f'stage {name}'] = drawn_samples(inputs, name, tokenizer)
  return sources


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads `files` and `data`; errors as for `own_samples`, `data_samples`, `difficulty.choose`."""
  read_sources({**config, 'sample_stages': ()}, {}, tokenizer, _chosen(config, None).problems)


def _chosen(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact] | None) -> difficulty.Chosen:
  if not config['data']:
    return difficulty.Chosen(Problems(()))
  return difficulty.choose(config, 'train', inputs)


def pack_samples(
    samples: Iterable[Sample], row_length: int, overlong: str, *, pad_id: int) -> PackedRows:
  """Samples packed; only completions are learnt."""
  documents, weights = [], []
  for sample in samples:
    documents.append(sample.prompt + sample.completion)
    weights.append([0.0] * len(sample.prompt) + [1.0] * len(sample.completion))
  return pack(documents, weights, row_length=row_length, overlong=overlong, pad_id=pad_id)


def make_loss(
    model: Model, *, experts: Mapping[str, float] = NO_EXPERTS,
    prediction_coefficient: float = 0.0, micro_batches: int = 1,
) -> Callable:
  """loss(params, (tokens, segment_ids, positions, weights), Σ weights) of packed rows [R, T].

  Args:
    model: with a prediction head if `prediction_coefficient` is above 0.
    experts: of `fields.EXPERTS`.
    prediction_coefficient: times the loss of the prediction head.
    micro_batches: of the batch whose micro-batches the loss is given.
  """
  def loss(params, rows, normalizer):
    tokens, segment_ids, positions, weights = rows
    hidden, _, aux = model.apply(params, tokens, positions=positions, segment_ids=segment_ids)
    # The last place predicts none, by its weight: lengths stay what tiles of memory divide.
    logprobs, entropies = token_logprobs(
        hidden, model.unembedding(params), jnp.roll(tokens, -1, 1), token_mask=model.token_mask)
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
  return loss, auxiliary.after_update(model.config, config.get('experts', NO_EXPERTS))


def train_packed(
    run: StageRun, loaded: loading.LoadedModel, rows: PackedRows,
) -> Any:
  """Trains on packed rows and returns the parameters; errors as for `supervised.train`."""
  arrays = rows.tokens, rows.segment_ids, rows.positions, rows.weights
  loss, after = loss_and_after(run.config, loaded.model)
  return supervised.train(
      run, loaded.params, arrays, loss=loss, after=after,
      normalizer=lambda batch: max(1e-8, batch[3][:, 1:].sum()),
      logical_axes=loaded.model.logical_axes)


def computed(
    run: StageRun, rows: PackedRows, shape: ModelConfig, *, remat: bool,
) -> compute.Compute:
  """What a whole run of `train_packed` took, and the stage's evaluations."""
  times = supervised.times_trained(run.config, len(rows.segment_ids))
  return compute.training_rows(shape, rows.segment_ids, remat=remat, times=times) + (
      evaluate.computed(run.config['evaluations'], run.workdir))


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'sft', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Fine-tunes a model on samples; arguments and errors as for `stages.rl.run`.

  Besides evaluations the manifest's scores have `samples/<source>`, how many each source gave
  (those too long for a row included; for the sources see `read_sources`), and
  `samples_spelling_control_tokens`.
  """
  config = plain(config)
  run = begin('sft', SETTINGS, config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  with sharding.use(run.mesh):
    if run.finished:
      return evaluate.complete(run)
    loaded = loading.load_model(inputs=inputs, mesh=run.mesh, **config['model'],
                                prediction_head=config['prediction_coefficient'] > 0)
    auxiliary.check_model(config, loaded.model.config, run.where)
    evaluate.check_sources(run, loaded.tokenizer)
    chosen = _chosen(config, inputs)
    chosen.announce(stage, console)
    sources = read_sources(config, inputs, loaded.tokenizer, chosen.problems)
    samples = list(itertools.chain(*sources.values()))
    spelling = sum(sample.spells_control for sample in samples)
    if spelling:
      warn(SPELT.format(spelling, f'{len(samples)} samples'))
    rows = pack_samples(samples, config['row_length'], config['overlong'],
                        pad_id=loaded.tokenizer.pad_id)
    trained = loaded.trained(train_packed(run, loaded, rows), config['export_dtype'])
    table = evaluate.run_all(run, trained)
    draw_curves(run.workdir)
    return leave_artifact(
        run, model=loaded.model.config, params=trained.params, tokenizer=loaded.tokenizer,
        dtype=trained.dtype, template=config['template'], scores=table | {
            f'samples/{source}': len(found) for source, found in sources.items()} | {
                'samples_spelling_control_tokens': spelling} | chosen.scores(),
        compute=computed(run, rows, loaded.model.config, remat=config['model']['remat']))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """The update on packed rows, all of them full, and the largest evaluation; see `rl.shapes`."""
  shape = dataclasses.replace(
      shape_of(config['model']), prediction_head=config.get('prediction_coefficient', 0) > 0)
  model = program_shapes.model_of(config['model'], shape)
  rows, length = config['rows'], config['row_length']
  params, (loss, after) = program_shapes.params_of(model, mesh), loss_and_after(config, model)
  ints = program_shapes.table(mesh, rows, length, dtype='int32')
  yield supervised.update_shapes(
      config, mesh, params, model.logical_axes,
      (ints, ints, ints, program_shapes.table(mesh, rows, length)), loss=loss, after=after,
      useful=compute.training_rows(
          model.config, np.ones((rows, length), int), remat=False).trained)
  yield from evaluate.largest_shapes(config, mesh, shape_of, params)
  return program_shapes.IterationWork(rows * length, 1, config['last_step'])
