"""Evaluation as a stage, and the table of base against trained that ends a training stage."""
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
import dataclasses
import functools
import json
import random
from typing import Any

import jax

from r1jax import checkpoint, metrics
from r1jax import evaluate as evaluation
from r1jax.data.prompts import PromptStream
from r1jax.data.readable import readable_completion
from r1jax.errors import UserError
from r1jax.models import Model, ModelConfig, compute
from r1jax.prompting.templates import opens_think, stop_ids
from r1jax.rewards.skills import by_check
from r1jax.rewards.suite import REWARDS, RewardSuite, named_rewards
from r1jax.runtime import hosts, ownership, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.sampling.drawing import Interrupted
from r1jax.sampling.sampler import Sampler
from r1jax.stages import datasets, loading, program_shapes
from r1jax.stages.artifact import TRAINED, Artifact, identities, open_artifact
from r1jax.stages.config import Field, Section, plain
from r1jax.stages.datasets import data_field
from r1jax.stages.fields import (
  MAX_PROMPT_LENGTH,
  MODEL,
  OVERLONG_PROMPT,
  PROMPT,
  REWARD_SETTINGS,
  REWARD_WORKERS,
  TEMPLATE,
  common,
  evaluations,
  prompt_faults,
  prompt_format,
  reward_setting_faults,
  reward_suite,
  sampler_options,
  sampling,
)
from r1jax.stages.parameter_hash import parameter_hash
from r1jax.stages.program_shapes import ProgramShapes
from r1jax.stages.stage import (
  StageRun,
  StopRequested,
  begin,
  leave_files,
  look,
  owns_folder,
  read_evaluation,
  wanted_evaluation,
  wanted_evaluations,
  write_evaluation,
)
from r1jax.tokenization import Tokenizer


def _nothing_to_do(config: Mapping[str, Any]) -> Iterator[str]:
  if not config['evaluations']:
    yield 'evaluations is empty: name at least one'


def impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  """Faults of an evaluation, or of a stage that draws as one, in more than one field."""
  yield from prompt_faults(config)
  if config['sampling']['carry_over']:
    yield 'sampling.carry_over must be False where nothing is trained, got True'
  yield from reward_setting_faults(
      config['reward_settings'], [config['correctness_reward']], '', 'correctness_reward')


SETTINGS = Section(common('evaluate') | dict(
    model=dataclasses.replace(MODEL, fields=dict(MODEL.fields) | dict(source=Field(
        TRAINED, "as of a stage that trains; 'trained' is the model that it has just trained",
        names='model'))),
    data=data_field('the problems'),
    split=Field('test', 'of the data', choices=('train', 'test')),
    template=TEMPLATE, prompt=PROMPT, max_prompt_length=MAX_PROMPT_LENGTH, overlong=OVERLONG_PROMPT,
    problems=Field(500, 'problems in all', at_least=1),
    prompts_per_batch=Field(125, 'problems whose completions are drawn at a time', at_least=1,
                            how=True),
    completions_per_problem=Field(8, 'completions drawn for each', at_least=1),
    shots=Field(0, 'examples of the train split shown before every question', at_least=0),
    sampling=sampling(greedy=True),
    correctness_reward=Field('number', 'the reward that decides what is correct, where an example '
                             'names no check of its own', choices=REWARDS),
    reward_settings=REWARD_SETTINGS,
    **REWARD_WORKERS), 'an evaluation of one model', pairs=impossible_pairs)
SEVERAL_SETTINGS = Section(common('evaluate') | dict(
    model=MODEL,
    evaluations=evaluations(SETTINGS)), 'several evaluations of one model', pairs=_nothing_to_do)

DEFAULT = SETTINGS.default
SEVERAL = SEVERAL_SETTINGS.default    # source 'trained' is the model here


def settings(config: Mapping[str, Any]) -> Section:
  """The settings that a config has: SEVERAL's where it holds `evaluations`, else DEFAULT's."""
  return SEVERAL_SETTINGS if 'evaluations' in config else SETTINGS


def evaluate_model(
    config: Mapping[str, Any], loaded: loading.LoadedModel, *, mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool] = lambda: False, problems: datasets.Problems | None = None,
) -> tuple[dict[str, tuple[float, float, float]], list[dict]]:
  """(scores with intervals, one record a completion) of a loaded model, by fields of DEFAULT.

  `problems` as for `problem_stream`.
  """
  tokenizer = loaded.tokenizer
  template = prompt_format(config)
  stops, prompt_opens_think = stop_ids(template, tokenizer), opens_think(template, tokenizer)
  stream = problem_stream(
      {**config, 'prompts_per_batch': datasets.prompts_at_a_time(config, mesh)}, tokenizer,
      problems)
  sample = make_sampler(config, loaded.model, stops, should_stop)
  with make_rewards(config, stream.source, prompt_opens_think) as rewards:
    try:
      return evaluation.evaluate(
          sample, loaded.params, stream, rewards, tokenizer,
          num_problems=config['problems'], num_samples=config['completions_per_problem'],
          stop_ids=stops,
          prompt_opens_think=prompt_opens_think,
          ks=tuple(sorted({1, config['completions_per_problem']})), mesh=mesh)
    except Interrupted:
      raise StopRequested('an evaluation was asked to stop: those before it are kept; run '
                                 'the same command to go on') from None


def make_rewards(
    config: Mapping[str, Any], examples: Iterable[Mapping[str, Any]], prompt_opens_think: bool,
) -> RewardSuite:
  """The suite of the reward that decides what is correct, or of the examples' own checks."""
  functions = named_rewards(
      {config['correctness_reward']: 1.0}, settings=config['reward_settings'],
      prompt_opens_think=prompt_opens_think)
  if any(example.get('check') for example in examples):
    functions = {name: (by_check(function, prompt_opens_think=prompt_opens_think), weight)
                 for name, (function, weight) in functions.items()}
  return reward_suite(functions, config)


def make_sampler(
    config: Mapping[str, Any], model: Model, stops: tuple[int, ...],
    should_stop: Callable[[], bool] = lambda: False,
) -> Sampler:
  """The sampler of `completions_per_problem` completions for each prompt."""
  return Sampler(
      model, group_size=config['completions_per_problem'], stop_ids=stops, seed=config['seed'],
      compute_dtype=config['model']['compute_dtype'], should_stop=should_stop,
      **sampler_options(config['sampling']))


def problem_stream(
    config: Mapping[str, Any], tokenizer: Tokenizer, problems: datasets.Problems | None = None,
) -> PromptStream:
  """The prompts of an evaluation; a batch has no more of them than there are problems.

  Args:
    config: of the evaluation, or of a stage that draws as one.
    tokenizer: of the model.
    problems: those of the config's data that are read; None: all of its split.

  Raises:
    FileNotFoundError, UserError: the data cannot be read, or they have fewer different problems
      than `config['problems']`: some would count twice, with the same completions.
  """
  if problems is None:
    problems = datasets.Problems(datasets.load_examples(config['data'], config['split']))
  wanted = config['problems']
  stream = datasets.prompt_stream(
      config, tokenizer, problems, shuffle=config['split'] == 'train', at_most=wanted,
      shots=shown_examples(config))
  found = stream.num_fitting(wanted)
  if found < wanted:
    less = [f'shots={config["shots"]}'] if config['shots'] else []
    less += ['data.filter'] if problems.indices is not None else []
    shown = f' after {" and ".join(less)}' if less else ''
    raise UserError(
        f'evaluation: problems={wanted}, but the {config["split"]} split of '
        f'{config["data"]["name"]!r} has only {found} prompts of at most max_prompt_length='
        f'{config["max_prompt_length"]} tokens{shown}: lower problems to {found}, or give more '
        'data')
  return stream


def shown_examples(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(question, completion) of `shots` examples of the train split, drawn by the seed.

  The completion is in the readable pattern where the example has `reasoning`, else its answer.

  Raises:
    UserError: there are fewer.
  """
  if not config['shots']:
    return []
  examples = datasets.load_examples(config['data'], 'train')
  if len(examples) < config['shots']:
    raise UserError(f'evaluation: shots={config["shots"]}, but the train split of '
                     f'{config["data"]["name"]!r} has {len(examples)} examples: lower shots')
  chosen = random.Random(f'shots {config["seed"]}').sample(range(len(examples)), config['shots'])
  return [(example['question'], worked_answer(example)) for example in map(
      examples.__getitem__, chosen)]


def worked_answer(example: Mapping[str, Any]) -> str:
  """An example's answer, after its reasoning where it has any.

  Raises:
    UserError: it has no answer.
  """
  if 'answer' not in example:
    raise UserError('evaluation: shots show answers, and an example of the train split has none: '
                    'set shots=0, or give each example an answer')
  answer = str(example['answer'])
  return readable_completion(example['reasoning'], answer) if example.get('reasoning') else answer


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads the problems, unless there are several evaluations; errors as for `problem_stream`."""
  if 'evaluations' not in config:
    problem_stream(config, tokenizer)


def check_sources(run: StageRun, tokenizer: Tokenizer | None) -> None:
  """Looks for the models and reads the data of a stage's evaluations, before it trains for them.

  `tokenizer` is that of the model to be trained, None where none is.

  Raises:
    FileNotFoundError, UserError: one is missing, or cannot be read, or has too few problems.
  """
  for config in _evaluations_of(run).values():
    source = config['model']['source']
    own = tokenizer if source == TRAINED else None
    problem_stream(config, own or loading.find_tokenizer(source, run.inputs))


def run_all(
    run: StageRun, trained: loading.LoadedModel | None, *, reloaded: bool = False,
) -> dict[str, dict[str, tuple[float, float, float]]]:
  """Runs a stage's evaluations, prints their table, and keeps it in the stage's folder.

  Each leaves `evaluations/<name>.json`; one that is there already, with the same identity, is not
  run again. The table goes to `results.md` and `results.json`.

  Args:
    run: of the stage.
    trained: the model that evaluations name as 'trained'; None where each names its own. An
      evaluation of other parameters runs again.
    reloaded: whether it is the stage's own result, which the export may have rounded.

  Returns:
    {evaluation: {score: (mean, low, high)}}.

  Raises:
    StopRequested: asked to stop; evaluations that are done are kept.
  """
  @functools.lru_cache(maxsize=1)
  def load(model: str) -> loading.LoadedModel:
    return loading.load_model(inputs=run.inputs, mesh=run.mesh, **json.loads(model))

  evaluations = _evaluations_of(run)
  wanted = hosts.from_first(lambda: _wanted(run))
  known = parameter_hash(trained.params) if trained is not None and not reloaded else ''
  table = {}
  for name, config in evaluations.items():
    found = hosts.from_first(functools.partial(read_evaluation, run.workdir, name))
    of_trained = config['model']['source'] == TRAINED and trained is not None
    model = known if of_trained else ''
    if found.get('identity') == wanted[name]['identity'] and (
        not model or found['parameters'] in (model, '')):
      table[name] = {key: tuple(value) for key, value in found['scores'].items()}
      continue
    loaded = trained if of_trained and trained is not None else load(to_json(config['model']))
    table[name], rows = evaluate_model(config, loaded, mesh=run.mesh, should_stop=run.should_stop)
    _keep_evaluation(run.workdir, name, rows, {
        **wanted[name], 'parameters': model, 'scores': table[name],
        'compute': compute.evaluating(loaded.model.config, rows).to_dict()})
  if table:
    keep_table(table, 'Mean with 95 % interval over problems', run.workdir, run.console)
  return table


def _evaluations_of(run: StageRun) -> dict[str, Mapping[str, Any]]:
  """The evaluations of a stage by name: of an evaluation stage, its own."""
  if run.kind != 'evaluate':
    return run.config['evaluations']
  if 'evaluations' in run.config:
    return _of_model(run.config['evaluations'], run.config['model'])
  return {run.name: run.config}


def _wanted(run: StageRun) -> dict[str, dict[str, Any]]:
  """What the files of a stage's evaluations are to say of them, by name."""
  rest = run.identity, identities(run.inputs), run.workdir
  if 'evaluations' in run.config:
    return wanted_evaluations(run.settings, run.config, *rest)
  return {run.name: wanted_evaluation(SETTINGS, run.name, run.config, *rest)}


def _keep_evaluation(workdir: Path, name: str, rows: list[dict], found: Mapping[str, Any]) -> None:
  """Writes an evaluation's completions, then its scores."""
  ownership.check()
  hosts.from_first(lambda: write_evaluation(workdir, name, rows, found))


def complete(run: StageRun) -> Artifact:
  """The Artifact of a finished stage, after the evaluations that it lacks."""
  artifact = open_artifact(run.workdir)
  state = hosts.from_first(lambda: look(
      run.settings, run.config, identities(run.inputs), run.workdir, run.functions))
  if state.state == 'done':
    return artifact
  trained = None
  if run.kind != 'evaluate':
    model = run.config.get('model', run.config)
    trained = loading.load_model(
        str(artifact.model_folder), {}, compute_dtype=model['compute_dtype'], remat=model['remat'],
        mesh=run.mesh)
  check_sources(run, trained.tokenizer if trained else None)
  table = run_all(run, trained, reloaded=True)
  trained_with = dataclasses.replace(
      compute.from_dict(artifact.manifest.compute), evaluated=0.0, evaluated_tokens=0)
  manifest = dataclasses.replace(
      artifact.manifest, scores=artifact.manifest.scores | table,
      compute=(trained_with + computed(table, run.workdir)).to_dict())
  hosts.from_first(lambda: checkpoint.write_manifest(run.workdir, manifest))
  return Artifact(run.workdir, manifest)


def computed(evaluations: Iterable[str], workdir: Path) -> compute.Compute:
  """What the evaluations of these names took that `run_all` has kept in `workdir`."""
  kept = hosts.from_first(lambda: [read_evaluation(workdir, name) for name in evaluations])
  return sum((compute.from_dict(found.get('compute', {})) for found in kept), compute.Compute())


def keep_table(
    table: Mapping[str, Mapping[str, Any]], title: str, workdir: Path, console=None) -> None:
  """Prints a table of scores by model, and writes it to `results.md` and `results.json`."""
  rows = [{'model': name, **scored} for name, scored in table.items()]
  metrics.print_table(rows, title, console=console)
  written = {'results.md': metrics.format_table(rows, title), 'results.json': to_json(table)}

  def write() -> None:
    for name, text in written.items():
      (workdir / name).write_text(text)
  hosts.from_first(write)


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'evaluate', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Evaluates one model by itself, once or (see SEVERAL) in several ways.

  The manifest's scores are {the evaluation's name, or the stage's: {score: (mean, low, high)}};
  arguments and errors as for `stages.rl.run`.
  """
  config = plain(config)
  run = begin('evaluate', settings(config), config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  with sharding.use(run.mesh):
    if run.finished:
      return complete(run)
    check_sources(run, None)
    table = run_all(run, None)
    return leave_files(run, files=('results.json',), template=config.get('template', ''),
                       scores=table, compute=computed(table, run.workdir))


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout, or one of each of several evaluations; arguments as for `rl.shapes`."""
  if 'evaluations' not in config:
    return (yield from _sampling_shapes(config, mesh, shape_of, mean_length))
  tokens = 0.0
  for name, one in _of_model(config['evaluations'], config['model']).items():
    work = yield from program_shapes.changed(_named(name), shapes(
        one, mesh, shape_of, mean_length=mean_length))
    tokens += work.tokens
  return program_shapes.IterationWork(tokens, 0, 0)


def _sampling_shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    mean_length: float,
) -> program_shapes.StageShapes:
  """The rollout that draws `completions_per_problem` completions of so many problems at a time."""
  model = program_shapes.model_of(config['model'], shape_of(config['model']))
  prompts, settings = datasets.prompts_at_a_time(config, mesh), config['sampling']
  mean_length, count = mean_length or settings['max_new_tokens'], config['completions_per_problem']
  useful_row_steps = yield from program_shapes.sampling(
      make_sampler(config, model, program_shapes.STOP_IDS), model,
      program_shapes.params_of(model, mesh), mesh, prompts=prompts,
      prompt_length=config['max_prompt_length'], group_size=count,
      max_new_tokens=settings['max_new_tokens'], mean_length=mean_length)
  return program_shapes.IterationWork(
      prompts * count * mean_length, 0, -(-config['problems'] // prompts), useful_row_steps)


def _named(name: str) -> Callable[[ProgramShapes], ProgramShapes]:
  return lambda program: dataclasses.replace(program, name=f'{name}: {program.name}')


def largest_shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    params: Any, beside: Any = (),
) -> Generator[ProgramShapes, Any, None]:
  """The programs of the evaluation that needs most memory, of a stage that trains.

  They count as run 0 times an iteration: only their memory matters.

  Args:
    config: the stage's.
    mesh: of the devices to compile for.
    shape_of: from the `model` part of a config to its ModelConfig.
    params: the placed shapes of what the stage trains.
    beside: what else it still holds when it evaluates.
  """
  if not config['evaluations']:
    return None
  name, one = max(config['evaluations'].items(), key=_memory_rank)
  if one['model']['source'] != TRAINED:
    beside = params, beside

  def for_memory(program: ProgramShapes) -> ProgramShapes:
    return dataclasses.replace(program, name=f'evaluation {name!r}: {program.name}', times=0,
                               useful=0, beside=(program.beside, beside))
  (one,) = _of_model({name: one}, config['model']).values()
  yield from program_shapes.changed(for_memory, shapes(one, mesh, shape_of))


def _memory_rank(item: tuple[str, Mapping[str, Any]]) -> tuple[int, bool]:
  """Orders evaluations by the tokens of a batch; on a tie, a model of its own takes more."""
  one = item[1]
  rows = min(one['prompts_per_batch'], one['problems']) * one['completions_per_problem']
  return rows * one['sampling']['max_new_tokens'], one['model']['source'] != TRAINED


def _of_model(
    evaluations: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any],
) -> dict[str, Mapping[str, Any]]:
  """Evaluations whose model is the stage's, where they have named 'trained'."""
  return {name: {**one, 'model': model} if one['model']['source'] == TRAINED else one
          for name, one in evaluations.items()}
