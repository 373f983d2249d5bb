"""RLHF, the classic way (arXiv:1909.08593): preferences, a reward model, PPO against it.

    python -m r1jax.main --config=rlhf:tiny --workdir=/tmp/rlhf

A chain of two stages on the miniature's general tasks. `config.stages.helpfulness` learns which of
two answers is better (see reward_model.py). `config.stages.ppo` trains the base against it alone: a
critic that starts as the reward model, GAE, the KL to the reference in the token reward with a
coefficient that adapts to a target, rewards whitened without shifting their mean, and whitened
advantages.

A reward model is not the truth. PPO raises `rewards/reward_model/helpfulness/mean`;
`rewards/skill/mean` (weight 0: logged, not rewarded) is what that stands for. If the first rises
and the second does not, the policy is exploiting the reward model.

tiny  The shipped miniature base, on two CPU cores or one TPU chip (v5e:1x1). What it reaches has
      not been measured yet.

`rlhf:tiny,debug` runs in seconds.
"""
from ml_collections import ConfigDict

from r1jax.data.miniature_general import GENERAL_TASKS
from r1jax.experiments import building, reward_model
from r1jax.experiments import ppo as ppo_experiment

SIZES = ('tiny',)
SAFETY_TASKS = ('harmful', 'harmless')    # left out: they need another reward model


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = building.parse('rlhf.py', argument, SIZES)
  helpfulness = reward_model.get_config(argument).stages.helpfulness
  ppo = ppo_experiment.get_config(argument).stages.ppo
  ppo.inputs = ('helpfulness',)
  ppo.data = ConfigDict(dict(
      name='miniature_general', size=10_000, seed=0,
      tasks=tuple(task for task in GENERAL_TASKS if task not in SAFETY_TASKS)))
  ppo.max_prompt_length = 32
  ppo.rewards = ConfigDict({'skill': 0.0})
  ppo.reward_models = ConfigDict({'helpfulness': dict(source='helpfulness', weight=1.0)})
  ppo.critic.source = 'helpfulness'
  ppo.critic.whiten_rewards = ppo.critic.whiten_advantages = True
  ppo.evaluations = ConfigDict({
      name: building.evaluation(ppo, correctness_reward='skill', model=dict(source=source))
      for name, source in (('base', 'miniature'), ('trained', 'trained'))})
  for evaluation in ppo.evaluations.values():
    evaluation.data.size = 2_000    # drawn with repetition: a few hundred differ
    evaluation.problems, evaluation.prompts_per_batch = 200, 100
    if debug:
      evaluation.problems, evaluation.prompts_per_batch = 4, 4
      evaluation.completions_per_problem = 2
  return building.chain(dict(helpfulness=helpfulness, ppo=ppo))
