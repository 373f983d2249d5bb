"""Pre-trains the miniature's base models: what r1_zero:tiny starts from, and a smaller one.

    python -m r1jax.main --config=pretrain:tiny --workdir=/tmp/pretrain

tiny   853,376 parameters on 400,000 documents of the synthetic corpus, one epoch of 1,539 updates
       of 10,240 tokens. The result mostly answers at once, sometimes writes out the steps, mixes
       languages and is loosely formatted. About a quarter of an hour on two CPU cores, or one TPU
       chip (v5e:1x1). The package ships what this command made. Expected (docs/results.md): pass@1
       0.255, and 0.818 when forced to think.
small  230,208 parameters on the same corpus: the small model of r1.py's last stages.

`pretrain:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building
from r1jax.stages import evaluate, pretrain

SIZES = ('tiny', 'small')


def get_config(argument: str = 'tiny') -> ConfigDict:
  size, debug = building.parse('pretrain.py', argument, SIZES)
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
  return building.chain(dict(base=base))
