"""Experiments that can be run by name: python -m r1jax.main --config=r1_zero:tiny --workdir=W.

Each is a file with a `get_config(argument)` that returns the config of a chain of stages. Its
docstring has the paper, the command, the sizes and the result to expect. `EXPERIMENTS` lists them;
`building.py` is what they share, `tabulate.py` tabulates the results of several seeds, and
`benchmarks/` measures speed and memory.
"""
import pathlib

from r1jax import checks
from r1jax.errors import UserError

EXPERIMENTS = (
    'r1_zero',            # GRPO with rule rewards alone
    'r1',                 # the whole recipe, from a base model to R1 and its distillation
    # One part of r1 each, in its order.
    'cold_start',
    'reasoning_rl',
    'rejection_sft',
    'all_scenario_rl',
    'distill',
    # What the recipe is compared with, and what it is made of.
    'expert_iteration',
    'policy_losses',
    'difficulty',
    'ppo',
    'reward_model',
    'rlhf',
    'pretrain',
)


def find(config: str) -> str:
  """Finds the file of an experiment that is given by name.

  Args:
    config: what `--config` was given: an experiment's name, or a path; either may be followed by a
      colon and an argument, as in 'r1_zero:tiny,debug'.

  Returns:
    The path of the experiment's file, with the argument. A config that contains '/' or whose name
    ends in '.py' is taken for a path and is returned unchanged.

  Raises:
    UserError: if no experiment has that name.
  """
  name, colon, argument = config.partition(':')
  if '/' in config or name.endswith('.py'):
    return config
  if name not in EXPERIMENTS:
    raise UserError(f'No experiment is named {name!r}: '
                     f'{checks.did_you_mean(name, EXPERIMENTS)}; or give a path, as file.py:size')
  return f'{pathlib.Path(__file__).with_name(name)}.py{colon}{argument}'
