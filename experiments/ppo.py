"""PPO with a critic (arXiv:1707.06347), on r1_zero.py's task and rewards.

    python -m r1jax.main --config=ppo:tiny --workdir=/tmp/ppo

The critic starts with the policy's parameters and a scalar head. Each rollout is used for two
epochs of two mini-batches. Advantages are GAE with lambda 1; the KL to the reference is part of the
token reward, with a coefficient that adapts to a target, as in RLHF (arXiv:1909.08593). The report
found PPO with lambda 0.95 clearly worse than GRPO, and lambda 1 nearly as good; `policy_losses.py`
tests that.

tiny  The shipped miniature base; a few minutes on two CPU cores, or one TPU chip (v5e:1x1). An
      iteration takes about half as long again as GRPO's (docs/benchmarks.md). Expected, from one
      seed: pass@1 rises from 0.255 to 0.864 [0.845, 0.884] in 50 rollouts.

`ppo:tiny,debug` runs in seconds. For a larger model, set these fields on r1_zero.py's sizes.
"""
from ml_collections import ConfigDict

from r1jax.experiments import building, r1_zero

SIZES = ('tiny',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = building.parse('ppo.py', argument, SIZES)
  ppo = r1_zero.get_config(argument).stages.zero
  ppo.epochs, ppo.mini_batches = 2, 2
  ppo.steps = 4 if debug else 200    # four per rollout
  ppo.advantage, ppo.loss.aggregation = 'gae', 'token_mean'
  ppo.critic.gae_lambda = 1.0
  ppo.critic.optimizer.learning_rate, ppo.critic.optimizer.warmup_steps = 1e-3, 5
  ppo.kl_coefficient, ppo.kl_place, ppo.kl_estimator = 0.01, 'reward', 'k1'
  ppo.kl_controller.rule, ppo.kl_controller.target = 'proportional', 6.0   # nats per completion
  return building.chain(dict(ppo=ppo))
