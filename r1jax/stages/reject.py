"""Rejection sampling: draw from a model, keep its own correct completions (expert iteration)."""
from collections.abc import Callable, Mapping
import random
from typing import Any

import jax

from r1jax import checkpoint, metrics, sharding
from r1jax.stages import common, evaluate
from r1jax.storage import Path
from r1jax.tokenization import render_prompt

DEFAULT = evaluate.DEFAULT | dict(
    kind='reject', split='train',
    model=dict(source='miniature', compute_dtype='float32', remat=False),
    problems=2000, samples=8,
    keep=10_000,            # correct completions kept at most, drawn by the seed
)


def check(config: Mapping[str, Any], where: str) -> None:
  """Refuses impossible settings before anything is loaded."""
  common.check_config(config, DEFAULT, where)
  evaluate.check({name: config[name] for name in evaluate.DEFAULT}, where)
  if config['keep'] < 1:
    raise ValueError(f'{where}.keep={config["keep"]} keeps nothing: use at least 1')


def run(
    config: Mapping[str, Any], inputs: Mapping[str, common.Artifact], workdir: str | Path, *,
    stage: str = 'reject', mesh: jax.sharding.Mesh | None = None,
    should_stop: Callable[[], bool] = lambda: False, console=None,
) -> common.Artifact:
  """Leaves `samples` (JSONL of prompt, completion, example_id) and counts; see `stages.rl.run`.

  Raises:
    ValueError: no completion was correct.
  """
  config = common.plain(config)
  check(config, f'config.stages.{stage}')
  workdir, mesh = Path(workdir), mesh or sharding.make_mesh(1, 1, jax.devices()[:1])
  with sharding.use(mesh):
    loaded = common.load_model(inputs=inputs, mesh=mesh, **config['model'])
    scores, records = evaluate.evaluate_model(config, loaded, mesh=mesh, should_stop=should_stop)
  correct = [record for record in records
             if record['rewards'][config['accuracy']] == 1 and not record['truncated']]
  if not correct:
    raise ValueError(f'none of {len(records)} completions of stage {stage!r} was correct: draw '
                     'more samples, or take easier problems')
  kept = correct
  if len(correct) > config['keep']:
    kept = random.Random(config['seed']).sample(correct, config['keep'])
  (workdir / 'samples').remove()
  metrics.JsonlParts(workdir / 'samples', key='part', resume=0).append(0, [
      {'prompt': render_prompt(config['template'], record['prompt'], loaded.tokenizer),
       'completion': record['completion']} for record in kept])
  manifest = checkpoint.Manifest(
      kind='reject', stage=stage, config_hash=checkpoint.config_hash(config),
      parents=tuple(artifact.manifest.config_hash for artifact in inputs.values()),
      template=config['template'],
      files=tuple(f'samples/{name}' for name in (workdir / 'samples').file_sizes()),
      scores=scores | {'drawn': len(records), 'correct': len(correct), 'kept': len(kept)})
  checkpoint.write_manifest(workdir, manifest)
  return common.Artifact(workdir, manifest)
