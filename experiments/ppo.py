"""PPO with a critic (arXiv:1707.06347), on the task and with the rewards of r1_zero.py.

    python -m r1jax.main --config=experiments/ppo.py --workdir=/tmp/ppo

The critic has the policy's shape and first parameters, and a scalar head. A rollout serves two
epochs of two mini-batches; GAE with lambda 1, the KL to the reference inside the token reward and
adapted to its target, as in RLHF (arXiv:1909.08593). The report found PPO with lambda 0.95 clearly
worse than GRPO and lambda 1 nearly as good; `policy_losses.py` puts that to the test.

tiny  the shipped miniature base; some minutes on two CPU cores; an iteration costs half more than
      GRPO's (docs/benchmarks.md). One TPU chip is enough, v5e:1x1 (docs/scale.md). One seed, 50
      rollouts: pass@1 0.255 to 0.864 [0.845, 0.884].

`ppo.py:tiny,debug` runs in seconds. For a larger model give r1_zero.py's sizes these fields.
"""
import pathlib
import sys

from ml_collections import ConfigDict

sys.path.append(str(pathlib.Path(__file__).parent))
import r1_zero

SIZES = ('tiny',)


def get_config(argument: str = 'tiny') -> ConfigDict:
  _, debug = r1_zero.parse('ppo.py', argument, SIZES)
  ppo = r1_zero.get_config(argument).stages.zero
  ppo.epochs, ppo.mini_batches = 2, 2
  if not debug:
    ppo.steps = 200
  ppo.advantage, ppo.loss.aggregation = 'gae', 'token_mean'
  ppo.critic.gae_lambda = 1.0
  ppo.critic.optimizer.learning_rate, ppo.critic.optimizer.warmup_steps = 1e-3, 5
  ppo.kl_coefficient, ppo.kl_place, ppo.kl_estimator = 0.01, 'reward', 'k1'
  ppo.kl_controller.rule, ppo.kl_controller.target = 'proportional', 6.0   # nats a completion
  return r1_zero.with_stages(dict(ppo=ppo))
