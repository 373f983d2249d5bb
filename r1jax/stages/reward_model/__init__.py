"""Reward models: `run` trains one by the fields of DEFAULT; `load_reward_model` reads it."""
from r1jax.stages.reward_model.model import RewardModel as RewardModel
from r1jax.stages.reward_model.model import Scored as Scored
from r1jax.stages.reward_model.model import load_reward_model as load_reward_model
from r1jax.stages.reward_model.model import make_rewards as make_rewards
from r1jax.stages.reward_model.settings import DEFAULT as DEFAULT
from r1jax.stages.reward_model.settings import OBJECTIVES as OBJECTIVES
from r1jax.stages.reward_model.settings import SETTINGS as SETTINGS
from r1jax.stages.reward_model.train import check_data as check_data
from r1jax.stages.reward_model.train import run as run
from r1jax.stages.reward_model.train import shapes as shapes
