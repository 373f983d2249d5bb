"""Reward models of the miniature: helpfulness from pairs, safety from judged completions.

DeepSeek-R1 (arXiv:2501.12948v2), the reward models of its last stage: a scalar head on the model;
*helpful* is pairwise, on the final summary only, *safety* point-wise, on the whole completion.

    python -m r1jax.main --config=experiments/reward_model.py --workdir=/tmp/reward_model

Two stages, `config.stages.helpfulness` and `config.stages.safety`, on the general tasks: the good
answer against what a bad_answer_share writer gives; refusing or helping with a harmful deed.
What accuracy they reach in r1.py is in docs/results.md. As the critic of PPO: a stage of kind 'rl' with
inputs=('helpfulness',), advantage='gae' and critic.source='helpfulness'.

tiny  the shipped miniature base, on two CPU cores or one TPU chip, v5e:1x1 (docs/scale.md).

`reward_model.py:tiny,debug` runs in seconds. With one's own data: data={'name': 'jsonl', 'folder':
FOLDER}, train.jsonl and test.jsonl of prompt, chosen, rejected or of prompt, completion, safe.
"""
import pathlib
import sys

from ml_collections import ConfigDict

from r1jax.stages import reward_model

sys.path.append(str(pathlib.Path(__file__).parent))
import r1_zero

SIZES = ('tiny',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = r1_zero.parse('reward_model.py', argument, SIZES)
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
  stages['helpfulness'].pairs.max_length_ratio = 4.0    # else no pair of a form would be left
  stages['helpfulness'].epochs = 10
  stages['safety'].epochs = 20    # of the few different completions there are
  if debug:
    for stage in stages.values():
      stage.data.size, stage.rows, stage.epochs = 100, 8, 1
  return r1_zero.with_stages(stages)
