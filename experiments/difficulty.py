"""Which problems RL learns from: all alike, those of middle difficulty, or a curriculum.

    python -m r1jax.main --config=difficulty:tiny --workdir=/tmp/difficulty

`rates` measures how often the base solves each of 1,000 problems of 1 to 12 steps, of which many
are too easy and many too hard for it. Three stages then train the base with the same budget, 40
rollouts of 16 × 8 completions: `uniform` on all problems; `filtered` on those that the base solves
sometimes; `curriculum` on all of them, drawn by the running pass rate, which begins with the
measured one (Foster et al., arXiv:2502.12272). All are evaluated on the same held-out problems. Set
another seed with --config.seed=1; `python -m r1jax.experiments.tabulate` combines seeds.

tiny  The shipped miniature base, on two CPU cores or one TPU chip (v5e:1x1); about ten minutes on a
      busy machine. Expected (docs/results.md): groups with right and wrong completions rise from
      0.64 of all to 0.87 (filtered) and 0.78 (curriculum), and pass@1 is 0.49 to 0.50 in all three.

`difficulty:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building, r1_zero
from r1jax.stages import pass_rate

SIZES = ('tiny',)

# What each stage sets of its data.
SELECTIONS = {
    'uniform': {},
    'filtered': dict(filter=dict(source='rates', low=0.01, high=0.99, unknown='drop')),
    'curriculum': dict(curriculum=dict(rule='learnability', reward='number', source='rates',
                                       floor=0.05, decay=0.5)),
}


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = building.parse('difficulty.py', argument, SIZES)
  stages = {'rates': _rates(_rl(argument, debug), debug)}
  for name, selection in SELECTIONS.items():
    stage = _rl(argument, debug)
    stage.evaluations = ConfigDict({name: stage.evaluations.trained})
    stage.inputs = ('rates',) if selection else ()
    stage.data = ConfigDict(dict(stage.data, **selection))
    stages[name] = stage
  return building.chain(stages)


def _rl(argument: str, debug: bool) -> ConfigDict:
  """R1-Zero of fewer and more different problems."""
  zero = r1_zero.get_config(argument).stages.zero
  mixed = dict(size=32, min_steps=1, max_steps=2) if debug else dict(
      size=1000, min_steps=1, max_steps=12)
  trained = zero.evaluations.trained
  for config in (zero, trained):
    config.data.update(mixed)
    config.max_prompt_length = 64    # 12 steps need 64 tokens
  if not debug:
    zero.group_size, zero.steps = 8, 40
    zero.sampling.max_new_tokens = trained.sampling.max_new_tokens
    trained.problems, trained.completions_per_problem, trained.data.size = 500, 4, 500
  return zero


def _rates(zero: ConfigDict, debug: bool) -> ConfigDict:
  """The pass rates of the base on the problems of RL."""
  stage = ConfigDict(pass_rate.DEFAULT)
  stage.model, stage.template = zero.model, zero.template
  stage.data, stage.max_prompt_length = zero.data, zero.max_prompt_length
  stage.sampling = zero.sampling
  stage.completions_per_problem = 4 if debug else 8
  stage.prompts_per_batch = 16 if debug else 125
  return stage
