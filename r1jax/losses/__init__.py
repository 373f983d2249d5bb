"""Losses as pure functions of arrays: (loss, metrics), float32, masked exactly.

They import jax and numpy only and know no model: they take what a network computes as
log-probabilities, logits, values or rewards. Values under a zero mask or weight, NaN included,
never reach a value or a gradient; an empty mask gives a finite zero. A `normalizer` replaces a
loss's own divisor by that of a larger whole, so micro-batches, devices and hosts add up exactly to
the loss of the whole. Metrics carry no gradient.
"""
from r1jax.losses.distillation import DIVERGENCES, distillation_loss, distillation_top_k_loss
from r1jax.losses.policy import (
    AGGREGATIONS,
    CLIPS,
    CORRECTIONS,
    RATIO_LEVELS,
    loss_normalizer,
    policy_loss,
)
from r1jax.losses.preferences import bradley_terry_loss, safety_loss
from r1jax.losses.recipes import (
    bnpo_loss,
    cispo_loss,
    dapo_loss,
    dr_grpo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    ppo_clip_loss,
    ppo_kl_loss,
    reinforce_loss,
    reinforce_pp_loss,
    rloo_loss,
)
from r1jax.losses.supervised import (
    chunked_cross_entropy_loss,
    cross_entropy_loss,
    in_chunks,
    supervised_loss,
    weight_sum,
)
from r1jax.losses.values import explained_variance, value_loss

__all__ = [
    'AGGREGATIONS',
    'CLIPS',
    'CORRECTIONS',
    'DIVERGENCES',
    'RATIO_LEVELS',
    'bnpo_loss',
    'bradley_terry_loss',
    'chunked_cross_entropy_loss',
    'cispo_loss',
    'cross_entropy_loss',
    'dapo_loss',
    'distillation_loss',
    'distillation_top_k_loss',
    'dr_grpo_loss',
    'explained_variance',
    'grpo_loss',
    'gspo_loss',
    'gspo_token_loss',
    'in_chunks',
    'loss_normalizer',
    'policy_loss',
    'ppo_clip_loss',
    'ppo_kl_loss',
    'reinforce_loss',
    'reinforce_pp_loss',
    'rloo_loss',
    'safety_loss',
    'supervised_loss',
    'value_loss',
    'weight_sum',
]
