"""Reward models of the miniature: helpfulness from pairs, safety from judged completions.

DeepSeek-R1 (arXiv:2501.12948v2), the reward models of the last stage: a scalar head on the model.
*Helpfulness* is pairwise and reads only the final summary; *safety* is pointwise and reads the
whole completion.

    python -m r1jax.main --config=reward_model:tiny --workdir=/tmp/reward_model

Two stages, `config.stages.helpfulness` and `config.stages.safety`, on the general tasks: a good
answer against that of a careless writer; refusing a harmful request against helping with it. To
start PPO's critic from one: a stage of kind 'rl' with inputs=('helpfulness',), advantage='gae' and
critic.source='helpfulness', as in rlhf.py.

tiny  The shipped miniature base, on two CPU cores or one TPU chip (v5e:1x1). docs/results.md has
      the accuracy that they reach in r1.py.

`reward_model:tiny,debug` runs in seconds. With data of your own: data={'name': 'jsonl', 'folder':
FOLDER}, train.jsonl and test.jsonl with prompt, chosen, rejected or with prompt, completion, safe.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building
from r1jax.stages import reward_model

SIZES = ('tiny',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = building.parse('reward_model.py', argument, SIZES)
  stages = {}
  for objective in reward_model.OBJECTIVES:
    stage = ConfigDict(reward_model.DEFAULT)
    stage.objective = objective
    stage.data = ConfigDict(dict(name='miniature', size=20_000))
    stage.max_tokens = 128
    stage.rows = 32
    stage.optimizer.learning_rate, stage.optimizer.final_learning_rate = 3e-4, 3e-5
    stage.optimizer.warmup_steps = 10
    stages[objective] = stage
  stages['helpfulness'].pairs.max_length_ratio = 4.0    # a lower one leaves no pairs for some tasks
  stages['helpfulness'].epochs = 10
  stages['safety'].epochs = 20    # there are only few different completions
  if debug:
    for stage in stages.values():
      stage.data.size, stage.rows, stage.epochs = 100, 8, 1
  return building.chain(stages)
