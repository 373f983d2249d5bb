"""Distillation: from a teacher's distributions over the vocabulary, or its likeliest tokens."""
import jax
import jax.numpy as jnp

from r1jax import checks, divergences
from r1jax.losses.supervised import weight_sum
from r1jax.masked import select

DIVERGENCES = ('forward', 'reverse', 'jensen_shannon')
_TAIL = 1e-6     # the least probability of all tokens outside the K likeliest together


def distillation_loss(
    student_logits: jax.Array, teacher_logits: jax.Array, weights: jax.Array, *,
    divergence: str = 'forward', mixture: float = 0.5, temperature: float = 1.0,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Σ w·D / Σ w, D the divergence between teacher p and student q at each position.

  'forward' is KL(p ‖ q), which covers the teacher's modes (Hinton et al., arXiv:1503.02531);
  'reverse' is KL(q ‖ p), which seeks one (MiniLLM, arXiv:2306.08543); 'jensen_shannon' is the
  generalised divergence of GKD (arXiv:2306.13649). It is exact over the vocabulary, not estimated
  from samples. For long rows, wrap it in `in_chunks`.

  Args:
    student_logits: [N, T, V].
    teacher_logits: [N, T, V]. Carry no gradient.
    weights: [N, T], not negative; 0 on prompts and padding. Carry no gradient.
    divergence: one of `DIVERGENCES`.
    mixture: β of 'jensen_shannon', the teacher's share of the mixture, between 0 and 1.
    temperature: divides both logits. The loss is not multiplied by its square (Hinton's is).
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats per token, {}), float32. The gradient flows through `student_logits` alone.

  Raises:
    ValueError: for a wrong shape or dtype, an unknown divergence, a mixture not between 0 and 1, or
      a temperature of 0 or less.
  """
  checks.rank('[N, T, V]', student_logits=student_logits)
  checks.shapes(student_logits.shape, teacher_logits=teacher_logits)
  checks.shapes(student_logits.shape[:2], weights=weights)
  checks.floats(student_logits=student_logits, teacher_logits=teacher_logits)
  checks.at_least(0, strictly=True, temperature=temperature)
  student = select(student_logits.astype(jnp.float32), weights[..., None]) / temperature
  teacher = teacher_logits.astype(jnp.float32) / temperature
  return _weighted(student, teacher, weights, divergence, mixture, normalizer)


def distillation_top_k_loss(
    student_logits: jax.Array, teacher_logprobs: jax.Array, teacher_ids: jax.Array,
    weights: jax.Array, *, divergence: str = 'forward', mixture: float = 0.5,
    normalizer: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Σ w·D / Σ w as in `distillation_loss`, from the teacher's K likeliest tokens at each position.

  All other tokens count as one outcome, with the probability that the K leave, for teacher and
  student alike. So nothing is renormalised, the student learns the teacher's total as well, and D
  never exceeds the divergence over the whole vocabulary (for K = V they are equal, up to rounding).
  Other code renormalises both over the K tokens instead.

  Args:
    student_logits: [N, T, V], divided by the temperature of the teacher's distributions.
    teacher_logprobs: [N, T, K], log-probabilities over the whole vocabulary. Carry no gradient.
    teacher_ids: [N, T, K] int, the tokens they are of, distinct at each position.
    weights: [N, T], not negative; 0 on prompts and padding. Carry no gradient.
    divergence: one of `DIVERGENCES`: KL(p ‖ q), KL(q ‖ p), or generalised Jensen–Shannon.
    mixture: β of 'jensen_shannon', the teacher's share of the mixture, between 0 and 1.
    normalizer: Σ w of a larger whole; by default this batch's own.

  Returns:
    (loss in nats per token, {}), float32. The gradient flows through `student_logits` alone.

  Raises:
    ValueError: for a wrong shape or dtype, an unknown divergence, or a mixture not between 0 and 1.
  """
  checks.rank('[N, T, V]', student_logits=student_logits)
  checks.rank('[N, T, K]', teacher_logprobs=teacher_logprobs)
  checks.shapes((*student_logits.shape[:2], teacher_logprobs.shape[2]),
                teacher_logprobs=teacher_logprobs, teacher_ids=teacher_ids)
  checks.shapes(student_logits.shape[:2], weights=weights)
  checks.floats(student_logits=student_logits, teacher_logprobs=teacher_logprobs)
  student = jax.nn.log_softmax(select(student_logits.astype(jnp.float32), weights[..., None]))
  student = _with_tail(jnp.take_along_axis(student, teacher_ids, -1))
  teacher = _with_tail(teacher_logprobs.astype(jnp.float32))
  return _weighted(student, teacher, weights, divergence, mixture, normalizer)


def _with_tail(logprobs):
  """[..., K + 1]: the log-probabilities, then that of all other tokens together."""
  rest = 1 - jnp.sum(jnp.exp(logprobs), -1, keepdims=True)
  return jnp.concatenate([logprobs, jnp.log(jnp.maximum(rest, _TAIL))], -1)


def _weighted(student, teacher, weights, divergence, mixture, normalizer):
  checks.word(DIVERGENCES, divergence=divergence)
  teacher = jax.lax.stop_gradient(teacher)
  if divergence == 'forward':
    values = divergences.kl(teacher, student)
  elif divergence == 'reverse':
    values = divergences.kl(student, teacher)
  else:
    values = divergences.jensen_shannon(teacher, student, mixture=mixture)
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  normalizer = weight_sum(weights) if normalizer is None else normalizer
  return jnp.sum(select(values, weights) * weights) / normalizer, {}
