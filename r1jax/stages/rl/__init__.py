"""Reinforcement learning: `run` a stage with the fields of DEFAULT."""
from r1jax.stages.rl.plan import shapes as shapes
from r1jax.stages.rl.settings import DEFAULT as DEFAULT
from r1jax.stages.rl.settings import SETTINGS as SETTINGS
from r1jax.stages.rl.train import check_data as check_data
from r1jax.stages.rl.train import run as run
