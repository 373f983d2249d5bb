"""Pre-trains the miniature's bases: what r1_zero.py:tiny starts from, and what it is distilled into.

    python -m r1jax.main --config=experiments/pretrain.py --workdir=/tmp/pretrain

tiny   853,376 parameters on 400,000 documents of the synthetic corpus, one epoch of 1,539 updates of
       10,240 tokens: a base that mostly answers at once, sometimes writes the steps, mixes languages
       and is loosely formatted. About a quarter of an hour on two CPU cores, or one TPU chip, v5e:1x1
       (docs/scale.md); the package ships what this command made (docs/results.md).
small  230,208 parameters on the same corpus: the small dense model of r1.py's last stages.

`pretrain.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

from r1jax.stages import evaluate, pretrain

sys.path.append(str(pathlib.Path(__file__).parent))
import r1_zero

SIZES = ('tiny', 'small')


def get_config(argument: str = 'tiny') -> ConfigDict:
  size, debug = r1_zero.parse('pretrain.py', argument, SIZES)
  base = ConfigDict(pretrain.DEFAULT)
  base.preset = {'tiny': 'miniature', 'small': 'miniature_small'}[size]
  for name, template in (('base', 'miniature'), ('base forced to think', 'miniature_think')):
    config = ConfigDict(evaluate.DEFAULT)
    config.data = ConfigDict(dict(name='miniature', size=500, seed=0, min_steps=5, max_steps=8))
    config.template, config.max_prompt_length = template, 64
    config.sampling.max_new_tokens = 160
    base.evaluations[name] = config
  if debug:
    base.documents, base.rows, base.last_step = 10_000, 512, 2
    for config in base.evaluations.values():
      config.problems, config.prompts_per_batch, config.completions_per_problem = 4, 4, 2
      config.sampling.max_new_tokens, config.sampling.chunk = 16, 8
  return r1_zero.with_stages(dict(base=base))
