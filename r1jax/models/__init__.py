"""Transformers: their shapes, their mathematics, and the checkpoints of the families."""
from r1jax.models.config import ModelConfig, PRESETS, RopeScaling, flops_per_token, num_params
from r1jax.models.transformer import Cache, Model, build
