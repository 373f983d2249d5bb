"""A made-up chain: Artifacts as the stages leave them, for the tests of `report`."""
import json

import numpy as np
import runs

from r1jax import checkpoint, evaluate, metrics
from r1jax.models import compute
from r1jax.rewards.completion import Completion
from r1jax.runtime.storage import Path
from r1jax.stages.artifact import open_artifact

CONFIGS = {
    'zero': dict(kind='rl', inputs=(), seed=0, evaluations={'reasoning': dict(
        problems=20, completions_per_problem=8, template='miniature',
        sampling=dict(temperature=1.0, top_p=1.0, max_new_tokens=64))}),
    'draw': dict(kind='reject', inputs=('zero',), seed=0),
    'cold': dict(kind='sft', inputs=('draw', 'zero'), seed=0, evaluations={'reasoning': {}}),
    'helpful': dict(kind='reward_model', inputs=(), seed=0),
    'all': dict(kind='rl', inputs=('cold', 'helpful'), seed=0, evaluations={'reasoning': {}}),
    'rates': dict(kind='pass_rate', inputs=(), seed=0)}


def samples(seed, skill, count=8, problems=20):
  rng, rows = np.random.default_rng(seed), []
  for problem in range(problems):
    for place in range(count):
      right = rng.random() < skill
      answer = problem if right else int(rng.integers(100, 103))
      rows.append(dict(
          example_id=problem, sample=place, prompt='?', completion=f'<answer>{answer}</answer>',
          num_tokens=int(rng.integers(10, 60)), num_prompt_tokens=12,
          truncated=bool(rng.random() < 0.05), rewards={'reward': float(right)}))
  return rows


def scores_of(rows, count=8):
  read = [Completion(r['completion'], r['num_tokens'], r['truncated']) for r in rows]
  return evaluate.scores(read, np.asarray([r['rewards']['reward'] >= 1 for r in rows]),
                         [dict(question='?')] * (len(rows) // count), num_samples=count)


def judged(step):
  """What a reward model leaves that judges from step 11 on; a truth is in even steps alone."""
  found = {'rewards/reward_model/helpful/mean': step / 50} if step > 10 else {}
  return found | ({'rewards/reward_model/helpful/truth': 1 - step / 50} if step % 2 == 0 else {})


def make_chain(workdir):
  """Artifacts as the stages leave them."""
  artifacts = {}
  for i, (name, config) in enumerate(CONFIGS.items()):
    folder, scores = Path(workdir) / name, {}
    if 'evaluations' in config:
      rows = samples(i, 0.4 + 0.1 * i)
      (folder / 'evaluations' / 'reasoning.jsonl').write_text(
          ''.join(json.dumps(row) + '\n' for row in rows))
      scores = {'reasoning': scores_of(rows),
                'general': {'skills': (0.2 * i, 0.1 * i, 0.25 * i)}}
    if config['kind'] == 'reject':
      scores = {'problems': 64, 'problems/kept': 25, 'drawn': 100, 'kept': 20,
                'refused/format': 30, 'correct': 60, 'pass@1': (.6, .5, .7)}
    if config['kind'] == 'pass_rate':
      scores = {'problems': 40, 'pass_rate': (0.5, 0.4, 0.6), 'histogram': {'0': 21, '1': 19}}
    if config['kind'] == 'reward_model':
      scores = {'before': {'accuracy': (0.5, 0.5, 0.5)}, 'examples': 900, 'after': {
          'accuracy': (0.9, 0.85, 0.95), 'calibration_error': 0.05, 'examples': 100}}
    if config['kind'] == 'rl':
      writer = metrics.MetricWriter(folder, resume_step=1)
      for step in range(1, 41):
        writer.write(step, {
            'rewards/number/mean': 1 - 1 / (1 + step / 10), 'completions/mean_length': 20 + step,
            'language_mixing': 0.5 / step, 'compute/trained': 1e12 * (i + 1),
            **(judged(step) if name == 'all' else {})})
      writer.close()
    checkpoint.write_manifest(folder, checkpoint.Manifest(
        config['kind'], name, f'hash of {name}', scores=scores, model=runs.SHAPE.to_dict(),
        compute=compute.Compute(sampled=10.0 ** i, trained_tokens=7).to_dict()))
    artifacts[name] = open_artifact(folder)
  return artifacts
