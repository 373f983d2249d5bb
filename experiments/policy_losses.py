"""Every policy loss on the same base with the same budget: which trains, and at what cost?

    python -m r1jax.main --config=policy_losses:tiny --workdir=/tmp/policy_losses

One stage for each loss, with r1_zero.py's task and rewards: 20 rollouts of 16 × 16 completions, two
updates each (so that ratios and clipping matter), no KL; then 500 held-out problems with 4 samples
each. Does the report's finding hold, PPO with lambda 0.95 < lambda 1 ≈ GRPO? Set another seed with
--config.seed=1; `python -m r1jax.experiments.tabulate` combines seeds.

tiny  The shipped miniature base; about a minute and a half per loss on two CPU cores, or one TPU
      chip (v5e:1x1). Expected (docs/results.md): pass@1 rises from 0.25 to between 0.67 and 0.76.

`policy_losses:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building, r1_zero

SIZES = ('tiny',)

# The stage's fields that make each recipe; r1jax/losses/recipes.py names the papers.
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
  _, debug = building.parse('policy_losses.py', argument, SIZES)
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
  return building.chain(stages)
