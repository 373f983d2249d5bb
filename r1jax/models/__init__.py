"""Transformers: architectures, forward passes, and the checkpoint formats of model families."""
from r1jax.models.config import (
    Experts,
    Latent,
    LinearScaling,
    ModelConfig,
    RopeScaling,
    YarnScaling,
    flops_per_token,
    num_params,
)
from r1jax.models.presets import PRESETS
from r1jax.models.transformer import Model, build
