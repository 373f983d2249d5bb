"""Rejection sampling: draw from a model, keep those of its own completions that pass filters.

Only correct and whole completions ever pass. With no further filter that is expert iteration; with
those of `data.curation` it draws the samples of a cold start, or those of the report's third stage.
"""
from collections.abc import Callable, Mapping
import dataclasses
import random
from typing import Any

import jax

from r1jax import checkpoint, metrics
from r1jax.data import curation
from r1jax.models import ModelConfig, compute
from r1jax.runtime import hosts, sharding
from r1jax.runtime.storage import Path
from r1jax.stages import evaluate, loading, program_shapes
from r1jax.stages.config import check_choice, check_config, nearest, plain
from r1jax.stages.stage import Artifact
from r1jax.tokenization import Tokenizer, opens_think, render_prompt

DEFAULT = evaluate.DEFAULT | dict(
    kind='reject', split='train',
    model=loading.MODEL,
    problems=2000, completions_per_problem=8,
    filters={},             # besides `ALWAYS`: name -> settings, where not `curation.SETTINGS`
    pattern='drawn',        # or 'summary': what is kept is rewritten by `curation.readable`
    keep=10_000,            # samples kept at most, drawn by the seed
    min_kept=1,             # with fewer the stage stops; 0 where other data are learnt as well
)
ALWAYS = {'correct': {}, 'truncated': {}}


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible settings before anything is loaded."""
  check_config(config, DEFAULT, where)
  evaluate.check({name: config[name] for name in evaluate.DEFAULT}, where)
  check_choice(config['pattern'], ('drawn', 'summary'), f'{where}.pattern')
  if config['keep'] < 1:
    raise ValueError(f'{where}.keep={config["keep"]} keeps nothing: use at least 1')
  if not 0 <= config['min_kept'] <= config['keep']:
    raise ValueError(f'{where}.min_kept={config["min_kept"]} cannot be kept: use 0 to keep='
                     f'{config["keep"]}')
  for name, settings in config['filters'].items():
    path, known = f'{where}.filters.{name}', curation.SETTINGS.get(name)
    if known is None:
      near = nearest(name, curation.SETTINGS)
      raise ValueError(f'{path} is no filter: did you mean {where}.filters.{near}? (known: '
                       f'{", ".join(curation.SETTINGS)})')
    check_config({name: settings}, {name: {}}, f'{where}.filters')
    if settings and not known:
      raise ValueError(f'{path}={settings!r}: this filter has no settings, leave it {{}}')
    check_config(known | settings, known, path)
  try:
    curation.make_filters(config['filters'])
  except ValueError as error:
    raise ValueError(f'{where}.{error}') from None


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
    ValueError: fewer than `min_kept` completions are left; `refused` is there to be read.
  """
  config = plain(config)
  check(config, f'config.stages.{stage}')
  workdir, mesh = Path(workdir), mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    loaded = loading.load_model(inputs=inputs, mesh=mesh, **config['model'])
    scores, records = evaluate.evaluate_model(config, loaded, mesh=mesh, should_stop=should_stop)
  samples = read_samples(records, config, loaded.tokenizer)
  curated = select(samples, config)
  lines = lambda pairs: [
      {'prompt': render_prompt(config['template'], sample.question, loaded.tokenizer),
       'completion': sample.completion, 'example_id': sample.example_id,
       'question': sample.question, 'objective': sample.objective, **more}
      for sample, more in pairs]
  written = {
      'refused': lines((sample, {'reasons': reasons}) for sample, reasons in curated.refused),
      'samples': lines((sample, {}) for sample in curated.kept)}

  def write() -> tuple[str, ...]:
    for name, rows in written.items():
      (workdir / name).remove()
      metrics.JsonlParts(workdir / name, key='part', resume=0).append(0, rows)
    return tuple(f'{folder}/{name}' for folder in written
                 for name in (workdir / folder).file_sizes())

  files = hosts.from_first(write)
  counts = curated.counts | {
      'correct': sum(sample.correct is True and not sample.truncated for sample in samples)}
  if len(curated.kept) < config['min_kept']:
    reasons = ', '.join(
        f'{name} {count}' for name, count in counts.items() if '/' in name and count)
    raise ValueError(f'{len(curated.kept)} of {len(samples)} completions of stage {stage!r} are left '
                     f'({reasons}), min_kept={config["min_kept"]}: read why in {workdir / "refused"}; '
                     'draw more samples, take easier problems or loosen filters')
  manifest = checkpoint.Manifest(
      kind='reject', stage=stage, config_hash=checkpoint.config_hash(config),
      parents=tuple(artifact.manifest.config_hash for artifact in inputs.values()),
      template=config['template'],
      files=files, scores=scores | counts,
      compute=compute.drawing(loaded.model.config, records).to_dict())
  hosts.from_first(lambda: checkpoint.write_manifest(workdir, manifest))
  return Artifact(workdir, manifest)


def shapes(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, shape_of: Callable[[Mapping], ModelConfig],
    *, mean_length: float = 0,
) -> program_shapes.StageShapes:
  """A rollout; arguments as of `rl.shapes`."""
  return evaluate.shapes(config, mesh, shape_of, mean_length=mean_length)


def read_samples(
    records: list[Mapping[str, Any]], config: Mapping[str, Any], tokenizer: Tokenizer,
) -> list[curation.Sample]:
  """An evaluation's records as samples; only what the accuracy gives 1 is correct."""
  opened, samples = opens_think(config['template'], tokenizer), []
  for record in records:
    verdict = record['rewards'][config['correctness_reward']]
    sample = curation.Sample(
        question=record['prompt'], completion=record['completion'],
        correct=None if verdict is None else verdict == 1, truncated=record['truncated'],
        example_id=record['example_id'], opened=opened, language=record.get('language', ''),
        objective=record.get('objective', ''))
    samples.append(dataclasses.replace(
        sample, reasoning_tokens=len(tokenizer.encode(sample.reasoning))))
  return samples


def select(samples: list[curation.Sample], config: Mapping[str, Any]) -> curation.Curated:
  """Filters samples, rewrites those kept if the pattern says so, and keeps `keep` of them."""
  curated = curation.curate(samples, ALWAYS | config['filters'], seed=config['seed'])
  kept, refused, counts = curated.kept, list(curated.refused), dict(curated.counts)
  if config['pattern'] == 'summary':
    rewritten = [(sample, curation.readable(sample)) for sample in kept]
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
