"""AdamW with a learning-rate schedule, behind a clip of the gradient norm."""
import jax
import jax.numpy as jnp
import optax

from r1jax import checks


def make_optimizer(
    *, learning_rate: float, warmup_steps: int = 0, decay_steps: int = 0,
    final_learning_rate: float = 0.0, weight_decay: float = 0.0, max_grad_norm: float = 1.0,
    beta1: float = 0.9, beta2: float = 0.95,
) -> optax.GradientTransformation:
  """AdamW (arXiv:1711.05101) behind a clip of the global gradient norm.

  Args:
    learning_rate: the learning rate after the warm-up.
    warmup_steps: updates over which it rises linearly; the first one already has
      learning_rate / warmup_steps.
    decay_steps: updates from the first one to the end of a half cosine that follows the warm-up;
      0 keeps the rate constant.
    final_learning_rate: the learning rate at the end of that cosine, and after it.
    weight_decay: decoupled weight decay of matrices, embeddings included; vectors (norms, biases,
      scalar heads) are not decayed.
    max_grad_norm: gradients whose global norm is larger are scaled down to it; 0 means no clipping.
    beta1: decay of the first moment.
    beta2: decay of the second moment.

  Returns:
    An optax transformation; its state has the same structure for all arguments.

  Raises:
    ValueError: if `max_grad_norm` is negative.
  """
  checks.at_least(0, max_grad_norm=max_grad_norm)

  def schedule(step):
    rate = jnp.float32(learning_rate)
    if decay_steps:
      progress = jnp.clip((step - warmup_steps) / max(1, decay_steps - warmup_steps), 0, 1)
      rate = final_learning_rate + (learning_rate - final_learning_rate) * (
          1 + jnp.cos(jnp.pi * progress)) / 2
    return rate * jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))

  clip = optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity()
  return optax.chain(clip, optax.adamw(
      schedule, b1=beta1, b2=beta2, weight_decay=weight_decay, mask=_is_decayed))


def _is_decayed(params):
  return jax.tree_util.tree_map_with_path(_is_matrix, params)


def _is_matrix(path, x) -> bool:
  """Whether a parameter is multiplied with activations as a matrix (or as several).

  A layer of a stack has one axis less than its array. A bias is a vector in any shape.
  """
  names = [entry.key for entry in path]
  return not names[-1].endswith('bias') and x.ndim - ('stacks' in names) > 1
