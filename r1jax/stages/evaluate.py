"""Evaluation as a stage, and the table of base against trained that ends a training stage."""
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import json
import random
from typing import Any

import jax

from r1jax import checkpoint, metrics
from r1jax import evaluate as evaluation
from r1jax.data.curation import readable_completion
from r1jax.data.prompts import PromptStream
from r1jax.models import Model, ModelConfig, compute
from r1jax.rewards.language import target_language
from r1jax.rewards.skills import CHECKS, by_check
from r1jax.rewards.suite import RewardSuite, named_rewards
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path, to_json
from r1jax.sampling.sampler import Interrupted, Sampler, Sampling, make_sampler
from r1jax.stages import datasets, loading, program_shapes, supervised_program_shapes
from r1jax.stages.config import check_choice, check_config, check_sampling, plain
from r1jax.stages.stage import Artifact, StopRequested
from r1jax.tokenization import Tokenizer, opens_think, stop_ids

TRAINED = 'trained'   # as `model.source`: the model that the stage has just trained

DEFAULT = dict(
    kind='evaluate', inputs=(), seed=0,
    model=loading.MODEL | dict(source=TRAINED),
    data={},                        # name, and the fields of `stages.datasets.DATASETS`
    split='test',
    template='miniature', max_prompt_length=64, overlong='skip',
    problems=500, prompts_per_batch=125,      # in all, and at a time
    completions_per_problem=8,                      # completions a problem
    shots=0,                        # examples of the train split shown before every question
    sampling=dict(max_new_tokens=128, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, chunk=32,
                  rollout_sharding='train'),   # of the sampler's weights on the mesh, or 'tensor'
    correctness_reward='number',              # the reward that decides what is correct, where no `check` does
    reward_workers=2, reward_timeout_s=5.0,
)
# A stage of several evaluations of one model.
SEVERAL = dict(
    kind='evaluate', inputs=(), seed=0,
    model=loading.MODEL,
    evaluations={},                 # name -> fields of DEFAULT; source 'trained' is the model here
)


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible combinations before anything is loaded or compiled.

  A config with `evaluations` has the fields of SEVERAL, any other those of DEFAULT.
  """
  if 'evaluations' in config:
    check_config(config, SEVERAL, where)
    if not config['evaluations']:
      raise ValueError(f'{where}.evaluations is empty and leaves nothing to do: name at least one')
    for name, one in config['evaluations'].items():
      check_config(one, DEFAULT, f'{where}.evaluations.{name}')
      check(one, f'{where}.evaluations.{name}')
    return
  check_config(config, DEFAULT, where)
  datasets.check_data(config['data'], f'{where}.data')
  check_sampling(config['sampling'], f'{where}.sampling')
  for name in ('problems', 'prompts_per_batch', 'completions_per_problem'):
    if config[name] < 1:
      raise ValueError(f'{where}.{name}={config[name]} leaves nothing to do: use at least 1')
  if config['shots'] < 0:
    raise ValueError(f'{where}.shots={config["shots"]} shows nothing: use 0 for none')
  named_rewards({config['correctness_reward']: 1.0})


def evaluate_model(
    config: Mapping[str, Any], loaded: loading.LoadedModel, *, mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, tuple[float, float, float]], list[dict]]:
  """(scores with intervals, one record a completion) of a loaded model, by fields of DEFAULT."""
  tokenizer = loaded.tokenizer
  stops = stop_ids(config['template'], tokenizer)
  opened = opens_think(config['template'], tokenizer)
  problems = problem_stream(
      {**config, 'prompts_per_batch': datasets.prompts_at_a_time(config, mesh)}, tokenizer)
  sample = _sampler(config, loaded.model, stops, should_stop)
  functions = named_rewards({config['correctness_reward']: 1.0}, opened=opened)
  if any(example.get('check') for example in problems.source):
    functions = {name: (by_check(function, opened=opened), weight)
                 for name, (function, weight) in functions.items()}
  with RewardSuite(functions, num_workers=config['reward_workers'],
                   timeout_s=config['reward_timeout_s']) as rewards:
    try:
      return evaluation.evaluate(
          sample, loaded.params, problems, rewards, tokenizer,
          num_problems=config['problems'], num_samples=config['completions_per_problem'], stop_ids=stops,
          opened=opened, ks=tuple(sorted({1, config['completions_per_problem']})), mesh=mesh)
    except Interrupted:
      raise StopRequested('an evaluation was asked to stop: those before it are kept; run '
                                 'the same command to go on') from None


def _sampler(
    config: Mapping[str, Any], model: Model, stops: tuple[int, ...],
    should_stop: Callable[[], bool] = lambda: False,
) -> Sampler:
  sampling = dict(config['sampling'])
  return make_sampler(
      model, group_size=config['completions_per_problem'], max_new_tokens=sampling.pop('max_new_tokens'),
      chunk=sampling.pop('chunk'), rollout_sharding=sampling.pop('rollout_sharding'),
      sampling=Sampling(**sampling), stop_ids=stops,
      compute_dtype=config['model']['compute_dtype'], seed=config['seed'], should_stop=should_stop)


def problem_stream(config: Mapping[str, Any], tokenizer: Tokenizer) -> PromptStream:
  """The prompts of an evaluation; a batch has no more of them than there are problems.

  Raises:
    FileNotFoundError, ValueError: the data cannot be read, an example names an unknown language or
      check, or they have fewer different problems than `config['problems']`: some would count
      twice, with the same completions.
  """
  problems = config['problems']
  stream = datasets.prompt_stream(config, tokenizer, config['split'], at_most=problems,
                                shots=shown_examples(config))
  for index in range(len(stream.source)):
    _check_example(stream.source[index], f'example {index} of the {config["split"]} split of '
                   f'{config["data"]["name"]!r}')
  found = stream.num_fitting(problems)
  if found < problems:
    shown = f', after shots={config["shots"]},' if config['shots'] else ''
    raise ValueError(
        f'evaluation: problems={problems}, but the {config["split"]} split of '
        f'{config["data"]["name"]!r} has only {found} prompts of at most max_prompt_length='
        f'{config["max_prompt_length"]} tokens{shown}: lower problems to {found}, or give more '
        'data')
  return stream


def _check_example(example: Mapping[str, Any], where: str) -> None:
  if example.get('check'):
    check_choice(example['check'], CHECKS, f'{where}: check')
  if example.get('language'):
    try:
      target_language('', example['language'])
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from None


def shown_examples(config: Mapping[str, Any]) -> list[tuple[str, str]]:
  """(question, completion) of `shots` examples of the train split, drawn by the seed.

  The completion is in the readable pattern where the example has `reasoning`, else its answer.

  Raises:
    ValueError: there are fewer.
  """
  if not config['shots']:
    return []
  examples = datasets.load_examples(config['data'], 'train')
  if len(examples) < config['shots']:
    raise ValueError(f'evaluation: shots={config["shots"]}, but the train split of '
                     f'{config["data"]["name"]!r} has {len(examples)} examples: lower shots')
  chosen = random.Random(f'shots {config["seed"]}').sample(range(len(examples)), config['shots'])
  return [(example['question'], worked_answer(example)) for example in map(
      examples.__getitem__, chosen)]


def worked_answer(example: Mapping[str, Any]) -> str:
  """An example's answer, after its reasoning where it has any."""
  answer = str(example['answer'])
  return readable_completion(example['reasoning'], answer) if example.get('reasoning') else answer


def check_sources(
    evaluations: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Artifact],
    tokenizer: Tokenizer | None,
) -> None:
  """Looks for the models and reads the data of evaluations, before a stage trains for them.

  `tokenizer` is that of the model to be trained, None where none is.

  Raises:
    FileNotFoundError, ValueError: one is missing, or cannot be read, or has too few problems.
  """
  for config in evaluations.values():
    source = config['model']['source']
    trained = source == TRAINED and tokenizer is not None
    problem_stream(config, tokenizer if trained else loading.find_tokenizer(source, inputs))


def run_all(
    evaluations: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Artifact],
    workdir: Path, *, trained: loading.LoadedModel | None, mesh: jax.sharding.Mesh,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> dict[str, dict[str, tuple[float, float, float]]]:
  """Runs evaluations by name, prints their table, and keeps it in `workdir`.

  Each leaves `evaluations/<name>.json`; one that is there already, of the same config and for the
  same trained model, is not run again. The table goes to `results.md` and `results.json`.

  Raises:
    StopRequested: asked to stop; evaluations that are done are kept.
  """
  @functools.lru_cache(maxsize=1)
  def load(model):
    return loading.load_model(inputs=inputs, mesh=mesh, **json.loads(model))

  table = {}
  for name, config in evaluations.items():
    kept = workdir / 'evaluations' / f'{name}.json'
    config_hash = checkpoint.config_hash(config)
    found = hosts.from_first(lambda: json.loads(kept.read_text()) if kept.exists() else {})
    if found.get('config_hash') == config_hash:
      table[name] = {key: tuple(value) for key, value in found['scores'].items()}
      continue
    source = config['model']['source']
    loaded = trained if source == TRAINED and trained is not None else load(
        to_json(config['model']))
    scored, records = evaluate_model(config, loaded, mesh=mesh, should_stop=should_stop)
    table[name] = scored
    taken = compute.evaluating(loaded.model.config, records).to_dict()
    samples = ''.join(to_json(record) + '\n' for record in records)
    hosts.from_first(lambda: (workdir / 'evaluations' / f'{name}.jsonl').write_text(samples))
    hosts.from_first(lambda: kept.write_text(to_json({
        'config_hash': config_hash, 'scores': scored, 'compute': taken})))
  if table:
    keep_table(table, 'Mean with 95 % interval over problems', workdir, console)
  return table


def computed(evaluations: Iterable[str], workdir: Path) -> compute.Compute:
  """What the evaluations of these names took that `run_all` has kept in `workdir`."""
  kept = hosts.from_first(lambda: [
      json.loads((workdir / 'evaluations' / f'{name}.json').read_text()) for name in evaluations])
  return sum((compute.from_dict(found.get('compute', {})) for found in kept), compute.Compute())


def keep_table(
    table: Mapping[str, Mapping[str, Any]], title: str, workdir: Path, console=None) -> None:
  """Prints a table of scores by model, and writes it to `results.md` and `results.json`."""
  rows = [{'model': name, **scored} for name, scored in table.items()]
  metrics.print_table(rows, title, console=console)
  written = {'results.md': metrics.format_table(rows, title), 'results.json': to_json(table)}
  hosts.from_first(lambda: [(workdir / name).write_text(text) for name, text in written.items()])


def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'evaluate', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Evaluates one model by itself, once or (see SEVERAL) in several ways.

  The manifest's scores are {the evaluation's name, or the stage's: {score: (mean, low, high)}};
  arguments and errors as of `stages.rl.run`.
  """
  config = plain(config)
  check(config, f'config.stages.{stage}')
  evaluations = _of_model(config['evaluations'], config['model']) if 'evaluations' in config else {
      stage: config}
  workdir = Path(workdir)
  mesh = mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  check_sources(evaluations, inputs, None)
  with sharding.use(mesh):
    table = run_all(evaluations, inputs, workdir, trained=None, mesh=mesh,
                    should_stop=should_stop, console=console)
  manifest = checkpoint.Manifest(
      kind='evaluate', stage=stage, config_hash=checkpoint.config_hash(config),
      parents=tuple(artifact.manifest.config_hash for artifact in inputs.values()),
      template=config.get('template', ''), files=('results.json',), scores=table,
      compute=computed(table, workdir).to_dict())
  hosts.from_first(lambda: checkpoint.write_manifest(workdir, manifest))
  return Artifact(workdir, manifest)


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout, or one of each of several evaluations; arguments as of `rl.shapes`."""
  if 'evaluations' not in config:
    model = program_shapes.model_of(config['model'], shape_of(config['model']))
    sample = _sampler(config, model, program_shapes.STOP_IDS)
    return (yield from supervised_program_shapes.drawing(config, mesh, model, sample, mean_length))
  tokens = 0.0
  for name, one in _of_model(config['evaluations'], config['model']).items():
    work = yield from supervised_program_shapes.changed(_named(name), shapes(
        one, mesh, shape_of, mean_length=mean_length))
    tokens += work.tokens
  return program_shapes.IterationWork(tokens, 0, 0)


def _named(name: str, **fields) -> Callable[[program_shapes.ProgramShapes], program_shapes.ProgramShapes]:
  return lambda program: dataclasses.replace(program, name=f'{name}: {program.name}', **fields)


def largest_programs(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    params, beside=(),
) -> program_shapes.StageShapes:
  """Those of the evaluation of a training stage that draws most at a time, for their memory.

  They count as run 0 times an iteration.

  Args:
    config, mesh, shape_of: as of `programs`, of the training stage.
    params: the placed shapes of what it trains.
    beside: what else it still holds then.
  """
  def size(item):
    one = item[1]
    rows = min(one['prompts_per_batch'], one['problems']) * one['completions_per_problem']
    return rows * one['sampling']['max_new_tokens'], one['model']['source'] != TRAINED
  if not config['evaluations']:
    return
  name, one = max(config['evaluations'].items(), key=size)
  if one['model']['source'] != TRAINED:
    beside = params, beside
  (one,) = _of_model({name: one}, config['model']).values()
  for_nothing = lambda program: _named(
      f'evaluation {name!r}', times=0, useful=0, beside=(program.beside, beside))(program)
  yield from supervised_program_shapes.changed(for_nothing, shapes(one, mesh, shape_of))


def _of_model(
    evaluations: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any],
) -> dict[str, Mapping[str, Any]]:
  """Evaluations whose model is the stage's, where they have named 'trained'."""
  return {name: {**one, 'model': model} if one['model']['source'] == TRAINED else one
          for name, one in evaluations.items()}
