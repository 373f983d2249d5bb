"""Every policy loss from one base, by one budget: which of them trains, and at what price?

    python -m r1jax.main --config=experiments/policy_losses.py --workdir=/tmp/policy_losses

One stage a loss, on the task and with the rewards of r1_zero.py: 20 rollouts of 16 × 16 completions,
two updates each (so that ratios and clips matter), no KL. Then 500 held-out problems, 4 samples
each. Another seed: --config.seed=1. `experiments/tabulate.py` puts seeds together; docs/results.md
has what was found. Does the report's finding hold, PPO with lambda 0.95 < lambda 1 ≈ GRPO?

tiny  the shipped miniature base; about a minute and a half a loss on two CPU cores. One TPU chip is
      enough, v5e:1x1 (docs/scale.md).

`policy_losses.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1_zero

SIZES = ('tiny',)

# Fields of the stage that make each recipe; see r1jax/losses/recipes.py for its paper.
RECIPES = {
    'grpo': {},
    'dr_grpo': dict(advantage='mean_only', loss=dict(aggregation='fixed_length')),
    'dapo': dict(dynamic_sampling_rounds=2, overlong_buffer=32,
                 loss=dict(aggregation='token_mean', clip_epsilon_high=0.28)),
    'gspo': dict(loss=dict(ratio_level='sequence', clip_epsilon_low=3e-4, clip_epsilon_high=4e-4)),
    'cispo': dict(loss=dict(clip='cispo', clip_epsilon_low=1.0, clip_epsilon_high=4.0,
                            aggregation='token_mean')),
    'rloo': dict(advantage='leave_one_out', loss=dict(ratio_level='product')),
    'reinforce_pp': dict(advantage='reinforce_pp', loss=dict(aggregation='token_mean')),
    'ppo_lambda_095': dict(advantage='gae', critic=dict(gae_lambda=0.95),
                           loss=dict(aggregation='token_mean')),
    'ppo_lambda_1': dict(advantage='gae', critic=dict(gae_lambda=1.0),
                         loss=dict(aggregation='token_mean')),
}


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = r1_zero.parse('policy_losses.py', argument, SIZES)
  stages = {}
  for name, fields in RECIPES.items():
    stage = r1_zero.get_config(argument).stages.zero
    stage.mini_batches = 2
    if not debug:
      stage.steps = 40
    stage.critic.optimizer.learning_rate, stage.critic.optimizer.warmup_steps = 1e-3, 5
    stage.update(ConfigDict(fields))
    stage.overlong_buffer = min(stage.overlong_buffer, stage.sampling.max_new_tokens // 4)
    trained = stage.evaluations.trained
    trained.completions_per_problem = min(trained.completions_per_problem, 4)
    stage.evaluations = ConfigDict({name: trained})
    stages[name] = stage
  return r1_zero.with_stages(stages)
