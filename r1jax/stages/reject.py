"""Rejection sampling: draw from a model, keep those of its own completions that pass filters.

Only correct and whole completions ever pass. With no further filter that is expert iteration; with
those of `data.curation` it draws the samples of a cold start, or those of the report's third stage.
"""
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import random
from typing import Any

import jax

from r1jax import metrics
from r1jax.checks import nearest
from r1jax.data import curation
from r1jax.data.readable import rewrite
from r1jax.errors import UserError
from r1jax.models import ModelConfig, compute
from r1jax.prompting.templates import asked, opens_think, render_prompt
from r1jax.rewards.suite import WITHOUT_VOTES
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.stages import difficulty, evaluate, loading, program_shapes
from r1jax.stages.artifact import Artifact, open_artifact
from r1jax.stages.config import Field, Section, plain
from r1jax.stages.datasets import data_field
from r1jax.stages.fields import MODEL, common, prompt_format
from r1jax.stages.stage import begin, leave_files, owns_folder
from r1jax.tokenization import Tokenizer


def _impossible_pairs(config: Mapping[str, Any]) -> Iterator[str]:
  yield from evaluate.impossible_pairs(config)
  if config['min_kept'] > config['keep']:
    yield f'min_kept must be at most keep={config["keep"]}, got {config["min_kept"]}'
  if config['pattern'] == 'summary' and config['correctness_reward'] in WITHOUT_VOTES:
    yield ("pattern must be 'drawn' where correctness_reward is "
           f"{config['correctness_reward']!r}, which judges no single answer, got 'summary'")
  for name, given in config['filters'].items():
    yield from _filter_faults(name, given)


def _filter_faults(name: str, given: Any) -> Iterator[str]:
  known = curation.SETTINGS.get(name)
  if known is None:
    yield (f'filters.{name} is not a filter: did you mean '
           f'filters.{nearest(name, curation.SETTINGS)}?')
    return
  section = Section({field: Field(value, 'of the filter') for field, value in known.items()})
  found = [f'filters.{fault.removeprefix(".")}' for fault in section.faults(
      {**known, **given} if isinstance(given, Mapping) else given, name)]
  yield from found
  if not found:
    try:
      curation.make_filters({name: given})
    except UserError as error:
      yield str(error)


SETTINGS = Section({**evaluate.SETTINGS.fields, **common('reject')} | dict(
    data=data_field('the problems', filter=difficulty.FILTER),
    split=Field('train', 'of the data', choices=('train', 'test')),
    model=MODEL,
    problems=Field(2000, 'problems in all', at_least=1),
    filters=Field({}, 'settings of filters by name, besides those that keep what is correct and '
                      'whole; those left out: see `data.curation.SETTINGS`'),
    pattern=Field('drawn', "'drawn' keeps completions as they are, 'summary' rewrites them as "
                           '`data.readable.rewrite` does', choices=('drawn', 'summary')),
    keep=Field(10_000, 'samples kept at most, drawn by the seed', at_least=1),
    min_kept=Field(1, 'with fewer the stage stops; 0 where other data are learnt as well',
                   at_least=0, how=True)), 'rejection sampling', pairs=_impossible_pairs)

DEFAULT = SETTINGS.default
ALWAYS: dict[str, dict] = {'correct': {}, 'truncated': {}}


def check_data(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
  """Reads the problems; errors as for `evaluate.problem_stream` and `difficulty.choose`."""
  evaluate.problem_stream(config, tokenizer, difficulty.choose(config, config['split'], None)[0])


@owns_folder
def run(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], workdir: str | Path, *,
    stage: str = 'reject', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> Artifact:
  """Leaves `samples` and `refused`, JSONL of prompt, completion, example_id; see `stages.rl.run`.

  Each has its question without the template, too, and the objective that its example names. Those
  of `refused` have their `reasons` by filter. The manifest's scores have the counts: drawn,
  correct (and whole), kept, and refused/<filter>.

  Raises:
    UserError: fewer than `min_kept` completions are left; `refused` is there to be read.
  """
  config = plain(config)
  run = begin('reject', SETTINGS, config, inputs, workdir, stage=stage, mesh=mesh,
              should_stop=should_stop, console=console)
  if run.finished:
    return open_artifact(run.workdir)
  with sharding.use(run.mesh):
    chosen = difficulty.choose(config, config['split'], inputs)
    chosen.announce(stage, console)
    loaded = loading.load_model(inputs=inputs, mesh=run.mesh, **config['model'])
    scores, rows = evaluate.evaluate_model(
        config, loaded, mesh=run.mesh, should_stop=run.should_stop, problems=chosen.problems)
  samples = read_samples(rows, config, loaded.tokenizer)
  curated = select(samples, config)
  files = _write(curated, config, loaded.tokenizer, run.workdir)
  counts = curated.counts | {
      'correct': sum(sample.correct is True and not sample.truncated for sample in samples)}
  if len(curated.kept) < config['min_kept']:
    reasons = ', '.join(
        f'{name} {count}' for name, count in counts.items() if '/' in name and count)
    raise UserError(
        f'stage {stage!r} kept {len(curated.kept)} of {len(samples)} completions ({reasons}), '
        f'fewer than min_kept={config["min_kept"]}: read why in {run.workdir / "refused"}; draw '
        'more samples, take easier problems or loosen filters')
  return leave_files(
      run, files=files, template=config['template'], scores=scores | counts | chosen.scores(),
      compute=compute.drawing(loaded.model.config, rows))


def _write(
    curated: curation.Curated, config: Mapping[str, Any], tokenizer: Tokenizer, workdir: Path,
) -> tuple[str, ...]:
  """Writes `samples` and `refused`; returns the files' names."""
  def rows(pairs: Iterable[tuple[curation.Sample, Mapping]]) -> list[dict[str, Any]]:
    return [{'prompt': render_prompt(prompt_format(config), asked(vars(sample)), tokenizer),
             'completion': sample.completion, 'example_id': sample.example_id,
             'question': sample.question, 'objective': sample.objective,
             **({'messages': sample.messages} if sample.messages else {}), **more}
            for sample, more in pairs]
  written = {'refused': rows((sample, {'reasons': reasons}) for sample, reasons in curated.refused),
             'samples': rows((sample, {}) for sample in curated.kept)}

  def write() -> tuple[str, ...]:
    for name, lines in written.items():
      (workdir / name).remove()
      metrics.JsonlWriter(workdir / name, key='part', resume=0).append(0, lines)
    return tuple(f'{folder}/{name}' for folder in written
                 for name in (workdir / folder).file_sizes())
  return hosts.from_first(write)


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout; arguments as for `rl.shapes`."""
  return evaluate.shapes(config, mesh, shape_of, mean_length=mean_length)


def read_samples(
    records: Sequence[Mapping[str, Any]], config: Mapping[str, Any], tokenizer: Tokenizer,
) -> list[curation.Sample]:
  """An evaluation's records as samples; only what the accuracy gives 1 is correct."""
  prompt_opens_think, samples = opens_think(prompt_format(config), tokenizer), []
  for record in records:
    verdict = record['rewards'][config['correctness_reward']]
    sample = curation.Sample(
        question=record['prompt'], completion=record['completion'],
        correct=None if verdict is None else verdict == 1, truncated=record['truncated'],
        example_id=record['example_id'], prompt_opens_think=prompt_opens_think,
        language=record.get('language', ''), objective=record.get('objective', ''),
        messages=record.get('messages', ()))
    samples.append(dataclasses.replace(
        sample, reasoning_tokens=len(tokenizer.encode(sample.reasoning))))
  return samples


def select(samples: list[curation.Sample], config: Mapping[str, Any]) -> curation.Curated:
  """Filters samples, rewrites those kept if the pattern says so, and keeps `keep` of them."""
  curated = curation.curate(samples, ALWAYS | config['filters'], seed=config['seed'])
  kept, refused, counts = curated.kept, list(curated.refused), dict(curated.counts)
  if config['pattern'] == 'summary':
    rewritten = [(sample, rewrite(sample)) for sample in kept]
    lost = [sample for sample, new in rewritten if new is None]
    kept = [new for _, new in rewritten if new is not None]
    refused += [(sample, {'pattern': 'has no answer to put in a summary'}) for sample in lost]
    counts['refused/pattern'] = len(lost)
  if len(kept) > config['keep']:
    chosen = random.Random(config['seed']).sample(range(len(kept)), config['keep'])
    over = sorted(set(range(len(kept))) - set(chosen))
    refused += [(kept[place], {'keep': f'more than {config["keep"]}'}) for place in over]
    counts['refused/keep'] = len(over)
    kept = [kept[place] for place in chosen]
  return curation.Curated(kept, refused, counts | {'kept': len(kept)})
