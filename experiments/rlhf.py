"""RLHF, the classic way (arXiv:1909.08593): preferences, a reward model, PPO against it.

    python -m r1jax.main --config=experiments/rlhf.py --workdir=/tmp/rlhf

A chain of two stages on the miniature's general tasks. `config.stages.helpfulness` learns which of
two answers is the better one (see reward_model.py). `config.stages.ppo` trains the base against it
alone: a critic that begins as the reward model, GAE, the KL to the reference inside the token
reward and adapted to its target, rewards whitened without shifting their mean, advantages whitened.

A reward model is no truth. `rewards/reward_model/helpfulness/mean` is what PPO raises;
`rewards/skill/mean` (weight 0: logged, not rewarded) is what it was to stand for. Where the first
rises and the second does not, the reward model is being hacked. What this reaches has not been
measured yet.

tiny  the shipped miniature base, on two CPU cores or one TPU chip, v5e:1x1 (docs/scale.md).

`rlhf.py:tiny,debug` runs in seconds.
"""
import pathlib
import sys

from ml_collections import ConfigDict

from r1jax.data.miniature_general import GENERAL_TASKS

sys.path.append(str(pathlib.Path(__file__).parent))
import ppo as ppo_experiment
import r1_zero
import reward_model

SIZES = ('tiny',)
# Of these, safety asks for another reward model.
_OF_SAFETY = ('harmful', 'harmless')


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = r1_zero.parse('rlhf.py', argument, SIZES)
  helpfulness = reward_model.get_config(argument).stages.helpfulness
  ppo = ppo_experiment.get_config(argument).stages.ppo
  ppo.inputs = ('helpfulness',)
  ppo.data = ConfigDict(dict(
      name='miniature_general', size=10_000, seed=0,
      tasks=tuple(task for task in GENERAL_TASKS if task not in _OF_SAFETY)))
  ppo.max_prompt_length = 32
  ppo.rewards = ConfigDict({'skill': 0.0})
  ppo.reward_models = ConfigDict({'helpfulness': dict(source='helpfulness', weight=1.0)})
  ppo.critic.source = 'helpfulness'
  ppo.critic.whiten_rewards = ppo.critic.whiten_advantages = True
  ppo.evaluations = ConfigDict({
      name: r1_zero.evaluation(ppo, correctness_reward='skill', model=dict(source=source))
      for name, source in (('base', 'miniature'), ('trained', 'trained'))})
  for evaluation in ppo.evaluations.values():
    evaluation.data.size = 2_000    # draws, of which a few hundred differ
    evaluation.problems, evaluation.prompts_per_batch = 200, 100
    if debug:
      evaluation.problems, evaluation.prompts_per_batch, evaluation.completions_per_problem = 4, 4, 2
  return r1_zero.with_stages(dict(helpfulness=helpfulness, ppo=ppo))
