"""SFT on the base's own correct samples: what R1-Zero's gain is compared with.

    python -m r1jax.main --config=expert_iteration:tiny --workdir=/tmp/expert_iteration

One round of expert iteration (STaR, arXiv:2203.14465, without rationalisation): draw as many
completions from the base as R1-Zero does in its rollouts, keep the correct ones, fine-tune the base
on them for two epochs, and evaluate on the same problems.

tiny  The shipped miniature base; about 4 minutes on two CPU cores, or one TPU chip (v5e:1x1).
      Expected (docs/results.md): pass@1 rises from 0.25 to 0.78.

`expert_iteration:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building, r1_zero
from r1jax.stages import reject, sft

SIZES = ('tiny',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = building.parse('expert_iteration.py', argument, SIZES)
  zero = r1_zero.get_config(argument).stages.zero
  draw = ConfigDict(reject.DEFAULT)
  draw.data, draw.sampling = zero.data, zero.sampling
  draw.template, draw.max_prompt_length = zero.template, zero.max_prompt_length
  draw.completions_per_problem, draw.prompts_per_batch = zero.group_size, zero.prompts_per_batch
  draw.problems = zero.prompts_per_batch * zero.steps
  tuned = ConfigDict(sft.DEFAULT)
  tuned.inputs, tuned.sample_stages = ('draw',), ('draw',)
  tuned.row_length, tuned.rows = 192, 32
  tuned.optimizer.learning_rate, tuned.optimizer.final_learning_rate = 3e-4, 3e-5
  tuned.evaluations = ConfigDict({
      name.replace('trained', 'expert iteration'): zero.evaluations[name]
      for name in zero.evaluations if name.startswith('trained')})
  if debug:
    tuned.rows = 1
  return building.chain(dict(draw=draw, tuned=tuned))
